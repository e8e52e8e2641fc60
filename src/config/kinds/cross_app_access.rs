use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;
use tower::BoxError;

use crate::{
    config::{
        block::{Block, ClientKeys},
        kind::{Kind, keys, write_redacted},
        variable_name::VariableName,
    },
    oauth::client_auth::ClientAuth,
    secret::Secret,
    strategy::{cross_app_access::CrossAppAccessBuilder, strategy::Strategy},
};

use super::short_token_type;

keys! {
    /// Cross-app access (ID-JAG): the backend's authorization server issues a token for an assertion of the user's identity
    /// provider.
    pub struct CrossAppAccessConfig {
        /// The URL of the identity provider's token endpoint: https, or http on loopback.
        "idpTokenUrl" => idp_token_url: String,
        /// The client's id at the identity provider. Without a secret it is a public client.
        #[serde(skip_serializing_if = "Option::is_none")]
        "idpClientId" => idp_client_id: Option<String>,
        /// The client's secret at the identity provider, sent with HTTP Basic. Either this or `idpClientSecretEnv`.
        #[serde(
            skip_serializing_if = "Option::is_none",
            serialize_with = "write_redacted"
        )]
        #[schemars(with = "Option<String>")]
        "idpClientSecret" => idp_client_secret: Option<Secret>,
        /// The environment variable that has the client's secret at the identity provider.
        #[serde(skip_serializing_if = "Option::is_none")]
        "idpClientSecretEnv" => idp_client_secret_env: Option<VariableName>,
        /// The URL of the token endpoint of the backend's authorization server: https, or http on loopback.
        "targetTokenUrl" => target_token_url: String,
        /// Allows plain http for `targetTokenUrl` on any host. It is meant for a trusted network.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        #[schemars(default)]
        "insecureTargetTokenUrl" => insecure_target_token_url: bool,
        /// The client's id at the authorization server. Without a secret it is a public client.
        #[serde(skip_serializing_if = "Option::is_none")]
        "targetClientId" => target_client_id: Option<String>,
        /// The client's secret at the authorization server, sent with HTTP Basic. Either this or
        /// `targetClientSecretEnv`.
        #[serde(
            skip_serializing_if = "Option::is_none",
            serialize_with = "write_redacted"
        )]
        #[schemars(with = "Option<String>")]
        "targetClientSecret" => target_client_secret: Option<Secret>,
        /// The environment variable that has the client's secret at the authorization server.
        #[serde(skip_serializing_if = "Option::is_none")]
        "targetClientSecretEnv" => target_client_secret_env: Option<VariableName>,
        /// The issuer identifier of the authorization server, character by character.
        "targetAudience" => target_audience: String,
        /// The address of the backend, an absolute URI (RFC 8707).
        #[serde(skip_serializing_if = "Option::is_none")]
        "targetResource" => target_resource: Option<String>,
        /// The scopes of the assertion, which are sent to the identity provider.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[schemars(default)]
        "scopes" => scopes: Vec<String>,
        /// The scopes that are sent to the authorization server with the assertion. By default none are, and the
        /// assertion decides.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[schemars(default)]
        "targetScopes" => target_scopes: Vec<String>,
        /// The issuer of the assertion: the identity provider's issuer identifier. By default the `iss` of the user's ID
        /// token.
        #[serde(skip_serializing_if = "Option::is_none")]
        "idpIssuer" => idp_issuer: Option<String>,
        /// The upstream provider that issued the user's ID token. By default the only one, if the application told them.
        #[serde(skip_serializing_if = "Option::is_none")]
        "subjectProviderName" => subject_provider_name: Option<String>,
        /// The type of the user's token. Only `id_token`, or its URN, is accepted.
        #[serde(skip_serializing_if = "Option::is_none")]
        "subjectTokenType" => subject_token_type: Option<String>,
    }
}

impl CrossAppAccessConfig {
    /// Access to a backend whose authorization server has its token endpoint at `target_token_url` and the issuer
    /// identifier `target_audience`. The user's ID token is that of the upstream provider `subject_provider_name`, whose
    /// token endpoint is at `idp_token_url`.
    pub fn new(
        subject_provider_name: impl Into<String>,
        idp_token_url: impl Into<String>,
        target_token_url: impl Into<String>,
        target_audience: impl Into<String>,
    ) -> Self {
        Self {
            subject_provider_name: Some(subject_provider_name.into()),
            idp_token_url: idp_token_url.into(),
            target_token_url: target_token_url.into(),
            target_audience: target_audience.into(),
            ..Self::default()
        }
    }
}

impl Kind for CrossAppAccessConfig {
    const TYPE: &'static str = "xaa";
    const BLOCK: &'static str = "xaa";

    fn build<B>(&self, block: &mut Block<'_, B>) -> Option<Arc<dyn Strategy<B>>>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        block.need("idpTokenUrl", &self.idp_token_url);
        block.need("targetTokenUrl", &self.target_token_url);
        block.need("targetAudience", &self.target_audience);
        let provider = self.subject_provider_name.as_deref();
        let provider = block.only_subject_provider("subjectProviderName", provider);
        let idp_client = ClientKeys {
            id: ("idpClientId", &self.idp_client_id),
            secret: ("idpClientSecret", &self.idp_client_secret),
            secret_env: ("idpClientSecretEnv", &self.idp_client_secret_env),
            with_secret: ClientAuth::basic,
        };
        let target_client = ClientKeys {
            id: ("targetClientId", &self.target_client_id),
            secret: ("targetClientSecret", &self.target_client_secret),
            secret_env: ("targetClientSecretEnv", &self.target_client_secret_env),
            with_secret: ClientAuth::basic,
        };
        let insecure = self.insecure_target_token_url;
        let identity_provider = block.endpoint(&self.idp_token_url, false, &idp_client);
        let authorization_server = block.endpoint(&self.target_token_url, insecure, &target_client);
        let token_type = self.subject_token_type.as_deref().map(short_token_type);
        if token_type.is_some_and(|token_type| token_type != "id_token") {
            block.fault(
                "subjectTokenType",
                "is not `id_token`, the only one that is accepted",
            );
        }
        let mut strategy =
            CrossAppAccessBuilder::new(provider, identity_provider, authorization_server)
                .audience(&self.target_audience)
                .scopes(&self.scopes)
                .authorization_server_scopes(&self.target_scopes)
                .cache(block.resources.tokens())
                .clock(block.resources.clock());
        if let Some(resource) = &self.target_resource {
            strategy = strategy.resource(resource);
        }
        if let Some(issuer) = &self.idp_issuer {
            strategy = strategy.issuer(issuer);
        }
        let strategy = block.built(
            strategy.build(),
            &[
                ("provider", &["subjectProviderName"]),
                ("identity_provider.url", &["idpTokenUrl"]),
                ("identity_provider.client_auth.client_id", &["idpClientId"]),
                ("authorization_server.url", &["targetTokenUrl"]),
                ("authorization_server.insecure", &["insecureTargetTokenUrl"]),
                (
                    "authorization_server.client_auth.client_id",
                    &["targetClientId"],
                ),
                ("audience", &["targetAudience"]),
                ("resource", &["targetResource"]),
                ("issuer", &["idpIssuer"]),
                ("scopes[]", &["scopes[]"]),
                ("authorization_server_scopes[]", &["targetScopes[]"]),
            ],
        )?;
        Some(Arc::new(strategy))
    }
}
