//! I write my own strategy.
//!
//! A [`Strategy`](crate::Strategy) puts credentials onto a request, or says why not. It is asked after
//! the origin was checked, and what it refuses is not sent.
//!
//! # 1. A closure may be enough
//!
//! [`strategy_fn`](crate::strategy_fn) makes one of a closure that returns a future. It costs one allocation for each
//! request, and has the name `custom`.
//!
//! # 2. Else a type
//!
//! This one has a ticket issued for the user, and keeps it:
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//!
//! use http::Request;
//! use tower_identity::{
//!     AccessToken, AuthError, AuthErrorKind, Authenticating, BuildError, CredentialCache,
//!     HealthCheck, Identity, Strategy, credential::{CacheKey, CacheScope, Obtained},
//!     strategy::Attempt,
//! };
//!
//! /// A clone shares the tickets.
//! #[derive(Clone)]
//! struct Tickets {
//!     issuer: Arc<str>,
//!     scope: CacheScope,
//!     cache: CredentialCache<AccessToken>,
//! }
//!
//! impl Tickets {
//!     fn new(issuer: &str) -> Result<Self, BuildError> {
//!         Ok(Self {
//!             issuer: issuer.into(),
//!             scope: CacheScope::new("tickets").field("issuer", issuer),
//!             cache: CredentialCache::builder().build()?,
//!         })
//!     }
//!
//!     fn key(&self, users_token: &AccessToken) -> CacheKey {
//!         self.scope.key(users_token.fingerprint())
//!     }
//! }
//!
//! impl<B: Send + 'static> Strategy<B> for Tickets {
//!     fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
//!         if request.extensions().get::<HealthCheck>().is_some() {
//!             return Authenticating::done();
//!         }
//!         let Some(identity) = request.extensions().get::<Identity>() else {
//!             return AuthError::new(AuthErrorKind::MissingIdentity, "a ticket is for a user").into();
//!         };
//!         let Some(users_token) = identity.token().cloned() else {
//!             return AuthError::new(AuthErrorKind::MissingToken, "a ticket is issued for a token").into();
//!         };
//!         let key = self.key(&users_token);
//!         match self.cache.lookup(&key, None) {
//!             Ok(Some(ticket)) => {
//!                 put(ticket, request);
//!                 Authenticating::done()
//!             }
//!             Ok(None) => {
//!                 let issuer = self.issuer.clone();
//!                 let ticket = self.cache.obtain(key, None, || issue(issuer, users_token));
//!                 Authenticating::pending(async move |mut request: Request<B>| {
//!                     put(ticket.await?, &mut request);
//!                     Ok(request)
//!                 })
//!             }
//!             Err(error) => error.into(),
//!         }
//!     }
//!
//!     fn reject(&self, request: &Request<B>, _sent: Attempt) -> bool {
//!         let identity = request.extensions().get::<Identity>();
//!         let Some(users_token) = identity.and_then(Identity::token) else {
//!             return false;
//!         };
//!         self.cache.invalidate(&self.key(users_token), |_ticket| true);
//!         true
//!     }
//!
//!     fn name(&self) -> &'static str {
//!         "tickets"
//!     }
//! }
//!
//! fn put<B>(ticket: AccessToken, request: &mut Request<B>) {
//!     request.headers_mut().insert("authorization", ticket.authorization().clone());
//! }
//!
//! async fn issue(_issuer: Arc<str>, _users_token: AccessToken) -> Result<Obtained<AccessToken>, AuthError> {
//!     // Ask the issuer here, with a client of its own.
//!     let ticket = AccessToken::new("2YotnFZFEjr1zCsicMWpAA").map_err(|error| {
//!         AuthError::new(AuthErrorKind::Unavailable, "the issuer's ticket cannot be sent").with_source(error)
//!     })?;
//!     Ok(Obtained::new(ticket).expires_in(Duration::from_secs(600)))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! let tickets = Tickets::new("https://tickets.example.com")?;
//! let mut request = Request::new(());
//! let identity = Identity::builder("user-1").token(AccessToken::new("eyJhbGciOiJFUzI1NiJ9")?).build()?;
//! request.extensions_mut().insert(identity);
//! let request = tickets.authenticate(&mut request).complete(request).await?;
//! assert_eq!(request.headers()["authorization"], "Bearer 2YotnFZFEjr1zCsicMWpAA");
//! # Ok(())
//! # }
//! ```
//!
//! # 3. What to see to
//!
//! - **Health checks.** A [`HealthCheck`](crate::HealthCheck) has no user. Let it pass without a credential, or with the
//!   application's own; never with some user's.
//! - **Clones.** [`AuthService`](crate::AuthService) is cloned, and the strategy with it. State is in an `Arc`, or the whole
//!   strategy is: `Arc<dyn Strategy<B>>` is a strategy.
//! - **Done or pending.** [`Authenticating::done`](crate::Authenticating::done) allocates nothing, and the inner service is
//!   not cloned. [`Authenticating::pending`](crate::Authenticating::pending) boxes its closure and its future.
//! - **The key.** Everything that is configured goes into the [`CacheScope`](crate::credential::cache::CacheScope), and the
//!   user's token into the key. What is missing there is shared by those who should not share.
//! - **The client.** Ask the issuer with a client of its own, not through the stack that waits for you:
//!   [why](crate::AuthLayer#readiness-is-held).
//! - **The end.** Where the end of the user's token is known, give it to `lookup` and `obtain`: a subject that has expired
//!   gets nothing.
//! - **Errors.** Choose the [kind](crate::AuthErrorKind) by who can help: the caller (`Rejected`), time (`Unavailable`) or
//!   the operator (`Configuration`). The text says what to do next, and holds no secret.
//! - **Headers.** Insert, do not append. Mark a value of your own sensitive;
//!   [`AccessToken::authorization`](crate::AccessToken::authorization) is.
//! - **`Host` and URI** stay as they are.
//!
//! # 4. After a 401
//!
//! [`Reauthenticate`](crate::Reauthenticate) asks [`reject`](crate::Strategy::reject) whether there is another credential.
//! Without it the 401 goes to the caller. The one above drops whatever is kept for the user. So when several calls are
//! rejected together, a ticket that one of them has just had replaced may be replaced once more. To tell these apart,
//! [count](crate::strategy::Attempt::count_rejection) each ticket that you drop, and keep by its key when that was; a ticket
//! is dropped only if none of its key was after the `Attempt` that `reject` is given.
//! [`CredentialCache::reject`](crate::CredentialCache::reject) does all of that.
//!
//! # 5. Its name
//!
//! [`name`](crate::Strategy::name) is the label `strategy` of [spans and metrics](crate::telemetry): one for all of its
//! kind, without a tenant's or a user's name in it. For the use in a configuration file it is
//! [registered](crate::config::ResourcesBuilder::strategy) under a name of its own.
