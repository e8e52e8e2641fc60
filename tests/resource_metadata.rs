//! What a backend says about the tokens that it accepts, and what is refused of it.
#![cfg(feature = "token-exchange")]

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header::WWW_AUTHENTICATE};
use http_body_util::Full;
use serde_json::{Value, json};
use tower_identity::{AuthError, AuthErrorKind, oauth::ResourceMetadata};

const URL: &str = "https://mcp.example.com/v1/mcp";
const AT_PATH: &str = "https://mcp.example.com/.well-known/oauth-protected-resource/v1/mcp";
const AT_ROOT: &str = "https://mcp.example.com/.well-known/oauth-protected-resource";

/// The result for a backend with these documents, and the URLs that were asked for.
async fn fetch(
    challenge: &str,
    documents: &[(&str, u16, &str)],
) -> (Result<ResourceMetadata, AuthError>, Vec<String>) {
    let documents: Vec<_> = documents
        .iter()
        .map(|(url, status, body)| ((*url).to_owned(), *status, (*body).to_owned()))
        .collect();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let arrived = Arc::clone(&asked);
    let client = tower::service_fn(move |request: Request<Full<Bytes>>| {
        let url = request.uri().to_string();
        let document = documents.iter().find(|(at, ..)| *at == url);
        let (status, body) = document.map_or((404, String::new()), |(_, status, body)| {
            (*status, body.clone())
        });
        arrived.lock().unwrap().push(url);
        let response = Response::builder().status(status);
        let response = response.body(Full::<Bytes>::from(body)).unwrap();
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let mut refusal = HeaderMap::new();
    if !challenge.is_empty() {
        refusal.insert(WWW_AUTHENTICATE, HeaderValue::from_str(challenge).unwrap());
    }
    let metadata = ResourceMetadata::fetch(URL, &refusal, client).await;
    let asked = asked.lock().unwrap().clone();
    (metadata, asked)
}

fn document(resource: &Value) -> String {
    json!({
        "resource": resource,
        "authorization_servers": [
            "https://idp.example.com", 7, "http://127.0.0.1:9200", "http://idp.example.com", "https://other.example.com",
        ],
        "scopes_supported": ["read", "write"],
    })
    .to_string()
}

#[tokio::test]
async fn the_metadata_is_found_at_the_well_known_places_the_more_exact_one_first() {
    let (exact, origin) = (
        document(&json!(URL)),
        document(&json!("https://mcp.example.com")),
    );
    for (documents, resource, expected) in [
        (
            &[(AT_PATH, 200, &*exact), (AT_ROOT, 200, &*origin)][..],
            URL,
            &[AT_PATH][..],
        ),
        (
            &[(AT_ROOT, 200, &*origin)],
            "https://mcp.example.com",
            &[AT_PATH, AT_ROOT],
        ),
    ] {
        let (metadata, asked) = fetch("", documents).await;
        let metadata = metadata.unwrap();
        assert_eq!(metadata.resource(), resource);
        assert_eq!(
            metadata.authorization_servers(),
            ["https://idp.example.com", "https://other.example.com"]
        );
        assert_eq!(metadata.scopes(), ["read", "write"]);
        assert_eq!(asked, expected);
    }
}

#[tokio::test]
async fn a_challenge_names_the_place_and_the_scopes() {
    const PLACE: &str = "https://mcp.example.com/custom.json";
    let challenge = format!(r#"Bearer resource_metadata="{PLACE}", scope="read""#);
    let (metadata, asked) = fetch(&challenge, &[(PLACE, 200, &document(&json!(URL)))]).await;
    assert_eq!(metadata.unwrap().scopes(), ["read"]);
    assert_eq!(asked, [PLACE]);
}

#[tokio::test]
async fn a_place_on_another_origin_is_not_asked() {
    for place in [
        "https://evil.example.com/custom.json",
        "https://mcp.example.com:8443/custom.json",
        "http://mcp.example.com/custom.json",
        "https://user@mcp.example.com/custom.json",
        "http://169.254.169.254/latest",
        "/custom.json",
    ] {
        let challenge = format!(r#"Bearer resource_metadata="{place}""#);
        let (metadata, asked) = fetch(&challenge, &[]).await;
        assert_eq!(metadata.unwrap_err().kind(), AuthErrorKind::Unavailable);
        assert!(asked.is_empty(), "{asked:?}");
    }
}

#[tokio::test]
async fn the_resource_is_the_backend_or_a_parent_of_it() {
    for resource in [
        URL,
        "https://mcp.example.com/v1/mcp/",
        "https://mcp.example.com/v1",
        "https://mcp.example.com/",
        "https://mcp.example.com",
        "https://MCP.example.com:443",
    ] {
        let (metadata, _) = fetch("", &[(AT_PATH, 200, &document(&json!(resource)))]).await;
        assert_eq!(metadata.unwrap().resource(), resource);
    }
    for resource in [
        json!("https://evil.example.com/v1/mcp"),
        json!("https://mcp.example.com.evil.example.com/v1/mcp"),
        json!("https://mcp.example.com@evil.example.com/v1/mcp"),
        json!("https://user@mcp.example.com/v1/mcp"),
        json!("https://mcp.example.com:8443/v1/mcp"),
        json!("http://mcp.example.com/v1/mcp"),
        json!("https://mcp.example.com/v1/mcp/other"),
        json!("https://mcp.example.com/v1/m"),
        json!("https://mcp.example.com/V1/mcp"),
        json!("https://mcp.example.com/v1/mcp#other"),
        json!("https://mcp.example.com/v1/mcp?tenant=other"),
        json!("mcp"),
        json!(""),
        json!(7),
        json!([URL]),
        json!(null),
    ] {
        let (metadata, _) = fetch("", &[(AT_PATH, 200, &document(&resource))]).await;
        let error = metadata.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable, "{resource}");
        assert!(error.to_string().contains("another resource"), "{error}");
        assert!(!error.to_string().contains("evil"), "{error}");
    }
}

#[tokio::test]
async fn a_backend_without_usable_metadata_is_a_typed_error_that_repeats_none_of_it() {
    let deep = "[".repeat(100_000);
    let large = format!("{{\"secret-text\": \"{}\"}}", "a".repeat(2 << 20));
    for (status, body) in [
        (404, ""),
        (401, "secret-text"),
        (302, ""),
        (500, "secret-text"),
        (200, ""),
        (200, "secret-text"),
        (200, "[\"secret-text\"]"),
        (200, &deep),
        (200, &large),
    ] {
        let (metadata, _) = fetch("", &[(AT_PATH, status, body)]).await;
        let error = metadata.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable, "{status}");
        assert!(
            !format!("{error} {error:?}").contains("secret-text"),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn the_url_of_the_backend_is_https_or_loopback() {
    for url in ["http://mcp.example.com/mcp", "mcp", "ftp://mcp.example.com"] {
        let client = tower::service_fn(async |_: Request<Full<Bytes>>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        });
        let error = ResourceMetadata::fetch(url, &HeaderMap::new(), client).await;
        assert_eq!(error.unwrap_err().kind(), AuthErrorKind::Configuration);
    }
}
