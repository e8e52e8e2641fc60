//! [`UpstreamTokenStore`]: where the tokens of each session are kept, for one process or for all replicas.
//!
//! A log-in [puts](UpstreamTokenStore::put) a provider's tokens under the session's id, a log-out
//! [deletes](UpstreamTokenStore::delete) the session. In between, [`UpstreamTokens`](super::UpstreamTokens) loads them
//! for each request and replaces what it refreshed.
//!
//! # How one refresh at a time is kept
//!
//! A provider's tokens have a [`Version`]. Who wants to spend their refresh token [claims](UpstreamTokenStore::claim) the
//! version first, and gets a [`Lease`] only if it is still the stored one and nobody holds it. The lease ends when it is
//! [settled](UpstreamTokenStore::settle), or at its time unless it is [renewed](UpstreamTokenStore::renew). A lease that
//! ended by time was not settled, so its refresh token may have been spent: [`Claimed`] says what becomes of it.
//!
//! # Security
//!
//! The id of a session is all that is needed to get its tokens. Take it from where its holder was authenticated (a
//! signed token), never from what a caller can choose.

pub(crate) mod memory;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(feature = "redis")]
pub(crate) mod sealing;

use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{error::AuthError, identity::UpstreamToken, secret::Secret};

/// The future of a store's answer.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, AuthError>> + Send + 'a>>;

/// Keeps the tokens that upstream providers issued, by session and provider.
///
/// # Errors
///
/// All methods fail with [`Unavailable`](crate::AuthErrorKind::Unavailable) when the store cannot be asked, within a
/// bounded time, and then it is not known whether it was changed. Asking the same again does no harm. What is stored and
/// cannot be read is [`Configuration`](crate::AuthErrorKind::Configuration), never a session without tokens.
pub trait UpstreamTokenStore: fmt::Debug + Send + Sync {
    /// All tokens of the session by provider, in one round trip. There are none for a session that is not known.
    fn load<'a>(&'a self, session: &'a str) -> StoreFuture<'a, BTreeMap<String, StoredTokens>>;

    /// Keeps what a log-in brought, whatever was there before. A refresh that is under way does not change it.
    fn put<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        tokens: &'a ProviderTokens,
    ) -> StoreFuture<'a, ()>;

    /// Forgets the session. A refresh that is under way does not bring it back.
    fn delete<'a>(&'a self, session: &'a str) -> StoreFuture<'a, ()>;

    /// Asks for the right to spend a refresh token.
    fn claim<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        claim: &'a Claim,
    ) -> StoreFuture<'a, Claimed>;

    /// Lets a lease last for `time` from now. `false` when it was lost, and then it stays lost.
    fn renew<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        lease: &'a Lease,
        time: Duration,
    ) -> StoreFuture<'a, bool>;

    /// Ends a lease. `false` when it was lost to another, and then nothing was changed.
    ///
    /// A lease that ran out may still be settled as long as nobody else has claimed what it was for.
    fn settle<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        lease: &'a Lease,
        settlement: &'a Settlement,
    ) -> StoreFuture<'a, bool>;
}

impl<S: UpstreamTokenStore + ?Sized> UpstreamTokenStore for std::sync::Arc<S> {
    fn load<'a>(&'a self, session: &'a str) -> StoreFuture<'a, BTreeMap<String, StoredTokens>> {
        (**self).load(session)
    }

    fn put<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        tokens: &'a ProviderTokens,
    ) -> StoreFuture<'a, ()> {
        (**self).put(session, provider, tokens)
    }

    fn delete<'a>(&'a self, session: &'a str) -> StoreFuture<'a, ()> {
        (**self).delete(session)
    }

    fn claim<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        claim: &'a Claim,
    ) -> StoreFuture<'a, Claimed> {
        (**self).claim(session, provider, claim)
    }

    fn renew<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        lease: &'a Lease,
        time: Duration,
    ) -> StoreFuture<'a, bool> {
        (**self).renew(session, provider, lease, time)
    }

    fn settle<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        lease: &'a Lease,
        settlement: &'a Settlement,
    ) -> StoreFuture<'a, bool> {
        (**self).settle(session, provider, lease, settlement)
    }
}

/// What a provider issued for a user at a log-in or a refresh. Cheap to clone (one reference count).
#[derive(Clone)]
pub struct ProviderTokens {
    inner: Arc<Issued>,
}

#[derive(Clone)]
struct Issued {
    token: UpstreamToken,
    refresh_token: Option<Secret>,
    at: SystemTime,
}

