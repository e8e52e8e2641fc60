use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http_body::Body;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use tower::BoxError;

use crate::{origin::Origin, outgoing::auth::layer::AuthLayer, strategy::strategy::Strategy};

#[cfg(feature = "private-key-jwt")]
use crate::oauth::signing_keys::{Published, PublishedKeys};

use super::{
    SigningKeyConfig,
    backend::BackendAuthConfig,
    document::{self, Members, Value},
    error::{ConfigError, ConfigFault, Section, SectionFaults},
    resources::Resources,
};

/// Configures how requests to each backend are authenticated, with the keys of ToolHive's `outgoingAuth`.
///
/// Needs the feature `config`.
///
/// The types implement serde's traits, and you choose the parser: `serde_json`, `serde-saphyr` for YAML, or another
/// parser of a self-describing format.
///
/// ```no_run
/// # use bytes::Bytes; use http_body_util::Full;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # fn example(text: &str) -> Result<(), tower::BoxError> {
/// # let token_client =
/// #     Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
/// use tower_identity::{Origin, OutgoingAuthConfig, config::Resources};
///
/// // source: inline
/// // default:
/// //   type: unauthenticated
/// // backends:
/// //   github:
/// //     type: token_exchange
/// //     tokenExchange:
/// //       tokenUrl: https://idp.example.com/token
/// //       clientId: gateway
/// //       clientSecretEnv: GATEWAY_SECRET
/// //       audience: github-api
/// //       scopes: [repo, "read:org"]
/// // Without snippets: an error would quote the lines around it, with secrets.
/// let options = serde_saphyr::options! { with_snippet: false };
/// let auth: OutgoingAuthConfig =
///     serde_saphyr::from_str_with_options(text, options)?;
/// let resources = Resources::<Full<Bytes>>::builder(token_client).build()?;
/// auth.check(&resources)?;
///
/// let origin = Origin::try_from("https://mcp.example.com")?;
/// let layer = auth.layer_for("github", origin, &resources)?;
/// # Ok(())
/// # }
/// ```
///
/// # Which configuration a backend gets
///
/// A backend gets the entry in `backends` under its name, or else `default`. It is an error if there is neither, or if
/// `source` is `discovered` and the backend is not in `backends`: see [`Source`](crate::config::Source).
///
/// # Coming from ToolHive
///
/// The guide `toolhive` has the differences that concern all types, with the reasons.
///
/// | `type` | block | strategy | difference from ToolHive |
/// | --- | --- | --- | --- |
/// | `unauthenticated` | | [`Unauthenticated`](crate::Unauthenticated) | |
/// | `header_injection` | `headerInjection` | [`HeaderInjection`](crate::HeaderInjection) | [Restricted names](crate::HeaderForwardLayer#restricted-names) are refused. |
/// | `claim_injection` | `claimInjection` | [`ClaimInjection`](crate::ClaimInjection) | ToolHive has only proposed it (its pull request 5291), with the same key. |
/// | `token_exchange` | `tokenExchange` | [`TokenExchange`](crate::TokenExchange) | `id_token` sends the upstream provider's ID token. The URL is https, or loopback. `requestedTokenType` is a key of this crate. |
/// | `upstream_inject` | `upstreamInject` | [`UpstreamInject`](crate::UpstreamInject) | |
/// | `aws_sts` | `awsSts` | [`AwsSts`](crate::AwsSts) (feature `aws-sts`) | The fallback role is not used after a matcher failed, unless `fallbackAfterFailedMatcher` is true. A session name that AWS does not accept is an error, unless `replaceUnfitSessionNames` is true. |
/// | `obo` | `obo` | [`OnBehalfOf`](crate::OnBehalfOf) | ToolHive does not implement it. |
/// | `xaa` | `xaa` | [`CrossAppAccess`](crate::CrossAppAccess) | `subjectProviderName` is required, unless the application [names](crate::config::ResourcesBuilder::upstream_providers) one provider only. A health check passes without a credential. `idpIssuer`, `targetScopes`, `assertionType` and `requireResource` are keys of this crate. |
/// | `client_credentials` | `clientCredentials` | [`ClientCredentials`](crate::ClientCredentials) | ToolHive has no such type. |
/// | `signed_identity` | `signedIdentity` | [`SignedIdentity`](crate::SignedIdentity) (feature `private-key-jwt`) | ToolHive has no such type. |
/// | `both` | `both` | [`Both`](crate::strategy::Both) | ToolHive has no such type. |
/// | your own name | | the strategy that you [registered](crate::config::ResourcesBuilder::strategy) | |
///
/// These keys are keys of this crate, in several blocks:
///
/// | key | blocks | sets |
/// | --- | --- | --- |
/// | `…ClientSecretFile`, `…ClientAssertionFile`, `…ClientAssertionType`, `…ClientKey`, `…ClientCertificate` | beside each `…ClientSecretEnv` | how the client [authenticates](#credentials-without-a-stored-secret) |
/// | `headerName`, `headerPrefix` | each whose strategy sends a token | the header, in place of `Authorization: Bearer …` |
/// | `dpop` | `tokenExchange`, `clientCredentials`, `obo`, `upstreamInject`, and as `idpDpop` and `targetDpop` `xaa` | the [key](#tokens-bound-to-a-key) that tokens are bound to |
/// | `stepUpScopes` | `tokenExchange`, `clientCredentials`, `obo`, `xaa` | the ceiling of [step-up](AuthLayer#step-up), after [`retry_rejected`](AuthLayer::retry_rejected) |
///
/// # How values are read
///
/// - A key that is null counts as missing, as it does for ToolHive. [`dpop`](#tokens-bound-to-a-key) must not be null,
///   because `{}` has a meaning there, and a line `dpop:` without a value is null.
/// - An empty string is an error, and does not count as a missing key.
/// - A number or a boolean is not a string: quote it.
/// - A secret that is given both by value and by variable is an error, in every block.
/// - If `subjectProviderName` is missing, the first provider that the application
///   [names](crate::config::ResourcesBuilder::upstream_providers) is used, and for `xaa` the only one. Each name in the file
///   must then be one of them.
/// - The keys of the Kubernetes resources (`externalAuthConfigRef`, `clientSecretRef`) are unknown keys.
///
/// # Credentials without a stored secret
///
/// A client authenticates with a secret, with a JWT that the platform issues (`clientAssertionFile`), with a private key
/// ([`clientKey`](crate::config::ClientKeyConfig)), or with the certificate of its TLS connection
/// ([`clientCertificate`](crate::config::ClientCertificateConfig)), in each block that has a client. A key in a KMS or an HSM
/// is named by `clientKey.signer`, see [`ResourcesBuilder::signer`](crate::config::ResourcesBuilder::signer). An HTTP client
/// with a certificate is named by `clientCertificate.name`, see
/// [`ResourcesBuilder::client_certificate`](crate::config::ResourcesBuilder::client_certificate).
///
/// ```yaml
/// backends:
///   graph: # a pod of Azure's workload identity, without a secret
///     type: obo
///     obo:
///       tokenUrl: https://login.microsoftonline.com/contoso.com/oauth2/v2.0/token
///       clientId: 11111111-2222-3333-4444-555555555555
///       clientAssertionFile: /var/run/secrets/azure/tokens/azure-identity-token
///       scopes: [https://graph.microsoft.com/.default]
///   mail: # a certificate that was uploaded to Entra
///     type: client_credentials
///     clientCredentials:
///       tokenUrl: https://login.microsoftonline.com/contoso.com/oauth2/v2.0/token
///       clientId: 11111111-2222-3333-4444-555555555555
///       clientKey:
///         keyFile: /run/secrets/gateway.pem
///         algorithm: PS256
///         certificateFile: /run/secrets/gateway.crt
///       scopes: [https://graph.microsoft.com/.default]
///   tools: # the JWT of the workload is the grant, and no client is registered
///     type: client_credentials
///     clientCredentials:
///       tokenUrl: https://auth.example.com/token
///       workloadTokenFile: /var/run/secrets/tokens/gateway
///       resource: https://mcp.example.com
///   ledger: # a certificate of the application's HTTP client, and no secret
///     type: token_exchange
///     tokenExchange:
///       tokenUrl: https://mtls.idp.example.com/token
///       clientId: gateway
///       clientCertificate: { name: gateway }
///       audience: ledger
///   internal: # a backend that trusts this gateway
///     type: signed_identity
///     signedIdentity:
///       issuer: https://gateway.example.com
///       audience: https://internal.example.com
///       claims: [email]
///       signingKeys:
///         - keyId: "2026-01"
///           algorithm: ES256
///           keyFile: /run/secrets/signing.pem
///   partner: # a key of the gateway and a token of the user
///     type: both
///     both:
///       first:
///         type: header_injection
///         headerInjection:
///           headerName: x-api-key
///           headerValueEnv: PARTNER_KEY
///       second:
///         type: upstream_inject
///         upstreamInject:
///           providerName: github
/// ```
///
/// Serve the keys of `signed_identity` with `OutgoingAuthConfig::jwks`, or with `LiveOutgoingAuth::jwks` if the
/// configuration may be replaced.
///
/// # Tokens bound to a key
///
/// The key [`dpop`](crate::config::DpopConfig) binds the tokens of a block to a key, so that nobody else can use them (DPoP,
/// RFC 9449). It needs the feature `dpop`. The backend then gets a [proof](AuthLayer#tokens-bound-to-a-key) with each
/// request:
///
/// ```yaml
/// backends:
///   github: # a key that is generated
///     type: token_exchange
///     tokenExchange:
///       tokenUrl: https://idp.example.com/token
///       dpop: {}
///   mail: # a key for each user, the same on each replica
///     type: token_exchange
///     tokenExchange:
///       tokenUrl: https://idp.example.com/token
///       dpop: { perUserSecretFile: /run/secrets/dpop-users }
///   tools: # one key, and bearer tokens until the issuer knows DPoP
///     type: client_credentials
///     clientCredentials:
///       tokenUrl: https://idp.example.com/token
///       clientId: gateway
///       clientSecretEnv: GATEWAY_SECRET
///       dpop:
///         keyFile: /run/secrets/dpop.pem
///         algorithm: ES256
///         allowBearerTokens: true
/// ```
///
/// All blocks with a generated key share this key. It ends with the [`Resources`], and outlives a configuration that is
/// replaced. A file is read once, so another key needs another file. With `upstreamInject`, the application gives the
/// same keys to the provider.
///
/// # Errors are reported together
///
/// An unknown key, a value of the wrong type or a block of another `type` does not stop deserialization. It is stored,
/// and [`check`](Self::check) and [`layer_for`](Self::layer_for) report it together with the wrong settings of all
/// strategies, as one [`ConfigError`]. Deserialization itself only fails for text that the parser cannot read, and for a
/// document that is not a map.
///
/// # Replacing a configuration
///
/// [`LiveOutgoingAuth`](crate::config::LiveOutgoingAuth) replaces the configuration while requests are running. Without
/// it, build new layers with the same [`Resources`]: backends with an unchanged configuration keep their credentials.
///
/// # Security
///
/// - A secret is given by value, by the name of an environment variable (the keys that end with `Env`), or for a client
///   also by the path of a file (`File`), never by two of them. A file is not read before a token is requested. Only the
///   files of private keys and certificates are read at once, and their faults reported with the others.
///   Errors, `Debug` and serialization do not show it. They show the name of a variable only if it looks like one, see
///   [`VariableName`](crate::config::VariableName).
/// - A secret that has a placeholder (`${TOKEN}` or `{{ token }}`) is refused, by value and by variable, unless the
///   application [allows placeholders](crate::config::ResourcesBuilder::allow_placeholders).
/// - The errors of some parsers quote the document. Tell yours not to: for `serde-saphyr` that is `with_snippet: false`, as
///   in the example.
/// - The author of the configuration decides where users' tokens are sent. Do not let users write it.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(
    deny_unknown_fields,
    description = "How requests to each backend are authenticated."
)]
#[non_exhaustive]
pub struct OutgoingAuthConfig {
    /// Where the configuration of backends comes from.
    #[schemars(default)]
    pub source: Source,
    /// The configuration of backends that are not in `backends`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<BackendAuthConfig>,
    /// The configuration of each backend, by its name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(default)]
    pub backends: BTreeMap<String, BackendAuthConfig>,
    #[serde(skip)]
    faults: Vec<ConfigFault>,
}

