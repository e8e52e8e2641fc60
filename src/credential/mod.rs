//! Obtaining credentials, and keeping them.

pub mod cache;
#[cfg(feature = "token-exchange")]
pub mod endpoint;
#[cfg(feature = "token-exchange")]
pub(crate) mod http_client;
