//! [`UpstreamTokens`]: the tokens of a session, fresh for each request and on every replica.
//!
//! ```no_run
//! # use bytes::Bytes;
//! # use http_body_util::Full;
//! # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower_identity::{
//!     ClientAuth, MemoryStore, Secret, TokenEndpoint, UpstreamTokens,
//!     upstream::{Provider, RefreshTokenGrant},
//! };
//!
//! # async fn load(session: &str) -> Result<(), tower::BoxError> {
//! # let secret = Secret::new("7Fjfp0ZBr1KtDRbnfVdmIw").unwrap();
//! # let token_client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
//! let endpoint = TokenEndpoint::builder("https://github.example.com/token", token_client)
//!     .client_auth(ClientAuth::basic("gateway", secret))
//!     .build()?;
//! let github = Provider::new("github", RefreshTokenGrant::new(endpoint))?;
//! let upstream = UpstreamTokens::new(MemoryStore::new(), [github]);
//!
//! let tokens = upstream.load(session).await?;
//! let token = tokens.tokens().get("github");
//! # Ok(())
//! # }
//! ```
//!
//! # What a request gets
//!
//! The store is asked once for all providers, and what has to be refreshed is refreshed side by side. The windows are
//! those of the [credential cache](crate::credential::cache#when-a-credential-is-renewed), counted from when the tokens
//! were issued. An expired token is never handed out.
//!
//! | a provider's tokens | the request |
//! | --- | --- |
//! | good | gets them |
//! | in the advisory window | gets them, and a refresh starts in the background |
//! | in the mandatory window | waits for the refresh; gets the old ones if it fails |
//! | expired | waits for the refresh |
//! | expired, without a refresh token; or not there, and not [optional](Provider::optional) | [`login_required`](LoadedTokens::login_required) |
//! | expired, the refresh token is refused (`invalid_grant`) | `login_required`; they are removed |
//! | expired, the refresh fails in another way | [`failed`](LoadedTokens::failed), with the error; other providers are not touched |
//!
//! # What happens when something breaks
//!
//! A refresh token is spent by one at a time: one refresh in this process, and across replicas whoever holds the
//! [lease](super::store#how-one-refresh-at-a-time-is-kept). A refresh goes on without the request that started it.
//!
//! | what breaks | what happens |
//! | --- | --- |
//! | the store cannot be asked | `Unavailable` at once, for the store bounds its time; nothing is spent. It is never taken for a busy holder |
//! | the reply to a claim is lost | nothing is spent; the claim is taken back in the background |
//! | the store fails after the refresh token was spent | those who wait get the new tokens, this process goes on serving them, and stores them as soon as it can, for two minutes |
//! | the issuer fails, or does not answer | `Unavailable`; the refresh token is presented again after the cache's back-off. An issuer that did spend it refuses, and a log-in is needed |
//! | a holder dies before it spends, while it spends, or before it stores | the lease runs out. Nobody knows whether the refresh token was spent, so it is not presented again: `Unavailable` for the two minutes in which the holder may only seem dead, then the tokens are removed and a log-in is needed. With [`Provider::grace`], it is presented again at once |
//! | a lease runs out while its holder works on | it may still store, if nobody claimed since; if somebody did, its fence is old: it is refused, and reads what the other stored |
//! | two refresh at once all the same, and the loser is refused by the issuer | the loser removes nothing (it compares), and reads the winner's tokens |
//! | the user logs in, or out, during a refresh | the log-in's tokens stay, the deleted session stays deleted |
//! | the store loses its data | every provider needs a log-in |
//!
//! # Security
//!
//! Neither the session's id nor a token is shown in an error or an event.

use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::join_all;

use crate::{
    clock::{Clock, DefaultClock},
    credential::cache::{CredentialCache, key::CacheScope, single_flight::Obtaining},
    error::{AuthError, AuthErrorKind},
};

use super::{
    loaded_tokens::LoadedTokens,
    provider::{Freshness, Provider, remaining},
    refresh::Refresh,
    store::{Claim, StoredTokens, UpstreamTokenStore},
};

/// How long the holder of a lapsed lease may still settle it.
pub(super) const IN_DOUBT_FOR: Duration = Duration::from_secs(120);

const LEASE_TIME: Duration = Duration::from_secs(10);
pub(super) const UNKNOWN_LIFETIME: Duration = Duration::from_secs(300);
const MAX_SUCCESSORS: usize = 3;

/// Loads the upstream tokens of a session, and refreshes them before they expire.
///
/// A clone is the same. See the [module](self) for what it promises.
#[derive(Clone)]
pub struct UpstreamTokens {
    inner: Arc<Inner>,
}

#[derive(Clone)]
pub(super) struct Inner {
    pub(super) store: Arc<dyn UpstreamTokenStore>,
    providers: BTreeMap<String, Arc<Provider>>,
    refreshes: CredentialCache<StoredTokens>,
    pub(super) lease_time: Duration,
    pub(super) clock: Arc<dyn Clock>,
}

impl UpstreamTokens {
    /// The tokens in `store`, refreshed at `providers`. Of two providers with the same name the last one counts.
    ///
    /// Tokens of a provider that is not among them are handed out until they expire.
    pub fn new<S>(store: S, providers: impl IntoIterator<Item = Provider>) -> Self
    where
        S: UpstreamTokenStore + 'static,
    {
        let providers = providers.into_iter();
        Self {
            inner: Arc::new(Inner {
                store: Arc::new(store),
                providers: providers
                    .map(|provider| (provider.name.clone(), Arc::new(provider)))
                    .collect(),
                refreshes: CredentialCache::builder().make(),
                lease_time: LEASE_TIME,
                clock: DefaultClock::get(),
            }),
        }
    }

