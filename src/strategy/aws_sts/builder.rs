use std::{convert::Infallible, fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, combinators::BoxBody};

use crate::{
    clock::{Clock, DefaultClock},
    credential::cache::{CredentialCache, key::CacheScope},
    error::{BuildError, Faults},
    oauth::http_client::{HttpClient, parse_url},
    strategy::subject::Subject,
};

use super::{
    AwsSts, Inner,
    credentials::SessionCredentials,
    doubts::Doubts,
    payload::BodyFactories,
    payload_hash::PayloadHash,
    role_mapper::{RoleMapper, RoleMapping, RoleSettings},
    session_name::SessionNames,
    session_policy::SessionPolicies,
    session_tags::RequiredTags,
    signer::Signer,
    sts::Sts,
};

const DEFAULT_SERVICE: &str = "aws-mcp";
const DEFAULT_SESSION_DURATION: Duration = Duration::from_secs(3600);
const SESSION_DURATIONS: RangeInclusive<Duration> =
    Duration::from_secs(900)..=Duration::from_secs(43_200);

/// Builds an [`AwsSts`].
///
/// Needs the feature `aws-sts`.
#[must_use = "nothing is checked before `build`"]
pub struct AwsStsBuilder {
    region: String,
    service: String,
    sts_endpoint: Option<String>,
    roles: RoleSettings,
    session_names: SessionNames,
    session_policies: SessionPolicies,
    required_tags: RequiredTags,
    payload_hash: Option<PayloadHash>,
    session_duration: Duration,
    subject: Subject,
    bodies: BodyFactories,
    cache: Option<CredentialCache<SessionCredentials>>,
    clock: Arc<dyn Clock>,
    sts_client: HttpClient,
}

impl AwsStsBuilder {
    pub(super) fn new(region: String, sts_client: HttpClient) -> Self {
        #[cfg_attr(not(feature = "reqwest"), expect(unused_mut))]
        let mut bodies = BodyFactories::default();
        #[cfg(feature = "reqwest")]
        bodies.add(reqwest::Body::wrap::<super::payload::GatheredBody>);
        Self {
            region,
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
            session_policies: SessionPolicies::default(),
            required_tags: RequiredTags::default(),
            payload_hash: None,
            session_duration: DEFAULT_SESSION_DURATION,
            subject: Subject::own_token(),
            bodies,
            cache: None,
            clock: DefaultClock::get(),
            sts_client,
        }
    }

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
    /// The fallback role may allow more than the roles that the matcher would have selected.
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

    /// Replaces session names that AWS does not accept, such as `auth0|123`. Without this they are an error.
    ///
    /// A name is replaced by its first 24 characters, with `-` for each that does not fit, and `,sha256=` and the first 32
    /// hexadecimal digits of its SHA-256. A name that already ends like this is replaced too, so two users never share
    /// one.
    pub fn replace_unfit_session_names(mut self) -> Self {
        self.session_names.replace_unfit = true;
        self
    }

    /// Sets how long a session lasts: 15 minutes to 12 hours, in whole seconds, and not longer than the role allows. The
    /// default is one hour. Zero means the default.
    pub fn session_duration(mut self, duration: Duration) -> Self {
        self.session_duration = if duration.is_zero() {
            DEFAULT_SESSION_DURATION
        } else {
            duration
        };
        self
    }

    /// Sets the session policy, a JSON document of at most 2,048 characters. A session may do what both its role and this
    /// policy allow. By default there is none.
    ///
    /// ```no_run
    /// # use bytes::Bytes; use http_body_util::Full;
    /// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    /// # use tower_identity::AwsSts;
    /// # let sts_client = Client::builder(TokioExecutor::new())
    /// #     .build_http::<Full<Bytes>>();
    /// let policy = r#"{
    ///     "Version": "2012-10-17",
    ///     "Statement": [
    ///         { "Effect": "Allow", "Action": "s3:Get*", "Resource": "*" }
    ///     ]
    /// }"#;
    /// let strategy = AwsSts::builder("eu-west-1", sts_client)
    ///     .fallback_role("arn:aws:iam::123456789012:role/Reader")
    ///     .session_policy(policy)
    ///     .build()?;
    /// # Ok::<(), tower_identity::BuildError>(())
    /// ```
    pub fn session_policy(mut self, policy: impl Into<String>) -> Self {
        self.session_policies.policy = Some(policy.into());
        self
    }

