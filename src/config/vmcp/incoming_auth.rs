use crate::config::{
    document::Members,
    error::{ConfigFault, Section, SectionFaults},
    file_path::FilePath,
    kind::keys,
    resources::Resources,
    variable_name::VariableName,
};
#[cfg(feature = "incoming")]
use crate::{
    config::block::Block,
    incoming::{
        IntrospectionEndpointBuilder, Issuer, TokenValidatorBuilder,
        introspection::IntrospectionEndpoint, validator::TokenValidator,
    },
    oauth::{client_auth::ClientAuth, http_client::HttpClient},
};

use super::AUTHZ;
#[cfg(feature = "incoming")]
use super::ca_bundle::CaBundle;

/// The endpoints for which ToolHive has other protocols than RFC 7662, of Google and of GitHub.
#[cfg(feature = "incoming")]
const OTHER_PROTOCOLS: [&str; 2] = [
    "oauth2.googleapis.com/tokeninfo",
    "api.github.com/applications",
];

const OIDC: &str = "incomingAuth.oidc";
const TYPE: &str = "incomingAuth.type";

/// How the callers of a gateway authenticate: the block `incomingAuth` of a vMCP's file.
///
/// Needs the feature `config`.
///
/// ```
/// use tower_identity::config::{IncomingAuthConfig, OidcConfig, VmcpConfig};
///
/// let mut oidc = OidcConfig::default();
/// oidc.issuer = "https://idp.example.com".into();
/// oidc.audience = "https://gateway.example.com".into();
/// let mut file = VmcpConfig::default();
/// file.incoming_auth = Some(IncomingAuthConfig::Oidc(oidc));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum IncomingAuthConfig {
    /// `oidc`: with the access token of an issuer.
    Oidc(OidcConfig),
    /// `anonymous`: not at all. Requests have no identity, so a strategy that needs one refuses them.
    Anonymous,
    /// `local`, or any other `type`. This crate has nothing for it, so it is a fault.
    Other(String),
}

keys! {
    /// The issuer whose access tokens are accepted, and what must be in them.
    pub struct OidcConfig {
        /// The issuer's identifier, a URL.
        "issuer" => issuer: String,
        /// The client as which the introspection endpoint is asked.
        "clientId" => client_id: Option<String>,
        /// The environment variable that has the client's secret.
        "clientSecretEnv" => client_secret_env: Option<VariableName>,
        /// The audience that tokens must have.
        "audience" => audience: String,
        /// The URL by which callers know the gateway (RFC 9728). By default the audience, if it is a URL.
        "resource" => resource: Option<String>,
        /// The URL of the issuer's keys, if its metadata does not name it.
        "jwksUrl" => jwks_url: Option<String>,
        /// The introspection endpoint for tokens that are not JWTs (RFC 7662).
        "introspectionUrl" => introspection_url: Option<String>,
        /// The scopes that callers should ask for.
        "scopes" => scopes: Vec<String>,
        /// It makes no difference here: the HTTP client decides which addresses it connects to.
        "protectedResourceAllowPrivateIp" => protected_resource_allow_private_ip: bool,
        /// It makes no difference here: the HTTP client decides which addresses it connects to.
        "jwksAllowPrivateIp" => jwks_allow_private_ip: bool,
        /// Whether the issuer may be at plain `http`.
        "insecureAllowHttp" => insecure_allow_http: bool,
        /// The absolute path of a PEM file with certificate authorities that are trusted for the issuer as well. With it, an
        /// [`HttpsClient`](crate::client::hyper::HttpsClient) asks the issuer, and not the client of
        /// [`Resources`](crate::config::Resources), whose proxy and other settings do not apply then.
        "caBundlePath" => ca_bundle_path: Option<FilePath>,
    }
}

/// The parts that are built of `incomingAuth`.
#[derive(Default)]
pub(super) struct Incoming {
    #[cfg(feature = "incoming")]
    pub(super) validator: Option<TokenValidator>,
}

