//! The metadata and the keys of an issuer: two answers, the metadata's first.

use std::time::UNIX_EPOCH;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use tower_identity::{AuthErrorKind, KeySet, TokenValidator};

use crate::{
    harness::{
        self, Peer, assert_is_well_formed, assert_names_settings, assert_shows_nothing_of, members,
        shown, split, wait,
    },
    key_pair::ED25519,
};

const ISSUER: &str = "https://idp.example.com/realms/one";
const AUDIENCE: &str = "https://gateway.example.com";
const WELL_KNOWN: [&str; 2] = [
    "https://idp.example.com/realms/one/.well-known/openid-configuration",
    "https://idp.example.com/.well-known/oauth-authorization-server/realms/one",
];

pub(crate) fn check(input: &[u8]) {
    let (metadata, keys) = split(input);
    let (metadata, keys) = (harness::answer(metadata), harness::answer(keys));
    check_key_set(keys.body());

    let peer = Peer::new({
        let (metadata, keys) = (metadata.clone(), keys.clone());
        move |request| match &*request.uri().to_string() {
            // Where there is no OIDC metadata, there may be the other.
            uri if uri == WELL_KNOWN[0] && metadata.status() == 404 => answer(404, &Bytes::new()),
            uri if uri == WELL_KNOWN[1] && metadata.status() == 404 => answer(200, metadata.body()),
            uri if WELL_KNOWN.contains(&uri) => metadata.clone(),
            _ => keys.clone(),
        }
    });
    let validator = TokenValidator::builder(ISSUER, peer.clone())
        .audience(AUDIENCE)
        .clock(harness::clock())
        .build()
        .unwrap();
    let outcome = wait(validator.validate(&token()));

    let asked = peer.asked();
    assert!(asked.len() <= 3, "{asked:?}");
    for (uri, body) in &asked {
        assert!(body.is_empty());
        assert_eq!(uri.scheme_str(), Some("https"), "{uri}");
    }
    match outcome {
        Ok(identity) => {
            assert_eq!(identity.issuer(), Some(ISSUER));
            if let Some(metadata) = members(metadata.body()) {
                assert_eq!(metadata["issuer"], ISSUER, "it is another issuer's");
            }
            assert_eq!(keys.status(), StatusCode::OK);
            let ours = ED25519.public();
            let ours = ours["x"].as_str().unwrap();
            let keys = members(keys.body()).unwrap();
            let mut keys = keys["keys"].as_array().unwrap().iter();
            assert!(
                keys.any(|key| {
                    // Padding and plain base64 are read as well.
                    let x = key["x"].as_str().unwrap_or_default();
                    let x = x.trim_end_matches('=').replace('+', "-").replace('/', "_");
                    x == ours
                }),
                "nobody published this key"
            );
        }
        Err(error) => {
            assert_is_well_formed(&error);
            let kinds = [AuthErrorKind::Unavailable, AuthErrorKind::Rejected];
            assert!(kinds.contains(&error.kind()), "{error:?}");
            let public = [ISSUER, AUDIENCE, "https://idp.example.com/token"];
            assert_shows_nothing_of(input, &shown(&error), &public);
        }
    }
}

fn check_key_set(json: &[u8]) {
    match KeySet::from_json(json) {
        Ok(keys) => {
            let document: Map<String, Value> = serde_json::from_slice(json).unwrap();
            assert!((1..=100).contains(&document["keys"].as_array().unwrap().len()));
            assert_shows_no_key(json, &format!("{keys:?}"));
        }
        Err(error) => {
            assert_names_settings(&error);
            assert_shows_nothing_of(json, &shown(&error), &["JSON Web Key Set"]);
        }
    }
}

/// A private key that was published by mistake is not told to the log as well.
fn assert_shows_no_key(json: &[u8], text: &str) {
    let document: Value = serde_json::from_slice(json).unwrap();
    for key in document["keys"].as_array().unwrap() {
        let key_id = key["kid"].as_str().unwrap_or_default();
        for (_, value) in key
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, _)| *name != "kid")
        {
            if let Some(value) = value.as_str().filter(|value| value.len() >= 12) {
                assert!(!text.contains(value) || key_id.contains(value), "{text}");
            }
        }
    }
}

fn answer(status: u16, body: &Bytes) -> Response<Bytes> {
    let mut response = Response::new(body.clone());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// A token that is good, if the key that it is signed with is the issuer's.
fn token() -> String {
    let now = harness::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims =
        json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "user-1", "iat": now, "exp": now + 600 });
    ED25519.sign(&ED25519.header(), &claims)
}
