use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::{BoxError, Service};

use crate::{
    clock::{Clock, DefaultClock},
    credential::cache::CredentialCache,
    error::{BuildError, Faults},
    oauth::{
        http_client::HttpClient,
        token_endpoint::{TokenEndpoint, builder::TokenEndpointBuilder},
    },
    secret::{Secret, has_placeholder},
    strategy::{issued::IssuedToken, strategy::Strategy},
};

#[cfg(feature = "private-key-jwt")]
use super::signing_resources::SigningResources;
#[cfg(feature = "aws-sts")]
use super::sts_resources::{StsResources, StsSettings};
#[cfg(feature = "dpop")]
use super::{DpopConfig, dpop_resources::DpopResources};
use super::{
    backend::is_built_in,
    client_certificate::{self, Presenting},
};
#[cfg(feature = "hyper")]
use crate::client::hyper::CertificateSource;
#[cfg(feature = "private-key-jwt")]
use crate::oauth::signing::{JwtSigner, Signer};
#[cfg(feature = "incoming")]
use crate::upstream::upstream_tokens::UpstreamTokens;

/// Holds what strategies need besides their configuration: the client for token endpoints and AWS STS, the environment,
/// and the caches that they share.
///
/// Needs the feature `config`.
///
/// Keep one for as long as the application runs. It caches credentials under the whole configuration that obtained them.
/// So strategies with the same configuration share their credentials, also after the configuration was replaced. `B` is
/// the body of the requests that are authenticated. A clone is cheap, and shares everything.
///
/// ```
/// # use bytes::Bytes; use http_body_util::Full;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let token_client =
/// #     Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
/// use tower_identity::{Unauthenticated, config::Resources};
///
/// let resources = Resources::<Full<Bytes>>::builder(token_client)
///     .upstream_providers(["okta", "github"])
///     .strategy("our_own", Unauthenticated)
///     .build()?;
/// # let _ = resources;
/// # Ok::<(), tower_identity::BuildError>(())
/// ```
pub struct Resources<B> {
    inner: Arc<Inner<B>>,
}

struct Inner<B> {
    /// Reaches the token endpoints.
    client: HttpClient,
    /// Reaches those at which a certificate has to be presented.
    presenting: BTreeMap<String, Presenting>,
    #[cfg(feature = "aws-sts")]
    sts: StsResources,
    environment: Environment,
    allows_placeholders: bool,
    clock: Arc<dyn Clock>,
    tokens: CredentialCache<IssuedToken>,
    strategies: BTreeMap<String, Arc<dyn Strategy<B>>>,
    upstream_providers: Option<Vec<String>>,
    #[cfg(feature = "incoming")]
    upstream_tokens: Option<UpstreamTokens>,
    #[cfg(feature = "private-key-jwt")]
    signing: SigningResources,
    #[cfg(feature = "dpop")]
    dpop: DpopResources,
}

type Environment = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

impl<B> Resources<B> {
    /// Starts resources with `client` for token endpoints and AWS STS.
    ///
    /// The client must not be the stack that the requests go through, see
    /// [readiness](crate::AuthLayer#readiness-is-held). It must not follow redirects.
    pub fn builder<S, ResBody>(client: S) -> ResourcesBuilder<B>
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
        S: Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        ResBody: Body + Send + 'static,
        ResBody::Data: Send,
        ResBody::Error: Into<BoxError>,
    {
        ResourcesBuilder {
            #[cfg(feature = "aws-sts")]
            sts: StsSettings::new(client.clone()),
            client: HttpClient::new(client),
            presenting: Vec::new(),
            #[cfg(feature = "hyper")]
            certificates: Vec::new(),
            environment: Box::new(|variable| std::env::var(variable).ok()),
            allows_placeholders: false,
            clock: DefaultClock::get(),
            tokens: None,
            strategies: Vec::new(),
            #[cfg(feature = "private-key-jwt")]
            signers: Vec::new(),
            upstream_providers: None,
            #[cfg(feature = "incoming")]
            upstream_tokens: None,
        }
    }

    pub(super) fn token_endpoint(&self, url: &str) -> TokenEndpointBuilder {
        TokenEndpoint::of_client(url, self.inner.client.clone()).clock(self.clock())
    }