    /// Sets the clock.
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.inner);
        inner.refreshes = CredentialCache::builder().clock(clock.clone()).make();
        inner.clock = clock;
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Sets how long the lease of a refresh outlives a replica that died. It is renewed three times as often while the
    /// replica lives. By default 10 s.
    #[must_use]
    pub fn lease_time(self, lease_time: Duration) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.inner);
        inner.lease_time = lease_time;
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The tokens of the session.
    ///
    /// # Errors
    ///
    /// What the store failed with. What went wrong with one provider is in [`LoadedTokens`].
    ///
    /// # Panics
    ///
    /// When it is polled outside of a Tokio runtime with time enabled.
    pub fn load(&self, session: &str) -> LoadingTokens {
        let (upstream, session) = (self.clone(), Arc::from(session));
        LoadingTokens {
            future: Box::pin(async move { upstream.load_unboxed(&session).await }),
        }
    }

    pub(crate) async fn load_unboxed(&self, session: &Arc<str>) -> Result<LoadedTokens, AuthError> {
        self.inner.load(session).await
    }
}

impl fmt::Debug for UpstreamTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTokens")
            .field("store", &self.inner.store)
            .field("providers", &self.inner.providers)
            .finish_non_exhaustive()
    }
}

/// The future of [`UpstreamTokens::load`].
///
/// What it waits for goes on without it: dropping it harms nobody.
#[must_use = "futures do nothing unless polled"]
pub struct LoadingTokens {
    future: Pin<Box<dyn Future<Output = Result<LoadedTokens, AuthError>> + Send>>,
}

impl Future for LoadingTokens {
    type Output = Result<LoadedTokens, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.future.as_mut().poll(cx)
    }
}

impl fmt::Debug for LoadingTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadingTokens").finish_non_exhaustive()
    }
}

impl Inner {
    async fn load(self: &Arc<Self>, session: &Arc<str>) -> Result<LoadedTokens, AuthError> {
        let mut stored = self.store.load(session).await?;
        let now = self.clock.now();
        let mut tokens = LoadedTokens::default();
        let mut waiting = Vec::new();
        for (name, provider) in &self.providers {
            let Some((name, stored)) = stored.remove_entry(name) else {
                if !provider.optional {
                    tokens.add(name.clone(), Err(log_in_again()));
                }
                continue;
            };
            match provider.freshness(&stored, now) {
                Freshness::Settled => tokens.add(name, Ok(stored)),
                Freshness::Advisory => {
                    drop(self.refresh(session, provider, &stored));
                    tokens.add(name, Ok(stored));
                }
                Freshness::Mandatory | Freshness::Expired => {
                    let fresh = self.fresh(session, provider, stored);
                    waiting.push(async { (name, fresh.await) });
                }
            }
        }
        for (name, outcome) in join_all(waiting).await {
            tokens.add(name, outcome);
        }
        for (name, stored) in stored {
            let expires_at = stored.tokens().token().expires_at();
            let is_good = expires_at.is_none_or(|end| remaining(end, now).is_some());
            tokens.add(name, is_good.then_some(stored).ok_or_else(log_in_again));
        }
        Ok(tokens)
    }

    /// What a refresh brings, else `stored` as long as it is good.
    async fn fresh(
        self: &Arc<Self>,
        session: &Arc<str>,
        provider: &Arc<Provider>,
        mut stored: StoredTokens,
    ) -> Result<StoredTokens, AuthError> {
        let asked_at = self.clock.now();
        // Another replica's tokens may expire while this one waits for them.
        for _ in 0..MAX_SUCCESSORS {
            let refreshed = match self.refresh(session, provider, &stored) {
                Some(refreshing) => refreshing.await,
                None => Err(log_in_again()),
            };
            let is_good = |stored: &StoredTokens| {
                !matches!(
                    provider.freshness(stored, self.clock.now()),
                    Freshness::Expired
                )
            };
            stored = match refreshed {
                // Tokens that are issued at their end may be used once, now.
                Ok(refreshed)
                    if is_good(&refreshed) || refreshed.tokens().issued_at() >= asked_at =>
                {
                    return Ok(refreshed);
                }
                Ok(refreshed) => refreshed,
                Err(_) if is_good(&stored) => return Ok(stored),
                Err(error) => return Err(error),
            };
        }
        Err(AuthError::new(
            AuthErrorKind::Unavailable,
            "the upstream provider's tokens expire faster than they are refreshed; check its clock and ours",
        ))
    }

    /// Starts a refresh, or joins the one that is under way for these tokens. `None` without a refresh token.
    fn refresh(
        self: &Arc<Self>,
        session: &Arc<str>,
        provider: &Arc<Provider>,
        stored: &StoredTokens,
    ) -> Option<Obtaining<StoredTokens>> {
        let refresh_token = stored.tokens().refresh_token()?;
        let key = CacheScope::new("upstream-tokens")
            .field("session", session.as_bytes())
            .field("provider", &provider.name)
            .field("version", stored.version().to_bytes())
            .key(refresh_token.fingerprint());
        Some(self.refreshes.obtain(key, None, || {
            let refresh = Refresh {
                inner: Arc::clone(self),
                session: Arc::clone(session),
                provider: Arc::clone(provider),
                stored: stored.clone(),
                claim: Claim::new(stored.version(), self.lease_time)
                    .with_grace(provider.grace)
                    .with_in_doubt_for(IN_DOUBT_FOR),
            };
            refresh.run()
        }))
    }
}

#[cold]
pub(super) fn log_in_again() -> AuthError {
    AuthError::new(
        AuthErrorKind::Rejected,
        "the session has no tokens of this provider any more that are good or can be renewed; have the user log in again",
    )
}
