use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::secret::Secret;

/// What serialization writes in place of a secret. It is refused when it is read back.
pub(super) const REDACTED: &str = "[redacted]";

/// How requests to one backend are authenticated: a `type`, and the block that goes with it.
///
/// `Debug` and serialization show no secret: where one was given by value, `[redacted]` is written, and refused when it
/// is read back. One that was named by its environment variable makes the round trip.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BackendAuthConfig {
    /// `unauthenticated`: [`Unauthenticated`](crate::Unauthenticated).
    Unauthenticated,
    /// `header_injection`, with `headerInjection`: [`HeaderInjection`](crate::HeaderInjection).
    HeaderInjection(HeaderInjectionConfig),
    /// `token_exchange`, with `tokenExchange`: [`TokenExchange`](crate::TokenExchange).
    TokenExchange(TokenExchangeConfig),
    /// `upstream_inject`, with `upstreamInject`: [`UpstreamInject`](crate::UpstreamInject).
    UpstreamInject(UpstreamInjectConfig),
    /// `aws_sts`, with `awsSts`: [`AwsSts`](crate::AwsSts).
    AwsSts(AwsStsConfig),
    /// `obo`, with `obo`: [`OnBehalfOf`](crate::OnBehalfOf).
    OnBehalfOf(OnBehalfOfConfig),
    /// `xaa`, with `xaa`: [`CrossAppAccess`](crate::CrossAppAccess).
    CrossAppAccess(CrossAppAccessConfig),
    /// Any other `type`, without a block: a strategy of your own, by the name that it was
    /// [registered](super::ResourcesBuilder::strategy) under.
    Registered(String),
}

/// The types that have a strategy in this crate, each with the name of its block.
pub(super) const TYPES: [(&str, Option<&str>); 7] = [
    ("unauthenticated", None),
    ("header_injection", Some("headerInjection")),
    ("token_exchange", Some("tokenExchange")),
    ("upstream_inject", Some("upstreamInject")),
    ("aws_sts", Some("awsSts")),
    ("obo", Some("obo")),
    ("xaa", Some("xaa")),
];

impl BackendAuthConfig {
    /// The `type` that chooses it.
    pub fn type_name(&self) -> &str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::HeaderInjection(_) => "header_injection",
            Self::TokenExchange(_) => "token_exchange",
            Self::UpstreamInject(_) => "upstream_inject",
            Self::AwsSts(_) => "aws_sts",
            Self::OnBehalfOf(_) => "obo",
            Self::CrossAppAccess(_) => "xaa",
            Self::Registered(name) => name,
        }
    }

    /// The name of its block; empty where it has none.
    pub(super) fn block_name(&self) -> &'static str {
        let built_in = TYPES.iter().find(|(name, _)| *name == self.type_name());
        built_in.and_then(|(_, block)| *block).unwrap_or_default()
    }
}

impl Serialize for BackendAuthConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_map(None)?;
        members.serialize_entry("type", self.type_name())?;
        let name = self.block_name();
        match self {
            Self::Unauthenticated | Self::Registered(_) => {}
            Self::HeaderInjection(block) => members.serialize_entry(name, block)?,
            Self::TokenExchange(block) => members.serialize_entry(name, block)?,
            Self::UpstreamInject(block) => members.serialize_entry(name, block)?,
            Self::AwsSts(block) => members.serialize_entry(name, block)?,
            Self::OnBehalfOf(block) => members.serialize_entry(name, block)?,
            Self::CrossAppAccess(block) => members.serialize_entry(name, block)?,
        }
        members.end()
    }
}

impl JsonSchema for BackendAuthConfig {
    fn schema_name() -> Cow<'static, str> {
        "BackendAuthConfig".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let blocks = [
            None,
            Some(generator.subschema_for::<HeaderInjectionConfig>()),
            Some(generator.subschema_for::<TokenExchangeConfig>()),
            Some(generator.subschema_for::<UpstreamInjectConfig>()),
            Some(generator.subschema_for::<AwsStsConfig>()),
            Some(generator.subschema_for::<OnBehalfOfConfig>()),
            Some(generator.subschema_for::<CrossAppAccessConfig>()),
        ];
        let built_in = TYPES.iter().zip(blocks).map(|((name, block_name), block)| {
            let mut properties = serde_json::Map::new();
            properties.insert("type".into(), serde_json::json!({ "const": name }));
            let mut required = vec!["type"];
            if let (Some(block_name), Some(block)) = (block_name, block) {
                properties.insert((*block_name).into(), block.to_value());
                required.push(block_name);
            }
            json_schema!({
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": false,
            })
        });
        let names = TYPES.map(|(name, _)| name);
        let registered = json_schema!({
            "description": "A strategy of the application's own, by the name that it was registered under.",
            "type": "object",
            "properties": { "type": { "type": "string", "not": { "enum": names } } },
            "required": ["type"],
            "additionalProperties": false,
        });
        let alternatives: Vec<_> = built_in.chain([registered]).collect();
        json_schema!({
            "description": "How requests to one backend are authenticated: a type, and the block that goes with it.",
            "oneOf": alternatives,
        })
    }
}

