//! Obtaining credentials, and keeping them.

pub(crate) mod cache;

pub use cache::{
    CredentialCacheBuilder,
    entry::Obtained,
    key::{CacheKey, CacheScope},
    single_flight::Obtaining,
};

pub use crate::secret::Fingerprint;
