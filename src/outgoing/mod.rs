//! A request leaves: the layers of an outgoing stack, in the order in which a request passes them.

pub(crate) mod auth;
pub(crate) mod headers;
pub(crate) mod identity;
mod origin_guard;
#[cfg(feature = "token-exchange")]
pub(crate) mod reauthenticate;

pub use auth::{AuthFuture, AuthService};
pub use headers::{HeaderForwardBuilder, HeaderForwardFuture, HeaderForwardService};
pub use identity::IdentityService;
