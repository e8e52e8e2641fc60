//! The step that the user must take, as MCP says it.

use std::hash::{BuildHasher, RandomState};

use super::{AuthError, AuthErrorKind, Interaction};

/// MCP's error for a client that must have its user visit a URL (`URLElicitationRequiredError`).
pub(crate) const URL_ELICITATION_REQUIRED: i32 = -32042;
/// An error of the server that JSON-RPC does not define (§5.1).
pub(crate) const SERVER_ERROR: i32 = -32000;

pub(crate) fn url(error: &AuthError) -> Option<&str> {
    match error.interaction()? {
        Interaction::Consent { url } | Interaction::LinkAccount { url, .. } => url.as_deref(),
        Interaction::Login { .. } | Interaction::GrantScope { .. } => None,
    }
}

/// Says in words what the user can do.
pub(crate) fn message(error: &AuthError) -> String {
    match error.interaction() {
        Some(Interaction::Consent { url: Some(url) }) => {
            format!("agree to the access at {url}, then try again")
        }
        Some(Interaction::Consent { url: None }) => {
            "agree to the access at the next login, or have an administrator agree, then try again"
                .to_owned()
        }
        Some(Interaction::LinkAccount { provider, url }) => match url {
            Some(url) => format!("link your account of `{provider}` at {url}, then try again"),
            None => format!("link your account of `{provider}`, then try again"),
        },
        Some(Interaction::GrantScope { scopes }) => {
            let scopes = scopes.join(" ");
            format!("log in again and grant these scopes, then try again: {scopes}")
        }
        Some(Interaction::Login { .. }) => {
            "log in again in the way that your organization asks for, then try again".to_owned()
        }
        None => of_kind(error.kind()).to_owned(),
    }
}

fn of_kind(kind: AuthErrorKind) -> &'static str {
    match kind {
        AuthErrorKind::MissingIdentity
        | AuthErrorKind::MissingToken
        | AuthErrorKind::Expired
        | AuthErrorKind::Rejected => "log in again, then try again",
        AuthErrorKind::InsufficientScope => "your login does not permit this call",
        AuthErrorKind::Unavailable => {
            "the login cannot be checked at the moment, try again in a while"
        }
        _ => "the server cannot make this call, tell its operator",
    }
}

/// Different for each elicitation. It is no secret.
pub(crate) fn new_id() -> String {
    let [first, second] = [0u8, 1].map(|half| RandomState::new().hash_one(half));
    format!("{first:016x}{second:016x}")
}
