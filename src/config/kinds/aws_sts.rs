use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;
use tower::BoxError;

use crate::{
    config::{
        block::Block,
        kind::{Kind, keys},
    },
    strategy::strategy::Strategy,
};

keys! {
    /// A signature (SigV4) as the IAM role that the user's claims select.
    ///
    /// It needs the feature `aws-sts`.
    #[schemars(description = "A signature (SigV4) as the IAM role that the user's claims select.")]
    pub struct AwsStsConfig {
        /// The AWS region of the service and of AWS STS.
        "region" => region: String,
        /// The signing name of the service. By default `aws-mcp`.
        #[serde(skip_serializing_if = "Option::is_none")]
        "service" => service: Option<String>,
        /// The ARN of the role for users without a matching mapping.
        #[serde(skip_serializing_if = "Option::is_none")]
        "fallbackRoleArn" => fallback_role_arn: Option<String>,
        /// The mappings from users to roles.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[schemars(default)]
        "roleMappings" => role_mappings: Vec<RoleMappingConfig>,
        /// The claim that each mapping's `claim` is compared with. By default `groups`.
        #[serde(skip_serializing_if = "Option::is_none")]
        "roleClaim" => role_claim: Option<String>,
        /// The duration of a session in seconds: 900 to 43200. By default, or if it is 0, 3600.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 0, max = 43_200))]
        "sessionDuration" => session_duration: Option<i32>,
        /// The claim that names the session. By default `sub`.
        #[serde(skip_serializing_if = "Option::is_none")]
        "sessionNameClaim" => session_name_claim: Option<String>,
        /// The upstream provider that issued the token for AWS STS. By default the first
        /// provider if the application told them, or else the token that the user came with is sent.
        #[serde(skip_serializing_if = "Option::is_none")]
        "subjectProviderName" => subject_provider_name: Option<String>,
        /// Lets the fallback role also be used where a matcher had no answer for the user's claims, as ToolHive does. By
        /// default such a user is refused.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        #[schemars(default)]
        "fallbackAfterFailedMatcher" => fallback_after_failed_matcher: bool,
        /// Replaces session names that AWS does not accept, such as `auth0|123`. By default they are an error.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        #[schemars(default)]
        "replaceUnfitSessionNames" => replace_unfit_session_names: bool,
        /// How the hash of a request's body is signed: `signed`, `header` or `unsigned`. By default as the service wants it.
        #[serde(skip_serializing_if = "Option::is_none")]
        "payloadHash" => payload_hash: Option<String>,
        /// A session policy, a JSON document of at most 2,048 characters, which limits what sessions may do.
        #[serde(skip_serializing_if = "Option::is_none")]
        "sessionPolicy" => session_policy: Option<String>,
        /// The claim that has the session policy. Either this or `sessionPolicy`.
        #[serde(skip_serializing_if = "Option::is_none")]
        "sessionPolicyClaim" => session_policy_claim: Option<String>,
        /// The ARNs of managed policies that limit sessions further, at most 10.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[schemars(default)]
        "sessionPolicyArns" => session_policy_arns: Vec<String>,
        /// The keys of session tags that the user's token must bring, at most 50.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[schemars(default)]
        "requiredSessionTags" => required_session_tags: Vec<String>,
    }
}

keys! {
    /// Maps users to an IAM role, by a `claim` or by a `matcher`.
    pub struct RoleMappingConfig {
        /// A value of the role claim.
        #[serde(skip_serializing_if = "Option::is_none")]
        "claim" => claim: Option<String>,
        /// A CEL expression over the variable `claims`.
        #[serde(skip_serializing_if = "Option::is_none")]
        "matcher" => matcher: Option<String>,
        /// The ARN of the role.
        "roleArn" => role_arn: String,
        /// The mapping with the lowest number is used first. A mapping without a number comes last.
        #[serde(skip_serializing_if = "Option::is_none")]
        "priority" => priority: Option<i32>,
    }
}

impl AwsStsConfig {
    /// A signature for a service in this AWS region. Add `role_mappings`, or set `fallback_role_arn`.
    pub fn new(region: impl Into<String>) -> Self {
        Self {
            region: region.into(),
            ..Self::default()
        }
    }
}

impl RoleMappingConfig {
    /// The role of users whose role claim is `value`, or a list with it.
    pub fn claim(value: impl Into<String>, role_arn: impl Into<String>) -> Self {
        Self {
            claim: Some(value.into()),
            role_arn: role_arn.into(),
            ..Self::default()
        }
    }

    /// The role of users for whose claims the CEL `expression` is true.
    pub fn matcher(expression: impl Into<String>, role_arn: impl Into<String>) -> Self {
        Self {
            matcher: Some(expression.into()),
            role_arn: role_arn.into(),
            ..Self::default()
        }
    }
}