    /// A token endpoint to which the client of this name presents its certificate.
    pub(super) fn mtls_token_endpoint(&self, name: &str, url: &str) -> TokenEndpointBuilder {
        match self.presenting(name) {
            Some(presenting) => presenting.token_endpoint(url).clock(self.clock()),
            None => self.token_endpoint(url),
        }
    }

    pub(super) fn presenting(&self, name: &str) -> Option<&Presenting> {
        self.inner.presenting.get(name)
    }

    #[cfg(feature = "aws-sts")]
    pub(super) fn aws_sts(&self, region: &str) -> crate::strategy::AwsStsBuilder {
        self.inner.sts.strategy(region).clock(self.clock())
    }

    pub(super) fn tokens(&self) -> CredentialCache<IssuedToken> {
        self.inner.tokens.clone()
    }

    #[cfg(feature = "private-key-jwt")]
    pub(super) fn signing(&self) -> &SigningResources {
        &self.inner.signing
    }

    #[cfg(feature = "dpop")]
    pub(super) fn dpop(&self) -> &DpopResources {
        &self.inner.dpop
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        self.inner.clock.clone()
    }

    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.inner.environment)(name)
    }

    /// Whether nothing was left for a template engine or a shell to replace in `secret`.
    pub(super) fn is_replaced(&self, secret: &Secret) -> bool {
        self.inner.allows_placeholders || !has_placeholder(secret.expose())
    }

    /// The names of all upstream providers, if the application told them.
    pub(super) fn upstream_providers(&self) -> Option<&[String]> {
        self.inner.upstream_providers.as_deref()
    }

    #[cfg(feature = "incoming")]
    pub(super) fn client(&self) -> HttpClient {
        self.inner.client.clone()
    }

    #[cfg(feature = "incoming")]
    pub(super) fn upstream_tokens(&self) -> Option<UpstreamTokens> {
        self.inner.upstream_tokens.clone()
    }

    pub(super) fn strategy(&self, name: &str) -> Option<Arc<dyn Strategy<B>>> {
        self.inner.strategies.get(name).cloned()
    }

    pub(super) fn strategy_names(&self) -> impl Iterator<Item = &str> {
        self.inner.strategies.keys().map(String::as_str)
    }
}

impl<B> Clone for Resources<B> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<B> fmt::Debug for Resources<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Resources");
        debug.field("tokens", &self.inner.tokens);
        #[cfg(feature = "aws-sts")]
        debug.field("sessions", &self.inner.sts.sessions);
        debug
            .field("strategies", &self.inner.strategies.keys())
            .field("upstream_providers", &self.inner.upstream_providers)
            .finish_non_exhaustive()
    }
}

/// Builds [`Resources`].
///
/// Needs the feature `config`.
#[must_use = "nothing is checked before `build`"]
pub struct ResourcesBuilder<B> {
    client: HttpClient,
    presenting: Vec<(String, Presenting)>,
    #[cfg(feature = "hyper")]
    certificates: Vec<(String, CertificateSource)>,
    #[cfg(feature = "aws-sts")]
    pub(super) sts: StsSettings,
    environment: Environment,
    allows_placeholders: bool,
    clock: Arc<dyn Clock>,
    tokens: Option<CredentialCache<IssuedToken>>,
    strategies: Vec<(String, Arc<dyn Strategy<B>>)>,
    #[cfg(feature = "private-key-jwt")]
    signers: Vec<(String, Signer)>,
    upstream_providers: Option<Vec<String>>,
    #[cfg(feature = "incoming")]
    upstream_tokens: Option<UpstreamTokens>,
}

impl<B> ResourcesBuilder<B> {
    /// Registers `strategy` for backends whose `type` is `name`.
    pub fn strategy<A>(mut self, name: impl Into<String>, strategy: A) -> Self
    where
        A: Strategy<B> + 'static,
    {
        self.strategies.push((name.into(), Arc::new(strategy)));
        self
    }

    /// Registers a signer for each `clientKey` that has its name as `signer`, for a key that is in a KMS or an HSM.
    ///
    /// Needs the feature `private-key-jwt`. [`JwtSigner`] has an example of a signer.
    #[cfg(feature = "private-key-jwt")]
    pub fn signer<S>(mut self, name: impl Into<String>, signer: S) -> Self
    where
        S: JwtSigner + 'static,
    {
        let signer = Signer::new(Arc::new(signer));
        self.signers.push((name.into(), signer));
        self
    }

