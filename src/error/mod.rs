mod auth_error;
mod build_error;
pub(crate) mod challenge;
mod find;
mod interaction;
#[cfg(any(feature = "incoming", feature = "rmcp"))]
pub(crate) mod mcp;
#[cfg(feature = "rmcp")]
mod tower_http_error;

pub use auth_error::{AuthError, AuthErrorKind};
pub(crate) use build_error::Faults;
#[cfg(feature = "token-exchange")]
pub(crate) use build_error::one_of;
pub use build_error::{BuildError, InvalidSetting};
pub use interaction::Interaction;
#[cfg(feature = "rmcp")]
pub use tower_http_error::TowerHttpError;