    /// Takes the session policy from this claim of the user's token, a text or an object with the same limits as
    /// [`session_policy`](Self::session_policy).
    ///
    /// A user without the claim, or with one that cannot be a policy, is refused
    /// ([`Configuration`](crate::AuthErrorKind::Configuration)): without the policy, the session could do more.
    pub fn session_policy_claim(mut self, claim: impl Into<String>) -> Self {
        self.session_policies.claim = Some(claim.into());
        self
    }

    /// Adds the ARN of a managed policy that limits the sessions further, such as
    /// `arn:aws:iam::aws:policy/ReadOnlyAccess`. At most 10 can be added.
    pub fn session_policy_arn(mut self, arn: impl Into<String>) -> Self {
        self.session_policies.arns.push(arn.into());
        self
    }

    /// Requires that the user's token brings a session tag with this key. At most 50 can be required.
    ///
    /// `AssumeRoleWithWebIdentity` has no parameter for session tags. AWS STS takes them from the claim
    /// `https://aws.amazon.com/tags` of the token, signed by the issuer, so the issuer has to be configured to add them:
    ///
    /// ```json
    /// "https://aws.amazon.com/tags": {
    ///     "principal_tags": { "Department": ["Engineering"] },
    ///     "transitive_tag_keys": ["Department"]
    /// }
    /// ```
    ///
    /// The flat form is read too, with claims such as `https://aws.amazon.com/tags/principal_tags/Department`. Keys are
    /// compared without regard to case, as AWS does.
    ///
    /// A user whose token lacks the tag is refused ([`InsufficientScope`](crate::AuthErrorKind::InsufficientScope)) before
    /// AWS STS is called. A policy with a condition such as `StringNotEquals` on `aws:PrincipalTag/Department` would
    /// otherwise allow them what the tag forbids. Tags that AWS would not accept are an error of the issuer
    /// ([`Configuration`](crate::AuthErrorKind::Configuration)): more than 50 tags, keys of more than 128 characters,
    /// values of more than 256 or more than one, other characters than letters, digits, spaces and `_.:/=+-@`, or
    /// transitive keys that no tag has.
    pub fn required_session_tag(mut self, key: impl Into<String>) -> Self {
        self.required_tags.keys.push(key.into());
        self
    }

    /// Sets how the hash of a request's body is signed. The default is what the service wants, as
    /// [`PayloadHash`] lists it.
    pub fn payload_hash(mut self, hash: PayloadHash) -> Self {
        self.payload_hash = Some(hash);
        self
    }

    /// Sets which of the user's tokens is sent to AWS STS. By default the identity's own.
    pub fn subject(mut self, subject: Subject) -> Self {
        self.subject = subject;
        self
    }

    /// Sets the URL of AWS STS, for example an interface VPC endpoint. The default is the regional endpoint, in any
    /// partition.
    pub fn sts_endpoint(mut self, url: impl Into<String>) -> Self {
        self.sts_endpoint = Some(url.into());
        self
    }

