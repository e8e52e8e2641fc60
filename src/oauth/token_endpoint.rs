//! [`TokenEndpoint`]: the one way to call an OAuth token endpoint (RFC 6749 §3.2).
//!
//! ```no_run
//! use http_body_util::Full;
//! use bytes::Bytes;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower_identity::{
//!     ClientAuth, Secret, TokenEndpoint, oauth::{TokenRequest, TokenType},
//! };
//!
//! # async fn exchange(user_token: &str) -> Result<(), tower::BoxError> {
//! # let secret = Secret::new("7Fjfp0ZBr1KtDRbnfVdmIw").unwrap();
//! # let token_client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
//! let endpoint = TokenEndpoint::builder("https://idp.example.com/token", token_client)
//!     .client_auth(ClientAuth::basic("gateway", secret))
//!     .build()?;
//! let request = TokenRequest::token_exchange()
//!     .subject_token(user_token, TokenType::AccessToken)
//!     .audience("mcp-backend");
//! let response = endpoint.request_token(request).await?;
//! let authorization = response.token().authorization();
//! # Ok(())
//! # }
//! ```
//!
//! # What comes of an answer
//!
//! An error code (RFC 6749 §5.2) decides, with whatever status it was sent, 200 included; where there is none, or one
//! that is not listed, the status does. 429 is `Unavailable` whatever is in it.
//!
//! | answer | [`AuthErrorKind`] | because |
//! | --- | --- | --- |
//! | `invalid_grant`, `invalid_token`, `expired_token` | `Rejected` | the user's token is not, or no longer, accepted |
//! | `interaction_required`, `login_required`, `consent_required` | `Rejected` | the user has to be asked (OIDC Core §3.1.2.6, Microsoft Entra) |
//! | `invalid_request` to a token exchange | `Rejected` | RFC 8693 §2.2.2 has it for a subject or actor token that is not accepted |
//! | `invalid_scope`, `insufficient_scope`, `access_denied` | `InsufficientScope` | the user is known, and may not have this |
//! | `invalid_request` to another grant | `Configuration` | the form is wrong for this issuer |
//! | `invalid_client`, `unauthorized_client` | `Configuration` | the client's id, secret, key or rights |
//! | `unsupported_grant_type`, `invalid_target`, `invalid_resource`, `invalid_dpop_proof`, `use_dpop_nonce` | `Configuration` | what is asked for is not to be had here |
//! | `server_error`, `temporarily_unavailable`, `slow_down` | `Unavailable` | the issuer says so |
//! | 408, 425, 429, 5xx | `Unavailable` | with `Retry-After` (RFC 9110 §10.2.3), of at most one hour |
//! | any other status of 400 and above, or a success with an error code that is not listed | `Configuration` | the URL, or what is in between |
//! | 3xx | `Configuration` | the URL is another one; it is not followed |
//! | no connection, no answer in time, an answer that is too large | `Unavailable` | |
//! | a success that holds no usable token | `Unavailable` | the issuer is at fault |
//!
//! # What is accepted as a token
//!
//! The answer is a JSON object of at most 1 MiB. Its content type is `application/json`, another one that ends with
//! `json`, or missing. Members that are not known do not matter. `access_token` has to be an [`AccessToken`] (or, for an
//! assertion, a text), `token_type` what was asked for, `Bearer` or `N_A`, in any case, and the answer to a token
//! exchange says its `issued_token_type` (RFC 8693 §2.2.1). For `expires_in` see [`Lifetime`].
//!
//! # Security
//!
//! - Secrets leave in the body and, with HTTP Basic, in a header that is marked sensitive; never in the URL.
//! - What the issuer sends is never shown: not its body, not `error_description`, and not an error code that is not in
//!   the table. So it does not matter whether it repeats a secret.
//! - Plain `http` is refused except for loopback, unless it is asked for by name.
//! - A redirect is an error here. A client that follows redirects by itself would send the form to a stranger before it
//!   could be one: switch that off (reqwest's is on by default).
//! - The client is one of its own, not the stack that the credentials are for: see
//!   [readiness](crate::AuthLayer#readiness-is-held).

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::Full;
use tower::{BoxError, Service};

