//! A request leaves: the layers of an outgoing stack, in the order in which a request passes them.

pub mod auth;
pub mod headers;
pub mod identity;
#[cfg(feature = "token-exchange")]
pub mod reauthenticate;

pub use auth::{AuthLayer, AuthService};
pub use headers::{CapturedHeaders, HeaderForwardLayer, HeaderForwardService};
pub use identity::{FallbackPolicy, HealthCheck, IdentityLayer, IdentityService};
#[cfg(feature = "token-exchange")]
pub use reauthenticate::Reauthenticate;
