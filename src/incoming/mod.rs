//! A request arrives: whose it is, and which upstream tokens come with it.

pub mod store;
pub mod upstream;

#[cfg(feature = "redis")]
pub use store::RedisStore;
pub use store::{MemoryStore, ProviderTokens, UpstreamTokenStore};
pub use upstream::{LoadedTokens, Provider, RefreshTokenGrant, Refresher, UpstreamTokens};
