pub(crate) mod builder;
#[cfg(feature = "dpop")]
mod dpop;

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
#[cfg(feature = "dpop")]
use tokio::time::Instant;
use tower::{BoxError, Service};

use crate::{
    clock::Clock,
    credential::cache::key::CacheScope,
    error::{AuthError, AuthErrorKind},
    oauth::http_client::{Answer, BoxFuture, Failure, HttpClient, is_form, is_json},
    origin::Origin,
    secret::{AccessToken, Secret},
};

use super::{
    client_auth::{ClientAuth, Recipient},
    interaction,
    refusal::{self, OwnRows, Refused},
    request::TokenRequest,
    response::{self, Dialect, Members, TokenResponse, Unusable},
};

#[cfg(feature = "hyper")]
use crate::client::hyper::CertificateSource;

use builder::TokenEndpointBuilder;

/// An OAuth token endpoint (RFC 6749 §3.2), with the HTTP client that reaches it and the client's authentication.
///
/// Needs the feature `token-exchange`.
///
/// The strategies with issued tokens and [`RefreshTokenGrant`](crate::upstream::RefreshTokenGrant) call it by
/// themselves. A clone costs one reference count.
///
/// ```no_run
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower_identity::{
///     ClientAuth, Secret, TokenEndpoint,
///     oauth::{TokenRequest, TokenType},
/// };
///
/// # async fn exchange(user_token: &str) -> Result<(), tower::BoxError> {
/// # let token_client = Client::builder(TokioExecutor::new())
/// #     .build_http::<Full<Bytes>>();
/// let secret = Secret::new("7Fjfp0ZBr1KtDRbnfVdmIw")?;
/// let endpoint =
///     TokenEndpoint::builder("https://idp.example.com/token", token_client)
///         .client_auth(ClientAuth::basic("gateway", secret))
///         .build()?;
/// let request = TokenRequest::token_exchange()
///     .subject_token(user_token, TokenType::AccessToken)
///     .audience("mcp-backend");
/// let response = endpoint.request_token(request).await?;
/// let authorization = response.token().authorization();
/// # Ok(())
/// # }
/// ```
///
/// # Refusals
///
/// An answer is a refusal if its status is not 2xx, or if it has an `error`, an `errorCode` without a token, or
/// `"ok": false`. The same code can be the user's fault or the operator's, so the grant decides. A grant **of a user**
/// presents a token or a code of theirs: token exchange, JWT bearer (on behalf of), refresh and authorization code. With
/// client credentials no user can help.
///
/// The first row that applies decides:
///
/// | answer | grant of a user | client credentials |
/// | --- | --- | --- |
/// | 429 | `Unavailable` | `Unavailable` |
/// | a code that you set with [`refusal`](TokenEndpointBuilder::refusal) | the kind that you set | the kind that you set |
/// | 408, 425 and 5xx, with any code | `Unavailable` | `Unavailable` |
/// | 3xx, which is not followed | `Configuration` | `Configuration` |
/// | a rate limit in any words, for example `slow_down`, `ratelimited`, `too_many_attempts`, and Zoho's `Access Denied` | `Unavailable` | `Unavailable` |
/// | a fault that passes, for example `server_error`, `temporarily_unavailable`, Slack's `internal_error` | `Unavailable` | `Unavailable` |
/// | `invalid_client` and its like, for example `bad_client_secret`, `deleted_client`, `redirect_uri_mismatch` | `Configuration` | `Configuration` |
/// | `unauthorized_client` to a refresh token that is bound to another certificate (Keycloak) | `Rejected` | |
/// | `unauthorized_client`, and with 401 `access_denied` | `Configuration` | `Configuration` |
/// | `unauthorized_client` to a refresh, with 403 or 200, if the description does not mention the client (Atlassian, GitHub) | `Rejected` | |
/// | `unsupported_grant_type`, `invalid_target`, `invalid_resource`, `invalid_dpop_proof` | `Configuration` | `Configuration` |
/// | `use_dpop_nonce`, to a request with the server's newest nonce (RFC 9449 §8) | `Unavailable` | `Unavailable` |
/// | `use_dpop_nonce`, to a request without a proof | `Configuration` | `Configuration` |
/// | `invalid_grant`, `invalid_token`, `expired_token` and their like, for example `bad_refresh_token` | `Rejected` | `Configuration` |
/// | `login_required`, `interaction_required`, `consent_required`, `mfa_required`, `insufficient_user_authentication` | `Rejected` | `Configuration` |
/// | `invalid_scope`, `insufficient_scope`, `access_denied` | `InsufficientScope` | `Configuration` |
/// | `invalid_request`, which is also the code for a bad subject token (RFC 8693 §2.2.2) | `Rejected`, or `Configuration` if the description names a parameter of the client | `Configuration` |
/// | 2xx, 400 to 403, 409 and 422 with another code or none | `Rejected` | `Configuration` |
/// | all other statuses of 4xx, for example 404 for a wrong URL | `Configuration` | `Configuration` |
///
/// A few issuers use one code for two things, and tell them apart only in the description or in a number. For example,
/// Salesforce answers `invalid_grant` with "login rate exceeded" to too many logins. The known ones are compared and give
/// the kind of what they describe. `Unavailable` has the issuer's `Retry-After` (RFC 9110 §10.2.3), at most one hour.
///
/// [`AuthError::oauth_error`] has the code, and [`AuthError::interaction`] the step that the user must take.
///
/// An answer that is neither a refusal nor a usable token is `Unavailable`. So are no connection, no answer within the
/// time limit, and an answer of more than 1 MiB.
///
/// # Usable tokens
///
/// The answer is a JSON object of at most 1 MiB. Its content type ends with `json`, or is missing. Unknown members are
/// ignored.
///
/// | member | [`request_token`](Self::request_token) | [`request_assertion`](Self::request_assertion) |
/// | --- | --- | --- |
/// | `access_token` | an [`AccessToken`] of at most 64 KiB | any text of at most 64 KiB |
/// | `token_type` | `Bearer`. With [`dpop`](TokenEndpointBuilder::dpop), `DPoP`, and `Bearer` only if [bearer tokens are allowed](TokenEndpointBuilder::allow_bearer_tokens). Each in upper or lower case | `N_A`, in upper or lower case |
/// | `issued_token_type` | an access token, a JWT or the type that was requested, required only for a token exchange (RFC 8693 §2.2.1) | the type that was requested |
/// | `expires_in` | see [`Lifetime`](crate::oauth::Lifetime) | see [`Lifetime`](crate::oauth::Lifetime) |
///
/// # Security
///
/// - Secrets leave in the body and, with HTTP Basic, in a header that is marked sensitive. They are never in the URL.
/// - The issuer's text is never shown: not its body, not `error_description`, and not a code that is not in the crate's
///   table. The issuer may repeat a secret there.
/// - Plain `http` is refused except for loopback, unless it is [set by name](TokenEndpointBuilder::insecure).
/// - A redirect is an error. Switch off redirects in a client that follows them (reqwest does so by default), or it
///   sends the form to another host.
/// - A client that presents a certificate does so to each server that asks for one.
/// - Use a separate client, and not the stack that the credentials are for: see
///   [readiness](crate::AuthLayer#readiness-is-held).
#[derive(Clone)]
pub struct TokenEndpoint {
    inner: Arc<Inner>,
    issuer: Option<Arc<str>>,
}

struct Inner {
    uri: Uri,
    origin: Origin,
    client_auth: Option<ClientAuth>,
    #[cfg(feature = "hyper")]
    certificate: Option<CertificateSource>,
    time_limit: Duration,
    own_rows: OwnRows,
    dialect: Dialect,
    clock: Arc<dyn Clock>,
    client: HttpClient,
    #[cfg(feature = "dpop")]
    binding: Option<dpop::Binding>,
}

impl TokenEndpoint {
    /// Starts to build an endpoint at `url`, for example `https://idp.example.com/token`. Each call uses a clone of
    /// `client`.
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
        Self::of_client(url, HttpClient::new(client))
    }

    pub(crate) fn of_client(url: impl Into<String>, client: HttpClient) -> TokenEndpointBuilder {
        TokenEndpointBuilder::new(url.into(), client)
    }

    /// The URL of the endpoint.
    pub fn uri(&self) -> &Uri {
        &self.inner.uri
    }

    /// Requests an access token that can be sent as a bearer token (RFC 6749 §5.1).
    ///
    /// # Errors
    ///
    /// - What the [issuer's refusal](Self#refusals) means.
    /// - [`Unavailable`](AuthErrorKind::Unavailable): there is no answer, or no [usable token](Self#usable-tokens) in it.
    /// - [`Configuration`](AuthErrorKind::Configuration): [`TokenRequest::check`] refuses the request, or its requested
    ///   token type is not an access token.
    ///
    /// # Panics
    ///
    /// When it is polled outside of a Tokio runtime with time enabled.
    pub fn request_token(&self, request: TokenRequest) -> TokenResponseFuture<AccessToken> {
        self.request(request, TokenRequest::check_bearer, response::bearer)
    }

    /// Requests a token that is presented to another token endpoint: an ID token, an ID-JAG
    /// (draft-ietf-oauth-identity-assertion-authz-grant), or any other type but an access or a refresh token. Its
    /// `token_type` is `N_A` (RFC 8693 §2.2.1), and its type is the [requested
    /// one](TokenRequest::requested_token_type).
    ///
    /// # Errors
    ///
    /// As [`request_token`](Self::request_token), and [`Configuration`](AuthErrorKind::Configuration) if the requested
    /// token type is none of these.
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

    /// Tells it the issuer, unless it was built with one.
    pub(crate) fn of_issuer(mut self, issuer: &str) -> Self {
        self.issuer.get_or_insert_with(|| issuer.into());
        self
    }

    /// Adds to `scope` where it is and how the client authenticates there.
    pub(crate) fn describe(&self, scope: CacheScope) -> CacheScope {
        let scope = scope.field("endpoint", self.inner.uri.to_string());
        let scope = match &self.issuer {
            Some(issuer) => scope.field("endpoint issuer", &**issuer),
            None => scope,
        };
        #[cfg(feature = "dpop")]
        let scope = match &self.inner.binding {
            Some(binding) => binding.describe(scope),
            None => scope,
        };
        let scope = match &self.inner.client_auth {
            Some(client_auth) => client_auth.describe(scope),
            None => scope,
        };
        match self.has_unknown_certificate() {
            true => scope.field("http client", self.inner.client.id().to_be_bytes()),
            false => scope,
        }
    }

    /// Whether it is not known with which certificate the client authenticates. Two HTTP clients may then present two.
    fn has_unknown_certificate(&self) -> bool {
        #[cfg(feature = "hyper")]
        if self.inner.certificate.is_some() {
            return false;
        }
        let client_auth = self.inner.client_auth.as_ref();
        client_auth.is_some_and(ClientAuth::is_tls)
    }

    /// Adds to `scope` which certificate its HTTP client presents now, if that is known.
    #[inline]
    pub(crate) fn describe_certificate(&self, scope: CacheScope) -> CacheScope {
        #[cfg(feature = "hyper")]
        if let Some(certificate) = &self.inner.certificate {
            return scope.field("client certificate", certificate.thumbprint());
        }
        scope
    }

    fn request<T: 'static>(
        &self,
        request: TokenRequest,
        check: fn(&TokenRequest) -> Result<(), AuthError>,
        read: fn(&TokenRequest, Members, &Dialect) -> Result<TokenResponse<T>, Unusable>,
    ) -> TokenResponseFuture<T> {
        let endpoint = self.clone();
        TokenResponseFuture {
            future: Box::pin(async move {
                check(&request)?;
                let answer = endpoint.ask(&request).await?;
                let members = endpoint.members(&request, answer)?;
                read(&request, members, &endpoint.inner.dialect)
                    .map_err(|unusable| endpoint.error(unusable.kind, unusable.fault))
            }),
        }
    }

    /// Requests a token with a refresh token, which may be used up by it.
    ///
    /// A success that is refused all the same may have the refresh token's successor, which comes with the error.
    #[cfg(feature = "incoming")]
    pub(crate) async fn refresh(
        &self,
        request: TokenRequest,
    ) -> Result<TokenResponse<AccessToken>, RefusedRefresh> {
        self.spend(request, TokenRequest::check_bearer, response::bearer)
            .await
    }

    /// Requests an assertion with a refresh token as the subject, which may be used up by it.
    #[cfg(feature = "incoming")]
    pub(crate) async fn refresh_assertion(
        &self,
        request: TokenRequest,
    ) -> Result<TokenResponse<Secret>, RefusedRefresh> {
        self.spend(request, TokenRequest::check_assertion, response::assertion)
            .await
    }

    #[cfg(feature = "incoming")]
    async fn spend<T>(
        &self,
        request: TokenRequest,
        check: fn(&TokenRequest) -> Result<(), AuthError>,
        read: fn(&TokenRequest, Members, &Dialect) -> Result<TokenResponse<T>, Unusable>,
    ) -> Result<TokenResponse<T>, RefusedRefresh> {
        let mut successor = None;
        let response = async {
            check(&request)?;
            let answer = self.ask(&request).await?;
            successor = issued_refresh_token(&answer, &self.inner.dialect);
            let members = self.members(&request, answer)?;
            read(&request, members, &self.inner.dialect)
                .map_err(|unusable| self.error(unusable.kind, unusable.fault))
        };
        let response = response.await;
        response.map_err(|error| RefusedRefresh { error, successor })
    }

    /// The ID with which the client authenticates.
    pub(crate) fn client_id(&self) -> Option<&str> {
        self.inner.client_auth.as_ref().map(ClientAuth::client_id)
    }

    async fn ask(&self, request: &TokenRequest) -> Result<Answer, AuthError> {
        let time_limit = self.inner.time_limit;
        #[cfg(feature = "dpop")]
        if let Some(binding) = &self.inner.binding {
            let started = Instant::now();
            let answer = self.ask_once(request, time_limit).await?;
            if !binding.wants_nonce(&answer) {
                return Ok(answer);
            }
            let left = time_limit.saturating_sub(started.elapsed());
            let answer = self.ask_once(request, left).await?;
            binding.learn(&answer);
            return Ok(answer);
        }
        self.ask_once(request, time_limit).await
    }

    async fn ask_once(
        &self,
        request: &TokenRequest,
        time_limit: Duration,
    ) -> Result<Answer, AuthError> {
        let http_request = self.http_request(request).await?;
        let answer = self.inner.client.call(http_request, time_limit).await;
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

    async fn http_request(
        &self,
        request: &TokenRequest,
    ) -> Result<Request<Full<Bytes>>, AuthError> {
        let mut form = request.form().clone();
        let mut headers = HeaderMap::new();
        if let Some(client_auth) = &self.inner.client_auth {
            let recipient = Recipient {
                endpoint: &self.inner.uri,
                issuer: self.issuer.as_deref(),
                clock: &*self.inner.clock,
            };
            let applied = client_auth.apply(&recipient, &mut form, &mut headers);
            applied.await?;
        }
        form.check()?;
        #[cfg(feature = "dpop")]
        self.add_proof(request, &mut headers).await?;
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
        let dialect = &self.inner.dialect;
        let is_readable = is_json(&headers) || (dialect.answers_as_form && is_form(&headers));
        if !is_readable {
            return Err(self.error(
                AuthErrorKind::Unavailable,
                "answered with a content type that is not JSON; check its URL",
            ));
        }
        let members = members.map(|members| members.of_user(dialect));
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
            #[cfg(feature = "dpop")]
            has_proof: self.inner.binding.is_some(),
            #[cfg(not(feature = "dpop"))]
            has_proof: false,
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

/// A refresh that failed, and the new refresh token that was issued nevertheless.
#[cfg(feature = "incoming")]
pub(crate) struct RefusedRefresh {
    pub(crate) error: AuthError,
    pub(crate) successor: Option<Secret>,
}

/// The refresh token in a success, whatever else is wrong with the answer.
#[cfg(feature = "incoming")]
fn issued_refresh_token(answer: &Answer, dialect: &Dialect) -> Option<Secret> {
    let members = match Members::parse(&answer.body) {
        None if is_form(&answer.headers) => Members::parse_form(&answer.body),
        members => members?,
    };
    let is_success = answer.status.is_success() && !members.is_refusal();
    let mut members = members.of_user(dialect);
    members.take_refresh_token().filter(|_| is_success)
}

/// The future of [`TokenEndpoint::request_token`] and [`TokenEndpoint::request_assertion`].
///
/// Needs the feature `token-exchange`.
///
/// [`TokenEndpoint`](crate::TokenEndpoint) has an example.
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
