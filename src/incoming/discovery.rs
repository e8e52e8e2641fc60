use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, StatusCode, Uri,
    header::{ACCEPT, CACHE_CONTROL},
    uri::Scheme,
};
use http_body_util::Full;
use serde_json::{Map, Value};

use crate::{
    error::{AuthError, AuthErrorKind},
    oauth::http_client::{Answer, HttpClient, parse_url},
};

use super::{issuer::IssuerId, key_set::KeySet};

const TIME_LIMIT: Duration = Duration::from_secs(10);
const DEFAULT_MAX_AGE: Duration = Duration::from_secs(60 * 60);
const MIN_MAX_AGE: Duration = Duration::from_secs(5 * 60);
const LONGEST_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

const NO_METADATA: &str = "has no metadata of an issuer (OIDC Discovery §3, RFC 8414 §2)";
const JSON: &str = "application/json";
/// The media type of RFC 7517 §8.5.1, without which Kubernetes answers 406, and the one that others have.
const JSON_OR_KEY_SET: &str = "application/jwk-set+json, application/json";

/// Finds and fetches the key set of one issuer.
pub(super) struct Discovery {
    pub(super) issuer: IssuerId,
    pub(super) place: Place,
    pub(super) insecure: bool,
    pub(super) client: HttpClient,
    /// The thing that is looked for, as an error names it.
    pub(super) wanted: &'static str,
}

/// The parts of an authorization server's metadata that linking needs (RFC 8414 §2).
#[cfg(feature = "linking")]
pub(crate) struct AuthorizationServer {
    pub(crate) authorization_endpoint: String,
    pub(crate) token_endpoint: String,
    /// Whether it names itself in each authorization response (RFC 9207 §3).
    pub(crate) names_itself: bool,
    /// Whether it says that it takes no S256 code challenges (RFC 7636). Most say nothing.
    pub(crate) refuses_s256: bool,
    /// Whether it reads Client ID Metadata Documents.
    pub(crate) reads_client_documents: bool,
    /// The algorithms that it accepts in DPoP proofs, if it says (RFC 9449 §5.1).
    #[cfg(feature = "dpop")]
    pub(crate) dpop_algorithms: Option<Vec<String>>,
}

/// The URLs that lead to a key set.
pub(super) enum Place {
    /// The first of these documents that is the issuer's metadata names it.
    Metadata(Vec<Uri>),
    Keys(Uri),
}

/// Why a document does not lead to a key set.
enum Odd {
    /// Nor will another one, because the server does not answer.
    Unreachable(AuthError),
    NotThere(AuthError),
    Unusable(AuthError),
}

impl Discovery {
    /// The keys, and for how long they may be kept.
    pub(super) async fn fetch_keys(&self) -> Result<(KeySet, Duration), AuthError> {
        let answer = match &self.place {
            Place::Keys(uri) => self.ask(uri, JSON_OR_KEY_SET).await?,
            Place::Metadata(documents) => {
                let uri = self.find_keys(documents).await?;
                self.ask(&uri, JSON_OR_KEY_SET).await?
            }
        };
        if answer.status != StatusCode::OK {
            let status = answer.status.as_u16();
            return Err(self.unavailable(format_args!("answered {status} instead of its key set")));
        }
        let keys = KeySet::parse(&answer.body)
            .map_err(|fault| self.unavailable(format_args!("has a key set that {fault}")))?;
        tracing::debug!(
            issuer = self.issuer.as_str(),
            ?keys,
            "fetched the issuer's keys"
        );
        Ok((keys, max_age(&answer.headers)))
    }

    /// The endpoints that the issuer's metadata names, for a client that presents a certificate or none.
    #[cfg(feature = "linking")]
    pub(super) async fn authorization_server(
        &self,
        presents_certificate: bool,
    ) -> Result<AuthorizationServer, AuthError> {
        let Place::Metadata(documents) = &self.place else {
            return Err(self.unavailable("has no place for its metadata"));
        };
        self.read_first(documents, |metadata| {
            self.read_server(metadata, presents_certificate)
        })
        .await
    }

