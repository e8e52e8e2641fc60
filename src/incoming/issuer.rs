use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::Full;
use serde_json::{Map, Value};
use tower::{BoxError, Service};

use crate::{
    clock::Clock,
    error::Faults,
    oauth::http_client::{HttpClient, parse_url},
};

use super::{
    discovery::{Discovery, Place, well_known},
    issuer_keys::{IssuerKeys, Keys},
    key_set::KeySet,
};

/// The placeholder for the tenant in an issuer of Microsoft Entra.
const TENANT: &str = "{tenantid}";
/// The tenant whose metadata Entra serves for all of them.
const ANY_TENANT: &str = "common";

/// An issuer whose tokens a [`TokenValidator`](crate::TokenValidator) accepts.
///
/// Needs the feature `incoming`.
///
/// [`TokenValidatorBuilder::issuer`](super::TokenValidatorBuilder::issuer) adds one to the issuer that the validator was
/// started with.
///
/// ```
/// # use bytes::Bytes;
/// # use http_body_util::Full;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower_identity::{TokenValidator, incoming::Issuer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_identity::BuildError> {
/// # let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
/// let entra = "https://login.microsoftonline.com/{tenantid}/v2.0";
/// let entra = Issuer::new(entra, client.clone())
///     .audience("api://gateway")
///     .tenants(["9188040d-6c67-4c5b-b112-36a304b66dad"]);
/// let partner = Issuer::new("https://idp.partner.example.com", client.clone())
///     .jwks_url("https://keys.partner.example.com/jwks");
///
/// let validator = TokenValidator::builder("https://idp.example.com", client)
///     .audience("https://gateway.example.com")
///     .issuer(entra)
///     .issuer(partner)
///     .build()?;
/// # Ok(())
/// # }
/// ```
///
/// # Many tenants
///
/// Each tenant of Microsoft Entra is an issuer. `{tenantid}` in the identifier stands for
/// the tenant, as in Entra's own metadata. A token must then have the tenant's id as the
/// claim `tid`, and [`tenants`](Self::tenants) limits the tenants. The keys are those of
/// `common`, unless [`metadata_url`](Self::metadata_url) or [`jwks_url`](Self::jwks_url)
/// says otherwise. A key that Entra publishes for some tenants verifies tokens of these
/// tenants alone. [`Identity::issuer`](crate::Identity::issuer) is the tenant's identifier.
#[must_use = "an issuer does nothing before it is added to a validator"]
pub struct Issuer {
    id: IssuerId,
    source: Source,
    audiences: Vec<String>,
    clients: Vec<String>,
    metadata_url: Option<String>,
    jwks_url: Option<String>,
    require_at_jwt: bool,
}

enum Source {
    Fetched(HttpClient),
    Given(KeySet),
}

impl Issuer {
    /// Creates an issuer from its identifier, the `iss` of its tokens. A clone of `client` fetches its metadata and keys.
    ///
    /// # Security
    ///
    /// The client must not follow redirects, because the target of a redirect would choose the keys.
    pub fn new<S, ResBody>(issuer: impl Into<String>, client: S) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
        S: Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        ResBody: Body + Send + 'static,
        ResBody::Data: Send,
        ResBody::Error: Into<BoxError>,
    {
        Self::of_client(issuer, HttpClient::new(client))
    }

    pub(crate) fn of_client(issuer: impl Into<String>, client: HttpClient) -> Self {
        Self::with_source(issuer.into(), Source::Fetched(client))
    }

    /// Creates an issuer whose tokens are signed with one of these keys, without fetching anything.
    pub fn with_keys(issuer: impl Into<String>, keys: KeySet) -> Self {
        Self::with_source(issuer.into(), Source::Given(keys))
    }

    fn with_source(issuer: String, source: Source) -> Self {
        Self {
            id: IssuerId {
                text: issuer,
                tenants: Vec::new(),
            },
            source,
            audiences: Vec::new(),
            clients: Vec::new(),
            metadata_url: None,
            jwks_url: None,
            require_at_jwt: false,
        }
    }