use crate::{
    clock::{Clock, DefaultClock},
    credential::cache::key::CacheScope,
    error::{AuthError, AuthErrorKind, BuildError, Faults},
    oauth::http_client::{Answer, BoxFuture, Failure, HttpClient, is_form, is_json, parse_url},
    origin::Origin,
    secret::{AccessToken, Secret},
};

use super::{
    client_auth::ClientAuth,
    interaction,
    refusal::{self, OwnRows, Refused},
    request::TokenRequest,
    response::{self, Members, TokenResponse},
};

const TIME_LIMIT: Duration = Duration::from_secs(30);

/// A token endpoint, with the client that reaches it and the way this client authenticates there.
///
/// Cheap to clone (one reference count). See the [module](self) for what it accepts and how it fails.
#[derive(Clone)]
pub struct TokenEndpoint {
    inner: Arc<Inner>,
}

struct Inner {
    uri: Uri,
    origin: Origin,
    client_auth: Option<ClientAuth>,
    time_limit: Duration,
    own_rows: OwnRows,
    clock: Arc<dyn Clock>,
    client: HttpClient,
}

impl TokenEndpoint {
    /// Starts an endpoint at `url` that is reached through `client`.
    ///
    /// Each call uses a clone of `client`.
    pub fn builder<S, ResBody>(url: impl Into<String>, client: S) -> TokenEndpointBuilder
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
        S: Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        ResBody: Body + Send + 'static,
        ResBody::Data: Send,
        ResBody::Error: Into<BoxError>,
    {
        TokenEndpointBuilder {
            url: url.into(),
            insecure: false,
            client_auth: None,
            time_limit: TIME_LIMIT,
            own_rows: OwnRows::default(),
            clock: DefaultClock::get(),
            client: HttpClient::new(client),
        }
    }

    /// Where it is.
    pub fn uri(&self) -> &Uri {
        &self.inner.uri
    }

    /// Asks for an access token that can be sent as a bearer token (RFC 6749 §5.1).
    ///
    /// # Errors
    ///
    /// As the [table](self#what-comes-of-an-answer) says, and `Configuration` for what [`TokenRequest::check`] refuses and for a
    /// requested token type that is no access token.
    ///
    /// # Panics
    ///
    /// When it is polled outside of a Tokio runtime with time enabled.
    pub fn request_token(&self, request: TokenRequest) -> TokenResponseFuture<AccessToken> {
        self.request(request, TokenRequest::check_bearer, response::bearer)
    }

    /// Asks for a token that proves something to another token endpoint and is no access token: an ID token, or an
    /// ID-JAG (draft-ietf-oauth-identity-assertion-authz-grant). It comes with the `token_type` `N_A` (RFC 8693
    /// §2.2.1), and is of the type that was [asked for](TokenRequest::requested_token_type).
    ///
    /// # Errors
    ///
    /// As [`request_token`](Self::request_token), and `Configuration` when no assertion was asked for.
    ///
    /// # Panics
    ///
    /// As [`request_token`](Self::request_token).
    pub fn request_assertion(&self, request: TokenRequest) -> TokenResponseFuture<Secret> {
        self.request(request, TokenRequest::check_assertion, response::assertion)
    }

    /// Whether its client has a secret or a key (RFC 6749 §2.1).
    pub(crate) fn has_confidential_client(&self) -> bool {
        let client_auth = self.inner.client_auth.as_ref();
        client_auth.is_some_and(ClientAuth::is_confidential)
    }

    /// Adds to `scope` where it is and how the client authenticates there.
    pub(crate) fn describe(&self, scope: CacheScope) -> CacheScope {
        let scope = scope.field("endpoint", self.inner.uri.to_string());
        match &self.inner.client_auth {
            Some(client_auth) => client_auth.describe(scope),
            None => scope,
        }
    }

