//! [`UpstreamTokens`]: the tokens of a session, fresh for each request and on every replica.
//!
//! ```no_run
//! # use bytes::Bytes;
//! # use http_body_util::Full;
//! # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower_identity::{
//!     ClientAuth, MemoryStore, Secret, TokenEndpoint, UpstreamTokens,
//!     incoming::{Provider, RefreshTokenGrant},
//! };
//!
//! # async fn load(session: &str) -> Result<(), tower_identity::AuthError> {
//! # let secret = Secret::new("7Fjfp0ZBr1KtDRbnfVdmIw").unwrap();
//! # let token_client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
//! let endpoint = TokenEndpoint::builder("https://github.example.com/token", token_client)
//!     .client_auth(ClientAuth::basic("gateway", secret))
//!     .build()?;
//! let github = Provider::new("github", RefreshTokenGrant::new(endpoint))?;
//! let upstream = UpstreamTokens::new(MemoryStore::new(), [github]);
//!
//! let loaded = upstream.load(session).await?;
//! let token = loaded.tokens().get("github");
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
//! | expired, without a refresh token; or not there, and not [optional](Provider::optional) | [`log_in_needed`](LoadedTokens::log_in_needed) |
//! | expired, the refresh token is refused (`invalid_grant`) | `log_in_needed`; they are removed |
//! | expired, the refresh fails in another way | [`failed`](LoadedTokens::failed), with the error; other providers are not touched |
//!
//! # What happens when something breaks
//!
//! A refresh token is spent by one at a time: one flight in this process, and across replicas whoever holds the
//! [lease](super::store#how-one-refresh-at-a-time-is-kept). A flight goes on without the request that started it.
//!
//! | what breaks | what happens |
//! | --- | --- |
//! | the store cannot be asked | `Unavailable` at once, for the store bounds its time; nothing is spent. It is never taken for a busy holder |
//! | the reply to a claim is lost | nothing is spent; the claim is taken back in the background |
//! | the store fails after the refresh token was spent | those who wait get the new tokens, this process goes on serving them, and stores them as soon as it can, for [two minutes](IN_DOUBT_FOR) |
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
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fmt,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::{Either, join_all, select};
use serde_json::Value;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::{
    clock::{Clock, SystemClock},
    credential::{
        cache::{CacheScope, CredentialCache, Obtained, Obtaining, Windows},
        endpoint::{Lifetime, TokenEndpoint, TokenRequest},
    },
    error::{AuthError, AuthErrorKind},
    identity::UpstreamToken,
    runtime::{sleep, spawn, within},
    secret::Secret,
};

use super::store::{
    Claim, Claimed, Lease, ProviderTokens, Settlement, StoredTokens, UpstreamTokenStore,
};

/// For how long the holder of a lapsed lease may come back with what it brought: two minutes.
pub const IN_DOUBT_FOR: Duration = Duration::from_secs(120);

const LEASE_TIME: Duration = Duration::from_secs(10);
const REFRESH_LIMIT: Duration = Duration::from_secs(35);
const UNKNOWN_LIFETIME: Duration = Duration::from_secs(300);
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
const MAX_SUCCESSORS: usize = 3;

/// Loads the upstream tokens of a session, and refreshes them before they expire.
///
/// A clone is the same. See the [module](self) for what it promises.
#[derive(Clone)]
pub struct UpstreamTokens {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    store: Arc<dyn UpstreamTokenStore>,
    providers: BTreeMap<String, Arc<Provider>>,
    flights: CredentialCache<StoredTokens>,
    lease_time: Duration,
    clock: Arc<dyn Clock>,
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
                flights: CredentialCache::builder().make(),
                lease_time: LEASE_TIME,
                clock: Arc::new(SystemClock),
            }),
        }
    }

    /// Sets the clock.
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.inner);
        inner.flights = CredentialCache::builder().clock(clock.clone()).make();
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
        let (inner, session) = (Arc::clone(&self.inner), Arc::from(session));
        LoadingTokens {
            future: Box::pin(async move { inner.load(session).await }),
        }
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

/// What a session has for a request. Each provider is in one of the three.
#[derive(Clone, Debug, Default)]
pub struct LoadedTokens {
    tokens: BTreeMap<String, UpstreamToken>,
    log_in_needed: BTreeSet<String>,
    failed: BTreeMap<String, AuthError>,
}

