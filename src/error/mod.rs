mod auth_error;
mod find;
#[cfg(feature = "rmcp")]
mod tower_http_error;

pub use auth_error::{AuthError, AuthErrorKind};
#[cfg(feature = "rmcp")]
pub use tower_http_error::TowerHttpError;
