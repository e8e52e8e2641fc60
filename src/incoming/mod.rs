//! A request arrives: who sent it is established, and what they may use is put beside it.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response, StatusCode, header::WWW_AUTHENTICATE};
//! use http_body_util::Full;
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_identity::{Identity, KeySet, TokenValidator, TokenValidatorLayer};
//!
//! # futures_util::FutureExt::now_or_never(async {
//! let keys = KeySet::from_json(
//!     r#"{ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }] }"#,
//! )?;
//! let validator = TokenValidator::builder_with_keys("https://issuer.example.com", keys)
//!     .audience("https://gateway.example.com")
//!     .build()?;
//! let gateway = service_fn(async |request: Request<()>| {
//!     let identity = request.extensions().get::<Identity>();
//!     let greeting = format!("hello, {}", identity.map_or("stranger", Identity::subject));
//!     Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(greeting))))
//! });
//! let gateway = TokenValidatorLayer::new(validator).layer(gateway);
//!
//! let response = gateway.oneshot(Request::new(())).await?;
//! assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
//! assert_eq!(response.headers()[WWW_AUTHENTICATE], r#"Bearer realm="https://gateway.example.com""#);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap().unwrap();
//! ```

pub mod bind_subject;
mod challenge;
pub mod delegation;
pub mod introspection;
pub mod jwks;
pub mod layer;
pub mod metadata;
mod remembered;
#[cfg(all(test, shuttle))]
mod schedules;
pub mod store;
pub mod upstream;
pub mod validator;

pub use bind_subject::{BindSubject, BindSubjectService};
pub use delegation::{ActingParty, delegation_chain};
pub use introspection::{IntrospectionEndpoint, IntrospectionEndpointBuilder};
pub use jwks::KeySet;
pub use layer::{TokenValidatorLayer, TokenValidatorService};
pub use metadata::ProtectedResourceMetadata;
#[cfg(feature = "redis")]
pub use store::RedisStore;
pub use store::{MemoryStore, ProviderTokens, UpstreamTokenStore};
pub use upstream::{LoadedTokens, Provider, RefreshTokenGrant, Refresher, UpstreamTokens};
pub use validator::{TokenValidator, TokenValidatorBuilder};
