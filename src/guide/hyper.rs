//! I have a hyper client.
//!
//! # 1. Take a client
//!
//! [`https_client`](crate::client::hyper::https_client) (feature `hyper`) is a hyper-util client over rustls. Any hyper-util
//! client of your own does as well, and so does everything else that is a `Service<Request<B>>`. Make one and clone it:
//! clones share the connections.
//!
//! # 2. Put the layers on top
//!
//! One [`AuthLayer`](crate::AuthLayer) for each backend, bound to its origin, and one
//! [`IdentityLayer`](crate::IdentityLayer) for each session.
//!
//! ```
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use tower::{BoxError, Layer};
//! use tower_identity::{
//!     AuthLayer, FallbackPolicy, Identity, IdentityLayer, Origin, UpstreamInject,
//!     client::hyper::{HttpsClient, https_client},
//!     outgoing::{AuthService, IdentityService},
//! };
//!
//! type Backend = AuthService<HttpsClient<Full<Bytes>>, UpstreamInject>;
//!
//! /// Once for each backend.
//! fn backend() -> Result<Backend, BoxError> {
//!     let origin = Origin::try_from("https://mcp.example.com")?;
//!     Ok(AuthLayer::new(origin, UpstreamInject::new("github")?).layer(https_client()?))
//! }
//!
//! /// Once for each session.
//! fn session(at_log_in: Identity, backend: &Backend) -> IdentityService<Backend> {
//!     IdentityLayer::new(at_log_in).fallback(FallbackPolicy::teardown()).layer(backend.clone())
//! }
//! # let _ = session(Identity::builder("user-1").build()?, &backend()?);
//! # Ok::<(), BoxError>(())
//! ```
//!
//! # 3. Put the identity on each request
//!
//! The identity travels in the request's extensions. The URI is absolute, as the origin is checked.
//!
//! ```no_run
//! use http::{Request, StatusCode};
//! use tower::{BoxError, Service, ServiceExt};
//! use tower_identity::{AuthError, Identity};
//! # use bytes::Bytes;
//! # use http_body_util::Full;
//! # use tower_identity::{
//! #     UpstreamInject, client::hyper::HttpsClient,
//! #     outgoing::{AuthService, IdentityService},
//! # };
//! # type Session = IdentityService<AuthService<HttpsClient<Full<Bytes>>, UpstreamInject>>;
//!
//! async fn call(session: &mut Session, identity: Identity) -> Result<StatusCode, BoxError> {
//!     let mut request = Request::post("https://mcp.example.com/mcp").body(Full::from("{}"))?;
//!     request.extensions_mut().insert(identity);
//!     match session.ready().await?.call(request).await {
//!         Ok(response) => Ok(response.status()),
//!         Err(error) => match AuthError::find_in(&*error) {
//!             Some(error) => Ok(error.to_response::<Full<Bytes>>().status()),
//!             None => Err(error),
//!         },
//!     }
//! }
//! ```
//!
//! # 4. Say when
//!
//! [`FallbackPolicy`](crate::FallbackPolicy) says which requests without an identity get the session's:
//! [which policy fits which client](crate::outgoing::identity#which-policy-fits-which-client).
//!
//! # Go on
//!
//! - What else than the user's own token can leave: the [strategies](crate::strategy).
//! - Timeouts: [what the client does](crate::client::hyper#what-it-does), and what is left to you.
//! - Redirects: put [`FollowRedirect`](https://docs.rs/tower-http/latest/tower_http/follow_redirect/index.html) above the
//!   layers, never beneath.
//! - `cargo run --all-features --example inject` runs as it is.