/// Reads the block.
pub(super) fn read(
    mut members: Members<'_>,
    unread: &mut SectionFaults,
) -> Option<IncomingAuthConfig> {
    if let Some(authz) = members.map("authz") {
        let is_none = matches!(&*authz, [(key, value)] if key == "type" && value.is_text("none"));
        if !is_none {
            let mut protections = super::UNREAD_PROTECTION.iter();
            if let Some((key, reason)) = protections.find(|(key, _)| *key == AUTHZ) {
                unread.add(*key, *reason);
            }
        }
    }
    // The operator writes an empty one.
    const MAY_BE_EMPTY: &[&str] = &["clientId"];
    let oidc = members.block::<OidcConfig>("oidc", MAY_BE_EMPTY);
    let is_given = members.has("type");
    let config = match (members.string("type").as_deref(), oidc) {
        (Some("oidc"), Some(oidc)) => Some(IncomingAuthConfig::Oidc(oidc)),
        (Some("oidc"), None) => {
            members.fault("oidc", "is missing; the type `oidc` needs it");
            None
        }
        (Some(other), oidc) => {
            if oidc.is_some() {
                members.fault(
                    "oidc",
                    format!("does not go with the type `{}`", other.escape_debug()),
                );
            }
            Some(match other {
                "anonymous" => IncomingAuthConfig::Anonymous,
                other => IncomingAuthConfig::Other(other.to_owned()),
            })
        }
        (None, _) => {
            if !is_given {
                members.fault("type", "is missing; expected `oidc` or `anonymous`");
            }
            None
        }
    };
    members.finish(&["type", "oidc", "authz"]);
    config
}

impl IncomingAuthConfig {
    pub(super) fn build<B>(
        &self,
        resources: &Resources<B>,
        faults: &mut SectionFaults,
    ) -> Incoming {
        match self {
            Self::Anonymous => Incoming::default(),
            Self::Oidc(oidc) => oidc.build(resources, faults),
            Self::Other(name) => {
                faults.add(TYPE, other_type(name));
                Incoming::default()
            }
        }
    }

    /// The keys that make no difference.
    pub(super) fn unread(&self) -> Vec<ConfigFault> {
        let Self::Oidc(oidc) = self else {
            return Vec::new();
        };
        let needs_introspection = oidc.introspection_url.is_none();
        const ADDRESSES: &str =
            "makes no difference: the HTTP client decides which addresses it connects to";
        const CLIENT: &str = "is only used with `introspectionUrl`";
        [
            (
                "protectedResourceAllowPrivateIp",
                oidc.protected_resource_allow_private_ip,
                ADDRESSES,
            ),
            ("jwksAllowPrivateIp", oidc.jwks_allow_private_ip, ADDRESSES),
            (
                "clientId",
                needs_introspection && oidc.client_id.is_some(),
                CLIENT,
            ),
            (
                "clientSecretEnv",
                needs_introspection && oidc.client_secret_env.is_some(),
                CLIENT,
            ),
        ]
        .into_iter()
        .filter(|(_, is_unread, _)| *is_unread)
        .map(|(key, _, reason)| {
            ConfigFault::new(Section::Document, format!("{OIDC}.{key}"), reason)
        })
        .collect()
    }
}

fn other_type(name: &str) -> String {
    let name = name.escape_debug();
    let other = match &*name.to_string() {
        "local" => "`local` takes the user of the operating system for the caller, which this crate does not do".to_owned(),
        name => format!("`{name}` is neither `oidc` nor `anonymous`"),
    };
    format!(
        "{other}; authenticate the callers in the application, and name `incomingAuth` in `VmcpConfig::handled_by_application`"
    )
}

#[cfg(not(feature = "incoming"))]
impl OidcConfig {
    fn build<B>(&self, _: &Resources<B>, faults: &mut SectionFaults) -> Incoming {
        faults.add(
            TYPE,
            "`oidc` needs the feature `incoming` of this crate; without it, authenticate the callers in the application, \
             and name `incomingAuth` in `VmcpConfig::handled_by_application`",
        );
        Incoming::default()
    }
}

