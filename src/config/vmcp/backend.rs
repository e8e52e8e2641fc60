use std::{collections::BTreeMap, fmt};

use http::Uri;

use crate::{
    config::{
        document::Members,
        error::SectionFaults,
        file_path::FilePath,
        kind::{Keys, Value},
    },
    oauth::http_client::parse_url,
    origin::Origin,
};

use super::ca_bundle::CaBundle;

const TRANSPORTS: [&str; 2] = ["streamable-http", "sse"];

/// One backend of a vMCP's file.
///
/// Needs the feature `config`.
///
/// ```
/// use tower_identity::config::{VmcpBackendConfig, VmcpConfig};
///
/// // Where the file has a `groupRef`, the application adds the backends.
/// fn add_backends(file: &mut VmcpConfig) {
///     let url = "https://mcp.example.com/mcp";
///     file.backends.push(VmcpBackendConfig::new("github", url));
/// }
/// # let _ = add_backends;
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct VmcpBackendConfig {
    /// The name by which `outgoingAuth` configures it.
    pub name: String,
    /// The URL of its MCP endpoint.
    pub url: String,
    /// The transport, `streamable-http` or `sse`.
    pub transport: String,
    /// `entry` for a server elsewhere, or empty. It makes no difference here.
    pub workload_type: Option<String>,
    /// The absolute path of a PEM file with certificate authorities that its client trusts as well.
    pub ca_bundle_path: Option<FilePath>,
    /// Labels. They make no difference here.
    pub metadata: BTreeMap<String, String>,
}

impl fmt::Debug for VmcpBackendConfig {
    /// Shows of the URL its origin alone, because people write keys into URLs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = parse_url(&self.url, true).ok().map(|(_, origin)| origin);
        f.debug_struct("VmcpBackendConfig")
            .field("name", &self.name)
            .field("origin", &origin)
            .field("transport", &self.transport)
            .field("metadata", &self.metadata.keys())
            .finish_non_exhaustive()
    }
}

/// Where the requests of a backend go.
pub(super) struct Target {
    pub(super) url: Uri,
    pub(super) origin: Origin,
    pub(super) ca_bundle: Option<CaBundle>,
}

impl VmcpBackendConfig {
    /// The backend of this name at this URL, with the transport `streamable-http`.
    pub fn new(name: impl Into<String>, url: impl Into<String>) -> Self {
        let [transport, _] = TRANSPORTS;
        Self {
            name: name.into(),
            url: url.into(),
            transport: transport.to_owned(),
            ..Self::default()
        }
    }

    /// `at` is where it is in the file.
    pub(super) fn target(
        &self,
        at: &str,
        insecure: bool,
        faults: &mut SectionFaults,
    ) -> Option<Target> {
        let mut fault = |key: &str, message: &str| faults.add(format!("{at}.{key}"), message);
        if self.name.is_empty() {
            fault("name", "is missing");
        }
        if self.transport.is_empty() {
            fault(
                "transport",
                "is missing; expected `streamable-http` or `sse`",
            );
        } else if !TRANSPORTS.contains(&&*self.transport) {
            fault("transport", "is neither `streamable-http` nor `sse`");
        }
        if self
            .workload_type
            .as_deref()
            .is_some_and(|kind| kind != "entry")
        {
            fault("type", "is neither `entry` nor left out");
        }
        let target = match (&*self.url, parse_url(&self.url, insecure)) {
            ("", _) => {
                fault("url", "is missing");
                None
            }
            (_, Ok(target)) => Some(target),
            (_, Err(message)) => {
                fault(
                    "url",
                    &message.replace(
                        "for a network that is declared to be trusted",
                        "for a backend that `VmcpConfig::insecure_backend` names",
                    ),
                );
                None
            }
        };
        let path = self.ca_bundle_path.as_ref();
        let ca_bundle = path.map(CaBundle::read);
        let ca_bundle = ca_bundle
            .transpose()
            .map_err(|message| fault("caBundlePath", &message));
        let (url, origin) = target?;
        Some(Target {
            url,
            origin,
            ca_bundle: ca_bundle.ok()?,
        })
    }
}

impl Keys for VmcpBackendConfig {
    const KEYS: &'static [&'static str] = &[
        "name",
        "url",
        "transport",
        "type",
        "caBundlePath",
        "metadata",
    ];

    fn read(members: &mut Members<'_>) -> Self {
        members.drop_empty("type");
        members.drop_empty("caBundlePath");
        Self {
            name: Value::read(members, "name"),
            url: Value::read(members, "url"),
            transport: Value::read(members, "transport"),
            workload_type: Value::read(members, "type"),
            ca_bundle_path: Value::read(members, "caBundlePath"),
            metadata: members.texts("metadata"),
        }
    }
}
