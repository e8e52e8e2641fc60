//! The fakes and helpers that the tests share.
#![allow(dead_code, reason = "no test uses all of it")]

/// A user of some issuer.
#[cfg(feature = "incoming")]
pub(crate) fn owner(subject: &str) -> tower_identity::upstream::TokenOwner {
    tower_identity::upstream::TokenOwner::new("https://issuer.example.com", subject).unwrap()
}

pub(crate) mod authenticated;
#[cfg(any(feature = "hyper", feature = "redis"))]
pub(crate) mod authority;
#[cfg(feature = "aws-sts")]
pub(crate) mod aws_stack;
#[cfg(feature = "private-key-jwt")]
pub(crate) mod certificate;
#[cfg(feature = "incoming")]
#[allow(unused_imports, unused_macros, reason = "few tests wrap a store")]
pub(crate) mod delegated_store;
#[cfg(feature = "dpop")]
pub(crate) mod dpop;
#[cfg(all(feature = "linking", feature = "rmcp", feature = "hyper"))]
pub(crate) mod gateway_world;
pub(crate) mod http_server;
#[cfg(feature = "incoming")]
pub(crate) mod identity_provider;
#[cfg(feature = "token-exchange")]
pub(crate) mod issuer;
#[cfg(any(feature = "incoming", feature = "private-key-jwt"))]
pub(crate) mod key_pair;
#[cfg(feature = "linking")]
pub(crate) mod linking;
pub(crate) mod log;
#[cfg(feature = "rmcp")]
pub(crate) mod mcp_backend;
#[cfg(all(feature = "hyper", feature = "token-exchange"))]
pub(crate) mod mutual_tls;
#[cfg(feature = "incoming")]
pub(crate) mod oidc_provider;
#[cfg(feature = "token-exchange")]
pub(crate) mod peers;
pub(crate) mod recording;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(feature = "redis")]
pub(crate) mod redis_answers;
#[cfg(feature = "redis")]
pub(crate) mod redis_fleet;
#[cfg(feature = "incoming")]
pub(crate) mod rotating_issuer;
#[cfg(feature = "aws-sts")]
pub(crate) mod sigv4;
#[cfg(feature = "incoming")]
pub(crate) mod store_contract;
#[cfg(feature = "aws-sts")]
pub(crate) mod sts;
#[cfg(feature = "hyper")]
pub(crate) mod tls;
#[cfg(feature = "token-exchange")]
pub(crate) mod token_stack;
#[cfg(any(feature = "incoming", feature = "private-key-jwt"))]
pub(crate) mod verified;
