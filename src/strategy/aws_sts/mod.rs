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
mod credentials;
mod matcher;
mod payload;
mod role_mapper;
mod session_name;
mod signer;

use std::{
    borrow::Cow,
    fmt,
    ops::RangeInclusive,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Extensions, Request, Response, request::Parts};
use http_body::Body;
use http_body_util::Full;
use tower::{BoxError, Service};
use zeroize::Zeroizing;

use crate::{
    clock::{Clock, SystemClock},
    credential::{
        cache::{CacheKey, CacheScope, CredentialCache},
        http_client::{HttpClient, parse_url},
    },
    error::{AuthError, AuthErrorKind},
    identity::Identity,
    outgoing::HealthCheck,
};

use super::{
    Attempt, Authenticating, Strategy,
    subject::{Subject, UserToken},
};

pub use credentials::SessionCredentials;
pub use payload::GatheredBody;
pub use role_mapper::RoleMapping;

use credentials::{AssumeRole, Sts};
use payload::{BodyFactories, Gathering, Payload};
use role_mapper::{Role, RoleMapper, RoleSettings};
use session_name::SessionNames;
use signer::{SignedPayload, Signer};

const DEFAULT_SERVICE: &str = "aws-mcp";
const SESSION_DURATIONS: RangeInclusive<Duration> =
    Duration::from_secs(900)..=Duration::from_secs(43_200);

/// Signs requests to AWS as the user, in a role that their claims choose.
///
/// AWS STS is asked once per user, role, session name and lifetime, see [`CredentialCache`]. A [`HealthCheck`] passes
/// without a signature. A clone is cheap, and is the same strategy. See the [module](self) for what it promises.
///
/// ```no_run
/// # use bytes::Bytes; use http_body_util::Full; use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # fn strategy() -> Result<(), tower_identity::AuthError> {
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
    subject: Subject,
    sts: Sts,
    signer: Signer,
    bodies: BodyFactories,
    cache: CredentialCache<SessionCredentials>,
    clock: Arc<dyn Clock>,
}

/// Who a request is signed for.
struct Session<'a> {
    token: UserToken<'a>,
    role: &'a Role,
    name: Cow<'a, str>,
    key: CacheKey,
}

impl AwsSts {
    /// Starts a strategy for this region, such as `eu-west-1`, that reaches AWS STS through `sts_client`.
    ///
    /// The client is one of its own, not the stack that the requests go through: see
    /// [readiness](crate::outgoing::auth#readiness-is-held). It follows no redirects.
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
        #[cfg_attr(not(feature = "reqwest"), expect(unused_mut))]
        let mut bodies = BodyFactories::default();
        #[cfg(feature = "reqwest")]
        bodies.add(reqwest::Body::wrap::<GatheredBody>);
        AwsStsBuilder {
            region: region.into(),
            service: DEFAULT_SERVICE.into(),
            sts_endpoint: None,
            roles: RoleSettings {
                claim: "groups".into(),
                mappings: Vec::new(),
                fallback: None,
                fallback_after_failed_matcher: false,
            },
            session_names: SessionNames {
                claim: "sub".into(),
                replace_unfit: false,
            },
            session_duration: Duration::from_secs(3600),
            subject: Subject::own_token(),
            bodies,
            cache: None,
            clock: Arc::new(SystemClock),
            sts_client: HttpClient::new(sts_client),
        }
    }
}

