//! Validating incoming requests: a caller's token becomes an [`Identity`](crate::Identity).
//!
//! Needs the feature `incoming`.
//!
//! [`TokenValidatorLayer`](crate::TokenValidatorLayer) does this with a [`TokenValidator`](crate::TokenValidator), which
//! gets keys from the issuer or from a [`KeySet`](crate::KeySet), and asks an
//! [`IntrospectionEndpoint`](crate::IntrospectionEndpoint) about opaque tokens.
//! [`ProtectedResourceMetadata`](crate::ProtectedResourceMetadata) tells callers which issuer to use,
//! [`BindSubject`](crate::BindSubject) keeps a session to the user who opened it, and
//! [`delegation_chain`](crate::delegation_chain) reads who acts for the user.
//!
//! This module also has their builders, services and futures. [`DpopPolicy`] accepts tokens that are bound to a key of the
//! caller. A server hands over the certificate of a connection as [`ClientCertificate`].

pub(crate) mod bind_subject;
pub(crate) mod delegation;
mod discovery;
#[cfg(feature = "dpop")]
pub(crate) mod dpop;
pub(crate) mod introspection;
pub(crate) mod issuer;
mod issuer_keys;
pub(crate) mod key_set;
pub(crate) mod layer;
mod mcp_request;
pub(crate) mod metadata;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
pub(crate) mod validator;

pub use bind_subject::{BindSubjectFuture, BindSubjectService};
#[cfg(feature = "dpop")]
pub use dpop::{DpopPolicy, ProofStore};
pub use introspection::IntrospectionEndpointBuilder;
pub use issuer::Issuer;
pub use layer::{TokenValidatorFuture, TokenValidatorService};
pub use mcp_request::McpRequest;
pub use validator::{
    builder::TokenValidatorBuilder, certificate_binding::ClientCertificate, validating::Validating,
};
