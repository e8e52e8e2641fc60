//! What is an origin, and what is not.

use http::Uri;
use proptest::prelude::*;
use tower_identity::{InvalidOrigin, Origin};

#[test]
fn default_ports_and_case_do_not_matter() {
    let origin = Origin::try_from("https://mcp.example.com").unwrap();
    for same in [
        "https://mcp.example.com:443",
        "HTTPS://MCP.Example.COM",
        "https://mcp.example.com/",
    ] {
        assert_eq!(Origin::try_from(same).unwrap(), origin, "{same}");
    }
    assert_eq!(
        (origin.scheme(), origin.host(), origin.port()),
        ("https", "mcp.example.com", 443)
    );
    assert_eq!(
        Origin::try_from("http://localhost:80").unwrap().to_string(),
        "http://localhost"
    );
    assert_eq!(
        Origin::try_from("https://[2001:DB8::1]:8443")
            .unwrap()
            .to_string(),
        "https://[2001:db8::1]:8443"
    );
}

#[test]
fn another_scheme_host_or_port_is_another_origin() {
    let origin = Origin::try_from("https://localhost").unwrap();
    for other in [
        "http://localhost",
        "http://localhost:443",
        "https://localhost:8443",
        "https://localhost.",
        "https://127.0.0.1",
    ] {
        assert_ne!(Origin::try_from(other).unwrap(), origin, "{other}");
    }
}

#[test]
fn what_is_not_only_an_origin_is_refused() {
    let cases = [
        ("", InvalidOrigin::NotAUri),
        ("https://", InvalidOrigin::NotAUri),
        ("https://mcp example.com", InvalidOrigin::NotAUri),
        ("mcp.example.com", InvalidOrigin::Scheme),
        ("/mcp", InvalidOrigin::Scheme),
        ("ftp://mcp.example.com", InvalidOrigin::Scheme),
        ("ws://mcp.example.com", InvalidOrigin::Scheme),
        (
            "https://mcp.example.com/mcp",
            InvalidOrigin::NotOnlyAnOrigin("a path"),
        ),
        (
            "https://mcp.example.com/?a=b",
            InvalidOrigin::NotOnlyAnOrigin("a query"),
        ),
        (
            "https://mcp.example.com?",
            InvalidOrigin::NotOnlyAnOrigin("a query"),
        ),
        (
            "https://mcp.example.com#top",
            InvalidOrigin::NotOnlyAnOrigin("a fragment"),
        ),
        (
            "https://user:password@mcp.example.com",
            InvalidOrigin::NotOnlyAnOrigin("user info"),
        ),
        (
            "https://mcp.example.com@evil.example",
            InvalidOrigin::NotOnlyAnOrigin("user info"),
        ),
        ("https://mcp.example.com:0", InvalidOrigin::Port),
        ("https://mcp.example.com:99999", InvalidOrigin::Port),
        ("https://mcp.example.com:+443", InvalidOrigin::Port),
        ("http://[::1].evil.example:3000", InvalidOrigin::Port),
        ("https://[]", InvalidOrigin::Host),
        ("https://[localhost]", InvalidOrigin::Host),
        ("http://mcp.example.com", InvalidOrigin::Insecure),
    ];
    for (text, expected) in cases {
        let error = Origin::try_from(text).unwrap_err();
        assert_eq!(error, expected, "{text}");
        assert!(!error.to_string().contains("password"));
    }
}

#[test]
fn plain_http_is_for_loopback_unless_it_is_asked_for_by_name() {
    for loopback in [
        "http://localhost:3000",
        "http://127.0.0.1:3000",
        "http://127.8.4.2",
        "http://[::1]:3000",
    ] {
        assert!(Origin::try_from(loopback).is_ok(), "{loopback}");
    }
    for stranger in [
        "http://mcp.internal",
        "http://10.0.0.1",
        "http://localhost.example.com",
        "http://127.0.0.1.nip.io",
        "http://[::2]",
    ] {
        assert_eq!(
            Origin::try_from(stranger).unwrap_err(),
            InvalidOrigin::Insecure,
            "{stranger}"
        );
        assert!(Origin::insecure(stranger).is_ok(), "{stranger}");
    }
    assert!(Origin::insecure("http://mcp.internal/mcp").is_err());
}

#[test]
fn a_uri_converts_like_its_text() {
    let uri = Uri::from_static("https://mcp.example.com:443");
    assert_eq!(
        Origin::try_from(&uri).unwrap(),
        Origin::try_from("https://mcp.example.com").unwrap()
    );
    assert!(Origin::try_from(Uri::from_static("/mcp")).is_err());
    assert!(Origin::try_from(Uri::from_static("https://mcp.example.com/mcp")).is_err());
}

proptest! {
    #[test]
    fn no_text_panics_and_what_is_accepted_reads_back_the_same(text in ".{0,40}|https?://[a-zA-Z0-9.:@\\[\\]/?#-]{0,30}") {
        if let Ok(origin) = Origin::insecure(&text) {
            prop_assert_eq!(Origin::insecure(&origin.to_string()).unwrap(), origin);
        }
    }
}
