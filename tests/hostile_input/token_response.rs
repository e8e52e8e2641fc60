//! What a token endpoint answers.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use http::Response;
use serde_json::{Map, Value};
use tower_identity::{
    AuthError, AuthErrorKind, ClientAuth, Secret, TokenEndpoint,
    oauth::{Lifetime, TokenRequest, TokenResponse, TokenType},
};

use crate::challenge;
use crate::harness::{self, Peer, assert_is_well_formed, assert_shows_nothing_of, shown, wait};

const URL: &str = "https://idp.example.com/token";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What may be in an answer and in an error: names that are known, and the issuer's.
const PUBLIC: [&str; 103] = [
    "the user's token is not accepted, so they have to log in again; if it happens to all users, check the parameters and the client",
    "there is no error code that is known; check the URL and the parameters, and the issuer's own log",
    "no user takes part in this grant, so check the client, its scopes and its rights at the issuer",
    "check the parameters, the audience and the resource against what the issuer supports",
    "the user may not have what was asked for; check the scopes and the audience",
    "redirects are not followed; configure the URL of the token endpoint itself",
    "check the client's id, its secret or key, and what it is allowed to do",
    "the user has to log in again, or to agree",
    "ask less often, and try again later",
    "the user has to log in again",
    "try again later",
    "issued a token that is no bearer token",
    "unmet_authentication_requirements",
    "insufficient_user_authentication",
    "incorrect_client_credentials",
    "account_selection_required",
    "token_rotation_not_enabled",
    "invalid_client_credentials",
    "https://idp.example.com",
    "temporarily_unavailable",
    "authorization_not_found",
    "invalid_client_metadata",
    "unsupported_grant_type",
    "unsupported_token_type",
    "bad_verification_code",
    "unverified_user_email",
    "redirect_uri_mismatch",
    "invalid_refresh_token",
    "admin_policy_enforced",
    "invalid_client_secret",
    "missing_client_secret",
    "internal_server_error",
    "interaction_required",
    "device_flow_disabled",
    "invalid_redirect_uri",
    "unauthorized_client",
    "deprecated_endpoint",
    "service_unavailable",
    "insufficient_scope",
    "invalid_dpop_proof",
    "invalid_grant_type",
    "resource_exhausted",
    "issued_token_type",
    "bad_refresh_token",
    "code_already_used",
    "bad_client_secret",
    "invalid_client_id",
    "invalid_arguments",
    "invalid_form_data",
    "invalid_post_type",
    "missing_post_type",
    "method_deprecated",
    "team_added_to_org",
    "deadline_exceeded",
    "missing_client_id",
    "too_many_requests",
    "too_many_attempts",
    "consent_required",
    "invalid_resource",
    "account_inactive",
    "bad_redirect_uri",
    "invalid_arg_name",
    "internal_failure",
    "refresh_token: ",
    "invalid_request",
    "invalid_charset",
    "request_timeout",
    "disabled_client",
    "gateway_timeout",
    "login_required",
    "invalid_client",
    "invalid_target",
    "use_dpop_nonce",
    "internal_error",
    "deleted_client",
    "unknown_client",
    "invalid_grant",
    "invalid_token",
    "expired_token",
    "invalid_scope",
    "access_denied",
    "token_expired",
    "token_revoked",
    "backend_error",
    "inactive_user",
    "unknown_error",
    "bad_client_id",
    "server_error",
    "mfa_required",
    "invalid_code",
    "inactive_org",
    "rate_limited",
    "fatal_error",
    "unavailable",
    "ratelimited",
    "token_type",
    "not_linked",
    "slow_down",
    "no_scopes",
    "internal",
    "E0000047",
    "E0000009",
    "timeout",
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
    assert_ne!(members.get("ok"), Some(&Value::Bool(false)));
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
    assert_code_is_plain(error);
    assert_challenge_is_bounded(error);
    let status = response.status().as_u16();
    let is_outage = matches!(status, 408 | 425 | 429 | 500..);
    match error.kind() {
        AuthErrorKind::Rejected | AuthErrorKind::InsufficientScope => {
            assert!(
                !is_outage && !response.status().is_redirection(),
                "{status}"
            );
        }
        AuthErrorKind::Configuration => assert!(!is_outage, "{status}"),
        AuthErrorKind::Unavailable => {}
        kind => panic!("{kind:?} is not documented for a token endpoint"),
    }
    if is_outage {
        assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    }
    let is_refused = matches!(
        error.kind(),
        AuthErrorKind::Rejected | AuthErrorKind::InsufficientScope
    );
    assert!(is_refused || error.interaction().is_none(), "{error:?}");
}

fn assert_code_is_plain(error: &AuthError) {
    if let Some(code) = error.oauth_error() {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        assert!((1..=64).contains(&code.len()) && code.bytes().all(is_plain));
    }
}

