use std::{fmt::Write, time::Duration};

use super::{AuthError, interaction::Interaction};

/// The longest `scope` in a challenge.
const LONGEST_SCOPE: usize = 1024;

impl AuthError {
    /// The parameters of a challenge that answers this error (RFC 6750 §3, RFC 9470 §3). Each value fits a header.
    pub(crate) fn challenge_parameters(&self) -> Vec<(&'static str, String)> {
        let answer = self.answer();
        let mut parameters = vec![
            ("error", answer.code.to_owned()),
            ("error_description", answer.description.to_owned()),
        ];
        match self.interaction() {
            Some(Interaction::Login {
                acr_values,
                max_age,
                claims,
            }) => {
                let max_age = max_age.as_ref().map(Duration::as_secs);
                let more = [
                    ("acr_values", acr_values.clone()),
                    ("max_age", max_age.map(|seconds| seconds.to_string())),
                    ("claims", claims.as_deref().and_then(encoded)),
                ];
                let more = more.into_iter();
                parameters.extend(more.filter_map(|(name, value)| Some((name, value?))));
            }
            Some(Interaction::GrantScope { scopes }) => {
                let scope = scopes.join(" ");
                if (1..=LONGEST_SCOPE).contains(&scope.len()) {
                    parameters.push(("scope", scope));
                }
            }
            _ => {}
        }
        parameters.retain(|(_, value)| is_sendable(value));
        parameters
    }
}

/// Microsoft's clients expect the claims of a challenge in base64.
#[cfg(feature = "token-exchange")]
fn encoded(claims: &str) -> Option<String> {
    use base64::{Engine, engine::general_purpose::STANDARD};

    Some(STANDARD.encode(claims))
}

/// Without a token endpoint there are no claims.
#[cfg(not(feature = "token-exchange"))]
fn encoded(_: &str) -> Option<String> {
    None
}

/// Whether a challenge can have it as a value, in quotes.
pub(crate) fn is_sendable(value: &str) -> bool {
    value.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Adds `name="value"`, quoted (RFC 9110 §5.6.4).
pub(crate) fn push_parameter(challenge: &mut String, name: &str, value: &str) {
    challenge.push_str(if challenge.ends_with('"') { ", " } else { " " });
    let quoted = value.replace('\\', r"\\").replace('"', r#"\""#);
    // A `String` takes everything.
    let _ = write!(challenge, r#"{name}="{quoted}""#);
}
