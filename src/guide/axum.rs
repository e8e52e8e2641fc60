//! Protect an axum API, and call backends as its caller.
//!
//! With the feature `axum`, a handler takes the caller's [`Identity`](crate::Identity) as an argument and returns an
//! [`AuthError`](crate::AuthError) with `?`. `examples/axum.rs` is a complete program.
//!
//! ```toml
//! tower-identity = { version = "0.1", features = [
//!     "axum", "hyper", "incoming",
//! ] }
//! axum = "0.8"
//! ```
//!
//! # 1. Put the layer around the routes
//!
//! [`TokenValidatorLayer`](crate::TokenValidatorLayer) validates the caller's bearer token. A request without a valid
//! token does not reach the handler.
//!
//! ```
//! use axum::{Router, routing::get};
//! use tower_identity::{
//!     AuthError, Identity, TokenValidator, TokenValidatorLayer,
//! };
//!
//! async fn whoami(caller: Identity) -> Result<String, AuthError> {
//!     Ok(caller.subject().to_owned())
//! }
//!
//! fn router(validator: TokenValidator) -> Router {
//!     Router::new()
//!         .route("/whoami", get(whoami))
//!         .layer(TokenValidatorLayer::new(validator))
//! }
//! # let _ = router;
//! ```
//!
//! If there is no layer around a route whose handler takes an `Identity`, each request to it is answered with 401, so a
//! forgotten layer opens nothing. The log then has the warning "a handler needs an identity", which says what to do.
//!
//! If the compiler says that `Handler` is not implemented for such a handler, the feature `axum` is missing.
//!
//! # 2. Choose between `layer` and `route_layer`
//!
//! | method | an unknown path is answered with |
//! | --- | --- |
//! | `Router::layer` | 401 without a token. A stranger does not learn which paths exist |
//! | `Router::route_layer` | 404 |
//!
//! Both cover only the routes that were added before.
//!
//! # 3. Leave routes open
//!
//! A route that is added after the layer is open, for example a health check:
//!
//! ```
//! # use axum::{Router, routing::get};
//! # use tower_identity::{TokenValidator, TokenValidatorLayer};
//! # async fn whoami() {}
//! # fn router(validator: TokenValidator) -> Router {
//! Router::new()
//!     .route("/whoami", get(whoami))
//!     .layer(TokenValidatorLayer::new(validator))
//!     .route("/health", get(async || "up"))
//! # }
//! # let _ = router;
//! ```
//!
//! A route that answers strangers and users differently takes an `Option<Identity>`, beneath a layer with
//! [`allow_anonymous`](crate::TokenValidatorLayer::allow_anonymous). A handler beneath the same layer that takes an
//! `Identity` still answers a stranger with 401, and the layer adds where to log in to the challenge.
//!
//! ```
//! # use axum::{Router, routing::get};
//! # use tower_identity::{Identity, TokenValidator, TokenValidatorLayer};
//! async fn greeting(caller: Option<Identity>) -> String {
//!     match caller {
//!         Some(caller) => format!("hello, {}", caller.subject()),
//!         None => "hello, stranger".to_owned(),
//!     }
//! }
//!
//! # fn router(validator: TokenValidator) -> Router {
//! Router::new()
//!     .route("/", get(greeting))
//!     .layer(TokenValidatorLayer::new(validator).allow_anonymous())
//! # }
//! # let _ = router;
//! ```
//!
//! # 4. Put CORS outside
//!
//! A browser's preflight request (`OPTIONS`) has no token. Add tower-http's `CorsLayer` after the validator, so that it
//! is around it and answers the preflight. In the wrong order it gets 401, and the event "a caller was refused" says so.
//!
//! ```
//! # use axum::{Router, routing::get};
//! # use tower_http::cors::CorsLayer;
//! # use tower_identity::{TokenValidator, TokenValidatorLayer};
//! # async fn whoami() {}
//! # fn router(validator: TokenValidator) -> Router {
//! Router::new()
//!     .route("/whoami", get(whoami))
//!     .layer(TokenValidatorLayer::new(validator))
//!     .layer(CorsLayer::permissive())
//! # }
//! # let _ = router;
//! ```
//!
//! # 5. Call a backend as the caller
//!
//! Insert the `Identity` into the extensions of the outgoing request. [`AuthLayer`](crate::AuthLayer) and its strategy
//! turn it into a credential. The stack's error is a `tower::BoxError`, in which
//! [`AuthError::find_in`](crate::AuthError::find_in) finds an `AuthError`. Any other error means that the backend was not
//! reached.
//!
//! ```
//! use axum::body::Body;
//! use http::{Request, Response};
//! use tower::{BoxError, Service, ServiceExt};
//! use tower_identity::{AuthError, AuthErrorKind, Identity};
//!
//! async fn call<S, B>(
//!     client: S,
//!     caller: Identity,
//!     mut request: Request<Body>,
//! ) -> Result<Response<B>, AuthError>
//! where
//!     S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
//! {
//!     request.extensions_mut().insert(caller);
//!     let response = client.oneshot(request).await;
//!     response.map_err(|error| match AuthError::find_in(&*error) {
//!         Some(error) => error.clone(),
//!         None => {
//!             let message = "the backend cannot be reached";
//!             AuthError::new(AuthErrorKind::Unavailable, message)
//!                 .with_source(error)
//!         }
//!     })
//! }
//! ```
//!
//! The handler's response then says what the caller must do: 401 with a challenge to log in again, 403 for a missing
//! scope, 503 with `Retry-After` for an outage. It reveals nothing internal.
//!
//! # 6. Demand tokens that are bound to a key
//!
//! A bearer token can be used by whoever steals it. With a [`DpopPolicy`](crate::incoming::DpopPolicy) (feature `dpop`),
//! callers prove with each request that they have the key of their token (RFC 9449). Without
//! [`require`](crate::incoming::DpopPolicy::require), tokens that are not bound are still accepted, so that callers can
//! change over one by one.
//!
//! ```
//! use tower_identity::{
//!     BuildError, KeySet, TokenValidator, incoming::DpopPolicy,
//! };
//!
//! fn validator(keys: KeySet) -> Result<TokenValidator, BuildError> {
//!     TokenValidator::builder_with_keys("https://idp.example.com", keys)
//!         .audience("https://api.example.com")
//!         // The URL that callers use. A proof for another one is refused.
//!         .dpop(DpopPolicy::new().url("https://api.example.com").require())
//!         .build()
//! }
//! # let _ = validator;
//! ```
//!
//! A router that is nested at `/api` sees a shorter path than its caller: give
//! [`url`](crate::incoming::DpopPolicy::url) the path that it lacks, `https://api.example.com/api`. For callers in a
//! browser, [CORS](#4-put-cors-outside) must allow the header `DPoP`, and expose `WWW-Authenticate` and `DPoP-Nonce`.
//!
//! # 7. Test it
//!
//! [Test your gateway](crate::guide::test_your_gateway) runs such an API without network, through refreshes and outages.
//! `examples/axum.rs` is built in the same way.
