use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_credential_types::Credentials;
use aws_sdk_sts::{
    Client, Config,
    config::{
        BehaviorVersion, Region, StalledStreamProtectionConfig, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
    operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError,
};
use aws_smithy_runtime_api::{
    client::{
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings,
            SharedHttpConnector,
        },
        identity::Identity as SigningIdentity,
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
        runtime_components::RuntimeComponents,
    },
    http::StatusCode,
};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header::RETRY_AFTER};
use http_body_util::Full;
use tracing::{Dispatch, dispatcher, instrument::WithSubscriber, subscriber::NoSubscriber};
use zeroize::Zeroizing;

use crate::{
    clock::Clock,
    credential::cache::entry::Obtained,
    error::{AuthError, AuthErrorKind},
    oauth::{
        http_client::{self, Answer, Failure},
        refusal::retry_after,
    },
    secret::secret_header_value,
};

use super::{arn::RoleArn, signer::SAFETY_MARGIN};

const TIME_LIMIT: Duration = Duration::from_secs(30);
/// The longest web identity token that STS takes.
const MAX_TOKEN: usize = 20_000;

/// Temporary AWS credentials of one user in one role, as a [`CredentialCache`](crate::CredentialCache) keeps them.
///
/// One cache can serve several strategies:
///
/// ```
/// use tower_identity::{CredentialCache, strategy::SessionCredentials};
///
/// let cache = CredentialCache::<SessionCredentials>::builder().capacity(1_000).build()?;
/// # Ok::<(), tower_identity::BuildError>(())
/// ```
#[derive(Clone)]
pub struct SessionCredentials {
    inner: Arc<Inner>,
}

struct Inner {
    signing_identity: SigningIdentity,
    security_token: HeaderValue,
    expires_at: SystemTime,
}

impl SessionCredentials {
    fn new(credentials: aws_sdk_sts::types::Credentials) -> Result<Self, AuthError> {
        let unusable = |fault| {
            AuthError::new(
                AuthErrorKind::Unavailable,
                format!("AWS STS answered with credentials {fault}"),
            )
        };
        if !is_access_key_id(&credentials.access_key_id) {
            return Err(unusable("whose access key id is none"));
        }
        if credentials.secret_access_key.is_empty() {
            return Err(unusable("without a secret access key"));
        }
        let expires_at = SystemTime::try_from(credentials.expiration)
            .map_err(|_| unusable("that end at a time that cannot be"))?;
        let security_token = secret_header_value(credentials.session_token.clone())
            .map_err(|_| unusable("whose session token cannot be sent"))?;
        let credentials = Credentials::new(
            credentials.access_key_id,
            credentials.secret_access_key,
            Some(credentials.session_token),
            Some(expires_at),
            "AwsSts",
        );
        Ok(Self {
            inner: Arc::new(Inner {
                signing_identity: SigningIdentity::new(credentials, Some(expires_at)),
                security_token,
                expires_at,
            }),
        })
    }

    pub(super) fn signing_identity(&self) -> &SigningIdentity {
        &self.inner.signing_identity
    }

    pub(super) fn security_token(&self) -> &HeaderValue {
        &self.inner.security_token
    }

    pub(super) fn expires_at(&self) -> SystemTime {
        self.inner.expires_at
    }
}

impl fmt::Debug for SessionCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCredentials")
            .field("expires_at", &self.inner.expires_at)
            .finish_non_exhaustive()
    }
}

/// The AWS Security Token Service of one region.
#[derive(Clone)]
pub(super) struct Sts {
    client: Client,
    session_duration: i32,
    clock: Arc<dyn Clock>,
}

/// Which session is asked for.
pub(super) struct AssumeRole {
    pub(super) role: RoleArn,
    pub(super) session_name: String,
    pub(super) web_identity_token: Zeroizing<String>,
}

