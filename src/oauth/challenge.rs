use std::fmt::Write;

use http::HeaderValue;

use crate::error::{AuthError, AuthErrorKind};

/// What a caller who is refused is told about how to get in (RFC 6750 §3, RFC 9728 §5.1).
pub(crate) struct Challenge {
    /// `Bearer realm="…"` and so on, without an error.
    bare: String,
}

impl Challenge {
    /// The values are what a header [can have](is_sendable).
    pub(crate) fn new(realm: &str, resource_metadata: Option<&str>, scopes: &[String]) -> Self {
        let scope = Some(scopes.join(" ")).filter(|scope| !scope.is_empty());
        let parameters = [
            ("realm", Some(realm)),
            ("resource_metadata", resource_metadata),
            ("scope", scope.as_deref()),
        ];
        let mut bare = "Bearer ".to_owned();
        for (name, value) in parameters {
            if let Some(value) = value {
                push(&mut bare, name, value);
            }
        }
        Self { bare }
    }

    /// Adds the challenge to an error whose answer has one.
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
                let answer = error.answer();
                push(&mut challenge, "error", answer.code);
                push(&mut challenge, "error_description", answer.description);
            }
            _ => return None,
        }
        HeaderValue::try_from(challenge).ok()
    }
}

/// Whether a challenge can have it as a value, in quotes.
pub(crate) fn is_sendable(value: &str) -> bool {
    value.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Adds `name="value"`, quoted (RFC 9110 §5.6.4).
fn push(challenge: &mut String, name: &str, value: &str) {
    if challenge.ends_with('"') {
        challenge.push_str(", ");
    }
    let quoted = value.replace('\\', r"\\").replace('"', r#"\""#);
    // A `String` takes everything.
    let _ = write!(challenge, r#"{name}="{quoted}""#);
}
