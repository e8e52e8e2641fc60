//! How the client authenticates with what is no fixed secret: assertions that it signs, and those that somebody supplies.

mod support;

use support::{
    issuer::{self, Issuer},
    key_pair::ED25519,
    token_stack::{endpoint_builder, secret},
    verified::signed_by,
};
use tower_identity::{
    ClientAuth,
    oauth::{PrivateKeyJwt, SigningAlgorithm, TokenRequest, TokenType},
};

const ED_KEY: &str = include_str!("support/keys/ed25519.pem");

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
