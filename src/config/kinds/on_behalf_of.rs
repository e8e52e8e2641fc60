use std::{sync::Arc, time::Duration};

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
    strategy::{
        on_behalf_of::{OnBehalfOfBuilder, has_all},
        strategy::Strategy,
        subject::Subject,
    },
};

use super::placement;

keys! {
    /// The on-behalf-of flow of Microsoft Entra: the user's token is exchanged for one of the backend.
    pub struct OnBehalfOfConfig {
        /// The URL of the tenant's token endpoint: https, or http on loopback.
        "tokenUrl" => token_url: String,
        /// The client's id. It is required.
        #[serde(skip_serializing_if = "Option::is_none")]
        "clientId" => client_id: Option<String>,
        /// The client's secret, sent in the form. Either this, `clientSecretEnv`, `clientSecretFile`,
        /// `clientAssertionFile`, `clientKey` or `clientCertificate` is required.
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
        /// The scope of the token when `scopes` is empty.
        #[serde(skip_serializing_if = "Option::is_none")]
        "audience" => audience: Option<String>,
        /// The scopes of the token, which also say the API that it is for. Either this or `audience` is required.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[schemars(default)]
        "scopes" => scopes: Vec<String>,
        /// The scopes that the backend may ask for later, and get, in addition to `scopes`: the ceiling of step-up. It takes
        /// effect where the application sends rejected requests again. By default a backend gets no more.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[schemars(default)]
        "stepUpScopes" => step_up_scopes: Vec<String>,
        /// The upstream provider that issued the access token to exchange. By default, the token that the user came with
        /// is exchanged.
        #[serde(skip_serializing_if = "Option::is_none")]
        "subjectTokenProviderName" => subject_token_provider_name: Option<String>,
        /// The number of seconds before its end at which a cached token is given up. By default 0.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 0))]
        "cacheSkewSeconds" => cache_skew_seconds: Option<i32>,
        /// The header that the token is sent in. By default `Authorization`, after `Bearer `.
        #[serde(skip_serializing_if = "Option::is_none")]
        "headerName" => header_name: Option<String>,
        /// The text before the token in the header `headerName`, for example `token`, and a space after it. By default
        /// there is none.
        #[serde(skip_serializing_if = "Option::is_none")]
        "headerPrefix" => header_prefix: Option<String>,
    }
}

impl OnBehalfOfConfig {
    /// The flow at the token endpoint with this URL, for this client. Set one of `client_secret` and
    /// `client_secret_env`, and one of `scopes` and `audience`.
    pub fn new(token_url: impl Into<String>, client_id: impl Into<String>) -> Self {
        Self {
            token_url: token_url.into(),
            client_id: Some(client_id.into()),
            ..Self::default()
        }
    }
}

impl Kind for OnBehalfOfConfig {
    const TYPE: &'static str = "obo";
    const BLOCK: &'static str = "obo";

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
        let client = client_keys!(self, with_secret: ClientAuth::post);
        block.need_confidential_client(&client, &[]);
        let endpoint = block.endpoint(&self.token_url, false, &client);
        let (scopes, scopes_key) = match &self.audience {
            Some(audience) if self.scopes.is_empty() => {
                (std::slice::from_ref(audience), "audience")
            }
            _ => (&*self.scopes, "scopes[]"),
        };
        if scopes.is_empty() {
            block.fault("scopes", "is missing; give it, or `audience`");
        }
        if !self.step_up_scopes.is_empty() && scopes.iter().any(|scope| has_all(scope)) {
            block.fault(
                "stepUpScopes",
                "is of no use, because `.default` has all scopes already, and Microsoft Entra refuses others beside it",
            );
        }
        let skew = u64::try_from(self.cache_skew_seconds.unwrap_or(0));
        if skew.is_err() {
            block.fault("cacheSkewSeconds", "is negative");
        }
        let provider = self.subject_token_provider_name.as_ref();
        if let Some(provider) = provider {
            block.check_provider("subjectTokenProviderName", provider);
        }
        let mut strategy = OnBehalfOfBuilder::new(endpoint)
            .scopes(scopes)
            .subject(provider.map_or_else(Subject::own_token, Subject::upstream))
            .cache_skew(Duration::from_secs(skew.unwrap_or_default()))
            .cache(block.resources.tokens())
            .clock(block.resources.clock());
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
                (
                    "endpoint.client_auth",
                    &[
                        "clientSecret",
                        "clientSecretEnv",
                        "clientSecretFile",
                        "clientAssertionFile",
                        "clientKey.",
                        "clientCertificate.",
                        "clientId",
                    ],
                ),
                ("scopes", &["scopes"]),
                ("scopes[]", &[scopes_key]),
                ("subject.provider", &["subjectTokenProviderName"]),
            ],
        )?;
        Some(Arc::new(strategy))
    }
}
