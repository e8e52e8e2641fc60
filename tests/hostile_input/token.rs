//! The bearer token of a caller. The first line says how it is signed, and what it is made of follows.
//!
//! `token` takes what follows as it is. Else the next line is its header and the rest is its claims: `issuer` signs them
//! with the issuer's key, `stranger` with another one, `shared` with the public key as if it were a shared secret, `none`
//! not at all, and `borrowed` has the signature of another token.

use std::{sync::LazyLock, time::UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response, header::AUTHORIZATION};
use http_body_util::Full;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Map, Value, json};
use tower::{Layer, ServiceExt, service_fn};
use tower_identity::{
    AuthErrorKind, Identity, TokenValidator, TokenValidatorLayer, delegation_chain,
};

use crate::{
    harness::{self, Peer, assert_is_well_formed, assert_shows_nothing_of, line, shown, wait},
    key_pair::{ED25519, P256, P384, RSA},
};

const ISSUER: &str = "https://idp.example.com";
const AUDIENCE: &str = "https://gateway.example.com";
const LEEWAY: f64 = 60.0;

pub(crate) fn check(input: &[u8]) {
    let peer = Peer::new(|request| {
        assert_eq!(request.uri().host(), Some("idp.example.com"));
        let body = match request.uri().path() {
            "/.well-known/openid-configuration" => METADATA.clone(),
            "/keys" => KEYS.clone(),
            path => panic!("{path} is none of the issuer's documents"),
        };
        Response::new(body)
    });
    let validator = TokenValidator::builder(ISSUER, peer.clone())
        .audience(AUDIENCE)
        .clock(harness::clock())
        .build()
        .unwrap();

    let token = Token::of(input);
    let Ok(text) = std::str::from_utf8(&token.text) else {
        return;
    };
    for _ in 0..2 {
        match wait(validator.validate(text)) {
            Ok(identity) => assert_is_theirs(&identity, &token),
            Err(error) => {
                assert_is_well_formed(&error);
                let kinds = [AuthErrorKind::Rejected, AuthErrorKind::Expired];
                assert!(kinds.contains(&error.kind()), "{error:?}");
                let challenge = error.challenge().unwrap().to_str().unwrap();
                assert!(
                    challenge.contains(r#"error="invalid_token""#),
                    "{challenge}"
                );
                let public = [ISSUER, AUDIENCE, "invalid_token"];
                assert_shows_nothing_of(input, &shown(&error), &public);
            }
        }
    }
    check_layer(validator, &token);

    let key_fetches = peer
        .asked()
        .iter()
        .filter(|(uri, _)| uri.path() == "/keys")
        .count();
    // One for the first token, and a few for unknown keys.
    assert!(key_fetches <= 7, "{key_fetches} fetches at one moment");
}

/// The layer passes nothing on that the validator refuses, and takes the header off what it passes on.
fn check_layer(validator: TokenValidator, token: &Token) {
    let mut request = Request::new(Full::<Bytes>::default());
    let value = [b"Bearer ", &*token.text].concat();
    let Ok(value) = http::HeaderValue::from_bytes(&value) else {
        return;
    };
    request.headers_mut().insert(AUTHORIZATION, value);
    let app = service_fn(async |request: Request<Full<Bytes>>| {
        assert!(!request.headers().contains_key(AUTHORIZATION));
        let identity = request.extensions().get::<Identity>().unwrap();
        Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from(
            identity.subject().to_owned(),
        )))
    });
    // The header is trimmed in front, so that the token in it may be another than the one that was validated.
    let is_same = !token.text.starts_with(b" ");
    let accepted = is_same
        .then(|| std::str::from_utf8(&token.text).ok())
        .flatten();
    let accepted = accepted.map(|text| wait(validator.validate(text)).is_ok());
    let answer = wait(
        TokenValidatorLayer::new(validator)
            .layer(app)
            .oneshot(request),
    )
    .unwrap();
    match accepted {
        Some(true) => assert_eq!(answer.status(), 200),
        Some(false) => assert_eq!(answer.status(), 401),
        None => assert!([200, 401].contains(&answer.status().as_u16())),
    }
    assert_eq!(
        answer.status() == 401,
        answer.headers().contains_key("www-authenticate")
    );
}

