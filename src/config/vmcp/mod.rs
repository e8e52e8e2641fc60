//! The configuration file of a vMCP, as far as this crate acts on it.

mod backend;
mod ca_bundle;
mod incoming_auth;
mod loaded;

use std::collections::BTreeSet;

use bytes::Bytes;
use http_body::Body;
use serde::{Deserialize, Deserializer};
use tower::BoxError;

use crate::{error::BuildError, origin::Origin, outgoing::headers::HeaderForwardLayer};

use super::{
    document::{self, Members, Value},
    error::{ConfigError, ConfigFault, Section, SectionFaults},
    outgoing_auth::OutgoingAuthConfig,
    resources::Resources,
};

pub use backend::VmcpBackendConfig;
pub use incoming_auth::{IncomingAuthConfig, OidcConfig};
pub use loaded::{Vmcp, VmcpBackend};

/// The keys of the file that this crate does not read, and why.
const UNREAD: &[(&str, &str)] = &[
    ("name", "names the server, which makes no difference here"),
    (
        "groupRef",
        "names workloads, which this crate does not look up; add them to `VmcpConfig::backends`",
    ),
    ("metadata", "makes no difference here"),
    ("aggregation", "is for an MCP server that merges tools"),
    ("compositeTools", "is for an MCP server that merges tools"),
    (
        "compositeToolRefs",
        "is for an MCP server that merges tools",
    ),
    ("optimizer", "is for an MCP server that merges tools"),
    ("codeMode", "is for an MCP server that runs scripts"),
    (
        "operational",
        "has time limits and health checks, for which there are layers of tower and tower-http",
    ),
    (
        "telemetry",
        "has exporters, which the application installs: see the guide on monitoring",
    ),
    ("audit", "has the audit log, which the application writes"),
    (
        "sessionStorage",
        "has the store of sessions; upstream tokens are in the store that you give to `UpstreamTokens`",
    ),
];

/// Keys that protect something. An application must say that it handles them.
const UNREAD_PROTECTION: &[(&str, &str)] = &[
    (
        AUTHZ,
        "has policies, which this crate does not enforce: enforce them in the application, and name this key in \
         `VmcpConfig::handled_by_application`",
    ),
    (
        "rateLimiting",
        "has limits, which this crate does not enforce: enforce them in the application, and name this key in \
         `VmcpConfig::handled_by_application`",
    ),
];

const AUTHZ: &str = "incomingAuth.authz";
const INCOMING_AUTH: &str = "incomingAuth";
const OUTGOING_AUTH: &str = "outgoingAuth";
const READ: &[&str] = &[
    INCOMING_AUTH,
    OUTGOING_AUTH,
    "passthroughHeaders",
    "backends",
];

