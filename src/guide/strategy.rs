//! Write your own strategy.
//!
//! A [`Strategy`](crate::Strategy) puts a credential onto a request, or refuses the request with an error.
//! [`AuthLayer`](crate::AuthLayer) calls it after the check of the origin, and does not send what it refuses.
//!
//! # 1. The shortest form
//!
//! A closure is enough when your code only has a request to change. [`strategy_fn`](crate::strategy_fn) boxes the
//! closure's future for each request, and its name in spans and metrics is `custom`.
//!
//! ```
//! use http::{HeaderValue, Request};
//! use tower_identity::{AuthLayer, Origin, strategy_fn};
//!
//! let strategy = strategy_fn(async |mut request: Request<String>| {
//!     let tenant = HeaderValue::from_static("blue");
//!     request.headers_mut().insert("x-tenant", tenant);
//!     Ok(request)
//! });
//! let origin = Origin::try_from("https://mcp.example.com")?;
//! let layer = AuthLayer::new(origin, strategy);
//! # Ok::<(), tower_identity::InvalidOrigin>(())
//! ```
//!
//! A closure that captures something returns an `async` block with a clone of it, as at
//! [`strategy_fn`](crate::strategy_fn). If the credential is there at once, a type that implements
//! [`Strategy`](crate::Strategy) allocates nothing. The documentation of the trait has the smallest such type.
//!
//! # 2. A strategy that obtains a credential
//!
//! This one asks an issuer for a ticket of the user, and keeps it in a
//! [`CredentialCache`](crate::CredentialCache). A cached ticket costs no allocation.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//!
//! use http::{
//!     Extensions, HeaderMap, Request, StatusCode, header::AUTHORIZATION,
//!     request, response,
//! };
//! use tower_identity::{
//!     AccessToken, AuthError, AuthErrorKind, Authenticating, CredentialCache,
//!     HealthCheck, Identity, Strategy,
//!     credential::{CacheScope, Obtained},
//!     strategy::Rejection,
//! };
//!
//! /// Clones share the tickets.
//! #[derive(Clone)]
//! struct Tickets {
//!     issuer: Arc<str>,
//!     scope: CacheScope,
//!     cache: CredentialCache<AccessToken>,
//! }
//!
//! impl<B: Send + 'static> Strategy<B> for Tickets {
//!     fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
//!         if request.extensions().get::<HealthCheck>().is_some() {
//!             return Authenticating::done();
//!         }
//!         let token = match users_token(request.extensions()) {
//!             Ok(token) => token,
//!             Err(error) => return error.into(),
//!         };
//!         let key = self.scope.key(token.fingerprint());
//!         match self.cache.lookup(&key, None) {
//!             Ok(Some(ticket)) if !is_on(request.headers(), &ticket) => {
//!                 put(ticket, request);
//!                 return Authenticating::done();
//!             }
//!             Ok(_) => {}
//!             Err(error) => return error.into(),
//!         }
//!         // A request that was rejected still has its ticket: it needs another.
//!         let headers = request.headers();
//!         let is_rejected = |ticket: &AccessToken| is_on(headers, ticket);
//!         let (issuer, token) = (self.issuer.clone(), token.clone());
//!         let fetch = || issue(issuer, token);
//!         let obtaining = self.cache.replace(key, None, is_rejected, fetch);
//!         Authenticating::pending(async move |mut request: Request<B>| {
//!             put(obtaining.await?, &mut request);
//!             Ok(request)
//!         })
//!     }
//!
//!     fn rejected(
//!         &self,
//!         sent: &request::Parts,
//!         response: &response::Parts,
//!     ) -> Rejection {
//!         if response.status != StatusCode::UNAUTHORIZED {
//!             return Rejection::of(response);
//!         }
//!         let Ok(token) = users_token(&sent.extensions) else {
//!             return Rejection::NothingHelps;
//!         };
//!         let key = self.scope.key(token.fingerprint());
//!         match self.cache.reject(&key, |ticket| is_on(&sent.headers, ticket)) {
//!             true => Rejection::AnotherCredential,
//!             false => Rejection::NothingHelps,
//!         }
//!     }
//!
//!     fn name(&self) -> &'static str {
//!         "tickets"
//!     }
//! }
//!
//! fn users_token(extensions: &Extensions) -> Result<&AccessToken, AuthError> {
//!     let identity = extensions.get::<Identity>().ok_or_else(|| {
//!         AuthError::new(AuthErrorKind::MissingIdentity, "a ticket is for a user")
//!     })?;
//!     identity.token().ok_or_else(|| {
//!         AuthError::new(AuthErrorKind::MissingToken, "a ticket needs a token")
//!     })
//! }
//!
//! fn is_on(headers: &HeaderMap, ticket: &AccessToken) -> bool {
//!     headers.get(AUTHORIZATION) == Some(ticket.authorization())
//! }
//!
//! fn put<B>(ticket: AccessToken, request: &mut Request<B>) {
//!     let authorization = ticket.authorization().clone();
//!     request.headers_mut().insert(AUTHORIZATION, authorization);
//! }
//!
//! async fn issue(
//!     _issuer: Arc<str>,
//!     _users_token: AccessToken,
//! ) -> Result<Obtained<AccessToken>, AuthError> {
//!     // Ask the issuer here, with a separate HTTP client.
//!     let ticket = AccessToken::new("2YotnFZFEjr1zCsicMWpAA").map_err(|error| {
//!         AuthError::new(AuthErrorKind::Unavailable, "the ticket cannot be sent")
//!             .with_source(error)
//!     })?;
//!     Ok(Obtained::new(ticket).expires_in(Duration::from_secs(600)))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! let issuer = "https://tickets.example.com";
//! let tickets = Tickets {
//!     issuer: issuer.into(),
//!     scope: CacheScope::new("tickets").field("issuer", issuer),
//!     cache: CredentialCache::builder().build()?,
//! };
//! let mut request = Request::new(());
//! let identity = Identity::builder("user-1")
//!     .token(AccessToken::new("eyJhbGciOiJFUzI1NiJ9")?)
//!     .build()?;
//! request.extensions_mut().insert(identity);
//! let request = tickets.authenticate(&mut request).complete(request).await?;
//! assert_eq!(request.headers()["authorization"], "Bearer 2YotnFZFEjr1zCsicMWpAA");
//! # Ok(())
//! # }
//! ```
//!
//! # 3. A strategy that signs the body
//!
//! Such a strategy names the type of the body, or the traits that it needs. The closure of
//! [`Authenticating::pending`](crate::Authenticating::pending) owns the request while it reads the body.
//!
//! ```
//! use bytes::Bytes;
//! use http::{HeaderValue, Request};
//! use http_body_util::{BodyExt, Full};
//! use tower_identity::{AuthError, Authenticating, Secret, Strategy};
//!
//! #[derive(Clone)]
//! struct SignedBody {
//!     key: Secret,
//! }
//!
//! impl Strategy<Full<Bytes>> for SignedBody {
//!     fn authenticate(
//!         &self,
//!         _request: &mut Request<Full<Bytes>>,
//!     ) -> Authenticating<Full<Bytes>> {
//!         let key = self.key.clone();
//!         Authenticating::pending(async move |request: Request<Full<Bytes>>| {
//!             let (mut head, body) = request.into_parts();
//!             let Ok(body) = body.collect().await;
//!             let bytes = body.to_bytes();
//!             head.headers.insert("x-signature", sign(&key, &bytes)?);
//!             Ok(Request::from_parts(head, Full::new(bytes)))
//!         })
//!     }
//! }
//!
//! fn sign(_key: &Secret, _bytes: &[u8]) -> Result<HeaderValue, AuthError> {
//!     // Compute an HMAC here.
//!     let mut signature = HeaderValue::from_static("c2lnbmF0dXJl");
//!     signature.set_sensitive(true);
//!     Ok(signature)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! let strategy = SignedBody { key: Secret::new("kept-by-both")? };
//! let mut request = Request::new(Full::new(Bytes::from_static(b"{}")));
//! let request = strategy.authenticate(&mut request).complete(request).await?;
//! assert_eq!(request.headers()["x-signature"], "c2lnbmF0dXJl");
//! # Ok(())
//! # }
//! ```
//!
//! # 4. Points to check
//!
//! - **Health checks.** A [`HealthCheck`](crate::HealthCheck) has no user. Let it pass without a credential, or with the
//!   credential of the application, and never with that of a user.
//! - **Clones.** [`AuthService`](crate::outgoing::AuthService) is cloned, and the strategy with it. Keep state in an
//!   `Arc`, or wrap the strategy: `Arc<dyn Strategy<B>>` is a strategy.
//! - **Done or pending.** [`Authenticating::done`](crate::Authenticating::done) allocates nothing, and the inner service
//!   is not cloned. [`Authenticating::pending`](crate::Authenticating::pending) boxes its closure and its future.
//! - **The key.** Put the whole configuration into the [`CacheScope`](crate::credential::CacheScope), and the user's
//!   token into the key. Two strategies, or two users, whose keys are equal share a credential.
//! - **The client.** Ask the issuer with a separate client, because the stack below may be
//!   [waiting for this strategy](crate::AuthLayer#readiness-is-held).
//! - **Expiry.** If the expiry of the user's token is known, pass it to `lookup` and `obtain`. An expired token then gets
//!   no credential.
//! - **Errors.** Choose the [kind](crate::AuthErrorKind) by who can help: the caller (`Rejected`), time (`Unavailable`) or
//!   the operator (`Configuration`). The text says what to do next, and holds no secret.
//! - **Headers.** Insert, do not append: a retried request has its former credential. Mark header values sensitive.
//!   [`AccessToken::authorization`](crate::AccessToken::authorization) is already marked.
//! - **`Host` and URI** stay as they are.
//!
//! # 5. After a rejection
//!
//! With [`retry_rejected`](crate::AuthLayer::retry_rejected) the layer asks
//! [`rejected`](crate::Strategy::rejected) about each response with a status of 400 to 499. Compare the credential that
//! was sent with the cached one, as above, and drop the cached one only if they are equal. Many calls that were rejected
//! together then cause one request to the issuer.
//!
//! The provided method says that no other credential helps, so the response goes to the caller.
//!
//! # 6. Its name
//!
//! [`name`](crate::Strategy::name) is the label `strategy` of [spans and metrics](crate::telemetry). It is the same for
//! all strategies of a type, and contains no tenant and no user. To use a strategy in a configuration file,
//! [register](crate::config::ResourcesBuilder::strategy) it under a name.
