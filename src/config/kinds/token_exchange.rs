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
    oauth::{client_auth::ClientAuth, request::TokenType},
    secret::Secret,
    strategy::{strategy::Strategy, subject::Subject, token_exchange::TokenExchangeBuilder},
};

use super::short_token_type;

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
        /// The name of the service that the token is for.
        #[serde(skip_serializing_if = "Option::is_none")]
        "audience" => audience: Option<String>,
        /// The scopes of the token.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[schemars(default)]
        "scopes" => scopes: Vec<String>,
        /// The type of the user's token that is exchanged: `access_token` (the default), `id_token` or `jwt`, or its URN
        /// (RFC 8693 §3). An ID token comes from an upstream provider, so `id_token` needs `subjectProviderName`.
        #[serde(skip_serializing_if = "Option::is_none")]
        "subjectTokenType" => subject_token_type: Option<String>,
        /// The upstream provider that issued the token to exchange. By default the first provider if the application told
        /// them, or else the token that the user came with is exchanged.
        #[serde(skip_serializing_if = "Option::is_none")]
        "subjectProviderName" => subject_provider_name: Option<String>,
        /// The type of the token that is asked for: `access_token` (the default) or `jwt`, or its URN (RFC 8693 §3), or
        /// `none` for an issuer that does not allow the parameter.
        #[serde(skip_serializing_if = "Option::is_none")]
        "requestedTokenType" => requested_token_type: Option<String>,
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
            Some(_) => {
                block.fault(
                    "subjectTokenType",
                    "is none of `access_token`, `id_token` and `jwt`",
                );
                access()
            }
        }
    }
}

impl Kind for TokenExchangeConfig {
    const TYPE: &'static str = "token_exchange";
    const BLOCK: &'static str = "tokenExchange";

    fn build<B>(&self, block: &mut Block<'_, B>) -> Option<Arc<dyn Strategy<B>>>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        block.need("tokenUrl", &self.token_url);
        let client = ClientKeys {
            id: ("clientId", &self.client_id),
            secret: ("clientSecret", &self.client_secret),
            secret_env: ("clientSecretEnv", &self.client_secret_env),
            with_secret: ClientAuth::basic,
        };
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
            Some(_) => block.fault(
                "requestedTokenType",
                "is none of `access_token`, `jwt` and `none`",
            ),
        }
        if let Some(audience) = &self.audience {
            strategy = strategy.audience(audience);
        }
        let strategy = block.built(
            strategy.build(),
            &[
                ("endpoint.url", &["tokenUrl"]),
                ("endpoint.client_auth.client_id", &["clientId"]),
                ("audience", &["audience"]),
                ("scopes[]", &["scopes[]"]),
                ("subject.provider", &["subjectProviderName"]),
            ],
        )?;
        Some(Arc::new(strategy))
    }
}