fn assert_is_theirs(identity: &Identity, token: &Token) {
    let text = std::str::from_utf8(&token.text).unwrap();
    assert!(token.is_signed_by_issuer(), "nobody signed it: {text}");
    let mut parts = text
        .split('.')
        .map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
    let (header, claims) = (parts.next().unwrap(), parts.next().unwrap());
    // What is not looked at in a header may be no text.
    if let Ok(header) = serde_json::from_slice::<Map<String, Value>>(&header) {
        assert!(["EdDSA", "ES256", "ES384", "RS256"].contains(&header["alg"].as_str().unwrap()));
        assert!(header.get("crit").is_none_or(Value::is_null));
        let typ = header.get("typ").and_then(Value::as_str);
        let typ = typ.map(str::to_ascii_lowercase);
        let types = ["jwt", "at+jwt", "application/at+jwt"];
        assert!(typ.is_none_or(|typ| types.contains(&&*typ)));
    }
    let claims: Map<String, Value> = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["iss"], ISSUER);
    let audiences = match &claims["aud"] {
        Value::Array(audiences) => audiences,
        audience => std::slice::from_ref(audience),
    };
    assert!(audiences.iter().any(|audience| audience == AUDIENCE));
    let now = harness::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    assert!(
        claims["exp"].as_f64().unwrap() + LEEWAY > now,
        "it has expired"
    );
    for name in ["nbf", "iat"] {
        let time = claims.get(name).map(|time| time.as_f64().unwrap());
        assert!(
            time.is_none_or(|time| time - LEEWAY <= now),
            "its {name} is to come"
        );
    }
    assert_eq!(claims["sub"], identity.subject());
    assert!(!identity.subject().trim().is_empty());
    assert_eq!(identity.issuer(), Some(ISSUER));
    assert_eq!(identity.token().unwrap().expose(), text);
    assert!(delegation_chain(identity).unwrap().len() <= 8);
    // Who it is for may look like a part of it.
    let subject = format!("{:?}", identity.subject());
    assert_shows_nothing_of(&token.text, &format!("{identity:?}"), &[&subject]);
}

/// A token, and what the issuer has signed.
struct Token {
    text: Vec<u8>,
    signed: Option<String>,
}

impl Token {
    fn of(input: &[u8]) -> Self {
        let mut rest = input;
        let how = line(&mut rest);
        if how == b"token" {
            return Self {
                text: rest.to_vec(),
                signed: None,
            };
        }
        let header = line(&mut rest);
        let message = format!("{}.{}", encode(header), encode(rest));
        let sign = |algorithm, key: &EncodingKey| {
            jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap()
        };
        let signature = match how {
            b"stranger" => sign(STRANGER.0, &STRANGER.1),
            b"shared" => sign(Algorithm::HS256, &SHARED),
            b"none" => String::new(),
            b"borrowed" => GOOD[0].rsplit_once('.').unwrap().1.to_owned(),
            _ => sign(ED25519.algorithm, &SIGNING),
        };
        let text = format!("{message}.{signature}").into_bytes();
        let is_the_issuers = ![&b"stranger"[..], b"shared", b"none", b"borrowed"].contains(&how);
        Self {
            text,
            signed: is_the_issuers.then_some(message),
        }
    }

    fn is_signed_by_issuer(&self) -> bool {
        let text = std::str::from_utf8(&self.text).unwrap();
        let message = text.rsplit_once('.').unwrap().0;
        self.signed.as_deref() == Some(message)
            || GOOD
                .iter()
                .any(|good| good.rsplit_once('.').unwrap().0 == message)
    }
}

static SIGNING: LazyLock<EncodingKey> = LazyLock::new(|| ED25519.private());
static SHARED: LazyLock<EncodingKey> = LazyLock::new(|| {
    let public = ED25519.public()["x"].as_str().unwrap().to_owned();
    EncodingKey::from_secret(&URL_SAFE_NO_PAD.decode(public).unwrap())
});
static STRANGER: LazyLock<(Algorithm, EncodingKey)> = LazyLock::new(|| {
    // RFC 8037 §A.1
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    let key = EncodingKey::from_ed_pem(KEY.as_bytes()).unwrap();
    (Algorithm::EdDSA, key)
});
static METADATA: LazyLock<Bytes> = LazyLock::new(|| {
    let metadata = json!({ "issuer": ISSUER, "jwks_uri": format!("{ISSUER}/keys") });
    metadata.to_string().into()
});
static KEYS: LazyLock<Bytes> = LazyLock::new(|| {
    let keys = [ED25519, P256, P384, RSA].map(|key| key.public());
    json!({ "keys": keys }).to_string().into()
});
/// What a raw token may be made of: good ones, of each key. They are the same in each run, but for those of elliptic curves.
static GOOD: LazyLock<Vec<String>> = LazyLock::new(|| {
    let now = harness::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims =
        json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "user-1", "iat": now, "exp": now + 600 });
    [ED25519, P256, P384, RSA]
        .map(|key| key.sign(&key.header(), &claims))
        .into()
});

fn encode(part: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(part)
}
