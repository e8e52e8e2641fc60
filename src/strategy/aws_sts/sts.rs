use std::sync::Arc;

use aws_sdk_sts::{
    Client, Config,
    config::{
        BehaviorVersion, Region, StalledStreamProtectionConfig, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    types::PolicyDescriptorType,
};
use tracing::{Dispatch, dispatcher, instrument::WithSubscriber, subscriber::NoSubscriber};
use zeroize::Zeroizing;

use crate::{
    clock::Clock,
    credential::cache::entry::Obtained,
    error::{AuthError, AuthErrorKind},
    oauth::http_client,
};

use super::{
    arn::RoleArn,
    credentials::SessionCredentials,
    sts_http::{SUBSCRIBER, StsHttpClient},
    sts_refusal::refusal,
};

/// The longest web identity token that STS takes.
const MAX_TOKEN: usize = 20_000;

/// The AWS Security Token Service of one region.
#[derive(Clone)]
pub(super) struct Sts {
    client: Client,
    session_duration: i32,
    policy_arns: Option<Vec<PolicyDescriptorType>>,
    clock: Arc<dyn Clock>,
}

/// The session that is asked for.
pub(super) struct AssumeRole {
    pub(super) role: RoleArn,
    pub(super) session_name: String,
    pub(super) web_identity_token: Zeroizing<String>,
    pub(super) policy: Option<String>,
}

impl Sts {
    pub(super) fn new(
        region: String,
        endpoint: Option<String>,
        session_duration: i32,
        policy_arns: Vec<String>,
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
            policy_arns: (!policy_arns.is_empty()).then(|| {
                let descriptor = |arn| PolicyDescriptorType::builder().arn(arn).build();
                policy_arns.into_iter().map(descriptor).collect()
            }),
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
            .duration_seconds(self.session_duration)
            .set_policy(request.policy)
            .set_policy_arns(self.policy_arns.clone());
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
            Err(error) => return Err(refusal(&role, error, self.clock.now())),
        };
        let credentials = SessionCredentials::new(credentials)?;
        tracing::debug!(role = role.as_str(), "AWS STS answered with credentials");
        let usable_until = credentials.usable_until();
        Ok(Obtained::new(credentials).expires_at(usable_until))
    }
}
