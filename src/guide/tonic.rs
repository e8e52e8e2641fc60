//! Add the layers to a gRPC client of tonic.
//!
//! A generated client takes any Tower service over HTTP, so the layers go beneath it. `tests/tonic.rs` runs the code of
//! this page against a server of tonic.
//!
//! # 1. Put the layers on a `Channel`
//!
//! ```
//! use std::sync::Arc;
//!
//! use tonic::{Code, Request, Status, transport::Channel};
//! use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
//! use tower::{BoxError, ServiceBuilder};
//! use tower_identity::{
//!     AuthError, AuthErrorKind, AuthLayer, Identity, Origin, UpstreamInject,
//! };
//!
//! async fn check(caller: Identity) -> Result<(), BoxError> {
//!     // Once for each backend. A clone of a `Channel` shares its connection.
//!     let channel = Channel::from_static("https://grpc.example.com")
//!         .connect()
//!         .await?;
//!     let origin = Origin::try_from("https://grpc.example.com")?;
//!     let stack = ServiceBuilder::new()
//!         .map_err(status)
//!         .layer(AuthLayer::new(origin, UpstreamInject::new("github")?))
//!         .service(channel);
//!     let mut client = HealthClient::with_origin(
//!         stack,
//!         "https://grpc.example.com".parse()?,
//!     );
//!
//!     // For each call, with the caller's newest identity.
//!     let mut request = Request::new(HealthCheckRequest::default());
//!     request.extensions_mut().insert(caller);
//!     client.check(request).await?;
//!     Ok(())
//! }
//!
//! /// Gives the error of the stack a code that says what to do.
//! fn status(error: BoxError) -> Status {
//!     let Some(error) = AuthError::find_in(&*error) else {
//!         return Status::from_error(error);
//!     };
//!     let code = match error.kind() {
//!         AuthErrorKind::MissingIdentity
//!         | AuthErrorKind::MissingToken
//!         | AuthErrorKind::Expired
//!         | AuthErrorKind::Rejected => Code::Unauthenticated,
//!         AuthErrorKind::InsufficientScope => Code::PermissionDenied,
//!         AuthErrorKind::Unavailable => Code::Unavailable,
//!         _ => Code::Internal,
//!     };
//!     let mut status = Status::new(code, error.to_string());
//!     status.set_source(Arc::new(error.clone()));
//!     status
//! }
//! # let _ = check;
//! ```
//!
//! Use `with_origin`, not `new`. The layers see the request before the channel does, and without `with_origin` its URI
//! has no host. [`AuthLayer`](crate::AuthLayer) refuses such a request.
//!
//! # 2. Give each call an identity
//!
//! tonic carries the extensions of a `tonic::Request` over to the HTTP request. Do not put a token into the metadata:
//! the strategy replaces the header `authorization`.
//!
//! # 3. Handle the error
//!
//! Without `map_err(status)`, each error of the layers arrives with the code `Unknown`. With it, the code says what to
//! do, and [`AuthError::find_in`](crate::AuthError::find_in) finds the error in the status. The text is for your own log.
//! A server that passes the status on to its caller should send another text, because this one names the backend.
//!
//! # Without a `Channel`
//!
//! hyper-util's client works as well, if it speaks HTTP/2 only:
//!
//! ```
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//!
//! let client = Client::builder(TokioExecutor::new())
//!     .http2_only(true)
//!     .build_http::<tonic::body::Body>();
//! # let _ = client;
//! ```
//!
//! A [retry](crate::AuthLayer::retry_rejected) does not help a gRPC call: the body is a stream that cannot be cloned, and
//! a gRPC server rejects a token with the status `Unauthenticated` in an HTTP response with the code 200. Make the call
//! again with a fresh identity.