/// A fixed header.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct HeaderInjectionConfig {
    /// The name of the header.
    pub header_name: String,
    /// Its value. Either this or `headerValueEnv`.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_redacted"
    )]
    #[schemars(with = "Option<String>")]
    pub header_value: Option<Secret>,
    /// The environment variable that has its value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_value_env: Option<String>,
}

/// A token that is exchanged for the user's (RFC 8693).
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct TokenExchangeConfig {
    /// The URL of the token endpoint: https, or http on loopback.
    pub token_url: String,
    /// The client's id. Without a secret it is a public client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The client's secret, sent with HTTP Basic. Either this or `clientSecretEnv`.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_redacted"
    )]
    #[schemars(with = "Option<String>")]
    pub client_secret: Option<Secret>,
    /// The environment variable that has the client's secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret_env: Option<String>,
    /// The name of the service that the token is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// What the token should allow.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub scopes: Vec<String>,
    /// What kind of token of the user's is exchanged: `access_token` (the default), `id_token` or `jwt`, or its URN (RFC
    /// 8693 §3). An ID token is one of the upstream provider, so `subjectProviderName` is needed with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_token_type: Option<String>,
    /// The upstream provider whose token of the user's is exchanged. By default it is the token that the user came with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_provider_name: Option<String>,
}

/// The user's own token of an upstream provider.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct UpstreamInjectConfig {
    /// The name of the upstream provider.
    pub provider_name: String,
}

/// A signature (SigV4) as the IAM role that the user's claims choose.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct AwsStsConfig {
    /// The AWS region of the service and of AWS STS.
    pub region: String,
    /// The signing name of the service. By default `aws-mcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The ARN of the role of users to whom no mapping applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback_role_arn: Option<String>,
    /// Which users get which role.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub role_mappings: Vec<RoleMappingConfig>,
    /// The claim that the mappings' `claim` is looked for in. By default `groups`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role_claim: Option<String>,
    /// How long a session lasts, in seconds: 900 to 43200. By default 3600.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 900, max = 43_200))]
    pub session_duration: Option<i32>,
    /// The claim that names the session. By default `sub`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_name_claim: Option<String>,
    /// The upstream provider whose token of the user's is sent to AWS STS. By default it is the token that the user came
    /// with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_provider_name: Option<String>,
}

/// Which users get an IAM role: by a `claim`, or by a `matcher`.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct RoleMappingConfig {
    /// A value of the role claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// A CEL expression over the variable `claims`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matcher: Option<String>,
    /// The ARN of the role.
    pub role_arn: String,
    /// Of the mappings that apply, the one with the lowest number counts; one without a number comes last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
}

/// A token that Microsoft Entra issues for the user's, in its on-behalf-of flow.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct OnBehalfOfConfig {
    /// The URL of the tenant's token endpoint: https, or http on loopback.
    pub token_url: String,
    /// The client's id. It is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The client's secret, sent in the form. Either this or `clientSecretEnv` is needed.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_redacted"
    )]
    #[schemars(with = "Option<String>")]
    pub client_secret: Option<Secret>,
    /// The environment variable that has the client's secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret_env: Option<String>,
    /// What is asked for as the scope when `scopes` has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// What the token should allow, and with it for which API it is. Either this or `audience` is needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub scopes: Vec<String>,
    /// The upstream provider whose access token of the user's is exchanged. By default it is the token that the user
    /// came with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_token_provider_name: Option<String>,
    /// How many seconds before its end a token that is kept is given up. By default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub cache_skew_seconds: Option<i32>,
}

/// A token of the backend's own authorization server, for an assertion by the user's identity provider (ID-JAG).
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct CrossAppAccessConfig {
    /// The URL of the identity provider's token endpoint: https, or http on loopback.
    pub idp_token_url: String,
    /// The client's id at the identity provider. Without a secret it is a public client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idp_client_id: Option<String>,
    /// The client's secret at the identity provider, sent with HTTP Basic. Either this or `idpClientSecretEnv`.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_redacted"
    )]
    #[schemars(with = "Option<String>")]
    pub idp_client_secret: Option<Secret>,
    /// The environment variable that has the client's secret at the identity provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idp_client_secret_env: Option<String>,
    /// The URL of the token endpoint of the backend's authorization server: https, or http on loopback.
    pub target_token_url: String,
    /// Lets `targetTokenUrl` be plain http on any host: for a network that is itself trusted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(default)]
    pub insecure_target_token_url: bool,
    /// The client's id at the authorization server. Without a secret it is a public client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_client_id: Option<String>,
    /// The client's secret at the authorization server, sent with HTTP Basic. Either this or `targetClientSecretEnv`.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_redacted"
    )]
    #[schemars(with = "Option<String>")]
    pub target_client_secret: Option<Secret>,
    /// The environment variable that has the client's secret at the authorization server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_client_secret_env: Option<String>,
    /// The issuer identifier of the authorization server, to the letter.
    pub target_audience: String,
    /// The address of the backend, an absolute URI (RFC 8707).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_resource: Option<String>,
    /// What the token should allow.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub scopes: Vec<String>,
    /// The upstream provider whose ID token of the user's is exchanged.
    pub subject_provider_name: String,
    /// What kind of token that is. Only `id_token`, or its URN, is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_token_type: Option<String>,
}

fn write_redacted<S: Serializer>(_: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(REDACTED)
}
