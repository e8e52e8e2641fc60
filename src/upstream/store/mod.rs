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

/// Keeps the tokens that upstream providers issued, by session and provider.
///
/// # Errors
///
/// All methods fail with [`Unavailable`](crate::AuthErrorKind::Unavailable) when the store cannot be asked, within a
/// bounded time, and then it is not known whether it was changed. Asking the same again does no harm. What is stored and
/// cannot be read is [`Configuration`](crate::AuthErrorKind::Configuration), never a session without tokens.
pub trait UpstreamTokenStore: fmt::Debug + Send + Sync {
    /// All tokens of the session by provider, in one round trip. There are none for a session that is not known.
    fn load<'a>(&'a self, session: &'a str) -> UpstreamFuture<'a, BTreeMap<String, StoredTokens>>;

    /// Keeps what a log-in brought, whatever was there before. A refresh that is under way does not change it.
    fn put<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        tokens: &'a ProviderTokens,
    ) -> UpstreamFuture<'a, ()>;

    /// Forgets the session. A refresh that is under way does not bring it back.
    fn delete<'a>(&'a self, session: &'a str) -> UpstreamFuture<'a, ()>;

    /// Asks for the right to spend a refresh token.
    fn claim<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        claim: &'a Claim,
    ) -> UpstreamFuture<'a, Claimed>;

    /// Lets a lease last for `time` from now. `false` when it was lost, and then it stays lost.
    fn renew<'a>(
        &'a self,
        session: &'a str,
        provider: &'a str,
        lease: &'a Lease,
        time: Duration,
    ) -> UpstreamFuture<'a, bool>;

    /// Ends a lease. `false` when it was lost to another, and then nothing was changed.
    ///
    /// A lease that ran out may still be settled as long as nobody else has claimed what it was for.
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
