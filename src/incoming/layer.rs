use std::{
    fmt, future, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::future::{Join, join};
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CACHE_CONTROL, WWW_AUTHENTICATE},
};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{
    dpop::{DPOP, DPOP_NONCE},
    error::{AuthError, AuthErrorKind},
    identity::{Identity, SentNoToken},
    inner_service_accessors::inner_service_accessors,
    oauth::challenge::Scheme,
    sent_or_refused::SentOrRefused,
};

use super::validator::{Checked, TokenValidator, rejected, validating::PendingValidation};

/// Validates the access token of each request and inserts the [`Identity`] into its extensions.
///
/// Needs the feature `incoming`.
///
/// The layer answers a request whose token is missing or refused, and does not pass it on.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response, StatusCode, header::WWW_AUTHENTICATE};
/// use http_body_util::Full;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_identity::{Identity, KeySet, TokenValidator, TokenValidatorLayer};
///
/// # futures_util::FutureExt::now_or_never(async {
/// # let keys = r#"{ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }] }"#;
/// let keys = KeySet::from_json(keys)?;
/// let issuer = "https://issuer.example.com";
/// let validator = TokenValidator::builder_with_keys(issuer, keys)
///     .audience("https://gateway.example.com")
///     .build()?;
/// let gateway = service_fn(async |request: Request<()>| {
///     let identity = request.extensions().get::<Identity>();
///     let subject = identity.map(Identity::subject).unwrap_or_default();
///     let greeting = Full::new(Bytes::from(format!("hello, {subject}")));
///     Ok::<_, std::convert::Infallible>(Response::new(greeting))
/// });
/// let gateway = TokenValidatorLayer::new(validator).layer(gateway);
///
/// let response = gateway.oneshot(Request::new(())).await?;
/// assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
/// let challenge = &response.headers()[WWW_AUTHENTICATE];
/// assert_eq!(challenge, r#"Bearer realm="https://gateway.example.com""#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap().unwrap();
/// ```
///
/// # Accepted requests
///
/// A request needs exactly one `Authorization` header with the scheme `Bearer`, in upper or lower case (RFC 6750 §2.1), or
/// with a [policy](super::TokenValidatorBuilder::dpop) the scheme `DPoP` and a proof (RFC 9449 §7.1). The layer does not
/// look for tokens in the URL or in a form.
///
/// A token that is bound to a client certificate is accepted over a connection with this certificate, which the server
/// hands over as a [`ClientCertificate`](super::ClientCertificate) in the request's extensions.
///
/// # Precedence
///
/// The layer replaces an [`Identity`] that an outer layer inserted, so that the identity beneath it always comes from the
/// validated token.
///
/// # Answers
///
/// | the request has | answer |
/// | --- | --- |
/// | no credentials, or credentials of another scheme | 401 and a challenge without an error code (RFC 6750 §3.1). [Anonymous requests](Self::allow_anonymous) can be allowed |
/// | more than one `Authorization` header, or a token that the [`TokenValidator`] refuses | 401 and a challenge with `error="invalid_token"` and a description |
/// | a token whose proof is refused, with a [policy](super::DpopPolicy#answers) | 401 and a `DPoP` challenge |
/// | a token that cannot be checked, for example because the issuer is unreachable | 503 with `Retry-After` |
///
/// The challenge is the `WWW-Authenticate` header. It has `realm`, `resource_metadata` (RFC 9728 §5.1) and `scope` where
/// they are configured. The JSON body has `error` and `error_description`. An answer reveals no internal detail, such as
/// the address of the issuer.
///
/// The service beneath can answer a request whose outgoing request failed, with [`AuthError::to_response`]. The layer
/// completes the challenge of such a 401 or 403 in the same way, so that the caller learns where to log in. For a response
/// that is made outside of the layer, [`TokenValidator::challenge`] does this.
///
/// # Security
///
/// The layer removes the `Authorization` header from a request that passes, so that a proxy does not send the caller's
/// token on by accident. [`Identity::token`] returns the token for strategies that need it. It also removes the header
/// `DPoP`, because the proof in it is for this request to this gateway.
#[derive(Clone, Debug)]
pub struct TokenValidatorLayer {
    gate: Gate,
}

impl TokenValidatorLayer {
    /// Creates a layer that validates tokens with `validator`.
    pub fn new(validator: TokenValidator) -> Self {
        Self {
            gate: Gate {
                validator,
                admission: Admission {
                    keeps_authorization: false,
                    admits_anonymous: false,
                },
            },
        }
    }