/// Where the configuration of backends comes from.
#[cfg_attr(
    doc,
    doc = "\n\nNeeds the feature `config`. [`OutgoingAuthConfig`] has an example of a document."
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Source {
    /// From this document.
    #[default]
    Inline,
    /// From the application, which discovers the backends (for example, in Kubernetes) and adds them to `backends`. This
    /// crate discovers nothing. A backend that was not added gets no layer, not even the `default`.
    Discovered,
}

/// The strategy for requests to one backend, and its ceiling of step-up.
pub(super) struct Backend<B> {
    pub(super) strategy: Arc<dyn Strategy<B>>,
    /// The ceiling of step-up.
    pub(super) step_up_scopes: Arc<[String]>,
}

impl OutgoingAuthConfig {
    /// Checks the whole document: builds each strategy by its own rules, and looks up each environment variable.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], with all faults.
    pub fn check<B>(&self, resources: &Resources<B>) -> Result<(), ConfigError>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let faults = self.all_faults(resources);
        if faults.is_empty() {
            return Ok(());
        }
        Err(ConfigError::new(faults))
    }

    /// Builds the layer that authenticates requests to `backend`, which is at `origin`.
    ///
    /// The layer caches credentials in `resources`, so a second layer for the backend uses them too.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], when the backend has no configuration, its configuration is wrong, or any part of the document
    /// has an unknown key or a value of the wrong type. It lists all faults, as in [`check`](Self::check).
    pub fn layer_for<B>(
        &self,
        backend: &str,
        origin: Origin,
        resources: &Resources<B>,
    ) -> Result<AuthLayer<Arc<dyn Strategy<B>>>, ConfigError>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let backend = self.backend(backend, resources)?;
        let layer = AuthLayer::new(origin, backend.strategy);
        let ceiling = backend.step_up_scopes;
        Ok(match ceiling.is_empty() {
            true => layer,
            false => layer.with_ceiling(Arc::new(move || Arc::clone(&ceiling))),
        })
    }

    /// Returns the [JSON Schema](https://json-schema.org/draft/2020-12) of the document, for editors.
    ///
    /// `src/config/schema.json` in the source of this crate has the same content.
    pub fn json_schema() -> serde_json::Value {
        schemars::schema_for!(OutgoingAuthConfig).to_value()
    }

    /// Returns the service that publishes the keys of all `signed_identity` blocks (JWKS). Route a path of your choice to
    /// it, for example `/.well-known/jwks.json`.
    ///
    /// Needs the feature `private-key-jwt`.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    #[cfg(feature = "private-key-jwt")]
    pub fn jwks<B>(&self, resources: &Resources<B>) -> Result<crate::oauth::Jwks, ConfigError>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.check(resources)?;
        Ok(PublishedKeys::new(&self.published(resources)).jwks())
    }

    /// The keys of a configuration that was checked.
    #[cfg(feature = "private-key-jwt")]
    pub(super) fn published<B>(&self, resources: &Resources<B>) -> Vec<Published> {
        let sections = self.sections();
        let keys = sections.flat_map(|(_, config)| config.signing_keys());
        keys.filter_map(|(_, key)| resources.signing().known(key))
            .collect()
    }

    pub(super) fn backend<B>(
        &self,
        backend: &str,
        resources: &Resources<B>,
    ) -> Result<Backend<B>, ConfigError>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let built = self.resolve(backend).and_then(|config| {
            let mut faults = SectionFaults::new(Section::Document);
            let strategy = config.build(resources, &mut faults);
            let strategy = strategy.filter(|_| self.faults.is_empty())?;
            Some(Backend {
                strategy,
                step_up_scopes: config.step_up_scopes().into(),
            })
        });
        built.ok_or_else(|| {
            let mut faults = self.all_faults(resources);
            if self.resolve(backend).is_none() {
                let section = Section::Backend(backend.to_owned());
                if !faults.iter().any(|fault| fault.section == section) {
                    faults.push(self.unresolved(section));
                }
            }
            ConfigError::new(faults)
        })
    }

    fn resolve(&self, backend: &str) -> Option<&BackendAuthConfig> {
        self.backends.get(backend).or(match self.source {
            Source::Inline => self.default.as_ref(),
            Source::Discovered => None,
        })
    }

    /// Whether the backend has a configuration, be it the default.
    pub(super) fn configures(&self, backend: &str) -> bool {
        self.resolve(backend).is_some()
    }

    fn unresolved(&self, section: Section) -> ConfigFault {
        let message = match self.source {
            Source::Inline => {
                "is not configured, and there is no `default`; if it needs no credential, give it the `type` \
                 `unauthenticated`"
            }
            Source::Discovered => {
                "is not configured, and `source` is `discovered`: add what was discovered to `backends`, or make it `inline`"
            }
        };
        ConfigFault::new(section, "", message)
    }

    /// All backends, with the sections that they are in.
    fn sections(&self) -> impl Iterator<Item = (Section, &BackendAuthConfig)> {
        let default = self.default.iter().map(|config| (Section::Default, config));
        let backends = self.backends.iter();
        let backends = backends.map(|(name, config)| (Section::Backend(name.clone()), config));
        default.chain(backends)
    }

    /// A verifier takes the first key of a name, so two keys of one name are a fault.
    fn key_faults(&self) -> Vec<ConfigFault> {
        let mut known = BTreeMap::<&str, &SigningKeyConfig>::new();
        let mut faults = Vec::new();
        for (section, config) in self.sections() {
            for (at, key) in config.signing_keys() {
                let first = *known.entry(&key.key_id).or_insert(key);
                if !first.is_same(key) {
                    let fault = "is the name of another key, give it its own";
                    faults.push(ConfigFault::new(
                        section.clone(),
                        format!("{at}.keyId"),
                        fault,
                    ));
                }
            }
        }
        faults
    }

    pub(super) fn all_faults<B>(&self, resources: &Resources<B>) -> Vec<ConfigFault>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut all = self.faults.clone();
        for (section, config) in self.sections() {
            let mut faults = SectionFaults::after(section, &self.faults);
            config.build(resources, &mut faults);
            for fault in faults.into_vec() {
                // A key whose value had a fault of form is missing now, which is no news.
                let is_told = self.faults.iter().any(|told| told.is_at(&fault));
                if !is_told {
                    all.push(fault);
                }
            }
        }
        all.extend(self.key_faults());
        all.sort_by(|one, other| one.section.cmp(&other.section));
        all
    }
}