    async fn find_keys(&self, documents: &[Uri]) -> Result<Uri, AuthError> {
        self.read_first(documents, |metadata| self.keys_uri(metadata))
            .await
    }

    /// Reads the first document that is the issuer's metadata and has what is wanted.
    async fn read_first<T>(
        &self,
        documents: &[Uri],
        read: impl Fn(&Map<String, Value>) -> Result<T, String>,
    ) -> Result<T, AuthError> {
        let mut unusable = None;
        let mut not_there = None;
        for document in documents {
            match self.read_metadata(document, &read).await {
                Ok(wanted) => return Ok(wanted),
                Err(Odd::Unreachable(error)) => return Err(error),
                Err(Odd::Unusable(error)) => unusable = unusable.or(Some(error)),
                Err(Odd::NotThere(error)) => not_there = Some(error),
            }
        }
        let error = unusable.or(not_there);
        Err(error.unwrap_or_else(|| self.unavailable("has no place for its metadata")))
    }

    async fn read_metadata<T>(
        &self,
        document: &Uri,
        read: impl Fn(&Map<String, Value>) -> Result<T, String>,
    ) -> Result<T, Odd> {
        let answer = self.ask(document, JSON).await.map_err(Odd::Unreachable)?;
        if answer.status != StatusCode::OK {
            let status = answer.status.as_u16();
            let error = self.unavailable(format_args!("answered {status} instead of its metadata"));
            return Err(if answer.status.is_client_error() {
                Odd::NotThere(error)
            } else {
                Odd::Unusable(error)
            });
        }
        self.own_metadata(&answer.body)
            .and_then(|metadata| read(&metadata))
            .map_err(|fault| Odd::Unusable(self.unavailable(fault)))
    }

    /// The document, if it is the metadata of this issuer.
    fn own_metadata(&self, document: &[u8]) -> Result<Map<String, Value>, String> {
        // `serde_json` quotes the text in its errors, so they go no further.
        let metadata: Option<Map<String, Value>> = serde_json::from_slice(document).ok();
        let metadata = metadata.ok_or(NO_METADATA)?;
        let issuer = metadata.get("issuer").and_then(Value::as_str);
        if !self.issuer.has_metadata_of(issuer.ok_or(NO_METADATA)?) {
            return Err(
                "has the metadata of another issuer (RFC 8414 §3.3); configure the `issuer` as its metadata has it"
                    .to_owned(),
            );
        }
        Ok(metadata)
    }

    fn keys_uri(&self, metadata: &Map<String, Value>) -> Result<Uri, String> {
        self.url_in(metadata, "jwks_uri")
    }

    #[cfg(feature = "linking")]
    fn read_server(
        &self,
        metadata: &Map<String, Value>,
        presents_certificate: bool,
    ) -> Result<AuthorizationServer, String> {
        const NAMES_ITSELF: &str = "authorization_response_iss_parameter_supported";

        const READS_DOCUMENTS: &str = "client_id_metadata_document_supported";

        let methods = metadata.get("code_challenge_methods_supported");
        let methods = methods.and_then(Value::as_array);
        Ok(AuthorizationServer {
            authorization_endpoint: self.url_in(metadata, "authorization_endpoint")?.to_string(),
            token_endpoint: self
                .token_endpoint(metadata, presents_certificate)?
                .to_string(),
            names_itself: metadata.get(NAMES_ITSELF) == Some(&Value::Bool(true)),
            reads_client_documents: metadata.get(READS_DOCUMENTS) == Some(&Value::Bool(true)),
            #[cfg(feature = "dpop")]
            dpop_algorithms: metadata
                .get("dpop_signing_alg_values_supported")
                .and_then(Value::as_array)
                .map(|names| {
                    let names = names.iter().filter_map(Value::as_str);
                    names.map(str::to_owned).collect()
                }),
            refuses_s256: methods.is_some_and(|methods| !methods.iter().any(|each| each == "S256")),
        })
    }

