//! Clients to put beneath the layers, and above them.
//!
//! | module | what it is | feature |
//! | --- | --- | --- |
//! | `hyper` | a ready-made HTTPS client over hyper-util and rustls | `hyper` |
//! | `reqwest` | a `reqwest::Client` as a Tower HTTP service | `reqwest` |
//! | `rmcp` | a Tower stack as the HTTP client of the MCP Rust SDK | `rmcp` |

#[cfg(feature = "hyper")]
pub mod hyper;
#[cfg(feature = "reqwest")]
pub mod reqwest;
#[cfg(feature = "rmcp")]
pub mod rmcp;
