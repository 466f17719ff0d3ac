//! The API by real calls: the real router on a real port with a fresh database for each test.

mod cli;
mod faults;
mod lrm;
mod openapi;
mod pilots;
mod restart;
mod support;
mod tls;
mod tokens;
mod workspaces;
