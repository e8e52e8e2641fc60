//! What AWS STS answers, read by its real SDK.

use bytes::Bytes;
use http::{Request, header::AUTHORIZATION};
use http_body_util::Full;
use tower_identity::{AccessToken, AuthErrorKind, AwsSts, Identity, Strategy};

use crate::harness::{self, Peer, assert_is_well_formed, assert_shows_nothing_of, shown, wait};

const ROLE: &str = "arn:aws:iam::123456789012:role/Default";
const SECURITY_TOKEN: &str = "x-amz-security-token";

/// What may be in an answer and in an error: names that AWS has published.
const PUBLIC: [&str; 17] = [
    ROLE,
    "ExpiredTokenException",
    "InvalidIdentityTokenException",
    "IDPRejectedClaim",
    "AccessDeniedException",
    "AccessDenied",
    "IDPCommunicationError",
    "InternalFailure",
    "InternalError",
    "RequestTimeout",
    "ServiceUnavailable",
    "ThrottlingException",
    "RequestLimitExceeded",
    "MalformedPolicyDocument",
    "PackedPolicyTooLarge",
    "RegionDisabledException",
    "ValidationError",
];

pub(crate) fn check(input: &[u8]) {
    let response = harness::answer(input);
    let answers = response.clone();
    let peer = Peer::new(move |_| answers.clone());
    let strategy = AwsSts::builder("eu-west-1", peer.clone())
        .fallback_role(ROLE)
        .clock(harness::clock())
        .build()
        .unwrap();
    let identity = Identity::builder("user-1")
        .token(AccessToken::new("of-the-user").unwrap())
        .build()
        .unwrap();
    let mut request = Request::post("https://mcp.eu-west-1.api.aws/mcp")
        .body(Full::<Bytes>::from("{}"))
        .unwrap();
    request.extensions_mut().insert(identity);

    let outcome = wait(strategy.authenticate(&mut request).complete(request));
    assert_eq!(peer.asked().len(), 1, "it is asked once");
    match outcome {
        Ok(request) => {
            assert!(response.status().is_success());
            let headers = request.headers();
            let tokens: Vec<_> = headers.get_all(SECURITY_TOKEN).iter().collect();
            let [token] = tokens[..] else {
                panic!("{tokens:?}");
            };
            assert!(token.is_sensitive() && !token.is_empty());
            let signatures: Vec<_> = headers.get_all(AUTHORIZATION).iter().collect();
            let [signature] = signatures[..] else {
                panic!("{signatures:?}");
            };
            assert!(signature.is_sensitive());
            assert!(signature.to_str().unwrap().starts_with("AWS4-HMAC-SHA256 "));
            assert_shows_nothing_of(token.as_bytes(), &format!("{headers:?} {strategy:?}"), &[]);
        }
        Err(error) => {
            assert_is_well_formed(&error);
            let text = shown(&error);
            assert!(!text.contains("panicked"), "{text}");
            assert_shows_nothing_of(input, &text, &PUBLIC);
            let status = response.status();
            match error.kind() {
                AuthErrorKind::Rejected | AuthErrorKind::InsufficientScope => {
                    assert!(status != 429);
                }
                AuthErrorKind::Configuration => assert!(!status.is_success()),
                AuthErrorKind::Unavailable => {}
                kind => panic!("{kind:?} is not documented for AWS STS"),
            }
        }
    }
}
