//! [`TokenValidatorLayer`]: a request passes with an identity, or it does not pass.
//!
//! # What is accepted
//!
//! Exactly one `Authorization` header, with the scheme `Bearer` in any case (RFC 6750 §2.1). A token anywhere else, in the
//! URL or in a form, is not looked for.
//!
//! # Precedence
//!
//! An [`Identity`] that a layer above put into the extensions is replaced: from here on, the request's identity is who its
//! token says.
//!
//! # What is answered
//!
//! | the request has | answer |
//! | --- | --- |
//! | no credentials, or those of another scheme | 401, `WWW-Authenticate` without an error code (RFC 6750 §3.1) |
//! | more than one `Authorization` header, or a token that is [refused](super::validator#what-comes-of-it) | 401 with `error="invalid_token"` and what is wrong |
//! | a token that cannot be checked, because the issuer cannot be asked | 503 with `Retry-After` |
//!
//! `WWW-Authenticate` has `realm`, `resource_metadata` (RFC 9728 §5.1) and `scope` as they are configured. The JSON body has
//! `error` and `error_description`. Nothing of what is inside is shown.
//!
//! # Security
//!
//! The `Authorization` header is removed from a request that passes, so that no proxy sends the caller's token on by
//! accident. The identity has it for whom it is meant.

use std::{
    fmt, future, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::future::{Join, join};
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{
    error::{AuthError, AuthErrorKind},
    identity::Identity,
    inner_service_accessors::inner_service_accessors,
    sent_or_refused::SentOrRefused,
};

use super::validator::{
    TokenValidator, rejected,
    validating::{PendingValidation, Validating},
};

/// Validates the bearer token of each request, and puts the [`Identity`] into its extensions.
///
/// See the [module](self) for what it answers instead.
#[derive(Clone, Debug)]
pub struct TokenValidatorLayer {
    gate: Gate,
}

impl TokenValidatorLayer {
    /// A layer that asks this validator.
    pub fn new(validator: TokenValidator) -> Self {
        Self {
            gate: Gate {
                validator,
                admission: Admission {
                    keeps_authorization: false,
                },
            },
        }
    }

    /// Leaves the `Authorization` header on the requests that pass.
    ///
    /// # Security
    ///
    /// What sends such a request on, sends the caller's token along, unless it removes the header itself.
    #[must_use]
    pub fn keep_authorization(mut self) -> Self {
        self.gate.admission.keeps_authorization = true;
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

/// The service of [`TokenValidatorLayer`]. It answers itself, and adds no error.
///
/// The answer's body is made of [`Bytes`], as `axum::body::Body` and `Full<Bytes>` can be.
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
        let state = match self.gate.validate(request.headers()).into_ready() {
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
        TokenValidatorFuture { state }
    }
}

#[derive(Clone, Debug)]
struct Gate {
    validator: TokenValidator,
    admission: Admission,
}

impl Gate {
    fn validate(&self, headers: &HeaderMap) -> Validating {
        match bearer(headers) {
            Ok(token) => self.validator.validate(token),
            Err(error) => self.validator.refuse(error),
        }
    }
}

/// How a request goes on.
#[derive(Clone, Copy, Debug)]
struct Admission {
    keeps_authorization: bool,
}

impl Admission {
    fn admit<B>(self, request: &mut Request<B>, identity: Identity) {
        if !self.keeps_authorization {
            request.headers_mut().remove(AUTHORIZATION);
        }
        request.extensions_mut().insert(identity);
    }
}

/// The token of the one `Authorization` header.
fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Err(no_credentials());
    };
    if values.next().is_some() {
        return Err(rejected("there is more than one Authorization header"));
    }
    let value = value
        .to_str()
        .map_err(|_| rejected("the Authorization header is malformed"))?;
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(no_credentials());
    }
    match token.trim_start_matches(' ') {
        "" => Err(rejected("the Authorization header has no token")),
        token => Ok(token),
    }
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
    #[must_use = "futures do nothing unless polled"]
    pub struct TokenValidatorFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, S::Future, B>,
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
        let mut state = self.project().state;
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
                    return outcome
                        .poll_outcome(cx)
                        .map(|outcome| outcome.unwrap_or_else(|error| Ok(error.to_response())));
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
