//! A validator of several issuers, of issuers whose keys are elsewhere, and of the tenants of one.
#![cfg(feature = "incoming")]

mod support;

use std::{sync::Arc, time::SystemTime};

use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use support::identity_provider::{
    AUDIENCE, ED25519, INTROSPECT, IdentityProvider, KEYS, KeyPair, OPENID, P256, RSA, client,
    some_day,
};
use tower::ServiceExt;
use tower_identity::{
    AuthErrorKind, BuildError, IntrospectionEndpoint, KeySet, ManualClock, TokenValidator,
    incoming::{Issuer, TokenValidatorBuilder},
};

const ENTRA: &str = "https://login.microsoftonline.com/{tenantid}/v2.0";
const ONE: &str = "11111111-1111-4111-8111-111111111111";
const TWO: &str = "22222222-2222-4222-8222-222222222222";

fn builder(issuer: &IdentityProvider) -> TokenValidatorBuilder {
    TokenValidator::builder(issuer.issuer(), client())
        .audience(AUDIENCE)
        .clock(Arc::new(ManualClock::new(some_day())))
}

async fn kind(validator: &TokenValidator, token: &str) -> Option<AuthErrorKind> {
    let outcome = validator.validate(token).await;
    outcome.err().map(|error| error.kind())
}

fn keys(keys: &[Value]) -> KeySet {
    KeySet::from_json(json!({ "keys": keys }).to_string()).unwrap()
}

fn claims(issuer: &str, audience: &str) -> Value {
    let now = some_day().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    json!({ "iss": issuer, "aud": audience, "sub": "alice", "exp": now.as_secs() + 600 })
}

fn signed(key: KeyPair, claims: &Value) -> String {
    key.sign(&key.header(), claims)
}

#[tokio::test]
async fn a_token_is_checked_with_the_keys_and_audiences_of_its_own_issuer() {
    let first = IdentityProvider::start(P256).await;
    let second = IdentityProvider::start(ED25519).await;
    let other = "https://other.example.com";
    let validator = builder(&first)
        .issuer(Issuer::new(second.issuer(), client()).audience(other))
        .build()
        .unwrap();
    for (issuer, key, audience, expected) in [
        (&first, P256, AUDIENCE, None),
        (&second, ED25519, other, None),
        (&first, P256, other, Some(AuthErrorKind::Rejected)),
        (&second, ED25519, AUDIENCE, Some(AuthErrorKind::Rejected)),
        (&first, ED25519, AUDIENCE, Some(AuthErrorKind::Rejected)),
        (&second, P256, other, Some(AuthErrorKind::Rejected)),
    ] {
        let token = signed(key, &claims(&issuer.issuer(), audience));
        assert_eq!(kind(&validator, &token).await, expected, "{audience}");
    }
    let token = signed(ED25519, &claims(&second.issuer(), other));
    let identity = validator.validate(&token).await.unwrap();
    assert_eq!(identity.issuer(), Some(&*second.issuer()));
}

#[tokio::test]
async fn an_issuer_without_audiences_has_those_of_the_first() {
    let first = IdentityProvider::start(P256).await;
    let second = IdentityProvider::start(ED25519).await;
    let validator = builder(&first)
        .issuer(Issuer::new(second.issuer(), client()))
        .build()
        .unwrap();
    let token = second.token(ED25519, "alice", some_day());
    assert_eq!(kind(&validator, &token).await, None);
}

#[tokio::test]
async fn a_client_of_one_issuer_is_not_one_of_another() {
    let first = IdentityProvider::start(P256).await;
    let second = IdentityProvider::start(ED25519).await;
    let added = Issuer::new(second.issuer(), client()).admit_client("of-second");
    let validator = builder(&first)
        .admit_client("of-first")
        .issuer(added)
        .build()
        .unwrap();
    for (issuer, key, client, expected) in [
        (&first, P256, "of-first", None),
        (&second, ED25519, "of-second", None),
        (&first, P256, "of-second", Some(AuthErrorKind::Rejected)),
        (&second, ED25519, "of-first", Some(AuthErrorKind::Rejected)),
    ] {
        let mut claims = claims(&issuer.issuer(), "");
        claims.as_object_mut().unwrap().remove("aud");
        claims["client_id"] = json!(client);
        let token = signed(key, &claims);
        assert_eq!(kind(&validator, &token).await, expected, "{client}");
    }
}

