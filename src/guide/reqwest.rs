//! I have reqwest.
//!
//! # 1. Hand over the builder, not the client
//!
//! reqwest follows redirects by itself, beneath the layers, and would take an `x-api-key` along to another host.
//! [`ReqwestService::new`](crate::client::reqwest::ReqwestService::new) takes your `ClientBuilder` with all its settings,
//! and switches that off. A proxy that is meant is named in the builder; those of the environment are not used.
//!
//! # 2. Choose TLS
//!
//! This crate turns on none of reqwest's features. Your `Cargo.toml` does:
//!
//! ```toml
//! tower-identity = { version = "0.1", features = ["reqwest"] }
//! reqwest = { version = "0.13", default-features = false, features = ["rustls"] }
//! ```
//!
//! # 3. Put the layers on top, and send `http` requests
//!
//! In place of `client.post(url).send()`, make an [`http::Request`], put the user's identity into its extensions, and
//! call the stack.
//!
//! ```
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use http::{Request, StatusCode};
//! use http_body_util::Full;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//! use tower_identity::{
//!     AuthLayer, Identity, IdentityLayer, Origin, UpstreamInject,
//!     client::reqwest::ReqwestService,
//! };
//!
//! async fn call(identity: Identity) -> Result<StatusCode, BoxError> {
//!     let builder = reqwest::Client::builder().connect_timeout(Duration::from_secs(5));
//!     let client = ServiceBuilder::new()
//!         .layer(IdentityLayer::new(None))
//!         .layer(AuthLayer::new(Origin::try_from("https://api.example.com")?, UpstreamInject::new("github")?))
//!         .service(ReqwestService::<Full<Bytes>>::new(builder)?);
//!
//!     let mut request = Request::post("https://api.example.com/v1/items").body(Full::from("{}"))?;
//!     request.extensions_mut().insert(identity);
//!     Ok(client.oneshot(request).await?.status())
//! }
//! # let _ = call;
//! ```
//!
//! Build the stack once, and clone it for each call: clones share the connections.
//!
//! # 4. If it has to be a reqwest request
//!
//! A `reqwest::Request` converts into an `http::Request<reqwest::Body>`, and its timeout travels along. Then the stack is
//! one over `ReqwestService<reqwest::Body>`.
//!
//! # What changes
//!
//! - A status of 400 or above is a response, as it is without `error_for_status`.
//! - An error shows no URL: a secret in its query would be in your log.
//! - Cookies: a client with a cookie store keeps those of all its users together. Give it none.
//!
//! `cargo run --all-features --example reqwest` runs as it is. The details are in [`crate::client::reqwest`].
