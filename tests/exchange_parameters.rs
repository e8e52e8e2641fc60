//! Exchanges as issuers have them: a grant of their own, and additional parameters that are constant or come from claims.
#![cfg(feature = "token-exchange")]

mod support;

use proptest::prelude::{ProptestConfig, any, prop, prop_oneof, proptest};
use proptest::strategy::Strategy as _;
use serde_json::{Value, json};
use support::{
    issuer::{Behaviour, Issuer, TOKEN_EXCHANGE},
    token_stack::{Backend, clock, endpoint, endpoint_builder, secret, send},
};
use tower_identity::{
    AccessToken, AuthErrorKind, ClientAuth, CredentialCache, Identity, Placement, TokenExchange,
    oauth::TokenType,
};

const OWN_GRANT: &str =
    "urn:auth0:params:oauth:grant-type:token-exchange:federated-connection-access-token";
const OWN_TYPE: &str = "http://auth0.com/oauth/token-type/federated-connection-access-token";

fn alice(claims: &Value) -> Identity {
    Identity::builder("alice")
        .token(AccessToken::new("alices-token").unwrap())
        .claims(claims.as_object().unwrap().clone())
        .build()
        .unwrap()
}

async fn issuer() -> Issuer {
    let issuer = Issuer::start().await;
    issuer.know("alices-token", "alice");
    issuer
}

#[tokio::test]
async fn an_issuers_own_grant_is_sent_with_its_parameters() {
    let (issuer, backend) = (issuer().await, Backend::start().await);
    issuer.next(Behaviour::json(
        200,
        &json!({ "access_token": "ya29.1", "token_type": "Bearer", "expires_in": 60, "scope": "calendar" }),
    ));
    let strategy = TokenExchange::builder(endpoint(&issuer))
        .grant_type(OWN_GRANT)
        .requested_token_type(TokenType::of_urn(OWN_TYPE))
        .parameter("connection", "google-oauth2")
        .parameter_of_claim("login_hint", "google_id")
        .build()
        .unwrap();
    let client = backend.client(strategy);
    let request = backend.request(alice(&json!({ "google_id": 1_234 })));
    send(&client, request).await.unwrap();
    let sent = issuer.request();
    for (name, value) in [
        ("grant_type", OWN_GRANT),
        ("requested_token_type", OWN_TYPE),
        ("connection", "google-oauth2"),
        ("login_hint", "1234"),
        ("subject_token", "alices-token"),
    ] {
        assert_eq!(sent.one(name), Some(value), "{name}");
    }
    assert_eq!(
        backend.authorizations(),
        [["Bearer ya29.1"]],
        "although it names no `issued_token_type`"
    );
}

#[tokio::test]
async fn tokens_are_kept_apart_by_the_values_of_claims_and_by_constants() {
    let (issuer, backend) = (issuer().await, Backend::start().await);
    let cache = CredentialCache::builder().build().unwrap();
    let exchange = || TokenExchange::builder(endpoint(&issuer)).cache(cache.clone());
    let by_claim = exchange().parameter_of_claim("tenant", "tenant");
    let clients = [
        by_claim,
        exchange().parameter("tenant", "a"),
        exchange().parameter("tenant", "b"),
        exchange().parameter_of_claim("tenant", "other"),
        exchange().parameter("a", "tenant"),
        // The names of what another setting adds to the key.
        exchange()
            .parameter("placement", "x-a")
            .parameter("prefix", "p "),
        exchange().placement(Placement::header("x-a").unwrap().prefix("p ").unwrap()),
        exchange().parameter("placement", "x-a"),
        exchange().grant_type("own-grant"),
    ];
    let clients = clients.map(|client| backend.client(client.build().unwrap()));
    issuer.know("unused", "nobody");
    for round in 0..2 {
        for (index, client) in clients.iter().enumerate() {
            for tenant in ["a", "b"] {
                if round == 0 && index == 8 && tenant == "a" {
                    issuer.next(Behaviour::json(
                        200,
                        &json!({ "access_token": "own", "token_type": "Bearer", "expires_in": 3600 }),
                    ));
                }
                let claims = json!({ "tenant": tenant, "other": "a" });
                send(client, backend.request(alice(&claims))).await.unwrap();
            }
        }
        // One for each client, and two for the one whose requests differ by the claim.
        assert_eq!(issuer.requests().len(), clients.len() + 1);
    }
    let tenants: Vec<_> = issuer
        .requests()
        .iter()
        .map(|sent| sent.one("tenant").map(str::to_owned))
        .collect();
    assert_eq!(tenants[..2], [Some("a".to_owned()), Some("b".to_owned())]);
}

