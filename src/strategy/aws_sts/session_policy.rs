use std::borrow::Cow;

use serde_json::Value;

use crate::{
    error::{AuthError, AuthErrorKind, Faults},
    identity::Identity,
};

use super::arn::is_policy_arn;

const MAX_POLICY: usize = 2_048;
const MAX_ARNS: usize = 10;

/// Policies that a session may do no more than.
#[derive(Clone, Debug, Default)]
pub(super) struct SessionPolicies {
    pub(super) policy: Option<String>,
    pub(super) claim: Option<String>,
    pub(super) arns: Vec<String>,
}

impl SessionPolicies {
    pub(super) fn check(&self, faults: &mut Faults) {
        if let Some(policy) = &self.policy {
            faults.take("session_policy", check_policy(policy));
        }
        if let Some(claim) = &self.claim {
            faults.need_text("session_policy_claim", claim);
            if self.policy.is_some() {
                faults.add(
                    "session_policy_claim",
                    "is set beside `session_policy`, and a session has only one policy",
                );
            }
        }
        if self.arns.len() > MAX_ARNS {
            faults.add(
                "session_policy_arn",
                "is set more than 10 times, and AWS accepts at most 10",
            );
        }
        for (index, arn) in self.arns.iter().enumerate() {
            if !is_policy_arn(arn) {
                faults.add(
                    format!("session_policy_arn[{index}]"),
                    "is not the ARN of an IAM policy, such as `arn:aws:iam::aws:policy/ReadOnlyAccess`",
                );
            }
        }
    }

    /// The policy of a user's session, besides those that have an ARN.
    pub(super) fn policy_of<'a>(
        &'a self,
        identity: &'a Identity,
    ) -> Result<Option<Cow<'a, str>>, AuthError> {
        let Some(claim) = &self.claim else {
            return Ok(self.policy.as_deref().map(Cow::Borrowed));
        };
        let policy = match identity.claims().get(claim) {
            Some(Value::String(policy)) => Cow::Borrowed(policy.as_str()),
            Some(policy @ Value::Object(_)) => Cow::Owned(policy.to_string()),
            Some(_) => return Err(no_policy(claim, "is neither a text nor an object")),
            None => return Err(no_policy(claim, "is not there")),
        };
        match check_policy(&policy) {
            Ok(()) => Ok(Some(policy)),
            Err(fault) => Err(no_policy(claim, fault)),
        }
    }
}

/// API Reference of AWS STS, "AssumeRoleWithWebIdentity".
fn check_policy(policy: &str) -> Result<(), &'static str> {
    if policy.chars().count() > MAX_POLICY {
        return Err("is longer than the 2,048 characters that AWS accepts");
    }
    let is_accepted = |character| matches!(character, '\t' | '\n' | '\r' | '\u{20}'..='\u{ff}');
    if !policy.chars().all(is_accepted) {
        return Err(
            "has a character that AWS does not accept: one above U+00FF, or a control character",
        );
    }
    match serde_json::from_str(policy) {
        Ok(Value::Object(_)) => Ok(()),
        _ => Err("is not a JSON object"),
    }
}

#[cold]
fn no_policy(claim: &str, fault: &str) -> AuthError {
    AuthError::new(
        AuthErrorKind::Configuration,
        format!(
            "the claim `{}` of the user's token cannot be the policy of an AWS session: it {fault}",
            claim.escape_debug()
        ),
    )
}
