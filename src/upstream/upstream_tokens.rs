use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, future::join_all};

use crate::{
    clock::{Clock, DefaultClock},
    credential::cache::{
        CredentialCache,
        key::{CacheKey, CacheScope},
        obtaining::Obtaining,
    },
    error::{AuthError, AuthErrorKind},
    identity::Links,
};

use super::{
    loaded_tokens::LoadedTokens,
    owner::TokenOwner,
    provider::{Freshness, Provider, remaining},
    refresh::{Presented, Refresh},
    store::{Claim, ProviderTokens, StoredTokens, UpstreamTokenStore},
};

/// How long this process remembers the tokens of a refresh that are stored: for requests that loaded the old ones before.
pub(super) const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// How long the holder of a lapsed lease may still settle it.
pub(super) const IN_DOUBT_FOR: Duration = Duration::from_secs(120);

const LEASE_TIME: Duration = Duration::from_secs(10);
const SHORTEST_LEASE_TIME: Duration = Duration::from_millis(100);
pub(super) const UNKNOWN_LIFETIME: Duration = Duration::from_secs(300);
const MAX_SUCCESSORS: usize = 3;

/// Loads the upstream tokens of a user for each request, and refreshes them before
/// they expire.
///
/// Needs the feature `incoming`.
///
/// A clone shares the store and the refreshes. Give it to a
/// [`TokenValidator`](crate::TokenValidator), or load tokens yourself:
///
/// ```no_run
/// # use bytes::Bytes;
/// # use http_body_util::Full;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower_identity::{
///     ClientAuth, MemoryStore, Secret, TokenEndpoint, UpstreamTokens,
///     upstream::{Provider, RefreshTokenGrant, TokenOwner},
/// };
///
/// # async fn load() -> Result<(), Box<dyn std::error::Error>> {
/// # let secret = Secret::new("7Fjfp0ZBr1KtDRbnfVdmIw").unwrap();
/// # let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
/// let url = "https://github.example.com/token";
/// let endpoint = TokenEndpoint::builder(url, client)
///     .client_auth(ClientAuth::basic("gateway", secret))
///     .build()?;
/// let refresh = RefreshTokenGrant::new(endpoint);
/// let github = Provider::builder("github", refresh).build()?;
/// let upstream = UpstreamTokens::new(MemoryStore::new(), [github]);
///
/// let alice = TokenOwner::new("https://idp.example.com", "alice")?;
/// let loaded = upstream.load(&alice).await?;
/// let token = loaded.tokens().get("github");
/// # Ok(())
/// # }
/// ```
///
/// # Whose tokens they are
///
/// The tokens belong to a [`TokenOwner`]: a user, that is, an issuer and a subject. At
/// a login, your application [puts](UpstreamTokenStore::put) the provider's tokens into
/// the store for this user. With [`session_claim`](Self::session_claim), the tokens of
/// each of the user's sessions are kept apart.
///
/// If the store returns tokens that were stored for another user, they are not used, as
/// if there were none, and an event on the level `ERROR` says so.
///
/// # The tokens of a request
///
/// One call to the store loads the tokens of all providers. Tokens that need a refresh
/// are refreshed concurrently. The refresh windows are those of the
/// [credential cache](crate::CredentialCache#when-a-credential-is-renewed), counted
/// from the time at which the tokens were issued. An expired token is never returned.
///
/// | a provider's tokens | the request |
/// | --- | --- |
/// | valid | gets them |
/// | in the advisory window | gets them, and a refresh starts in the background |
/// | in the mandatory window | waits for the refresh, and gets the old tokens if it fails |
/// | expired | waits for the refresh |
/// | expired and without a refresh token, or missing and not [optional](super::ProviderBuilder::optional) | finds the provider in [`login_required`](LoadedTokens::login_required) |
/// | bound to a key that is not here (DPoP) | finds the provider in `login_required`. The tokens stay stored, and are not sent |
/// | expired, and the provider refused the refresh token (`invalid_grant`) | finds the provider in `login_required`, and the tokens are removed |
/// | expired, and the refresh failed in another way | finds the error in [`failed`](LoadedTokens::failed). Other providers are not affected |
///
/// # What happens when something breaks
///
/// A refresh token is used by one party at a time. In one process, one refresh runs
/// per provider and owner. Across replicas, the holder of the
/// [lease](crate::UpstreamTokenStore#one-refresh-at-a-time) refreshes. A refresh runs
/// to its end even if the request that started it is cancelled.
///
/// | event | effect |
/// | --- | --- |
/// | the store cannot be reached | `Unavailable` at once, because the store limits its time. No refresh token is used. A failing store is never mistaken for a busy lease holder |
/// | the reply to a claim is lost | no refresh token is used. The claim is released in the background |
/// | the store fails after the refresh token was used | waiting requests get the new tokens. This process keeps serving them, and tries to store them for two minutes |
/// | the provider fails, or does not answer | `Unavailable`. The refresh token is sent again after the cache's back-off. A provider that did use it up refuses it, and the user must log in again |
/// | the lease holder dies before, during or after the call to the provider | the lease runs out. The refresh token may have been used, so that it is not sent again: `Unavailable` for two minutes, in which the holder may turn out to be alive. Then the tokens are removed, and the user must log in again. With [`ProviderBuilder::grace`](super::ProviderBuilder::grace), the refresh token is sent again at once |
/// | a lease runs out while its holder is still working | the holder may still store the tokens, unless another party has claimed since. In that case its fencing token is too old: the store refuses, and the holder reads what the other party stored |
/// | two parties refresh in spite of this, and the provider refuses the second | the second one removes nothing, because removal compares versions. It reads the tokens of the first |
/// | the user logs in or out during a refresh | the tokens of the login stay. Removed tokens stay removed |
/// | the store is restored from an earlier state while a refresh runs | the holder claims again, and stores the new tokens in place of the restored ones. Elsewhere a restored refresh token that was used is sent again, and the provider may revoke the login |
/// | the store cannot be written to for two minutes after the refresh token was used | an event on the level `ERROR` says so. This process serves the new tokens until they expire. Then the user must log in again |
/// | the provider issues a new refresh token and an access token that cannot be used | the new refresh token is stored, and the request fails with `Unavailable`. The new refresh token is sent after a pause |
/// | the provider issues an ID token of another user | the new tokens are dropped, and the user must log in again (OIDC Core §12.2) |
/// | tokens expire while another provider is waited for | they are refreshed before they are handed out |
/// | the store loses its data | the user must log in again at every provider |
///
/// # Security
///
/// After a logout, this process keeps refreshed tokens in memory for at most a minute,
/// unless they could not be stored.
///
/// Errors and events show neither the user nor the session nor a token.
#[derive(Clone)]
pub struct UpstreamTokens {
    inner: Arc<Inner>,
}

