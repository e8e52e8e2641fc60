//! Obtaining credentials for users, and caching them.
//!
//! Needs the feature `token-exchange`.
//!
//! [`CredentialCache`](crate::CredentialCache) is the cache. This module has the types that its methods take and return:
//! a [`CacheKey`] is made by a [`CacheScope`] of a user's [`Fingerprint`], a fetch returns [`Obtained`], and
//! [`Obtaining`] is the future of a credential.

pub(crate) mod cache;

pub use cache::{
    CredentialCacheBuilder,
    entry::Obtained,
    key::{CacheKey, CacheScope},
    obtaining::Obtaining,
};

pub use crate::secret::Fingerprint;