impl Sts {
    pub(super) fn new(
        region: String,
        endpoint: Option<String>,
        session_duration: i32,
        client: http_client::HttpClient,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let mut config = Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(region))
            .http_client(StsHttpClient {
                client: Arc::new(client),
            })
            // The credential cache decides when to ask again.
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        config.set_endpoint_url(endpoint);
        Self {
            client: Client::from_conf(config.build()),
            session_duration,
            clock,
        }
    }

    /// `AssumeRoleWithWebIdentity`, a POST without a signature.
    pub(super) async fn assume_role(
        self,
        request: AssumeRole,
    ) -> Result<Obtained<SessionCredentials>, AuthError> {
        if request.web_identity_token.len() > MAX_TOKEN {
            return Err(AuthError::new(
                AuthErrorKind::Rejected,
                "the user's token is longer than the 20,000 characters that AWS STS takes",
            ));
        }
        let role = request.role;
        let call = self
            .client
            .assume_role_with_web_identity()
            .role_arn(role.as_str())
            .role_session_name(request.session_name)
            .web_identity_token(&*request.web_identity_token)
            .duration_seconds(self.session_duration);
        // The SDK shows requests, and the token in them, at TRACE. Our HTTP client beneath logs as it always does.
        let subscriber = dispatcher::get_default(Dispatch::clone);
        let answer = SUBSCRIBER
            .scope(subscriber, call.send().with_subscriber(NoSubscriber::new()))
            .await;
        let credentials = match answer {
            Ok(answer) => answer.credentials.ok_or_else(|| {
                AuthError::new(
                    AuthErrorKind::Unavailable,
                    "AWS STS answered without credentials; check its endpoint",
                )
            })?,
            Err(error) => return Err(self.refusal(&role, error)),
        };
        let credentials = SessionCredentials::new(credentials)?;
        tracing::debug!(role = role.as_str(), "AWS STS answered with credentials");
        let usable_until = credentials.expires_at().checked_sub(SAFETY_MARGIN);
        Ok(Obtained::new(credentials).expires_at(usable_until.unwrap_or(SystemTime::UNIX_EPOCH)))
    }

    #[cold]
    fn refusal(
        &self,
        role: &RoleArn,
        error: SdkError<AssumeRoleWithWebIdentityError, HttpResponse>,
    ) -> AuthError {
        // What our own connector said.
        if let Some(error) = AuthError::find_in(&error) {
            return error.clone();
        }
        let Some(response) = error.raw_response() else {
            return AuthError::new(
                AuthErrorKind::Configuration,
                "AWS STS was not asked, because no request for it could be made; check the region and the endpoint",
            );
        };
        let status = response.status().as_u16();
        let code = error.as_service_error().and_then(|error| error.code());
        let known = CODES.iter().find(|(known, ..)| code == Some(known));
        let (kind, advice) = match (status, known) {
            (429, _) => (AuthErrorKind::Unavailable, THROTTLED),
            (_, Some((_, kind, advice))) => (*kind, *advice),
            (200..300, None) => (
                AuthErrorKind::Unavailable,
                "and what it answered is not what AWS STS answers; check its endpoint",
            ),
            (300..400, None) => (
                AuthErrorKind::Configuration,
                "redirects are not followed; configure the endpoint itself",
            ),
            (408 | 500.., None) => (AuthErrorKind::Unavailable, "try again later"),
            (_, None) => (
                AuthErrorKind::Configuration,
                "there is no error code that is known; check the endpoint, the session duration and the role",
            ),
        };
        let code = known.map_or(String::new(), |(code, ..)| format!(" `{code}`"));
        tracing::debug!(role = role.as_str(), status, code, "AWS STS refused");
        // Not with the cause: AWS STS repeats what it was sent, the token too.
        let refusal = AuthError::new(
            kind,
            format!(
                "AWS STS answered {status}{code} for the role `{}`: {advice}",
                role.as_str()
            ),
        );
        match retry_after_of(response, self.clock.now()) {
            Some(retry_after) if kind == AuthErrorKind::Unavailable => {
                refusal.with_retry_after(retry_after)
            }
            _ => refusal,
        }
    }
}

