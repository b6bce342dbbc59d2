//! Words every room shares: time, handles, bounds, queues between threads.
//!
//! Refuses to know any protocol. Doors: [`time`], [`id`], [`limits`], [`mailbox`], [`timer_wheel`], [`rng`].

pub mod id;
pub mod limits;
pub mod mailbox;
pub mod rng;
pub mod slots;
pub mod time;
pub mod timer_wheel;
