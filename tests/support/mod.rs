//! The fakes and helpers that the tests share.
#![allow(dead_code, reason = "no test uses all of it")]

pub(crate) mod http_server;
#[cfg(feature = "incoming")]
pub(crate) mod identity_provider;
#[cfg(feature = "token-exchange")]
pub(crate) mod issuer;
#[cfg(feature = "rmcp")]
pub(crate) mod mcp_backend;
pub(crate) mod recording;
#[cfg(feature = "token-exchange")]
pub(crate) mod token_stack;
