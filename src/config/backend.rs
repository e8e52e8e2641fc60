use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http_body::Body;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer, ser::SerializeMap};
use tower::BoxError;

use crate::strategy::{strategy::Strategy, unauthenticated::Unauthenticated};

use super::{
    AwsStsConfig, BothConfig, ClaimInjectionConfig, ClientCredentialsConfig, CrossAppAccessConfig,
    HeaderInjectionConfig, OnBehalfOfConfig, SignedIdentityConfig, SigningKeyConfig,
    TokenExchangeConfig, UpstreamInjectConfig,
    block::Block,
    document::{Members, nearest, one_of},
    error::SectionFaults,
    kind::{Keys, Kind},
    resources::Resources,
};

const UNAUTHENTICATED: &str = "unauthenticated";

/// Declares the kinds of backends that have a block. All of what is common to them follows from this list.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident($config:ident),)+) => {
        /// Selects how requests to one backend are authenticated: a `type`, and the block of keys that goes with it.
        ///
        /// Needs the feature `config`.
        ///
        /// `Debug` and serialization show no secret. Where a secret was given by value, serialization writes
        /// `[redacted]`, which is refused when it is read back. A secret that was given by the name of its environment
        /// variable makes the round trip.
        ///
        /// ```
        /// use tower_identity::{BackendAuthConfig, config::TokenExchangeConfig};
        ///
        /// let mut exchange = TokenExchangeConfig::new("https://idp.example.com/token");
        /// exchange.client_id = Some("gateway".into());
        /// exchange.client_secret_env = Some("GATEWAY_SECRET".into());
        /// let backend = BackendAuthConfig::TokenExchange(exchange);
        /// assert_eq!(backend.type_name(), "token_exchange");
        /// ```
        #[derive(Clone, Debug)]
        #[non_exhaustive]
        #[expect(clippy::large_enum_variant, reason = "there is one for each backend, and it is not moved often")]
        pub enum BackendAuthConfig {
            /// `unauthenticated`: [`Unauthenticated`](crate::Unauthenticated).
            Unauthenticated,
            $($(#[$doc])* $name($config),)+
            /// Any other `type`, without a block: a strategy of the application, by the name that it was
            /// [registered](super::ResourcesBuilder::strategy) under.
            Registered(String),
        }

        /// Each kind's `type`, the key of its block, and the keys within.
        const KINDS: &[(&str, &str, &[&str])] = &[
            $((<$config as Kind>::TYPE, <$config as Kind>::BLOCK, <$config as Keys>::KEYS)),+
        ];

        impl BackendAuthConfig {
            /// The `type` that selects it, for example `token_exchange`.
            pub fn type_name(&self) -> &str {
                match self {
                    Self::Unauthenticated => UNAUTHENTICATED,
                    $(Self::$name(_) => <$config as Kind>::TYPE,)+
                    Self::Registered(name) => name,
                }
            }

            /// The ceiling of step-up.
            pub(super) fn step_up_scopes(&self) -> &[String] {
                match self {
                    Self::Unauthenticated | Self::Registered(_) => &[],
                    $(Self::$name(config) => config.step_up_scopes(),)+
                }
            }

            /// Reads what goes with this `type`.
            pub(super) fn read(type_name: String, members: &mut Members<'_>) -> Option<Self> {
                match type_name.as_str() {
                    UNAUTHENTICATED => Some(Self::Unauthenticated),
                    $(<$config as Kind>::TYPE => {
                        let block = <$config as Kind>::BLOCK;
                        members.needed_block(block, &type_name).map(Self::$name)
                    })+
                    _ => Some(Self::Registered(type_name)),
                }
            }

            /// The names of the headers that its strategy sets, as far as it is known.
            pub(super) fn headers(&self) -> Vec<String> {
                match self {
                    Self::Unauthenticated | Self::Registered(_) => Vec::new(),
                    $(Self::$name(config) => config.headers(),)+
                }
            }

            /// Its strategy, or nothing and the faults that it has.
            pub(super) fn build<B>(
                &self,
                resources: &Resources<B>,
                faults: &mut SectionFaults,
            ) -> Option<Arc<dyn Strategy<B>>>
            where
                B: Body + From<Bytes> + Send + 'static,
                B::Error: Into<BoxError>,
            {
                match self {
                    Self::Unauthenticated => Some(Arc::new(Unauthenticated)),
                    $(Self::$name(config) => build(config, resources, faults),)+
                    Self::Registered(name) => registered(name, resources, faults),
                }
            }
        }

        impl Serialize for BackendAuthConfig {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut members = serializer.serialize_map(None)?;
                members.serialize_entry("type", self.type_name())?;
                match self {
                    Self::Unauthenticated | Self::Registered(_) => {}
                    $(Self::$name(config) => {
                        members.serialize_entry(<$config as Kind>::BLOCK, config)?;
                    })+
                }
                members.end()
            }
        }

        impl JsonSchema for BackendAuthConfig {
            fn schema_name() -> Cow<'static, str> {
                "BackendAuthConfig".into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                schema_of([$(schema_of_kind::<$config>(generator)),+])
            }
        }
    };
}

