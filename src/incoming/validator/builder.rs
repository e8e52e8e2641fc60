use std::{fmt, sync::Arc, time::Duration};

use crate::{
    clock::{Clock, DefaultClock},
    error::{BuildError, Faults, challenge::is_sendable, one_of},
    incoming::{
        introspection::IntrospectionEndpoint,
        jwks::{IssuerKeys, KeySet, Keys, check_issuer},
        metadata::ProtectedResourceMetadata,
        validator::validated_tokens::ValidatedTokens,
    },
    oauth::{challenge::Challenge, http_client::HttpClient},
    upstream::upstream_tokens::UpstreamTokens,
};

use super::{Inner, LoginRequired, TokenValidator, claims::ExpectedClaims};

const LEEWAY: Duration = Duration::from_secs(60);

/// Builds a [`TokenValidator`].
#[must_use = "nothing is checked before `build`"]
pub struct TokenValidatorBuilder {
    issuer: String,
    source: Source,
    insecure: bool,
    audiences: Vec<String>,
    require_at_jwt: bool,
    leeway: Duration,
    introspection: Option<IntrospectionEndpoint>,
    cached_tokens: usize,
    upstream: Option<UpstreamTokens>,
    login_required: LoginRequired,
    realm: Option<String>,
    resource: Option<String>,
    scopes: Vec<String>,
    clock: Arc<dyn Clock>,
}

pub(super) enum Source {
    Issuer(HttpClient),
    Given(KeySet),
}

impl TokenValidatorBuilder {
    pub(super) fn new(issuer: String, source: Source) -> Self {
        Self {
            issuer,
            source,
            insecure: false,
            audiences: Vec::new(),
            require_at_jwt: false,
            leeway: LEEWAY,
            introspection: None,
            cached_tokens: 0,
            upstream: None,
            login_required: LoginRequired::Refused,
            realm: None,
            resource: None,
            scopes: Vec::new(),
            clock: DefaultClock::get(),
        }
    }

