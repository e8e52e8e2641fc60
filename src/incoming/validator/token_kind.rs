use serde_json::{Map, Value};

use crate::error::AuthError;

use super::{claims::Source, rejected};

/// The members that say what kind of token it is: of RFC 7662 §2.2, of Amazon Cognito and Ory Hydra, and of Keycloak.
const MEMBERS: [&str; 3] = ["token_type", "token_use", "typ"];

const ACCESS_TOKEN: [&str; 8] = [
    "bearer",
    "access",
    "access_token",
    "at+jwt",
    "application/at+jwt",
    "jwt",
    "urn:ietf:params:oauth:token-type:access_token",
    "urn:ietf:params:oauth:token-type:jwt",
];

const OTHER_TOKEN: [&str; 13] = [
    "refresh",
    "refresh_token",
    "offline",
    "id",
    "id_token",
    "logout",
    "code",
    "n_a",
    "mac",
    "pop",
    "dpop",
    "urn:ietf:params:oauth:token-type:refresh_token",
    "urn:ietf:params:oauth:token-type:id_token",
];

const ID_TOKEN: [&str; 4] = [
    "id",
    "id_token",
    "jwt",
    "urn:ietf:params:oauth:token-type:id_token",
];

/// The kind of token that is wanted.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Wanted {
    AccessToken,
    IdToken,
}

/// Refuses a token that is good and is no access token that its bearer can use: a refresh token, for example.
///
/// An introspection endpoint answers for every kind, so only what it calls an access token passes. A signed token passes
/// unless it says that it is something else, because in its claims these names may mean anything.
pub(super) fn check(
    claims: &Map<String, Value>,
    source: Source,
    wanted: Wanted,
) -> Result<(), AuthError> {
    // Whether the caller has the key is checked for each request.
    let is_bound_to_key = claims
        .get("cnf")
        .is_some_and(|cnf| cnf.get("jkt").is_some());
    for name in MEMBERS {
        let Some(kind) = claims.get(name) else {
            continue;
        };
        let is_among = |kinds: &[&str]| {
            let kind = kind.as_str();
            kind.is_some_and(|kind| kinds.iter().any(|known| known.eq_ignore_ascii_case(kind)))
        };
        let passes = match (wanted, source) {
            (Wanted::IdToken, _) => is_among(&ID_TOKEN),
            (Wanted::AccessToken, _) if is_bound_to_key && is_among(&["dpop"]) => true,
            (Wanted::AccessToken, Source::Introspection) => is_among(&ACCESS_TOKEN),
            (Wanted::AccessToken, Source::Signature) => !is_among(&OTHER_TOKEN),
        };
        if !passes {
            return Err(rejected(match name {
                _ if wanted == Wanted::IdToken => "the token is not an ID token",
                "token_type" => "the token is not an access token, says its `token_type`",
                "token_use" => "the token is not an access token, says its `token_use`",
                _ => "the token is not an access token, says its `typ`",
            }));
        }
    }
    Ok(())
}
