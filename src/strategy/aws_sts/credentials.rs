use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_credential_types::Credentials;
use aws_smithy_runtime_api::client::identity::Identity as SigningIdentity;
use http::HeaderValue;

use crate::{
    error::{AuthError, AuthErrorKind},
    secret::secret_header_value,
};

/// Credentials this close to their expiry could expire on the way.
const SAFETY_MARGIN: Duration = Duration::from_secs(5);

/// Temporary AWS credentials of one user in one role, as a [`CredentialCache`](crate::CredentialCache) keeps them.
///
/// Needs the feature `aws-sts`.
///
/// One cache can serve several strategies:
///
/// ```
/// use tower_identity::{CredentialCache, strategy::SessionCredentials};
///
/// let cache = CredentialCache::<SessionCredentials>::builder()
///     .capacity(1_000)
///     .build()?;
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
    pub(super) fn new(credentials: aws_sdk_sts::types::Credentials) -> Result<Self, AuthError> {
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

    /// Until when a request may be signed: a little less than until the expiry.
    pub(super) fn usable_until(&self) -> SystemTime {
        let end = self.inner.expires_at.checked_sub(SAFETY_MARGIN);
        end.unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl fmt::Debug for SessionCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCredentials")
            .field("expires_at", &self.inner.expires_at)
            .finish_non_exhaustive()
    }
}

/// Returns `true` if the text is an access key ID (API Reference of AWS STS, "Credentials"). Other text cannot be part
/// of the header that carries a signature.
fn is_access_key_id(id: &str) -> bool {
    !id.is_empty()
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
