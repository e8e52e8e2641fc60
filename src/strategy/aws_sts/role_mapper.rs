use std::{borrow::Cow, cell::OnceCell, fmt};

use serde_json::{Map, Value};

use crate::{
    credential::cache::key::CacheScope,
    error::{AuthError, AuthErrorKind, Faults},
    identity::Identity,
};

use super::{
    arn::RoleArn,
    matcher::{BoundClaims, Matcher},
};

/// Gives an IAM role to users, by a value of the role claim or by a CEL expression over all claims.
///
/// Needs the feature `aws-sts`.
///
/// ```
/// use tower_identity::RoleMapping;
///
/// let admin = "arn:aws:iam::123456789012:role/Admin";
/// let service = "arn:aws:iam::123456789012:role/Service";
///
/// let admins = RoleMapping::claim("admins", admin).priority(1);
/// let services = RoleMapping::matcher(
///     r#"claims["sub"].startsWith("svc-") && !("act" in claims)"#,
///     service,
/// );
/// ```
///
/// # CEL expressions
///
/// An expression is in the [Common Expression Language]. Its only variable is `claims`, a map of all claims of the user's
/// token. The text of a claim never becomes part of an expression.
///
/// An expression may use
///
/// - the operators,
/// - `size`, `contains`, `startsWith`, `endsWith`, and `matches` with a pattern that is written out,
/// - `has`, `type`, and the conversions `string`, `int`, `double`, `bool` and `dyn`,
/// - `exists`, `exists_one`, `all` and `filter`, but not one inside of another. There is no `map`.
///
/// It has at most 1,024 bytes, 128 opening brackets and 64 levels. The types of literals and results must fit: for example
/// `size(claims.groups) == "3"` is an error of [`build`](crate::strategy::AwsStsBuilder::build), as is an expression that
/// is neither true nor false. A claim may be of any type.
///
/// An expression does not match when it has no answer for a user's claims. That is the case when
///
/// - it reads a claim that the user does not have, or one of another type than it needs,
/// - the identity has no claims at all,
/// - there are more than 2,048 claim values, 64 KiB of their text, or 32 levels of them,
/// - the evaluation could take too long: more than 67 million steps, by the size of the claims and the patterns. For
///   example, `claims.groups.exists(g, g.matches("^team-"))` takes far fewer for thousands of groups.
///
/// After that the [fallback role](crate::strategy::AwsStsBuilder::fallback_role) does not apply, unless
/// [`fallback_after_failed_matcher`](crate::strategy::AwsStsBuilder::fallback_after_failed_matcher) allows it.
///
/// [Common Expression Language]: https://cel.dev
#[derive(Clone)]
pub struct RoleMapping {
    claim: Option<String>,
    matcher: Option<String>,
    role: String,
    priority: Option<i32>,
}

impl RoleMapping {
    /// Gives `role`, the ARN of an IAM role, to users whose role claim is `value`, or a list that contains it.
    pub fn claim(value: impl Into<String>, role: impl Into<String>) -> Self {
        Self::of(Some(value.into()), None, role.into())
    }

    /// Gives `role`, the ARN of an IAM role, to users for whose claims the [CEL `expression`](Self#cel-expressions) is
    /// true.
    pub fn matcher(expression: impl Into<String>, role: impl Into<String>) -> Self {
        Self::of(None, Some(expression.into()), role.into())
    }

    /// One of `claim` and `matcher` has to be there.
    pub(crate) fn of(claim: Option<String>, matcher: Option<String>, role: String) -> Self {
        Self {
            claim,
            matcher,
            role,
            priority: None,
        }
    }

    /// Sets the priority. Of the mappings that apply to a user, the one with the lowest number is used. A mapping without
    /// a priority comes last. Among equals, the one that was added first is used.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = Some(priority);
        self
    }
}

impl fmt::Debug for RoleMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoleMapping")
            .field("claim", &self.claim)
            .field("matcher", &self.matcher)
            .field("role", &self.role)
            .field("priority", &self.priority)
            .finish()
    }
}

/// How the roles are chosen, as it was configured.
#[derive(Clone, Debug)]
pub(super) struct RoleSettings {
    pub(super) claim: String,
    pub(super) mappings: Vec<RoleMapping>,
    pub(super) fallback: Option<String>,
    pub(super) fallback_after_failed_matcher: bool,
}

/// Chooses a role for a user.
pub(super) struct RoleMapper {
    claim: String,
    rules: Vec<Rule>,
    fallback: Option<Role>,
    fallback_after_failed_matcher: bool,
}

struct Rule {
    test: Test,
    role: Role,
}

enum Test {
    Claim(String),
    Matcher(Matcher),
}

