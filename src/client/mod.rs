//! Adapters for HTTP clients.
//!
//! | module | provides | feature |
//! | --- | --- | --- |
//! | [`hyper`] | a ready-made HTTPS client over hyper-util and rustls, to put beneath the layers | `hyper` |
//! | [`reqwest`] | a `reqwest::Client` as a Tower service, to put beneath the layers | `reqwest` |
//! | [`rmcp`] | a Tower stack as the HTTP client of the MCP Rust SDK, to put above the layers | `rmcp` |

#[cfg(any(feature = "hyper", feature = "reqwest"))]
mod checked_trailers;
#[cfg(feature = "hyper")]
pub mod hyper;
#[cfg(feature = "reqwest")]
pub mod reqwest;
#[cfg(feature = "rmcp")]
pub mod rmcp;
