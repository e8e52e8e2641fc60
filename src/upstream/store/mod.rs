mod claim;
pub(crate) mod memory;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(feature = "redis")]
mod sealing;
#[cfg(any(feature = "dpop", feature = "linking", feature = "redis"))]
pub(crate) mod sealing_key;
mod tokens;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use crate::upstream::{TokenOwner, UpstreamFuture};

#[cfg(feature = "linking")]
use sealing_key::SealingKey;

pub use claim::{Claim, Claimed, Lease, Settlement};
pub use tokens::{ProviderTokens, StoredTokens, Version};

/// Stores upstream tokens by user, session and provider.
///
/// Needs the feature `incoming`.
///
/// [`MemoryStore`](crate::MemoryStore) is for one process, and `RedisStore` (feature
/// `redis`) for several replicas. Implement this trait for another database.
///
/// At a login, your application calls [`put`](Self::put) with the provider's tokens,
/// and at a logout [`remove`](Self::remove). In between,
/// [`UpstreamTokens`](crate::UpstreamTokens) loads the tokens for each request, and
/// replaces those that it has refreshed.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tower_identity::{
///     AccessToken, MemoryStore, Secret, UpstreamToken, UpstreamTokenStore,
///     upstream::{ProviderTokens, TokenOwner},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
///
/// let alice = TokenOwner::new("https://idp.example.com", "alice")?;
/// let now = SystemTime::now();
/// let token = UpstreamToken::new(AccessToken::new("gho_16C7e42F292c")?)
///     .with_expires_at(now + Duration::from_secs(3600));
/// let tokens = ProviderTokens::new(token, now)
///     .with_refresh_token(Secret::new("ghr_1B4a2e77838347a7E420")?);
/// store.put(&alice, "github", &tokens).await?;
/// assert!(store.providers(&alice).await?.contains("github"));
///
/// store.remove(&alice).await?;
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
/// user without tokens.
///
/// # Whose tokens they are
///
/// A [`TokenOwner`] is a user: an issuer and a subject. Applications that keep the
/// tokens of each login apart add a session. For a user `U` with the sessions `a` and
/// `b`:
///
/// | call | effect |
/// | --- | --- |
/// | `load(U)` | loads the tokens that were put for `U` without a session |
/// | `load(U with a)` | loads the tokens that were put for `U` with `a` |
/// | `remove(U with a)` | removes the tokens of `a`. Those of `b`, and those without a session, stay |
/// | `remove_user(U)` | removes the tokens of `a`, of `b`, and those without a session |
///
/// A store finds tokens by [`TokenOwner::key`], and the sessions of a user by
/// [`TokenOwner::user_key`]. It needs neither the issuer, nor the subject, nor the
/// session's id.
///
/// A store that writes tokens in its own format must write [all their
/// parts](crate::UpstreamToken), also the thumbprint of the key that they are bound to,
/// and [that of the refresh token](ProviderTokens::refresh_thumbprint).
///
/// # Security
///
/// A store that finds tokens by less than the owner's key, for example by the session's
/// id alone, must return the [`user`](StoredTokens::user) that they were stored for.
/// [`UpstreamTokens`](crate::UpstreamTokens) compares it with the caller, and refuses
/// tokens of another user.
pub trait UpstreamTokenStore: fmt::Debug + Send + Sync {
    /// Loads all tokens of this user and session, by provider, in one round trip. An unknown owner has none.
    ///
    /// The tokens come with the [`user`](StoredTokens::user) that they were stored for.
    fn load<'a>(
        &'a self,
        owner: &'a TokenOwner,
    ) -> UpstreamFuture<'a, BTreeMap<String, StoredTokens>>;

    /// Stores the tokens of a login with a new [`Version`], in place of older ones. A running refresh does not change
    /// them.
    fn put<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        tokens: &'a ProviderTokens,
    ) -> UpstreamFuture<'a, ()>;

    /// Removes the tokens of this user and session. A running refresh does not bring them back.
    fn remove<'a>(&'a self, owner: &'a TokenOwner) -> UpstreamFuture<'a, ()>;

    /// Removes the tokens of one provider of this user and session. A running refresh does not bring them back.
    fn remove_provider<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
    ) -> UpstreamFuture<'a, ()>;

    /// Removes all tokens of the user, with and without a session, whatever session `user` names. A running refresh does
    /// not bring them back.
    fn remove_user<'a>(&'a self, user: &'a TokenOwner) -> UpstreamFuture<'a, ()>;

    /// The providers of which the user has tokens, with or without a session, whatever session `user` names.
    ///
    /// The tokens may have expired. It is meant for a page that shows a user the linked accounts.
    fn providers<'a>(&'a self, user: &'a TokenOwner) -> UpstreamFuture<'a, BTreeSet<String>>;

    /// Asks for the right to use a refresh token.
    ///
    /// The same [holder](Claim::holder) that claims again gets the same lease again.
    fn claim<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        claim: &'a Claim,
    ) -> UpstreamFuture<'a, Claimed>;

    /// Lets a lease last for `time` from now. Returns `false` if the lease was lost, which is final.
    fn renew<'a>(
        &'a self,
        owner: &'a TokenOwner,
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
        owner: &'a TokenOwner,
        provider: &'a str,
        lease: &'a Lease,
        settlement: &'a Settlement,
    ) -> UpstreamFuture<'a, bool>;

    /// Notes that `id` is used, and remembers it for `time`. Returns `false` if it was used before.
    ///
    /// [`AccountLinking`](crate::AccountLinking) accepts each of its redirects once by this. Of several replicas that
    /// call it with the same `id`, one gets `true`. `attempt` is random: a call with the same `id` and `attempt` is the
    /// same call again, because its answer was lost, and gets the same answer.
    ///
    /// A store that cannot remember another one fails with [`Unavailable`](crate::AuthErrorKind::Unavailable).
    fn use_once<'a>(
        &'a self,
        id: [u8; 32],
        attempt: u128,
        time: Duration,
    ) -> UpstreamFuture<'a, bool>;

    /// The keys by which this store seals, the newest first. All replicas must have them. By default there are none.
    ///
    /// Needs the feature `linking`.
    ///
    /// [`AccountLinking`](crate::AccountLinking) seals with the first of them, and opens with any.
    #[cfg(feature = "linking")]
    fn sealing_keys(&self) -> &[SealingKey] {
        &[]
    }
}

