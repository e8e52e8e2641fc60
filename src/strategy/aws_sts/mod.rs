//! [`AwsSts`], and its parts.

mod arn;
pub(crate) mod builder;
pub(crate) mod credentials;
mod doubts;
mod error_type;
mod matcher;
pub(crate) mod payload;
pub(crate) mod payload_hash;
pub(crate) mod role_mapper;
mod session_name;
mod session_policy;
mod session_tags;
mod signer;
mod sts;
mod sts_http;
mod sts_refusal;

use std::{
    borrow::Cow,
    fmt, mem,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Method, Request, Response, StatusCode, request, response};
use http_body::Body;
use http_body_util::Full;
use tower::{BoxError, Service};
use zeroize::Zeroizing;

use crate::{
    clock::Clock,
    credential::cache::{CredentialCache, key::CacheKey},
    error::{AuthError, AuthErrorKind},
    identity::Identity,
    oauth::http_client::HttpClient,
    outgoing::identity::HealthCheck,
};

use super::{
    authenticating::Authenticating,
    rejection::Rejection,
    strategy::Strategy,
    subject::{Subject, UserToken},
};

use builder::AwsStsBuilder;
use credentials::SessionCredentials;
use doubts::Doubts;
use error_type::Verdict;
use payload::{BodyFactories, Gathering, Payload};
use role_mapper::{Role, RoleMapper};
use session_name::SessionNames;
use session_policy::SessionPolicies;
use session_tags::RequiredTags;
use signer::{AMZ_SECURITY_TOKEN, SignedPayload, Signer};
use sts::{AssumeRole, Sts};

