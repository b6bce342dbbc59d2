//! The relay between scripted peers: bytes move in arbitrary cuts, time is virtual.

mod back_pressure;
mod bridging;
mod histories;
mod joining;
mod local;
mod repeating;
mod rules;
mod sharing;
mod world;