    /// Adds an audience. A token of this issuer must be for one of the audiences.
    ///
    /// Without any, the audiences of the issuer that the validator was started with count.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audiences.push(audience.into());
        self
    }

    /// Admits tokens without an audience that were issued to this client. By default a token without an `aud` is
    /// refused.
    ///
    /// Access tokens of Amazon Cognito have no `aud` unless the client asked for one, and name the app client in
    /// `client_id`. A token with an `aud` is judged by the audiences alone, whatever its client.
    ///
    /// # Security
    ///
    /// `client_id` says which client a token was issued to, and not which API it is for. Each API that receives such a token
    /// from the client can send it here, and is then taken for the user. Name only clients whose tokens go nowhere else. If
    /// the issuer can issue tokens for an audience (RFC 8707), use that instead.
    pub fn admit_client(mut self, client_id: impl Into<String>) -> Self {
        self.clients.push(client_id.into());
        self
    }

    /// Sets the URL of the issuer's metadata (OIDC Discovery §3, RFC 8414 §2), if it is not at a
    /// [known location](crate::TokenValidator#where-the-keys-come-from).
    ///
    /// The metadata must still name this issuer.
    pub fn metadata_url(mut self, url: impl Into<String>) -> Self {
        self.metadata_url = Some(url.into());
        self
    }

    /// Sets the URL of the issuer's key set (RFC 7517 §5). The metadata is then not read.
    pub fn jwks_url(mut self, url: impl Into<String>) -> Self {
        self.jwks_url = Some(url.into());
        self
    }

    /// Limits an issuer with `{tenantid}` to these tenants, given by their ids.
    ///
    /// By default it stands for all tenants.
    ///
    /// # Security
    ///
    /// Anyone can create a tenant of Microsoft Entra and be an administrator there. Without a limit, an application that
    /// is registered for several tenants accepts users of any of them.
    pub fn tenants<T: Into<String>>(mut self, tenants: impl IntoIterator<Item = T>) -> Self {
        self.id.tenants.extend(tenants.into_iter().map(Into::into));
        self
    }

    /// Accepts only JWTs with the `typ` `at+jwt` (RFC 9068 §4).
    pub fn require_at_jwt(mut self) -> Self {
        self.require_at_jwt = true;
        self
    }

    pub(super) fn audiences(&self) -> &[String] {
        &self.audiences
    }

    pub(super) fn clients(&self) -> &[String] {
        &self.clients
    }

    pub(super) fn id(&self) -> &IssuerId {
        &self.id
    }

    /// Adds what is wrong. The settings of an issuer that was added are within that one.
    pub(super) fn check(&self, added: Option<usize>, insecure: bool, faults: &mut Faults) {
        let named = |setting: &str| match added {
            None => setting.to_owned(),
            Some(index) => format!("issuer[{index}].{setting}"),
        };
        let identifier = match added {
            None => "issuer".to_owned(),
            Some(index) => format!("issuer[{index}]"),
        };
        match (&self.source, &self.metadata_url, &self.jwks_url) {
            (Source::Given(_), None, None) => faults.need_text(identifier.clone(), &self.id.text),
            (Source::Given(_), ..) => faults.add(
                named(if self.jwks_url.is_some() { "jwks_url" } else { "metadata_url" }),
                "is not used, because the keys are given; leave it out, or give an HTTP client instead of keys",
            ),
            (Source::Fetched(_), Some(_), Some(_)) => faults.add(
                named("metadata_url"),
                "is not used, because `jwks_url` says where the keys are; leave one of them out",
            ),
            (Source::Fetched(_), ..) => {
                faults.take(identifier.clone(), check_identifier(&self.id.text, insecure));
            }
        }
        for (name, url) in [
            ("metadata_url", &self.metadata_url),
            ("jwks_url", &self.jwks_url),
        ] {
            if let Some(url) = url {
                faults.take(named(name), parse_url(url, insecure));
            }
        }
        if self.id.text.matches(TENANT).count() > 1 {
            faults.add(identifier, "has `{tenantid}` more than once");
        } else if !self.id.tenants.is_empty() && !self.id.is_template() {
            faults.add(
                named("tenants"),
                "is for an issuer with `{tenantid}`, leave it out",
            );
        }
        for (index, tenant) in self.id.tenants.iter().enumerate() {
            if !is_tenant(tenant) {
                faults.add(
                    named(&format!("tenants[{index}]")),
                    "is not the id of a tenant, such as `9188040d-6c67-4c5b-b112-36a304b66dad`",
                );
            }
        }
    }

    /// An issuer that was [checked](Self::check).
    pub(super) fn trust(
        self,
        audiences: &[String],
        insecure: bool,
        clock: &Arc<dyn Clock>,
    ) -> Result<TrustedIssuer, &'static str> {
        let keys = match self.source {
            Source::Given(keys) => Keys::Given(keys),
            Source::Fetched(client) => {
                let discovery = Discovery {
                    place: place(
                        &self.id,
                        self.metadata_url.as_deref(),
                        self.jwks_url.as_deref(),
                    )?,
                    issuer: self.id.clone(),
                    insecure,
                    client,
                    wanted: "keys",
                };
                Keys::Fetched(IssuerKeys::new(discovery, Arc::clone(clock)))
            }
        };
        Ok(TrustedIssuer {
            id: self.id,
            keys,
            audiences: if self.audiences.is_empty() {
                audiences.to_vec()
            } else {
                self.audiences
            },
            clients: self.clients,
            require_at_jwt: self.require_at_jwt,
        })
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("issuer", &self.id.text)
            .field("audiences", &self.audiences)
            .finish_non_exhaustive()
    }
}

