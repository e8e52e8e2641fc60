//! Strategies: how an identity becomes a credential.
//!
//! A [`Strategy`](crate::Strategy) adds the credential to a request. The column "on a health check" says what a request has
//! that is marked as a [`HealthCheck`](crate::HealthCheck), which is made for no user.
//!
//! | strategy | sends | on a health check | feature |
//! | --- | --- | --- | --- |
//! | [`Unauthenticated`](crate::Unauthenticated) | the request as it is | the same | |
//! | [`HeaderInjection`](crate::HeaderInjection) | a fixed header, such as an API key | the same | |
//! | [`UpstreamInject`](crate::UpstreamInject) | the user's own token of an upstream provider | no credential | |
//! | [`ClaimInjection`](crate::ClaimInjection) | chosen claims of the user as headers | no claims | |
//! | [`SignedIdentity`](crate::SignedIdentity) | a statement of who the user is, signed by this gateway | no statement | `private-key-jwt` |
//! | [`TokenExchange`](crate::TokenExchange) | a token that was exchanged for one of the user's (RFC 8693) | the application's own token if the client has a secret, a key or a certificate, otherwise no credential | `token-exchange` |
//! | [`ClientCredentials`](crate::ClientCredentials) | the application's own token (RFC 6749 §4.4) | the same | `token-exchange` |
//! | [`OnBehalfOf`](crate::OnBehalfOf) | a token that Microsoft Entra issued for the user's token | no credential | `token-exchange` |
//! | [`CrossAppAccess`](crate::CrossAppAccess) | a token of the backend's authorization server, for an assertion of the user's identity provider (ID-JAG) | no credential | `token-exchange` |
//! | [`AwsSts`](crate::AwsSts) | a signature (SigV4) with the IAM role that the user's claims select | no signature | `aws-sts` |
//! | [`Both`] | two credentials on one request | those of both | |
//!
//! The strategies that need a feature keep their credentials in a [`CredentialCache`](crate::CredentialCache). With
//! [`retry_rejected`](crate::AuthLayer::retry_rejected) they replace a credential that the backend rejected.
//!
//! [`Placement`](crate::Placement) selects the header that a token is sent in. A token can be [bound to a
//! key](crate::AuthLayer#tokens-bound-to-a-key), with the feature `dpop`.
//!
//! To write another strategy, use [`strategy_fn`](crate::strategy_fn), or implement the
//! [trait](crate::Strategy).

#[cfg(feature = "token-exchange")]
mod assertions;
pub(crate) mod authenticating;
#[cfg(feature = "aws-sts")]
pub(crate) mod aws_sts;
pub(crate) mod both;
pub(crate) mod claim_injection;
#[cfg(feature = "token-exchange")]
pub(crate) mod client_credentials;
#[cfg(feature = "token-exchange")]
pub(crate) mod cross_app_access;
pub(crate) mod header_injection;
#[cfg(feature = "token-exchange")]
pub(crate) mod issued;
#[cfg(feature = "token-exchange")]
pub(crate) mod on_behalf_of;
#[cfg(feature = "token-exchange")]
mod parameters;
pub(crate) mod placement;
pub(crate) mod rejection;
#[cfg(feature = "private-key-jwt")]
pub(crate) mod signed_identity;
#[expect(clippy::module_inception, reason = "the trait is the room's own")]
pub(crate) mod strategy;
#[cfg(feature = "token-exchange")]
pub(crate) mod subject;
#[cfg(feature = "token-exchange")]
mod target;
#[cfg(feature = "token-exchange")]
pub(crate) mod token_exchange;
#[cfg(feature = "token-exchange")]
mod token_keys;
pub(crate) mod unauthenticated;
pub(crate) mod upstream_inject;
pub(crate) mod wider_scope;

#[cfg(feature = "aws-sts")]
pub use aws_sts::{
    builder::AwsStsBuilder, credentials::SessionCredentials, payload_hash::PayloadHash,
};
pub use both::Both;
pub use claim_injection::ClaimInjectionBuilder;
#[cfg(feature = "token-exchange")]
pub use client_credentials::ClientCredentialsBuilder;
#[cfg(feature = "token-exchange")]
pub use cross_app_access::builder::CrossAppAccessBuilder;
#[cfg(feature = "token-exchange")]
pub use issued::IssuedToken;
#[cfg(feature = "token-exchange")]
pub use on_behalf_of::OnBehalfOfBuilder;
pub use rejection::Rejection;
#[cfg(feature = "private-key-jwt")]
pub use signed_identity::SignedIdentityBuilder;
pub use strategy::StrategyFn;
#[cfg(feature = "token-exchange")]
pub use token_exchange::TokenExchangeBuilder;
pub use wider_scope::WiderScope;