    /// Sets how a body with trailers becomes a body of type `B` again, after it was read to be signed. A request whose
    /// body has trailers fails without it, except for the body of reqwest. Other bodies do not need it.
    ///
    /// ```no_run
    /// # fn example(builder: tower_identity::strategy::AwsStsBuilder) {
    /// builder.body_with_trailers(axum::body::Body::new)
    /// # ;
    /// # }
    /// ```
    pub fn body_with_trailers<B: 'static>(
        mut self,
        make: impl Fn(BoxBody<Bytes, Infallible>) -> B + Send + Sync + 'static,
    ) -> Self {
        self.bodies.add(move |gathered| make(gathered.boxed()));
        self
    }

    /// Sets the cache for the credentials, which several strategies can share. By default the strategy has its own
    /// cache.
    pub fn cache(mut self, cache: CredentialCache<SessionCredentials>) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Sets the clock for dating requests and for the strategy's own cache. A shared cache has its own clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes the strategy. It compiles the expressions, each on a thread that ends with it.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when one of these settings is wrong:
    ///
    /// - `region` or `service` could not be part of a host's name or a signature.
    /// - `role_mapping` is missing, and `fallback_role` too.
    /// - `role_mapping[0].claim` is blank, `role_mapping[0].matcher` does not compile or is not one
    ///   [that can be bounded](RoleMapping#cel-expressions), `role_mapping[0].role` is not the ARN of an IAM role. The
    ///   number is the place of the mapping among those that were added.
    /// - `fallback_role` is not the ARN of an IAM role.
    /// - `role_claim`, `session_name_claim` or `subject.provider`, the name of an upstream provider, is blank.
    /// - `session_policy` is not a JSON object of at most 2,048 characters that AWS accepts, `session_policy_claim` is
    ///   blank or set beside it, `session_policy_arn[0]` is not the ARN of a policy, or there are more than 10.
    /// - `required_session_tag[0]` is not the key of a tag, there are more than 50, or `subject` sends another token than
    ///   the identity's own.
    /// - `session_duration` is not 15 minutes to 12 hours in whole seconds.
    /// - `sts_endpoint` is not an absolute `https` URL (or `http` on loopback).
    pub fn build(self) -> Result<AwsSts, BuildError> {
        let mut faults = Faults::new("AwsSts");
        self.check(&mut faults);
        let session_duration =
            faults.take("session_duration", session_seconds(self.session_duration));
        let scope = self.scope();
        let roles = RoleMapper::new(self.roles, &scope, &mut faults);
        let (roles, session_duration) = faults.or(Some(roles).zip(session_duration))?;
        let policy_arns = self.session_policies.arns.clone();
        let own_cache = || CredentialCache::builder().clock(self.clock.clone()).make();
        let cache = self.cache.unwrap_or_else(own_cache);
        Ok(AwsSts {
            inner: Arc::new(Inner {
                roles,
                session_names: self.session_names,
                session_policies: self.session_policies,
                required_tags: self.required_tags,
                subject: self.subject,
                sts: Sts::new(
                    self.region.clone(),
                    self.sts_endpoint,
                    session_duration,
                    policy_arns,
                    self.sts_client,
                    self.clock.clone(),
                ),
                signer: Signer::new(self.region, self.service, self.payload_hash),
                bodies: self.bodies,
                cache,
                doubts: Doubts::default(),
                clock: self.clock,
            }),
        })
    }

    /// Checks what is neither a role nor the duration of a session.
    fn check(&self, faults: &mut Faults) {
        if !is_name(&self.region, is_region_byte) {
            faults.add(
                "region",
                "is not the name of an AWS region, such as `eu-west-1`",
            );
        }
        if !is_name(&self.service, is_service_byte) {
            faults.add(
                "service",
                "is not the signing name of an AWS service, such as `aws-mcp`",
            );
        }
        faults.need_text("session_name_claim", &self.session_names.claim);
        self.session_policies.check(faults);
        self.required_tags.check(&self.subject, faults);
        self.subject.check("subject", faults);
        if let Some(endpoint) = &self.sts_endpoint {
            faults.take("sts_endpoint", parse_url(endpoint, false));
        }
    }

    /// All of the configuration but the role.
    fn scope(&self) -> CacheScope {
        let scope = self.subject.describe(CacheScope::new("aws sts"), "subject");
        let scope = scope
            .field("region", &self.region)
            .field("service", &self.service)
            .field("session name claim", &self.session_names.claim)
            .field(
                "replace unfit",
                [u8::from(self.session_names.replace_unfit)],
            )
            .field(
                "session duration",
                self.session_duration.as_secs().to_be_bytes(),
            );
        let payload_hash = self.payload_hash.map_or("default", PayloadHash::name);
        let mut scope = scope.field("payload hash", payload_hash);
        let optional = [
            ("sts endpoint", &self.sts_endpoint),
            ("session policy", &self.session_policies.policy),
            ("session policy claim", &self.session_policies.claim),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                scope = scope.field(name, value);
            }
        }
        for arn in &self.session_policies.arns {
            scope = scope.field("session policy arn", arn);
        }
        for key in &self.required_tags.keys {
            scope = scope.field("required session tag", key);
        }
        scope
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

fn is_name(name: &str, fits: fn(u8) -> bool) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(fits)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn is_region_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')
}

fn is_service_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

fn session_seconds(duration: Duration) -> Result<i32, &'static str> {
    let seconds = i32::try_from(duration.as_secs()).ok();
    seconds
        .filter(|_| SESSION_DURATIONS.contains(&duration) && duration.subsec_nanos() == 0)
        .ok_or("is not 900 to 43,200 s, in whole seconds")
}