/// The whole configuration file of a ToolHive vMCP. This crate acts on the parts that concern identity.
///
/// Needs the feature `config`.
///
/// | key | becomes |
/// | --- | --- |
/// | `incomingAuth.oidc` | the [`TokenValidator`](crate::TokenValidator), which needs the feature `incoming` |
/// | `incomingAuth.oidc.caBundlePath` | an HTTP client of this crate for requests to the issuer, which trusts these certificate authorities. It needs the feature `hyper` |
/// | `outgoingAuth` | the [`AuthLayer`](crate::AuthLayer) of each backend, see [`OutgoingAuthConfig`](crate::OutgoingAuthConfig) |
/// | `passthroughHeaders` | the [`HeaderForwardLayer`] of each backend |
/// | `backends` | the URL of each backend, and the certificate authorities of its client (`caBundlePath`) |
///
/// [`build`](Self::build) reports all faults at once, each with its key. The guide `toolhive` has a program that reads
/// such a file and serves it.
///
/// ```no_run
/// # use bytes::Bytes; use http_body_util::Full;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # fn example(text: &str) -> Result<(), tower::BoxError> {
/// # let token_client =
/// #     Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
/// use tower::ServiceBuilder;
/// use tower_identity::config::{Resources, VmcpConfig};
///
/// // Without snippets: an error would quote the lines around it, with secrets.
/// let options = serde_saphyr::options! { with_snippet: false };
/// let file: VmcpConfig = serde_saphyr::from_str_with_options(text, options)?;
/// let resources = Resources::<Full<Bytes>>::builder(token_client).build()?;
/// let vmcp = file
///     .handled_by_application(["aggregation", "incomingAuth.authz"])
///     .build(&resources)?;
///
/// for backend in vmcp.backends() {
///     let layers = ServiceBuilder::new()
///         .layer(backend.header_forward_layer())
///         .layer(backend.auth_layer());
///     println!("{} is at {}", backend.name(), backend.url());
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Keys that are not read
///
/// No key is passed over in silence:
///
/// - An unknown key is a fault, which lists the known keys and the nearest one.
/// - A key of ToolHive that has no meaning for this crate, for example `aggregation`, is in [`Vmcp::unread`], and `build`
///   logs a warning that names these keys.
/// - A key that protects something is a fault: `incomingAuth.authz` (unless its `type` is `none`) and `rateLimiting`.
///
/// [`handled_by_application`](Self::handled_by_application) names the keys that your application acts on itself. They
/// are neither warnings nor faults.
///
/// # Replacing a configuration
///
/// Give [`outgoing_auth`](Self::outgoing_auth) to a [`LiveOutgoingAuth`](crate::config::LiveOutgoingAuth), and take the
/// layers of the backends from there. The other parts are replaced by building them anew.
///
/// # Security
///
/// The author of the file decides where users' tokens are sent, and which files `caBundlePath` reads. Do not let users
/// write it. The callers choose the values of `passthroughHeaders`. A backend at plain `http` is refused, except on
/// loopback, unless [`insecure_backend`](Self::insecure_backend) names it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VmcpConfig {
    /// How the callers of the gateway authenticate.
    pub incoming_auth: Option<IncomingAuthConfig>,
    /// How requests to the backends are authenticated.
    pub outgoing_auth: Option<OutgoingAuthConfig>,
    /// The headers of an incoming request that are forwarded to all backends.
    pub passthrough_headers: Vec<String>,
    /// The backends. Where ToolHive finds them by `groupRef`, add them here.
    pub backends: Vec<VmcpBackendConfig>,
    /// Why the document is not this file at all.
    another: Option<ConfigFault>,
    faults: Vec<ConfigFault>,
    unread: Vec<ConfigFault>,
    handled: BTreeSet<String>,
    insecure: BTreeSet<String>,
}

impl VmcpConfig {
    /// Names the keys that the application acts on itself, for example `aggregation` or `incomingAuth.authz`.
    ///
    /// `incomingAuth` says that the application authenticates its callers without this crate's validator.
    pub fn handled_by_application<K: Into<String>>(
        mut self,
        keys: impl IntoIterator<Item = K>,
    ) -> Self {
        self.handled.extend(keys.into_iter().map(Into::into));
        self
    }

    /// Allows plain `http` for the backend of this name.
    ///
    /// # Security
    ///
    /// Anyone who can read the network can then read the users' tokens. Use it only in a trusted network, for example
    /// for services of a Kubernetes cluster that encrypts its traffic.
    pub fn insecure_backend(mut self, name: impl Into<String>) -> Self {
        self.insecure.insert(name.into());
        self
    }

    /// Builds what the file configures. It reads the files of each `caBundlePath`, and looks up each environment
    /// variable.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], with all faults of the whole file.
    pub fn build<B>(&self, resources: &Resources<B>) -> Result<Vmcp<B>, ConfigError>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if let Some(fault) = &self.another {
            return Err(ConfigError::new(vec![fault.clone()]));
        }
        let mut faults = SectionFaults::new(Section::Document);
        let incoming = self.build_incoming(resources, &mut faults);
        self.check_outgoing(&mut faults);
        self.check_headers(&mut faults);
        let backends = self.build_backends(resources, &mut faults);