/// A role, and the scope of what is obtained for it.
#[derive(Clone)]
pub(super) struct Role {
    pub(super) arn: RoleArn,
    pub(super) scope: CacheScope,
}

impl RoleMapper {
    /// Builds it of the settings that are right, and adds the others to the faults. `scope` has all of the configuration
    /// but the role.
    pub(super) fn new(settings: RoleSettings, scope: &CacheScope, faults: &mut Faults) -> Self {
        let role = |setting: Cow<'static, str>, arn: &str, faults: &mut Faults| {
            let arn = faults.take(setting, RoleArn::parse(arn))?;
            Some(Role {
                scope: scope.field("role", arn.as_str()),
                arn,
            })
        };
        faults.need_text("role_claim", &settings.claim);
        if settings.mappings.is_empty() && settings.fallback.is_none() {
            faults.add(
                "role_mapping",
                "is missing, add one or set `fallback_role`; without both, no user has a role",
            );
        }
        let mut rules = Vec::with_capacity(settings.mappings.len());
        for (index, mapping) in settings.mappings.into_iter().enumerate() {
            let setting = |part: &str| format!("role_mapping[{index}].{part}");
            if let Some(claim) = &mapping.claim {
                faults.need_text(setting("claim"), claim);
            }
            let matcher = mapping.matcher.as_deref();
            let matcher = matcher
                .and_then(|source| faults.take(setting("matcher"), Matcher::compile(source)));
            let count = match (&mapping.claim, &mapping.matcher) {
                (Some(_), Some(_)) => Some("both"),
                (None, None) => Some("neither"),
                _ => None,
            };
            if let Some(count) = count {
                faults.add(
                    format!("role_mapping[{index}]"),
                    format!("has {count} of a claim and a matcher, and needs one"),
                );
            }
            let test = mapping.claim.map(Test::Claim);
            let test = test.or(matcher.map(Test::Matcher));
            let role = role(setting("role").into(), &mapping.role, faults);
            if let Some((test, role)) = test.zip(role) {
                rules.push((mapping.priority, Rule { test, role }));
            }
        }
        // Stable: among equals the order stays.
        rules.sort_by_key(|(priority, _)| (priority.is_none(), *priority));
        let fallback = settings.fallback.as_deref();
        Self {
            claim: settings.claim,
            rules: rules.into_iter().map(|(_, rule)| rule).collect(),
            fallback: fallback.and_then(|arn| role("fallback_role".into(), arn, faults)),
            fallback_after_failed_matcher: settings.fallback_after_failed_matcher,
        }
    }

    pub(super) fn role_of(&self, identity: &Identity) -> Result<&Role, AuthError> {
        let claims = identity.claims();
        let bound = OnceCell::new();
        // Absent claims decide nothing.
        let mut failed = claims.is_empty() && !self.rules.is_empty();
        for rule in &self.rules {
            let applies = match &rule.test {
                Test::Claim(value) => self.has_claim(claims, value),
                Test::Matcher(matcher) => {
                    let bound = bound.get_or_init(|| BoundClaims::new(claims));
                    matcher.matches(bound).unwrap_or_else(|_| {
                        failed = true;
                        tracing::debug!(
                            role = rule.role.arn.as_str(),
                            "a role matcher has no answer for the user's claims, and does not match"
                        );
                        false
                    })
                }
            };
            if applies {
                return Ok(&rule.role);
            }
        }
        match &self.fallback {
            Some(role) if !failed || self.fallback_after_failed_matcher => Ok(role),
            fallback => Err(no_role(fallback.is_some(), claims.is_empty())),
        }
    }

    fn has_claim(&self, claims: &Map<String, Value>, value: &str) -> bool {
        match claims.get(&self.claim) {
            Some(Value::String(text)) => text == value,
            Some(Value::Array(members)) => members.iter().any(|member| member == value),
            _ => false,
        }
    }
}

#[cold]
fn no_role(has_fallback: bool, has_no_claims: bool) -> AuthError {
    AuthError::new(
        AuthErrorKind::InsufficientScope,
        match (has_fallback, has_no_claims) {
            (_, true) => {
                "the user's identity has no claims, so no role mapping can apply to them; let what makes the identity keep \
                 the claims of the token"
            }
            (true, false) => {
                "no role mapping applies to the user, and one could not be evaluated for their claims, so the fallback \
                 role is not used; test for claims that may be missing (`\"act\" in claims`), or set \
                 `fallback_after_failed_matcher`"
            }
            (false, false) => {
                "no role mapping applies to the user, and there is no fallback role; check their claims and the mappings"
            }
        },
    )
}
