use std::{
    env::{self, VarError},
    fmt,
};

use http::{HeaderValue, Request, header::AUTHORIZATION};

use crate::{
    credential_header::CredentialHeader,
    error::{BuildError, Faults},
    outgoing::headers::{header_name, header_value, is_restricted},
};

use super::{authenticating::Authenticating, strategy::Strategy};

/// Sends a fixed header: an API key, say, or a service's own `Authorization`.
///
/// A header of that name that is there already is replaced, also one with `_` in place of `-`. It does not depend on a user: a request without an identity
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
/// # Ok::<(), tower_identity::BuildError>(())
/// ```
#[derive(Clone)]
pub struct HeaderInjection {
    header: CredentialHeader,
    value: HeaderValue,
}

impl HeaderInjection {
    /// Injects the header `name` with this value, which is kept as a secret.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when one of these settings is wrong:
    ///
    /// - `name` is not a header's name (RFC 9110 §5.1), or is
    ///   [restricted](crate::HeaderForwardLayer#restricted-names); `authorization` may be injected.
    /// - `value` is empty, begins or ends with a space, or has a character outside of visible ASCII and space.
    pub fn new(name: &str, value: impl Into<String>) -> Result<Self, BuildError> {
        Self::make(name, Ok(value.into()), "value")
    }

    /// Injects the header `name` with the value that an environment variable has now.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when one of these settings is wrong:
    ///
    /// - `name`, as in [`new`](Self::new).
    /// - `variable` is the name of a variable that is not set, is not Unicode, or has a value that
    ///   [`new`](Self::new) refuses.
    pub fn from_env(name: &str, variable: &str) -> Result<Self, BuildError> {
        let value = match env::var(variable) {
            Ok(value) => Ok(value),
            Err(VarError::NotPresent) => Err("names an environment variable that is not set"),
            Err(VarError::NotUnicode(_)) => {
                Err("names an environment variable that is not Unicode")
            }
        };
        Self::make(name, value, "variable")
    }

    /// The value is a fault already, or that of the setting with this name.
    pub(crate) fn make(
        name: &str,
        value: Result<String, &'static str>,
        value_setting: &'static str,
    ) -> Result<Self, BuildError> {
        let mut faults = Faults::new("HeaderInjection");
        let name = faults.take("name", header_name(name));
        if name
            .as_ref()
            .is_some_and(|name| is_restricted(name) && name != AUTHORIZATION)
        {
            faults.add(
                "name",
                "is a header of the connection or the session and cannot be injected, choose the one that the backend \
                 reads its credential from",
            );
        }
        let value = faults
            .take(value_setting, value)
            .and_then(|value| faults.take(value_setting, header_value(value)));
        let (name, value) = faults.or(name.zip(value))?;
        Ok(Self {
            header: CredentialHeader::new(name),
            value,
        })
    }
}

impl<B> Strategy<B> for HeaderInjection {
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
        self.header
            .insert(request.headers_mut(), self.value.clone());
        Authenticating::done()
    }

    fn name(&self) -> &'static str {
        "header_injection"
    }
}

impl fmt::Debug for HeaderInjection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderInjection")
            .field("name", self.header.name())
            .finish_non_exhaustive()
    }
}