/// It is one challenge that can be read, whatever was in the answer.
fn assert_challenge_is_bounded(error: &AuthError) {
    let response = error.to_response::<Bytes>();
    let Some(challenge) = response.headers().get("www-authenticate") else {
        return;
    };
    let challenge = challenge.to_str().unwrap();
    assert!(challenge.len() <= 5 << 10, "{}", challenge.len());
    let mut names = HashSet::new();
    for (name, value) in challenge::parameters(challenge) {
        assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        assert!(
            [
                "error",
                "error_description",
                "scope",
                "acr_values",
                "max_age",
                "claims"
            ]
            .contains(&&*name)
        );
        assert!(names.insert(name), "{challenge}");
    }
}

/// Each answer that is documented, in all the ways in which an answer can be broken.
#[test]
fn each_documented_answer_that_is_broken_ends_in_an_error_that_shows_none_of_it() {
    let data: Value = serde_json::from_str(include_str!("../data/issuer_answers.json")).unwrap();
    for answer in data["answers"].as_array().unwrap() {
        let body = answer["body"].as_str().unwrap();
        let status = &answer["status"];
        let head = format!("{status}\ncontent-type: application/json\n\n");
        for body in broken(body) {
            let mut response = harness::answer(head.as_bytes());
            *response.body_mut() = body.into();
            // The whole of `check` takes a minute for all of them.
            if let Err(error) = refreshed(response.clone()) {
                response.headers_mut().clear();
                assert_is_honest(&error, &response);
            }
        }
        let oversized = format!("{head}{body}{}", " ".repeat(1 << 20));
        let error = refreshed(harness::answer(oversized.as_bytes())).unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable);
        assert_shows_nothing_of(body.as_bytes(), &shown(&error), &PUBLIC);
    }
}

fn refreshed(response: Response<Bytes>) -> Result<TokenResponse, AuthError> {
    let endpoint = TokenEndpoint::builder(URL, Peer::new(move |_| response.clone()))
        .build()
        .unwrap();
    wait(endpoint.request_token(TokenRequest::refresh_token("of-the-session")))
}

/// The members that are read.
const READ: [&str; 20] = [
    "access_token",
    "token_type",
    "issued_token_type",
    "expires_in",
    "expires_in_sec",
    "refresh_token",
    "id_token",
    "scope",
    "ok",
    "error",
    "errorCode",
    "error_codes",
    "error_description",
    "error_subtype",
    "suberror",
    "status",
    "code",
    "claims",
    "max_age",
    "account-link-url",
];

fn broken(body: &str) -> Vec<Vec<u8>> {
    let mut broken = Vec::new();
    for end in [0, 1, 2, body.len() / 4, body.len() / 2, body.len() - 1] {
        broken.push(body.as_bytes()[..end].to_vec());
    }
    for end in (0..body.len()).step_by(61) {
        broken.push(body.as_bytes()[..end].to_vec());
    }
    broken.push([body.as_bytes(), b"\0"].concat());
    broken.push([b"\xff\xfe", body.as_bytes()].concat());
    broken.push(body.replace('"', "\u{1}").into_bytes());
    let Ok(members) = serde_json::from_str::<Map<String, Value>>(body) else {
        return broken;
    };
    let odd = [
        Value::Null,
        (-1).into(),
        "".into(),
        "a\u{0}b\r\nset-cookie: c\u{7f}\u{2028}".into(),
        "\u{1f980}a".repeat(700).into(),
        serde_json::json!({ "invalid_grant": { "code": "invalid_grant" } }),
    ];
    let read = |name: &&String| READ.contains(&name.as_str());
    for name in members.keys().filter(read) {
        for odd in &odd {
            let mut members = members.clone();
            members[name] = odd.clone();
            broken.push(Value::from(members).to_string().into_bytes());
        }
        if !["error", "claims", "expires_in"].contains(&name.as_str()) {
            continue;
        }
        let mut deep = members.clone();
        deep[name] = "DEEP".into();
        let nested = format!("{}{}", "{\"a\":[".repeat(10_000), "]}".repeat(10_000));
        let deep = Value::from(deep).to_string().replace("\"DEEP\"", &nested);
        broken.push(deep.into_bytes());
    }
    broken
}

#[test]
fn a_step_of_the_user_that_is_written_to_be_misread_is_left_out_or_quoted() {
    for (name, value) in [
        ("claims", "{\"a\":\"\r\n\"}"),
        ("claims", "{\"a\":\"\u{1f980}\\\"\"}"),
        ("acr_values", "a\", error=\"x"),
        ("acr_values", "a  b"),
        ("scope", "a\\b \" c"),
        ("consent_url", "https://idp.example.com/\r\nx: y"),
        ("max_age", "99999999999999999999999"),
        ("max_age", "18446744073709551615"),
    ] {
        for code in [
            "insufficient_user_authentication",
            "insufficient_scope",
            "invalid_grant",
        ] {
            let mut members = Map::new();
            members.insert("error".to_owned(), code.into());
            members.insert(name.to_owned(), value.into());
            check(format!("400\n\n{}", Value::from(members)).as_bytes());
        }
    }
}
