//! `AuthLayer`: the origin is checked, then a strategy puts credentials onto the request.

mod authenticator;
mod future;
pub(crate) mod layer;
mod peeked_body;
mod proof_of_possession;
mod retry;
mod step_up;

pub use future::AuthFuture;
pub use layer::{AuthService, NoRetry};
pub use peeked_body::PeekedBody;
pub use retry::{RetryFuture, RetryRejected};
