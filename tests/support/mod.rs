//! The fakes and helpers that the tests share.
#![allow(dead_code, reason = "no test uses all of it")]

pub(crate) mod recording;

#[cfg(feature = "rmcp")]
pub(crate) mod mcp_backend;
