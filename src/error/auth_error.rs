use std::{borrow::Cow, error::Error, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use tower::BoxError;

use super::{challenge::push_parameter, interaction::Interaction};
use crate::{dpop::DPOP_NONCE, origin::Origin};

/// The error of a request that could not be authenticated and was not sent.
///
/// Programs match on [`kind`](Self::kind). `Display` is for people: it states the problem, the backend and provider, and
/// a remedy. The cause, if there is one, is the [`source`](Error::source) and is not repeated in `Display`. Neither shows
/// a secret.
///
/// The services of the layers fail with a `tower::BoxError`. [`AuthError::find_in`] finds the `AuthError` in it.
///
/// A strategy creates an error like this:
///
/// ```
/// use std::time::Duration;
/// use tower_identity::{AuthError, AuthErrorKind};
///
/// let message = "the vault did not answer within 2 s; check its address";
/// let error = AuthError::new(AuthErrorKind::Unavailable, message)
///     .with_provider("github")
///     .with_retry_after(Duration::from_secs(5));
///
/// let shown = format!("{message} (provider `github`)");
/// assert_eq!(error.to_string(), shown);
/// assert_eq!(error.to_response::<bytes::Bytes>().status(), 503);
/// ```
#[derive(Clone)]
pub struct AuthError {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    kind: AuthErrorKind,
    message: Cow<'static, str>,
    backend: Option<Origin>,
    provider: Option<String>,
    challenge: Option<HeaderValue>,
    retry_after: Option<Duration>,
    description: Option<&'static str>,
    code: Option<&'static str>,
    dpop_nonce: Option<HeaderValue>,
    oauth_error: Option<String>,
    interaction: Option<Interaction>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl AuthError {
    /// Creates an error.
    ///
    /// `message` is for people. It states the problem and a remedy, and must not contain a secret.
    pub fn new(kind: AuthErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            inner: Arc::new(Inner {
                kind,
                message: message.into(),
                backend: None,
                provider: None,
                challenge: None,
                retry_after: None,
                description: None,
                code: None,
                dpop_nonce: None,
                oauth_error: None,
                interaction: None,
                source: None,
            }),
        }
    }

    /// Sets the backend of the request. [`AuthLayer`](crate::AuthLayer) does so for every strategy.
    #[must_use]
    pub fn with_backend(mut self, backend: Origin) -> Self {
        Arc::make_mut(&mut self.inner).backend = Some(backend);
        self
    }

    /// Sets the upstream provider whose token was needed.
    #[must_use]
    pub fn with_provider(mut self, provider: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.inner).provider = Some(provider.into());
        self
    }

    /// Sets the challenge (RFC 9110 §11.6.1) that [`to_response`](Self::to_response) sends as `WWW-Authenticate`.
    ///
    /// Only kinds with a default challenge send it.
    #[must_use]
    pub fn with_challenge(mut self, challenge: HeaderValue) -> Self {
        Arc::make_mut(&mut self.inner).challenge = Some(challenge);
        self
    }

    /// Sets the time to wait before trying again.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        Arc::make_mut(&mut self.inner).retry_after = Some(retry_after);
        self
    }

    /// Sets the `error_description` of the response, in place of the kind's own.
    #[cfg(feature = "incoming")]
    #[must_use]
    pub(crate) fn with_description(mut self, description: &'static str) -> Self {
        Arc::make_mut(&mut self.inner).description = Some(description);
        self
    }

    /// Sets the `error` of the response, in place of the kind's own.
    #[cfg(all(feature = "dpop", feature = "incoming"))]
    #[must_use]
    pub(crate) fn with_code(mut self, code: &'static str) -> Self {
        Arc::make_mut(&mut self.inner).code = Some(code);
        self
    }

    /// Sets the nonce that the response tells the caller (RFC 9449 §9).
    #[cfg(all(feature = "dpop", feature = "incoming"))]
    #[must_use]
    pub(crate) fn with_dpop_nonce(mut self, nonce: HeaderValue) -> Self {
        Arc::make_mut(&mut self.inner).dpop_nonce = Some(nonce);
        self
    }

    /// Sets the step that the user must take. [`Interaction::link_account`] has an example.
    #[must_use]
    pub fn with_interaction(mut self, interaction: Interaction) -> Self {
        Arc::make_mut(&mut self.inner).interaction = Some(interaction);
        self
    }

    /// Sets the error code of an issuer, if it is one that a program may read.
    #[cfg(feature = "token-exchange")]
    #[must_use]
    pub(crate) fn with_oauth_error(mut self, code: &str) -> Self {
        const LONGEST: usize = 64;

        let is_code = (1..=LONGEST).contains(&code.len())
            && code
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if is_code {
            Arc::make_mut(&mut self.inner).oauth_error = Some(code.to_owned());
        }
        self
    }

    /// Sets the cause, which becomes the [`source`](Error::source). It must not contain a secret.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        Arc::make_mut(&mut self.inner).source = Some(Arc::from(source.into()));
        self
    }

    /// The kind of failure.
    pub fn kind(&self) -> AuthErrorKind {
        self.inner.kind
    }

    /// The backend of the request.
    pub fn backend(&self) -> Option<&Origin> {
        self.inner.backend.as_ref()
    }

    /// The upstream provider whose token was needed.
    pub fn provider(&self) -> Option<&str> {
        self.inner.provider.as_deref()
    }

    /// The challenge that came with the failure, for example from an authorization server.
    pub fn challenge(&self) -> Option<&HeaderValue> {
        self.inner.challenge.as_ref()
    }

    /// The time to wait before trying again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    /// The error code that an issuer refused with (RFC 6749 §5.2), for programs. For example `invalid_grant`, or a code that
    /// only this issuer has.
    ///
    /// At most 64 characters of `[A-Za-z0-9._-]`. A code with others, or one that repeats a token or a secret of the
    /// request, is left out. So are the codes of AWS STS, which are no codes of OAuth.
    ///
    /// # Security
    ///
    /// The issuer chooses the code, so compare it with codes that you know. `Display` and `Debug` of the error show a code
    /// only if it is a standard one or one of a widely used issuer.
    pub fn oauth_error(&self) -> Option<&str> {
        self.inner.oauth_error.as_deref()
    }

    /// The step that the user must take before a retry can succeed, where more is known of it than that the user must log
    /// in again.
    ///
    /// `None` for `MissingToken`, `Expired` and `Rejected` means an ordinary login.
    pub fn interaction(&self) -> Option<&Interaction> {
        self.inner.interaction.as_ref()
    }

    /// Creates the response that a gateway sends to its own caller. Its body can be any type that is made of `Bytes`, for
    /// example `Full<Bytes>` or `axum::body::Body`.
    ///
    /// | kind | status | with |
    /// | --- | --- | --- |
    /// | `MissingIdentity` | 401 | `WWW-Authenticate: Bearer` without an error code (RFC 6750 §3.1) |
    /// | `MissingToken`, `Expired`, `Rejected` | 401 | the error's challenge, else `Bearer error="invalid_token"` |
    /// | `InsufficientScope` | 403 | the error's challenge, else `Bearer error="insufficient_scope"` |
    /// | `PayloadTooLarge` | 413 | |
    /// | `Configuration` | 500 | |
    /// | `WrongOrigin` | 502 | |
    /// | `Unavailable` | 503 | `Retry-After` in whole seconds, rounded up, at least 1 |
    ///
    /// Where there is an [`interaction`](Self::interaction) and no challenge of the error, the challenge says what the
    /// user must do: `scope`, or `acr_values`, `max_age` and `claims` with the error code
    /// `insufficient_user_authentication` (RFC 9470 §3). With `claims` alone, which are in base64, the code is
    /// Microsoft's `insufficient_claims`. A URL is never in it.
    ///
    /// The JSON body has `error` and `error_description`. It does not contain the message, the backend or the cause.
    ///
    /// The response carries the error in its extensions, for a log, and for
    /// [`TokenValidatorLayer`](crate::TokenValidatorLayer), which completes the challenge.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::header::WWW_AUTHENTICATE;
    /// use tower_identity::{AuthError, AuthErrorKind};
    ///
    /// let message = "the request carries no identity";
    /// let error = AuthError::new(AuthErrorKind::MissingIdentity, message);
    /// let response = error.to_response::<Bytes>();
    /// assert_eq!(response.status(), 401);
    /// assert_eq!(response.headers()[WWW_AUTHENTICATE], "Bearer");
    /// ```
    pub fn to_response<B: From<Bytes>>(&self) -> Response<B> {
        let Answer {
            status,
            code,
            description,
            challenge,
        } = self.answer();
        let body =
            serde_json::json!({ "error": code, "error_description": description }).to_string();
        let mut response = Response::new(B::from(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(default) = challenge {
            let challenge = self
                .challenge()
                .cloned()
                .or_else(|| self.interactive_challenge());
            headers.insert(
                WWW_AUTHENTICATE,
                challenge.unwrap_or_else(|| HeaderValue::from_static(default)),
            );
        }
        if let Some(nonce) = &self.inner.dpop_nonce {
            headers.insert(DPOP_NONCE, nonce.clone());
        }
        if self.kind() == AuthErrorKind::Unavailable {
            headers.insert(RETRY_AFTER, whole_seconds(self.retry_after()).into());
        }
        response.extensions_mut().insert(self.clone());
        response
    }
}

impl AuthError {
    /// The error as a field of an event. Subscribers that know errors show its causes too.
    pub(crate) fn in_event(&self) -> &(dyn Error + 'static) {
        self
    }

    pub(crate) fn answer(&self) -> Answer {
        let answer = self.kind().answer();
        let (code, description) = self
            .stronger_login()
            .unwrap_or((answer.code, answer.description));
        Answer {
            code: self.inner.code.unwrap_or(code),
            description: self.inner.description.unwrap_or(description),
            ..answer
        }
    }

    /// The code that asks for a certain kind of login: that of RFC 9470 §3, or Microsoft's for claims.
    fn stronger_login(&self) -> Option<(&'static str, &'static str)> {
        let Some(Interaction::Login {
            acr_values,
            max_age,
            claims,
        }) = self.interaction()
        else {
            return None;
        };
        let is_login = self.kind().answer().status == StatusCode::UNAUTHORIZED;
        let code = if acr_values.is_some() || max_age.is_some() {
            Some("insufficient_user_authentication")
        } else {
            claims.as_ref().map(|_| "insufficient_claims")
        };
        let code = code.filter(|_| is_login)?;
        Some((code, "log in again, as the challenge says"))
    }

    fn interactive_challenge(&self) -> Option<HeaderValue> {
        self.interaction()?;
        let mut challenge = "Bearer".to_owned();
        for (name, value) in self.challenge_parameters() {
            push_parameter(&mut challenge, name, &value);
        }
        HeaderValue::try_from(challenge).ok()
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)?;
        match (self.backend(), self.provider()) {
            (Some(backend), Some(provider)) => {
                write!(f, " (backend {backend}, provider `{provider}`)")
            }
            (Some(backend), None) => write!(f, " (backend {backend})"),
            (None, Some(provider)) => write!(f, " (provider `{provider}`)"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Debug for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("AuthError");
        debug
            .field("kind", &self.kind())
            .field("message", &self.inner.message);
        if let Some(backend) = self.backend() {
            debug.field("backend", backend);
        }
        if let Some(provider) = self.provider() {
            debug.field("provider", &provider);
        }
        if let Some(challenge) = self.challenge() {
            debug.field("challenge", challenge);
        }
        if let Some(retry_after) = self.retry_after() {
            debug.field("retry_after", &retry_after);
        }
        if let Some(interaction) = self.interaction() {
            debug.field("interaction", interaction);
        }
        if let Some(source) = &self.inner.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl Error for AuthError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}

/// The kind of an [`AuthError`].
///
/// [`AuthError::to_response`] maps each kind to a status. The guide
/// [troubleshooting](crate::guide::troubleshooting) has the likely causes of each.
///
/// ```
/// use tower_identity::{AuthError, AuthErrorKind};
///
/// fn must_log_in(error: &AuthError) -> bool {
///     use AuthErrorKind::{Expired, MissingToken, Rejected};
///     matches!(error.kind(), Expired | MissingToken | Rejected)
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuthErrorKind {
    /// The request carries no identity, and no fallback inserted one.
    MissingIdentity,
    /// The identity has no token of the kind that the strategy needs.
    MissingToken,
    /// The identity's token has expired.
    Expired,
    /// The credential was rejected. The caller must log in again.
    Rejected,
    /// The credential is valid but does not permit this request (RFC 6750 §3.1, `insufficient_scope`).
    InsufficientScope,
    /// An identity provider, a token service or a store is unavailable. A later attempt may succeed.
    Unavailable,
    /// The configuration is wrong in a way that shows only when a request is sent. Another attempt fails too.
    Configuration,
    /// The request goes to an origin that the credential is not for.
    WrongOrigin,
    /// The payload is too large to sign.
    PayloadTooLarge,
}

pub(crate) struct Answer {
    status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) description: &'static str,
    challenge: Option<&'static str>,
}

impl AuthErrorKind {
    fn answer(self) -> Answer {
        const LOG_IN_AGAIN: &str =
            r#"Bearer error="invalid_token", error_description="log in again""#;

        let (status, code, description, challenge) = match self {
            Self::MissingIdentity => (
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "authentication is required",
                Some("Bearer"),
            ),
            Self::MissingToken | Self::Expired | Self::Rejected => (
                StatusCode::UNAUTHORIZED,
                "invalid_token",
                "log in again",
                Some(LOG_IN_AGAIN),
            ),
            Self::InsufficientScope => (
                StatusCode::FORBIDDEN,
                "insufficient_scope",
                "the credential does not allow this",
                Some(r#"Bearer error="insufficient_scope""#),
            ),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "temporarily_unavailable",
                "authentication is not available at the moment",
                None,
            ),
            Self::Configuration => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "server_error",
                "authentication is not set up correctly",
                None,
            ),
            Self::WrongOrigin => (
                StatusCode::BAD_GATEWAY,
                "bad_gateway",
                "the request does not go to its backend",
                None,
            ),
            Self::PayloadTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "payload_too_large",
                "the payload is too large",
                None,
            ),
        };
        Answer {
            status,
            code,
            description,
            challenge,
        }
    }
}

fn whole_seconds(duration: Option<Duration>) -> u64 {
    let duration = duration.unwrap_or(Duration::from_secs(1));
    let seconds = duration
        .as_secs()
        .saturating_add(u64::from(duration.subsec_nanos() > 0));
    seconds.max(1)
}
