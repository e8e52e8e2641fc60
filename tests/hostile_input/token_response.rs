//! What a token endpoint answers.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use serde_json::{Map, Value};
use tower_identity::{
    AuthError, AuthErrorKind, ClientAuth, Secret, TokenEndpoint,
    oauth::{Lifetime, TokenRequest, TokenType},
};

use crate::harness::{self, Peer, assert_is_well_formed, assert_shows_nothing_of, shown, wait};

const URL: &str = "https://idp.example.com/token";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What may be in an answer and in an error: names that are known, and the issuer's.
const PUBLIC: [&str; 24] = [
    "issued_token_type",
    "token_type",
    "https://idp.example.com",
    "refresh_token: ",
    "invalid_grant",
    "invalid_token",
    "expired_token",
    "login_required",
    "interaction_required",
    "consent_required",
    "invalid_scope",
    "insufficient_scope",
    "access_denied",
    "invalid_client",
    "unauthorized_client",
    "invalid_request",
    "unsupported_grant_type",
    "invalid_target",
    "invalid_resource",
    "invalid_dpop_proof",
    "use_dpop_nonce",
    "server_error",
    "temporarily_unavailable",
    "slow_down",
];

pub(crate) fn check(input: &[u8]) {
    let response = harness::answer(input);
    let answers = response.clone();
    let endpoint = TokenEndpoint::builder(URL, Peer::new(move |_| answers.clone()))
        .client_auth(ClientAuth::basic(
            "gateway",
            Secret::new("7Fjfp0ZBr1KtDRbnfVdmIw").unwrap(),
        ))
        .clock(harness::clock())
        .build()
        .unwrap();

    let exchange =
        TokenRequest::token_exchange().subject_token("of-the-user", TokenType::AccessToken);
    let refresh = TokenRequest::refresh_token("of-the-session");
    for (request, is_exchange) in [(exchange.clone(), true), (refresh, false)] {
        match wait(endpoint.request_token(request)) {
            Ok(issued) => {
                let members = success(&response);
                let token = issued.token().expose();
                assert!(text(&members, "token_type").eq_ignore_ascii_case("bearer"));
                assert_eq!(token, text(&members, "access_token"));
                assert_can_be_issued(text(&members, "issued_token_type"), is_exchange);

                let authorization = issued.token().authorization();
                assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
                assert!(authorization.is_sensitive());
                assert_eq!(authorization.to_str().unwrap(), format!("Bearer {token}"));
                assert_is_bounded(issued.lifetime(), members.get("expires_in"));
                assert_shows_nothing_of(
                    response.body(),
                    &format!("{issued:?} {issued:#?}"),
                    &PUBLIC,
                );
            }
            Err(error) => assert_is_honest(&error, &response),
        }
    }

    let assertion = exchange.requested_token_type(TokenType::IdJag);
    match wait(endpoint.request_assertion(assertion)) {
        Ok(issued) => {
            let members = success(&response);
            assert!(text(&members, "token_type").eq_ignore_ascii_case("n_a"));
            assert_eq!(
                text(&members, "issued_token_type"),
                "urn:ietf:params:oauth:token-type:id-jag"
            );
            assert_eq!(issued.token().expose(), text(&members, "access_token"));
            assert_is_bounded(issued.lifetime(), members.get("expires_in"));
            assert_shows_nothing_of(response.body(), &format!("{issued:?} {issued:#?}"), &PUBLIC);
        }
        Err(error) => assert_is_honest(&error, &response),
    }
}

/// The members of an answer that may be taken for a success.
fn success(response: &Response<Bytes>) -> Map<String, Value> {
    assert!(response.status().is_success());
    if let Some(content_type) = response.headers().get("content-type") {
        let content_type = content_type.as_bytes().to_ascii_lowercase();
        assert!(content_type.windows(4).any(|part| part == b"json"));
    }
    let members: Map<_, _> = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(text(&members, "error"), "", "an error is no success");
    members
}

fn text<'a>(members: &'a Map<String, Value>, name: &str) -> &'a str {
    members
        .get(name)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn assert_can_be_issued(token_type: &str, is_exchange: bool) {
    match token_type {
        "urn:ietf:params:oauth:token-type:access_token"
        | "urn:ietf:params:oauth:token-type:jwt" => {}
        other => assert!(other.is_empty() && !is_exchange, "{other}"),
    }
}

fn assert_is_bounded(lifetime: Lifetime, expires_in: Option<&Value>) {
    match lifetime {
        Lifetime::Unknown => assert_eq!(expires_in, None),
        Lifetime::Spent => assert!(expires_in.is_some()),
        Lifetime::For(lifetime) => {
            assert!((Duration::from_secs(1)..=DAY).contains(&lifetime));
            assert_eq!(lifetime.subsec_nanos(), 0);
        }
    }
}

fn assert_is_honest(error: &AuthError, response: &Response<Bytes>) {
    assert_is_well_formed(error);
    assert_shows_nothing_of(response.body(), &shown(error), &PUBLIC);
    for value in response.headers().values() {
        assert_shows_nothing_of(value.as_bytes(), &shown(error), &PUBLIC);
    }
    let code = serde_json::from_slice::<Map<_, _>>(response.body());
    let code = code.map(|members| text(&members, "error").to_owned());
    let has_code = code.as_ref().is_ok_and(|code| !code.is_empty());
    let is_known = code.is_ok_and(|code| PUBLIC.contains(&&*code));
    let status = response.status();
    match error.kind() {
        AuthErrorKind::Rejected | AuthErrorKind::InsufficientScope => {
            assert!(is_known && status != 429);
        }
        AuthErrorKind::Configuration => assert!(has_code || !status.is_success()),
        AuthErrorKind::Unavailable => {
            let is_outage = matches!(status.as_u16(), 408 | 425 | 429 | 500..);
            assert!(is_known || is_outage || status.is_success());
        }
        kind => panic!("{kind:?} is not documented for a token endpoint"),
    }
    if status.is_server_error() && !is_known {
        assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    }
}
