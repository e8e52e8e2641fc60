//! Signatures: AWS's published examples, and aws-sigv4 called directly with the same request.

mod support;

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use aws_smithy_types::date_time::{DateTime, Format};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use proptest::{prelude::*, strategy::Strategy as Generator};
use serde_json::Value;
use support::{
    authenticated::Authenticated,
    aws_stack::{Body, DEFAULT_ROLE, user},
    sigv4::{Arrived, MOST_SERVICES, Rules, S3, Signature, canonical_request},
};
use tower_identity::{
    AwsSts, Clock, ManualClock,
    strategy::{AwsStsBuilder, PayloadHash},
};

const ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// When AWS's examples were signed: 2015-08-30 12:36:00.
fn clock() -> Arc<ManualClock> {
    let time = DateTime::from_str("2015-08-30T12:36:00Z", Format::DateTime).unwrap();
    Arc::new(ManualClock::new(SystemTime::try_from(time).unwrap()))
}

/// An STS that gives everybody the credentials of AWS's examples, with this session token.
fn builder(token: &str) -> AwsStsBuilder {
    let clock = clock();
    let expires_at = DateTime::from(clock.now() + Duration::from_secs(3600));
    let expiration = expires_at.fmt(Format::DateTime).unwrap();
    let answer = format!(
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
         <AccessKeyId>{ID}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>\
         <SessionToken>{token}</SessionToken><Expiration>{expiration}</Expiration></Credentials>\
         </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    );
    let sts = tower::service_fn(move |_: Request<Body>| {
        let answer: Response<Body> = Response::new(Full::from(answer.clone()));
        async { Ok::<_, Infallible>(answer) }
    });
    AwsSts::builder("us-east-1", sts)
        .clock(clock)
        .fallback_role(DEFAULT_ROLE)
}