impl ProviderTokens {
    /// Tokens that were asked for at `issued_at`. Without a refresh token they last until they expire.
    pub fn new(token: UpstreamToken, issued_at: SystemTime) -> Self {
        Self {
            inner: Arc::new(Issued {
                token,
                refresh_token: None,
                at: issued_at,
            }),
        }
    }

    /// Sets the refresh token (RFC 6749 §1.5).
    #[must_use]
    pub fn with_refresh_token(mut self, refresh_token: Secret) -> Self {
        Arc::make_mut(&mut self.inner).refresh_token = Some(refresh_token);
        self
    }

    /// What leaves with requests.
    pub fn token(&self) -> &UpstreamToken {
        &self.inner.token
    }

    /// What gets the next tokens, if the provider issued it.
    pub fn refresh_token(&self) -> Option<&Secret> {
        self.inner.refresh_token.as_ref()
    }

    /// When they were asked for.
    pub fn issued_at(&self) -> SystemTime {
        self.inner.at
    }

    /// These tokens with what a refresh did not renew: RFC 6749 §6 leaves the refresh token out when it stays the same,
    /// OIDC Core §12.2 the ID token.
    pub(super) fn completed_by(mut self, previous: &Self) -> Self {
        let issued = Arc::make_mut(&mut self.inner);
        if issued.refresh_token.is_none() {
            issued.refresh_token = previous.refresh_token().cloned();
        }
        if issued.token.id_token().is_none()
            && let Some(id_token) = previous.token().id_token()
        {
            issued.token = issued.token.clone().with_id_token(id_token.clone());
        }
        self
    }
}

impl fmt::Debug for ProviderTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderTokens")
            .field("token", self.token())
            .field("refresh_token", &self.refresh_token())
            .field("issued_at", &self.issued_at())
            .finish()
    }
}

/// A provider's tokens as they are stored.
#[derive(Clone, Debug)]
pub struct StoredTokens {
    /// The tokens.
    pub tokens: ProviderTokens,
    /// Tells them from all others that were stored under the same name, before or after.
    pub version: Version,
}

impl StoredTokens {
    /// Tokens with a version of their own.
    pub fn new(tokens: ProviderTokens) -> Self {
        Self {
            tokens,
            version: Version::random(),
        }
    }
}

/// Tells stored tokens from others. Equal versions are the same tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version(u128);

impl Version {
    /// One that was not there before.
    pub fn random() -> Self {
        Self(fastrand::u128(..))
    }

    /// Its bytes, for a store to keep.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The version with these bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// A number between 0 and 1 that is the same on all replicas.
    pub(super) fn jitter(self) -> f64 {
        (self.0 as u32) as f64 / f64::from(u32::MAX)
    }
}

/// Asks for the right to spend the refresh token of one version.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Which tokens are meant.
    pub version: Version,
    /// Who asks: the same holder that asks again gets the same lease again, unless another came in between.
    pub holder: u128,
    /// How long the lease lasts unless it is renewed.
    pub time: Duration,
    /// For how long after its first claim a refresh token that may have been spent may be presented again.
    pub grace: Duration,
    /// For how long after the first claim its holder may still settle. It is longer than a refresh can take.
    pub in_doubt_for: Duration,
}

impl Claim {
    /// A claim of a holder of its own, without grace: for the time `time`, in doubt for a minute.
    pub fn new(version: Version, time: Duration) -> Self {
        Self {
            version,
            holder: fastrand::u128(..),
            time,
            grace: Duration::ZERO,
            in_doubt_for: Duration::from_secs(60),
        }
    }
}

/// What came of a [`Claim`].
#[derive(Clone, Debug)]
pub enum Claimed {
    /// The refresh token may be spent.
    Granted(Lease),
    /// Somebody else is spending it; the lease ends after this time unless it is renewed.
    Held(Duration),
    /// The lease ran out and was not settled: the refresh token may have been spent. It is not to be presented again, and
    /// for this time its holder may still come back with what it brought.
    InDoubt(Duration),
    /// Other tokens are stored now.
    Superseded(StoredTokens),
    /// There are no tokens any more: dropped, deleted, or in doubt for so long that nobody comes back. What was in doubt
    /// is removed by this very claim.
    Gone,
}

/// The right to spend one refresh token, and to write what it brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// For which tokens.
    pub version: Version,
    /// The fencing token: it grows with each lease of a session, and who writes with an old one is refused.
    pub fence: u64,
}

/// How a [`Lease`] ends.
#[derive(Clone, Debug)]
pub enum Settlement {
    /// The refresh token was spent; these are its successors.
    Replace(Box<StoredTokens>),
    /// The refresh token is void: the tokens are removed.
    Remove,
    /// The refresh token was not spent.
    Release,
}
