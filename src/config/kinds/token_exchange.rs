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
    oauth::{client_auth::ClientAuth, token_type::TokenType},
    secret::Secret,
    strategy::{strategy::Strategy, subject::Subject, token_exchange::TokenExchangeBuilder},
};

use super::{placement, short_token_type, token_type};

keys! {
    /// A token exchange (RFC 8693): the user's token is exchanged for one of the backend.
    pub struct TokenExchangeConfig {
        /// The URL of the token endpoint: https, or http on loopback.
        "tokenUrl" => token_url: String,
        /// The client's id. Without a secret it is a public client.
        #[serde(skip_serializing_if = "Option::is_none")]
        "clientId" => client_id: Option<String>,
        /// The client's secret, sent with HTTP Basic. Either this or `clientSecretEnv`.
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
        /// The type of the user's token that is exchanged: `access_token` (the default), `id_token`, `jwt`, `saml1` or
        /// `saml2`, or any other by its URN (RFC 8693 §3). An ID token comes from an upstream provider, so `id_token` needs `subjectProviderName`.
        #[serde(skip_serializing_if = "Option::is_none")]
        "subjectTokenType" => subject_token_type: Option<String>,
        /// The upstream provider that issued the token to exchange. By default the first provider if the application told
        /// them, or else the token that the user came with is exchanged.
        #[serde(skip_serializing_if = "Option::is_none")]
        "subjectProviderName" => subject_provider_name: Option<String>,
        /// The type of the token that is asked for: `access_token` (the default) or `jwt`, any other by its URN (RFC 8693
        /// §3), or `none` for an issuer that does not allow the parameter.
        #[serde(skip_serializing_if = "Option::is_none")]
        "requestedTokenType" => requested_token_type: Option<String>,
        /// The `grant_type` of an issuer that has its own grant for exchanges: an absolute URI or a name. By default
        /// `urn:ietf:params:oauth:grant-type:token-exchange`.
        #[serde(skip_serializing_if = "Option::is_none")]
        "grantType" => grant_type: Option<String>,
        /// Additional parameters of the request.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[schemars(default)]
        "parameters" => parameters: Vec<ParameterConfig>,
        /// The header that the token is sent in. By default `Authorization`, after `Bearer `.
        #[serde(skip_serializing_if = "Option::is_none")]
        "headerName" => header_name: Option<String>,
        /// The text before the token in the header `headerName`, for example `token`, and a space after it. By default
        /// there is none.
        #[serde(skip_serializing_if = "Option::is_none")]
        "headerPrefix" => header_prefix: Option<String>,
    }
}

keys! {
    /// An additional parameter of a token request.
    pub struct ParameterConfig {
        /// The name of the parameter. Those that a request has by other keys are refused, such as `scope`.
        "name" => name: String,
        /// Its value, which is no secret. Either this or `claim`.
        #[serde(skip_serializing_if = "Option::is_none")]
        "value" => value: Option<String>,
        /// The claim of the user that is its value: a text, a number, true or false.
        #[serde(skip_serializing_if = "Option::is_none")]
        "claim" => claim: Option<String>,
    }
}

impl ParameterConfig {
    /// A parameter with the same value for all users.
    pub fn constant(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            value: Some(value.into()),
            claim: None,
        }
    }

    /// A parameter whose value is a claim of the user.
    pub fn of_claim(name: impl Into<String>, claim: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            value: None,
            claim: Some(claim.into()),
        }
    }
}

impl TokenExchangeConfig {
    /// An exchange at the token endpoint with this URL.
    pub fn new(token_url: impl Into<String>) -> Self {
        Self {
            token_url: token_url.into(),
            ..Self::default()
        }
    }

    fn subject<B>(&self, block: &mut Block<'_, B>) -> Subject {
        let provider = self.subject_provider_name.as_deref();
        let provider = block.subject_provider("subjectProviderName", provider);
        let provider = provider.as_deref();
        let access = || provider.map_or_else(Subject::own_token, Subject::upstream);
        match self.subject_token_type.as_deref().map(short_token_type) {
            None | Some("access_token") => access(),
            Some("jwt") => access().as_jwt(),
            Some("id_token") => provider.map_or_else(
                || {
                    block.fault(
                        "subjectProviderName",
                        "is missing; an ID token is one of an upstream provider",
                    );
                    Subject::own_token()
                },
                Subject::upstream_id_token,
            ),
            Some(other) if matches!(other, "saml1" | "saml2") || other.contains(':') => {
                access().as_type(token_type(other))
            }
            Some(_) => {
                block.fault(
                    "subjectTokenType",
                    "is none of `access_token`, `id_token`, `jwt`, `saml1` and `saml2`, and no URN",
                );
                access()
            }
        }
    }
}

impl Kind for TokenExchangeConfig {
    const TYPE: &'static str = "token_exchange";
    const BLOCK: &'static str = "tokenExchange";

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
        let endpoint = block.endpoint(&self.token_url, false, &client);
        let mut strategy = TokenExchangeBuilder::new(endpoint)
            .scopes(&self.scopes)
            .subject(self.subject(block))
            .cache(block.resources.tokens())
            .clock(block.resources.clock());
        match self.requested_token_type.as_deref().map(short_token_type) {
            None | Some("access_token") => {}
            Some("jwt") => strategy = strategy.requested_token_type(TokenType::Jwt),
            Some("none") => strategy = strategy.requested_token_type(None),
            Some(other) if other.contains(':') => {
                strategy = strategy.requested_token_type(token_type(other));
            }
            Some(_) => block.fault(
                "requestedTokenType",
                "is none of `access_token`, `jwt` and `none`, and no URN",
            ),
        }
        if let Some(audience) = &self.audience {
            strategy = strategy.audience(audience);
        }
        if let Some(resource) = &self.resource {
            strategy = strategy.resource(resource);
        }
        if let Some(grant_type) = &self.grant_type {
            strategy = strategy.grant_type(grant_type);
        }
        for (index, parameter) in self.parameters.iter().enumerate() {
            let name = &parameter.name;
            block.need(&format!("parameters[{index}].name"), name);
            strategy = match (&parameter.value, &parameter.claim) {
                (Some(value), None) => strategy.parameter(name, value),
                (None, Some(claim)) => strategy.parameter_of_claim(name, claim),
                (Some(_), Some(_)) => {
                    block.fault(
                        &format!("parameters[{index}].claim"),
                        "is there beside `value`, remove one of the two",
                    );
                    strategy.parameter_of_claim(name, "-")
                }
                (None, None) => {
                    let [value, claim] =
                        ["value", "claim"].map(|key| format!("parameters[{index}].{key}"));
                    block.lack(&value, &[&claim], "is missing; give it, or `claim`");
                    strategy.parameter_of_claim(name, "-")
                }
            };
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
                ("audience", &["audience"]),
                ("resource", &["resource"]),
                ("grant_type", &["grantType"]),
                ("parameter[].name", &["parameters[].name"]),
                ("scopes[]", &["scopes[]"]),
                ("subject.provider", &["subjectProviderName"]),
                ("subject", &["subjectTokenType"]),
                ("requested_token_type", &["requestedTokenType"]),
            ],
        )?;
        Some(Arc::new(strategy))
    }
}
