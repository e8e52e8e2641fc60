//! How the client authenticates with what is no fixed secret: assertions that it signs, and those that somebody supplies.

mod support;

use std::{future::pending, sync::Mutex};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::{
    certificate::certificate,
    issuer::{self, Issuer},
    key_pair::{ED25519, KeyPair, P256, RSA},
    token_stack::{endpoint_builder, secret},
    verified::signed_by,
};
use tower::BoxError;
use tower_identity::{
    AuthErrorKind, ClientAuth,
    oauth::{JwtSigner, PrivateKeyJwt, SigningAlgorithm, SigningFuture, TokenRequest, TokenType},
};

const ED_KEY: &str = include_str!("support/keys/ed25519.pem");
const P256_KEY: &str = include_str!("support/keys/p256.pem");
const RSA_KEY: &str = include_str!("support/keys/rsa.pem");

fn exchange() -> TokenRequest {
    TokenRequest::token_exchange().subject_token("alices-token", TokenType::AccessToken)
}

/// An issuer that knows Alice, and this client if it comes with an assertion.
async fn issuer_with(client_id: &str) -> Issuer {
    let issuer = Issuer::start().await;
    issuer
        .know("alices-token", "alice")
        .require(issuer::Client::Assertion {
            id: client_id.into(),
        });
    issuer
}

#[tokio::test]
async fn f87_an_assertion_is_for_the_issuer_where_it_is_known() {
    let known = "https://idp.example.com/";
    let set = "https://other.example.com";
    let key = || PrivateKeyJwt::builder(SigningAlgorithm::EdDsa, &secret(ED_KEY));
    for (key, issuer_is_known, audience) in [
        (key(), true, Some(known)),
        (key().audience(set), true, Some(set)),
        (key(), false, None),
    ] {
        let issuer = issuer_with("gateway").await;
        let client_auth = ClientAuth::private_key_jwt("gateway", key.build().unwrap());
        let mut endpoint = endpoint_builder(&issuer).client_auth(client_auth);
        if issuer_is_known {
            endpoint = endpoint.issuer(known);
        }
        let endpoint = endpoint.build().unwrap();
        endpoint.request_token(exchange()).await.unwrap();
        let sent = issuer.request();
        let (_, claims) = signed_by(ED25519, sent.one("client_assertion").unwrap());
        assert_eq!(claims["aud"], audience.unwrap_or(&issuer.url()));
    }
}

#[tokio::test]
async fn an_assertion_names_the_certificate_of_its_key_and_brings_it_where_that_is_set() {
    let (pem, der) = certificate(RSA_KEY);
    let (issuers, issuers_der) = certificate(P256_KEY);
    let key = || PrivateKeyJwt::builder(SigningAlgorithm::Rs256, &secret(RSA_KEY));
    for (key, chain) in [
        (key().certificates(&pem), None),
        (
            key()
                .certificates(format!("{pem}\n{issuers}"))
                .send_certificates(),
            Some(json!([
                STANDARD.encode(&der),
                STANDARD.encode(&issuers_der)
            ])),
        ),
    ] {
        let (header, _) = sent_with(key.build().unwrap(), RSA).await;
        let thumbprint = URL_SAFE_NO_PAD.encode(Sha256::digest(&der));
        assert_eq!(header["x5t#S256"], thumbprint);
        assert_eq!(header.get("x5c"), chain.as_ref());
        assert_eq!(header["alg"], "RS256");
    }
}

#[test]
fn certificates_that_are_damaged_or_of_another_key_are_refused() {
    let (own, _) = certificate(ED_KEY);
    let (anothers, _) = certificate(P256_KEY);
    let key = || PrivateKeyJwt::builder(SigningAlgorithm::EdDsa, &secret(ED_KEY));
    key().certificates(&own).build().unwrap();
    key()
        .certificates(format!("{own}{anothers}"))
        .build()
        .unwrap();
    let begin = "-----BEGIN CERTIFICATE-----\n";
    for (key, setting) in [
        (key().certificates(""), "certificates"),
        (key().certificates(ED_KEY), "certificates"),
        (key().certificates(&own[..own.len() - 40]), "certificates"),
        (
            key().certificates(format!("{begin}bm8gREVS\n-----END CERTIFICATE-----")),
            "certificates",
        ),
        (key().certificates(&anothers), "certificates"),
        (
            key().certificates(format!("{anothers}{own}")),
            "certificates",
        ),
        (key().send_certificates(), "send_certificates"),
    ] {
        let error = key.build().unwrap_err();
        assert_eq!(error.invalid_settings().len(), 1, "{error}");
        assert_eq!(error.invalid_settings()[0].setting(), setting);
    }
}

