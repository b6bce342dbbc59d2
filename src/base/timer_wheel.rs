//! Deadlines to handles.