impl LoadedTokens {
    /// The tokens that are good now, by provider.
    pub fn tokens(&self) -> &BTreeMap<String, UpstreamToken> {
        &self.tokens
    }

    /// The tokens that are good now, by provider, and nothing else.
    pub fn into_tokens(self) -> BTreeMap<String, UpstreamToken> {
        self.tokens
    }

    /// The providers that the user has to log in to again.
    pub fn log_in_needed(&self) -> &BTreeSet<String> {
        &self.log_in_needed
    }

    /// The providers whose tokens could not be refreshed, though a log-in is not known to help.
    pub fn failed(&self) -> &BTreeMap<String, AuthError> {
        &self.failed
    }

    fn add(&mut self, provider: String, outcome: Result<StoredTokens, AuthError>) {
        match outcome {
            Ok(stored) => {
                let token = stored.tokens.token().clone();
                self.tokens.insert(provider, token);
            }
            Err(error) if error.kind() == AuthErrorKind::Rejected => {
                tracing::debug!(provider, "the user has to log in again");
                self.log_in_needed.insert(provider);
            }
            Err(error) => {
                tracing::debug!(provider, kind = ?error.kind(), "no fresh upstream token");
                let error = error.with_provider(provider.clone());
                self.failed.insert(provider, error);
            }
        }
    }
}

/// An upstream provider whose tokens a session holds.
#[derive(Clone, Debug)]
pub struct Provider {
    name: String,
    refresher: Arc<dyn Refresher>,
    grace: Duration,
    optional: bool,
    uses_id_token: bool,
}

impl Provider {
    /// A provider that every session needs, and how its tokens are refreshed.
    ///
    /// # Errors
    ///
    /// [`Configuration`](AuthErrorKind::Configuration), when the name is blank.
    pub fn new(
        name: impl Into<String>,
        refresher: impl Refresher + 'static,
    ) -> Result<Self, AuthError> {
        let name = name.into();
        if name.trim().is_empty() {
            return Err(AuthError::new(
                AuthErrorKind::Configuration,
                "the name of an upstream provider is empty; a session's tokens are found by it",
            ));
        }
        Ok(Self {
            name,
            refresher: Arc::new(refresher),
            grace: Duration::ZERO,
            optional: false,
            uses_id_token: false,
        })
    }

    /// Sets for how long the provider accepts a refresh token once more after it was spent. By default not at all.
    ///
    /// Many do, under names such as grace period, reuse interval or rotation overlap, so that an answer that was lost can
    /// be asked for again. Then a replica that dies in the middle of a refresh costs nobody a log-in.
    ///
    /// # Security
    ///
    /// A provider that does not allow it takes a refresh token that comes twice for a theft, and revokes whatever came
    /// of the same log-in (RFC 9700 §4.14.2).
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Lets a session be without this provider's tokens.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// Says that this provider's ID token is sent: the tokens are refreshed before the `exp` of the ID token too (F36).
    ///
    /// Where a refresh does not renew it, a log-in is needed when it has expired.
    #[must_use]
    pub fn uses_id_token(mut self) -> Self {
        self.uses_id_token = true;
        self
    }

    /// When the first of the tokens that are used expires.
    fn expires_at(&self, tokens: &ProviderTokens) -> Option<SystemTime> {
        let access_token = tokens.token().expires_at().or_else(|| {
            let can_be_renewed = tokens.refresh_token().is_some();
            let unknown = tokens.issued_at().checked_add(UNKNOWN_LIFETIME);
            unknown.filter(|_| can_be_renewed)
        });
        let id_token = self.id_token_expires_at(tokens);
        access_token.into_iter().chain(id_token).min()
    }

    fn id_token_expires_at(&self, tokens: &ProviderTokens) -> Option<SystemTime> {
        let id_token = tokens.token().id_token();
        id_token
            .filter(|_| self.uses_id_token)
            .and_then(expiration_claim)
    }

    fn freshness(&self, stored: &StoredTokens, now: SystemTime) -> Freshness {
        let tokens = &stored.tokens;
        let Some(expires_at) = self.expires_at(tokens) else {
            return Freshness::Settled;
        };
        let Some(remaining) = remaining(expires_at, now) else {
            return Freshness::Expired;
        };
        let lifetime = expires_at.duration_since(tokens.issued_at());
        let windows = Windows::of(lifetime.unwrap_or_default(), stored.version.jitter());
        if remaining <= windows.mandatory {
            Freshness::Mandatory
        } else if remaining <= windows.advisory {
            Freshness::Advisory
        } else {
            Freshness::Settled
        }
    }
}

