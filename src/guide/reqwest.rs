//! Add the layers to a reqwest client.
//!
//! # 1. Keep your client, and turn off its redirects
//!
//! You keep the `reqwest::Client` that you have, with its TLS settings, time limits and connections. Change one line
//! where it is built, the policy for redirects, and hand it to
//! [`from_client_without_redirects`](crate::client::reqwest::ReqwestService::from_client_without_redirects):
//!
//! ```
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use reqwest::redirect::Policy;
//! use tower_identity::client::reqwest::ReqwestService;
//!
//! let client = reqwest::Client::builder()
//!     .redirect(Policy::none())
//!     .build()?;
//! let service =
//!     ReqwestService::<Full<Bytes>>::from_client_without_redirects(client);
//! # let _ = service;
//! # Ok::<(), reqwest::Error>(())
//! ```
//!
//! By default a reqwest client follows redirects. It does so beneath the layers, where no origin is checked, and takes
//! a header such as `x-api-key` along to another host. The crate cannot check the policy of a client that exists, so the
//! name of the method states it.
//!
//! If the client is built somewhere else, and you only have its `ClientBuilder`, or none yet, hand the builder with all its
//! settings to [`ReqwestService::new`](crate::client::reqwest::ReqwestService::new). It turns redirects off. It also
//! ignores the proxies of the environment (`HTTP_PROXY`), which would see the credentials that go to a plain `http`
//! origin. Name the proxies that you want in the builder.
//!
//! Other parts of your program, which need redirects, use another client.
//!
//! # 2. Choose a TLS implementation
//!
//! This crate enables no feature of reqwest. Enable TLS in your `Cargo.toml`. Without it, a request to `https` fails with
//! "invalid URL, scheme is not http".
//!
//! ```toml
//! tower-identity = { version = "0.1", features = ["reqwest"] }
//! reqwest = { version = "0.13", default-features = false, features = ["rustls"] }
//! ```
//!
//! # 3. Put the layers on top, and send `http` requests
//!
//! Replace `client.post(url).send()` by an `http::Request`. Insert the user's identity into its extensions, and call
//! the stack.
//!
//! ```
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use http::{Request, StatusCode};
//! use http_body_util::Full;
//! use tower::{BoxError, Layer, ServiceExt};
//! use tower_identity::{
//!     AuthLayer, Identity, Origin, UpstreamInject,
//!     client::reqwest::ReqwestService,
//! };
//!
//! async fn call(identity: Identity) -> Result<StatusCode, BoxError> {
//!     let builder = reqwest::Client::builder()
//!         .connect_timeout(Duration::from_secs(5));
//!     let origin = Origin::try_from("https://api.example.com")?;
//!     let client = AuthLayer::new(origin, UpstreamInject::new("github")?)
//!         .layer(ReqwestService::<Full<Bytes>>::new(builder)?);
//!
//!     let mut request = Request::post("https://api.example.com/v1/items")
//!         .body(Full::from("{}"))?;
//!     request.extensions_mut().insert(identity);
//!     Ok(client.oneshot(request).await?.status())
//! }
//! # let _ = call;
//! ```
//!
//! Build the stack once and clone it for each call, because clones share their connections. If the stack belongs to a
//! session of one user, add an [`IdentityLayer`](crate::IdentityLayer) above the [`AuthLayer`](crate::AuthLayer).
//!
//! # 4. Send a `reqwest::Request`
//!
//! Code that builds its requests with reqwest keeps doing so. A `reqwest::Request` converts into an
//! `http::Request<reqwest::Body>`, and keeps its timeout. A response converts back, so `json()` and `error_for_status()`
//! still work:
//!
//! ```
//! use tower::{BoxError, ServiceExt};
//! use tower_identity::{
//!     Identity, UpstreamInject, client::reqwest::ReqwestService,
//!     outgoing::AuthService,
//! };
//!
//! type Api = AuthService<ReqwestService<reqwest::Body>, UpstreamInject>;
//!
//! async fn call(
//!     api: Api,
//!     client: &reqwest::Client,
//!     identity: Identity,
//! ) -> Result<String, BoxError> {
//!     let request = client.get("https://api.example.com/v1/items").build()?;
//!     let mut request = http::Request::<reqwest::Body>::try_from(request)?;
//!     request.extensions_mut().insert(identity);
//!     let response = api.oneshot(request).await?;
//!     let response = reqwest::Response::from(response.map(reqwest::Body::wrap));
//!     Ok(response.error_for_status()?.text().await?)
//! }
//! # let _ = call;
//! ```
//!
//! Do not call `send()` on such a request, because then no layer sees it.
//!
//! # 5. Present a client certificate
//!
//! reqwest takes a certificate from memory with `ClientBuilder::identity`. A certificate in files that are replaced comes
//! from [`CertificateSource`](crate::client::hyper::CertificateSource) (feature `hyper`), through the TLS settings of
//! rustls 0.23:
//!
//! ```ignore
//! let certificate = CertificateSource::files("tls.crt", "tls.key")?;
//! let mut tls = rustls::ClientConfig::builder()
//!     .with_root_certificates(roots)
//!     .with_client_cert_resolver(certificate.resolver());
//! tls.resumption = rustls::client::Resumption::disabled();
//! let builder = reqwest::Client::builder()
//!     .tls_backend_preconfigured(tls)
//!     .pool_max_idle_per_host(0);
//! let service = ReqwestService::<Full<Bytes>>::new(builder)?;
//! ```
//!
//! reqwest does not know that the certificate was replaced. It keeps its connections, and resumes sessions in which the
//! old one was presented. Without idle connections and resumption, each HTTP/1.1 request presents the current certificate,
//! for the price of a whole handshake. The [hyper
//! client](crate::guide::hyper#5-present-a-client-certificate) needs no such setting.
//!
//! # What changes
//!
//! - A status of 400 or above is a response, as it is in reqwest without `error_for_status`.
//! - An error does not show the URL, because a secret in its query would end up in your log.
//! - A client with a cookie store keeps the cookies of all its users together. Use a client without one.
//!
//! `cargo run --all-features --example reqwest` is a complete program. [`client::reqwest`](crate::client::reqwest) has
//! the details.
