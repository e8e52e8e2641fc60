mod claim;
pub(crate) mod memory;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(feature = "redis")]
pub(crate) mod sealing;
mod tokens;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use crate::upstream::UpstreamFuture;

pub use claim::{Claim, Claimed, Lease, Settlement};
pub use tokens::{ProviderTokens, StoredTokens, Version};

/// Stores upstream tokens by session and provider.
///
/// [`MemoryStore`](crate::MemoryStore) is for one process, and `RedisStore` (feature
/// `redis`) for several replicas. Implement this trait for another database.
///
/// At a login, your application calls [`put`](Self::put) with the provider's tokens,
/// and at a logout [`delete`](Self::delete). In between,
/// [`UpstreamTokens`](crate::UpstreamTokens) loads the tokens for each request, and
/// replaces those that it has refreshed.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tower_identity::{
///     AccessToken, MemoryStore, Secret, UpstreamToken, UpstreamTokenStore,
///     upstream::ProviderTokens,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
///
/// let now = SystemTime::now();
/// let token = UpstreamToken::new(AccessToken::new("gho_16C7e42F292c")?)
///     .with_expires_at(now + Duration::from_secs(3600));
/// let tokens = ProviderTokens::new(token, now)
///     .with_refresh_token(Secret::new("ghr_1B4a2e77838347a7E420")?);
/// store.put("session-1", "github", &tokens).await?;
///
/// store.delete("session-1").await?;
/// # Ok(())
/// # }
/// ```
///
/// # One refresh at a time
///
/// Stored tokens have a [`Version`]. A party that wants to use their refresh token
/// first [claims](Self::claim) that version. It gets a [`Lease`] only if the version is
/// still the stored one and no other party holds a lease. The lease ends when it is
/// [settled](Self::settle), or when it runs out because it was not
/// [renewed](Self::renew). If a lease ran out, the refresh token may have been used, and
/// [`Claimed`] says how to go on.
///
/// Each method must be one atomic step: compare and write in one transaction or script.
///
/// # Errors
///
/// If the store cannot be reached, its methods fail with
/// [`Unavailable`](crate::AuthErrorKind::Unavailable) within a bounded time. It is then
/// unknown whether the store was changed. Calling the same method again is safe. A
/// stored value that cannot be read is a
/// [`Configuration`](crate::AuthErrorKind::Configuration) error, and never counts as a
/// session without tokens.
///
/// # Security
///
/// Anyone who knows a session's id can load its tokens. Take the id from a source that
/// authenticated the session's holder, for example a signed token. Never take it from
/// a value that a caller can choose.
pub trait UpstreamTokenStore: fmt::Debug + Send + Sync {
    /// Loads all tokens of the session, by provider, in one round trip. An unknown session has none.
    fn load<'a>(&'a self, session: &'a str) -> UpstreamFuture<'a, BTreeMap<String, StoredTokens>>;

    /// Stores the tokens of a login with a new [`Version`], in place of older ones. A running refresh does not change
    /// them.
    fn put<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        tokens: &'a ProviderTokens,
    ) -> UpstreamFuture<'a, ()>;

    /// Deletes the session. A running refresh does not bring it back.
    fn delete<'a>(&'a self, session: &'a str) -> UpstreamFuture<'a, ()>;

    /// Asks for the right to use a refresh token.
    ///
    /// The same [holder](Claim::holder) that claims again gets the same lease again.
    fn claim<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        claim: &'a Claim,
    ) -> UpstreamFuture<'a, Claimed>;

    /// Lets a lease last for `time` from now. Returns `false` if the lease was lost, which is final.
    fn renew<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        lease: &'a Lease,
        time: Duration,
    ) -> UpstreamFuture<'a, bool>;

    /// Ends a lease. Returns `false` if it was lost to another party. Then nothing was changed.
    ///
    /// A lease that ran out can still be settled, unless another party has claimed the version since. Settling with the
    /// same successor again returns `true`.
    fn settle<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        lease: &'a Lease,
        settlement: &'a Settlement,
    ) -> UpstreamFuture<'a, bool>;
}

impl<S: UpstreamTokenStore + ?Sized> UpstreamTokenStore for Arc<S> {
    fn load<'a>(&'a self, session: &'a str) -> UpstreamFuture<'a, BTreeMap<String, StoredTokens>> {
        (**self).load(session)
    }

    fn put<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        tokens: &'a ProviderTokens,
    ) -> UpstreamFuture<'a, ()> {
        (**self).put(session, provider, tokens)
    }

    fn delete<'a>(&'a self, session: &'a str) -> UpstreamFuture<'a, ()> {
        (**self).delete(session)
    }

    fn claim<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        claim: &'a Claim,
    ) -> UpstreamFuture<'a, Claimed> {
        (**self).claim(session, provider, claim)
    }

    fn renew<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        lease: &'a Lease,
        time: Duration,
    ) -> UpstreamFuture<'a, bool> {
        (**self).renew(session, provider, lease, time)
    }

    fn settle<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        lease: &'a Lease,
        settlement: &'a Settlement,
    ) -> UpstreamFuture<'a, bool> {
        (**self).settle(session, provider, lease, settlement)
    }
}