enum Freshness {
    Settled,
    Advisory,
    Mandatory,
    Expired,
}

/// Gets new tokens for the ones that are about to expire: [`RefreshTokenGrant`], or your own for a provider that speaks
/// something else than OAuth.
pub trait Refresher: fmt::Debug + Send + Sync {
    /// Spends the refresh token of `tokens`. What is issued is dated `now`.
    ///
    /// What is not renewed is left out of the answer, and kept: the refresh token and the ID token.
    ///
    /// # Errors
    ///
    /// - [`Rejected`](AuthErrorKind::Rejected): the refresh token is void, and a log-in is needed.
    /// - All others: it was not spent. It is presented again later.
    fn refresh(&self, tokens: &ProviderTokens, now: SystemTime) -> Refreshing;
}

/// The future of [`Refresher::refresh`].
pub type Refreshing = Pin<Box<dyn Future<Output = Result<ProviderTokens, AuthError>> + Send>>;

/// Refreshes at an OAuth token endpoint (RFC 6749 §6).
#[derive(Clone, Debug)]
pub struct RefreshTokenGrant {
    endpoint: TokenEndpoint,
    scopes: Vec<String>,
}

impl RefreshTokenGrant {
    /// Refreshes at `endpoint`, with the scopes of the log-in.
    pub fn new(endpoint: TokenEndpoint) -> Self {
        Self {
            endpoint,
            scopes: Vec::new(),
        }
    }

    /// Asks for these scopes at each refresh: none that the log-in did not grant.
    #[must_use]
    pub fn scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.scopes = scopes.into_iter().map(Into::into).collect();
        self
    }
}

impl Refresher for RefreshTokenGrant {
    fn refresh(&self, tokens: &ProviderTokens, now: SystemTime) -> Refreshing {
        let refresh_token = tokens.refresh_token().map_or("", Secret::expose);
        let request = TokenRequest::refresh_token(refresh_token).scopes(&self.scopes);
        let response = self.endpoint.request_token(request);
        Box::pin(async move {
            let response = response.await?;
            let mut token = UpstreamToken::new(response.token().clone());
            let lifetime = match response.lifetime() {
                Lifetime::Unknown => UNKNOWN_LIFETIME,
                Lifetime::Spent => Duration::ZERO,
                Lifetime::For(lifetime) => lifetime,
            };
            if let Some(expires_at) = now.checked_add(lifetime) {
                token = token.with_expires_at(expires_at);
            }
            if let Some(id_token) = response.id_token() {
                token = token.with_id_token(id_token.clone());
            }
            let tokens = ProviderTokens::new(token, now);
            Ok(match response.refresh_token() {
                Some(refresh_token) => tokens.with_refresh_token(refresh_token.clone()),
                None => tokens,
            })
        })
    }
}

impl Inner {
    async fn load(self: Arc<Self>, session: Arc<str>) -> Result<LoadedTokens, AuthError> {
        let mut stored = self.store.load(&session).await?;
        let now = self.clock.now();
        let mut loaded = LoadedTokens::default();
        let mut waiting = Vec::new();
        for (name, provider) in &self.providers {
            let Some(stored) = stored.remove(name) else {
                if !provider.optional {
                    loaded.add(name.clone(), Err(log_in_again()));
                }
                continue;
            };
            match provider.freshness(&stored, now) {
                Freshness::Settled => loaded.add(name.clone(), Ok(stored)),
                Freshness::Advisory => {
                    drop(self.refresh(&session, provider, &stored));
                    loaded.add(name.clone(), Ok(stored));
                }
                Freshness::Mandatory | Freshness::Expired => {
                    let fresh = self.fresh(&session, provider, stored);
                    waiting.push(async { (name.clone(), fresh.await) });
                }
            }
        }
        for (name, outcome) in join_all(waiting).await {
            loaded.add(name, outcome);
        }
        for (name, stored) in stored {
            let expires_at = stored.tokens.token().expires_at();
            let is_good = expires_at.is_none_or(|end| remaining(end, now).is_some());
            loaded.add(name, is_good.then_some(stored).ok_or_else(log_in_again));
        }
        Ok(loaded)
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
                    if is_good(&refreshed) || refreshed.tokens.issued_at() >= asked_at =>
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
        let refresh_token = stored.tokens.refresh_token()?;
        let key = CacheScope::new("upstream-tokens")
            .field("session", session.as_bytes())
            .field("provider", &provider.name)
            .field("version", stored.version.to_bytes())
            .key(refresh_token.fingerprint());
        Some(self.flights.obtain(key, None, || {
            let flight = Flight {
                inner: Arc::clone(self),
                session: Arc::clone(session),
                provider: Arc::clone(provider),
                stored: stored.clone(),
                claim: Claim {
                    grace: provider.grace,
                    in_doubt_for: IN_DOUBT_FOR,
                    ..Claim::new(stored.version, self.lease_time)
                },
            };
            flight.fly()
        }))
    }
}

