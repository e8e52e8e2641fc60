//! A request leaves: the layers of an outgoing stack, in the order in which a request passes them.
//!
//! 1. [`IdentityLayer`](crate::IdentityLayer) gives a request without an identity that of the session.
//! 2. [`HeaderForwardLayer`](crate::HeaderForwardLayer) adds headers for the backend.
//! 3. [`AuthLayer`](crate::AuthLayer) checks the origin, and adds the credential.
//!
//! This module has their services and futures, and [`forward_mcp`], which makes the outgoing request of a gateway.

pub(crate) mod auth;
mod forward_mcp;
pub(crate) mod headers;
pub(crate) mod identity;
mod origin_guard;

pub use auth::{AuthFuture, AuthService, NoRetry, PeekedBody, RetryFuture, RetryRejected};
pub use forward_mcp::forward_mcp;
pub use headers::{HeaderForwardBuilder, HeaderForwardFuture, HeaderForwardService};
pub use identity::IdentityService;