#[tokio::test]
async fn a_claim_that_cannot_be_a_parameter_is_refused_by_name_and_the_issuer_is_not_asked() {
    let (issuer, backend) = (issuer().await, Backend::start().await);
    let strategy = TokenExchange::builder(endpoint(&issuer)).parameter_of_claim("tenant", "tenant");
    let client = backend.client(strategy.build().unwrap());
    for claims in [
        json!({}),
        json!({ "tenant": null }),
        json!({ "tenant": "" }),
        json!({ "tenant": ["a"] }),
        json!({ "tenant": { "a": "b" } }),
        json!({ "tenant": "x".repeat(10 * 1024) }),
    ] {
        let refused = send(&client, backend.request(alice(&claims)))
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), AuthErrorKind::InsufficientScope);
        let said = refused.to_string();
        assert!(said.contains("`tenant`") && said.len() < 300, "{said}");
    }
    assert_eq!(issuer.requests().len(), 0);
    for (value, sent) in [
        (json!(7), "7"),
        (json!(true), "true"),
        (json!(1.5), "1.5"),
        (json!("a b&c=d"), "a b&c=d"),
    ] {
        send(&client, backend.request(alice(&json!({ "tenant": value }))))
            .await
            .unwrap();
        assert_eq!(issuer.requests().pop().unwrap().one("tenant"), Some(sent));
    }
    let subject = TokenExchange::builder(endpoint(&issuer)).parameter_of_claim("user", "sub");
    let client = backend.client(subject.build().unwrap());
    send(&client, backend.request(alice(&json!({}))))
        .await
        .unwrap();
    assert_eq!(issuer.requests().pop().unwrap().one("user"), Some("alice"));
}

#[tokio::test]
async fn a_health_check_has_no_parameters() {
    let (issuer, backend) = (issuer().await, Backend::start().await);
    let endpoint = endpoint_builder(&issuer).client_auth(ClientAuth::basic("gateway", secret("s")));
    let strategy = TokenExchange::builder(endpoint.build().unwrap())
        .audience("mcp")
        .grant_type("own-grant")
        .parameter("connection", "google-oauth2")
        .parameter_of_claim("tenant", "tenant")
        .clock(clock());
    let client = backend.client(strategy.build().unwrap());
    send(&client, backend.probe()).await.unwrap();
    let sent = issuer.request();
    assert_eq!(sent.one("grant_type"), Some("client_credentials"));
    assert_eq!((sent.one("connection"), sent.one("tenant")), (None, None));
}

#[tokio::test]
async fn parameters_and_grants_that_are_no_ones_of_an_exchange_are_refused() {
    let issuer = issuer().await;
    let exchange = || TokenExchange::builder(endpoint(&issuer));
    for name in [
        "scope",
        "Scope",
        "resource",
        "audience",
        "client_id",
        "client_secret",
        "client_assertion",
        "grant_type",
        "subject_token",
        "actor_token",
        "requested_token_type",
        "refresh_token",
        "assertion",
        "code",
        "password",
        "",
        "a b",
        "a=b",
        "a&b",
        "scope[]",
        "a%20b",
        "ä",
        "a\r\nb",
    ] {
        for exchange in [
            exchange().parameter(name, "x"),
            exchange().parameter_of_claim(name, "x"),
        ] {
            let error = exchange.build().unwrap_err();
            let settings: Vec<_> = error
                .invalid_settings()
                .iter()
                .map(|invalid| invalid.setting())
                .collect();
            assert_eq!(settings, ["parameter[0].name"], "{name}");
        }
    }
    for (exchange, setting) in [
        (
            exchange().parameter("a", "x").parameter("a", "y"),
            "parameter[1].name",
        ),
        (
            exchange().parameter("a", "x").parameter_of_claim("a", "y"),
            "parameter[1].name",
        ),
        (exchange().parameter("a", ""), "parameter[0].value"),
        (
            exchange().parameter_of_claim("a", " "),
            "parameter[0].claim",
        ),
        (exchange().grant_type(""), "grant_type"),
        (exchange().grant_type("own grant"), "grant_type"),
        (
            exchange().grant_type("https://idp.example.com/grant#f"),
            "grant_type",
        ),
        (exchange().grant_type("client_credentials"), "grant_type"),
        (exchange().grant_type("password"), "grant_type"),
    ] {
        let error = exchange.build().unwrap_err();
        let settings: Vec<_> = error
            .invalid_settings()
            .iter()
            .map(|invalid| invalid.setting())
            .collect();
        assert_eq!(settings, [setting]);
    }
    exchange().grant_type("own-grant").build().unwrap();
}

/// What an attacker would write into a claim to change another parameter.
fn hostile() -> impl proptest::strategy::Strategy<Value = String> {
    let parts = prop_oneof![
        any::<String>(),
        "[&=+%;#?/\\r\\n\\x00\"\\[\\]]{1,4}",
        "(scope|audience|subject_token|client_id|grant_type|tenant)",
        "%(26|3D|3d|00|0A|2B|C0%AF)",
    ];
    prop::collection::vec(parts, 1..8)
        .prop_map(|parts| parts.concat())
        .prop_filter("a claim that is refused", |text| {
            !text.is_empty() && text.len() < 4096
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_hostile_claim_changes_no_other_parameter(value in hostile(), other in hostile()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (issuer, backend) = (issuer().await, Backend::start().await);
            let strategy = TokenExchange::builder(endpoint(&issuer))
                .audience("mcp")
                .scopes(["read"])
                .parameter_of_claim("tenant", "tenant")
                .parameter("fixed", "constant")
                .parameter_of_claim("other", "other");
            let client = backend.client(strategy.build().unwrap());
            let claims = json!({ "tenant": value, "other": other });
            send(&client, backend.request(alice(&claims))).await.unwrap();
            let form = issuer.request().form;
            let expected = [
                ("grant_type", TOKEN_EXCHANGE),
                ("requested_token_type", TokenType::AccessToken.urn()),
                ("audience", "mcp"),
                ("scope", "read"),
                ("tenant", &*value),
                ("fixed", "constant"),
                ("other", &*other),
                ("subject_token", "alices-token"),
                ("subject_token_type", TokenType::AccessToken.urn()),
            ];
            let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(form, expected);
        });
    }
}
