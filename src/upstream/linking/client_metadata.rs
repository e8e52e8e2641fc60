use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tower::Service;

use crate::{
    error::{BuildError, Faults},
    oauth::{
        client_auth::{ClientAuth, PublishedAuth},
        http_client::parse_url,
        published_document::PublishedDocument,
    },
    upstream::oauth_provider::document_path,
};

/// A service for the document that stands for this application at providers that know it by
/// a URL instead of a registration (draft-ietf-oauth-client-id-metadata-document).
///
/// Needs the feature `linking`.
///
/// [`AccountLinking::client_metadata`](crate::AccountLinking::client_metadata) makes it, and has an
/// example. Route its [`path`](Self::path) to it, and let anyone read it. It answers `GET`
/// and `HEAD` for that path, and 404 for any other.
#[derive(Clone)]
pub struct ClientMetadata {
    inner: Arc<Inner>,
}

struct Inner {
    client_id: String,
    path: String,
    document: Bytes,
}

impl ClientMetadata {
    /// The path of the client's ID, for a router.
    pub fn path(&self) -> &str {
        &self.inner.path
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.uri().path() != self.inner.path {
            let mut response = Response::default();
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        }
        let document = PublishedDocument {
            content_type: "application/json",
            cache_control: "max-age=300",
            content: self.inner.document.clone(),
        };
        document.answer(request.method())
    }
}

impl<B> Service<Request<B>> for ClientMetadata {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(self.answer(&request)))
    }
}

impl fmt::Debug for ClientMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientMetadata")
            .field("client_id", &self.inner.client_id)
            .finish_non_exhaustive()
    }
}

/// Builds a [`ClientMetadata`]. [`AccountLinking::client_metadata`](crate::AccountLinking::client_metadata) has an example.
///
/// Needs the feature `linking`.
#[must_use = "nothing is checked before `build`"]
pub struct ClientMetadataBuilder {
    client_id: String,
    name: String,
    redirect_uris: Vec<String>,
    /// One for each provider.
    auths: Vec<Option<PublishedAuth>>,
    jwks_uri: Option<String>,
}

impl ClientMetadataBuilder {
    pub(super) fn new(client_id: &str, name: &str) -> Self {
        Self {
            client_id: client_id.to_owned(),
            name: name.to_owned(),
            redirect_uris: Vec::new(),
            auths: Vec::new(),
            jwks_uri: None,
        }
    }

    pub(super) fn add(&mut self, redirect_uri: &str, client_auth: &ClientAuth) {
        self.redirect_uris.push(redirect_uri.to_owned());
        self.auths.push(client_auth.published());
    }

    /// Sets where the keys of a client with [`private_key_jwt`](crate::ClientAuth::private_key_jwt) are published, for
    /// example by [`Jwks`](crate::oauth::Jwks). By default they are in the document.
    ///
    /// Needs the feature `private-key-jwt`.
    ///
    /// A key that is not in this process, see [`JwtSigner`](crate::oauth::JwtSigner), needs it, and so does a key that is
    /// replaced while the application runs.
    #[cfg(feature = "private-key-jwt")]
    pub fn jwks_uri(mut self, url: impl Into<String>) -> Self {
        self.jwks_uri = Some(url.into());
        self
    }

    /// Makes the service.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when one of these settings is wrong:
    ///
    /// - `client_id` is not an `https` URL (or `http` on loopback) with a path and without a query, or no provider of the
    ///   `AccountLinking` has it.
    /// - `client_auth` of one of these providers has a secret, a certificate or another's assertion, which such a client
    ///   cannot have, or is not the same for all of them. Or its key is not known in this process, and `jwks_uri` is not set.
    /// - `jwks_uri` is not such a URL, or the client has no key.
    pub fn build(self) -> Result<ClientMetadata, BuildError> {
        let mut faults = Faults::new("ClientMetadata");
        let path = faults.take("client_id", document_path(&self.client_id));
        if self.redirect_uris.is_empty() {
            faults.add("client_id", "is not the client's ID at any provider");
        }
        if let Some(url) = &self.jwks_uri {
            faults.take("jwks_uri", parse_url(url, false));
        }
        let mut document = vec![
            ("client_id", json!(self.client_id)),
            ("client_name", json!(self.name)),
            ("redirect_uris", json!(self.redirect_uris)),
            (
                "grant_types",
                json!(["authorization_code", "refresh_token"]),
            ),
            ("response_types", json!(["code"])),
        ];
        match self.authentication() {
            Ok(members) => document.extend(members),
            Err((setting, fault)) => faults.add(setting, fault),
        }
        let document: BTreeMap<_, _> = document.into_iter().collect();
        Ok(ClientMetadata {
            inner: Arc::new(Inner {
                path: faults.or(path)?,
                client_id: self.client_id,
                document: json!(document).to_string().into(),
            }),
        })
    }

    /// The members of the document that say how the client authenticates, or the setting that is wrong.
    fn authentication(&self) -> Result<Members, (&'static str, &'static str)> {
        let mut method: Option<(&str, Option<&str>)> = None;
        let mut keys: Vec<Value> = Vec::new();
        for auth in &self.auths {
            let (this, key) = match auth {
                None => return Err(("client_auth", SECRET)),
                Some(PublishedAuth::None) => (("none", None), None),
                #[cfg(feature = "private-key-jwt")]
                Some(PublishedAuth::PrivateKeyJwt { algorithm, key }) => {
                    if key.is_none() && self.jwks_uri.is_none() {
                        return Err(("client_auth", UNKNOWN_KEY));
                    }
                    (("private_key_jwt", Some(*algorithm)), key.clone())
                }
            };
            if *method.get_or_insert(this) != this {
                return Err(("client_auth", DIFFERENT));
            }
            keys.extend(key.filter(|key| !keys.contains(key)));
        }
        let (method, algorithm) = method.unwrap_or(("none", None));
        let mut members = vec![("token_endpoint_auth_method", method.into())];
        match (algorithm, &self.jwks_uri) {
            (None, None) => {}
            (None, Some(_)) => return Err(("jwks_uri", "is set for a client without a key")),
            (Some(algorithm), jwks_uri) => {
                members.push(("token_endpoint_auth_signing_alg", algorithm.into()));
                members.push(match jwks_uri {
                    Some(url) => ("jwks_uri", url.as_str().into()),
                    None => ("jwks", json!({ "keys": keys })),
                });
            }
        }
        Ok(members)
    }
}

type Members = Vec<(&'static str, Value)>;

const SECRET: &str = "has a secret, a certificate or another's assertion, which a client with a document cannot have (use \
                      `ClientAuth::none` or `private_key_jwt`)";
#[cfg(feature = "private-key-jwt")]
const UNKNOWN_KEY: &str = "has a key that is not in this process, set `jwks_uri`";
const DIFFERENT: &str = "is not the same at all providers that know the client by this ID";

impl fmt::Debug for ClientMetadataBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientMetadataBuilder")
            .field("client_id", &self.client_id)
            .field("redirect_uris", &self.redirect_uris)
            .finish_non_exhaustive()
    }
}