    /// Registers an HTTP client that presents a certificate, for each block whose `clientCertificate` has its name as `name`.
    ///
    /// The block then says how the client is registered at the endpoint. The URL of the endpoint in the block is the one in
    /// `mtls_endpoint_aliases` of the issuer's metadata, if there is one (RFC 8705 §5).
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http_body_util::Full;
    /// use tower::BoxError;
    /// use tower_identity::{
    ///     client::hyper::{CertificateSource, HttpsClient, https_client},
    ///     config::Resources,
    /// };
    ///
    /// fn resources(
    ///     certificate: CertificateSource,
    /// ) -> Result<Resources<Full<Bytes>>, BoxError> {
    ///     let client = HttpsClient::builder()
    ///         .client_certificate(certificate.clone())
    ///         .build()?;
    ///     let resources = Resources::builder(https_client()?)
    ///         .client_certificate("gateway", client)
    ///         .client_certificate_source("gateway", certificate)
    ///         .build()?;
    ///     Ok(resources)
    /// }
    /// # let _ = resources;
    /// ```
    pub fn client_certificate<S, ResBody>(mut self, name: impl Into<String>, client: S) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
        S: Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        ResBody: Body + Send + 'static,
        ResBody::Data: Send,
        ResBody::Error: Into<BoxError>,
    {
        let client = Presenting::new(HttpClient::new(client));
        self.presenting.push((name.into(), client));
        self
    }

    /// Says which certificate the client of this name presents, so that tokens are kept apart by it, as
    /// [`TokenEndpointBuilder::client_certificate`](crate::oauth::TokenEndpointBuilder::client_certificate) does.
    ///
    /// Needs the feature `hyper`.
    #[cfg(feature = "hyper")]
    pub fn client_certificate_source(
        mut self,
        name: impl Into<String>,
        certificate: CertificateSource,
    ) -> Self {
        self.certificates.push((name.into(), certificate));
        self
    }

    /// Sets the environment in which the keys that end with `Env` are looked up. By default the environment of the process.
    pub fn environment(
        mut self,
        variable: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.environment = Box::new(variable);
        self
    }

    /// Accepts secrets that look like a placeholder, such as `${TOKEN}` or `{{ token }}`.
    ///
    /// By default such a secret is a fault, because it most often means that a shell or a template engine did not
    /// replace it. Call this only if one of your secrets really is written like that.
    pub fn allow_placeholders(mut self) -> Self {
        self.allows_placeholders = true;
        self
    }

