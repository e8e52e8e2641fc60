//! What it costs to sign and send a request with credentials that are at hand, beside aws-sigv4 called directly.
//!
//! Ratios of medians from one run are what counts. Building the request is not timed; dropping it is, in every row.
//!
//! ```text
//! GLIBC_TUNABLES=glibc.malloc.tcache_count=4096 taskset -c 1 cargo bench --features aws-sts --bench signing
//! ```

mod support;

use std::{
    convert::Infallible,
    future::ready,
    time::{Duration, SystemTime},
};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use aws_smithy_runtime_api::client::identity::Identity as SigningIdentity;
use aws_smithy_types::date_time::{DateTime, Format};
use bytes::Bytes;
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Service, ServiceBuilder, service_fn};
use tower_identity::{AccessToken, AuthLayer, AwsSts, Identity, IdentityLayer, Origin};

use support::Bare;

type Body = Full<Bytes>;

const ID: &str = "ASIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// As long as those of AWS.
fn session_token() -> String {
    "IQoJb3JpZ2luX2VjEXAMPLE/".repeat(40)
}

fn identity() -> Identity {
    Identity::builder("alice@example.com")
        .token(AccessToken::new("t".repeat(1024)).unwrap())
        .build()
        .unwrap()
}

/// A request as an MCP client sends it. Its identity is that of the requests before, as that of a remembered token is, so
/// that the token's fingerprint is known.
fn request(body: &Bytes, identity: &Identity) -> Request<Body> {
    let mut request = Request::post("https://mcp.eu-west-1.api.aws/mcp")
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json")
        .header("mcp-session-id", "5f1c0f9e")
        .body(Full::from(body.clone()))
        .unwrap();
    request.extensions_mut().insert(identity.clone());
    request
}

fn sign_directly(
    mut request: Request<Body>,
    body: &Bytes,
    credentials: &SigningIdentity,
) -> Request<Body> {
    let uri = request.uri().to_string();
    let content_type = request.headers()["content-type"].to_str().unwrap();
    let signable = SignableRequest::new(
        request.method().as_str(),
        uri,
        [("content-type", content_type)].into_iter(),
        SignableBody::Bytes(body),
    )
    .unwrap();
    let params = v4::SigningParams::builder()
        .identity(credentials)
        .region("eu-west-1")
        .name("aws-mcp")
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .unwrap()
        .into();
    let (instructions, _) = sign(signable, &params).unwrap().into_parts();
    instructions.apply_to_request_http1x(&mut request);
    request
}

/// The stack, with credentials at hand for this user.
fn layers(identity: &Identity) -> impl Service<Request<Body>, Response = Response<()>> {
    let expiration = DateTime::from(SystemTime::now() + Duration::from_secs(3600));
    let answer = format!(
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
         <AccessKeyId>{ID}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>\
         <SessionToken>{}</SessionToken><Expiration>{}</Expiration></Credentials>\
         </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
        session_token(),
        expiration.fmt(Format::DateTime).unwrap(),
    );
    let sts = service_fn(move |_: Request<Body>| {
        ready(Ok::<_, Infallible>(Response::new(Body::from(
            answer.clone(),
        ))))
    });
    let strategy = AwsSts::builder("eu-west-1", sts)
        .fallback_role("arn:aws:iam::123456789012:role/Default")
        .build()
        .unwrap();
    let origin = Origin::try_from("https://mcp.eu-west-1.api.aws").unwrap();
    let mut layers = ServiceBuilder::new()
        .layer(IdentityLayer::new(None))
        .layer(AuthLayer::new(origin, strategy))
        .service(Bare);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime
        .block_on(layers.call(request(&Bytes::new(), identity)))
        .unwrap();
    layers
}

fn row(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: String,
    body: &Bytes,
    identity: &Identity,
    mut send: impl FnMut(Request<Body>) -> bool,
) {
    let once = request(body, identity);
    let allocations = allocation_counter::measure(|| assert!(send(once))).count_total;
    println!("{id}: {allocations} allocations");
    group.bench_function(id, |bencher| {
        bencher.iter_batched(
            || request(body, identity),
            &mut send,
            BatchSize::NumIterations(16),
        );
    });
}

fn signing(criterion: &mut Criterion) {
    let credentials = Credentials::new(ID, SECRET, Some(session_token()), None, "bench");
    let credentials = SigningIdentity::new(credentials, None);
    let identity = identity();
    let mut layers = layers(&identity);
    let mut group = criterion.benchmark_group("signing");
    for (size, name) in [(0, "0"), (1 << 10, "1k"), (64 << 10, "64k")] {
        let body = Bytes::from(vec![b'a'; size]);
        row(
            &mut group,
            format!("direct_{name}"),
            &body,
            &identity,
            |request| {
                let signed = sign_directly(request, &body, &credentials);
                Bare.call(signed).now_or_never().is_some()
            },
        );
        row(
            &mut group,
            format!("layers_{name}"),
            &body,
            &identity,
            |request| {
                let answer = layers.call(request).now_or_never();
                answer.is_some_and(|answer| answer.is_ok())
            },
        );
    }
    group.finish();
}

criterion_group!(benches, signing);
criterion_main!(benches);
