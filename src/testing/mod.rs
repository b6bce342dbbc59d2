//! Models and entry points for tests, simulations, fuzz targets and benches.
//!
//! Owns what several of them need: a directory in a map, a store in memory, settings of a small appliance, and one
//! function per fuzz target. The product itself imports nothing of it.

pub mod directory;
pub mod fuzz;
pub mod scene;
pub mod store;