/// Signs requests to AWS (SigV4) as an IAM role that the user's claims select.
///
/// Needs the feature `aws-sts`.
///
/// AWS STS exchanges the user's token for the credentials of a session in that role (`AssumeRoleWithWebIdentity`). The
/// strategy calls it once per user, role, session name, session policy and lifetime, and keeps the credentials in a
/// [`CredentialCache`]. A [`HealthCheck`] passes without a signature. A clone is cheap, and is the same strategy.
///
/// ```no_run
/// # use bytes::Bytes; use http_body_util::Full;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let sts_client = Client::builder(TokioExecutor::new())
/// #     .build_http::<Full<Bytes>>();
/// use tower_identity::{AwsSts, RoleMapping};
///
/// let admin = "arn:aws:iam::123456789012:role/Admin";
/// let strategy = AwsSts::builder("eu-west-1", sts_client)
///     .service("aws-mcp")
///     .role_mapping(RoleMapping::claim("admins", admin).priority(1))
///     .fallback_role("arn:aws:iam::123456789012:role/Default")
///     .build()?;
/// # Ok::<(), tower_identity::BuildError>(())
/// ```
///
/// # Selecting a role
///
/// 1. The strategy tries the [`RoleMapping`](crate::RoleMapping)s by their priority, then in the order in which they
///    were added. The first one that applies to the user's claims gives the role.
/// 2. If none applies, the user gets the fallback role. They do not if a matcher had no answer for their claims, or if
///    there are mappings and the identity has no claims, unless
///    [`fallback_after_failed_matcher`](AwsStsBuilder::fallback_after_failed_matcher) allows it.
/// 3. Otherwise the request is refused with [`InsufficientScope`](AuthErrorKind::InsufficientScope).
///
/// # What is signed
///
/// The signature covers the method, the path, the query, the SHA-256 of the body, and the headers `host`,
/// `content-type` and `x-amz-*`. It covers no other headers, because proxies rewrite them. Before signing, the strategy
///
/// - removes hop-by-hop headers (RFC 9110 §7.6.1), and those that `connection` names,
/// - sets `host` to the host of the URI, without the default port of the scheme, and
/// - removes `authorization`, `x-amz-date`, `x-amz-security-token` and `x-amz-content-sha256`, also where they are written
///   with `_` in place of `-`.
///
/// For S3 (`s3`, `s3-object-lambda`, `s3-outposts`, `s3express`) the path is signed as it is. Other services expect it
/// normalized and encoded twice. [`PayloadHash`](crate::strategy::PayloadHash) lists the services that want the hash of
/// the body in a header.
///
/// The body is read once, up to 10 MiB. The request is refused with
/// [`PayloadTooLarge`](AuthErrorKind::PayloadTooLarge) if the body is longer, or not as long as it says. A body that is in
/// memory in one piece is not copied. Trailers are sent too. For another body type than reqwest's,
/// [`body_with_trailers`](AwsStsBuilder::body_with_trailers) sets how such a body is made.
///
/// # Rejected sessions
///
/// With [`retry_rejected`](crate::AuthLayer::retry_rejected), a session that the service rejects is replaced and the
/// request sent once more:
///
/// | response | replaced |
/// | --- | --- |
/// | 400, 401 or 403 with an error type that names the session or its key, for example `ExpiredToken`, `InvalidClientTokenId` or `UnrecognizedClientException` | always |
/// | 401 with no error type, or one that is not known | always |
/// | 403, or 400 to `HEAD`, that says nothing | at most once a minute per session |
/// | `RequestExpired` or `AuthFailure`, which may also mean a wrong clock or a missing right | at most once a minute per session |
/// | any other, for example `AccessDenied` | never |
///
/// The error type is in the header `x-amzn-errortype` or `x-amzn-query-error`, or in the first 8 KiB of a body in JSON or
/// XML. The body reaches the caller unchanged.
///
/// # Answers of AWS STS
///
/// | answer | [`AuthErrorKind`] |
/// | --- | --- |
/// | `ExpiredToken…`, `InvalidIdentityToken…` (except as below), `IDPRejectedClaim`, a token of more than 20,000 characters (not sent) | `Rejected` |
/// | `AccessDenied…`: the trust policy of the role does not allow this user | `InsufficientScope` |
/// | throttling in any spelling that the AWS SDKs know, timeouts, 408, 429, 5xx, `IDPCommunicationError`, no answer within 30 s | `Unavailable`, with `Retry-After` if there is one |
/// | `InvalidIdentityToken`, because AWS could not get the issuer's keys | `Unavailable` |
/// | a success without usable credentials | `Unavailable` |
/// | `InvalidIdentityToken`, because IAM has no provider for the issuer, or one with another audience or thumbprint, or because the token is no JWT (such as many access tokens) or lacks a claim | `Configuration` |
/// | `ValidationError`, `MalformedPolicyDocument`, `PackedPolicyTooLarge`, `RegionDisabledException`, 3xx, any other | `Configuration` |
///
/// The message of the error has the code of AWS STS, if it is one of these.
/// [`AuthError::oauth_error`](AuthError::oauth_error) has none, because they are no codes of OAuth: a program that compares
/// `oauth_error()` with the codes that it knows must not take one for the other.
///
/// The [`CredentialCache`] decides when AWS STS is called again. The retries of the AWS SDK are off.
///
/// # Errors
///
/// - [`MissingIdentity`](AuthErrorKind::MissingIdentity): the request has no identity.
/// - [`MissingToken`](AuthErrorKind::MissingToken): the identity has no token that can be sent to AWS STS.
/// - [`Expired`](AuthErrorKind::Expired): that token has expired.
/// - [`InsufficientScope`](AuthErrorKind::InsufficientScope): the user has no role, or a required session tag is missing.
/// - [`Configuration`](AuthErrorKind::Configuration): the claim for the session name or the session policy is missing or
///   does not fit, or the request cannot be signed.
/// - [`PayloadTooLarge`](AuthErrorKind::PayloadTooLarge): [the body](#what-is-signed) is too long, or the path and query
///   have more than 16,000 bytes.
/// - The kinds of [the answers of AWS STS](#answers-of-aws-sts).
///
/// # Security
///
/// - The user's token leaves only in the body of a POST to AWS STS, over https or to loopback.
/// - A claim is a value that is compared, or the variable of an expression. It never becomes part of an expression or an
///   ARN. Errors name a claim that does not fit, and do not show its value.
/// - The AWS SDK logs tokens and headers at TRACE, so its logging is suppressed. The messages of AWS STS are never shown.
/// - Credentials are not used in the last 5 s before they expire.
#[derive(Clone)]
pub struct AwsSts {
    inner: Arc<Inner>,
}

