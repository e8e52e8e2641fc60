//! Where a request goes: its URI, its `Host` and a `Location` that it is answered with, a line for each.
//!
//! What is behind a space in the first line is the status of that answer.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri,
    header::{HOST, LOCATION},
};
use http_body_util::Full;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
use tower_http::follow_redirect::FollowRedirect;
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, AuthLayer, HeaderForwardLayer, Identity, IdentityLayer,
    Origin, UpstreamInject, UpstreamToken,
};

use crate::harness::{assert_is_well_formed, line, wait};

pub(crate) fn check(input: &[u8]) {
    let mut rest = input;
    let first = line(&mut rest);
    let (uri, status) = match first.iter().rposition(|byte| *byte == b' ') {
        Some(space) => (&first[..space], &first[space + 1..]),
        None => (first, &b"307"[..]),
    };
    let (host, location) = (line(&mut rest), line(&mut rest));
    let Ok(uri) = Uri::try_from(uri) else {
        return;
    };
    let status = StatusCode::from_bytes(status).unwrap_or(StatusCode::TEMPORARY_REDIRECT);
    for client_fixes_origin in [false, true] {
        let mut request = Request::new(Full::<Bytes>::default());
        *request.uri_mut() = uri.clone();
        if let (false, Ok(host)) = (host.is_empty(), HeaderValue::from_bytes(host)) {
            request.headers_mut().insert(HOST, host);
        }
        check_request(request, status, location, client_fixes_origin);
    }
}

fn check_request(
    request: Request<Full<Bytes>>,
    status: StatusCode,
    location: &[u8],
    client_fixes_origin: bool,
) {
    let arrivals = Arc::<Mutex<Vec<(Uri, HeaderMap)>>>::default();
    let backend = service_fn(|request: Request<Full<Bytes>>| {
        let mut response = Response::new(Full::<Bytes>::default());
        let (head, _) = request.into_parts();
        let mut arrivals = arrivals.lock().unwrap();
        arrivals.push((head.uri, head.headers));
        if let (true, Ok(location)) = (arrivals.len() < 3, HeaderValue::from_bytes(location)) {
            *response.status_mut() = status;
            response.headers_mut().insert(LOCATION, location);
        }
        async { Ok::<_, BoxError>(response) }
    });
    let origin = Origin::try_from("https://mcp.example.com").unwrap();
    let token = UpstreamToken::new(AccessToken::new("of-the-user").unwrap());
    let session = Identity::builder("user-1")
        .upstream("github", token)
        .build()
        .unwrap();
    let mut auth = AuthLayer::new(origin.clone(), UpstreamInject::new("github").unwrap());
    let mut forward = HeaderForwardLayer::builder(origin).header("x-api-key", "k-123");
    if client_fixes_origin {
        auth = auth.client_fixes_origin();
        forward = forward.client_fixes_origin();
    }
    let stack = ServiceBuilder::new()
        .layer(IdentityLayer::new(session))
        .layer(forward.build().unwrap())
        .layer(auth)
        .service(backend);

    let outcome = wait(FollowRedirect::new(stack).oneshot(request));

    for (uri, headers) in arrivals.lock().unwrap().iter() {
        assert_goes_home(uri, headers, client_fixes_origin);
        let credentials: Vec<_> = headers.get_all("authorization").iter().collect();
        assert_eq!(credentials, ["Bearer of-the-user"]);
        assert_eq!(headers["x-api-key"], "k-123");
    }
    if let Err(error) = outcome {
        let error = AuthError::find_in(error.as_ref()).unwrap();
        assert_is_well_formed(error);
        assert_eq!(error.kind(), AuthErrorKind::WrongOrigin);
    }
}

/// As a client reads it that resolves the URI, and as a proxy does that goes by `Host`.
fn assert_goes_home(uri: &Uri, headers: &HeaderMap, client_fixes_origin: bool) {
    let text = uri.to_string();
    match uri.authority() {
        Some(authority) => {
            assert_eq!(uri.scheme_str(), Some("https"), "{text}");
            assert!(is_home(authority.as_str()), "{text}");
            let behind = text
                .get("https://".len() + authority.as_str().len()..)
                .unwrap();
            assert!(
                behind.is_empty() || behind.starts_with(['/', '?']),
                "{text}"
            );
        }
        None => {
            assert!(client_fixes_origin && uri.scheme().is_none(), "{text}");
            assert!(text.starts_with('/'), "{text}");
            assert!(
                !text.starts_with("//") && !text.starts_with("/\\"),
                "{text}"
            );
        }
    }
    let hosts: Vec<_> = headers.get_all(HOST).iter().collect();
    assert!(hosts.len() <= 1);
    for host in hosts {
        assert!(is_home(host.to_str().unwrap()), "{host:?}");
    }
}

fn is_home(authority: &str) -> bool {
    let authority = authority.to_ascii_lowercase();
    let port = authority.strip_prefix("mcp.example.com");
    port.is_some_and(|port| {
        let digits = port.strip_prefix(':');
        port.is_empty()
            || digits
                .is_some_and(|digits| digits.trim_start_matches('0') == "443" || digits.is_empty())
    })
}
