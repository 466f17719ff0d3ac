//! The users' command line of the workspace pilot, and the typed client of the broker's API
//! under it.
//!
//! [`client`] is for every program that talks to a broker as a user; the rest is the program
//! `pilot-submit`: [`cli`] (the one definition of its command line), [`config`] (settings),
//! [`commands`], [`output`] (tables, JSON, colours) and [`docs`] (the pages under
//! `docs/commands`).
#![forbid(unsafe_code)]

pub mod cli;
pub mod client;
pub mod clock;
pub mod commands;
pub mod config;
pub mod docs;
pub mod failure;
pub mod output;
pub mod request;
pub mod resolve;