struct Inner {
    roles: RoleMapper,
    session_names: SessionNames,
    session_policies: SessionPolicies,
    required_tags: RequiredTags,
    subject: Subject,
    sts: Sts,
    signer: Signer,
    bodies: BodyFactories,
    cache: CredentialCache<SessionCredentials>,
    doubts: Doubts,
    clock: Arc<dyn Clock>,
}

/// The session that a request is signed in.
struct Session<'a> {
    token: UserToken<'a>,
    role: &'a Role,
    name: Cow<'a, str>,
    policy: Option<Cow<'a, str>>,
    key: CacheKey,
}

impl AwsSts {
    /// Starts a strategy for a region, for example `eu-west-1`. `sts_client` sends the requests to AWS STS.
    ///
    /// Do not use the client stack that the authenticated requests go through: see
    /// [readiness](crate::AuthLayer#readiness-is-held). The client must not follow redirects.
    pub fn builder<S, ResBody>(region: impl Into<String>, sts_client: S) -> AwsStsBuilder
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
        S: Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        ResBody: Body + Send + 'static,
        ResBody::Data: Send,
        ResBody::Error: Into<BoxError>,
    {
        AwsStsBuilder::new(region.into(), HttpClient::new(sts_client))
    }
}

impl Inner {
    fn session<'a>(&'a self, extensions: &'a Extensions) -> Result<Session<'a>, AuthError> {
        let identity = extensions.get::<Identity>().ok_or_else(no_identity)?;
        let token = self.subject.find(identity)?;
        let role = self.roles.role_of(identity)?;
        let name = self.session_names.name_of(identity)?;
        self.required_tags.check_token(identity)?;
        let policy = self.session_policies.policy_of(identity)?;
        let mut scope = role.scope.field("session name", name.as_bytes());
        if let Some(policy) = &policy {
            scope = scope.field("session policy", policy.as_bytes());
        }
        Ok(Session {
            key: scope.key(token.fingerprint()),
            token,
            role,
            name,
            policy,
        })
    }

    fn at_hand<B>(&self, request: &Request<B>) -> Result<Option<SessionCredentials>, AuthError> {
        let session = self.session(request.extensions())?;
        let found = self.cache.lookup(&session.key, session.token.expires_at)?;
        Ok(found.filter(|credentials| !is_signed_with(request.headers(), credentials)))
    }

    /// Credentials other than those that the request is signed with, if a backend rejected those.
    fn credentials(
        &self,
        extensions: &Extensions,
        headers: &HeaderMap,
    ) -> impl Future<Output = Result<SessionCredentials, AuthError>> + use<> {
        let obtaining = self.session(extensions).map(|session| {
            let expires_at = session.token.decoded_expires_at();
            let is_rejected =
                |credentials: &SessionCredentials| is_signed_with(headers, credentials);
            self.cache
                .replace(session.key, expires_at, is_rejected, || {
                    self.sts.clone().assume_role(AssumeRole {
                        role: session.role.arn.clone(),
                        session_name: session.name.into_owned(),
                        policy: session.policy.map(Cow::into_owned),
                        web_identity_token: Zeroizing::new(session.token.expose().to_owned()),
                    })
                })
        });
        async { obtaining?.await }
    }

    fn sign<B>(
        &self,
        request: &mut Request<B>,
        payload: Payload<B>,
        credentials: &SessionCredentials,
    ) -> Result<(), AuthError>
    where
        B: From<Bytes> + 'static,
    {
        let signed = SignedPayload {
            bytes: payload.bytes(),
            has_trailers: payload.has_trailers(),
        };
        self.signer
            .sign(request, &signed, credentials, self.clock.now())?;
        *request.body_mut() = self.bodies.body(payload)?;
        Ok(())
    }

