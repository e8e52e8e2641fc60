#![doc = "tower-identity"]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(test),
    deny(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

pub mod client;
pub mod clock;
#[cfg(feature = "credential-cache")]
pub mod credential;
pub mod error;
pub mod identity;
pub mod origin;
pub mod outgoing;
pub mod secret;
pub mod strategy;

pub use clock::Clock;
#[cfg(feature = "credential-cache")]
pub use credential::cache::CredentialCache;
#[cfg(feature = "token-exchange")]
pub use credential::endpoint::{ClientAuth, TokenEndpoint, TokenRequest, TokenResponse};
pub use error::{AuthError, AuthErrorKind};
pub use identity::{Identity, IdentityBuilder, InvalidIdentity, UpstreamToken};
pub use origin::{InvalidOrigin, Origin};
#[cfg(feature = "token-exchange")]
pub use outgoing::Reauthenticate;
pub use outgoing::{
    AuthLayer, AuthService, CapturedHeaders, FallbackPolicy, HeaderForwardLayer,
    HeaderForwardService, HealthCheck, IdentityLayer, IdentityService,
};
#[cfg(feature = "credential-cache")]
pub use secret::Fingerprint;
pub use secret::{AccessToken, InvalidSecret, Secret};
#[cfg(feature = "token-exchange")]
pub use strategy::{Actor, ClientCredentials, CrossAppAccess, OnBehalfOf, Subject, TokenExchange};
pub use strategy::{
    Authenticating, HeaderInjection, Strategy, Unauthenticated, UpstreamInject, strategy_fn,
};