/// Finds the endpoints of one authorization server.
#[cfg(feature = "linking")]
pub(crate) struct ServerDiscovery(Discovery);

#[cfg(feature = "linking")]
impl ServerDiscovery {
    /// The error is a sentence whose subject is the issuer's identifier.
    pub(crate) fn new(
        issuer: &str,
        insecure: bool,
        client: HttpClient,
    ) -> Result<Self, &'static str> {
        check_identifier(issuer, insecure)?;
        let issuer = IssuerId {
            text: issuer.to_owned(),
            tenants: Vec::new(),
        };
        Ok(Self(Discovery {
            place: place(&issuer, None, None)?,
            issuer,
            insecure,
            client,
            wanted: "endpoints",
        }))
    }

    pub(crate) async fn read(
        &self,
        presents_certificate: bool,
    ) -> Result<super::discovery::AuthorizationServer, crate::error::AuthError> {
        self.0.authorization_server(presents_certificate).await
    }
}

/// An issuer of a validator.
pub(super) struct TrustedIssuer {
    pub(super) id: IssuerId,
    pub(super) keys: Keys,
    pub(super) audiences: Vec<String>,
    /// The clients whose tokens need no audience.
    pub(super) clients: Vec<String>,
    pub(super) require_at_jwt: bool,
}

/// The identifier of an issuer, or of all tenants of one.
#[derive(Clone)]
pub(super) struct IssuerId {
    text: String,
    tenants: Vec<String>,
}

impl IssuerId {
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn is_template(&self) -> bool {
        self.text.contains(TENANT)
    }

    pub(super) fn is_https(&self) -> bool {
        self.text.starts_with("https:")
    }

    /// Whether a token with this `iss`, whose other claims are these, says that it is of this issuer.
    pub(super) fn is_of(&self, issuer: &str, claims: &Map<String, Value>) -> bool {
        if !self.is_template() {
            return self.text == issuer;
        }
        self.allowed_tenant(issuer)
            .is_some_and(|tenant| claims.get("tid").and_then(Value::as_str) == Some(tenant))
    }

    /// Whether metadata that names this issuer is this one's.
    pub(super) fn has_metadata_of(&self, issuer: &str) -> bool {
        self.text == issuer || (self.is_template() && self.allowed_tenant(issuer).is_some())
    }

    fn allowed_tenant<'a>(&self, issuer: &'a str) -> Option<&'a str> {
        let tenant = tenant_in(&self.text, issuer)?;
        let is_allowed = self.tenants.is_empty()
            || self
                .tenants
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(tenant));
        is_allowed.then_some(tenant)
    }

    /// The URLs at which callers can log in.
    pub(super) fn servers(&self) -> Vec<String> {
        if !self.is_template() || self.tenants.is_empty() {
            return vec![self.text.replace(TENANT, ANY_TENANT)];
        }
        let tenants = self.tenants.iter();
        tenants
            .map(|tenant| self.text.replace(TENANT, tenant))
            .collect()
    }
}

/// The tenant that `{tenantid}` in the template stands for, if it makes this issuer of it.
pub(super) fn tenant_in<'a>(template: &str, issuer: &'a str) -> Option<&'a str> {
    let (before, after) = template.split_once(TENANT)?;
    let tenant = issuer.strip_prefix(before)?.strip_suffix(after)?;
    is_tenant(tenant).then_some(tenant)
}

fn is_tenant(tenant: &str) -> bool {
    !tenant.is_empty()
        && tenant
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Whether metadata can be found by an issuer's identifier. The error is a sentence whose subject is the identifier.
fn check_identifier(issuer: &str, insecure: bool) -> Result<(), &'static str> {
    let (uri, _) = parse_url(&issuer.replace(TENANT, ANY_TENANT), insecure)?;
    if uri.query().is_some() {
        return Err("has a query, which an issuer's identifier cannot have (RFC 8414 §2)");
    }
    Ok(())
}

fn place(
    id: &IssuerId,
    metadata_url: Option<&str>,
    jwks_url: Option<&str>,
) -> Result<Place, &'static str> {
    let parse = |url: &str| url.parse::<Uri>().map_err(|_| "is not a URL");
    Ok(match (jwks_url, metadata_url) {
        (Some(url), _) => Place::Keys(parse(url)?),
        (None, Some(url)) => Place::Metadata(vec![parse(url)?]),
        (None, None) => Place::Metadata(well_known(&id.text.replace(TENANT, ANY_TENANT))?),
    })
}