    /// Adds an audience. A token must be for one of the audiences, and at least one is required.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audiences.push(audience.into());
        self
    }

    /// Accepts only JWTs with the `typ` `at+jwt` (RFC 9068 §4).
    pub fn require_at_jwt(mut self) -> Self {
        self.require_at_jwt = true;
        self
    }

    /// Sets by how much the clocks of issuer and gateway may differ. By default one minute.
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// Sets the endpoint that is asked about tokens that are not JWTs. By default they are refused.
    pub fn introspection(mut self, endpoint: IntrospectionEndpoint) -> Self {
        self.introspection = Some(endpoint);
        self
    }

    /// Caches up to `capacity` valid tokens until they expire. By default none.
    ///
    /// # Security
    ///
    /// A cached token is not checked again: not with the issuer, which may have revoked it, nor with a key that the
    /// issuer may have withdrawn. Use it where tokens live for minutes.
    pub fn cache_tokens(mut self, capacity: usize) -> Self {
        self.cached_tokens = capacity;
        self
    }

    /// Adds upstream tokens to the identity: those of the session that the token's `tsid` claim names, loaded for each
    /// request. An identity from a token without `tsid` has none.
    ///
    /// A caller that must log in again at one of the providers is refused with 401.
    pub fn upstream_tokens(mut self, upstream: UpstreamTokens) -> Self {
        self.upstream = Some(upstream);
        self
    }

    /// Admits a caller that must log in again at some upstream providers, without the tokens of these providers.
    ///
    /// A strategy that needs one of these tokens fails with [`MissingToken`](crate::AuthErrorKind::MissingToken).
    pub fn admit_without_upstream_login(mut self) -> Self {
        self.login_required = LoginRequired::Admitted;
        self
    }

    /// Sets the `realm` of the challenge (RFC 9110 §11.5). By default the first audience.
    pub fn realm(mut self, realm: impl Into<String>) -> Self {
        self.realm = Some(realm.into());
        self
    }

    /// Sets the URL by which callers know this resource (RFC 9728 §1.2).
    ///
    /// The challenge then names the URL of the metadata, which
    /// [`resource_metadata`](TokenValidator::resource_metadata) serves.
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// Sets the scopes that a caller should ask for. They are in the challenge and in the metadata. A token need not have
    /// them.
    pub fn scopes<T: Into<String>>(mut self, scopes: impl IntoIterator<Item = T>) -> Self {
        self.scopes = scopes.into_iter().map(Into::into).collect();
        self
    }

    /// Allows plain `http` for any host, in the URLs of the issuer, of its keys and of this resource.
    ///
    /// # Security
    ///
    /// An attacker on the network can then choose the keys, and impersonate any user. Use it only in a trusted network.
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Sets the [clock](trait@Clock#setting-the-clock).
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Creates the validator. It fetches nothing before the first token.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when one of these settings is wrong:
    ///
    /// - `issuer` is not an absolute `https` URL (or `http` on loopback) without a fragment or query. With given keys it
    ///   only has to have a name.
    /// - `audience` is missing or blank.
    /// - `resource` is not an absolute `https` URL (or `http` on loopback) without a fragment.
    /// - `scopes` has a scope that is not one word (RFC 6749 §3.3).
    /// - `realm`, which by default is the first audience, has a character that a header cannot have.
    pub fn build(self) -> Result<TokenValidator, BuildError> {
        let mut faults = Faults::new("TokenValidator");
        let metadata = self.check(&mut faults);
        let realm = self.realm.as_ref().or(self.audiences.first());
        let realm = faults.or(realm.cloned())?;
        let metadata_url = metadata.as_ref().map(ProtectedResourceMetadata::url);
        let challenge = Challenge::new(&realm, metadata_url, &self.scopes);
        let keys = match self.source {
            Source::Given(keys) => Keys::Given(keys),
            Source::Issuer(client) => Keys::Issuer(IssuerKeys::new(
                &self.issuer,
                self.insecure,
                client,
                Arc::clone(&self.clock),
            )),
        };
        Ok(TokenValidator {
            inner: Arc::new(Inner {
                require_at_jwt: self.require_at_jwt,
                keys,
                expected: ExpectedClaims {
                    issuer: self.issuer,
                    audiences: self.audiences,
                    leeway: self.leeway,
                },
                introspection: self.introspection,
                validated_tokens: Some(self.cached_tokens)
                    .filter(|capacity| *capacity > 0)
                    .map(ValidatedTokens::new),
                upstream: self.upstream,
                login_required: self.login_required,
                challenge,
                metadata,
                clock: self.clock,
            }),
        })
    }

    fn check(&self, faults: &mut Faults) -> Option<ProtectedResourceMetadata> {
        match self.source {
            Source::Given(_) => faults.need_text("issuer", &self.issuer),
            Source::Issuer(_) => {
                faults.take("issuer", check_issuer(&self.issuer, self.insecure));
            }
        }
        if self.audiences.is_empty() {
            faults.add(
                "audience",
                "is missing, give one, or a token for anybody would do",
            );
        }
        faults.need_texts("audience", &self.audiences);
        match (&self.realm, self.audiences.first()) {
            (Some(realm), _) if !is_sendable(realm) => faults.add("realm", NOT_SENDABLE),
            (None, Some(audience)) if !is_sendable(audience) => faults.add(
                one_of("audience", &self.audiences, 0),
                format!("{NOT_SENDABLE}, set another `realm`"),
            ),
            _ => {}
        }
        faults.need_scopes(&self.scopes);
        let resource = self.resource.as_ref()?;
        let metadata =
            ProtectedResourceMetadata::new(resource, self.insecure, &self.issuer, &self.scopes);
        let metadata = faults.take("resource", metadata)?;
        if !is_sendable(metadata.url()) {
            faults.add("resource", NOT_SENDABLE);
        }
        Some(metadata)
    }
}

const NOT_SENDABLE: &str = "has a character that the challenge's header cannot have";

impl fmt::Debug for TokenValidatorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenValidatorBuilder")
            .field("issuer", &self.issuer)
            .field("audiences", &self.audiences)
            .finish_non_exhaustive()
    }
}
