//! What real issuers answer, held against every strategy, the refresh grant and the token endpoint itself. The answers are
//! in `tests/data/issuer_answers.json`, each with the page that documents it, and come from a real server on loopback.
#![cfg(feature = "incoming")]

mod support;

use std::{collections::BTreeSet, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, header::WWW_AUTHENTICATE};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use support::{
    issuer::{Behaviour, Issuer},
    owner,
    token_stack::{self, endpoint_builder, jwt, secret, token_for, user, user_with_id_token},
};
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, ClientAuth, ClientCredentials, CrossAppAccess, Identity,
    Interaction, MemoryStore, OnBehalfOf, Subject, TokenEndpoint, TokenExchange, UpstreamInject,
    UpstreamToken, UpstreamTokenStore, UpstreamTokens,
    oauth::{Lifetime, TokenRequest, TokenResponse, TokenType},
    upstream::{Provider, ProviderTokens, RefreshTokenGrant},
};

const USERS_TOKEN: &str = "token-of-alice-4fc2";
const CLIENT_SECRET: &str = "7Fjfp0ZBr1KtDRbnfVdmIw";
const TOKEN_VAULT: &str = "http://auth0.com/oauth/token-type/federated-connection-access-token";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Deserialize)]
struct Data {
    answers: Vec<Answer>,
}

#[derive(Clone, Debug, Deserialize)]
struct Answer {
    name: String,
    grant: String,
    status: u16,
    headers: serde_json::Map<String, Value>,
    body: String,
    expected: Value,
}

impl Answer {
    fn all() -> Vec<Self> {
        let data = include_str!("data/issuer_answers.json");
        let data: Data = serde_json::from_str(data).unwrap();
        assert!(data.answers.len() >= 198);
        data.answers
    }

    fn is_refusal(&self) -> bool {
        self.expected.get("kind").is_some()
    }

    fn behaviour(&self) -> Behaviour {
        let mut response = Response::new(Bytes::from(self.body.clone()));
        *response.status_mut() = http::StatusCode::from_u16(self.status).unwrap();
        for (name, value) in &self.headers {
            let name: HeaderName = name.parse().unwrap();
            let value: HeaderValue = value.as_str().unwrap().parse().unwrap();
            response.headers_mut().insert(name, value);
        }
        Behaviour::respond(response)
    }

