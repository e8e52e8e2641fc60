use std::{fmt, sync::Arc, time::Duration};

use serde_json::{Map, Value};

#[cfg(feature = "dpop")]
use crate::incoming::dpop::{DpopPolicy, Verifier};
use crate::{
    clock::{Clock, DefaultClock},
    error::{BuildError, Faults, challenge::is_sendable, one_of},
    incoming::{
        introspection::IntrospectionEndpoint, issuer::Issuer, metadata::ProtectedResourceMetadata,
    },
    oauth::challenge::Challenge,
    upstream::upstream_tokens::UpstreamTokens,
};

use super::{
    Inner, LoginRequired, TokenValidator, claims::Admission, introspection::Introspection,
    token_kind::Wanted, validated_tokens::ValidatedTokens,
};

const LEEWAY: Duration = Duration::from_secs(60);

/// Builds a [`TokenValidator`].
///
/// Needs the feature `incoming`.
///
/// `audience`, `admit_client`, `metadata_url`, `jwks_url`, `tenants`, `require_at_jwt` and `introspection` are settings of
/// the issuer that the builder was started with. The other settings are for all issuers.
#[must_use = "nothing is checked before `build`"]
pub struct TokenValidatorBuilder {
    issuer: Issuer,
    added: Vec<Issuer>,
    insecure: bool,
    admission: Admission,
    introspection: Option<IntrospectionEndpoint>,
    #[cfg(feature = "dpop")]
    dpop: Option<DpopPolicy>,
    cached_tokens: usize,
    upstream: Option<UpstreamTokens>,
    login_required: LoginRequired,
    realm: Option<String>,
    resource: Option<String>,
    scopes: Vec<String>,
    clock: Arc<dyn Clock>,
}

impl TokenValidatorBuilder {
    pub(crate) fn new(issuer: Issuer) -> Self {
        Self {
            issuer,
            added: Vec::new(),
            insecure: false,
            admission: Admission {
                leeway: LEEWAY,
                bound_tokens: false,
                wanted: Wanted::AccessToken,
            },
            introspection: None,
            #[cfg(feature = "dpop")]
            dpop: None,
            cached_tokens: 0,
            upstream: None,
            login_required: LoginRequired::Refused,
            realm: None,
            resource: None,
            scopes: Vec::new(),
            clock: DefaultClock::get(),
        }
    }

    /// A validator for the ID tokens that `issuer` makes for this client, instead of access tokens.
    #[cfg(feature = "linking")]
    pub(crate) fn for_id_tokens(issuer: Issuer, client_id: &str) -> Self {
        let mut builder = Self::new(issuer.audience(client_id));
        builder.admission.wanted = Wanted::IdToken;
        builder
    }

    /// Adds another issuer. The `iss` of a token decides which issuer's keys and audiences count for it.
    pub fn issuer(mut self, issuer: Issuer) -> Self {
        self.added.push(issuer);
        self
    }

