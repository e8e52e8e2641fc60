//! Add the layers to a hyper client.
//!
//! # 1. Choose a client
//!
//! [`https_client`](crate::client::hyper::https_client) (feature `hyper`) builds a hyper-util client over rustls. Your
//! own hyper-util client works as well, and so does any other `Service<Request<B>>`. Build one client and clone it,
//! because clones share their connections.
//!
//! # 2. Put the layers on top
//!
//! Each backend has one [`AuthLayer`](crate::AuthLayer), which is bound to the backend's origin. Each session has one
//! [`IdentityLayer`](crate::IdentityLayer), which holds the identity that the user logged in with.
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
//!     let auth = AuthLayer::new(origin, UpstreamInject::new("github")?);
//!     Ok(auth.layer(https_client()?))
//! }
//!
//! /// Once for each session.
//! fn session(user: Identity, backend: &Backend) -> IdentityService<Backend> {
//!     IdentityLayer::new(user)
//!         .fallback(FallbackPolicy::teardown())
//!         .layer(backend.clone())
//! }
//! # let _ = session(Identity::builder("user-1").build()?, &backend()?);
//! # Ok::<(), BoxError>(())
//! ```
//!
//! # 3. Put the identity on each request
//!
//! Insert the [`Identity`](crate::Identity) into the request's extensions. Give the request an absolute URI, because
//! [`AuthLayer`](crate::AuthLayer) checks its origin.
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
//! # type Backend = AuthService<HttpsClient<Full<Bytes>>, UpstreamInject>;
//! # type Session = IdentityService<Backend>;
//!
//! async fn call(
//!     session: &mut Session,
//!     identity: Identity,
//! ) -> Result<StatusCode, BoxError> {
//!     let mut request = Request::post("https://mcp.example.com/mcp")
//!         .body(Full::from("{}"))?;
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
//! # 4. Choose the fallback policy
//!
//! The [`FallbackPolicy`](crate::FallbackPolicy) selects the requests without an identity that get the session's
//! identity. For example, `teardown()` allows it only for the `DELETE` that ends a session. [This
//! table](crate::IdentityLayer#which-policy-fits-which-client) shows which policy fits which client.
//!
//! # 5. Present a client certificate
//!
//! A backend or an issuer may demand mutual TLS, and an issuer may bind its tokens to the certificate (RFC 8705).
//! [`CertificateSource`](crate::client::hyper::CertificateSource) reads the certificate and its key from files, and again
//! when they are replaced. Give the same source to the client of the token endpoint, to the endpoint, and to the client of
//! the backend:
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, StatusCode};
//! use http_body_util::Full;
//! use tower::{BoxError, Layer, ServiceExt};
//! use tower_identity::{
//!     AuthLayer, ClientAuth, Identity, Origin, TokenEndpoint, TokenExchange,
//!     client::hyper::{CertificateSource, HttpsClient},
//! };
//!
//! async fn call(
//!     certificate: &CertificateSource,
//!     identity: Identity,
//! ) -> Result<StatusCode, BoxError> {
//!     let client = || {
//!         HttpsClient::<Full<Bytes>>::builder()
//!             .client_certificate(certificate.clone())
//!             .build()
//!     };
//!     let url = "https://mtls.idp.example.com/token";
//!     let endpoint = TokenEndpoint::builder(url, client()?)
//!         .client_auth(ClientAuth::tls_client_auth("gateway"))
//!         .client_certificate(certificate.clone())
//!         .build()?;
//!     let strategy = TokenExchange::builder(endpoint)
//!         .audience("mcp-backend")
//!         .build()?;
//!     let origin = Origin::try_from("https://mcp.example.com")?;
//!     // Build the stack once, and clone it for each call.
//!     let backend = AuthLayer::new(origin, strategy)
//!         .retry_rejected()
//!         .layer(client()?);
//!
//!     let mut request =
//!         Request::get("https://mcp.example.com/").body(Full::default())?;
//!     request.extensions_mut().insert(identity);
//!     Ok(backend.oneshot(request).await?.status())
//! }
//! # let _ = call;
//! ```
//!
//! A certificate-bound token is a bearer token that is good only over a connection with its certificate. The strategies
//! send it as any other. After the files were replaced, requests go over new connections, with tokens that are bound to
//! the new certificate. [`retry_rejected`](crate::AuthLayer::retry_rejected) catches a request that comes in between.
//! Upstream tokens that `UpstreamInject` sends are an exception: they stay bound to the certificate of their last refresh,
//! until they expire.
//!
//! `cargo run --all-features --example mutual_tls` shows both sides: the client, and a server that compares the
//! certificate of the connection with the token.
//!
//! # Next steps
//!
//! - Send another credential than the user's own token: see the [strategies](crate::strategy).
//! - Set timeouts: [the client](crate::client::hyper#what-it-does) limits only the time to connect.
//! - Follow redirects: put [`FollowRedirect`](https://docs.rs/tower-http/latest/tower_http/follow_redirect/index.html)
//!   above the layers, never beneath them.
//! - Run a complete program: `cargo run --all-features --example inject`.
