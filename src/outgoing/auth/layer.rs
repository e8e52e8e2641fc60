use std::{
    fmt, mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower::{BoxError, Layer, Service};

use crate::{
    inner_service_accessors::inner_service_accessors, origin::Origin, strategy::strategy::Strategy,
};

use super::{
    authenticator::{Authentication, Authenticator},
    future::AuthFuture,
    retry::RetryRejected,
};

/// Puts credentials onto requests for one [`Origin`], and refuses all other requests.
///
/// ```
/// use http::{Request, Response};
/// use tower::{Layer, Service, ServiceExt, service_fn};
/// use tower_identity::{
///     AccessToken, AuthLayer, Identity, Origin, UpstreamInject, UpstreamToken,
/// };
///
/// # futures_util::FutureExt::now_or_never(async {
/// let backend = service_fn(async |request: Request<()>| {
///     assert_eq!(request.headers()["authorization"], "Bearer gho_16C7e42F292c");
///     Ok::<_, std::convert::Infallible>(Response::new(()))
/// });
/// let origin = Origin::try_from("https://mcp.example.com")?;
/// let layer = AuthLayer::new(origin, UpstreamInject::new("github")?);
/// let mut client = layer.layer(backend);
///
/// let github = UpstreamToken::new(AccessToken::new("gho_16C7e42F292c")?);
/// let identity =
///     Identity::builder("user-1").upstream("github", github).build()?;
/// let mut request = Request::post("https://mcp.example.com/mcp").body(())?;
/// request.extensions_mut().insert(identity);
/// client.ready().await?.call(request).await?;
/// # Ok::<(), tower::BoxError>(())
/// # }).unwrap().unwrap();
/// ```
///
/// # Security
///
/// - **A credential has an address.** The scheme, host and port of the request's URI must be those of the layer's
///   [`Origin`], and so must its `Host` header, if it has one. Otherwise the request fails with
///   [`AuthErrorKind::WrongOrigin`] before the strategy is asked. A request with user info in its URI also fails, and so
///   does one with a relative URI, unless [`client_fixes_origin`](Self::client_fixes_origin) was called.
/// - **All or nothing.** When the strategy refuses a request, the request is dropped. It is not sent without the
///   credential.
/// - **Redirects are followed above this layer, or not at all**, for example by [`FollowRedirect`]. A client below that
///   follows redirects would send a credential in a header such as `x-api-key` to another host.
///
/// # Hop-by-hop headers
///
/// A request header such as `Connection: authorization` would make the HTTP client, or the next hop, delete the
/// credential. Before the strategy runs, the layer removes each header that `Connection` names and the hop-by-hop
/// headers (RFC 9110 §7.6.1). `Connection` keeps `close`, `keep-alive` and `upgrade`, so an upgrade still works, except
/// to `h2c`: it would let a caller send further requests past the layer. `TE: trailers` stays for gRPC.
/// [`HeaderForwardLayer`](crate::HeaderForwardLayer) does the same.
///
/// # Trailers
///
/// Some servers merge a trailer into the header of the same name, although they should not (RFC 9110 §6.5.1). After the
/// strategy has run, the layer therefore removes the names of credentials from `Trailer`, and an HTTP/1.1 client does not
/// send trailers that are not announced. A credential is `Authorization`, or a header whose value is marked as
/// [sensitive](http::HeaderValue::set_sensitive). [`HeaderForwardLayer`](crate::HeaderForwardLayer) does the same.
///
/// HTTP/2 clients send all trailers of a body, announced or not. `HttpsClient` and `ReqwestService` leave these trailers
/// out. If you pass the body of an incoming request to another client, remove them from it, for example with
/// `http_body_util::BodyExt::map_frame`.
///
/// # Tokens bound to a key
///
/// A token may be bound to a key (DPoP, RFC 9449), so that it is of no use to a thief. The strategies have such tokens
/// issued if their `TokenEndpoint` has `dpop` set, and [`UpstreamInject`](crate::UpstreamInject) sends those of the user
/// with its `dpop`. They put `Authorization: DPoP …` onto the request. Your own strategy does so too, and names the key with
/// `Authenticating::bound_to`. This needs the feature `dpop`.
///
/// The layer then adds a proof, the header `DPoP`, in place of one that the request had:
///
/// - `htm` is the method. `htu` is the origin of this layer and the path of the request, as both are sent (RFC 9449 §4.2).
///   A request with a relative URI is proven for the same origin. So no layer below may change method, host or path. A
///   redirect is followed above, and gets another proof. For a backend behind a reverse proxy, give the layer the URL that
///   the backend knows itself by.
/// - `ath` is the hash of the token, `jti` is random, and `iat` is the time of the key's
///   [clock](crate::oauth::DpopKey::clock).
/// - `nonce` is the newest that this backend sent, in any response to a proof. All clones of the layer share it.
///
/// The proof is made within the call. With a signer that is elsewhere, the request waits for it, as for a credential.
///
/// ## Nonces
///
/// A backend that wants a nonce answers 401 with a header `DPoP-Nonce` and the error `use_dpop_nonce` (RFC 9449 §9). Without
/// a retry the caller gets this response, and the next request has the nonce. With
/// [`retry_rejected`](Self::retry_rejected) the request is sent once more with the same token and the nonce, unless the
/// challenge has another error. That does not count as the retry of a rejected credential, which may follow. Where bodies
/// are streams, [`retry_rejected_if_empty`](Self::retry_rejected_if_empty) does so for requests without a body.
///
/// ## The proof of the caller
///
/// A proof that the caller sent does not leave beside a token that the strategy put in place of the caller's, with or
/// without the feature. A request whose `Authorization` stays the caller's keeps the caller's proof.
///
/// # Readiness is held
///
/// While a strategy obtains a credential, for example in a token exchange, the layer keeps the inner service that was
/// found ready for this call. A concurrency permit of the inner service stays taken, and is given back when the request
/// is refused. A strategy must therefore not send its own requests through the same limited stack: with a limit of one,
/// it would wait for itself.
///
/// # Retrying rejected credentials
///
/// A backend may reject a credential before it expires, for example because it was revoked. With
/// [`retry_rejected`](Self::retry_rejected) the layer then sends the request once more, with a fresh credential:
///
/// 1. The layer keeps a copy of each request that it sends. A request whose body cannot be copied is not retried.
/// 2. The strategy [decides](crate::Strategy::rejected) whether the response rejects the credential, and whether
///    another may be accepted. `TokenExchange`, `ClientCredentials`, `OnBehalfOf`, `CrossAppAccess` and `AwsSts` answer
///    so to a 401, and have the credential [refreshed](crate::CredentialCache#when-a-backend-rejects-a-credential), if
///    it is still the one that was sent. A refresh of one credential is forced at most once in 10 s.
///    [`UpstreamInject`](crate::UpstreamInject) and [`HeaderInjection`](crate::HeaderInjection) would send the same
///    credential again, so their requests are not retried. A 403 goes to the caller with its challenge, because another
///    token would not have more scope, unless [step-up](#step-up) is on. `AwsSts` also reads [what the error
///    says](crate::AwsSts#rejected-sessions), in the headers or the first 8 KiB of the body, for which the layer waits
///    at most 5 s.
/// 3. The strategy authenticates the copy, and the layer sends it when the inner service is ready.
/// 4. The second response goes to the caller, even if it is a rejection again.
///
/// When many calls are rejected with the same credential, it is replaced once, and all of them are sent with the new
/// one. Until it is there, calls that were not rejected are sent with the old one.
///
/// ```
/// use http::{Request, Response, StatusCode, header::AUTHORIZATION};
/// use tower::{Layer, Service, ServiceExt, service_fn};
/// use tower_identity::{
///     AuthLayer, Authenticating, Origin, Strategy, strategy::Rejection,
/// };
///
/// # use std::sync::{Arc, atomic::{AtomicU32, Ordering}};
/// /// Sends a number, and the next one after a rejection.
/// #[derive(Clone, Default)]
/// struct Numbers(Arc<AtomicU32>);
///
/// impl<B> Strategy<B> for Numbers {
///     fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
///         let number = self.0.load(Ordering::SeqCst);
///         request.headers_mut().insert(AUTHORIZATION, number.into());
///         Authenticating::done()
///     }
///
///     fn rejected(
///         &self,
///         _sent: &http::request::Parts,
///         response: &http::response::Parts,
///     ) -> Rejection {
///         if response.status != StatusCode::UNAUTHORIZED {
///             return Rejection::of(response);
///         }
///         self.0.fetch_add(1, Ordering::SeqCst);
///         Rejection::AnotherCredential
///     }
/// }
///
/// # futures_util::FutureExt::now_or_never(async {
/// let backend = service_fn(async |request: Request<String>| {
///     let mut response = Response::new(String::from("done"));
///     if request.headers()[AUTHORIZATION] == "0" {
///         *response.status_mut() = StatusCode::UNAUTHORIZED;
///     }
///     Ok::<_, tower::BoxError>(response)
/// });
/// let origin = Origin::try_from("https://mcp.example.com")?;
/// let mut client = AuthLayer::new(origin, Numbers::default())
///     .retry_rejected()
///     .layer(backend);
///
/// let request =
///     Request::post("https://mcp.example.com/mcp").body(String::from("{}"))?;
/// let response = client.ready().await?.call(request).await?;
/// assert_eq!(response.status(), StatusCode::OK);
/// # Ok::<(), tower::BoxError>(())
/// # }).unwrap().unwrap();
/// ```
///
/// ## When there is no other credential
///
/// | reason | the caller gets |
/// | --- | --- |
/// | a refresh was forced less than 10 s ago | the backend's first response |
/// | the error is [`Unavailable`](crate::AuthErrorKind::Unavailable): for example, the issuer is down, or limits its requests | the backend's first response |
/// | any other error: for example, the issuer refused the user's token, or this client | the [`AuthError`](crate::AuthError) |
///
/// The backend's 401 leads to the authorization server of the backend, where the caller of a gateway usually has no
/// account. The `AuthError` says what helps: which login the user needs, or that the operator must correct the
/// configuration. So it takes the place of the 401 if waiting does not help.
///
/// # Step-up
///
/// A backend may accept the credential, and ask for more scope for one operation: status 403 with a `Bearer` or `DPoP`
/// challenge whose `error` is `insufficient_scope` (RFC 6750 §3.1). By default the caller gets this response. With
/// [`step_up`](AuthLayer::step_up) and `retry_rejected`, the layer obtains a credential with the scopes that it had and
/// those of the challenge, and sends the request once more:
///
/// ```
/// # fn layer<A>(origin: tower_identity::Origin, exchange: A) {
/// use tower_identity::{AuthLayer, outgoing::RetryRejected};
///
/// # let _: AuthLayer<A, RetryRejected<String>> =
/// AuthLayer::new(origin, exchange)
///     .retry_rejected()
///     .step_up(["files:read", "files:write", "files:share"]);
/// # }
/// ```
///
/// - **The ceiling is the operator's.** If a challenge names a scope that is not among them, nothing is obtained, and the
///   caller gets the 403 with its challenge. A hostile backend gains no more than the ceiling. List the scopes of the
///   strategy's configuration too, because challenges often name those that are held.
/// - `TokenExchange`, `ClientCredentials`, `OnBehalfOf` and `CrossAppAccess` can do this. The scopes that a token had are
///   those of the configuration. If there are none, they are those that the issuer named in its answer. If it named none
///   either, or with any other strategy, the caller gets the 403, as without `step_up`. So it is with the scope
///   `.default` of Microsoft Entra, which stands for all scopes that the user consented to.
/// - With [`OutgoingAuthConfig`](crate::OutgoingAuthConfig) the ceiling is the key `stepUpScopes`.
/// - The scope is remembered for an hour, for the same user and operation: the HTTP method, the path, and the headers
///   `Mcp-Method` and `Mcp-Name`. Other operations keep the smaller scope.
/// - For each user and operation, at most three scopes are tried in a minute, and for each request one. If the issuer
///   refuses the scope, the caller gets the backend's 403.
///
/// [`AuthErrorKind::WrongOrigin`]: crate::AuthErrorKind::WrongOrigin
/// [`FollowRedirect`]: https://docs.rs/tower-http/latest/tower_http/follow_redirect/index.html
#[derive(Clone)]
pub struct AuthLayer<A, R = NoRetry> {
    authenticator: Authenticator<A>,
    retry: R,
}

/// An [`AuthLayer`] that sends each request once.
#[derive(Clone, Copy, Debug)]
pub struct NoRetry;

impl<A> AuthLayer<A> {
    /// Creates a layer that authenticates requests for `origin` with `strategy`.
    ///
    /// The response of the inner service must be an `http::Response`.
    pub fn new(origin: Origin, strategy: A) -> Self {
        Self {
            authenticator: Authenticator::new(origin, strategy),
            retry: NoRetry,
        }
    }

    /// Sends a request once more when the backend rejects its credential and the strategy has another:
    /// [what is retried](Self#retrying-rejected-credentials).
    ///
    /// Each request is cloned before it is sent, with its body and its extensions. The response of the inner service
    /// must be an `http::Response`, and its body a [`Body`](http_body::Body). The body that the caller gets is a
    /// [`PeekedBody`](crate::outgoing::PeekedBody): the same bytes, streamed.
    ///
    /// For a body that is not `Clone`, such as `axum::body::Body`, use
    /// [`retry_rejected_if_empty`](Self::retry_rejected_if_empty) or [`retry_rejected_with`](Self::retry_rejected_with).
    #[must_use]
    pub fn retry_rejected<B: Clone>(self) -> AuthLayer<A, RetryRejected<B>> {
        self.retry_rejected_with(|body| Some(body.clone()))
    }

    /// Like [`retry_rejected`](Self::retry_rejected), for a body that `clone_body` copies. A request is not retried
    /// when `clone_body` returns `None`.
    ///
    /// ```
    /// # #[cfg(feature = "reqwest")]
    /// # fn layer<A>(
    /// #     layer: tower_identity::AuthLayer<A>,
    /// # ) -> tower_identity::AuthLayer<A, tower_identity::outgoing::RetryRejected<reqwest::Body>> {
    /// // The bytes of a stream are not known, so it is not retried.
    /// layer.retry_rejected_with(|body: &reqwest::Body| {
    ///     body.as_bytes().map(|bytes| bytes.to_vec().into())
    /// })
    /// # }
    /// ```
    #[must_use]
    pub fn retry_rejected_with<B>(
        self,
        clone_body: fn(&B) -> Option<B>,
    ) -> AuthLayer<A, RetryRejected<B>> {
        AuthLayer {
            authenticator: self.authenticator,
            retry: RetryRejected::new(clone_body),
        }
    }
}

impl<A> AuthLayer<A> {
    /// Like [`retry_rejected`](Self::retry_rejected), for requests whose body is known to be empty
    /// ([`is_end_stream`](http_body::Body::is_end_stream)). All others are sent once. No body is copied.
    ///
    /// Use it where bodies are streams, so that the first request without a body brings the nonce that [tokens bound to a
    /// key](Self#tokens-bound-to-a-key) need. `hyper::body::Incoming` cannot be made empty. Put it into another body, for
    /// example `http_body_util::combinators::BoxBody`.
    ///
    /// ```
    /// # fn layer<A>(origin: tower_identity::Origin, strategy: A) {
    /// use bytes::Bytes;
    /// use http_body_util::combinators::BoxBody;
    /// use tower_identity::{AuthLayer, outgoing::RetryRejected};
    ///
    /// type Body = BoxBody<Bytes, std::io::Error>;
    ///
    /// let layer: AuthLayer<A, RetryRejected<Body>> =
    ///     AuthLayer::new(origin, strategy).retry_rejected_if_empty();
    /// # }
    /// ```
    #[must_use]
    pub fn retry_rejected_if_empty<B>(self) -> AuthLayer<A, RetryRejected<B>>
    where
        B: http_body::Body + Default,
    {
        self.retry_rejected_with(|body: &B| body.is_end_stream().then(B::default))
    }
}

impl<A, B> AuthLayer<A, RetryRejected<B>> {
    /// Obtains a credential with more scope when a backend asks for it, as far as `ceiling` allows:
    /// [step-up](Self#step-up).
    #[must_use]
    pub fn step_up<I>(mut self, ceiling: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let ceiling: Arc<[_]> = ceiling.into_iter().map(Into::into).collect();
        self.authenticator
            .step_up_to(Arc::new(move || Arc::clone(&ceiling)));
        self
    }
}

#[cfg(feature = "config")]
impl<A> AuthLayer<A> {
    /// The ceiling of step-up once requests are sent again.
    pub(crate) fn with_ceiling(mut self, ceiling: super::step_up::Ceiling) -> Self {
        self.authenticator.step_up_to(ceiling);
        self
    }
}

impl<A, R> AuthLayer<A, R> {
    /// Accepts requests with a relative URI, because the client below sends all requests to this layer's origin.
    ///
    /// # Security
    ///
    /// The layer cannot check where the client sends them.
    #[must_use]
    pub fn client_fixes_origin(mut self) -> Self {
        self.authenticator = self.authenticator.client_fixes_origin();
        self
    }
}

impl<S, A: Clone, R: Clone> Layer<S> for AuthLayer<A, R> {
    type Service = AuthService<S, A, R>;

    fn layer(&self, inner: S) -> Self::Service {
        AuthService {
            inner,
            authenticator: self.authenticator.clone(),
            retry: self.retry.clone(),
        }
    }
}

impl<A, R> fmt::Debug for AuthLayer<A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthLayer")
            .field("origin", self.authenticator.origin())
            .finish_non_exhaustive()
    }
}

