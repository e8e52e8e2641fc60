//! Makes strategies of their configuration. Each is built by its own rules; where it is refused, its members are tried one
//! by one, so that each fault is told with the member that it is in.

mod aws_sts;
mod block;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body::Body;
use tower::BoxError;

use crate::{
    oauth::{client_auth::ClientAuth, request::TokenRequest},
    strategy::{
        cross_app_access::CrossAppAccess, header_injection::HeaderInjection,
        on_behalf_of::OnBehalfOf, strategy::Strategy, subject::Subject,
        token_exchange::TokenExchange, unauthenticated::Unauthenticated,
        upstream_inject::UpstreamInject,
    },
};

use super::{
    backend::{
        BackendAuthConfig, CrossAppAccessConfig, HeaderInjectionConfig, OnBehalfOfConfig,
        TokenExchangeConfig, UpstreamInjectConfig,
    },
    error::Faults,
    resources::Resources,
};

use block::{Block, EndpointMembers, member};

const TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:";

pub(super) fn strategy<B>(
    backend: &BackendAuthConfig,
    resources: &Resources<B>,
    faults: &mut Faults,
) -> Option<Arc<dyn Strategy<B>>>
where
    B: Body + From<Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut block = Block {
        name: backend.block_name(),
        resources,
        faults,
    };
    Some(match backend {
        BackendAuthConfig::Unauthenticated => Arc::new(Unauthenticated),
        BackendAuthConfig::HeaderInjection(config) => Arc::new(block.header_injection(config)?),
        BackendAuthConfig::TokenExchange(config) => Arc::new(block.token_exchange(config)?),
        BackendAuthConfig::UpstreamInject(config) => Arc::new(block.upstream_inject(config)?),
        BackendAuthConfig::AwsSts(config) => Arc::new(block.aws_sts(config)?),
        BackendAuthConfig::OnBehalfOf(config) => Arc::new(block.on_behalf_of(config)?),
        BackendAuthConfig::CrossAppAccess(config) => Arc::new(block.cross_app_access(config)?),
        BackendAuthConfig::Registered(name) => block.registered(name)?,
    })
}