/// One refresh: claims, spends, stores.
#[derive(Clone)]
struct Flight {
    inner: Arc<Inner>,
    session: Arc<str>,
    provider: Arc<Provider>,
    stored: StoredTokens,
    claim: Claim,
}

enum Right {
    Granted(Lease),
    Superseded(StoredTokens),
}

impl Flight {
    async fn fly(self) -> Result<Obtained<StoredTokens>, AuthError> {
        let lease = match self.claim().await? {
            Right::Granted(lease) => lease,
            Right::Superseded(newer) => return Ok(self.obtained(newer)),
        };
        let provider = self.provider.name.as_str();
        match self.spend(&lease).await {
            Ok(tokens) => {
                tracing::debug!(provider, "upstream tokens were refreshed");
                let tokens = tokens.completed_by(&self.stored.tokens);
                let id_token = self.provider.id_token_expires_at(&tokens);
                if id_token.is_some_and(|end| remaining(end, self.now()).is_none()) {
                    return self.give_up(lease, id_token_not_renewed()).await;
                }
                let successor = StoredTokens::new(tokens);
                let newer = self.conclude(lease, Settlement::Replace(Box::new(successor.clone())));
                Ok(self.obtained(newer.await?.unwrap_or(successor)))
            }
            Err(error) if error.kind() == AuthErrorKind::Rejected => {
                tracing::debug!(provider, "the refresh token was refused");
                self.give_up(lease, error).await
            }
            Err(error) => {
                if self.settle(&lease, &Settlement::Release).await.is_err() {
                    self.settle_later(lease, Settlement::Release);
                }
                Err(error)
            }
        }
    }