/// The service of [`AuthLayer`].
///
/// Its error is `BoxError`. [`AuthError::find_in`](crate::AuthError::find_in) tells whether authentication failed or
/// the inner service did.
#[derive(Clone)]
pub struct AuthService<S, A, R = NoRetry> {
    pub(super) inner: S,
    pub(super) authenticator: Authenticator<A>,
    pub(super) retry: R,
}

inner_service_accessors!(AuthService, A, R);

impl<S: Clone, A, R> AuthService<S, A, R> {
    /// Takes the inner service that was found ready, and leaves a clone that is not.
    pub(super) fn take_ready(&mut self) -> S {
        let clone = self.inner.clone();
        mem::replace(&mut self.inner, clone)
    }

    /// A call that is not made would keep the readiness until the next one.
    pub(super) fn give_readiness_back(&mut self) {
        self.inner = self.inner.clone();
    }
}

impl<S, A, B, ResBody> Service<Request<B>> for AuthService<S, A>
where
    S: Service<Request<B>, Response = Response<ResBody>> + Clone,
    S::Error: Into<BoxError>,
    A: Strategy<B>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = AuthFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.authenticator.authenticate(&mut request) {
            Authentication::Done => AuthFuture::sent(self.inner.call(request)),
            Authentication::Bound(bound) => {
                let learning = self.authenticator.proofs().learning(&bound.key);
                AuthFuture::proven(self.inner.call(request), learning)
            }
            Authentication::Refused(error) => {
                self.give_readiness_back();
                AuthFuture::refused(error)
            }
            Authentication::Pending(pending) => {
                AuthFuture::obtaining(pending.start(request), self.take_ready())
            }
        }
    }
}

impl<S: fmt::Debug, A, R> fmt::Debug for AuthService<S, A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthService")
            .field("inner", &self.inner)
            .field("origin", self.authenticator.origin())
            .finish_non_exhaustive()
    }
}
