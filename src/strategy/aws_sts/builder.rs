use std::{fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use crate::{
    clock::{Clock, DefaultClock},
    credential::cache::{CredentialCache, key::CacheScope},
    error::{BuildError, Faults},
    oauth::http_client::{HttpClient, parse_url},
    strategy::subject::Subject,
};

use super::{
    AwsSts, Inner,
    credentials::{SessionCredentials, Sts},
    payload::{BodyFactories, GatheredBody},
    role_mapper::{RoleMapper, RoleMapping, RoleSettings},
    session_name::SessionNames,
    signer::Signer,
};

const DEFAULT_SERVICE: &str = "aws-mcp";
const DEFAULT_SESSION_DURATION: Duration = Duration::from_secs(3600);
const SESSION_DURATIONS: RangeInclusive<Duration> =
    Duration::from_secs(900)..=Duration::from_secs(43_200);

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
    pub(super) fn new(region: String, sts_client: HttpClient) -> Self {
        #[cfg_attr(not(feature = "reqwest"), expect(unused_mut))]
        let mut bodies = BodyFactories::default();
        #[cfg(feature = "reqwest")]
        bodies.add(reqwest::Body::wrap::<GatheredBody>);
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
    /// [`BuildError`], when one of these settings is wrong:
    ///
    /// - `region` or `service` could not be part of a host's name or a signature.
    /// - `role_mapping` is missing, and `fallback_role` too.
    /// - `role_mapping[0].claim` is blank, `role_mapping[0].matcher` does not compile or is not one
    ///   [that can be bounded](RoleMapping#cel-expressions), `role_mapping[0].role` is not the ARN of an IAM role. The
    ///   number is the place of the mapping among those that were added.
    /// - `fallback_role` is not the ARN of an IAM role.
    /// - `role_claim`, `session_name_claim` or `subject.provider`, the name of an upstream provider, is blank.
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
        let own_cache = || CredentialCache::builder().clock(self.clock.clone()).make();
        let cache = self.cache.unwrap_or_else(own_cache);
        Ok(AwsSts {
            inner: Arc::new(Inner {
                roles,
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
        match &self.sts_endpoint {
            Some(endpoint) => scope.field("sts endpoint", endpoint),
            None => scope,
        }
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