/// Signs elsewhere, as it is told to.
struct Signer(Mutex<Script>);

type Script = Box<dyn FnMut(&[u8]) -> Option<Result<Vec<u8>, BoxError>> + Send>;

impl JwtSigner for Signer {
    fn sign<'a>(&'a self, message: &'a [u8]) -> SigningFuture<'a> {
        let outcome = (self.0.lock().unwrap())(message);
        Box::pin(async move {
            match outcome {
                Some(outcome) => outcome,
                None => pending().await,
            }
        })
    }
}

fn signer<F>(script: F) -> PrivateKeyJwt
where
    F: FnMut(&[u8]) -> Option<Result<Vec<u8>, BoxError>> + Send + 'static,
{
    PrivateKeyJwt::with_signer(
        SigningAlgorithm::Es256,
        Signer(Mutex::new(Box::new(script))),
    )
    .key_id("kms")
    .build()
    .unwrap()
}

/// The header and the claims of the assertion that is sent with this key.
async fn sent_with(key: PrivateKeyJwt, public: KeyPair) -> (Value, Value) {
    let issuer = issuer_with("gateway").await;
    let endpoint = endpoint_builder(&issuer)
        .client_auth(ClientAuth::private_key_jwt("gateway", key))
        .build()
        .unwrap();
    endpoint.request_token(exchange()).await.unwrap();
    signed_by(public, issuer.request().one("client_assertion").unwrap())
}

#[tokio::test]
async fn an_assertion_may_be_signed_elsewhere() {
    let key = signer(|message| {
        let signature = jsonwebtoken::crypto::sign(message, &P256.private(), P256.algorithm);
        Some(Ok(URL_SAFE_NO_PAD.decode(signature.unwrap()).unwrap()))
    });
    let (header, claims) = sent_with(key, P256).await;
    assert_eq!(
        header,
        json!({ "alg": "ES256", "typ": "JWT", "kid": "kms" })
    );
    assert_eq!(claims["sub"], "gateway");
}

#[tokio::test(start_paused = true)]
async fn a_signer_that_fails_hangs_panics_or_returns_garbage_is_told_and_nothing_is_sent() {
    type Outcome = fn() -> Option<Result<Vec<u8>, BoxError>>;
    let faults: [(Outcome, AuthErrorKind, &str); 6] = [
        (
            || Some(Err("throttled".into())),
            AuthErrorKind::Unavailable,
            "failed",
        ),
        (
            || None,
            AuthErrorKind::Unavailable,
            "did not answer within 10s",
        ),
        (
            || panic!("a bug of the signer"),
            AuthErrorKind::Unavailable,
            "panicked",
        ),
        (
            || Some(Ok(Vec::new())),
            AuthErrorKind::Configuration,
            "returned 0 bytes",
        ),
        (
            || Some(Ok(vec![7; 256])),
            AuthErrorKind::Configuration,
            "returned 256 bytes",
        ),
        (
            || Some(Ok(vec![0x30; 70])),
            AuthErrorKind::Configuration,
            "looks like DER",
        ),
    ];
    let issuer = issuer_with("gateway").await;
    for (outcome, kind, message) in faults {
        let key = signer(move |_| outcome());
        let endpoint = endpoint_builder(&issuer)
            .client_auth(ClientAuth::private_key_jwt("gateway", key))
            .build()
            .unwrap();
        let error = endpoint.request_token(exchange()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
    assert!(issuer.requests().is_empty());
}
