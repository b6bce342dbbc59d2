//! What the kernel is asked, and the memory that it reads and writes meanwhile.
//!
//! Owns every buffer that a request points to, and every line of `unsafe` in the appliance: each block names why it is
//! sound. Refuses to know SIP, shards and time. Doors: [`ring`] (submission and completion), [`socket`] (listening
//! sockets and their steering), [`eventfd`] (wake-up from other threads), [`probe`] (what the kernel lacks).
//!
//! One [`ring::Ring`] belongs to one thread (`IORING_SETUP_SINGLE_ISSUER`, `IORING_SETUP_DEFER_TASKRUN`): it is made,
//! used and dropped there, and is not `Send`.

#![allow(unsafe_code)]

mod addr;
pub mod buffers;
pub mod eventfd;
mod op;
pub mod probe;
pub mod ring;
pub mod shared;
pub mod socket;