kinds! {
    /// `header_injection`, with `headerInjection`: [`HeaderInjection`](crate::HeaderInjection).
    HeaderInjection(HeaderInjectionConfig),
    /// `claim_injection`, with `claimInjection`: [`ClaimInjection`](crate::ClaimInjection).
    ClaimInjection(ClaimInjectionConfig),
    /// `signed_identity`, with `signedIdentity`: `SignedIdentity`, which needs the feature `private-key-jwt`.
    SignedIdentity(SignedIdentityConfig),
    /// `token_exchange`, with `tokenExchange`: [`TokenExchange`](crate::TokenExchange).
    TokenExchange(TokenExchangeConfig),
    /// `client_credentials`, with `clientCredentials`: [`ClientCredentials`](crate::ClientCredentials).
    ClientCredentials(ClientCredentialsConfig),
    /// `upstream_inject`, with `upstreamInject`: [`UpstreamInject`](crate::UpstreamInject).
    UpstreamInject(UpstreamInjectConfig),
    /// `aws_sts`, with `awsSts`: `AwsSts`, which needs the feature `aws-sts`.
    AwsSts(AwsStsConfig),
    /// `obo`, with `obo`: [`OnBehalfOf`](crate::OnBehalfOf).
    OnBehalfOf(OnBehalfOfConfig),
    /// `xaa`, with `xaa`: [`CrossAppAccess`](crate::CrossAppAccess).
    CrossAppAccess(CrossAppAccessConfig),
    /// `both`, with `both`: [`Both`](crate::strategy::Both).
    Both(BothConfig),
}

impl BackendAuthConfig {
    /// Its keys to sign with, and the place of each.
    pub(super) fn signing_keys(&self) -> Vec<(String, &SigningKeyConfig)> {
        let (block, parts) = match self {
            Self::SignedIdentity(config) => {
                let keys = config.signing_keys.iter().enumerate();
                let keys = keys.map(|(index, key)| (format!("signingKeys[{index}]"), key));
                (SignedIdentityConfig::BLOCK, keys.collect::<Vec<_>>())
            }
            Self::Both(config) => {
                let keys = config.parts().flat_map(|(part, config)| {
                    let keys = config.signing_keys().into_iter();
                    keys.map(move |(key, config)| (format!("{part}.{key}"), config))
                });
                (BothConfig::BLOCK, keys.collect())
            }
            _ => return Vec::new(),
        };
        let parts = parts.into_iter();
        parts
            .map(|(key, config)| (format!("{block}.{key}"), config))
            .collect()
    }
}

/// The types that are not for the application to register.
pub(super) fn is_built_in(type_name: &str) -> bool {
    type_name == UNAUTHENTICATED || KINDS.iter().any(|(known, ..)| *known == type_name)
}

/// The key of each block, and whether it goes with this `type`.
pub(super) fn blocks_of(type_name: Option<&str>) -> impl Iterator<Item = (&'static str, bool)> {
    KINDS
        .iter()
        .map(move |(known, block, _)| (*block, type_name == Some(*known)))
}

/// The key of the block that goes with this `type`, and the keys within.
pub(super) fn block_of(type_name: &str) -> Option<(&'static str, &'static [&'static str])> {
    let mut kinds = KINDS.iter();
    let (_, block, keys) = kinds.find(|(known, ..)| *known == type_name)?;
    Some((block, keys))
}

/// The types of this crate.
fn types<'a>() -> impl Iterator<Item = &'a str> {
    [UNAUTHENTICATED]
        .into_iter()
        .chain(KINDS.iter().map(|(type_name, ..)| *type_name))
}

fn build<K: Kind, B>(
    config: &K,
    resources: &Resources<B>,
    faults: &mut SectionFaults,
) -> Option<Arc<dyn Strategy<B>>>
where
    B: Body + From<Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let strategy = config.build(&mut Block {
        name: K::BLOCK,
        resources,
        faults,
    });
    faults.sort_by_keys(K::BLOCK, K::KEYS);
    strategy
}

fn registered<B>(
    name: &str,
    resources: &Resources<B>,
    faults: &mut SectionFaults,
) -> Option<Arc<dyn Strategy<B>>> {
    let strategy = resources.strategy(name);
    if strategy.is_none() {
        let known: Vec<&str> = types().chain(resources.strategy_names()).collect();
        let meant = match nearest(name, known.iter().copied()) {
            Some(meant) => format!(", did you mean `{meant}`? Expected "),
            None => "; expected ".to_owned(),
        };
        faults.add(
            "type",
            format!(
                "`{}` is neither a type of this crate nor the name of a registered strategy{meant}{}",
                name.escape_debug(),
                one_of(known)
            ),
        );
    }
    strategy
}

fn schema_of_kind<K: Kind>(generator: &mut SchemaGenerator) -> Schema {
    let block = generator.subschema_for::<K>();
    json_schema!({
        "type": "object",
        "properties": { "type": { "const": K::TYPE }, K::BLOCK: block },
        "required": ["type", K::BLOCK],
        "additionalProperties": false,
    })
}

fn schema_of(kinds: impl IntoIterator<Item = Schema>) -> Schema {
    let unauthenticated = json_schema!({
        "type": "object",
        "properties": { "type": { "const": UNAUTHENTICATED } },
        "required": ["type"],
        "additionalProperties": false,
    });
    let types: Vec<_> = types().collect();
    let registered = json_schema!({
        "description": "A strategy of the application's own, by the name that it was registered under.",
        "type": "object",
        "properties": { "type": { "type": "string", "not": { "enum": types } } },
        "required": ["type"],
        "additionalProperties": false,
    });
    let alternatives: Vec<_> = [unauthenticated]
        .into_iter()
        .chain(kinds)
        .chain([registered])
        .collect();
    json_schema!({
        "description": "How requests to one backend are authenticated: a type, and the block that goes with it.",
        "oneOf": alternatives,
    })
}
