use serde_json::{Map, Value};

use crate::{
    error::{AuthError, AuthErrorKind},
    identity::Identity,
};

const MAX_ACTORS: usize = 8;

/// Returns the parties that act for the user (the `act` claim, RFC 8693 §4.1), the current one first.
///
/// Needs the feature `incoming`.
///
/// Use only the first one for access decisions. The others acted before, and are for the record.
///
/// # Errors
///
/// [`Rejected`](AuthErrorKind::Rejected), if an `act` is not an object, its `sub` or `iss` is not a string, or more than
/// 8 are nested. [`TokenValidator`](crate::TokenValidator) refuses such a token.
///
/// ```
/// use serde_json::json;
/// use tower_identity::{Identity, delegation_chain};
///
/// let act = json!({ "sub": "agent", "act": { "sub": "gateway" } });
/// let claims = json!({ "sub": "user-1", "act": act });
/// let identity = Identity::builder("user-1")
///     .claims(claims.as_object().unwrap().clone())
///     .build()?;
///
/// let actors = delegation_chain(&identity)?;
/// let subjects: Vec<_> = actors.iter().map(|actor| actor.subject()).collect();
/// assert_eq!(subjects, [Some("agent"), Some("gateway")]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn delegation_chain(identity: &Identity) -> Result<Vec<ActingParty<'_>>, AuthError> {
    actors(identity.claims()).map_err(|fault| AuthError::new(AuthErrorKind::Rejected, fault))
}

pub(super) fn actors(claims: &Map<String, Value>) -> Result<Vec<ActingParty<'_>>, &'static str> {
    let mut actors = Vec::new();
    let mut next = claims.get("act");
    while let Some(act) = next {
        let claims = act
            .as_object()
            .ok_or("the token's `act` claim is no object")?;
        let is_text = |name| claims.get(name).is_none_or(Value::is_string);
        if !is_text("sub") || !is_text("iss") {
            return Err("the token's `act` claim names nobody");
        }
        if actors.len() == MAX_ACTORS {
            return Err("the token's `act` claims are nested too deeply");
        }
        actors.push(ActingParty { claims });
        next = claims.get("act");
    }
    Ok(actors)
}

/// A party that acts for a user.
///
/// Needs the feature `incoming`.
///
/// [`delegation_chain`](crate::delegation_chain) has an example.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ActingParty<'a> {
    claims: &'a Map<String, Value>,
}

impl<'a> ActingParty<'a> {
    /// The party's `sub`.
    pub fn subject(&self) -> Option<&'a str> {
        self.claims.get("sub").and_then(Value::as_str)
    }

    /// The party's `iss`. Without one, the subject is one of the token's issuer.
    pub fn issuer(&self) -> Option<&'a str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// All claims about the party, including a nested `act`.
    pub fn claims(&self) -> &'a Map<String, Value> {
        self.claims
    }
}
