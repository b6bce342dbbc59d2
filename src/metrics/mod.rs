//! What the appliance counts and times.
//!
//! A shard writes its own [`counters::ShardMetrics`] without locks or shared cache lines; whoever scrapes reads them
//! with relaxed loads. Latencies are [`stages::Stages`], owned by the shard and cloned to the scraper on request.
//! Doors: [`names`] (every series), [`counters`], [`stages`], [`exposition`].

pub mod counters;
pub mod exposition;
pub mod names;
pub mod stages;
