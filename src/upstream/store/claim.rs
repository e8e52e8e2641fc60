use std::time::Duration;

use super::tokens::{StoredTokens, Version};

/// A request for the right to spend the refresh token of one version.
///
/// Needs the feature `incoming`.
///
/// `UpstreamTokens` makes claims. To test a store that you wrote, make them with [`new`](Self::new).
///
/// [`UpstreamTokenStore`](crate::UpstreamTokenStore) has an example of a store.
#[derive(Clone, Debug)]
pub struct Claim {
    version: Version,
    holder: u128,
    lease_time: Duration,
    grace: Duration,
    in_doubt_for: Duration,
}

impl Claim {
    /// A claim by a new holder, for a lease of `lease_time`. It has no grace period, and is in doubt for a minute.
    pub fn new(version: Version, lease_time: Duration) -> Self {
        Self {
            version,
            holder: fastrand::u128(..),
            lease_time,
            grace: Duration::ZERO,
            in_doubt_for: Duration::from_secs(60),
        }
    }

    /// Sets the [grace period](Self::grace).
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets the time [in doubt](Self::in_doubt_for).
    #[must_use]
    pub fn with_in_doubt_for(mut self, in_doubt_for: Duration) -> Self {
        self.in_doubt_for = in_doubt_for;
        self
    }

    /// The version whose refresh token is claimed.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Identifies the party that claims. If it claims again, it gets the same lease again, unless another party came in
    /// between.
    pub fn holder(&self) -> u128 {
        self.holder
    }

    /// How long the lease lasts unless it is renewed.
    pub fn lease_time(&self) -> Duration {
        self.lease_time
    }

    /// How long after its first claim a refresh token that may have been spent can be presented again.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// How long after the first claim its holder may still settle. It is longer than a refresh can take.
    pub fn in_doubt_for(&self) -> Duration {
        self.in_doubt_for
    }
}

/// The outcome of a [`Claim`].
///
/// Needs the feature `incoming`.
///
/// [`UpstreamTokenStore`](crate::UpstreamTokenStore) has an example of a store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Claimed {
    /// The refresh token may be spent.
    Granted(Lease),
    /// Another holder is spending it. Its lease ends after this time unless it is renewed.
    Held(Duration),
    /// The lease ran out and was not settled, so the refresh token may have been spent. It must not be presented again.
    /// For this time its holder may still come back with its successor.
    InDoubt(Duration),
    /// Other tokens are stored now.
    Superseded(StoredTokens),
    /// There are no tokens any more: they were dropped or deleted, or they were in doubt for so long that their holder
    /// will not come back. This claim removes tokens that were in doubt.
    Gone,
}

/// The right to spend one refresh token, and to write its successor.
///
/// Needs the feature `incoming`.
///
/// [`UpstreamTokenStore`](crate::UpstreamTokenStore) has an example of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    version: Version,
    fence: u64,
}

impl Lease {
    /// A lease for the refresh token of `version`, with the fencing token `fence`.
    pub fn new(version: Version, fence: u64) -> Self {
        Self { version, fence }
    }

    /// The version whose refresh token may be spent.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The fencing token. It grows with each lease of a session, and a store refuses a write with an older one.
    pub fn fence(&self) -> u64 {
        self.fence
    }
}

/// How a [`Lease`] ends.
///
/// Needs the feature `incoming`.
///
/// A store must handle each of them, so that this enum is exhaustive.
///
/// [`UpstreamTokenStore`](crate::UpstreamTokenStore) has an example of a store.
#[derive(Clone, Debug)]
pub enum Settlement {
    /// The refresh token was spent, and these are its successors.
    Replace(StoredTokens),
    /// The refresh token is void: the tokens are removed.
    Remove,
    /// The refresh token was not spent.
    Release,
}