    /// Adds an audience. A token must be for one of the audiences, and at least one is required.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.issuer = self.issuer.audience(audience);
        self
    }

    /// Admits tokens without an audience that were issued to this client, as [`Issuer::admit_client`] does. Access tokens of
    /// Amazon Cognito need it.
    ///
    /// ```
    /// # use tower_identity::{BuildError, KeySet, TokenValidator};
    /// # fn build(keys: KeySet) -> Result<(), BuildError> {
    /// let pool = "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_EXAMPLE";
    /// let validator = TokenValidator::builder_with_keys(pool, keys)
    ///     .audience("https://gateway.example.com")
    ///     .admit_client("1example23456789")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Security
    ///
    /// A token that the client sent to another API is accepted here too, see [`Issuer::admit_client`].
    pub fn admit_client(mut self, client_id: impl Into<String>) -> Self {
        self.issuer = self.issuer.admit_client(client_id);
        self
    }

    /// Sets the URL of the issuer's metadata, as [`Issuer::metadata_url`] does.
    pub fn metadata_url(mut self, url: impl Into<String>) -> Self {
        self.issuer = self.issuer.metadata_url(url);
        self
    }

    /// Sets the URL of the issuer's key set, as [`Issuer::jwks_url`] does.
    pub fn jwks_url(mut self, url: impl Into<String>) -> Self {
        self.issuer = self.issuer.jwks_url(url);
        self
    }

    /// Limits an issuer with `{tenantid}` to these tenants, as [`Issuer::tenants`] does.
    pub fn tenants<T: Into<String>>(mut self, tenants: impl IntoIterator<Item = T>) -> Self {
        self.issuer = self.issuer.tenants(tenants);
        self
    }

    /// Accepts only JWTs with the `typ` `at+jwt` (RFC 9068 §4).
    pub fn require_at_jwt(mut self) -> Self {
        self.issuer = self.issuer.require_at_jwt();
        self
    }

    /// Admits tokens that are bound to a key of the caller in a way that the validator does not check (the claim `cnf`, RFC
    /// 7800). By default they are refused.
    ///
    /// It does not concern tokens that are bound to a certificate (`x5t#S256`, RFC 8705) or to a key by its thumbprint
    /// (`jkt`, RFC 9449). They always need the [certificate](crate::incoming::ClientCertificate) of their connection, or a
    /// proof ([`dpop`](Self::dpop)).
    ///
    /// # Security
    ///
    /// The validator does not check that the caller has the key. Without a layer that does, a stolen token is as good as
    /// one that was not bound.
    pub fn admit_bound_tokens(mut self) -> Self {
        self.admission.bound_tokens = true;
        self
    }

    /// Accepts tokens that are bound to a key of the caller (DPoP, RFC 9449), with a proof for each request. By default they
    /// are refused.
    ///
    /// Needs the feature `dpop`.
    #[cfg(feature = "dpop")]
    #[cfg_attr(docsrs, doc(cfg(feature = "dpop")))]
    pub fn dpop(mut self, policy: DpopPolicy) -> Self {
        self.dpop = Some(policy);
        self
    }

    /// Sets by how much the clocks of issuer and gateway may differ. By default one minute.
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.admission.leeway = leeway;
        self
    }

    /// Sets the endpoint that is asked about tokens that are not JWTs. By default they are refused.
    ///
    /// It is an endpoint of the issuer that the builder was started with. A token that is not a JWT does not say who
    /// issued it, so it is never sent to an endpoint of another one.
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

    /// Adds upstream tokens to the identity: those of the user whom the token's `iss` and `sub` name, loaded for each
    /// request. With [`session_claim`](UpstreamTokens::session_claim), those of a session of the user.
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

    /// Sets the URL by which callers know this resource (RFC 9728 §1.2). By default there is none, so that callers are not
    /// told where to log in.
    ///
    /// The challenge then names the URL of the metadata, which
    /// [`resource_metadata`](TokenValidator::resource_metadata) serves.
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// Sets the scopes that a caller should ask for. They are in the challenge and in the metadata. By default there are
    /// none.
    ///
    /// The validator does not require them of a token. Where your service needs a scope, look for it in
    /// [`Identity::claims`](crate::Identity::claims).
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
    /// - `audience` is missing or blank, or `admit_client` is blank.
    /// - `metadata_url` or `jwks_url` is not such a URL, or both are set.
    /// - `tenants` is set for an issuer without `{tenantid}`, or has something else than the id of a tenant.
    /// - `issuer[0]`, the first issuer that was added, is the same as another one, or one of its settings is wrong (for
    ///   example `issuer[0].audience`).
    /// - `resource` is not an absolute `https` URL (or `http` on loopback) without a fragment.
    /// - `scopes` has a scope that is not one word (RFC 6749 §3.3).
    /// - `realm`, which by default is the first audience, has a character that a header cannot have.
    /// - A setting of the [`dpop`](Self::dpop) policy, for example `dpop.url`, which is missing where there is no `resource`.
    pub fn build(self) -> Result<TokenValidator, BuildError> {
        let mut faults = Faults::new("TokenValidator");
        #[cfg(feature = "dpop")]
        let dpop = self
            .dpop
            .as_ref()
            .and_then(|policy| policy.build(self.resource.as_deref(), self.insecure, &mut faults));
        #[cfg(feature = "dpop")]
        let more = dpop.as_ref().map(Verifier::metadata).unwrap_or_default();
        #[cfg(not(feature = "dpop"))]
        let more = Map::new();
        let metadata = self.check(&mut faults, more);
        let audiences = self.issuer.audiences().to_vec();
        let realm = faults.or(self.realm.as_ref().or(audiences.first()).cloned())?;
        let metadata_url = metadata.as_ref().map(ProtectedResourceMetadata::url);
        let challenge = Challenge::new(&realm, metadata_url, &self.scopes);
        #[cfg(feature = "dpop")]
        let challenge = match &dpop {
            Some(dpop) => challenge.with_dpop(dpop.algorithms().join(" "), dpop.is_required()),
            None => challenge,
        };
        let issuers = std::iter::once(self.issuer)
            .chain(self.added)
            .map(|issuer| issuer.trust(&audiences, self.insecure, &self.clock))
            .collect::<Result<_, _>>()
            .map_err(|fault| BuildError::of("TokenValidator", "issuer", fault))?;
        Ok(TokenValidator {
            inner: Arc::new(Inner {
                issuers,
                admission: self.admission,
                introspection: self
                    .introspection
                    .map(|endpoint| Introspection::new(endpoint, Arc::clone(&self.clock))),
                #[cfg(feature = "dpop")]
                dpop,
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

    /// `more` are further members of the metadata.
    fn check(
        &self,
        faults: &mut Faults,
        more: Map<String, Value>,
    ) -> Option<ProtectedResourceMetadata> {
        self.check_issuers(faults);
        let audiences = self.issuer.audiences();
        match (&self.realm, audiences.first()) {
            (Some(realm), _) if !is_sendable(realm) => faults.add("realm", NOT_SENDABLE),
            (None, Some(audience)) if !is_sendable(audience) => faults.add(
                one_of("audience", audiences, 0),
                format!("{NOT_SENDABLE}, set another `realm`"),
            ),
            _ => {}
        }
        faults.need_scopes("scopes", &self.scopes);
        let resource = self.resource.as_ref()?;
        let issuers = std::iter::once(&self.issuer).chain(&self.added);
        let servers: Vec<_> = issuers.flat_map(|issuer| issuer.id().servers()).collect();
        let metadata =
            ProtectedResourceMetadata::new(resource, self.insecure, &servers, &self.scopes, more);
        let metadata = faults.take("resource", metadata)?;
        if !is_sendable(metadata.url()) {
            faults.add("resource", NOT_SENDABLE);
        }
        Some(metadata)
    }

    fn check_issuers(&self, faults: &mut Faults) {
        self.issuer.check(None, self.insecure, faults);
        let audiences = self.issuer.audiences();
        if audiences.is_empty() {
            faults.add(
                "audience",
                "is missing, give one; without it, a token for any other service would be accepted",
            );
        }
        faults.need_texts("audience", audiences);
        faults.need_texts("admit_client", self.issuer.clients());
        let mut known = vec![self.issuer.id().as_str()];
        for (index, issuer) in self.added.iter().enumerate() {
            issuer.check(Some(index), self.insecure, faults);
            for audience in issuer.audiences() {
                faults.need_text(format!("issuer[{index}].audience"), audience);
            }
            for client in issuer.clients() {
                faults.need_text(format!("issuer[{index}].admit_client"), client);
            }
            let identifier = issuer.id().as_str();
            if known.contains(&identifier) {
                faults.add(
                    format!("issuer[{index}]"),
                    "is there twice, give all of its audiences to one",
                );
            }
            known.push(identifier);
        }
    }
}

const NOT_SENDABLE: &str = "has a character that the challenge's header cannot have";

impl fmt::Debug for TokenValidatorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenValidatorBuilder")
            .field("issuer", &self.issuer)
            .field("added", &self.added)
            .finish_non_exhaustive()
    }
}
