//! The OAuth protocol: requests to a token endpoint, its responses, and client authentication.
//!
//! Needs the feature `token-exchange`.
//!
//! A [`TokenEndpoint`](crate::TokenEndpoint) sends a [`TokenRequest`] and returns a [`TokenResponse`]. The strategies
//! with issued tokens do this by themselves, so you need these types only for a grant of your choice.

#[cfg(feature = "incoming")]
pub(crate) mod challenge;
pub(crate) mod client_auth;
#[cfg(feature = "dpop")]
pub(crate) mod dpop;
pub(crate) mod form;
pub(crate) mod http_client;
mod interaction;
#[cfg(feature = "private-key-jwt")]
pub(crate) mod private_key_jwt;
#[cfg(feature = "private-key-jwt")]
pub(crate) mod public_key;
#[cfg(any(feature = "linking", feature = "private-key-jwt"))]
pub(crate) mod published_document;
pub(crate) mod refusal;
mod refusal_codes;
pub(crate) mod request;
mod resource_metadata;
pub(crate) mod response;
pub(crate) mod secret_source;
#[cfg(feature = "private-key-jwt")]
pub(crate) mod signing;
#[cfg(feature = "private-key-jwt")]
pub(crate) mod signing_keys;
pub(crate) mod syntax;
pub(crate) mod token_endpoint;
pub(crate) mod token_type;
pub(crate) mod unverified_jwt;

#[cfg(feature = "dpop")]
pub use dpop::{key::DpopKey, keys::DpopKeys};
#[cfg(feature = "private-key-jwt")]
pub use private_key_jwt::{PrivateKeyJwt, PrivateKeyJwtBuilder};
pub use request::TokenRequest;
pub use resource_metadata::{ResourceMetadata, ResourceMetadataFuture};
pub use response::{Lifetime, TokenResponse};
pub use secret_source::SecretSource;
#[cfg(feature = "private-key-jwt")]
pub use signing::{JwtSigner, SigningAlgorithm, SigningFuture};
#[cfg(feature = "private-key-jwt")]
pub use signing_keys::{Jwks, SigningKeys};
pub use token_endpoint::{TokenResponseFuture, builder::TokenEndpointBuilder};
pub use token_type::TokenType;
