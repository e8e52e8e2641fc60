use http::HeaderValue;

use crate::error::{AuthError, AuthErrorKind, challenge::push_parameter};

/// The `Bearer` challenge of this resource, which tells a refused caller how to get a token (RFC 6750 §3, RFC 9728
/// §5.1).
pub(crate) struct Challenge {
    /// `Bearer realm="…"` and so on, without an error.
    bare: String,
    has_scope: bool,
}

impl Challenge {
    /// Creates the challenge. A header must be able to carry the values.
    pub(crate) fn new(realm: &str, resource_metadata: Option<&str>, scopes: &[String]) -> Self {
        let scope = Some(scopes.join(" ")).filter(|scope| !scope.is_empty());
        let parameters = [
            ("realm", Some(realm)),
            ("resource_metadata", resource_metadata),
            ("scope", scope.as_deref()),
        ];
        let mut bare = "Bearer".to_owned();
        for (name, value) in parameters {
            if let Some(value) = value {
                push_parameter(&mut bare, name, value);
            }
        }
        Self {
            bare,
            has_scope: scope.is_some(),
        }
    }

    /// Adds the challenge to an error whose response has one.
    pub(crate) fn added_to(&self, error: AuthError) -> AuthError {
        match self.header(&error) {
            Some(challenge) => error.with_challenge(challenge),
            None => error,
        }
    }

    fn header(&self, error: &AuthError) -> Option<HeaderValue> {
        let mut challenge = self.bare.clone();
        match error.kind() {
            AuthErrorKind::MissingIdentity => {}
            AuthErrorKind::MissingToken
            | AuthErrorKind::Expired
            | AuthErrorKind::Rejected
            | AuthErrorKind::InsufficientScope => {
                for (name, value) in error.challenge_parameters() {
                    // The scopes of this resource are there already, and a parameter comes once (RFC 9110 §11.2).
                    if name != "scope" || !self.has_scope {
                        push_parameter(&mut challenge, name, &value);
                    }
                }
            }
            _ => return None,
        }
        HeaderValue::try_from(challenge).ok()
    }
}