impl Kind for AwsStsConfig {
    const TYPE: &'static str = "aws_sts";
    const BLOCK: &'static str = "awsSts";

    fn headers(&self) -> Vec<String> {
        let headers = [
            "authorization",
            "x-amz-date",
            "x-amz-security-token",
            "x-amz-content-sha256",
        ];
        headers.map(str::to_owned).into()
    }

    #[cfg(not(feature = "aws-sts"))]
    fn build<B>(&self, block: &mut Block<'_, B>) -> Option<Arc<dyn Strategy<B>>>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        block.fault_of_type("needs the feature `aws-sts` of the crate `tower-identity`");
        None
    }

    #[cfg(feature = "aws-sts")]
    fn build<B>(&self, block: &mut Block<'_, B>) -> Option<Arc<dyn Strategy<B>>>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        use std::time::Duration;

        use crate::strategy::{PayloadHash, aws_sts::role_mapper::RoleMapping, subject::Subject};

        block.need("region", &self.region);
        let mut strategy = block.resources.aws_sts(&self.region);
        for (index, mapping) in self.role_mappings.iter().enumerate() {
            block.need(&format!("roleMappings[{index}].roleArn"), &mapping.role_arn);
            let role = RoleMapping::of(
                mapping.claim.clone(),
                mapping.matcher.clone(),
                mapping.role_arn.clone(),
            );
            strategy = strategy.role_mapping(match mapping.priority {
                Some(priority) => role.priority(priority),
                None => role,
            });
        }
        if let Some(service) = &self.service {
            strategy = strategy.service(service);
        }
        if let Some(role) = &self.fallback_role_arn {
            strategy = strategy.fallback_role(role);
        }
        if let Some(claim) = &self.role_claim {
            strategy = strategy.role_claim(claim);
        }
        if let Some(claim) = &self.session_name_claim {
            strategy = strategy.session_name_claim(claim);
        }
        if let Some(seconds) = self.session_duration {
            // Zero means the default. Less than that is as wrong as too much.
            let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
            strategy = strategy.session_duration(Duration::from_secs(seconds));
        }
        let provider = self.subject_provider_name.as_deref();
        if let Some(provider) = block.subject_provider("subjectProviderName", provider) {
            strategy = strategy.subject(Subject::upstream(provider));
        }
        if self.fallback_after_failed_matcher {
            strategy = strategy.fallback_after_failed_matcher();
        }
        if self.replace_unfit_session_names {
            strategy = strategy.replace_unfit_session_names();
        }
        match self.payload_hash.as_deref() {
            None => {}
            Some("signed") => strategy = strategy.payload_hash(PayloadHash::Signed),
            Some("header") => strategy = strategy.payload_hash(PayloadHash::Header),
            Some("unsigned") => strategy = strategy.payload_hash(PayloadHash::Unsigned),
            Some(_) => block.fault(
                "payloadHash",
                "is none of `signed`, `header` and `unsigned`",
            ),
        }
        if let Some(policy) = &self.session_policy {
            strategy = strategy.session_policy(policy);
        }
        if let Some(claim) = &self.session_policy_claim {
            strategy = strategy.session_policy_claim(claim);
        }
        for arn in &self.session_policy_arns {
            strategy = strategy.session_policy_arn(arn);
        }
        for key in &self.required_session_tags {
            strategy = strategy.required_session_tag(key);
        }
        let strategy = block.built(
            strategy.build(),
            &[
                ("region", &["region"]),
                ("service", &["service"]),
                ("fallback_role", &["fallbackRoleArn"]),
                ("role_mapping", &["roleMappings", "fallbackRoleArn"]),
                ("role_mapping[]", &["roleMappings[]"]),
                ("role_mapping[].claim", &["roleMappings[].claim"]),
                ("role_mapping[].matcher", &["roleMappings[].matcher"]),
                ("role_mapping[].role", &["roleMappings[].roleArn"]),
                ("role_claim", &["roleClaim"]),
                ("session_duration", &["sessionDuration"]),
                ("session_name_claim", &["sessionNameClaim"]),
                ("subject.provider", &["subjectProviderName"]),
                ("session_policy", &["sessionPolicy"]),
                ("session_policy_claim", &["sessionPolicyClaim"]),
                ("session_policy_arn", &["sessionPolicyArns"]),
                ("session_policy_arn[]", &["sessionPolicyArns[]"]),
                ("required_session_tag", &["requiredSessionTags"]),
                ("required_session_tag[]", &["requiredSessionTags[]"]),
            ],
        )?;
        Some(Arc::new(strategy))
    }
}