#[tokio::test]
async fn no_key_is_looked_up_for_a_token_of_an_issuer_that_is_not_trusted() {
    let trusted = IdentityProvider::start(P256).await;
    let stranger = IdentityProvider::start(ED25519).await;
    let validator = builder(&trusted).build().unwrap();
    let good = stranger.token(ED25519, "alice", some_day());
    let mut claims = trusted.claims("alice", some_day());
    for issuer in [
        json!(null),
        json!(["a"]),
        json!(""),
        json!(format!("{}/", trusted.issuer())),
    ] {
        claims["iss"] = issuer;
        let token = signed(P256, &claims);
        assert_eq!(
            kind(&validator, &token).await,
            Some(AuthErrorKind::Rejected)
        );
    }
    assert_eq!(kind(&validator, &good).await, Some(AuthErrorKind::Rejected));
    assert!(trusted.requests().is_empty());
    assert!(stranger.requests().is_empty());
}

#[tokio::test]
async fn an_issuer_that_is_down_is_nothing_to_the_users_of_another() {
    let first = IdentityProvider::start(P256).await;
    let second = IdentityProvider::start(ED25519).await;
    first.is_down(true);
    let validator = builder(&first)
        .issuer(Issuer::new(second.issuer(), client()))
        .build()
        .unwrap();
    let token = first.token(P256, "alice", some_day());
    assert_eq!(
        kind(&validator, &token).await,
        Some(AuthErrorKind::Unavailable)
    );
    let token = second.token(ED25519, "alice", some_day());
    assert_eq!(kind(&validator, &token).await, None);
}

#[tokio::test]
async fn an_opaque_token_is_sent_to_the_first_issuers_endpoint_alone() {
    let first = IdentityProvider::start(P256).await;
    let second = IdentityProvider::start(ED25519).await;
    let endpoint = IntrospectionEndpoint::builder(first.uri(INTROSPECT), client());
    let validator = builder(&first)
        .introspection(endpoint.build().unwrap())
        .issuer(Issuer::new(second.issuer(), client()))
        .build()
        .unwrap();
    let mut said = second.claims("alice", some_day());
    said["active"] = json!(true);
    first.introspects("of-another", said.clone());
    assert_eq!(
        kind(&validator, "of-another").await,
        Some(AuthErrorKind::Rejected),
        "one issuer cannot speak for another"
    );
    said["iss"] = json!(first.issuer());
    first.introspects("opaque", said);
    let identity = validator.validate("opaque").await.unwrap();
    assert_eq!(identity.issuer(), Some(&*first.issuer()));
    assert!(second.requests().is_empty());
}

#[tokio::test]
async fn callers_are_told_of_all_issuers() {
    let first = IdentityProvider::start(P256).await;
    let validator = builder(&first)
        .issuer(Issuer::with_keys(ENTRA, keys(&[RSA.public()])))
        .issuer(
            Issuer::with_keys("https://sts.windows.net/{tenantid}/", keys(&[RSA.public()]))
                .tenants([ONE]),
        )
        .resource("https://gateway.example.com")
        .build()
        .unwrap();
    let metadata = validator.resource_metadata().unwrap();
    let request = Request::get(metadata.path()).body(()).unwrap();
    let response = metadata.oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let document: Value = serde_json::from_slice(&body).unwrap();
    let expected = json!([
        first.issuer(),
        "https://login.microsoftonline.com/common/v2.0",
        format!("https://sts.windows.net/{ONE}/"),
    ]);
    assert_eq!(document["authorization_servers"], expected);
}

// Keys that are elsewhere.

#[tokio::test]
async fn f74_keys_are_fetched_where_they_are_said_to_be_and_nothing_else_is() {
    let keys = IdentityProvider::start(P256).await;
    let issuer = "https://issuer.example.com/realms/one";
    for named in ["builder", "added"] {
        let validator = match named {
            "builder" => TokenValidator::builder(issuer, client())
                .jwks_url(keys.uri(KEYS))
                .audience(AUDIENCE),
            _ => builder(&keys).issuer(Issuer::new(issuer, client()).jwks_url(keys.uri(KEYS))),
        };
        let validator = validator
            .clock(Arc::new(ManualClock::new(some_day())))
            .build()
            .unwrap();
        let token = signed(P256, &claims(issuer, AUDIENCE));
        let identity = validator.validate(&token).await.unwrap();
        assert_eq!(identity.issuer(), Some(issuer));
    }
    assert_eq!((keys.key_fetches(), keys.requests().len()), (2, 2));
}