    /// Waits until the refresh token may be spent, or somebody else's refresh is there.
    async fn claim(&self) -> Result<Right, AuthError> {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let claimed = match self.ask().await {
                Ok(claimed) => claimed,
                Err(error) => {
                    self.take_back();
                    return Err(error);
                }
            };
            match claimed {
                Claimed::Granted(lease) => return Ok(Right::Granted(lease)),
                Claimed::Superseded(newer) => return Ok(Right::Superseded(newer)),
                Claimed::Held(left) => sleep(pause.min(left)).await,
                Claimed::InDoubt(left) => return Err(in_doubt(left)),
                Claimed::Gone => return Err(log_in_again()),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks the provider, and renews the lease until it answers.
    async fn spend(&self, lease: &Lease) -> Result<ProviderTokens, AuthError> {
        let refresher = &self.provider.refresher;
        let refreshing = refresher.refresh(&self.stored.tokens, self.now());
        let refreshing = pin!(within(REFRESH_LIMIT, refreshing));
        let renewing = pin!(self.renew(lease));
        match select(refreshing, renewing).await {
            Either::Left((refreshed, _)) => refreshed.unwrap_or_else(|| Err(no_answer())),
            Either::Right((never, _)) => match never {},
        }
    }

    async fn renew(&self, lease: &Lease) -> Infallible {
        let (store, time) = (&self.inner.store, self.inner.lease_time);
        loop {
            sleep(time / 3).await;
            let renewed = store.renew(&self.session, &self.provider.name, lease, time);
            if !renewed.await.unwrap_or(true) {
                tracing::debug!("the lease of a refresh was lost");
            }
        }
    }

    /// Lets go of a refresh token that is void. An access token that is still good stays to its end.
    async fn give_up(
        &self,
        lease: Lease,
        error: AuthError,
    ) -> Result<Obtained<StoredTokens>, AuthError> {
        let tokens = &self.stored.tokens;
        let is_good = self.provider.expires_at(tokens);
        let is_good = is_good.is_some_and(|end| remaining(end, self.now()).is_some());
        let settlement = if is_good {
            let rest = ProviderTokens::new(tokens.token().clone(), tokens.issued_at());
            Settlement::Replace(Box::new(StoredTokens::new(rest)))
        } else {
            Settlement::Remove
        };
        let newer = self.conclude(lease, settlement).await?;
        newer.map(|newer| self.obtained(newer)).ok_or(error)
    }

    /// Writes what became of the tokens. If somebody else did before, what they wrote is the answer.
    async fn conclude(
        &self,
        mut lease: Lease,
        settlement: Settlement,
    ) -> Result<Option<StoredTokens>, AuthError> {
        loop {
            match self.settle(&lease, &settlement).await {
                Ok(true) => return Ok(None),
                Ok(false) => match self.claim().await? {
                    Right::Granted(another) => lease = another,
                    Right::Superseded(newer) => return Ok(Some(newer)),
                },
                Err(error) => {
                    let provider = self.provider.name.as_str();
                    tracing::warn!(provider, %error, "what a refresh brought is not stored yet");
                    self.settle_later(lease, settlement);
                    return Ok(None);
                }
            }
        }
    }

    fn settle_later(&self, lease: Lease, settlement: Settlement) {
        let flight = self.clone();
        spawn(until_done(async move || {
            flight.settle(&lease, &settlement).await.map(drop)
        }));
    }

    /// Ends the claim that the store may have granted, though its answer was lost.
    fn take_back(&self) {
        let flight = self.clone();
        spawn(until_done(async move || match flight.ask().await? {
            Claimed::Granted(lease) => flight.settle(&lease, &Settlement::Release).await.map(drop),
            _ => Ok(()),
        }));
    }

    async fn ask(&self) -> Result<Claimed, AuthError> {
        let store = &self.inner.store;
        store
            .claim(&self.session, &self.provider.name, &self.claim)
            .await
    }

    async fn settle(&self, lease: &Lease, settlement: &Settlement) -> Result<bool, AuthError> {
        let store = &self.inner.store;
        store
            .settle(&self.session, &self.provider.name, lease, settlement)
            .await
    }

    fn obtained(&self, stored: StoredTokens) -> Obtained<StoredTokens> {
        let expires_at = self.provider.expires_at(&stored.tokens);
        let obtained = Obtained::new(stored);
        match expires_at {
            Some(expires_at) => obtained.expires_at(expires_at),
            None => obtained,
        }
    }

    fn now(&self) -> SystemTime {
        self.inner.clock.now()
    }
}

/// Tries until it succeeds, as long as it may.
async fn until_done(attempt: impl AsyncFn() -> Result<(), AuthError>) {
    let started = Instant::now();
    let mut pause = SHORTEST_PAUSE;
    while started.elapsed() < IN_DOUBT_FOR {
        sleep(pause).await;
        if attempt().await.is_ok() {
            return;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    tracing::warn!("the store could not be asked for so long that a refresh was lost");
}

fn remaining(end: SystemTime, now: SystemTime) -> Option<Duration> {
    let remaining = end.duration_since(now).ok()?;
    Some(remaining).filter(|remaining| !remaining.is_zero())
}

/// The `exp` of a JWT (RFC 7519 §4.1.4). It is not verified: the provider that issued it was authenticated by TLS.
fn expiration_claim(id_token: &Secret) -> Option<SystemTime> {
    let payload = id_token.expose().split('.').nth(1)?;
    let payload = Zeroizing::new(URL_SAFE_NO_PAD.decode(payload).ok()?);
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    let seconds = Duration::try_from_secs_f64(claims.get("exp")?.as_f64()?).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(seconds)
}

#[cold]
fn log_in_again() -> AuthError {
    AuthError::new(
        AuthErrorKind::Rejected,
        "the session has no tokens of this provider any more that are good or can be renewed; have the user log in again",
    )
}

#[cold]
fn id_token_not_renewed() -> AuthError {
    AuthError::new(
        AuthErrorKind::Rejected,
        "the provider's ID token has expired, and a refresh does not renew it; have the user log in again",
    )
}

#[cold]
fn in_doubt(left: Duration) -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "a refresh was broken off and may have spent the refresh token; it is not presented again, and who began may \
         still come back; otherwise the user has to log in again",
    )
    .with_retry_after(left)
}

#[cold]
fn no_answer() -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "the refresher did not answer within 35 s; give it a time limit of its own",
    )
}