    /// A client that presents a certificate uses the endpoint's alias, if there is one (RFC 8705 §5).
    #[cfg(feature = "linking")]
    fn token_endpoint(
        &self,
        metadata: &Map<String, Value>,
        presents_certificate: bool,
    ) -> Result<Uri, String> {
        const NAME: &str = "token_endpoint";

        match metadata.get("mtls_endpoint_aliases") {
            Some(Value::Object(aliases)) if presents_certificate && aliases.contains_key(NAME) => {
                self.url_in(aliases, NAME)
            }
            None | Some(Value::Object(_) | Value::Null) => self.url_in(metadata, NAME),
            Some(_) if !presents_certificate => self.url_in(metadata, NAME),
            Some(_) => Err("names `mtls_endpoint_aliases` that are no object".to_owned()),
        }
    }

    fn url_in(&self, metadata: &Map<String, Value>, name: &str) -> Result<Uri, String> {
        let url = metadata.get(name).and_then(Value::as_str);
        let (uri, _) = parse_url(url.ok_or(NO_METADATA)?, self.insecure)
            .map_err(|fault| format!("names a `{name}` that {fault}"))?;
        let is_downgrade = self.issuer.is_https() && uri.scheme() != Some(&Scheme::HTTPS);
        if is_downgrade && !self.insecure {
            return Err(format!(
                "names a `{name}` that is plain http, but is an https issuer"
            ));
        }
        Ok(uri)
    }

    async fn ask(&self, uri: &Uri, accept: &'static str) -> Result<Answer, AuthError> {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = uri.clone();
        request
            .headers_mut()
            .insert(ACCEPT, HeaderValue::from_static(accept));
        let answer = self.client.call(request, TIME_LIMIT).await;
        answer.map_err(|failure| failure.into_error(TIME_LIMIT, |fault| self.unavailable(fault)))
    }

    #[cold]
    fn unavailable(&self, fault: impl fmt::Display) -> AuthError {
        let issuer = self.issuer.as_str();
        AuthError::new(
            AuthErrorKind::Unavailable,
            format!(
                "the {} of the issuer {issuer} are not available: it {fault}",
                self.wanted
            ),
        )
    }
}

/// Where an issuer's metadata can be: behind its path (OIDC Discovery §4), and between host and path under both names
/// (RFC 8414 §3.1 and §5), as the authorization specification of MCP has it.
pub(super) fn well_known(issuer: &str) -> Result<Vec<Uri>, &'static str> {
    const OPENID: &str = "/.well-known/openid-configuration";
    const OAUTH: &str = "/.well-known/oauth-authorization-server";

    let issuer = issuer.trim_end_matches('/');
    let authority = issuer.find("://").map_or(0, |scheme| scheme + 3);
    let path_at = issuer
        .get(authority..)
        .and_then(|rest| rest.find('/'))
        .map_or(issuer.len(), |slash| authority + slash);
    let (host, path) = issuer.split_at(path_at);
    let mut documents = vec![
        format!("{host}{path}{OPENID}"),
        format!("{host}{OAUTH}{path}"),
    ];
    if !path.is_empty() {
        documents.push(format!("{host}{OPENID}{path}"));
    }
    let documents = documents.iter().map(|document| document.parse());
    documents
        .collect::<Result<_, _>>()
        .map_err(|_| "is not a URL such as `https://idp.example.com`")
}

fn max_age(headers: &HeaderMap) -> Duration {
    headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|directive| directive.trim().strip_prefix("max-age="))
        .find_map(|seconds| seconds.parse().ok())
        .map_or(DEFAULT_MAX_AGE, Duration::from_secs)
        .clamp(MIN_MAX_AGE, LONGEST_MAX_AGE)
}
