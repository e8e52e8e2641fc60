//! Tokens that are bound to a key of the caller (DPoP, RFC 9449): the proof that each request has the key.

mod forgotten;
mod memory;
mod nonces;
#[cfg(feature = "testing")]
mod of_client;
pub(crate) mod policy;
mod proof;
mod public_url;
mod replay;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
mod verifier;

#[cfg(feature = "testing")]
pub(crate) use of_client::ClientRequest;
pub use policy::DpopPolicy;
pub(super) use proof::Proof;
pub use replay::ProofStore;
pub(super) use replay::Use;
pub(super) use verifier::{Presentation, Verified, Verifier};