impl<B> Block<'_, B> {
    fn registered(&mut self, name: &str) -> Option<Arc<dyn Strategy<B>>> {
        let strategy = self.resources.strategy(name);
        if strategy.is_none() {
            let name = name.escape_debug();
            self.faults.add(
                "type",
                format!(
                    "`{name}` is neither a type of this crate nor the name of a registered strategy"
                ),
            );
        }
        strategy
    }

    fn header_injection(&mut self, config: &HeaderInjectionConfig) -> Option<HeaderInjection> {
        self.need("headerName", &config.header_name);
        let value_member = if config.header_value.is_some() {
            "headerValue"
        } else {
            "headerValueEnv"
        };
        if config.header_value.is_none() && config.header_value_env.is_none() {
            self.fault_missing_secret("headerValue");
        }
        let value = self.secret(
            &member("headerValue", &config.header_value),
            &member("headerValueEnv", &config.header_value_env),
        );
        if !config.header_name.is_empty() {
            self.check("headerName", HeaderInjection::new(&config.header_name, "-"));
        }
        let value = value?.expose().to_owned();
        // A name that is right, for the value alone is in question.
        self.check(
            value_member,
            HeaderInjection::new("authorization", value.clone()),
        )?;
        HeaderInjection::new(&config.header_name, value).ok()
    }

    fn token_exchange(&mut self, config: &TokenExchangeConfig) -> Option<TokenExchange> {
        let endpoint = self.endpoint(&EndpointMembers {
            url: member("tokenUrl", &config.token_url),
            insecure: false,
            client_id: member("clientId", &config.client_id),
            client_secret: member("clientSecret", &config.client_secret),
            client_secret_env: member("clientSecretEnv", &config.client_secret_env),
            client_auth: ClientAuth::basic,
        });
        let provider = config.subject_provider_name.as_deref();
        let subject = self.subject(config.subject_token_type.as_deref(), provider);
        let request = TokenRequest::token_exchange();
        if let Some(audience) = &config.audience {
            self.check("audience", request.clone().audience(audience).check());
        }
        self.check("scopes", request.scopes(&config.scopes).check());

        let mut strategy = TokenExchange::builder(endpoint?)
            .subject(subject?)
            .cache(self.resources.tokens())
            .clock(self.resources.clock());
        if let Some(audience) = &config.audience {
            strategy = strategy.audience(audience);
        }
        self.build(strategy.scopes(&config.scopes).build())
    }

    fn upstream_inject(&mut self, config: &UpstreamInjectConfig) -> Option<UpstreamInject> {
        self.need("providerName", &config.provider_name)?;
        let strategy = self.check("providerName", UpstreamInject::new(&config.provider_name))?;
        Some(strategy.clock(self.resources.clock()))
    }

    fn on_behalf_of(&mut self, config: &OnBehalfOfConfig) -> Option<OnBehalfOf> {
        if config.client_secret.is_none() && config.client_secret_env.is_none() {
            self.fault_missing_secret("clientSecret");
            if config.client_id.is_none() {
                self.fault("clientId", "is missing");
            }
        }
        let endpoint = self.endpoint(&EndpointMembers {
            url: member("tokenUrl", &config.token_url),
            insecure: false,
            client_id: member("clientId", &config.client_id),
            client_secret: member("clientSecret", &config.client_secret),
            client_secret_env: member("clientSecretEnv", &config.client_secret_env),
            client_auth: ClientAuth::post,
        });
        let provider = config.subject_token_provider_name.as_ref();
        if let Some(provider) = provider {
            self.check("subjectTokenProviderName", UpstreamInject::new(provider));
        }
        let (target, scopes) = match &config.audience {
            Some(audience) if config.scopes.is_empty() => {
                ("audience", std::slice::from_ref(audience))
            }
            _ => ("scopes", &*config.scopes),
        };
        if scopes.is_empty() {
            self.fault("scopes", "is missing; give it, or `audience`");
        }
        self.check(target, TokenRequest::jwt_bearer().scopes(scopes).check());
        let skew = u64::try_from(config.cache_skew_seconds.unwrap_or(0)).ok();
        if skew.is_none() {
            self.fault("cacheSkewSeconds", "is negative");
        }

        let strategy = OnBehalfOf::builder(endpoint?)
            .scopes(scopes)
            .subject(provider.map_or_else(Subject::own_token, Subject::upstream))
            .cache_skew(Duration::from_secs(skew?))
            .cache(self.resources.tokens())
            .clock(self.resources.clock());
        self.build(strategy.build())
    }

    fn cross_app_access(&mut self, config: &CrossAppAccessConfig) -> Option<CrossAppAccess> {
        let identity_provider = self.endpoint(&EndpointMembers {
            url: member("idpTokenUrl", &config.idp_token_url),
            insecure: false,
            client_id: member("idpClientId", &config.idp_client_id),
            client_secret: member("idpClientSecret", &config.idp_client_secret),
            client_secret_env: member("idpClientSecretEnv", &config.idp_client_secret_env),
            client_auth: ClientAuth::basic,
        });
        let authorization_server = self.endpoint(&EndpointMembers {
            url: member("targetTokenUrl", &config.target_token_url),
            insecure: config.insecure_target_token_url,
            client_id: member("targetClientId", &config.target_client_id),
            client_secret: member("targetClientSecret", &config.target_client_secret),
            client_secret_env: member("targetClientSecretEnv", &config.target_client_secret_env),
            client_auth: ClientAuth::basic,
        });
        let request = TokenRequest::token_exchange();
        if self
            .need("targetAudience", &config.target_audience)
            .is_some()
        {
            let request = request.clone().audience(&config.target_audience);
            self.check("targetAudience", request.check());
        }
        if let Some(resource) = &config.target_resource {
            self.check("targetResource", request.clone().resource(resource).check());
        }
        self.check("scopes", request.scopes(&config.scopes).check());
        let provider = &config.subject_provider_name;
        if self.need("subjectProviderName", provider).is_some() {
            self.check("subjectProviderName", UpstreamInject::new(provider));
        }
        if let Some(token_type) = &config.subject_token_type
            && short_token_type(token_type) != "id_token"
        {
            self.fault(
                "subjectTokenType",
                "is not `id_token`, the only one that is accepted",
            );
        }

        let mut strategy =
            CrossAppAccess::builder(provider, identity_provider?, authorization_server?)
                .audience(&config.target_audience)
                .cache(self.resources.tokens())
                .clock(self.resources.clock());
        if let Some(resource) = &config.target_resource {
            strategy = strategy.resource(resource);
        }
        self.build(strategy.scopes(&config.scopes).build())
    }

    fn subject(&mut self, token_type: Option<&str>, provider: Option<&str>) -> Option<Subject> {
        if let Some(provider) = provider {
            self.check("subjectProviderName", UpstreamInject::new(provider))?;
        }
        let access = || provider.map_or_else(Subject::own_token, Subject::upstream);
        match token_type.map(short_token_type) {
            None | Some("access_token") => Some(access()),
            Some("jwt") => Some(access().as_jwt()),
            Some("id_token") => {
                let subject = provider.map(Subject::upstream_id_token);
                if subject.is_none() {
                    self.fault(
                        "subjectProviderName",
                        "is missing; an ID token is one of an upstream provider",
                    );
                }
                subject
            }
            Some(_) => {
                self.fault(
                    "subjectTokenType",
                    "is none of `access_token`, `id_token` and `jwt`",
                );
                None
            }
        }
    }
}

/// The URN without what all have in common (RFC 8693 §3), which may be left out.
fn short_token_type(token_type: &str) -> &str {
    token_type.strip_prefix(TOKEN_TYPE).unwrap_or(token_type)
}