    fn request<T: 'static>(
        &self,
        request: TokenRequest,
        check: fn(&TokenRequest) -> Result<(), AuthError>,
        read: fn(&TokenRequest, Members) -> Result<TokenResponse<T>, &'static str>,
    ) -> TokenResponseFuture<T> {
        let endpoint = self.clone();
        TokenResponseFuture {
            future: Box::pin(async move {
                check(&request)?;
                let answer = endpoint.ask(&request).await?;
                let members = endpoint.members(&request, answer)?;
                read(&request, members)
                    .map_err(|fault| endpoint.error(AuthErrorKind::Unavailable, fault))
            }),
        }
    }

    async fn ask(&self, request: &TokenRequest) -> Result<Answer, AuthError> {
        let http_request = self.http_request(request)?;
        let answer = self
            .inner
            .client
            .call(http_request, self.inner.time_limit)
            .await;
        match answer {
            Ok(answer) => {
                tracing::debug!(
                    issuer = %self.inner.origin,
                    grant_type = request.grant_type(),
                    status = answer.status.as_u16(),
                    "the token endpoint answered"
                );
                Ok(answer)
            }
            Err(Failure::TooLarge) => Err(self.error(
                AuthErrorKind::Unavailable,
                "sent more than 1 MiB, which is no token; the rest was not read",
            )),
            Err(failure) => Err(failure.into_error(self.inner.time_limit, |fault| {
                self.error(AuthErrorKind::Unavailable, fault)
            })),
        }
    }

    fn http_request(&self, request: &TokenRequest) -> Result<Request<Full<Bytes>>, AuthError> {
        let mut form = request.form().clone();
        let mut headers = HeaderMap::new();
        if let Some(client_auth) = &self.inner.client_auth {
            let now = self.inner.clock.now();
            client_auth.apply(&self.inner.uri, now, &mut form, &mut headers)?;
        }
        form.check()?;
        Ok(form.post(&self.inner.uri, headers))
    }

    /// The members of an answer that says it is a success.
    fn members(&self, request: &TokenRequest, answer: Answer) -> Result<Members, AuthError> {
        let Answer {
            status,
            headers,
            body,
        } = answer;
        let members = match Members::parse(&body) {
            None if is_form(&headers) => Some(Members::parse_form(&body)),
            members => members,
        };
        if !status.is_success() || members.as_ref().is_some_and(Members::is_refusal) {
            return Err(self.refused(request, status, &headers, members.as_ref()));
        }
        if !is_json(&headers) {
            return Err(self.error(
                AuthErrorKind::Unavailable,
                "answered with a content type that is not JSON; check its URL",
            ));
        }
        members.ok_or_else(|| {
            self.error(
                AuthErrorKind::Unavailable,
                "answered with something else than a JSON object; check its URL",
            )
        })
    }

    #[cold]
    fn refused(
        &self,
        request: &TokenRequest,
        status: StatusCode,
        headers: &HeaderMap,
        members: Option<&Members>,
    ) -> AuthError {
        let refused = Refused {
            request,
            status,
            members,
        };
        let refusal = refused.classify(&self.inner.own_rows);
        let mut error = self.error(refusal.kind, &refusal);
        if let Some(members) = members {
            let is_secret = |text: &str| self.repeats_secret(request, members, text);
            if let Some(code) = members.error_code().filter(|code| !is_secret(code)) {
                error = error.with_oauth_error(code);
            }
            if let Some(step) = interaction::find(request, refusal.kind, members, is_secret) {
                error = error.with_interaction(step);
            }
        }
        match refusal::retry_after(headers, self.inner.clock.now()) {
            Some(retry_after) if refusal.kind == AuthErrorKind::Unavailable => {
                error.with_retry_after(retry_after)
            }
            _ => error,
        }
    }

    /// Whether the issuer's `text` repeats what was sent to it or what it issued.
    fn repeats_secret(&self, request: &TokenRequest, members: &Members, text: &str) -> bool {
        let client_auth = self.inner.client_auth.as_ref();
        request.repeats_secret(text)
            || members.repeats_secret(text)
            || client_auth.is_some_and(|client_auth| client_auth.repeats_secret(text))
    }

    #[cold]
    fn error(&self, kind: AuthErrorKind, fault: impl fmt::Display) -> AuthError {
        AuthError::new(
            kind,
            format!("the token endpoint at {} {fault}", self.inner.origin),
        )
    }
}

impl fmt::Debug for TokenEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenEndpoint")
            .field("origin", &self.inner.origin)
            .field("client_auth", &self.inner.client_auth)
            .field("time_limit", &self.inner.time_limit)
            .finish_non_exhaustive()
    }
}