/// API Reference of AWS STS, "Credentials". What is none cannot be part of the header that a signature is sent in.
fn is_access_key_id(id: &str) -> bool {
    !id.is_empty()
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

const THROTTLED: &str = "it is asked too often; try again later";
const LOG_IN_AGAIN: &str = "the user's token is expired or not accepted, so they have to log in again; if it happens to \
     all users, check the identity provider in IAM and its audience";
const TRY_LATER: &str = "try again later";
const CONFIGURATION: &str = "check the role, its maximum session duration and the session name";

/// API Reference of AWS STS, "AssumeRoleWithWebIdentity" and "Common Error Types".
const CODES: [(&str, AuthErrorKind, &str); 20] = [
    (
        "ExpiredTokenException",
        AuthErrorKind::Rejected,
        LOG_IN_AGAIN,
    ),
    ("ExpiredToken", AuthErrorKind::Rejected, LOG_IN_AGAIN),
    (
        "InvalidIdentityToken",
        AuthErrorKind::Rejected,
        LOG_IN_AGAIN,
    ),
    (
        "InvalidIdentityTokenException",
        AuthErrorKind::Rejected,
        LOG_IN_AGAIN,
    ),
    ("IDPRejectedClaim", AuthErrorKind::Rejected, LOG_IN_AGAIN),
    (
        "AccessDenied",
        AuthErrorKind::InsufficientScope,
        "the trust policy of the role does not let this user assume it",
    ),
    (
        "AccessDeniedException",
        AuthErrorKind::InsufficientScope,
        "the trust policy of the role does not let this user assume it",
    ),
    (
        "IDPCommunicationError",
        AuthErrorKind::Unavailable,
        "AWS could not reach the identity provider; try again later",
    ),
    ("InternalFailure", AuthErrorKind::Unavailable, TRY_LATER),
    ("InternalError", AuthErrorKind::Unavailable, TRY_LATER),
    ("RequestTimeout", AuthErrorKind::Unavailable, TRY_LATER),
    ("ServiceUnavailable", AuthErrorKind::Unavailable, TRY_LATER),
    ("SlowDown", AuthErrorKind::Unavailable, THROTTLED),
    ("Throttling", AuthErrorKind::Unavailable, THROTTLED),
    ("ThrottlingException", AuthErrorKind::Unavailable, THROTTLED),
    (
        "RequestLimitExceeded",
        AuthErrorKind::Unavailable,
        THROTTLED,
    ),
    (
        "MalformedPolicyDocument",
        AuthErrorKind::Configuration,
        CONFIGURATION,
    ),
    (
        "PackedPolicyTooLarge",
        AuthErrorKind::Configuration,
        CONFIGURATION,
    ),
    (
        "RegionDisabledException",
        AuthErrorKind::Configuration,
        "STS is not active in this region for the account of the role",
    ),
    (
        "ValidationError",
        AuthErrorKind::Configuration,
        CONFIGURATION,
    ),
];

fn retry_after_of(response: &HttpResponse, now: SystemTime) -> Option<Duration> {
    let mut headers = HeaderMap::new();
    let value = response.headers().get(RETRY_AFTER.as_str())?;
    headers.insert(RETRY_AFTER, HeaderValue::from_str(value).ok()?);
    retry_after(&headers, now)
}

tokio::task_local! {
    /// Whoever listened before the SDK was silenced.
    static SUBSCRIBER: Dispatch;
}

/// A Tower service as the HTTP client of the AWS SDK.
#[derive(Clone)]
struct StsHttpClient {
    client: Arc<http_client::HttpClient>,
}

impl HttpClient for StsHttpClient {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for StsHttpClient {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = Arc::clone(&self.client);
        let subscriber = SUBSCRIBER.try_with(Dispatch::clone).unwrap_or_default();
        HttpConnectorFuture::new(async move {
            let sending = send(client, request).with_subscriber(subscriber);
            sending
                .await
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

impl fmt::Debug for StsHttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StsHttpClient").finish_non_exhaustive()
    }
}

async fn send(
    client: Arc<http_client::HttpClient>,
    request: HttpRequest,
) -> Result<HttpResponse, AuthError> {
    let request = outgoing(request)?;
    let unavailable = |fault: &'static str| AuthError::new(AuthErrorKind::Unavailable, fault);
    match client.call(request, TIME_LIMIT).await {
        Ok(answer) => incoming(answer),
        Err(Failure::Unreachable(source)) => {
            Err(unavailable("AWS STS cannot be reached").with_source(source))
        }
        Err(Failure::Interrupted(source)) => {
            Err(unavailable("AWS STS broke off its answer").with_source(source))
        }
        Err(Failure::TooLarge) => Err(unavailable(
            "AWS STS sent more than 1 MiB, which are no credentials; the rest was not read",
        )),
        Err(Failure::TooLate) => Err(unavailable("AWS STS did not answer within 30 s")),
    }
}

fn outgoing(request: HttpRequest) -> Result<Request<Full<Bytes>>, AuthError> {
    let unsendable = || {
        AuthError::new(
            AuthErrorKind::Configuration,
            "the request to AWS STS could not be made; check the region and the endpoint",
        )
    };
    let request = request.try_into_http1x().map_err(|_| unsendable())?;
    let (head, body) = request.into_parts();
    let body = body.bytes().ok_or_else(unsendable)?;
    let body = Bytes::from_owner(Zeroizing::new(body.to_vec()));
    let mut outgoing = Request::new(Full::new(body));
    *outgoing.method_mut() = head.method;
    *outgoing.uri_mut() = head.uri;
    *outgoing.headers_mut() = head.headers;
    Ok(outgoing)
}

fn incoming(answer: Answer) -> Result<HttpResponse, AuthError> {
    let status = StatusCode::try_from(answer.status.as_u16()).map_err(|_| {
        AuthError::new(
            AuthErrorKind::Unavailable,
            "AWS STS answered with a status that is none",
        )
    })?;
    let body = SdkBody::from(Bytes::from_owner(answer.body));
    let mut response = HttpResponse::new(status, body);
    let retry_after = answer.headers.get(RETRY_AFTER);
    if let Some(Ok(retry_after)) = retry_after.map(HeaderValue::to_str) {
        let _ = response
            .headers_mut()
            .try_insert(RETRY_AFTER.as_str(), retry_after.to_owned());
    }
    Ok(response)
}