impl<S: UpstreamTokenStore + ?Sized> UpstreamTokenStore for Arc<S> {
    fn load<'a>(
        &'a self,
        owner: &'a TokenOwner,
    ) -> UpstreamFuture<'a, BTreeMap<String, StoredTokens>> {
        (**self).load(owner)
    }

    fn put<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        tokens: &'a ProviderTokens,
    ) -> UpstreamFuture<'a, ()> {
        (**self).put(owner, provider, tokens)
    }

    fn remove<'a>(&'a self, owner: &'a TokenOwner) -> UpstreamFuture<'a, ()> {
        (**self).remove(owner)
    }

    fn remove_provider<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
    ) -> UpstreamFuture<'a, ()> {
        (**self).remove_provider(owner, provider)
    }

    fn remove_user<'a>(&'a self, user: &'a TokenOwner) -> UpstreamFuture<'a, ()> {
        (**self).remove_user(user)
    }

    fn providers<'a>(&'a self, user: &'a TokenOwner) -> UpstreamFuture<'a, BTreeSet<String>> {
        (**self).providers(user)
    }

    fn claim<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        claim: &'a Claim,
    ) -> UpstreamFuture<'a, Claimed> {
        (**self).claim(owner, provider, claim)
    }

    fn renew<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        lease: &'a Lease,
        time: Duration,
    ) -> UpstreamFuture<'a, bool> {
        (**self).renew(owner, provider, lease, time)
    }

    fn settle<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        lease: &'a Lease,
        settlement: &'a Settlement,
    ) -> UpstreamFuture<'a, bool> {
        (**self).settle(owner, provider, lease, settlement)
    }

    fn use_once<'a>(
        &'a self,
        id: [u8; 32],
        attempt: u128,
        time: Duration,
    ) -> UpstreamFuture<'a, bool> {
        (**self).use_once(id, attempt, time)
    }

    #[cfg(feature = "linking")]
    fn sealing_keys(&self) -> &[SealingKey] {
        (**self).sealing_keys()
    }
}
