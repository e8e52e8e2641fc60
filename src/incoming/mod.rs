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

pub(crate) mod bind_subject;
pub(crate) mod delegation;
pub(crate) mod introspection;
pub(crate) mod jwks;
pub(crate) mod layer;
pub(crate) mod metadata;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
pub(crate) mod validator;

pub use bind_subject::{BindSubjectFuture, BindSubjectService};
pub use introspection::IntrospectionEndpointBuilder;
pub use layer::{TokenValidatorFuture, TokenValidatorService};
pub use validator::{builder::TokenValidatorBuilder, validating::Validating};