    /// Keeps the `Authorization` header on requests that pass.
    ///
    /// # Security
    ///
    /// A service beneath that forwards the request also forwards the caller's token, unless it removes the header. The
    /// header `DPoP` is removed in any case.
    #[must_use]
    pub fn keep_authorization(mut self) -> Self {
        self.gate.admission.keeps_authorization = true;
        self
    }

    /// Passes a request without an `Authorization` header on, without an [`Identity`].
    ///
    /// Use it for routes that are open to everybody and answer a known caller differently. A request with a token that is
    /// refused still gets 401, and so does one with two `Authorization` headers or with another scheme.
    ///
    /// # Security
    ///
    /// The service beneath must refuse a request without an identity wherever it needs one. With the feature `axum`, the
    /// extractor [`Identity`] does this.
    #[must_use]
    pub fn allow_anonymous(mut self) -> Self {
        self.gate.admission.admits_anonymous = true;
        self
    }
}

impl<S> Layer<S> for TokenValidatorLayer {
    type Service = TokenValidatorService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        TokenValidatorService {
            inner,
            gate: self.gate.clone(),
        }
    }
}

/// The service that [`TokenValidatorLayer`] creates.
///
/// Needs the feature `incoming`.
///
/// Its error is the inner service's, because a refusal is a response. The response body must be convertible from
/// `Bytes`, as `axum::body::Body` and `Full<Bytes>` are.
#[derive(Clone, Debug)]
pub struct TokenValidatorService<S> {
    inner: S,
    gate: Gate,
}

inner_service_accessors!(TokenValidatorService);

impl<S, B, ResBody> Service<Request<B>> for TokenValidatorService<S>
where
    S: Service<Request<B>, Response = Response<ResBody>> + Clone,
    ResBody: From<Bytes>,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = TokenValidatorFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if self.gate.admission.is_anonymous(&request) {
            // An outer layer may have inserted one, and no token of this request vouches for it.
            request.extensions_mut().remove::<Identity>();
            request.extensions_mut().insert(SentNoToken);
            return TokenValidatorFuture {
                state: State::Validated {
                    outcome: SentOrRefused::sent(self.inner.call(request)),
                },
                validator: self.gate.validator.clone(),
                used: Scheme::Bearer,
                next_nonce: None,
            };
        }
        let Checked {
            validating,
            used,
            next_nonce,
        } = self.gate.validator.check(&request);
        let state = match validating.into_ready() {
            Ok(Ok(identity)) => {
                self.gate.admission.admit(&mut request, identity);
                State::Validated {
                    outcome: SentOrRefused::sent(self.inner.call(request)),
                }
            }
            Ok(Err(error)) => {
                // A clone is not ready, so this gives back what `poll_ready` reserved, such as a concurrency permit.
                self.inner = self.inner.clone();
                State::Validated {
                    outcome: SentOrRefused::refused(error),
                }
            }
            Err(validating) => {
                // The instance that was polled ready goes with the request, and its clone stays.
                let clone = self.inner.clone();
                State::Validating {
                    outcome: join(validating, future::ready(request)),
                    inner: mem::replace(&mut self.inner, clone),
                    admission: self.gate.admission,
                }
            }
        };
        TokenValidatorFuture {
            state,
            validator: self.gate.validator.clone(),
            used,
            next_nonce,
        }
    }
}

#[derive(Clone, Debug)]
struct Gate {
    validator: TokenValidator,
    admission: Admission,
}

#[derive(Clone, Copy, Debug)]
struct Admission {
    keeps_authorization: bool,
    admits_anonymous: bool,
}

impl Admission {
    fn is_anonymous<B>(self, request: &Request<B>) -> bool {
        self.admits_anonymous && !request.headers().contains_key(AUTHORIZATION)
    }

    fn admit<B>(self, request: &mut Request<B>, identity: Identity) {
        if !self.keeps_authorization {
            request.headers_mut().remove(AUTHORIZATION);
        }
        // A proof is for this request to this gateway alone. To look through the names is cheaper than to hash another one.
        if request.headers().keys().any(|name| *name == DPOP) {
            request.headers_mut().remove(DPOP);
        }
        request.extensions_mut().insert(identity);
    }
}

