//! The tokens that users have at upstream providers: loading, refreshing and storing them.
//!
//! Needs the feature `incoming`.
//!
//! | to | use |
//! | --- | --- |
//! | load and refresh the tokens of a [`TokenOwner`], a user or a session of theirs | [`UpstreamTokens`](crate::UpstreamTokens) |
//! | store them | [`MemoryStore`](crate::MemoryStore), [`RedisStore`](crate::RedisStore), or your own [`UpstreamTokenStore`](crate::UpstreamTokenStore) |
//! | name a provider, and how its tokens are refreshed | a [`Provider`] with a [`RefreshTokenGrant`] or your own [`Refresher`] |
//! | have users link their accounts in a browser, feature `linking` | an [`OAuthProvider`], and [`linking`] |
//!
//! The other types are those that you need to write a store ([`OwnerKey`], [`ProviderTokens`], [`StoredTokens`] with their
//! [`Version`], and for refreshes [`Claim`], [`Claimed`], [`Lease`] and [`Settlement`]) or a refresher ([`Refreshed`]).

use std::pin::Pin;

use crate::error::AuthError;

pub(crate) mod account;
pub(crate) mod bound_key;
#[cfg(feature = "linking")]
pub mod linking;
mod loaded_tokens;
#[cfg(feature = "linking")]
mod oauth_provider;
pub(crate) mod owner;
mod provider;
pub(crate) mod refresh;
mod refresher;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
pub(crate) mod store;
pub(crate) mod upstream_tokens;

pub use loaded_tokens::LoadedTokens;
#[cfg(feature = "linking")]
pub use oauth_provider::{OAuthProvider, OAuthProviderBuilder, ProviderSettings};
pub use owner::{OwnerKey, TokenOwner};
pub use provider::{Provider, ProviderBuilder};
pub use refresher::{RefreshTokenGrant, Refreshed, Refresher};
#[cfg(feature = "redis")]
pub use store::redis::RedisStoreBuilder;
#[cfg(any(feature = "dpop", feature = "linking", feature = "redis"))]
pub use store::sealing_key::SealingKey;
pub use store::{
    Claim, Claimed, Lease, ProviderTokens, Settlement, StoredTokens, Version,
    memory::MemoryStoreBuilder,
};
pub use upstream_tokens::LoadingTokens;

/// The boxed future that the methods of an [`UpstreamTokenStore`](crate::UpstreamTokenStore) and a [`Refresher`] return.
///
/// Needs the feature `incoming`.
///
/// The traits can be trait objects, so that their futures are boxed. `Box::pin(async move { … })` makes one.
pub type UpstreamFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, AuthError>> + Send + 'a>>;
