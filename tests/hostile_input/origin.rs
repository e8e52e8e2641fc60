//! A text as an origin, as a token, and as the URL of an endpoint.

use http::Uri;
use tower_identity::{AccessToken, Origin, Secret, TokenEndpoint};

use crate::harness::{Peer, assert_names_settings, assert_shows_nothing_of, shown};

pub(crate) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    match Origin::insecure(text) {
        Ok(origin) => {
            assert_is_canonical(&origin);
            let (_, authority) = text.split_once("://").unwrap();
            let authority = authority.strip_suffix('/').unwrap_or(authority);
            assert!(
                !authority.contains(['@', '/', '?', '#', '\\']),
                "it has more: {text}"
            );
            assert_eq!(Origin::insecure(&origin.to_string()), Ok(origin.clone()));
            assert_eq!(
                Origin::try_from(text).is_ok(),
                is_confidential(&origin),
                "{text}"
            );
            let uri: Uri = text.parse().unwrap();
            assert_eq!(Origin::try_from(uri).ok(), Origin::try_from(text).ok());
        }
        Err(error) => {
            assert_shows_nothing_of(input, &shown(&error), &["https://mcp.example.com"]);
            assert!(Origin::try_from(text).is_err(), "it is stricter");
        }
    }
    check_endpoint(text);
    check_token(text);
}

fn assert_is_canonical(origin: &Origin) {
    let text = origin.to_string();
    assert!(["http", "https"].contains(&origin.scheme()));
    assert!(origin.port() != 0);
    let host = origin.host();
    assert!(
        !host.is_empty() && host == host.to_ascii_lowercase(),
        "{host}"
    );
    assert!(!host.contains(['@', '/', '?', '#', ' ', '\\']), "{host}");
    let default = if origin.scheme() == "https" { 443 } else { 80 };
    let port = match origin.port() {
        port if port == default => String::new(),
        port => format!(":{port}"),
    };
    assert_eq!(text, format!("{}://{host}{port}", origin.scheme()));
}

fn is_confidential(origin: &Origin) -> bool {
    let host = origin.host().trim_matches(['[', ']']);
    let address = host.parse::<std::net::IpAddr>();
    origin.scheme() == "https"
        || host == "localhost"
        || address.is_ok_and(|address| address.is_loopback())
}

fn check_endpoint(url: &str) {
    let peer = Peer::new(|_| http::Response::default());
    match TokenEndpoint::builder(url, peer).build() {
        Ok(endpoint) => {
            let uri = endpoint.uri();
            let origin = format!(
                "{}://{}",
                uri.scheme_str().unwrap(),
                uri.authority().unwrap()
            );
            assert!(is_confidential(&Origin::try_from(origin).unwrap()));
            assert!(!url.contains('#'));
        }
        Err(error) => {
            assert_names_settings(&error);
            assert_shows_nothing_of(
                url.as_bytes(),
                &shown(&error),
                &["https://idp.example.com/token", "https://mcp.example.com"],
            );
        }
    }
}

fn check_token(text: &str) {
    let is_token = !text.is_empty() && text.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
    match AccessToken::new(text) {
        Ok(token) => {
            assert!(is_token);
            assert_eq!(token.expose(), text);
            assert_eq!(
                token.authorization().as_bytes(),
                format!("Bearer {text}").as_bytes()
            );
            assert!(token.authorization().is_sensitive());
            assert_shows_nothing_of(
                text.as_bytes(),
                &format!("{token:?}"),
                &["AccessToken([redacted])"],
            );
        }
        Err(error) => {
            assert!(!is_token);
            assert_shows_nothing_of(text.as_bytes(), &shown(&error), &[]);
        }
    }
    assert_eq!(Secret::new(text).is_ok(), !text.is_empty());
}
