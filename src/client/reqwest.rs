//! A `reqwest::Client` as the innermost service of a Tower stack.
//!
//! Needs the feature `reqwest`.
//!
//! ```
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use tower::Layer;
//! use tower_identity::{
//!     AuthLayer, Origin, UpstreamInject, client::reqwest::ReqwestService,
//! };
//!
//! let builder = reqwest::Client::builder();
//! let http_client = ReqwestService::<Full<Bytes>>::new(builder)?;
//! let origin = Origin::try_from("https://mcp.example.com")?;
//! let strategy = UpstreamInject::new("github")?;
//! let client = AuthLayer::new(origin, strategy).layer(http_client);
//! # Ok::<(), tower::BoxError>(())
//! ```
//!
//! This crate enables none of reqwest's features. To send requests to `https`, enable one of its TLS features in your
//! own `Cargo.toml`, for example `reqwest = { version = "0.13", features = ["rustls"] }`.

use std::{
    fmt,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use reqwest::{Client, ClientBuilder, Proxy, Url, redirect};
use sync_wrapper::SyncWrapper;
use tower::{BoxError, Service};

use crate::sent_or_refused::SentOrRefused;

use super::checked_trailers::CheckedTrailers;

/// A `reqwest::Client` as a Tower HTTP service.
///
/// Needs the feature `reqwest`.
///
/// The service sends requests with any body `B` that is `Send` and whose data converts to `Bytes`, for example
/// `axum::body::Body`. Where the compiler cannot infer `B`, name it: `ReqwestService::<Full<Bytes>>::new(…)`.
///
/// A clone is cheap and shares the connections.
///
/// # Requests and responses
///
/// - Bodies stream in both directions. A request body of known size is sent with a `content-length`.
/// - reqwest reads its own settings from a request's extensions, for example the timeout of a `reqwest::Request` that was
///   converted to an `http::Request`. A response's extensions describe the connection, for example hyper's `HttpInfo`.
/// - reqwest resolves dot segments of a path, so `/a/../b` is sent as `/b`. It adds `accept: */*` to a request without an
///   `accept` header.
/// - A response with a redirect or a status of 400 or above is a response, not an error.
///
/// # Errors
///
/// The service fails with a `reqwest::Error` without a URL, because reqwest would show the whole URL, including a
/// secret in its query. A relative URI is an error for which [`reqwest::Error::is_builder`] is true.
///
/// # Security
///
/// By default, reqwest follows redirects beneath the layers and sends headers such as `x-api-key` along to another host.
/// [`ReqwestService::new`] disables that. To follow redirects, add a layer that does so above
/// [`AuthLayer`](crate::AuthLayer#security).
///
/// [`ReqwestService::new`] also ignores the proxies of the environment (`HTTP_PROXY`), because a request with plain
/// `http`, for example to loopback, would show its credential to them. Name a proxy in the builder to use it.
///
/// reqwest adds a client's default headers beneath the layers, so no layer can check them. Do not put `host` among them.
/// A client with a cookie store shares the cookies of all its users. Use one only in a stack that serves one user.
pub struct ReqwestService<B> {
    client: Client,
    body: PhantomData<fn(B)>,
}

impl<B> ReqwestService<B> {
    /// Builds a client that follows no redirects and does not log what it sends.
    ///
    /// Both settings override those of `builder`. The client uses no proxies except those of `builder`.
    ///
    /// # Errors
    ///
    /// The error of `ClientBuilder::build`, if TLS or the resolver cannot be set up.
    pub fn new(builder: ClientBuilder) -> Result<Self, reqwest::Error> {
        let client = builder
            .redirect(redirect::Policy::none())
            .connection_verbose(false)
            // A proxy of the builder keeps reqwest from using those of the environment. This one is never used.
            .proxy(Proxy::custom(|_| None::<Url>))
            .build()?;
        Ok(Self::from_client_without_redirects(client))
    }

    /// Wraps an existing client that was built with [`redirect::Policy::none()`](reqwest::redirect::Policy::none).
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http_body_util::Full;
    /// use tower_identity::client::reqwest::ReqwestService;
    ///
    /// let client = reqwest::Client::builder()
    ///     .redirect(reqwest::redirect::Policy::none())
    ///     .build()?;
    /// let service =
    ///     ReqwestService::<Full<Bytes>>::from_client_without_redirects(client);
    /// # Ok::<(), reqwest::Error>(())
    /// ```
    ///
    /// # Security
    ///
    /// This function cannot check the client's policy, because reqwest does not reveal it. With any other policy,
    /// including the default one, the client sends credential headers to every host that a backend redirects it to.
    pub fn from_client_without_redirects(client: Client) -> Self {
        Self {
            client,
            body: PhantomData,
        }
    }

    /// The client that sends the requests.
    pub fn get_ref(&self) -> &Client {
        &self.client
    }

    /// Returns the client that sends the requests.
    pub fn into_inner(self) -> Client {
        self.client
    }
}

impl<B> Clone for ReqwestService<B> {
    fn clone(&self) -> Self {
        Self::from_client_without_redirects(self.client.clone())
    }
}

impl<B> fmt::Debug for ReqwestService<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // reqwest shows its default headers.
        f.debug_struct("ReqwestService").finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for ReqwestService<B>
where
    B: Body + Send + 'static,
    B::Data: Into<Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<reqwest::Body>;
    type Error = reqwest::Error;
    type Future = ReqwestFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.client.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = CheckedTrailers::of(request);
        let request = request.map(|body| reqwest::Body::wrap(SyncBody::new(body)));
        let state = match reqwest::Request::try_from(request) {
            Ok(request) => SentOrRefused::sent(self.client.call(request)),
            Err(error) => SentOrRefused::refused(error),
        };
        ReqwestFuture { state }
    }
}

pin_project! {
    /// The future of [`ReqwestService`].
    ///
    /// Needs the feature `reqwest`.
    ///
    /// The [module](crate::client::reqwest) has an example.
    #[must_use = "futures do nothing unless polled"]
    pub struct ReqwestFuture {
        #[pin]
        state: SentOrRefused<<Client as Service<reqwest::Request>>::Future, reqwest::Error>,
    }
}

impl Future for ReqwestFuture {
    type Output = Result<Response<reqwest::Body>, reqwest::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().state.poll_outcome(cx).map(|outcome| {
            outcome
                .and_then(|response| response)
                .map(Response::from)
                .map_err(reqwest::Error::without_url)
        })
    }
}

impl fmt::Debug for ReqwestFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReqwestFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// Makes any body `Sync`, as reqwest requires of a body.
    ///
    /// A shared reference does not reach the body inside, so its hints are read ahead.
    struct SyncBody<B> {
        #[pin]
        body: SyncWrapper<B>,
        is_end_stream: bool,
        size_hint: SizeHint,
    }
}

impl<B: Body> SyncBody<B> {
    fn new(body: B) -> Self {
        Self {
            is_end_stream: body.is_end_stream(),
            size_hint: body.size_hint(),
            body: SyncWrapper::new(body),
        }
    }
}

impl<B: Body> Body for SyncBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let mut body = this.body.get_pin_mut();
        let frame = body.as_mut().poll_frame(cx);
        *this.is_end_stream = body.is_end_stream();
        *this.size_hint = body.size_hint();
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.is_end_stream
    }

    fn size_hint(&self) -> SizeHint {
        self.size_hint
    }
}
