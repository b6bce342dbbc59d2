//! cpim