fn signed(strategy: &AwsSts, mut request: Request<Body>) -> Request<Body> {
    request.extensions_mut().insert(user("alice", "t"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(strategy.authenticated(request)).unwrap()
}

fn arrived(request: Request<Body>) -> Arrived {
    let (head, body) = request.into_parts();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    Arrived {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body: runtime
            .block_on(body.collect())
            .unwrap()
            .to_bytes()
            .to_vec(),
    }
}

struct Example {
    name: String,
    normalize: bool,
    token: Option<String>,
    omit_token: bool,
    sign_body: bool,
    request: Arrived,
    canonical_request: String,
    signature: String,
}

fn examples() -> Vec<Example> {
    let data: Value = serde_json::from_str(include_str!("data/sigv4.json")).unwrap();
    let examples = data["examples"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    examples
        .iter()
        .map(|example| Example {
            name: text(&example["name"]),
            normalize: example["normalize"].as_bool().unwrap(),
            token: example["token"].as_str().map(str::to_owned),
            omit_token: example["omit_token"].as_bool().unwrap(),
            sign_body: example["sign_body"].as_bool().unwrap(),
            request: parse(example["request"].as_str().unwrap()),
            canonical_request: text(&example["canonical_request"]),
            signature: text(&example["signature"]),
        })
        .collect()
}

/// A request as the examples write it: `GET /path?query HTTP/1.1`, with raw spaces and folded headers.
fn parse(text: &str) -> Arrived {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let head = head.replace("\n ", " ");
    let mut lines = head.lines();
    let line = lines.next().unwrap().strip_suffix(" HTTP/1.1").unwrap();
    let (method, target) = line.split_once(' ').unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    Arrived {
        method: method.parse().unwrap(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        body: body.as_bytes().to_vec(),
    }
}

/// The test's own implementation of SigV4 is right: it finds all of the published canonical requests and signatures.
#[test]
fn the_published_examples_are_what_the_verifier_computes() {
    for example in examples() {
        let mut request = example.request;
        let date = HeaderValue::from_static("20150830T123600Z");
        request.headers.insert("x-amz-date", date);
        if let Some(token) = example.token.as_deref().filter(|_| !example.omit_token) {
            request
                .headers
                .insert("x-amz-security-token", token.parse().unwrap());
        }
        if example.sign_body {
            let hash = example.canonical_request.lines().last().unwrap();
            request
                .headers
                .insert("x-amz-content-sha256", hash.parse().unwrap());
        }
        let mut names: Vec<_> = request.headers.keys().map(HeaderName::to_string).collect();
        names.sort();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let rules = Rules {
            encodes_path: true,
            normalizes_path: example.normalize,
        };
        let canonical = canonical_request(&request, &names, rules);
        assert_eq!(canonical, example.canonical_request, "{}", example.name);
        let signature = support::sigv4::sign(
            &canonical,
            SECRET,
            "20150830T123600Z",
            "us-east-1",
            "service",
        );
        assert_eq!(signature, example.signature, "{}", example.name);
    }
}

#[test]
fn the_published_example_with_a_session_token_is_what_the_strategy_signs() {
    let mut found = 0;
    for example in examples() {
        let Some(token) = example.token.as_deref().filter(|_| !example.omit_token) else {
            continue;
        };
        if example.sign_body {
            continue;
        }
        let strategy = builder(token).service("service").build().unwrap();
        let uri = format!("https://example.amazonaws.com{}", example.request.path);
        let mut request = Request::builder()
            .method(example.request.method)
            .uri(uri)
            .body(Body::default())
            .unwrap();
        for name in example.request.headers.keys() {
            assert_eq!(name, "host");
        }
        request
            .headers_mut()
            .insert("host", HeaderValue::from_static("example.amazonaws.com"));
        let signed = signed(&strategy, request);
        assert_eq!(
            Signature::of(signed.headers()).signature,
            example.signature,
            "{}",
            example.name
        );
        found += 1;
    }
    assert!(found > 0);
}

/// As the examples are, with a session token, and with what AWS would not have an HTTP client send made fit for one.
#[test]
fn the_published_examples_are_signed_as_aws_verifies_them() {
    let services = SERVICES.map(|(service, hash)| {
        let is_s3 = S3_FAMILY.contains(&service);
        (service, hash, if is_s3 { S3 } else { MOST_SERVICES })
    });
    for (service, hash, rules) in services {
        let strategy = builder("token").service(service).build().unwrap();
        for example in examples() {
            let encode = |text: &str| text.replace(' ', "%20").replace('ሴ', "%E1%88%B4");
            let uri = format!(
                "https://example.amazonaws.com{}?{}",
                encode(&example.request.path),
                encode(&example.request.query)
            );
            let body = Full::from(example.request.body.clone());
            let mut request = Request::builder()
                .method(example.request.method.clone())
                .uri(uri)
                .body(body)
                .unwrap();
            *request.headers_mut() = example.request.headers.clone();
            let arrived = arrived(signed(&strategy, request));
            let signature = Signature::of(&arrived.headers);
            assert!(signature.is_by(SECRET, &arrived, rules), "{}", example.name);
            let has_hash = arrived.headers.contains_key("x-amz-content-sha256");
            assert_eq!(has_hash, hash != PayloadHash::Signed, "{service}");
        }
    }
}

#[test]
fn signing_costs_at_most_4_allocations_more_than_aws_sigv4_called_directly() {
    for size in [0, 1 << 10, 64 << 10] {
        let call = Call {
            method: Method::POST,
            uri: "https://mcp.example.com/mcp".into(),
            headers: vec![("content-type".into(), "application/json".into())],
            body: vec![b'a'; size],
        };
        let strategy = builder("token").build().unwrap();
        let fresh = || {
            let mut request = request(&call).unwrap();
            request.extensions_mut().insert(user("alice", "t"));
            request
        };
        signed(&strategy, fresh());
        let request = fresh();
        let mut signed = None;
        let layers = allocation_counter::measure(|| {
            signed = strategy.authenticated(request).now_or_never();
        });
        assert!(signed.unwrap().is_ok());
        let direct =
            allocation_counter::measure(|| drop(directly(&call, "aws-mcp", PayloadHash::Signed)));
        assert!(
            layers.count_total <= direct.count_total + 4,
            "{layers:?} {direct:?}"
        );
    }
}

#[derive(Clone, Debug)]
struct Call {
    method: Method,
    uri: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

fn call() -> impl Generator<Value = Call> {
    let method = prop_oneof!["GET", "POST", "PUT", "DELETE", "PATCH", "M-SEARCH"];
    let method = method.prop_map(|method| method.parse().unwrap());
    let host = prop_oneof![
        Just("mcp.example.com"),
        Just("mcp.example.com:8443"),
        Just("127.0.0.1:8080"),
        Just("[::1]:8080")
    ];
    let path = "(/|/[a-zA-Z0-9._~!$&'()*+,;=:@-]{0,6}|/%[2-7][0-9A-F]|/\\.|/\\.\\.|//|%C3%A9){0,6}";
    let query = "(\\?([a-zA-Z0-9._~!$'()*+,;:@/?=&-]|%[2-7][0-9A-F]|%C3%A9|%FF){0,24})?";
    let header = prop_oneof![
        Just("content-type"),
        Just("accept"),
        Just("x-amz-meta-a"),
        Just("x-amz-target"),
        Just("x-custom"),
        Just("user-agent"),
        Just("cookie"),
    ];
    let headers = prop::collection::vec(
        (
            header.prop_map(str::to_owned),
            "[ a-zA-Z0-9,;=/\t\"é]{0,16}",
        ),
        0..5,
    );
    let body = prop::collection::vec(any::<u8>(), 0..64);
    (method, host, path, query, headers, body).prop_map(
        |(method, host, path, query, headers, body)| {
            let path = if path.starts_with('/') {
                path
            } else {
                format!("/{path}")
            };
            Call {
                method,
                uri: format!("https://{host}{path}{query}"),
                headers,
                body,
            }
        },
    )
}

/// How services want the payload signed by default: what their documentation says.
const SERVICES: [(&str, PayloadHash); 10] = [
    ("aws-mcp", PayloadHash::Signed),
    ("bedrock-agentcore", PayloadHash::Signed),
    ("es", PayloadHash::Signed),
    ("aoss", PayloadHash::Header),
    ("glacier", PayloadHash::Header),
    ("s3", PayloadHash::Header),
    ("s3-object-lambda", PayloadHash::Header),
    ("s3-outposts", PayloadHash::Header),
    ("s3express", PayloadHash::Header),
    ("vpc-lattice-svcs", PayloadHash::Unsigned),
];
const S3_FAMILY: [&str; 4] = ["s3", "s3-object-lambda", "s3-outposts", "s3express"];

/// As AWS describes it, by the library, on the whole URI.
fn directly(call: &Call, service: &str, hash: PayloadHash) -> HeaderMap {
    let credentials = Credentials::new(ID, SECRET, Some("token".into()), None, "test").into();
    let mut settings = SigningSettings::default();
    if S3_FAMILY.contains(&service) {
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    }
    if hash != PayloadHash::Signed {
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    }
    let params = v4::SigningParams::builder()
        .identity(&credentials)
        .region("us-east-1")
        .name(service)
        .time(clock().now())
        .settings(settings)
        .build()
        .unwrap()
        .into();
    let is_signed = |name: &str| name == "content-type" || name.starts_with("x-amz-");
    let headers = call.headers.iter().filter(|(name, _)| is_signed(name));
    let request = SignableRequest::new(
        call.method.as_str(),
        &call.uri,
        headers.map(|(name, value)| (name.as_str(), value.as_str())),
        match hash {
            PayloadHash::Unsigned => SignableBody::UnsignedPayload,
            _ => SignableBody::Bytes(&call.body),
        },
    );
    let (instructions, _) = sign(request.unwrap(), &params).unwrap().into_parts();
    let mut signed = Request::builder().uri(&call.uri).body(()).unwrap();
    instructions.apply_to_request_http1x(&mut signed);
    signed.into_parts().0.headers
}

fn request(call: &Call) -> Option<Request<Body>> {
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(&call.uri);
    for (name, value) in &call.headers {
        request = request.header(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    request.body(Full::from(call.body.clone())).ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn f53_a_request_is_signed_as_aws_sigv4_signs_it_with_the_settings_of_the_service(
        call in call(),
        (service, default) in prop::sample::select(&SERVICES[..]),
        hash in prop::option::of(prop::sample::select(&[
            PayloadHash::Signed, PayloadHash::Header, PayloadHash::Unsigned,
        ][..])),
    ) {
        let mut builder = builder("token").service(service);
        if let Some(hash) = hash {
            builder = builder.payload_hash(hash);
        }
        let strategy = builder.build().unwrap();
        let Some(request) = request(&call) else {
            return Err(TestCaseError::reject("no request"));
        };
        let before = request.headers().clone();
        let signed = signed(&strategy, request);
        let direct = directly(&call, service, hash.unwrap_or(default));
        for (name, value) in &direct {
            prop_assert_eq!(signed.headers().get_all(name).iter().collect::<Vec<_>>(), [value], "{}", name);
        }
        for name in before.keys() {
            prop_assert!(signed.headers().get_all(name).iter().eq(before.get_all(name)), "{}", name);
        }
        prop_assert_eq!(signed.uri().to_string(), Request::builder().uri(&call.uri).body(()).unwrap().uri().to_string());
        let arrived = arrived(signed);
        prop_assert_eq!(&arrived.body, &call.body);
    }
}
