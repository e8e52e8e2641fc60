//! Linking: users log in at another provider with their browser, and the tokens are kept for them.
//!
//! Needs the feature `linking`.
//!
//! [`AccountLinking`](crate::AccountLinking) is the service with the pages. [`CodeFlow`] is the authorization code flow
//! alone, for a login to your application.

pub(crate) mod account_linking;
mod authorization_response;
mod browser;
mod builder;
mod client_metadata;
mod code_flow;
mod id_token;
mod link_error;
mod routes;
mod state;

pub use account_linking::LinkingFuture;
pub use builder::AccountLinkingBuilder;
pub use client_metadata::{ClientMetadata, ClientMetadataBuilder};
pub use code_flow::{CodeFlow, CodeFlowFuture, Finished};
pub use link_error::{LinkError, LinkErrorKind};