    /// Sets the names of all upstream providers, in their order.
    ///
    /// Then each `providerName`, `subjectProviderName` and `subjectTokenProviderName` must be one of them. Without this
    /// setting, a name that no provider has is not found, and its users get a 401 that no login ends.
    ///
    /// A backend without a `subjectProviderName` gets the first provider, as in ToolHive. For `xaa` there must be only one
    /// provider to choose from. An `obo` backend without a `subjectTokenProviderName` still exchanges the token that the
    /// user came with. If the list is empty, there is no provider to name or to choose.
    ///
    /// A `token_exchange` backend can then no longer exchange the token that the user came with. If one of your backends
    /// does that, leave this setting out, or build the layer of that backend with other `Resources`.
    ///
    /// ```
    /// # use bytes::Bytes; use http_body_util::Full;
    /// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    /// # let token_client =
    /// #     Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    /// use tower_identity::config::Resources;
    ///
    /// let resources = Resources::<Full<Bytes>>::builder(token_client)
    ///     .upstream_providers(["okta", "github"])
    ///     .build()?;
    /// # Ok::<(), tower_identity::BuildError>(())
    /// ```
    pub fn upstream_providers<I>(mut self, names: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.upstream_providers = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the upstream tokens that refresh tokens are taken from, for `xaa` with `subjectTokenType: refresh_token`. Give
    /// the ones that your [`TokenValidator`](crate::TokenValidator) has. The validator that a
    /// [`VmcpConfig`](crate::config::VmcpConfig) builds has these.
    ///
    /// Needs the feature `incoming`.
    #[cfg(feature = "incoming")]
    pub fn upstream_tokens(mut self, upstream: UpstreamTokens) -> Self {
        self.upstream_tokens = Some(upstream);
        self
    }

    /// Sets a cache to keep tokens in. By default the resources have their own.
    pub fn token_cache(mut self, cache: CredentialCache<IssuedToken>) -> Self {
        self.tokens = Some(cache);
        self
    }

    /// Sets the clock of all strategies, and of the caches that were not set.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes the resources.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when one of these settings is wrong:
    ///
    /// - `strategy[0]` has a name that is blank, is a `type` that this crate has a strategy for, or was given to an
    ///   earlier strategy. The number counts the calls of [`strategy`](Self::strategy) from 0.
    /// - `signer[0]` (with the feature `private-key-jwt`) has a name that is blank, or was given to an earlier signer.
    /// - `client_certificate[0]` has a name that is blank, or was given to an earlier client.
    /// - `client_certificate_source[0]` (with the feature `hyper`) has the name of no such client.
    /// - `upstream_providers[0]` is blank, or the same as an earlier name. The number counts from 0.
    /// - `sts_endpoint` (with the feature `aws-sts`) is not an absolute `https` URL (or `http` on loopback).
    pub fn build(self) -> Result<Resources<B>, BuildError> {
        let mut faults = Faults::new("Resources");
        let mut strategies = BTreeMap::new();
        for (index, (name, strategy)) in self.strategies.into_iter().enumerate() {
            let fault = if name.trim().is_empty() {
                Some("has no name, give it one")
            } else if is_built_in(&name) {
                Some("has the name of a type of this crate, choose another")
            } else if strategies.insert(name, strategy).is_some() {
                Some("has a name that an earlier strategy has, choose another")
            } else {
                None
            };
            if let Some(fault) = fault {
                faults.add(format!("strategy[{index}]"), fault);
            }
        }
        let presenting = client_certificate::checked(
            self.presenting,
            #[cfg(feature = "hyper")]
            self.certificates,
            &mut faults,
        );
        #[cfg(feature = "private-key-jwt")]
        let signers = by_name("signer", "signer", self.signers, &mut faults);
        check_providers(
            self.upstream_providers.as_deref().unwrap_or_default(),
            &mut faults,
        );
        #[cfg(feature = "aws-sts")]
        self.sts.check(&mut faults);
        faults.check()?;
        let tokens = self
            .tokens
            .unwrap_or_else(|| CredentialCache::builder().clock(self.clock.clone()).make());
        Ok(Resources {
            inner: Arc::new(Inner {
                client: self.client,
                presenting,
                #[cfg(feature = "aws-sts")]
                sts: self.sts.make(&self.clock),
                #[cfg(feature = "private-key-jwt")]
                signing: SigningResources::new(&self.clock, signers),
                #[cfg(feature = "dpop")]
                dpop: DpopResources::new(DpopConfig::has_keys_of),
                environment: self.environment,
                allows_placeholders: self.allows_placeholders,
                clock: self.clock,
                tokens,
                strategies,
                upstream_providers: self.upstream_providers,
                #[cfg(feature = "incoming")]
                upstream_tokens: self.upstream_tokens,
            }),
        })
    }
}

impl<B> fmt::Debug for ResourcesBuilder<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResourcesBuilder").finish_non_exhaustive()
    }
}

/// Finds what was registered by its name. A name that is blank, or that an earlier `kind` has, is a fault of the setting.
pub(super) fn by_name<T>(
    setting: &str,
    kind: &str,
    named: Vec<(String, T)>,
    faults: &mut Faults,
) -> BTreeMap<String, T> {
    let mut found = BTreeMap::new();
    for (index, (name, registered)) in named.into_iter().enumerate() {
        let setting = format!("{setting}[{index}]");
        faults.need_text(setting.clone(), &name);
        if found.insert(name, registered).is_some() {
            faults.add(
                setting,
                format!("has a name that an earlier {kind} has, choose another"),
            );
        }
    }
    found
}

fn check_providers(names: &[String], faults: &mut Faults) {
    let mut earlier = BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        let setting = format!("upstream_providers[{index}]");
        if name.trim().is_empty() {
            faults.add(setting, "is blank, give the provider's name");
        } else if !earlier.insert(name) {
            faults.add(setting, "is there twice, remove one of the two");
        }
    }
}