/// Builds a [`TokenEndpoint`].
#[must_use = "nothing is checked before `build`"]
pub struct TokenEndpointBuilder {
    url: String,
    insecure: bool,
    client_auth: Option<ClientAuth>,
    time_limit: Duration,
    own_rows: OwnRows,
    clock: Arc<dyn Clock>,
    client: HttpClient,
}

impl TokenEndpointBuilder {
    /// Sets how the client authenticates, and nothing else is tried. By default it does not say who it is.
    pub fn client_auth(mut self, client_auth: ClientAuth) -> Self {
        self.client_auth = Some(client_auth);
        self
    }

    /// Sets within what time the whole answer has to be there, from waiting for the client's readiness to the last byte.
    /// By default 30 s.
    pub fn time_limit(mut self, time_limit: Duration) -> Self {
        self.time_limit = time_limit;
        self
    }

    /// Sets the kind of error that an error code of this issuer is.
    ///
    /// The codes of widely used issuers are known, see the [table](TokenEndpoint#refusals). A code that you set wins over the
    /// table and over the status, except over 429. It is compared as the issuer writes it, in the member `error`.
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use http_body_util::Full;
    /// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    /// use tower_identity::{AuthErrorKind, TokenEndpoint};
    ///
    /// # let client = Client::builder(TokioExecutor::new())
    /// #     .build_http::<Full<Bytes>>();
    /// // This issuer has a code for users who may log in at 9 o'clock.
    /// let endpoint =
    ///     TokenEndpoint::builder("https://idp.example.com/token", client)
    ///         .refusal("outside_working_hours", AuthErrorKind::Unavailable)
    ///         .build()?;
    /// # Ok::<(), tower::BoxError>(())
    /// ```
    pub fn refusal(mut self, code: impl Into<String>, kind: AuthErrorKind) -> Self {
        self.own_rows.add(code.into(), kind);
        self
    }

    /// Lets the scheme be plain `http` on any host.
    ///
    /// # Security
    ///
    /// Whoever can read the network can then read the secrets and the tokens. It is meant for a network that is itself
    /// trusted.
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Sets the clock that client assertions are dated with, and a `Retry-After` date is compared with.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes the endpoint.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when one of these settings is wrong:
    ///
    /// - `url` is not an absolute `https` URL (or `http` on loopback), or has a fragment (RFC 6749 §3.2) or user info.
    /// - `client_auth.client_id` is blank.
    /// - `time_limit` is zero.
    /// - `refusal` has an error code that RFC 6749 §5.2 does not allow, or a kind other than `Rejected`,
    ///   `InsufficientScope`, `Configuration` and `Unavailable`.
    pub fn build(self) -> Result<TokenEndpoint, BuildError> {
        let mut faults = Faults::new("TokenEndpoint");
        let url = faults.take("url", parse_url(&self.url, self.insecure));
        if let Some(client_auth) = &self.client_auth {
            client_auth.check(&mut faults);
        }
        if self.time_limit.is_zero() {
            faults.add(
                "time_limit",
                "is zero, so no answer could be in time; 30 s is the default",
            );
        }
        self.own_rows.check(&mut faults);
        let (uri, origin) = faults.or(url)?;
        Ok(TokenEndpoint {
            inner: Arc::new(Inner {
                uri,
                origin,
                client_auth: self.client_auth,
                time_limit: self.time_limit,
                own_rows: self.own_rows,
                clock: self.clock,
                client: self.client,
            }),
        })
    }
}

impl fmt::Debug for TokenEndpointBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenEndpointBuilder")
            .field("client_auth", &self.client_auth)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}

/// The future of [`TokenEndpoint::request_token`] and [`TokenEndpoint::request_assertion`].
#[must_use = "futures do nothing unless polled"]
pub struct TokenResponseFuture<T> {
    future: BoxFuture<Result<TokenResponse<T>, AuthError>>,
}

impl<T> Future for TokenResponseFuture<T> {
    type Output = Result<TokenResponse<T>, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.future.as_mut().poll(cx)
    }
}

impl<T> fmt::Debug for TokenResponseFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenResponseFuture")
            .finish_non_exhaustive()
    }
}
