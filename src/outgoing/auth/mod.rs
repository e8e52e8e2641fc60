//! `AuthLayer`: the origin is checked, then a strategy puts credentials onto the request.

mod future;
pub(crate) mod layer;

pub use future::AuthFuture;
pub use layer::AuthService;