#[tokio::test]
async fn f74_metadata_is_read_where_it_is_said_to_be_and_the_issuer_in_it_is_compared() {
    let issuer = IdentityProvider::start(P256).await;
    let validator = builder(&issuer)
        .metadata_url(issuer.uri("/policy/metadata"))
        .build()
        .unwrap();
    let metadata = |name: String| json!({ "issuer": name, "jwks_uri": issuer.uri(KEYS) });
    let token = issuer.token(P256, "alice", some_day());
    issuer.script(
        "/policy/metadata",
        200,
        metadata(issuer.issuer()).to_string(),
    );
    assert_eq!(kind(&validator, &token).await, None);
    assert_eq!(issuer.fetches(OPENID), 0);

    let validator = builder(&issuer)
        .metadata_url(issuer.uri("/policy/metadata"))
        .build()
        .unwrap();
    let other = metadata("https://other.example.com".to_owned());
    issuer.script("/policy/metadata", 200, other.to_string());
    assert_eq!(
        kind(&validator, &token).await,
        Some(AuthErrorKind::Unavailable)
    );
    assert_eq!(issuer.fetches(OPENID), 0, "it is not looked for elsewhere");
}

// Tenants.

fn entra(set: KeySet) -> TokenValidatorBuilder {
    TokenValidator::builder_with_keys(ENTRA, set)
        .audience(AUDIENCE)
        .clock(Arc::new(ManualClock::new(some_day())))
}

fn of_tenant(tenant: &str) -> Value {
    let mut claims = claims(&ENTRA.replace("{tenantid}", tenant), AUDIENCE);
    claims["tid"] = json!(tenant);
    claims
}

#[tokio::test]
async fn the_issuer_of_a_users_identity_is_their_tenant() {
    let validator = entra(keys(&[RSA.public()])).build().unwrap();
    let mut identities = Vec::new();
    for tenant in [ONE, TWO] {
        let token = signed(RSA, &of_tenant(tenant));
        let identity = validator.validate(&token).await.unwrap();
        assert_eq!(
            identity.issuer(),
            Some(&*format!("https://login.microsoftonline.com/{tenant}/v2.0"))
        );
        identities.push(identity);
    }
    assert!(!identities[0].is_same_user(&identities[1]));
}

#[tokio::test]
async fn a_tenant_is_the_one_in_the_token_or_the_token_is_refused() {
    let validator = entra(keys(&[RSA.public()])).build().unwrap();
    let with = |issuer: &str, tenant: Value| {
        let mut claims = of_tenant(ONE);
        claims["iss"] = json!(issuer);
        claims["tid"] = tenant;
        claims
    };
    let ones = ENTRA.replace("{tenantid}", ONE);
    for claims in [
        with(&ones, json!(TWO)),
        with(&ones, Value::Null),
        with(&ones, json!([ONE])),
        with(&ones, json!(ONE.to_uppercase().replace('1', "I"))),
        with(ENTRA, json!("{tenantid}")),
        with(&ENTRA.replace("{tenantid}", ""), json!("")),
        with(&ENTRA.replace("{tenantid}", "a/b"), json!("a/b")),
        with(&ENTRA.replace("{tenantid}", ".."), json!("..")),
        with(&ENTRA.replace("{tenantid}", "a?b"), json!("a?b")),
        with(&format!("{ones}/"), json!(ONE)),
        with(
            &ones.replace("microsoftonline.com", "evil.example.com"),
            json!(ONE),
        ),
        with(&format!("https://evil.example.com/{ones}"), json!(ONE)),
    ] {
        let token = signed(RSA, &claims);
        assert_eq!(
            kind(&validator, &token).await,
            Some(AuthErrorKind::Rejected),
            "{claims}"
        );
    }
}

#[tokio::test]
async fn tenants_that_are_not_listed_are_refused() {
    let validator = entra(keys(&[RSA.public()]))
        .tenants([ONE.to_uppercase()])
        .build()
        .unwrap();
    let one = signed(RSA, &of_tenant(ONE));
    let two = signed(RSA, &of_tenant(TWO));
    assert_eq!(kind(&validator, &one).await, None);
    assert_eq!(kind(&validator, &two).await, Some(AuthErrorKind::Rejected));
}

