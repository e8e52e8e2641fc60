//! Challenges (`WWW-Authenticate`): what is written for a caller, and what is read of a backend.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header::WWW_AUTHENTICATE};
use rmcp::transport::streamable_http_client::{StreamableHttpClient, StreamableHttpError};
use serde_json::json;
use tower_identity::{AuthError, KeySet, TokenValidator, client::rmcp::TowerHttpClient};

use crate::{
    harness::{self, Peer, assert_names_settings, line, wait},
    key_pair::ED25519,
};

/// A realm, a resource and scopes, a line for each.
pub(crate) fn check_written(input: &[u8]) {
    let mut rest = input;
    let [realm, resource] = [line(&mut rest), line(&mut rest)];
    let (Ok(realm), Ok(resource), Ok(scopes)) = (
        std::str::from_utf8(realm),
        std::str::from_utf8(resource),
        std::str::from_utf8(rest),
    ) else {
        return;
    };
    let scopes: Vec<_> = scopes
        .split(' ')
        .filter(|scope| !scope.is_empty())
        .collect();
    let keys = json!({ "keys": [ED25519.public()] }).to_string();
    let mut validator = TokenValidator::builder_with_keys(
        "https://idp.example.com",
        KeySet::from_json(keys).unwrap(),
    )
    .audience("https://gateway.example.com")
    .realm(realm)
    .scopes(scopes.iter().copied())
    .clock(harness::clock());
    if !resource.is_empty() {
        validator = validator.resource(resource);
    }
    let validator = match validator.build() {
        Ok(validator) => validator,
        Err(error) => {
            assert_names_settings(&error);
            return;
        }
    };
    let error = wait(validator.validate("not-a-token")).unwrap_err();
    let response = error.to_response::<Bytes>();
    let challenge = &response.headers()[WWW_AUTHENTICATE];
    assert!(
        challenge
            .as_bytes()
            .iter()
            .all(|byte| (b' '..=b'~').contains(byte))
    );
    let parameters = parameters(challenge.to_str().unwrap());

    let mut expected = vec![("realm", realm.to_owned())];
    if let Some(metadata) = validator.resource_metadata() {
        expected.push(("resource_metadata", metadata.url().to_owned()));
    }
    if !scopes.is_empty() {
        expected.push(("scope", scopes.join(" ")));
    }
    expected.push(("error", "invalid_token".to_owned()));
    let (description, before) = parameters.split_last().unwrap();
    assert_eq!(description.0, "error_description");
    let before: Vec<_> = before
        .iter()
        .map(|(name, value)| (&**name, value.clone()))
        .collect();
    assert_eq!(before, expected);

    // What another of our own reads of it.
    let scope = required_scope(challenge.as_bytes());
    let wanted = (!scopes.is_empty()).then(|| scopes.join(" "));
    assert_eq!(scope, Some(wanted));
}

/// Challenges of a backend, a line for each.
pub(crate) fn check_read(input: &[u8]) {
    if let Some(Some(scope)) = required_scope(input) {
        assert!(!scope.is_empty());
        assert!(scope.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        // Without the escapes of a quoted string.
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\\', "");
        let scope = text(scope.as_bytes());
        assert!(text(input).contains(&scope), "{scope:?} of {input:?}");
    }
}

/// The parameters of one challenge, by the grammar of RFC 9110 §11.2.
pub(crate) fn parameters(challenge: &str) -> Vec<(String, String)> {
    let mut rest = challenge.strip_prefix("Bearer ").unwrap().chars();
    let mut parameters = Vec::new();
    loop {
        let name: String = rest
            .by_ref()
            .take_while(|character| *character != '=')
            .collect();
        assert!(
            name.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
            "{challenge}"
        );
        assert_eq!(rest.next(), Some('"'), "{challenge}");
        let mut value = String::new();
        loop {
            match rest.next().unwrap() {
                '"' => break,
                '\\' => value.push(rest.next().unwrap()),
                character => value.push(character),
            }
        }
        parameters.push((name, value));
        match (rest.next(), rest.next()) {
            (None, None) => return parameters,
            separator => assert_eq!(separator, (Some(','), Some(' ')), "{challenge}"),
        }
    }
}

/// What the client of an MCP session makes of a 403 with these challenges. Nothing where there is none that is text.
fn required_scope(challenges: &[u8]) -> Option<Option<String>> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::FORBIDDEN;
    for challenge in challenges.split(|byte| *byte == b'\n').take(8) {
        if let Ok(challenge) = HeaderValue::from_bytes(challenge) {
            response.headers_mut().append(WWW_AUTHENTICATE, challenge);
        }
    }
    let client = TowerHttpClient::new(Peer::new(move |_| response.clone()));
    let answer = client.delete_session(
        "https://mcp.example.com/mcp".into(),
        "session".into(),
        None,
        Default::default(),
    );
    let error = wait(answer).unwrap_err();
    assert!(
        AuthError::find_in(&error).is_none(),
        "it is the server that refuses"
    );
    match error {
        StreamableHttpError::InsufficientScope(error) => Some(error.required_scope),
        StreamableHttpError::HttpStatus(_) => None,
        error => panic!("{error:?}"),
    }
}
