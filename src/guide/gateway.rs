//! I write a gateway.
//!
//! `examples/gateway/gateway.rs` is one, whole, in under 300 lines, and is meant to be copied; the files beside it are the
//! world that it is driven in. This page says what each part of it is for. It wants, besides this crate with `config`,
//! `hyper` and `incoming`:
//!
//! ```toml
//! axum = "0.8"
//! bytes = "1"
//! futures-util = "0.3"
//! http = "1"
//! http-body-util = "0.1"
//! moka = { version = "0.12", features = ["sync"] }
//! serde = { version = "1", features = ["derive"] }
//! tokio = { version = "1", features = ["macros", "net", "rt-multi-thread", "sync", "time"] }
//! tower = { version = "0.5", features = ["util"] }
//! tower-http = { version = "0.7", features = ["follow-redirect"] }
//! tracing = "0.1"
//! ```
//!
//! # 1. Know the caller
//!
//! [`TokenValidatorLayer`](crate::TokenValidatorLayer) lets a request pass with an [`Identity`](crate::Identity), or does
//! not let it pass. With [`upstream_tokens`](crate::incoming::TokenValidatorBuilder::upstream_tokens) that identity has the
//! user's tokens of other providers, fresh on each request. Serve
//! [`resource_metadata`](crate::TokenValidator::resource_metadata) beside your routes: it tells MCP clients where to log in.
//! Health checks of the gateway itself belong outside of the layer.
//!
//! # 2. Carry the identity, and little else
//!
//! The outgoing request is a new one. It gets the identity of the one that it serves, and of the headers what the backend
//! needs.
//!
//! ```
//! use http::{HeaderName, Request, Uri, header::{ACCEPT, CONTENT_TYPE}};
//! use tower_identity::Identity;
//!
//! fn outgoing<B>(request: Request<B>, backend: &Uri) -> Request<B> {
//!     let (mut incoming, body) = request.into_parts();
//!     let mut request = Request::new(body);
//!     *request.method_mut() = incoming.method;
//!     *request.uri_mut() = backend.clone();
//!     for name in [ACCEPT, CONTENT_TYPE, HeaderName::from_static("mcp-session-id")] {
//!         if let Some(value) = incoming.headers.remove(&name) {
//!             request.headers_mut().insert(name, value);
//!         }
//!     }
//!     if let Some(identity) = incoming.extensions.remove::<Identity>() {
//!         request.extensions_mut().insert(identity);
//!     }
//!     request
//! }
//! # let mut request = Request::post("/github").header("cookie", "a=b").body(()).unwrap();
//! # request.extensions_mut().insert(Identity::builder("user-1").build().unwrap());
//! # let request = outgoing(request, &Uri::from_static("https://mcp.example.com/mcp"));
//! # assert!(request.headers().is_empty());
//! # assert!(request.extensions().get::<Identity>().is_some());
//! ```
//!
//! Do not forward `Host`: it names you, and [`AuthLayer`](crate::AuthLayer) refuses the request. Do not forward
//! `Authorization`: it was meant for you. The validator removes it. Do not forward cookies.
//!
//! # 3. One client for each backend, one service for each session
//!
//! Build the backend's client with its [`AuthLayer`](crate::AuthLayer) once. When a session begins, wrap a clone of it in
//! what belongs to the session:
//!
//! ```
//! use tower::Layer;
//! use tower_identity::{
//!     BindSubject, FallbackPolicy, Identity, IdentityLayer,
//!     incoming::BindSubjectService, outgoing::IdentityService,
//! };
//!
//! fn open<S: Clone>(user: &Identity, backend: &S) -> IdentityService<BindSubjectService<S>> {
//!     let captured = IdentityLayer::new(user.clone())
//!         .fallback(FallbackPolicy::teardown())
//!         .follow_requests();
//!     captured.layer(BindSubject::to(user.clone()).layer(backend.clone()))
//! }
//! # let _ = open::<()>;
//! ```
//!
//! - Keep these in a map that is bounded and forgets idle sessions, by the backend's name and the `Mcp-Session-Id` that it
//!   gave.
//! - [`BindSubject`](crate::BindSubject) refuses whoever knows the id of another user's session.
//! - Each call carries its own identity, so the captured one is for what the gateway sends by itself. If that is only the
//!   `DELETE`, the policy is [`teardown`](crate::FallbackPolicy::teardown);
//!   [others](crate::outgoing::identity#which-policy-fits-which-client) fit other gateways.
//!
//! # 4. Answer for what fails
//!
//! ```
//! use bytes::Bytes;
//! use http::{Response, StatusCode};
//! use http_body_util::Full;
//! use tower::BoxError;
//! use tower_identity::AuthError;
//!
//! fn answer(error: BoxError) -> Response<Full<Bytes>> {
//!     match AuthError::find_in(&*error) {
//!         Some(error) => error.to_response(),
//!         None => {
//!             let mut response = Response::default();
//!             *response.status_mut() = StatusCode::BAD_GATEWAY;
//!             response
//!         }
//!     }
//! }
//! # use tower_identity::AuthErrorKind;
//! # let error = AuthError::new(AuthErrorKind::Unavailable, "the issuer is down");
//! # assert_eq!(answer(error.into()).status(), StatusCode::SERVICE_UNAVAILABLE);
//! ```
//!
//! The caller learns nothing of what is inside; write the error to your log. What a backend says about credentials is
//! between it and you: do not relay its 401 with its challenge, but answer one of your own.
//!
//! # 5. Stream
//!
//! The layers pass bodies on as they are. Do not gather them, and set timeouts for the head of a response, not for its
//! body: an event stream stays open for hours. [`AwsSts`](crate::AwsSts) is the exception: it gathers the request's body,
//! to sign it.
//!
//! # 6. Stop
//!
//! Take no new connections, send the `DELETE` of each open session (nobody asked for these, so the fallback fills the gap),
//! and give what is under way a while to end.
//!
//! # Go on
//!
//! - Backends out of a file: [`crate::config`]. Several replicas: [`crate::guide::replicas`].
//! - Spans and metrics: [`crate::telemetry`].
//! - `cargo run --all-features --example gateway` drives a user's day through it.
