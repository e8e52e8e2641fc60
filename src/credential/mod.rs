//! Obtaining credentials, and keeping them.

pub mod cache;
#[cfg(feature = "token-exchange")]
pub mod endpoint;