impl Inner {
    fn session<'a>(&'a self, extensions: &'a Extensions) -> Result<Session<'a>, AuthError> {
        let identity = extensions.get::<Identity>().ok_or_else(no_identity)?;
        let token = self.subject.find(identity)?;
        let role = self.roles.role_of(identity)?;
        let name = self.session_names.name_of(identity)?;
        let scope = role.scope.field("session name", name.as_bytes());
        Ok(Session {
            key: scope.key(token.fingerprint()),
            token,
            role,
            name,
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
                    web_identity_token: Zeroizing::new(session.token.expose().to_owned()),
                })
            })
        });
        async { obtaining?.await }
    }

    fn sign<B>(
        &self,
        mut head: Parts,
        payload: Payload<B>,
        credentials: &SessionCredentials,
    ) -> Result<Request<B>, AuthError>
    where
        B: From<Bytes> + 'static,
    {
        let signed = SignedPayload {
            bytes: payload.bytes(),
            has_trailers: payload.has_trailers(),
        };
        self.signer
            .sign(&mut head, &signed, credentials, self.clock.now())?;
        Ok(Request::from_parts(head, self.bodies.body(payload)?))
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
    fn authenticate(&self, request: Request<B>) -> Authenticating<B> {
        let inner = &*self.inner;
        if request.extensions().get::<HealthCheck>().is_some() {
            return request.into();
        }
        let at_hand = match inner.at_hand(request.extensions()) {
            Ok(at_hand) => at_hand,
            Err(error) => return inner.name_provider(error).into(),
        };
        let (head, body) = request.into_parts();
        let mut gathering = match Gathering::start(&head.headers, body) {
            Ok(gathering) => gathering,
            Err(error) => return error.into(),
        };
        // Whoever polls the future polls the body again, and is woken.
        let gathered = gathering.poll(&mut Context::from_waker(Waker::noop()));
        match (at_hand, gathered) {
            (_, Poll::Ready(Err(error))) => error.into(),
            (Some(credentials), Poll::Ready(Ok(payload))) => {
                Authenticating::ready(inner.sign(head, payload, &credentials))
            }
            (_, gathered) => {
                let inner = Arc::clone(&self.inner);
                Authenticating::pending(async move {
                    let payload = match gathered {
                        Poll::Ready(payload) => payload?,
                        Poll::Pending => gathering.finish().await?,
                    };
                    let credentials = inner.credentials(&head.extensions);
                    match credentials.await {
                        Ok(credentials) => inner.sign(head, payload, &credentials),
                        Err(error) => Err(inner.name_provider(error)),
                    }
                })
            }
        }
    }

    fn reject(&self, request: &Request<B>, sent: Attempt) -> bool {
        let inner = &*self.inner;
        if request.extensions().get::<HealthCheck>().is_some() {
            return false;
        }
        let Ok(session) = inner.session(request.extensions()) else {
            return false;
        };
        inner.cache.invalidate(&session.key, |held| {
            let is_rejected = held.asked_for() <= sent;
            if is_rejected {
                // Before it is gone, so that what replaces it is asked for after.
                Attempt::count_rejection();
            }
            is_rejected
        });
        true
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

/// Builds an [`AwsSts`].
#[must_use = "nothing is checked before `build`"]
pub struct AwsStsBuilder {
    region: String,
    service: String,
    sts_endpoint: Option<String>,
    roles: RoleSettings,
    session_names: SessionNames,
    session_duration: Duration,
    subject: Subject,
    bodies: BodyFactories,
    cache: Option<CredentialCache<SessionCredentials>>,
    clock: Arc<dyn Clock>,
    sts_client: HttpClient,
}

impl AwsStsBuilder {
    /// Sets the service that is signed for, by its signing name. By default `aws-mcp`.
    pub fn service(mut self, service: impl Into<String>) -> Self {
        self.service = service.into();
        self
    }

    /// Adds a role mapping.
    pub fn role_mapping(mut self, mapping: RoleMapping) -> Self {
        self.roles.mappings.push(mapping);
        self
    }

    /// Sets the role, an ARN, of users to whom no mapping applies. By default they have none.
    pub fn fallback_role(mut self, role: impl Into<String>) -> Self {
        self.roles.fallback = Some(role.into());
        self
    }

    /// Lets the fallback role also be used where a matcher had no answer for the user's claims.
    ///
    /// # Security
    ///
    /// What the matcher would have kept them from, the fallback role may allow.
    pub fn fallback_after_failed_matcher(mut self) -> Self {
        self.roles.fallback_after_failed_matcher = true;
        self
    }

    /// Sets the claim that [`RoleMapping::claim`] looks at, a text or a list. By default `groups`.
    pub fn role_claim(mut self, claim: impl Into<String>) -> Self {
        self.roles.claim = claim.into();
        self
    }

    /// Sets the claim that names the session, a text. By default `sub`.
    pub fn session_name_claim(mut self, claim: impl Into<String>) -> Self {
        self.session_names.claim = claim.into();
        self
    }

    /// Has characters that AWS does not take in a session name become `-`, as in `auth0|123`, and long ones cut off. A
    /// hash of 12 digits is then added, so that two names that differ stay apart.
    pub fn replace_unfit_session_names(mut self) -> Self {
        self.session_names.replace_unfit = true;
        self
    }

    /// Sets how long a session lasts: 15 minutes to 12 hours, in whole seconds, and not longer than the role allows. By
    /// default one hour.
    pub fn session_duration(mut self, duration: Duration) -> Self {
        self.session_duration = duration;
        self
    }

    /// Sets which of the user's tokens is sent to AWS STS. By default the identity's own.
    pub fn subject(mut self, subject: Subject) -> Self {
        self.subject = subject;
        self
    }

    /// Sets where AWS STS is: an interface VPC endpoint, say. By default it is the regional endpoint, in any partition.
    pub fn sts_endpoint(mut self, url: impl Into<String>) -> Self {
        self.sts_endpoint = Some(url.into());
        self
    }

    /// Says how a body of type `B` with trailers is made, where requests have such: of one that was gathered, which is a
    /// body itself. For `axum::body::Body` that is `Body::new`.
    pub fn body_with_trailers<B: 'static>(
        mut self,
        make: impl Fn(GatheredBody) -> B + Send + Sync + 'static,
    ) -> Self {
        self.bodies.add(make);
        self
    }

    /// Keeps the credentials in this cache, together with those of other strategies. By default there is one of its own.
    pub fn cache(mut self, cache: CredentialCache<SessionCredentials>) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Sets the clock that requests are dated with, and that of the strategy's own cache; a shared one has its own.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes the strategy. It compiles the expressions, each on a thread that ends with it.
    ///
    /// # Errors
    ///
    /// [`Configuration`](AuthErrorKind::Configuration), when
    ///
    /// - the region or the service could not be part of a host's name or a signature;
    /// - a role is not the ARN of an IAM role, or there is neither a role mapping nor a fallback role;
    /// - a matcher does not compile, or is not one [that can be bounded](RoleMapping#cel-expressions);
    /// - the name of a claim, a claim value or the name of an upstream provider is empty;
    /// - the session duration is not 15 minutes to 12 hours in whole seconds;
    /// - the endpoint is not an absolute `https` URL (or `http` on loopback).
    pub fn build(self) -> Result<AwsSts, AuthError> {
        check_name(
            "region",
            &self.region,
            |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'),
        )?;
        check_name("service", &self.service, |byte| {
            byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
        })?;
        self.session_names.check()?;
        self.subject.check()?;
        let session_duration = session_seconds(self.session_duration)?;
        if let Some(endpoint) = &self.sts_endpoint {
            parse_url("AWS STS", endpoint, false).map_err(|error| {
                invalid("the endpoint of AWS STS cannot be used").with_source(error)
            })?;
        }
        let scope = self.subject.describe(CacheScope::new("aws sts"), "subject");
        let scope = scope
            .field("region", &self.region)
            .field("service", &self.service)
            .field("session name claim", &self.session_names.claim)
            .field(
                "replace unfit",
                [u8::from(self.session_names.replace_unfit)],
            )
            .field("session duration", session_duration.to_be_bytes());
        let scope = match &self.sts_endpoint {
            Some(endpoint) => scope.field("sts endpoint", endpoint),
            None => scope,
        };
        let cache = match self.cache {
            Some(cache) => cache,
            None => CredentialCache::builder()
                .clock(self.clock.clone())
                .build()?,
        };
        Ok(AwsSts {
            inner: Arc::new(Inner {
                roles: RoleMapper::new(self.roles, scope)?,
                session_names: self.session_names,
                subject: self.subject,
                sts: Sts::new(
                    self.region.clone(),
                    self.sts_endpoint,
                    session_duration,
                    self.sts_client,
                    self.clock.clone(),
                ),
                signer: Signer::new(self.region, self.service),
                bodies: self.bodies,
                cache,
                clock: self.clock,
            }),
        })
    }
}

impl fmt::Debug for AwsStsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsStsBuilder")
            .field("region", &self.region)
            .field("service", &self.service)
            .field("roles", &self.roles)
            .field("session_names", &self.session_names)
            .field("session_duration", &self.session_duration)
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

fn check_name(what: &str, name: &str, fits: impl Fn(u8) -> bool) -> Result<(), AuthError> {
    if (1..=63).contains(&name.len())
        && name.bytes().all(fits)
        && !name.starts_with('-')
        && !name.ends_with('-')
    {
        return Ok(());
    }
    Err(AuthError::new(
        AuthErrorKind::Configuration,
        format!("`{}` is not the name of an AWS {what}", name.escape_debug()),
    ))
}

fn session_seconds(duration: Duration) -> Result<i32, AuthError> {
    let seconds = i32::try_from(duration.as_secs()).ok();
    seconds
        .filter(|_| SESSION_DURATIONS.contains(&duration) && duration.subsec_nanos() == 0)
        .ok_or_else(|| invalid("the session duration is not 900 to 43,200 s, in whole seconds"))
}

#[cold]
fn invalid(message: &'static str) -> AuthError {
    AuthError::new(AuthErrorKind::Configuration, message)
}

#[cold]
fn no_identity() -> AuthError {
    AuthError::new(
        AuthErrorKind::MissingIdentity,
        "the request carries no identity, so there is nobody to sign for; put an `Identity` in its extensions, or let \
         `IdentityLayer` fall back to the session's",
    )
}
