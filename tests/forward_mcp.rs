//! The outgoing MCP request of a gateway, out of the incoming one.

use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use proptest::{
    collection::vec,
    prelude::{any, prop_assert_eq, proptest},
};
use tower_identity::{CapturedHeaders, HealthCheck, Identity, outgoing::forward_mcp};

const BACKEND: &str = "https://mcp.example.com/mcp";

/// The headers of the transport's revisions from 2025-03-26 to 2026-07-28.
const OF_MCP: [(&str, &str); 10] = [
    ("accept", "application/json, text/event-stream"),
    ("content-type", "application/json"),
    ("content-length", "2"),
    ("last-event-id", "7"),
    ("mcp-session-id", "s1"),
    ("mcp-protocol-version", "2026-07-28"),
    ("mcp-method", "tools/call"),
    ("mcp-name", "search"),
    ("mcp-param-region", "eu"),
    ("mcp-param-tenant", "blue"),
];

const OF_OTHERS: [&str; 15] = [
    "dpop",
    "host",
    "authorization",
    "proxy-authorization",
    "cookie",
    "connection",
    "te",
    "upgrade",
    "transfer-encoding",
    "x-forwarded-for",
    "forwarded",
    "x-real-ip",
    "x-api-key",
    "mcp_session_id",
    "x-mcp-name",
];

#[test]
fn f86_each_header_of_the_protocol_goes_along_and_no_other() {
    let mut request = Request::builder().method(Method::PUT).uri("/github");
    for (name, value) in OF_MCP {
        request = request.header(name, value);
    }
    for name in OF_OTHERS {
        request = request.header(name, "x");
    }
    let mut request = request.version(Version::HTTP_2).body("{}").unwrap();
    let user = Identity::builder("user-1").build().unwrap();
    request.extensions_mut().insert(user);
    request.extensions_mut().insert(HealthCheck);
    request
        .extensions_mut()
        .insert(CapturedHeaders::from(HeaderMap::new()));
    request.extensions_mut().insert("of the server");

    let request = forward_mcp(request, Uri::from_static(BACKEND));
    assert_eq!(request.method(), Method::PUT);
    assert_eq!(request.uri(), BACKEND);
    assert_eq!(request.version(), Version::HTTP_11);
    assert_eq!(*request.body(), "{}");
    let headers = request.headers().iter();
    let mut headers: Vec<_> = headers
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    headers.sort_unstable();
    let mut expected = OF_MCP.to_vec();
    expected.sort_unstable();
    assert_eq!(headers, expected);
    assert_eq!(request.extensions().len(), 3);
    assert_eq!(
        request.extensions().get::<Identity>().unwrap().subject(),
        "user-1"
    );
}

proptest! {
    #[test]
    fn a_backend_sees_the_session_that_the_gateway_looks_up(
        values in vec("[a-z0-9]{1,8}", 1..4),
        any_other in any::<bool>(),
    ) {
        let mut request = Request::post("/github").body(()).unwrap();
        for value in &values {
            let value = HeaderValue::from_str(value).unwrap();
            request.headers_mut().append("mcp-session-id", value.clone());
            if any_other {
                request.headers_mut().append("accept", value);
            }
        }
        let looked_up = request.headers()["mcp-session-id"].clone();
        let request = forward_mcp(request, Uri::from_static(BACKEND));
        let sent: Vec<_> = request.headers().get_all("mcp-session-id").iter().collect();
        prop_assert_eq!(sent, [&looked_up]);
        let accepted = request.headers().get_all("accept").iter().count();
        let expected = if any_other { values.len() } else { 0 };
        prop_assert_eq!(accepted, expected);
    }
}