    /// Replaces the session that a request was sent in, if the answer speaks of it.
    fn rejected(
        &self,
        sent: &request::Parts,
        response: &response::Parts,
        error_type: Option<&str>,
    ) -> Rejection {
        let says_nothing = error_type.is_none();
        let is_sure = match (response.status, error_type.map(error_type::verdict)) {
            (_, Some(Verdict::Session)) => true,
            (_, Some(Verdict::Ambiguous)) => false,
            (_, Some(Verdict::Other)) => return Rejection::of(response),
            (StatusCode::UNAUTHORIZED, _) => true,
            (StatusCode::FORBIDDEN, _) if says_nothing => false,
            // An answer to HEAD has no body, and S3 says 400 of a session that has expired.
            (StatusCode::BAD_REQUEST, _) if says_nothing && sent.method == Method::HEAD => false,
            _ => return Rejection::of(response),
        };
        let Ok(session) = self.session(&sent.extensions) else {
            return Rejection::of(response);
        };
        let is_sent = |credentials: &SessionCredentials| is_signed_with(&sent.headers, credentials);
        let now = self.clock.monotonic();
        // Where the session has been replaced already, a request is sent in the new one.
        let may_force = || is_sure || self.doubts.may_replace(session.key, now);
        match self.cache.reject_if(&session.key, is_sent, may_force) {
            true => Rejection::AnotherCredential,
            false => Rejection::of(response),
        }
    }

    #[cold]
    fn name_provider(&self, error: AuthError) -> AuthError {
        match self.subject.provider() {
            Some(provider) => error.with_provider(provider),
            None => error,
        }
    }
}

// The message of `Strategy` says what the body must be.
#[diagnostic::do_not_recommend]
impl<B> Strategy<B> for AwsSts
where
    B: Body + From<Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
        let inner = &*self.inner;
        if request.extensions().get::<HealthCheck>().is_some() {
            return Authenticating::done();
        }
        let at_hand = match inner.at_hand(request) {
            Ok(at_hand) => at_hand,
            Err(error) => return inner.name_provider(error).into(),
        };
        let body = mem::replace(request.body_mut(), B::from(Bytes::new()));
        let gathering = if inner.signer.reads_payload() {
            Gathering::start(request.headers(), body)
        } else {
            Ok(Gathering::unread(request.headers(), body))
        };
        let mut gathering = match gathering {
            Ok(gathering) => gathering,
            Err(error) => return error.into(),
        };
        // Whoever polls the future polls the body again, and is woken.
        let gathered = gathering.poll(&mut Context::from_waker(Waker::noop()));
        match (at_hand, gathered) {
            (_, Poll::Ready(Err(error))) => error.into(),
            (Some(credentials), Poll::Ready(Ok(payload))) => {
                match inner.sign(request, payload, &credentials) {
                    Ok(()) => Authenticating::done(),
                    Err(error) => error.into(),
                }
            }
            (_, gathered) => {
                let inner = Arc::clone(&self.inner);
                Authenticating::pending(async move |mut request: Request<B>| {
                    let payload = match gathered {
                        Poll::Ready(payload) => payload?,
                        Poll::Pending => gathering.finish().await?,
                    };
                    let credentials = inner.credentials(request.extensions(), request.headers());
                    match credentials.await {
                        Ok(credentials) => inner.sign(&mut request, payload, &credentials)?,
                        Err(error) => return Err(inner.name_provider(error)),
                    }
                    Ok(request)
                })
            }
        }
    }

    fn rejected(&self, sent: &request::Parts, response: &response::Parts) -> Rejection {
        let may_be_said = matches!(
            response.status,
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        );
        if !may_be_said || sent.extensions.get::<HealthCheck>().is_some() {
            return Rejection::of(response);
        }
        match error_type::in_headers(&response.headers) {
            None if sent.method != Method::HEAD => Rejection::SaidInBody,
            error_type => self.inner.rejected(sent, response, error_type),
        }
    }

    fn rejected_in_body(
        &self,
        sent: &request::Parts,
        response: &response::Parts,
        first_bytes: &[u8],
    ) -> Rejection {
        let error_type = error_type::in_body(first_bytes);
        self.inner.rejected(sent, response, error_type.as_deref())
    }

    fn name(&self) -> &'static str {
        "aws_sts"
    }
}

impl fmt::Debug for AwsSts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsSts")
            .field("subject", &self.inner.subject)
            .finish_non_exhaustive()
    }
}

fn is_signed_with(headers: &HeaderMap, credentials: &SessionCredentials) -> bool {
    headers.get(AMZ_SECURITY_TOKEN) == Some(credentials.security_token())
}

#[cold]
fn no_identity() -> AuthError {
    AuthError::new(
        AuthErrorKind::MissingIdentity,
        "the request carries no identity, so there is nobody to sign for; put an `Identity` in its extensions, or let \
         `IdentityLayer` fall back to the session's",
    )
}