        let mut all = self.faults.clone();
        let told = |fault: &ConfigFault| self.faults.iter().any(|told| told.is_at(fault));
        all.extend(faults.into_vec().into_iter().filter(|fault| !told(fault)));
        if let Some(outgoing) = &self.outgoing_auth {
            let faults = outgoing.all_faults(resources);
            all.extend(faults.into_iter().map(ConfigFault::within_file));
        }
        if !all.is_empty() {
            return Err(ConfigError::new(all));
        }
        let unread = self.unread();
        if !unread.is_empty() {
            let keys: Vec<_> = unread.iter().map(ConfigFault::key).collect();
            tracing::warn!(
                keys = keys.join(", "),
                "the file has keys that are not read"
            );
        }
        Ok(Vmcp::new(incoming, backends, unread))
    }

    fn build_incoming<B>(
        &self,
        resources: &Resources<B>,
        faults: &mut SectionFaults,
    ) -> incoming_auth::Incoming {
        if self.handled.contains(INCOMING_AUTH) {
            return incoming_auth::Incoming::default();
        }
        match &self.incoming_auth {
            Some(config) => config.build(resources, faults),
            None => {
                if !self.is_at_fault(INCOMING_AUTH) {
                    faults.add(
                        INCOMING_AUTH,
                        "is missing; to let everybody in, give it the `type` `anonymous`",
                    );
                }
                incoming_auth::Incoming::default()
            }
        }
    }

    fn check_outgoing(&self, faults: &mut SectionFaults) {
        if self.outgoing_auth.is_none() {
            faults.add(
                OUTGOING_AUTH,
                "is missing; it says how requests to the backends are authenticated",
            );
        }
        let protections = self.unread.iter().filter(|unread| {
            let mut protections = UNREAD_PROTECTION.iter();
            protections.any(|(key, _)| *key == unread.key) && !self.is_handled(&unread.key)
        });
        for unread in protections {
            faults.add(&unread.key, &unread.message);
        }
    }

    fn check_headers(&self, faults: &mut SectionFaults) {
        let origin = Origin::try_from("https://localhost");
        let layer = origin.map(|origin| self.header_forward_layer(origin));
        let Ok(Err(error)) = layer else { return };
        for invalid in error.invalid_settings() {
            let key = invalid.setting().replace("capture", "passthroughHeaders");
            faults.add(key, invalid.message());
        }
    }

    fn header_forward_layer(&self, origin: Origin) -> Result<HeaderForwardLayer, BuildError> {
        self.passthrough_headers
            .iter()
            .fold(HeaderForwardLayer::builder(origin), |builder, name| {
                builder.capture(name)
            })
            .build()
    }

    fn build_backends<B>(
        &self,
        resources: &Resources<B>,
        faults: &mut SectionFaults,
    ) -> Vec<VmcpBackend<B>>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut names = BTreeSet::new();
        let mut built = Vec::with_capacity(self.backends.len());
        for (index, config) in self.backends.iter().enumerate() {
            let at = format!("backends[{index}]");
            if !names.insert(&*config.name) {
                faults.add(
                    format!("{at}.name"),
                    "is the name of an earlier backend, choose another",
                );
            }
            let insecure = self.insecure.contains(&config.name);
            let target = config.target(&at, insecure, faults);
            let Some(outgoing) = &self.outgoing_auth else {
                continue;
            };
            if !outgoing.configures(&config.name) {
                faults.add(
                    format!("{at}.name"),
                    format!(
                        "`{}` is not among the backends of `{OUTGOING_AUTH}`, and no `default` is used for it; if it needs no \
                         credential, add it there with the `type` `unauthenticated`",
                        config.name.escape_debug()
                    ),
                );
            }
            let Some(target) = target else { continue };
            let layers = (
                outgoing.layer_for(&config.name, target.origin.clone(), resources),
                self.header_forward_layer(target.origin.clone()),
            );
            if let (Ok(auth), Ok(headers)) = layers {
                built.push(VmcpBackend::new(config, target, auth, headers));
            }
        }
        built
    }

    /// The keys of the file that are neither read nor handled by the application.
    fn unread(&self) -> Vec<ConfigFault> {
        let names: Vec<_> = self.backends.iter().map(|backend| &backend.name).collect();
        let outgoing = self.outgoing_auth.iter();
        let without_backend = outgoing
            .flat_map(|outgoing| outgoing.backends.keys())
            .filter(|name| !names.is_empty() && !names.contains(name))
            .map(|name| {
                let section = Section::Backend(name.clone());
                ConfigFault::new(section, "", "is for no backend of the file, check the name")
                    .within_file()
            });
        let unread = self.unread.iter().cloned();
        unread
            .chain(
                self.incoming_auth
                    .iter()
                    .flat_map(IncomingAuthConfig::unread),
            )
            .filter(|unread| !self.is_handled(&unread.key))
            .chain(without_backend)
            .collect()
    }

    /// Whether the application handles this key, or one that it is within.
    fn is_handled(&self, key: &str) -> bool {
        self.handled.iter().any(|handled| is_within(key, handled))
    }

    /// Whether the form of this key is wrong, or of one within.
    fn is_at_fault(&self, key: &str) -> bool {
        self.faults.iter().any(|fault| is_within(&fault.key, key))
    }
}

