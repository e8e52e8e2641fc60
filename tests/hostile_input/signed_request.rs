//! A request that is signed for AWS: its method and URI, its headers, an empty line, its body.

use std::cell::RefCell;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri, header::HOST};
use http_body_util::{BodyExt, Full};
use tower_identity::{AccessToken, AuthErrorKind, AwsSts, Identity, Strategy};

use crate::{
    harness::{self, Peer, assert_is_well_formed, shown, wait},
    sigv4::{Arrived, MOST_SERVICES, Rules, S3, Signature},
};

const SECRET: &str = "hush-secret-access-key";
const SESSION_TOKEN: &str = "hush-session-token";
const OF_THE_CALLER: &str = "of-the-caller";
const CREDENTIALS: &str = "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
    <AccessKeyId>ASIA0000000000000000</AccessKeyId><SecretAccessKey>hush-secret-access-key</SecretAccessKey>\
    <SessionToken>hush-session-token</SessionToken><Expiration>2033-05-18T04:33:20Z</Expiration>\
    </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";

pub(crate) fn check(input: &[u8]) {
    thread_local! {
        static STRATEGIES: RefCell<[(AwsSts, Rules); 2]> =
            RefCell::new([(strategy("aws-mcp"), MOST_SERVICES), (strategy("s3"), S3)]);
    }

    let (first, headers, body) = harness::message(input);
    let first = String::from_utf8_lossy(first).into_owned();
    let (method, uri) = first.split_once(' ').unwrap_or(("POST", &first));
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method.as_bytes()), uri.parse::<Uri>()) else {
        return;
    };
    // What `AuthLayer` has refused.
    let is_without_scheme = uri.scheme().is_none() && uri.authority().is_some();
    if is_without_scheme || headers.get_all(HOST).iter().count() > 1 {
        return;
    }
    STRATEGIES.with_borrow(|strategies| {
        for (strategy, rules) in strategies {
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = method.clone();
            *request.uri_mut() = uri.clone();
            *request.headers_mut() = headers.clone();
            request.extensions_mut().insert(identity());
            match wait(async { strategy.authenticate(&mut request).complete(request).await }) {
                Ok(signed) => assert_is_signed(signed, &uri, &headers, &body, *rules),
                Err(error) => {
                    assert_is_well_formed(&error);
                    let kinds = [AuthErrorKind::Configuration, AuthErrorKind::PayloadTooLarge];
                    assert!(kinds.contains(&error.kind()), "{error:?}");
                    for secret in [SECRET, SESSION_TOKEN, OF_THE_CALLER] {
                        assert!(!shown(&error).contains(secret), "{error:?}");
                    }
                }
            }
        }
    });
}

fn assert_is_signed(
    request: Request<Full<Bytes>>,
    uri: &Uri,
    before: &HeaderMap,
    body: &Bytes,
    rules: Rules,
) {
    let (head, sent) = request.into_parts();
    let sent = wait(sent.collect()).unwrap().to_bytes();
    assert_eq!(sent, body, "another body is sent");
    let headers = &head.headers;
    for name in [
        "authorization",
        "x-amz-security-token",
        "x-amz-date",
        "host",
    ] {
        assert_eq!(headers.get_all(name).iter().count(), 1, "{name}");
    }
    assert_eq!(headers["x-amz-security-token"], SESSION_TOKEN);
    for name in ["authorization", "x-amz-security-token"] {
        assert!(headers[name].is_sensitive());
    }
    for name in ["keep-alive", "transfer-encoding"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    for value in headers.get_all("te") {
        assert!(value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    }
    // `Connection` names no header that is there but `upgrade`.
    let options: Vec<_> = headers
        .get_all("connection")
        .iter()
        .flat_map(|value| value.to_str().unwrap().split(", "))
        .collect();
    for option in &options {
        assert!(
            ["close", "keep-alive", "upgrade"].contains(option),
            "{option}"
        );
    }
    assert_eq!(
        headers.contains_key("upgrade"),
        options.contains(&"upgrade")
    );
    assert_eq!(head.uri.path(), uri.path());
    assert_eq!(head.uri.query(), uri.query());
    assert_eq!(
        head.uri.host().map(str::to_owned),
        uri.host().map(str::to_owned)
    );
    if let Some(authority) = head.uri.authority() {
        assert_eq!(
            headers["host"],
            authority.as_str(),
            "it is signed for another host"
        );
    }

    let signature = Signature::of(headers);
    for (name, value) in before {
        let is_signed = name.as_str().starts_with("x-amz-") || *name == "content-type";
        if is_signed && headers.contains_key(name) {
            assert!(
                signature
                    .signed_headers
                    .iter()
                    .any(|signed| name.as_str() == signed),
                "{name}: {value:?}"
            );
        }
    }
    // How the rest is encoded is another question.
    let is_plain = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"/=&._~-".contains(&byte))
    };
    let path = uri.path();
    let query = uri.query().unwrap_or_default();
    if is_plain(path) && is_plain(query) {
        let arrived = Arrived {
            method: head.method,
            path: path.to_owned(),
            query: query.to_owned(),
            headers: headers.clone(),
            body: sent.to_vec(),
        };
        assert!(signature.is_by(SECRET, &arrived, rules), "{arrived:?}");
    }
}

fn strategy(service: &str) -> AwsSts {
    AwsSts::builder(
        "eu-west-1",
        Peer::new(|_| Response::new(Bytes::from(CREDENTIALS))),
    )
    .service(service)
    .fallback_role("arn:aws:iam::123456789012:role/Default")
    .clock(harness::clock())
    .build()
    .unwrap()
}

fn identity() -> Identity {
    let token = AccessToken::new("of-the-user").unwrap();
    Identity::builder("user-1").token(token).build().unwrap()
}