#[derive(Clone)]
pub(super) struct Inner {
    pub(super) store: Arc<dyn UpstreamTokenStore>,
    providers: BTreeMap<String, Arc<Provider>>,
    refreshes: CredentialCache<StoredTokens>,
    session_claim: Option<Arc<str>>,
    links: Option<Arc<Links>>,
    pub(super) lease_time: Duration,
    pub(super) clock: Arc<dyn Clock>,
}

impl UpstreamTokens {
    /// Loads tokens from `store`, and refreshes those of `providers`. If two providers have the same name, the last one
    /// counts.
    ///
    /// The store may have tokens of further providers. They are returned until they expire.
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
                session_claim: None,
                links: None,
                lease_time: LEASE_TIME,
                clock: DefaultClock::get(),
            }),
        }
    }

    /// Narrows the tokens to a session of the user, which the claim `claim` of the user's token names. By default the
    /// tokens are those of the user, whatever the session.
    ///
    /// A [`TokenValidator`](crate::TokenValidator) then loads the tokens of the user with the session that the claim
    /// names, for example `sid` (OIDC Front-Channel Logout §3) or ToolHive's `tsid`. Give
    /// [`put`](UpstreamTokenStore::put) an owner [with the same session](TokenOwner::with_session). A token without the
    /// claim has no upstream tokens, and one whose claim is not a string, or is blank, is refused. The claim is left out
    /// of the identity.
    #[must_use]
    pub fn session_claim(self, claim: impl Into<Arc<str>>) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.inner);
        inner.session_claim = Some(claim.into());
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Sets the [clock](trait@Clock#setting-the-clock).
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.inner);
        inner.refreshes = CredentialCache::builder().clock(clock.clone()).make();
        inner.clock = clock;
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Sets how long the lease of a refresh outlives a replica that died. By default 10 s. A running replica renews the
    /// lease after a third of this time. A value below 100 ms counts as 100 ms, and one above 2 minutes as 2 minutes.
    #[must_use]
    pub fn lease_time(self, lease_time: Duration) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.inner);
        inner.lease_time = lease_time.clamp(SHORTEST_LEASE_TIME, IN_DOUBT_FOR);
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Loads the tokens of this user, or of this session of theirs.
    ///
    /// # Errors
    ///
    /// The error of the store. The error of a single provider is in [`LoadedTokens`].
    ///
    /// # Panics
    ///
    /// If the future is polled outside of a Tokio runtime with time enabled.
    pub fn load(&self, owner: &TokenOwner) -> LoadingTokens {
        let (upstream, owner) = (self.clone(), owner.clone());
        LoadingTokens {
            future: Box::pin(async move { upstream.load_unboxed(&owner).await }),
        }
    }

    /// Presents the user's refresh token of this provider to `present`, for another use than a refresh.
    ///
    /// No other party presents or refreshes it meanwhile. Its successor is stored before the outcome is returned.
    pub(crate) async fn present<T, F, R>(
        &self,
        owner: &TokenOwner,
        provider: &str,
        present: F,
    ) -> Result<T, AuthError>
    where
        F: FnOnce(ProviderTokens) -> R,
        R: Future<Output = Presented<T>>,
    {
        let inner = &self.inner;
        let configured = inner.providers.get(provider).ok_or_else(|| {
            AuthError::new(
                AuthErrorKind::Configuration,
                "the provider is none of those whose upstream tokens are refreshed; check its name",
            )
        })?;
        let mut stored = inner.store.load(owner).await?;
        let stored = stored.remove(provider);
        let stored = stored.filter(|stored| is_of(stored, owner, provider));
        let mut stored = stored.ok_or_else(log_in_again)?;
        if !configured.refresher.can_use(owner, stored.tokens()) {
            return Err(key_is_gone());
        }
        // A refresh that could not be stored yet.
        if let Some(key) = refresh_key(owner, configured, &stored)
            && let Ok(Some(newer)) = inner.refreshes.lookup(&key, None)
        {
            stored = newer;
        }
        let refresh = Refresh {
            inner: Arc::clone(inner),
            owner: owner.clone(),
            provider: Arc::clone(configured),
            claim: inner.claim(configured, &stored),
            stored,
        };
        refresh.present(present).await
    }

    /// The same tokens, whose errors say where an account can be linked.
    #[cfg(feature = "linking")]
    pub(super) fn with_links(&self, links: Links) -> Self {
        let mut inner = Inner::clone(&self.inner);
        inner.links = Some(Arc::new(links));
        Self {
            inner: Arc::new(inner),
        }
    }

    #[cfg(feature = "linking")]
    pub(super) fn store(&self) -> &Arc<dyn UpstreamTokenStore> {
        &self.inner.store
    }

    #[cfg(feature = "linking")]
    pub(super) fn time(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.inner.clock)
    }

    /// The providers whose accounts can be linked.
    #[cfg(feature = "linking")]
    pub(super) fn linked(&self) -> impl Iterator<Item = (&str, &super::OAuthProvider)> {
        let providers = self.inner.providers.iter();
        providers.filter_map(|(name, provider)| Some((&**name, provider.linked_by.as_ref()?)))
    }

    pub(crate) fn claim_of_session(&self) -> Option<&str> {
        self.inner.session_claim.as_deref()
    }

    pub(crate) async fn load_unboxed(&self, owner: &TokenOwner) -> Result<LoadedTokens, AuthError> {
        self.inner.load(owner).await
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
/// Needs the feature `incoming`.
///
/// Dropping it does not cancel the refreshes that it waits for.
///
/// [`UpstreamTokens`](crate::UpstreamTokens) has an example.
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
    async fn load(self: &Arc<Self>, owner: &TokenOwner) -> Result<LoadedTokens, AuthError> {
        let mut stored = self.store.load(owner).await?;
        stored.retain(|provider, stored| is_of(stored, owner, provider));
        let asked_at = self.clock.now();
        let mut now = asked_at;
        let mut tokens = LoadedTokens::read_now(self.links.clone());
        let mut held = Vec::with_capacity(stored.len());
        let mut waiting = Vec::new();
        let mut not_refreshed = Vec::new();
        for (name, provider) in &self.providers {
            let Some((name, stored)) = stored.remove_entry(name) else {
                if !provider.optional {
                    tokens.add(name.clone(), Err(log_in_again()));
                }
                continue;
            };
            if !provider.refresher.can_use(owner, stored.tokens()) {
                let is_bound = stored.tokens().token().dpop_thumbprint().is_some();
                if is_bound || provider.is_expired(&stored, now) {
                    tokens.add(name, Err(key_is_gone()));
                } else {
                    not_refreshed.push((name, stored));
                }
                continue;
            }
            let mut tokens = Held {
                name,
                provider,
                stored,
                renewing: None,
            };
            match provider.freshness(&tokens.stored, now) {
                Freshness::Settled => held.push(tokens),
                Freshness::Advisory => {
                    tokens.renewing = self.refresh(owner, provider, &tokens.stored);
                    held.push(tokens);
                }
                Freshness::Mandatory | Freshness::Expired => waiting.push(tokens),
            }
        }
        // Time passes while tokens are waited for, so that all are judged again before they are handed out.
        for _ in 0..MAX_SUCCESSORS {
            if waiting.is_empty() {
                break;
            }
            let refreshing = waiting.drain(..).map(|tokens: Held<'_>| {
                let fresh = self.fresh(owner, tokens.provider, tokens.stored);
                fresh.map(move |outcome| (tokens.name, tokens.provider, outcome))
            });
            let refreshed = join_all(refreshing).await;
            now = self.clock.now();
            for (name, provider, outcome) in refreshed {
                match outcome {
                    Ok(stored) => held.push(Held {
                        name,
                        provider,
                        stored,
                        renewing: None,
                    }),
                    Err(error) => tokens.add(name, Err(error)),
                }
            }
            for tokens in &mut held {
                tokens.take_renewed(now);
            }
            waiting.extend(held.extract_if(.., |tokens| tokens.is_over(asked_at, now)));
        }
        for tokens_over in waiting {
            tokens.add(tokens_over.name, Err(too_fast()));
        }
        for Held { name, stored, .. } in held {
            tokens.add(name, Ok(stored));
        }
        for (name, stored) in stored.into_iter().chain(not_refreshed) {
            let expires_at = stored.tokens().token().expires_at();
            let is_good = expires_at.is_none_or(|end| remaining(end, now).is_some());
            tokens.add(name, is_good.then_some(stored).ok_or_else(log_in_again));
        }
        Ok(tokens)
    }

    /// The refreshed tokens, or `stored` if the refresh failed and they are still valid.
    async fn fresh(
        self: &Arc<Self>,
        owner: &TokenOwner,
        provider: &Arc<Provider>,
        mut stored: StoredTokens,
    ) -> Result<StoredTokens, AuthError> {
        let asked_at = self.clock.now();
        // Another replica's tokens may expire while this one waits for them.
        for _ in 0..MAX_SUCCESSORS {
            let refreshed = match self.refresh(owner, provider, &stored) {
                Some(refreshing) => refreshing.await,
                None => Err(log_in_again()),
            };
            let is_good = |stored: &StoredTokens| !provider.is_expired(stored, self.clock.now());
            stored = match refreshed {
                Ok(refreshed)
                    if refreshed.is_for_one_use() && refreshed.tokens().issued_at() >= asked_at =>
                {
                    return Ok(refreshed.for_one_use());
                }
                Ok(refreshed) if is_good(&refreshed) => return Ok(refreshed),
                Ok(refreshed) => refreshed,
                Err(_) if is_good(&stored) => return Ok(stored),
                Err(error) => return Err(error),
            };
        }
        Err(too_fast())
    }

    /// Starts a refresh, or joins the one that is under way for these tokens. `None` without a refresh token.
    fn refresh(
        self: &Arc<Self>,
        owner: &TokenOwner,
        provider: &Arc<Provider>,
        stored: &StoredTokens,
    ) -> Option<Obtaining<StoredTokens>> {
        let key = refresh_key(owner, provider, stored)?;
        Some(self.refreshes.obtain(key, None, || {
            let refresh = Refresh {
                inner: Arc::clone(self),
                owner: owner.clone(),
                provider: Arc::clone(provider),
                stored: stored.clone(),
                claim: self.claim(provider, stored),
            };
            refresh.run()
        }))
    }

    /// Has a refresh of these tokens fail with `error`, until it is tried again after a while.
    pub(super) fn refuse(
        &self,
        owner: &TokenOwner,
        provider: &Provider,
        stored: &StoredTokens,
        error: AuthError,
    ) {
        if let Some(key) = refresh_key(owner, provider, stored) {
            drop(self.refreshes.obtain(key, None, || async { Err(error) }));
        }
    }

    pub(super) fn forget(&self, owner: &TokenOwner, provider: &Provider, stored: &StoredTokens) {
        if let Some(key) = refresh_key(owner, provider, stored) {
            self.refreshes.forget(&key);
        }
    }

    pub(super) fn claim(&self, provider: &Provider, stored: &StoredTokens) -> Claim {
        Claim::new(stored.version(), self.lease_time)
            .with_grace(provider.grace)
            .with_in_doubt_for(IN_DOUBT_FOR)
    }
}

