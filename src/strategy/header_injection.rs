use std::{
    env::{self, VarError},
    fmt,
};

use http::{HeaderValue, Request, header::AUTHORIZATION};

use crate::{
    credential_header::CredentialHeader,
    error::{BuildError, Faults},
    outgoing::headers::{header_name, header_value, is_restricted},
    secret::{has_placeholder, is_variable_name},
};

use super::{authenticating::Authenticating, strategy::Strategy};

/// Sends a fixed header, for example an API key or a service's own `Authorization`.
///
/// The strategy replaces an existing header of that name, and one whose name has `_` in place of `-`. The header does
/// not depend on a user. A request without an identity gets it, and so does a health check.
///
/// # Security
///
/// Other headers are sent unchanged, including an `Authorization` header that the caller has set. Do not copy that
/// header from the incoming request: it is for your service, not for the backend.
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
    /// Creates a strategy that sends the header `name` with this value, which is kept as a secret.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] that lists each wrong setting:
    ///
    /// - `name` is not a header name (RFC 9110 §5.1), or is [restricted](crate::HeaderForwardLayer#restricted-names).
    ///   Of the restricted names, `authorization` is allowed.
    /// - `value` is empty, begins or ends with a space, or has a character outside of visible ASCII and space.
    pub fn new(name: &str, value: impl Into<String>) -> Result<Self, BuildError> {
        Self::make(name, Ok(value.into()), "value")
    }

    /// Creates a strategy that sends the header `name` with the current value of an environment variable.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] that lists each wrong setting:
    ///
    /// - `name`, for the reasons given at [`new`](Self::new).
    /// - `variable` is the name of a variable that is not set, is not Unicode, or has a value that
    ///   [`new`](Self::new) refuses or that has a placeholder such as `${TOKEN}` or `{{ token }}`. If your value really is
    ///   written like that, read the variable yourself and call [`new`](Self::new). The error names the variable if its
    ///   name consists of capital letters, digits and `_`. Otherwise it may be the secret, in the wrong place.
    pub fn from_env(name: &str, variable: &str) -> Result<Self, BuildError> {
        let fault = match env::var(variable) {
            Ok(value) if !has_placeholder(&value) => {
                return Self::make(name, Ok(value), "variable");
            }
            Ok(_) => "whose value is a placeholder (`${…}` or `{{…}}`) that nothing replaced",
            Err(VarError::NotPresent) => "that is not set",
            Err(VarError::NotUnicode(_)) => "that is not Unicode",
        };
        let shown = match is_variable_name(variable) {
            true => format!(" `{variable}`"),
            false => String::new(),
        };
        let value = Err(format!("names an environment variable{shown} {fault}"));
        Self::make(name, value, "variable")
    }

    /// Creates the strategy. `value` is either the value of the setting `value_setting` or the reason why it has none.
    pub(crate) fn make(
        name: &str,
        value: Result<String, String>,
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
