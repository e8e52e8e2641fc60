//! No part of a caller's token is logged or shown. Alone in its file: a log of one test is disturbed by others.
#![cfg(feature = "incoming")]

mod support;

use std::{fmt::Write as _, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, header::AUTHORIZATION};
use http_body_util::Full;
use serde_json::json;
use support::{
    identity_provider::{AUDIENCE, ED25519, INTROSPECT, IdentityProvider, P256, client, some_day},
    log::Log,
};
use tower::{BoxError, Layer, Service, service_fn};
use tower_identity::{
    ClientAuth, IntrospectionEndpoint, ManualClock, Secret, TokenValidator, TokenValidatorLayer,
};

#[tokio::test]
async fn f33_no_part_of_a_token_is_logged_or_shown() {
    let log = Log::default();
    let _guard = log.capture("tower_identity=trace");
    let provider = IdentityProvider::start(P256).await;
    let endpoint = IntrospectionEndpoint::builder(provider.uri(INTROSPECT), client()).client_auth(
        ClientAuth::basic("gateway", Secret::new("client-secret").unwrap()),
    );
    let mut shown = format!("{endpoint:?}");
    let builder = TokenValidator::builder(provider.issuer(), client())
        .audience(AUDIENCE)
        .resource("https://gateway.example.com/mcp")
        .clock(Arc::new(ManualClock::new(some_day())))
        .introspection(endpoint.build().unwrap())
        .cache_tokens(10);
    write!(shown, "{builder:?}").unwrap();
    let validator = builder.build().unwrap();
    provider.introspects("opaque-secret", json!({ "active": true, "sub": 1 }));
    let mut claims = provider.claims("alice", some_day());
    claims["tsid"] = json!("session-secret");
    claims["email"] = json!("alice@example.com");
    let good = P256.sign(&P256.header(), &claims);
    let forged = ED25519.sign(&P256.header(), &claims);

    for token in [&good, &good, &forged, "opaque-secret", "made-up-secret"] {
        let validating = validator.validate(token);
        write!(shown, "{validating:?}").unwrap();
        let outcome = validating.await;
        write!(shown, "{outcome:?} {outcome:#?}").unwrap();
        if let Err(error) = outcome {
            write!(shown, "{error} {:?}", error.to_response::<Bytes>()).unwrap();
        }
    }
    provider.is_down(true);
    let unknown = ED25519.sign(&ED25519.header(), &claims);
    let error = validator.validate(&unknown).await.unwrap_err();
    write!(
        shown,
        "{error} {:?} {validator:?}",
        error.to_response::<Bytes>()
    )
    .unwrap();

    let layer = TokenValidatorLayer::new(validator.clone());
    let mut service = layer.layer(service_fn(async |_: Request<()>| {
        Ok::<_, BoxError>(Response::new(Full::<Bytes>::default()))
    }));
    let mut request = Request::new(());
    let authorization = format!("Bearer {good}").parse().unwrap();
    request.headers_mut().insert(AUTHORIZATION, authorization);
    let answering = service.call(request);
    let metadata = validator.resource_metadata().unwrap();
    write!(shown, "{answering:?} {metadata:?}").unwrap();
    for witness in [
        "IntrospectionEndpointBuilder { client_auth: Some(ClientAuth {",
        "TokenValidatorBuilder { issuer: ",
        "TokenValidator { issuers: [",
        "introspection: Some(IntrospectionEndpoint { origin: ",
        "Validating(pending)",
        "Validating(ready)",
        "TokenValidatorFuture {",
        "ProtectedResourceMetadata { url: ",
    ] {
        assert!(shown.contains(witness), "{witness}: {shown}");
    }

    let log = log.text();
    assert!(log.contains("a caller was refused"), "{log}");
    assert!(log.contains("could not be fetched"), "{log}");
    shown.push_str(&log);
    let parts = [&good, &forged, &unknown].map(|token| token.split('.').skip(1));
    let parts = parts.into_iter().flatten();
    for secret in parts.chain(["-secret", "alice@example.com"]) {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}
