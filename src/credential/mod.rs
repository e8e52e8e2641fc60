//! Obtaining credentials, and keeping them.

pub mod endpoint;