/// The token of a request, with its scheme. Its bytes may not be UTF-8.
pub(super) fn credentials(
    headers: &HeaderMap,
    accepts_dpop: bool,
) -> Result<(Scheme, &[u8]), AuthError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Err(match headers.get(ACCESS_CONTROL_REQUEST_METHOD) {
            Some(_) => preflight(),
            None => no_credentials(),
        });
    };
    if values.next().is_some() {
        return Err(rejected("there is more than one Authorization header"));
    }
    let mut parts = value.as_bytes().splitn(2, |byte| *byte == b' ');
    let scheme = parts.next().unwrap_or_default();
    let scheme = if scheme.eq_ignore_ascii_case(b"bearer") {
        Scheme::Bearer
    } else if accepts_dpop && scheme.eq_ignore_ascii_case(b"dpop") {
        Scheme::Dpop
    } else {
        return Err(no_credentials());
    };
    let rest = parts.next().unwrap_or_default();
    let start = rest.iter().position(|byte| *byte != b' ');
    match start.and_then(|start| rest.get(start..)) {
        Some(token) => Ok((scheme, token)),
        None => Err(rejected("the Authorization header has no token")),
    }
}

/// Completes the challenge of a response that was made of an error without one.
fn complete<B>(response: &mut Response<B>, validator: &TokenValidator, used: Scheme) {
    let is_refusal = matches!(
        response.status(),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
    );
    if !is_refusal {
        return;
    }
    if let Some(error) = response.extensions().get::<AuthError>()
        && error.challenge().is_none()
    {
        let error = validator.challenge_of(error.clone(), used);
        if let Some(challenge) = error.challenge() {
            let headers = response.headers_mut();
            headers.insert(WWW_AUTHENTICATE, challenge.clone());
        }
        response.extensions_mut().insert(error);
    }
}

/// Tells the caller the nonce for its next proof. A response with a nonce should not be cached (RFC 9449 §8.2).
fn add_nonce<B>(response: &mut Response<B>, nonce: Option<Box<HeaderValue>>) {
    if let Some(nonce) = nonce {
        let headers = response.headers_mut();
        headers.insert(DPOP_NONCE, *nonce);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

#[cold]
fn preflight() -> AuthError {
    AuthError::new(
        AuthErrorKind::MissingIdentity,
        "a browser's preflight request never has a token; put the layer for CORS around `TokenValidatorLayer`, so that it \
         answers first",
    )
}

#[cold]
fn no_credentials() -> AuthError {
    AuthError::new(
        AuthErrorKind::MissingIdentity,
        "the caller sent no bearer token, and was asked for one",
    )
}

pin_project! {
    /// The future of [`TokenValidatorService`].
    ///
    /// Needs the feature `incoming`.
    ///
    /// [`TokenValidatorLayer`](crate::TokenValidatorLayer) has an example.
    #[must_use = "futures do nothing unless polled"]
    pub struct TokenValidatorFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, S::Future, B>,
        validator: TokenValidator,
        used: Scheme,
        next_nonce: Option<Box<HeaderValue>>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, F, B> {
        Validating {
            #[pin]
            outcome: Join<PendingValidation, future::Ready<Request<B>>>,
            inner: S,
            admission: Admission,
        },
        Validated {
            #[pin]
            outcome: SentOrRefused<F>,
        },
    }
}

impl<S, B, ResBody> Future for TokenValidatorFuture<S, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    ResBody: From<Bytes>,
{
    type Output = Result<Response<ResBody>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut state = this.state;
        loop {
            let outcome = match state.as_mut().project() {
                StateProjection::Validating {
                    outcome,
                    inner,
                    admission,
                } => match ready!(outcome.poll(cx)) {
                    (Ok(identity), mut request) => {
                        admission.admit(&mut request, identity);
                        SentOrRefused::sent(inner.call(request))
                    }
                    (Err(error), _) => SentOrRefused::refused(error),
                },
                StateProjection::Validated { outcome } => {
                    return Poll::Ready(match ready!(outcome.poll_outcome(cx)) {
                        Ok(Ok(mut response)) => {
                            complete(&mut response, this.validator, *this.used);
                            if this.validator.accepts_dpop() {
                                // A nonce of a backend is not for the caller.
                                response.headers_mut().remove(DPOP_NONCE);
                            }
                            add_nonce(&mut response, this.next_nonce.take());
                            Ok(response)
                        }
                        Ok(Err(error)) => Err(error),
                        Err(error) => {
                            let mut response = error.to_response();
                            add_nonce(&mut response, this.next_nonce.take());
                            Ok(response)
                        }
                    });
                }
            };
            state.set(State::Validated { outcome });
        }
    }
}

impl<S, B> fmt::Debug for TokenValidatorFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenValidatorFuture")
            .finish_non_exhaustive()
    }
}