impl<'de> Deserialize<'de> for OutgoingAuthConfig {
    /// Stores faults of form, see [`OutgoingAuthConfig`](OutgoingAuthConfig#errors-are-reported-together).
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        document::map(Value::deserialize(deserializer)?).map(Self::read)
    }
}

impl OutgoingAuthConfig {
    pub(super) fn read(members: Vec<(String, Value)>) -> Self {
        if let Some(fault) = document::whole_file(&members) {
            return Self {
                faults: vec![fault],
                ..Self::default()
            };
        }
        let mut faults = SectionFaults::new(Section::Document);
        let mut members = Members::new("", members, &mut faults);
        let source = match members.string("source").as_deref() {
            None | Some("inline") => Source::Inline,
            Some("discovered") => Source::Discovered,
            Some(_) => {
                members.fault("source", "is neither `inline` nor `discovered`");
                Source::Inline
            }
        };
        let default = members.take("default");
        let backends = members.sections("backends");
        members.finish(&["source", "default", "backends"]);

        let mut faults = faults.into_vec();
        let mut read = |section, value| {
            let mut of_section = SectionFaults::new(section);
            let backend = document::backend(String::new(), value, &mut of_section);
            faults.append(&mut of_section.into_vec());
            backend
        };
        let default = default.and_then(|value| read(Section::Default, value));
        let backends = backends
            .into_iter()
            .filter_map(|(name, value)| {
                let backend = read(Section::Backend(name.clone()), value)?;
                Some((name, backend))
            })
            .collect();
        Self {
            source,
            default,
            backends,
            faults,
        }
    }
}

impl<'de> Deserialize<'de> for BackendAuthConfig {
    /// Fails with all faults of form.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut faults = SectionFaults::new(Section::Document);
        let backend = document::backend(
            String::new(),
            Value::deserialize(deserializer)?,
            &mut faults,
        );
        match backend {
            Some(backend) if faults.is_empty() => Ok(backend),
            _ => Err(de::Error::custom(ConfigError::new(faults.into_vec()))),
        }
    }
}
