//! Requests that arrive: validating their tokens, and binding sessions to users.
//!
//! [`TokenValidatorLayer`](crate::TokenValidatorLayer) validates the caller's token and inserts an
//! [`Identity`](crate::Identity) into the request. [`BindSubject`](crate::BindSubject) then ties a session to the user who
//! opened it.

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