#[tokio::test]
async fn a_key_that_is_published_for_one_tenant_verifies_no_token_of_another() {
    let mut of_one = RSA.public();
    of_one["issuer"] = json!(ENTRA.replace("{tenantid}", ONE));
    let mut of_all = P256.public();
    of_all["issuer"] = json!(ENTRA);
    let validator = entra(keys(&[of_one, of_all])).build().unwrap();
    for (key, tenant, expected) in [
        (RSA, ONE, None),
        (RSA, TWO, Some(AuthErrorKind::Rejected)),
        (P256, ONE, None),
        (P256, TWO, None),
    ] {
        let token = signed(key, &of_tenant(tenant));
        assert_eq!(kind(&validator, &token).await, expected, "{tenant}");
    }
}

#[tokio::test]
async fn the_keys_of_all_tenants_are_found_by_the_metadata_that_names_the_template() {
    let provider = IdentityProvider::start(RSA).await;
    let issuer = provider.uri("/{tenantid}/v2.0");
    let metadata = json!({ "issuer": issuer, "jwks_uri": provider.uri(KEYS) });
    let place = "/common/v2.0/.well-known/openid-configuration";
    provider.script(place, 200, metadata.to_string());
    let validator = TokenValidator::builder(&issuer, client())
        .audience(AUDIENCE)
        .clock(Arc::new(ManualClock::new(some_day())))
        .build()
        .unwrap();
    let mut claims = claims(&issuer.replace("{tenantid}", ONE), AUDIENCE);
    claims["tid"] = json!(ONE);
    assert_eq!(kind(&validator, &signed(RSA, &claims)).await, None);
    assert_eq!(provider.fetches(place), 1);
}

#[test]
fn what_cannot_work_is_named_at_construction() {
    let given = || keys(&[RSA.public()]);
    let first = || TokenValidator::builder("https://idp.example.com", client()).audience(AUDIENCE);
    let added = |issuer: &str| Issuer::new(issuer, client());
    let second = "https://second.example.com";
    let settings = |error: BuildError| {
        let settings = error.invalid_settings().iter();
        settings
            .map(|invalid| invalid.setting().to_owned())
            .collect::<Vec<_>>()
    };
    for (builder, expected) in [
        (
            first().issuer(added("https://idp.example.com")),
            "issuer[0]",
        ),
        (
            first().issuer(added(second)).issuer(added(second)),
            "issuer[1]",
        ),
        (
            first().issuer(added("http://second.example.com")),
            "issuer[0]",
        ),
        (
            first().issuer(added(second).audience(" ")),
            "issuer[0].audience",
        ),
        (
            first().issuer(added(second).admit_client("")),
            "issuer[0].admit_client",
        ),
        (first().admit_client(" "), "admit_client"),
        (
            first().issuer(added(second).jwks_url("/keys")),
            "issuer[0].jwks_url",
        ),
        (
            first().issuer(added(second).tenants([ONE])),
            "issuer[0].tenants",
        ),
        (first().jwks_url("http://keys.example.com"), "jwks_url"),
        (first().jwks_url(""), "jwks_url"),
        (first().metadata_url(""), "metadata_url"),
        (first().metadata_url("idp.example.com"), "metadata_url"),
        (
            first()
                .metadata_url("https://a.example.com")
                .jwks_url("https://b.example.com"),
            "metadata_url",
        ),
        (
            TokenValidator::builder_with_keys(second, given())
                .audience(AUDIENCE)
                .jwks_url("https://b.example.com"),
            "jwks_url",
        ),
        (
            entra(given()).tenants(["contoso.onmicrosoft.com"]),
            "tenants[0]",
        ),
        (entra(given()).tenants([ONE, ""]), "tenants[1]"),
        (
            TokenValidator::builder("https://a.example.com/{tenantid}/{tenantid}", client())
                .audience(AUDIENCE),
            "issuer",
        ),
    ] {
        assert_eq!(settings(builder.build().unwrap_err()), [expected]);
    }
    let mut faults = settings(
        TokenValidator::builder("", client())
            .issuer(added("").audience("").metadata_url("x"))
            .build()
            .unwrap_err(),
    );
    faults.sort();
    let expected = [
        "audience",
        "issuer",
        "issuer[0]",
        "issuer[0]",
        "issuer[0].audience",
        "issuer[0].metadata_url",
    ];
    assert_eq!(faults, expected);
}
