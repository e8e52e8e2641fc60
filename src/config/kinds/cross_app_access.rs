use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;
use tower::BoxError;

use crate::{
    config::{
        block::{Block, ClientKeys},
        client_certificate::ClientCertificateConfig,
        client_key::ClientKeyConfig,
        dpop::{DpopConfig, not_null},
        file_path::FilePath,
        kind::{Kind, keys, write_redacted},
        variable_name::VariableName,
    },
    oauth::{client_auth::ClientAuth, token_type::TokenType},
    secret::Secret,
    strategy::{
        cross_app_access::builder::CrossAppAccessBuilder, strategy::Strategy, subject::Subject,
    },
};

use super::{placement, token_type};

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
        /// The absolute path of the file that has the client's secret at the identity provider. It is read again when it changes.
        #[serde(skip_serializing_if = "Option::is_none")]
        "idpClientSecretFile" => idp_client_secret_file: Option<FilePath>,
        /// The absolute path of the file that has a JWT with which the client authenticates in place of a secret at the identity provider
        /// (RFC 7523 §2.2), for example the projected token of Kubernetes. It is read again when it changes.
        #[serde(skip_serializing_if = "Option::is_none")]
        "idpClientAssertionFile" => idp_client_assertion_file: Option<FilePath>,
        /// The type of this JWT: `jwt-bearer` (the default), or `jwt-spiffe` for a JWT-SVID.
        #[serde(skip_serializing_if = "Option::is_none")]
        "idpClientAssertionType" => idp_client_assertion_type: Option<String>,
        /// The private key with which the client authenticates in place of a secret at the identity provider.
        #[serde(skip_serializing_if = "Option::is_none")]
        "idpClientKey" => idp_client_key: Option<ClientKeyConfig>,
        /// The certificate with which the client authenticates in place of a secret at the identity provider. The application's HTTP client presents
        /// it.
        #[serde(skip_serializing_if = "Option::is_none")]
        "idpClientCertificate" => idp_client_certificate: Option<ClientCertificateConfig>,
        /// The key that assertions are bound to. By default to none. It is the same as in
        /// `targetDpop`, because an assertion is presented with the key that it is bound to.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(transform = not_null)]
        "idpDpop" => idp_dpop: Option<DpopConfig>,
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
        /// The absolute path of the file that has the client's secret at the authorization server. It is read again when it changes.
        #[serde(skip_serializing_if = "Option::is_none")]
        "targetClientSecretFile" => target_client_secret_file: Option<FilePath>,
        /// The absolute path of the file that has a JWT with which the client authenticates in place of a secret at the authorization server
        /// (RFC 7523 §2.2), for example the projected token of Kubernetes. It is read again when it changes.
        #[serde(skip_serializing_if = "Option::is_none")]
        "targetClientAssertionFile" => target_client_assertion_file: Option<FilePath>,
        /// The type of this JWT: `jwt-bearer` (the default), or `jwt-spiffe` for a JWT-SVID.
        #[serde(skip_serializing_if = "Option::is_none")]
        "targetClientAssertionType" => target_client_assertion_type: Option<String>,
        /// The private key with which the client authenticates in place of a secret at the authorization server.
        #[serde(skip_serializing_if = "Option::is_none")]
        "targetClientKey" => target_client_key: Option<ClientKeyConfig>,
        /// The certificate with which the client authenticates in place of a secret at the authorization server. The application's HTTP client presents
        /// it.
        #[serde(skip_serializing_if = "Option::is_none")]
        "targetClientCertificate" => target_client_certificate: Option<ClientCertificateConfig>,
        /// The key that the tokens are bound to. By default to none.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(transform = not_null)]
        "targetDpop" => target_dpop: Option<DpopConfig>,
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
        /// The scopes that the backend may ask for later, and get, in addition to `scopes`: the ceiling of step-up. It takes
        /// effect where the application sends rejected requests again. By default a backend gets no more.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[schemars(default)]
        "stepUpScopes" => step_up_scopes: Vec<String>,
        /// The issuer of the assertion: the identity provider's issuer identifier. By default the `iss` of the user's ID
        /// token.
        #[serde(skip_serializing_if = "Option::is_none")]
        "idpIssuer" => idp_issuer: Option<String>,
        /// The upstream provider that issued the user's ID token. By default the only one, if the application told them.
        #[serde(skip_serializing_if = "Option::is_none")]
        "subjectProviderName" => subject_provider_name: Option<String>,
        /// The type of the user's token of this provider that is exchanged: `id_token` (the default), `refresh_token`,
        /// `access_token`, `jwt`, `saml1` or `saml2`, or any other by its URN. With any but `id_token`, `idpIssuer` is
        /// required.
        #[serde(skip_serializing_if = "Option::is_none")]
        "subjectTokenType" => subject_token_type: Option<String>,
        /// The type of the assertion: `id-jag` (the default), or another type by its short name or its URN, for example
        /// `jwt`.
        #[serde(skip_serializing_if = "Option::is_none")]
        "assertionType" => assertion_type: Option<String>,
        /// Refuses an assertion without a `resource` where `targetResource` is set.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        #[schemars(default)]
        "requireResource" => require_resource: bool,
        /// The header that the token is sent in. By default `Authorization`, after `Bearer `.
        #[serde(skip_serializing_if = "Option::is_none")]
        "headerName" => header_name: Option<String>,
        /// The text before the token in the header `headerName`, for example `token`, and a space after it. By default
        /// there is none.
        #[serde(skip_serializing_if = "Option::is_none")]
        "headerPrefix" => header_prefix: Option<String>,
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
        block.need("idpTokenUrl", &self.idp_token_url);
        block.check_scopes("stepUpScopes", &self.step_up_scopes);
        block.need("targetTokenUrl", &self.target_token_url);
        block.need("targetAudience", &self.target_audience);
        let provider = self.subject_provider_name.as_deref();
        let provider = block.only_subject_provider("subjectProviderName", provider);
        let idp_client = ClientKeys {
            id: ("idpClientId", &self.idp_client_id),
            secret: ("idpClientSecret", &self.idp_client_secret),
            secret_env: ("idpClientSecretEnv", &self.idp_client_secret_env),
            secret_file: ("idpClientSecretFile", &self.idp_client_secret_file),
            assertion_file: ("idpClientAssertionFile", &self.idp_client_assertion_file),
            assertion_type: ("idpClientAssertionType", &self.idp_client_assertion_type),
            key: ("idpClientKey", &self.idp_client_key),
            certificate: ("idpClientCertificate", &self.idp_client_certificate),
            dpop: ("idpDpop", &self.idp_dpop),
            with_secret: ClientAuth::basic,
        };
        let target_client = ClientKeys {
            id: ("targetClientId", &self.target_client_id),
            secret: ("targetClientSecret", &self.target_client_secret),
            secret_env: ("targetClientSecretEnv", &self.target_client_secret_env),
            secret_file: ("targetClientSecretFile", &self.target_client_secret_file),
            assertion_file: (
                "targetClientAssertionFile",
                &self.target_client_assertion_file,
            ),
            assertion_type: (
                "targetClientAssertionType",
                &self.target_client_assertion_type,
            ),
            key: ("targetClientKey", &self.target_client_key),
            certificate: ("targetClientCertificate", &self.target_client_certificate),
            dpop: ("targetDpop", &self.target_dpop),
            with_secret: ClientAuth::basic,
        };
        let insecure = self.insecure_target_token_url;
        let identity_provider = block.endpoint(&self.idp_token_url, false, &idp_client);
        let authorization_server = block.endpoint(&self.target_token_url, insecure, &target_client);
        let mut strategy =
            CrossAppAccessBuilder::new(&*provider, identity_provider, authorization_server)
                .audience(&self.target_audience)
                .scopes(&self.scopes)
                .authorization_server_scopes(&self.target_scopes)
                .cache(block.resources.tokens())
                .clock(block.resources.clock());
        strategy = match self.subject_token_type.as_deref().map(token_type) {
            None | Some(TokenType::IdToken) => strategy,
            Some(TokenType::RefreshToken) => of_refresh_token(strategy, block),
            Some(other) => strategy.subject(Subject::upstream(&*provider).as_type(other)),
        };
        if let Some(assertion_type) = &self.assertion_type {
            strategy = strategy.assertion_type(token_type(assertion_type));
        }
        if self.require_resource {
            strategy = strategy.require_resource();
        }
        if let Some(resource) = &self.target_resource {
            strategy = strategy.resource(resource);
        }
        if let Some(issuer) = &self.idp_issuer {
            strategy = strategy.issuer(issuer);
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
                ("provider", &["subjectProviderName"]),
                ("identity_provider.url", &["idpTokenUrl"]),
                ("identity_provider.client_auth.client_id", &["idpClientId"]),
                ("authorization_server.url", &["targetTokenUrl"]),
                ("authorization_server.insecure", &["insecureTargetTokenUrl"]),
                (
                    "authorization_server.client_auth.client_id",
                    &["targetClientId"],
                ),
                ("placement", &["headerName"]),
                ("audience", &["targetAudience"]),
                ("resource", &["targetResource"]),
                ("issuer", &["idpIssuer"]),
                ("subject", &["subjectTokenType"]),
                ("subject.provider", &["subjectProviderName"]),
                ("assertion_type", &["assertionType"]),
                ("refresh_token_of", &["subjectTokenType"]),
                ("scopes[]", &["scopes[]"]),
                ("authorization_server_scopes[]", &["targetScopes[]"]),
            ],
        )?;
        Some(Arc::new(strategy))
    }
}

/// The strategy that exchanges the user's refresh token, if the application told where it is.
fn of_refresh_token<B>(
    strategy: CrossAppAccessBuilder,
    block: &mut Block<'_, B>,
) -> CrossAppAccessBuilder {
    #[cfg(feature = "incoming")]
    if let Some(upstream) = block.resources.upstream_tokens() {
        return strategy.refresh_token_of(upstream);
    }
    block.fault(
        "subjectTokenType",
        "is `refresh_token`, and the application gave no upstream tokens (`ResourcesBuilder::upstream_tokens`)",
    );
    strategy
}
