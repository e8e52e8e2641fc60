//! The tokens that users have elsewhere: loaded for each request, and refreshed before they expire.

mod loaded_tokens;
mod provider;
mod refresh;
mod refresher;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
pub(crate) mod store;
pub(crate) mod upstream_tokens;

pub use loaded_tokens::LoadedTokens;
pub use provider::Provider;
pub use refresher::{RefreshTokenGrant, Refresher, Refreshing};
pub use store::{
    Claim, Claimed, Lease, ProviderTokens, Settlement, StoreFuture, StoredTokens, Version,
    memory::MemoryStoreBuilder,
};
#[cfg(feature = "redis")]
pub use store::{redis::RedisStoreBuilder, sealing::SealingKey};
pub use upstream_tokens::{IN_DOUBT_FOR, LoadingTokens};
