use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;
use tower::BoxError;

use crate::{
    config::{
        block::{Block, client_keys},
        client_certificate::ClientCertificateConfig,
        client_key::ClientKeyConfig,
        dpop::{DpopConfig, not_null},
        file_path::FilePath,
        kind::{Kind, keys, write_redacted},
        variable_name::VariableName,
    },
    oauth::client_auth::ClientAuth,
    secret::Secret,
    strategy::{client_credentials::ClientCredentialsBuilder, strategy::Strategy},
};

use super::placement;

keys! {
    /// The application's own token, which is the same for all users: client credentials (RFC 6749 §4.4), or the token of
    /// the workload as the grant (RFC 7523 §2.1).
    pub struct ClientCredentialsConfig {
        /// The URL of the token endpoint: https, or http on loopback.
        "tokenUrl" => token_url: String,
        /// The client's id. It may be missing only where `workloadTokenFile` is the grant.
        #[serde(skip_serializing_if = "Option::is_none")]
        "clientId" => client_id: Option<String>,
        /// The client's secret, sent with HTTP Basic. The client needs one of this, `clientSecretEnv`, `clientSecretFile`,
        /// `clientAssertionFile`, `clientKey` and `clientCertificate`.
        #[serde(
            skip_serializing_if = "Option::is_none",
            serialize_with = "write_redacted"
        )]
        #[schemars(with = "Option<String>")]
        "clientSecret" => client_secret: Option<Secret>,
        /// The environment variable that has the client's secret.
        #[serde(skip_serializing_if = "Option::is_none")]
        "clientSecretEnv" => client_secret_env: Option<VariableName>,
        /// The absolute path of the file that has the client's secret. It is read again when it changes.
        #[serde(skip_serializing_if = "Option::is_none")]
        "clientSecretFile" => client_secret_file: Option<FilePath>,
        /// The absolute path of the file that has a JWT with which the client authenticates in place of a secret
        /// (RFC 7523 §2.2), for example the projected token of Kubernetes. It is read again when it changes.
        #[serde(skip_serializing_if = "Option::is_none")]
        "clientAssertionFile" => client_assertion_file: Option<FilePath>,
        /// The type of this JWT: `jwt-bearer` (the default), or `jwt-spiffe` for a JWT-SVID.
        #[serde(skip_serializing_if = "Option::is_none")]
        "clientAssertionType" => client_assertion_type: Option<String>,
        /// The private key with which the client authenticates in place of a secret.
        #[serde(skip_serializing_if = "Option::is_none")]
        "clientKey" => client_key: Option<ClientKeyConfig>,
        /// The certificate with which the client authenticates in place of a secret. The application's HTTP client presents
        /// it.
        #[serde(skip_serializing_if = "Option::is_none")]
        "clientCertificate" => client_certificate: Option<ClientCertificateConfig>,
        /// The key that the tokens are bound to. By default to none.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(transform = not_null)]
        "dpop" => dpop: Option<DpopConfig>,
        /// The absolute path of the file that has the JWT of the workload, which is presented as the grant itself. It is
        /// read again when it changes. By default the grant is that of client credentials.
        #[serde(skip_serializing_if = "Option::is_none")]
        "workloadTokenFile" => workload_token_file: Option<FilePath>,
        /// The name of the service that the token is for.
        #[serde(skip_serializing_if = "Option::is_none")]
        "audience" => audience: Option<String>,
        /// The address of the service that the token is for, an absolute URI (RFC 8707).
        #[serde(skip_serializing_if = "Option::is_none")]
        "resource" => resource: Option<String>,
        /// The scopes of the token.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[schemars(default)]
        "scopes" => scopes: Vec<String>,
        /// The scopes that the backend may ask for later, and get, in addition to `scopes`: the ceiling of step-up. It takes
        /// effect where the application sends rejected requests again. By default a backend gets no more.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[schemars(default)]
        "stepUpScopes" => step_up_scopes: Vec<String>,
        /// The header that the token is sent in. By default `Authorization`, after `Bearer `.
        #[serde(skip_serializing_if = "Option::is_none")]
        "headerName" => header_name: Option<String>,
        /// The text before the token in the header `headerName`, for example `token`, and a space after it. By default
        /// there is none.
        #[serde(skip_serializing_if = "Option::is_none")]
        "headerPrefix" => header_prefix: Option<String>,
    }
}

impl ClientCredentialsConfig {
    /// A token of the endpoint with this URL. Set `client_id` and a credential of the client, or `workload_token_file`.
    pub fn new(token_url: impl Into<String>) -> Self {
        Self {
            token_url: token_url.into(),
            ..Self::default()
        }
    }
}

impl Kind for ClientCredentialsConfig {
    const TYPE: &'static str = "client_credentials";
    const BLOCK: &'static str = "clientCredentials";

    fn step_up_scopes(&self) -> &[String] {
        &self.step_up_scopes
    }

    fn headers(&self) -> Vec<String> {
        vec![super::header_of_token(self.header_name.as_deref())]
    }

    fn build<B>(&self, block: &mut Block<'_, B>) -> Option<Arc<dyn Strategy<B>>>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        block.need("tokenUrl", &self.token_url);
        block.check_scopes("stepUpScopes", &self.step_up_scopes);
        let client = client_keys!(self, with_secret: ClientAuth::basic);
        let workload_token = block.file(("workloadTokenFile", &self.workload_token_file));
        if self.workload_token_file.is_none() {
            block.need_confidential_client(&client, &["workloadTokenFile"]);
        }
        let endpoint = block.endpoint(&self.token_url, false, &client);
        let mut strategy = ClientCredentialsBuilder::new(endpoint)
            .scopes(&self.scopes)
            .cache(block.resources.tokens())
            .clock(block.resources.clock());
        if let Some(token) = workload_token {
            strategy = strategy.workload_token(token);
        }
        if let Some(audience) = &self.audience {
            strategy = strategy.audience(audience);
        }
        if let Some(resource) = &self.resource {
            strategy = strategy.resource(resource);
        }
        if let Some(placement) = placement(
            block,
            self.header_name.as_deref(),
            self.header_prefix.as_deref(),
        ) {
            strategy = strategy.placement(placement);
        }
        let strategy = block.built(
            strategy.build(),
            &[
                ("endpoint.url", &["tokenUrl"]),
                ("placement", &["headerName"]),
                ("endpoint.client_auth.client_id", &["clientId"]),
                ("endpoint.client_auth", CLIENT_KEYS),
                ("workload_token", &["workloadTokenFile"]),
                ("audience", &["audience"]),
                ("resource", &["resource"]),
                ("scopes[]", &["scopes[]"]),
            ],
        )?;
        Some(Arc::new(strategy))
    }
}

const CLIENT_KEYS: &[&str] = &[
    "clientSecret",
    "clientSecretEnv",
    "clientSecretFile",
    "clientAssertionFile",
    "clientKey.",
    "clientCertificate.",
    "clientId",
    "workloadTokenFile",
];