impl<'de> Deserialize<'de> for VmcpConfig {
    /// Stores faults of form, which [`build`](VmcpConfig::build) reports.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let members = document::map(Value::deserialize(deserializer)?)?;
        if let Some(fault) = of_another_document(&members) {
            return Ok(Self {
                another: Some(fault),
                ..Self::default()
            });
        }
        let mut faults = SectionFaults::new(Section::Document);
        let mut unread = SectionFaults::new(Section::Document);
        let mut members = Members::new("", members, &mut faults);
        for (key, reason) in UNREAD.iter().chain(UNREAD_PROTECTION) {
            if members.take(key).is_some() {
                unread.add(*key, *reason);
            }
        }
        let passthrough_headers = members.strings("passthroughHeaders");
        let backends = members.maps("backends");
        let incoming_auth = members.map(INCOMING_AUTH);
        let incoming_auth = incoming_auth.and_then(|block| {
            incoming_auth::read(members.within(INCOMING_AUTH, block), &mut unread)
        });
        let outgoing_auth = members.take(OUTGOING_AUTH);
        let known = READ.iter().chain(UNREAD.iter().map(|(key, _)| key));
        let known: Vec<_> = known.copied().chain(["rateLimiting"]).collect();
        members.finish(&known);

        let outgoing_auth = outgoing_auth.and_then(|value| match value {
            Value::Map(members) => Some(OutgoingAuthConfig::read(members)),
            value => {
                faults.add(
                    OUTGOING_AUTH,
                    format!("expected a map, found {}", value.kind()),
                );
                None
            }
        });
        Ok(Self {
            incoming_auth,
            outgoing_auth,
            passthrough_headers,
            backends,
            faults: faults.into_vec(),
            unread: unread.into_vec(),
            ..Self::default()
        })
    }
}

/// The fault of a document that is another one than the file.
fn of_another_document(members: &[(String, Value)]) -> Option<ConfigFault> {
    let has = |name: &str| members.iter().any(|(member, _)| member == name);
    let is_block = (has("source") || has("default")) && !has(OUTGOING_AUTH);
    if is_block {
        return Some(ConfigFault::new(
            Section::Document,
            OUTGOING_AUTH,
            "is missing, and the document looks like this block alone: put it under this key, or read it as an \
             `OutgoingAuthConfig`",
        ));
    }
    document::resource_of_kubernetes(members)
}

fn is_within(key: &str, outer: &str) -> bool {
    let rest = key.strip_prefix(outer);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