    fn kind(&self) -> AuthErrorKind {
        match self.expected["kind"].as_str().unwrap() {
            "rejected" => AuthErrorKind::Rejected,
            "insufficient_scope" => AuthErrorKind::InsufficientScope,
            "configuration" => AuthErrorKind::Configuration,
            "unavailable" => AuthErrorKind::Unavailable,
            other => panic!("{other} is no kind of a refusal"),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        self.expected["retry_after"]
            .as_u64()
            .map(Duration::from_secs)
    }

    /// Panics where the error is another one than the data says.
    fn assert_is_told(&self, error: &AuthError, by: &str) {
        let name = format!("{} by {by}: {error:?}", self.name);
        assert_eq!(error.kind(), self.kind(), "{name}");
        assert_eq!(
            error.oauth_error(),
            self.expected["code"].as_str(),
            "{name}"
        );
        let interaction = error.interaction().map(as_json);
        let expected = Some(self.expected["interaction"].clone()).filter(|step| !step.is_null());
        assert_eq!(interaction, expected, "{name}");
        self.assert_shows_nothing(error);
    }

    fn assert_shows_nothing(&self, error: &AuthError) {
        let shown = format!("{error} {error:?} {error:#?}");
        let members: Value = serde_json::from_str(&self.body).unwrap_or_default();
        for name in [
            "error_description",
            "errorSummary",
            "message",
            "claims",
            "mfa_token",
        ] {
            if let Some(text) = members[name].as_str() {
                assert!(!shown.contains(text), "{name} of {} in {shown}", self.name);
            }
        }
        let response = error.to_response::<Bytes>();
        let answered = format!("{response:?}");
        for text in [USERS_TOKEN, CLIENT_SECRET, "Fe26.2", "Doorkeeper"] {
            assert!(!shown.contains(text) && !answered.contains(text), "{shown}");
        }
    }
}

fn as_json(interaction: &Interaction) -> Value {
    match interaction {
        Interaction::Login {
            acr_values,
            max_age,
            claims,
            ..
        } => json!({ "login": {
            "acr_values": acr_values,
            "max_age": max_age.map(|age| age.as_secs()),
            "claims": claims,
        } }),
        Interaction::Consent { url, .. } => json!({ "consent": url }),
        Interaction::LinkAccount { provider, .. } => json!({ "link": provider }),
        Interaction::GrantScope { scopes, .. } => json!({ "scope": scopes }),
        other => panic!("{other:?} is not known here"),
    }
}

fn endpoint(issuer: &Issuer) -> TokenEndpoint {
    endpoint_builder(issuer)
        .client_auth(ClientAuth::basic("gateway", secret(CLIENT_SECRET)))
        .build()
        .unwrap()
}

fn request(grant: &str) -> TokenRequest {
    match grant {
        "refresh_token" => TokenRequest::refresh_token(USERS_TOKEN),
        "token_exchange" => {
            TokenRequest::token_exchange().subject_token(USERS_TOKEN, TokenType::AccessToken)
        }
        "jwt_bearer" => TokenRequest::jwt_bearer().assertion(USERS_TOKEN),
        "on_behalf_of" => TokenRequest::jwt_bearer()
            .assertion(USERS_TOKEN)
            .parameter("requested_token_use", "on_behalf_of"),
        "authorization_code" => TokenRequest::authorization_code(USERS_TOKEN)
            .parameter("redirect_uri", "https://gateway.example.com/callback")
            .parameter(
                "code_verifier",
                "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            ),
        "client_credentials" => TokenRequest::client_credentials(),
        // With the `grant_type` of Auth0's own, which a strategy sends.
        "token_vault" => TokenRequest::token_exchange()
            .subject_token(USERS_TOKEN, TokenType::AccessToken)
            .requested_token_type(TokenType::of_urn(TOKEN_VAULT)),
        other => panic!("{other} is no grant"),
    }
}

fn alice() -> Identity {
    user("alice", USERS_TOKEN)
}

#[tokio::test]
async fn f40_each_documented_refusal_is_told_to_whom_it_concerns() {
    let issuer = Issuer::start().await;
    for answer in Answer::all().iter().filter(|answer| answer.is_refusal()) {
        issuer.next(answer.behaviour());
        let asked = endpoint(&issuer).request_token(request(&answer.grant));
        let error = asked.await.unwrap_err();
        answer.assert_is_told(&error, "the endpoint");
        assert_eq!(error.retry_after(), answer.retry_after(), "{}", answer.name);
    }
}

#[tokio::test]
async fn f40_each_strategy_tells_each_documented_refusal() {
    let issuer = Issuer::start().await;
    let mut seen = BTreeSet::new();
    for answer in Answer::all().iter().filter(|answer| answer.is_refusal()) {
        issuer.next(answer.behaviour());
        let error = match answer.grant.as_str() {
            "token_exchange" => {
                let strategy = TokenExchange::builder(endpoint(&issuer)).build().unwrap();
                token_for(&strategy, alice()).await
            }
            "on_behalf_of" | "jwt_bearer" => {
                let strategy = OnBehalfOf::builder(endpoint(&issuer)).scopes(["a"]);
                token_for(&strategy.build().unwrap(), alice()).await
            }
            "client_credentials" => {
                let strategy = ClientCredentials::builder(endpoint(&issuer)).build();
                token_for(&strategy.unwrap(), None).await
            }
            _ => {
                // The next one.
                let _ = endpoint(&issuer)
                    .request_token(request(&answer.grant))
                    .await;
                continue;
            }
        };
        seen.insert(answer.grant.clone());
        answer.assert_is_told(&error.unwrap_err(), "its strategy");
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

/// A JWT that is the grant of a workload is no user's, so that no login helps, whatever the issuer says.
#[tokio::test]
async fn f40_no_refusal_of_a_workloads_token_asks_a_user_to_log_in() {
    let issuer = Issuer::start().await;
    let token = jwt(&json!({}), &json!({ "exp": 4_000_000_000_u64 }));
    let mut seen = 0;
    for answer in Answer::all().iter().filter(|answer| answer.is_refusal()) {
        if !matches!(answer.grant.as_str(), "jwt_bearer" | "on_behalf_of") {
            continue;
        }
        issuer.next(answer.behaviour());
        let strategy = ClientCredentials::builder(endpoint(&issuer)).workload_token(secret(&token));
        let error = token_for(&strategy.build().unwrap(), alice())
            .await
            .unwrap_err();
        let expected = match answer.kind() {
            AuthErrorKind::Unavailable => AuthErrorKind::Unavailable,
            _ => AuthErrorKind::Configuration,
        };
        assert_eq!(error.kind(), expected, "{}: {error}", answer.name);
        assert_eq!(error.interaction(), None, "{}", answer.name);
        answer.assert_shows_nothing(&error);
        seen += 1;
    }
    assert!(seen >= 15, "{seen}");
}

#[tokio::test]
async fn f40_both_steps_of_cross_app_access_tell_each_documented_refusal() {
    let (provider, server) = (Issuer::start().await, Issuer::start().await);
    let id_token = jwt(
        &json!({ "alg": "ES256" }),
        &json!({ "iss": provider.url(), "sub": "alice" }),
    );
    let assertion = jwt(
        &json!({ "typ": "oauth-id-jag+jwt" }),
        &json!({ "iss": provider.url(), "aud": "https://auth.chat.example", "exp": 4_000_000_000_u64 }),
    );
    let asserted = json!({
        "access_token": assertion,
        "issued_token_type": TokenType::IdJag.urn(),
        "token_type": "N_A",
    });
    for answer in Answer::all().iter().filter(|answer| answer.is_refusal()) {
        match answer.grant.as_str() {
            "token_exchange" => {
                provider.next(answer.behaviour());
            }
            "jwt_bearer" | "on_behalf_of" => {
                provider.next(Behaviour::json(200, &asserted));
                server.next(answer.behaviour());
            }
            _ => continue,
        }
        let strategy = CrossAppAccess::builder("idp", endpoint(&provider), endpoint(&server))
            .audience("https://auth.chat.example")
            .build()
            .unwrap();
        let error = token_for(&strategy, user_with_id_token("alice", &id_token));
        answer.assert_is_told(&error.await.unwrap_err(), "cross-app access");
    }
}

#[tokio::test]
async fn f40_the_refresh_grant_asks_for_a_login_where_one_is_needed_and_nowhere_else() {
    let issuer = Issuer::start().await;
    for answer in Answer::all().iter().filter(|answer| answer.is_refusal()) {
        if answer.grant != "refresh_token" {
            continue;
        }
        let name = &answer.name;
        issuer.next(answer.behaviour());
        let (store, upstream) = expired_session(&issuer).await;
        let loaded = upstream.load(&owner("alice")).await.unwrap();
        assert!(loaded.tokens().is_empty(), "{name}");
        let is_kept = store
            .load(&owner("alice"))
            .await
            .unwrap()
            .contains_key("idp");
        if answer.kind() == AuthErrorKind::Rejected {
            let error = &loaded.login_required()["idp"];
            assert!(loaded.failed().is_empty() && !is_kept, "{name}");
            assert_eq!(
                error.oauth_error(),
                answer.expected["code"].as_str(),
                "{name}"
            );
            let expected = match &answer.expected["interaction"] {
                Value::Null => json!({ "link": "idp" }),
                step => step.clone(),
            };
            assert_eq!(error.interaction().map(as_json), Some(expected), "{name}");
            answer.assert_shows_nothing(error);
        } else {
            let error = &loaded.failed()["idp"];
            assert!(loaded.login_required().is_empty() && is_kept, "{name}");
            answer.assert_is_told(error, "the refresh grant");
        }
    }
}

/// A session whose access token has expired, and whose refresh token is good.
async fn expired_session(issuer: &Issuer) -> (MemoryStore, UpstreamTokens) {
    let now = token_stack::at(1_000_000_000);
    let token = UpstreamToken::new(AccessToken::new("an-access-token").unwrap())
        .with_expires_at(now - Duration::from_secs(1));
    let tokens = ProviderTokens::new(token, now - Duration::from_secs(3600))
        .with_refresh_token(secret(USERS_TOKEN));
    let store = MemoryStore::new();
    store.put(&owner("alice"), "idp", &tokens).await.unwrap();
    let idp = Provider::builder("idp", RefreshTokenGrant::new(endpoint(issuer)))
        .build()
        .unwrap();
    let clock = token_stack::clock();
    clock.advance(Duration::from_secs(1_000_000_000));
    let upstream = UpstreamTokens::new(store.clone(), [idp]).clock(clock);
    (store, upstream)
}

#[tokio::test]
async fn a_byte_order_mark_before_an_answer_is_ignored() {
    let issuer = Issuer::start().await;
    let json = |status, body: &Value| {
        let body = format!("\u{feff}{body}");
        Behaviour::body(status, body)
    };
    issuer.next(json(
        200,
        &json!({ "access_token": "minted", "token_type": "Bearer", "expires_in": 60,
            "issued_token_type": TokenType::AccessToken.urn() }),
    ));
    let issued = endpoint(&issuer).request_token(request("token_exchange"));
    assert_eq!(issued.await.unwrap().token().expose(), "minted");
    issuer.next(json(400, &json!({ "error": "invalid_grant" })));
    let refused = endpoint(&issuer).request_token(request("token_exchange"));
    let error = refused.await.unwrap_err();
    assert_eq!(error.oauth_error(), Some("invalid_grant"));
}

#[tokio::test]
async fn each_documented_success_is_a_token_or_an_error_that_says_why_it_is_none() {
    let issuer = Issuer::start().await;
    let mut refused = BTreeSet::new();
    for answer in Answer::all().iter().filter(|answer| !answer.is_refusal()) {
        let (name, expected) = (&answer.name, &answer.expected);
        let is_assertion = expected["token_type_of_issuer"] == "N_A";
        issuer.next(answer.behaviour());
        let asked = request(&answer.grant);
        if is_assertion {
            let asked = asked.requested_token_type(TokenType::IdJag);
            let issued = endpoint(&issuer).request_assertion(asked).await.unwrap();
            assert_eq!(issued.token().expose(), expected["token"]);
            assert_is_lifetime(issued.lifetime(), expected, name);
            continue;
        }
        match endpoint(&issuer).request_token(asked).await {
            Ok(issued) => assert_is_issued(&issued, expected, name),
            Err(error) => {
                assert_eq!(error.kind(), AuthErrorKind::Unavailable, "{name}: {error}");
                refused.insert(name.clone());
                answer.assert_shows_nothing(&error);
            }
        }
    }
    // No bearer token by what they say: another type or none, no token, or a form.
    let expected = [
        "atlassian_refresh_without_token_type",
        "github_app_refresh_form_encoded",
        "google_service_account_id_token_only",
        "keycloak_exchange_for_external_token",
        "linkedin_code_without_token_type",
        "linkedin_refresh_without_token_type",
        "slack_bot_token_refresh",
        "slack_code_with_user_token_nested",
        "slack_user_token_refresh",
    ];
    assert_eq!(refused, expected.map(str::to_owned).into());
}

fn assert_is_issued(issued: &TokenResponse, expected: &Value, name: &str) {
    assert_eq!(issued.token().expose(), expected["token"], "{name}");
    let refresh_token = issued.refresh_token().map(|token| token.expose());
    assert_eq!(refresh_token, expected["refresh_token"].as_str(), "{name}");
    assert_is_lifetime(issued.lifetime(), expected, name);
}

fn assert_is_lifetime(lifetime: Lifetime, expected: &Value, name: &str) {
    let expected = match &expected["lifetime"] {
        Value::String(text) if text == "unknown" => Lifetime::Unknown,
        Value::String(text) if text == "spent" => Lifetime::Spent,
        seconds => Lifetime::For(Duration::from_secs(seconds.as_u64().unwrap()).min(DAY)),
    };
    assert_eq!(lifetime, expected, "{name}");
}

#[tokio::test]
async fn f41_the_challenge_tells_the_caller_which_login_is_needed() {
    let issuer = Issuer::start().await;
    for (body, expected) in [
        (
            json!({ "error": "insufficient_user_authentication", "acr_values": "urn:a urn:b", "max_age": 300 }),
            r#"Bearer error="insufficient_user_authentication", error_description="log in again, as the challenge says", acr_values="urn:a urn:b", max_age="300""#.to_owned(),
        ),
        (
            json!({ "error": "invalid_grant", "claims": r#"{"access_token":{"a":1}}"# }),
            format!(
                r#"Bearer error="insufficient_claims", error_description="log in again, as the challenge says", claims="{}""#,
                STANDARD.encode(r#"{"access_token":{"a":1}}"#)
            ),
        ),
        (
            json!({ "error": "login_required" }),
            r#"Bearer error="invalid_token", error_description="log in again""#.to_owned(),
        ),
        (
            json!({ "error": "insufficient_scope", "scope": "mail.read mail.send" }),
            r#"Bearer error="insufficient_scope", error_description="the credential does not allow this", scope="mail.read mail.send""#.to_owned(),
        ),
        // What is not understood is left out.
        (
            json!({
                "error": "insufficient_user_authentication",
                "acr_values": "two\r\nlines",
                "max_age": -5,
                "claims": "not JSON",
            }),
            r#"Bearer error="invalid_token", error_description="log in again""#.to_owned(),
        ),
    ] {
        issuer.next(Behaviour::json(400, &body));
        let strategy = TokenExchange::builder(endpoint(&issuer)).build().unwrap();
        let error = token_for(&strategy, alice()).await.unwrap_err();
        let response = error.to_response::<Bytes>();
        assert_eq!(response.headers()[WWW_AUTHENTICATE], expected, "{body}");
    }
}

#[tokio::test]
async fn f41_a_consent_url_is_https_and_short_and_is_never_opened() {
    let issuer = Issuer::start().await;
    let stranger = Issuer::start().await;
    let long = format!("https://idp.example.com/{}", "a".repeat(2048));
    for (url, is_taken) in [
        ("https://idp.example.com/consent?nonce=1&hash=2", true),
        ("HTTPS://idp.example.com/consent", true),
        (&stranger.url(), false),
        ("http://idp.example.com/consent", false),
        ("javascript:alert(1)", false),
        ("https:///consent", false),
        ("https://", false),
        ("//idp.example.com/consent", false),
        ("https://user:pass@idp.example.com/", false),
        ("https://idp.example.com/a b", false),
        ("https://idp.example.com/\"><script>", false),
        ("https://idp.example.com/\r\nx: y", false),
        (&long, false),
    ] {
        for name in ["account-link-url", "consent_url", "authorization_uri"] {
            let body = json!({ "error": "interaction_required", name: url });
            issuer.next(Behaviour::json(400, &body));
            let asked = endpoint(&issuer).request_token(request("token_exchange"));
            let error = asked.await.unwrap_err();
            let found = match error.interaction().unwrap() {
                Interaction::Consent { url, .. } => url.clone(),
                Interaction::Login { .. } => None,
                other => panic!("{other:?}"),
            };
            assert_eq!(found.as_deref(), is_taken.then_some(url));
            let response = format!("{:?}", error.to_response::<Bytes>());
            assert!(!response.contains(url) && !format!("{error:?}").contains(url));
        }
    }
    assert!(stranger.requests().is_empty());
}

#[tokio::test]
async fn f40_a_code_of_ones_own_is_added_to_the_table_or_wins_over_it() {
    let issuer = Issuer::start().await;
    let endpoint = endpoint_builder(&issuer)
        .refusal("outside_working_hours", AuthErrorKind::Unavailable)
        .refusal("Access Denied", AuthErrorKind::InsufficientScope)
        .refusal("invalid_grant", AuthErrorKind::Rejected)
        .refusal("invalid_grant", AuthErrorKind::Configuration)
        .build()
        .unwrap();
    for (status, code, kind) in [
        (400, "outside_working_hours", AuthErrorKind::Unavailable),
        (200, "Access Denied", AuthErrorKind::InsufficientScope),
        (400, "invalid_grant", AuthErrorKind::Configuration),
        (500, "invalid_grant", AuthErrorKind::Configuration),
        (429, "invalid_grant", AuthErrorKind::Unavailable),
        (400, "Outside_Working_Hours", AuthErrorKind::Rejected),
    ] {
        let refused = Behaviour::error(status, code).header("retry-after", "7");
        issuer.next(refused);
        let error = endpoint.request_token(request("refresh_token")).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), kind, "{status} {code}");
        let is_passing = kind == AuthErrorKind::Unavailable;
        let retry_after = is_passing.then_some(Duration::from_secs(7));
        assert_eq!(error.retry_after(), retry_after);
        // An issuer's own code is for programs.
        assert!(!error.to_string().to_ascii_lowercase().contains("outside"));
    }
}

#[tokio::test]
async fn a_row_of_refusals_that_cannot_be_is_refused_when_the_endpoint_is_built() {
    let issuer = Issuer::start().await;
    let long = "a".repeat(129);
    for (code, kind) in [
        ("", AuthErrorKind::Rejected),
        ("two\nlines", AuthErrorKind::Rejected),
        ("quo\"te", AuthErrorKind::Rejected),
        (&long, AuthErrorKind::Rejected),
        ("invalid_grant", AuthErrorKind::MissingIdentity),
        ("invalid_grant", AuthErrorKind::WrongOrigin),
        ("invalid_grant", AuthErrorKind::PayloadTooLarge),
    ] {
        let built = endpoint_builder(&issuer).refusal(code, kind).build();
        let error = built.unwrap_err();
        assert!(error.to_string().contains("refusal"), "{error}");
    }
}

#[tokio::test]
async fn f40_a_limit_in_any_words_passes() {
    let issuer = Issuer::start().await;
    for code in [
        "slow_down",
        "ratelimited",
        "rate_limited",
        "RateLimitExceeded",
        "rate-limit-exceeded",
        "too_many_requests",
        "TOO_MANY_REQUESTS",
        "too_many_attempts",
        "TooManyRequestsException",
        "ThrottlingException",
        "request_throttled",
        "quota_exceeded",
        "Access Denied",
    ] {
        for status in [200, 400] {
            for grant in ["refresh_token", "token_exchange", "client_credentials"] {
                let refused = Behaviour::error(status, code).header("retry-after", "7");
                issuer.next(refused);
                let error = endpoint(&issuer).request_token(request(grant)).await;
                let error = error.unwrap_err();
                assert_eq!(error.kind(), AuthErrorKind::Unavailable, "{code}");
                assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
            }
        }
    }
    for body in [
        json!({ "error": { "code": "rate_limit_exceeded", "message": "x" } }),
        json!({ "error": { "type": "too_many_requests" } }),
        json!({ "error": { "code": 400, "status": "RESOURCE_EXHAUSTED" } }),
    ] {
        issuer.next(Behaviour::json(400, &body));
        let error = endpoint(&issuer).request_token(request("token_exchange"));
        let kind = error.await.unwrap_err().kind();
        assert_eq!(kind, AuthErrorKind::Unavailable, "{body}");
    }
}

#[tokio::test]
async fn f40_what_no_row_knows_is_the_users_where_their_token_was_presented() {
    use AuthErrorKind::{Configuration, Rejected, Unavailable};

    let issuer = Issuer::start().await;
    for (status, users, clients) in [
        (200, Rejected, Configuration),
        (400, Rejected, Configuration),
        (401, Rejected, Configuration),
        (403, Rejected, Configuration),
        (422, Rejected, Configuration),
        // There is no token endpoint here, or none for a form.
        (404, Configuration, Configuration),
        (405, Configuration, Configuration),
        (410, Configuration, Configuration),
        (415, Configuration, Configuration),
        (408, Unavailable, Unavailable),
        (500, Unavailable, Unavailable),
        (503, Unavailable, Unavailable),
    ] {
        for (grant, kind) in [
            ("refresh_token", users),
            ("token_exchange", users),
            ("jwt_bearer", users),
            ("on_behalf_of", users),
            ("authorization_code", users),
            ("client_credentials", clients),
        ] {
            issuer.next(Behaviour::error(status, "never_heard_of"));
            let error = endpoint(&issuer).request_token(request(grant)).await;
            let error = error.unwrap_err();
            assert_eq!(error.kind(), kind, "{status} {grant}");
            assert_eq!(error.oauth_error(), Some("never_heard_of"));
            assert!(!error.to_string().contains("never_heard_of"), "{error}");
        }
    }
}

#[tokio::test]
async fn an_error_code_that_a_program_may_read_is_short_plain_and_no_secret() {
    let issuer = Issuer::start().await;
    let longest = "a".repeat(64);
    let too_long = "a".repeat(65);
    for (code, is_read) in [
        ("Custom.code-1_x", true),
        (&longest, true),
        (&too_long, false),
        ("two words", false),
        ("line\nbreak", false),
        ("ümlaut", false),
        ("<script>", false),
        (USERS_TOKEN, false),
        (CLIENT_SECRET, false),
        (&USERS_TOKEN[3..14], false),
        ("mfa-token-77", false),
    ] {
        let body = json!({ "error": code, "mfa_token": "mfa-token-77" });
        issuer.next(Behaviour::json(400, &body));
        let error = endpoint(&issuer).request_token(request("refresh_token"));
        let error = error.await.unwrap_err();
        assert_eq!(error.oauth_error(), is_read.then_some(code));
    }
}

/// What `expires_in` may be that is no lifetime.
const NO_LIFETIMES: [&str; 8] = ["0", "null", "\"\"", "-1", "0.4", "\"soon\"", "[]", "{}"];

#[tokio::test]
async fn f43_a_token_without_a_lifetime_is_sent_now_and_not_kept_whoever_asked_for_it() {
    let issuer = Issuer::start().await;
    for expires_in in NO_LIFETIMES {
        let token = |number: usize| {
            let body = format!(
                r#"{{"access_token":"token-{number}","token_type":"Bearer","expires_in":{expires_in},
                    "issued_token_type":"{}","refresh_token":"refresh-token-{number}"}}"#,
                TokenType::AccessToken.urn()
            );
            Behaviour::body(200, body)
        };
        let exchange = TokenExchange::builder(endpoint(&issuer)).build().unwrap();
        let behalf = OnBehalfOf::builder(endpoint(&issuer)).scopes(["a"]);
        let behalf = behalf.build().unwrap();
        let client = ClientCredentials::builder(endpoint(&issuer))
            .build()
            .unwrap();
        for number in [1, 2] {
            let expected = format!("token-{number}");
            issuer.next(token(number));
            assert_eq!(token_for(&exchange, alice()).await.unwrap(), expected);
            issuer.next(token(number));
            assert_eq!(token_for(&behalf, alice()).await.unwrap(), expected);
            issuer.next(token(number));
            assert_eq!(token_for(&client, None).await.unwrap(), expected);
        }

        // The refresh grant: what it brings is sent, as it is and in exchange for another.
        let (_, upstream) = expired_session(&issuer).await;
        for number in [1, 2] {
            issuer.next(token(number));
            let mut tokens = upstream.load(&owner("alice")).await.unwrap().into_tokens();
            let idp = tokens.remove("idp").unwrap();
            let identity = Identity::builder("alice").upstream("idp", idp);
            let identity = identity.build().unwrap();
            let clock = token_stack::clock();
            clock.advance(Duration::from_secs(1_000_000_000));
            let inject = UpstreamInject::new("idp").unwrap().clock(clock.clone());
            let sent = token_for(&inject, identity.clone()).await.unwrap();
            assert_eq!(sent, format!("token-{number}"), "{expires_in}");

            issuer.next(token(7));
            let exchange = TokenExchange::builder(endpoint(&issuer))
                .subject(Subject::upstream("idp"))
                .clock(clock)
                .build()
                .unwrap();
            assert_eq!(token_for(&exchange, identity).await.unwrap(), "token-7");
        }
    }
}

/// The parameters of a challenge, as RFC 9110 §11.6.1 has them. Panics where it is none.
fn parameters(challenge: &str) -> Vec<(String, String)> {
    let mut rest = challenge.strip_prefix("Bearer ").unwrap();
    let mut parameters = Vec::new();
    loop {
        let (name, quoted) = rest.split_once("=\"").unwrap();
        assert!(
            name.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        );
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        let end = loop {
            match characters.next().unwrap() {
                (end, '"') => break end,
                (_, '\\') => value.push(characters.next().unwrap().1),
                (_, character) => value.push(character),
            }
        };
        parameters.push((name.to_owned(), value));
        match &quoted[end + 1..] {
            "" => return parameters,
            more => rest = more.strip_prefix(", ").unwrap(),
        }
    }
}

fn odd_text() -> impl proptest::strategy::Strategy<Value = String> {
    prop_oneof![
        ".{0,20}",
        "[ -~]{0,40}",
        "[a-z:\"\\\\ ,=]{0,30}",
        "[a-z]{500,600}",
        Just(USERS_TOKEN.to_owned()),
        Just(format!("urn:x {CLIENT_SECRET}")),
        Just(format!(r#"{{"a":"{USERS_TOKEN}"}}"#)),
        "[a-z\\r\\n]{0,9}".prop_map(|text| json!({ "access_token": text }).to_string()),
    ]
}

proptest! {
    #[test]
    fn f41_whatever_an_issuer_says_the_challenge_is_one_and_shows_no_secret(
        texts in prop::array::uniform5(odd_text()),
        max_age in any::<i64>(),
        code in prop::sample::select(vec![
            "invalid_grant",
            "interaction_required",
            "insufficient_user_authentication",
            "insufficient_scope",
            "consent_required",
        ]),
    ) {
        let [acr_values, claims, scope, url, description] = texts;
        let body = json!({
            "error": code,
            "error_description": description,
            "acr_values": acr_values,
            "max_age": max_age,
            "claims": claims,
            "scope": scope,
            "consent_url": format!("https://{url}"),
        });
        let client = tower::service_fn(move |_: http::Request<token_stack::Body>| {
            let mut response = Response::new(token_stack::Body::from(body.to_string()));
            *response.status_mut() = http::StatusCode::BAD_REQUEST;
            async { Ok::<_, std::convert::Infallible>(response) }
        });
        let endpoint = TokenEndpoint::builder("https://idp.example.com/token", client)
            .client_auth(ClientAuth::basic("gateway", secret(CLIENT_SECRET)))
            .build()
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().build().unwrap();
        let asked = endpoint.request_token(request("token_exchange"));
        let error = runtime.block_on(asked).unwrap_err();

        let response = error.to_response::<Bytes>();
        let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap();
        prop_assert!(challenge.len() < 5_000 && !challenge.chars().any(char::is_control));
        let mut names = BTreeSet::new();
        for (name, value) in parameters(challenge) {
            if name == "claims" {
                let claims = STANDARD.decode(value).unwrap();
                let claims: Value = serde_json::from_slice(&claims).unwrap();
                prop_assert!(claims.is_object());
            }
            prop_assert!(names.insert(name), "{}", challenge);
        }
        let shown = format!("{error} {error:?} {response:?} {:?}", error.interaction());
        for secret in [USERS_TOKEN, CLIENT_SECRET] {
            prop_assert!(!shown.contains(secret), "{}", shown);
            prop_assert!(!shown.contains(&STANDARD.encode(secret)), "{}", shown);
        }
        if let Some(Interaction::Consent { url: Some(url), .. }) = error.interaction() {
            prop_assert!(url.starts_with("https://") && url.len() <= 2048);
            prop_assert!(url.bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }
}
