//! What an introspection endpoint says of an opaque token.

use serde_json::{Map, Value};
use tower_identity::{AuthErrorKind, IntrospectionEndpoint, KeySet, TokenValidator};

use crate::{
    harness::{self, Peer, assert_is_well_formed, assert_shows_nothing_of, shown, wait},
    key_pair::ED25519,
};

const ISSUER: &str = "https://idp.example.com";
const AUDIENCE: &str = "https://gateway.example.com";
const TOKEN: &str = "2YotnFZFEjr1zCsicMWpAA";

pub(crate) fn check(input: &[u8]) {
    let response = harness::answer(input);
    let answers = response.clone();
    let peer = Peer::new(move |_| answers.clone());
    let endpoint = IntrospectionEndpoint::builder(format!("{ISSUER}/introspect"), peer.clone());
    let keys = serde_json::json!({ "keys": [ED25519.public()] }).to_string();
    let validator = TokenValidator::builder_with_keys(ISSUER, KeySet::from_json(keys).unwrap())
        .audience(AUDIENCE)
        .introspection(endpoint.build().unwrap())
        .clock(harness::clock())
        .build()
        .unwrap();

    let outcome = wait(validator.validate(TOKEN));
    assert_eq!(peer.asked().len(), 1, "it is asked once for each token");
    match outcome {
        Ok(identity) => {
            assert_eq!(response.status(), 200);
            let mut claims: Map<String, Value> = serde_json::from_slice(response.body()).unwrap();
            claims.retain(|_, claim| !claim.is_null());
            assert_eq!(claims["active"], Value::Bool(true));
            assert!(claims.get("iss").is_none_or(|issuer| issuer == ISSUER));
            let audiences = match &claims["aud"] {
                Value::Array(audiences) => audiences,
                audience => std::slice::from_ref(audience),
            };
            assert!(audiences.iter().any(|audience| audience == AUDIENCE));
            assert_eq!(identity.subject(), claims["sub"].as_str().unwrap());
            assert!(!identity.subject().trim().is_empty());
            assert_eq!(identity.issuer(), Some(ISSUER));
            assert_eq!(identity.token().unwrap().expose(), TOKEN);
            let now = harness::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap();
            let exp = claims.get("exp").map(|exp| exp.as_f64().unwrap());
            assert!(exp.is_none_or(|exp| exp + 60.0 > now.as_secs_f64()));
        }
        Err(error) => {
            assert_is_well_formed(&error);
            let is_refused = [400, 401, 403].contains(&response.status().as_u16());
            assert!(
                [
                    AuthErrorKind::Rejected,
                    AuthErrorKind::Expired,
                    AuthErrorKind::Unavailable
                ]
                .contains(&error.kind())
                    || (is_refused && error.kind() == AuthErrorKind::Configuration),
                "{error:?}"
            );
            let public = [ISSUER, AUDIENCE];
            assert_shows_nothing_of(input, &shown(&error), &public);
        }
    }
}
