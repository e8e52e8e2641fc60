//! [`AwsSts`]: the user's claims choose an IAM role, AWS STS gives credentials for it, and SigV4 signs the request.
//!
//! # Which role
//!
//! 1. The [`RoleMapping`]s that apply to the user's claims, by their priority, then in the order they were added in.
//! 2. The fallback role; not where a matcher had no answer for the user's claims, unless that was allowed by name.
//! 3. None: the request is [`Rejected`](AuthErrorKind::Rejected), and not sent.
//!
//! # What is signed
//!
//! The method, the path, the query, the SHA-256 of the body, and the headers `host`, `content-type` and `x-amz-*`: no
//! other, because proxies rewrite them. Before that
//!
//! - headers that end at the next hop are removed (RFC 9110 §7.6.1), those that `connection` names as well;
//! - `host` becomes what the URI says, without a port that is the scheme's own;
//! - `authorization`, `x-amz-date`, `x-amz-security-token` and `x-amz-content-sha256` of the caller are dropped.
//!
//! For the service `s3` the path is signed as it is, and `x-amz-content-sha256` is sent.
//!
//! The body is read once, up to 10 MiB. A longer one, or one that is not as long as it says, is
//! [`PayloadTooLarge`](AuthErrorKind::PayloadTooLarge). What was in memory in one piece is passed on without a copy.
//! Trailers are passed on too; where the body is of another type than reqwest's,
//! [`body_with_trailers`](AwsStsBuilder::body_with_trailers) has to say how.
//!
//! # What comes of an answer of AWS STS
//!
//! | answer | [`AuthErrorKind`] |
//! | --- | --- |
//! | `ExpiredToken…`, `InvalidIdentityToken…`, `IDPRejectedClaim`; a token of more than 20,000 characters is not sent | `Rejected` |
//! | `AccessDenied…`: the trust policy of the role is not for this user | `InsufficientScope` |
//! | throttling, 408, 429, 5xx, `IDPCommunicationError`, no answer within 30 s | `Unavailable`, with `Retry-After` |
//! | a success without credentials that a request can be signed with | `Unavailable` |
//! | `ValidationError`, `MalformedPolicyDocument`, `PackedPolicyTooLarge`, `RegionDisabledException`, 3xx, any other | `Configuration` |
//!
//! It is asked again as [`CredentialCache`] says; the retries of the AWS SDK are off.
//!
//! # Security
//!
//! - The user's token leaves in the body of a POST to AWS STS, over https or to loopback.
//! - Claims are compared with, or bound as a variable of, what was configured. They never become part of an expression
//!   or an ARN. A claim that does not fit is named by errors, its value is not shown.
//! - The AWS SDK shows tokens and headers at TRACE, so it is kept from logging. What AWS STS answers is never shown.
//! - Credentials are not used within 5 s of their end.

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
use http::{Extensions, Method, Request, Response, StatusCode, request, response};
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

/// Signs requests to AWS as the user, in a role that their claims choose.
///
/// AWS STS is asked once per user, role, session name and lifetime, see [`CredentialCache`]. A [`HealthCheck`] passes
/// without a signature. A clone is cheap, and is the same strategy. See the [module](self) for what it promises.
///
/// ```no_run
/// # use bytes::Bytes; use http_body_util::Full; use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # fn strategy() -> Result<(), tower_identity::BuildError> {
/// # let sts_client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
/// use tower_identity::{AwsSts, RoleMapping};
///
/// let strategy = AwsSts::builder("eu-west-1", sts_client)
///     .service("aws-mcp")
///     .role_mapping(RoleMapping::claim("admins", "arn:aws:iam::123456789012:role/Admin").priority(1))
///     .fallback_role("arn:aws:iam::123456789012:role/Default")
///     .build()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// - [`MissingIdentity`](AuthErrorKind::MissingIdentity): the request carries no identity.
/// - [`MissingToken`](AuthErrorKind::MissingToken): the identity has not the token that is to be sent to AWS STS.
/// - [`Expired`](AuthErrorKind::Expired): that token is known to have expired.
/// - [`Rejected`](AuthErrorKind::Rejected): there is no role for the user.
/// - [`Configuration`](AuthErrorKind::Configuration): the session name claim is missing or does not fit, or the request
///   cannot be signed.
/// - [`PayloadTooLarge`](AuthErrorKind::PayloadTooLarge): as [above](self#what-is-signed); also a path and query of more
///   than 16,000 bytes.
/// - What [AWS STS says](self#what-comes-of-an-answer-of-aws-sts).
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

/// Who a request is signed for.
struct Session<'a> {
    token: UserToken<'a>,
    role: &'a Role,
    name: Cow<'a, str>,
    policy: Option<Cow<'a, str>>,
    key: CacheKey,
}

impl AwsSts {
    /// Starts a strategy for this region, such as `eu-west-1`, that reaches AWS STS through `sts_client`.
    ///
    /// The client is one of its own, not the stack that the requests go through: see
    /// [readiness](crate::AuthLayer#readiness-is-held). It follows no redirects.
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

    fn at_hand(&self, extensions: &Extensions) -> Result<Option<SessionCredentials>, AuthError> {
        let session = self.session(extensions)?;
        self.cache.lookup(&session.key, session.token.expires_at)
    }

    fn credentials(
        &self,
        extensions: &Extensions,
    ) -> impl Future<Output = Result<SessionCredentials, AuthError>> + use<> {
        let obtaining = self.session(extensions).map(|session| {
            let expires_at = session.token.decoded_expires_at();
            self.cache.obtain(session.key, expires_at, || {
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
        let token = sent.headers.get(AMZ_SECURITY_TOKEN);
        let is_sent =
            |credentials: &SessionCredentials| token == Some(credentials.security_token());
        let is_current = || {
            let kept = self.cache.lookup(&session.key, session.token.expires_at);
            matches!(kept, Ok(Some(kept)) if is_sent(&kept))
        };
        // Where the session has been replaced already, a request is sent in the new one.
        if !is_sure && is_current() && !self.doubts.may_replace(session.key, self.clock.monotonic())
        {
            return Rejection::of(response);
        }
        self.cache.invalidate(&session.key, is_sent);
        Rejection::AnotherCredential
    }

    #[cold]
    fn name_provider(&self, error: AuthError) -> AuthError {
        match self.subject.provider() {
            Some(provider) => error.with_provider(provider),
            None => error,
        }
    }
}

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
        let at_hand = match inner.at_hand(request.extensions()) {
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
                    let credentials = inner.credentials(request.extensions());
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

#[cold]
fn no_identity() -> AuthError {
    AuthError::new(
        AuthErrorKind::MissingIdentity,
        "the request carries no identity, so there is nobody to sign for; put an `Identity` in its extensions, or let \
         `IdentityLayer` fall back to the session's",
    )
}