/// Tokens of a provider that are handed out, unless they expire before.
struct Held<'a> {
    name: String,
    provider: &'a Arc<Provider>,
    stored: StoredTokens,
    /// The refresh in the background.
    renewing: Option<Obtaining<StoredTokens>>,
}

impl Held<'_> {
    fn take_renewed(&mut self, now: SystemTime) {
        if let Some(renewing) = &mut self.renewing
            && let Some(renewed) = renewing.now_or_never()
        {
            self.renewing = None;
            match renewed {
                Ok(renewed) if !self.provider.is_expired(&renewed, now) => self.stored = renewed,
                _ => {}
            }
        }
    }

    /// Whether the tokens are expired. Tokens that were issued at their end may be used once, now.
    fn is_over(&self, asked_at: SystemTime, now: SystemTime) -> bool {
        let issued_at = self.stored.tokens().issued_at();
        let is_for_once =
            issued_at >= asked_at && self.provider.is_expired(&self.stored, issued_at);
        self.provider.is_expired(&self.stored, now) && !is_for_once
    }
}

/// `None` without a refresh token.
fn refresh_key(owner: &TokenOwner, provider: &Provider, stored: &StoredTokens) -> Option<CacheKey> {
    let refresh_token = stored.tokens().refresh_token()?;
    let scope = CacheScope::new("upstream-tokens")
        .field("owner", owner.key().to_bytes())
        .field("provider", &provider.name)
        .field("version", stored.version().to_bytes());
    Some(scope.key(refresh_token.fingerprint()))
}

/// Whether stored tokens belong to this user. The store may have found them by less, for example by the session alone.
pub(super) fn is_of(stored: &StoredTokens, owner: &TokenOwner, provider: &str) -> bool {
    let is_of = stored.user() == owner.user_key();
    if !is_of {
        tracing::error!(
            provider,
            "the store returned upstream tokens of another user; they are not used, and the user has to log in"
        );
    }
    is_of
}

#[cold]
fn too_fast() -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "the upstream provider's tokens expire faster than they are refreshed; check its clock and ours",
    )
}

#[cold]
fn key_is_gone() -> AuthError {
    AuthError::new(
        AuthErrorKind::Rejected,
        "the user's tokens are bound to a key that is not here (DPoP); have the user log in again, and give all replicas \
         the same keys",
    )
}

#[cold]
pub(super) fn log_in_again() -> AuthError {
    AuthError::new(
        AuthErrorKind::Rejected,
        "the user has no tokens of this provider that are good or can be renewed; have the user log in again",
    )
}