#[cfg(feature = "incoming")]
impl OidcConfig {
    fn build<B>(&self, resources: &Resources<B>, faults: &mut SectionFaults) -> Incoming {
        let mut block = Block {
            name: OIDC,
            resources,
            faults,
        };
        block.need("issuer", &self.issuer);
        block.need("audience", &self.audience);
        let client = self.client(&mut block);
        let introspection = self.introspection(&client, &mut block);
        let issuer = Issuer::of_client(&self.issuer, client).audience(&self.audience);
        let issuer = match &self.jwks_url {
            Some(url) => issuer.jwks_url(url),
            None => issuer,
        };
        let mut validator = TokenValidatorBuilder::new(issuer)
            .scopes(&self.scopes)
            .clock(resources.clock());
        let resource = self.resource.as_ref();
        if let Some(resource) = resource.or(self.audience_if_url()) {
            validator = validator.resource(resource);
        }
        if self.insecure_allow_http {
            validator = validator.insecure();
        }
        if let Some(introspection) = introspection {
            validator = validator.introspection(introspection);
        }
        if let Some(upstream) = resources.upstream_tokens() {
            validator = validator.upstream_tokens(upstream);
        }
        let resource_key = match self.resource {
            Some(_) => "resource",
            None => "audience",
        };
        Incoming {
            validator: block.built(
                validator.build(),
                &[
                    ("issuer", &["issuer"]),
                    ("audience", &["audience"]),
                    ("realm", &["audience"]),
                    ("jwks_url", &["jwksUrl"]),
                    ("resource", &[resource_key]),
                    ("scopes", &["scopes"]),
                    ("scopes[]", &["scopes[]"]),
                    ("insecure", &["insecureAllowHttp"]),
                ],
            ),
        }
    }

    fn audience_if_url(&self) -> Option<&String> {
        Some(&self.audience).filter(|audience| audience.contains("://"))
    }

    fn introspection<B>(
        &self,
        client: &HttpClient,
        block: &mut Block<'_, B>,
    ) -> Option<IntrospectionEndpoint> {
        let url = self.introspection_url.as_ref()?;
        if OTHER_PROTOCOLS.iter().any(|other| url.contains(other)) {
            block.fault(
                "introspectionUrl",
                "is an endpoint that does not speak RFC 7662, and ToolHive has a protocol for it alone; this crate has \
                 not: validate such tokens in the application",
            );
            return None;
        }
        let variable = ("clientSecretEnv", &self.client_secret_env);
        let secret = block.secret(("clientSecret", &None), variable);
        let mut endpoint = IntrospectionEndpointBuilder::of_client(url, client.clone());
        if self.insecure_allow_http {
            endpoint = endpoint.insecure();
        }
        match (&self.client_id, secret) {
            (Some(id), Some(secret)) => {
                endpoint = endpoint.client_auth(ClientAuth::basic(id, secret));
            }
            (Some(id), None) => endpoint = endpoint.client_auth(ClientAuth::none(id)),
            (None, _) if self.client_secret_env.is_some() => block.fault(
                "clientId",
                "is missing, and there is a secret that goes with it: `clientSecretEnv`",
            ),
            (None, _) => {}
        }
        block.built(
            endpoint.build(),
            &[
                ("url", &["introspectionUrl"]),
                ("client_auth.client_id", &["clientId"]),
                ("client_auth.secret", &["clientSecretEnv"]),
                ("insecure", &["insecureAllowHttp"]),
            ],
        )
    }

    /// The client for the issuer.
    fn client<B>(&self, block: &mut Block<'_, B>) -> HttpClient {
        let client = block.resources.client();
        let Some(path) = &self.ca_bundle_path else {
            return client;
        };
        let trusting = CaBundle::read(path).and_then(|bundle| client_trusting(&bundle));
        match trusting {
            Ok(client) => client,
            Err(message) => {
                block.fault("caBundlePath", message);
                client
            }
        }
    }
}

#[cfg(all(feature = "incoming", feature = "hyper"))]
fn client_trusting(bundle: &CaBundle) -> Result<HttpClient, String> {
    use bytes::Bytes;
    use http_body_util::Full;

    let client = crate::client::hyper::https_client_trusting::<Full<Bytes>>(bundle.pem());
    client
        .map(HttpClient::new)
        .map_err(|error| format!("names a file that {error}"))
}

#[cfg(all(feature = "incoming", not(feature = "hyper")))]
fn client_trusting(_: &CaBundle) -> Result<HttpClient, String> {
    Err(
        "needs the feature `hyper` of this crate; without it, leave it out, and give `Resources` a client that trusts \
         these authorities"
            .to_owned(),
    )
}
