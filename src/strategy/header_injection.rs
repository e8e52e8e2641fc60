use std::{env, fmt};

use http::{HeaderName, HeaderValue, Request, header::AUTHORIZATION};

use crate::{
    error::{AuthError, AuthErrorKind},
    outgoing::headers::{header_name, header_value, is_restricted},
};

use super::{authenticating::Authenticating, strategy::Strategy};

/// Sends a fixed header: an API key, say, or a service's own `Authorization`.
///
/// A header of that name that is there already is replaced. It does not depend on a user: a request without an identity
/// gets it, a health check too.
///
/// # Security
///
/// Other headers leave as they are, an `Authorization` of the caller's included. Do not copy that of the incoming request:
/// it is for you, not for the backend.
///
/// ```
/// use tower_identity::HeaderInjection;
///
/// let strategy = HeaderInjection::new("x-api-key", "4f3c2d1b")?;
/// assert!(!format!("{strategy:?}").contains("4f3c2d1b"));
/// # Ok::<(), tower_identity::AuthError>(())
/// ```
#[derive(Clone)]
pub struct HeaderInjection {
    name: HeaderName,
    value: HeaderValue,
}

impl HeaderInjection {
    /// Injects the header `name` with this value, which is kept as a secret.
    ///
    /// # Errors
    ///
    /// [`Configuration`](AuthErrorKind::Configuration), when the name is not a header's name (RFC 9110 §5.1) or is
    /// [restricted](crate::HeaderForwardLayer#restricted-names) (`authorization` is not, here), or when the value is
    /// empty, begins or ends with a space, or has a character outside of visible ASCII and space.
    pub fn new(name: &str, value: impl Into<String>) -> Result<Self, AuthError> {
        let name = header_name(name)?;
        if is_restricted(&name) && name != AUTHORIZATION {
            return Err(AuthError::new(
                AuthErrorKind::Configuration,
                format!(
                    "the header `{name}` cannot be injected: it belongs to the connection or the session; choose the \
                     one that the backend reads its credential from"
                ),
            ));
        }
        let value = header_value(&name, value)?;
        Ok(Self { name, value })
    }

    /// Injects the header `name` with the value that the environment variable `variable` has now.
    ///
    /// # Errors
    ///
    /// [`Configuration`](AuthErrorKind::Configuration), as in [`new`](Self::new), and when the variable is not set or
    /// not Unicode.
    pub fn from_env(name: &str, variable: &str) -> Result<Self, AuthError> {
        let value = env::var_os(variable).ok_or_else(|| {
            AuthError::new(
                AuthErrorKind::Configuration,
                format!("the environment variable `{variable}`, meant for the header `{name}`, is not set"),
            )
        })?;
        // `VarError` would show the value.
        let value = value.into_string().map_err(|_| {
            AuthError::new(
                AuthErrorKind::Configuration,
                format!("the environment variable `{variable}`, meant for the header `{name}`, is not Unicode"),
            )
        })?;
        Self::new(name, value)
    }
}

impl<B> Strategy<B> for HeaderInjection {
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
        request
            .headers_mut()
            .insert(self.name.clone(), self.value.clone());
        Authenticating::done()
    }

    fn name(&self) -> &'static str {
        "header_injection"
    }
}

impl fmt::Debug for HeaderInjection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderInjection")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
