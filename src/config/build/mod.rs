//! Makes strategies of their configuration. Each is built by its own rules; where it is refused, its members are tried one
//! by one, so that each fault is told with the member that it is in.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body::Body;
use tower::BoxError;

use crate::{
    credential::endpoint::{ClientAuth, TokenEndpoint, TokenRequest},
    error::AuthError,
    secret::Secret,
    strategy::{
        AwsSts, AwsStsBuilder, CrossAppAccess, HeaderInjection, OnBehalfOf, RoleMapping, Strategy,
        Subject, TokenExchange, Unauthenticated, UpstreamInject,
    },
};

use super::{
    backend::{
        AwsStsConfig, BackendAuthConfig, CrossAppAccessConfig, HeaderInjectionConfig,
        OnBehalfOfConfig, RoleMappingConfig, TokenExchangeConfig, UpstreamInjectConfig,
    },
    error::{Faults, with_causes},
    resources::Resources,
};

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

/// A block that is being built, and what is wrong with it.
struct Block<'a, B> {
    name: &'static str,
    resources: &'a Resources<B>,
    faults: &'a mut Faults,
}

/// The members that say who the client of a token endpoint is.
struct Client<'a> {
    id: Member<'a, String>,
    secret: SecretMembers<'a>,
}

struct SecretMembers<'a> {
    value: Member<'a, Secret>,
    variable: Member<'a, String>,
}

struct Member<'a, T> {
    name: &'static str,
    value: Option<&'a T>,
}

fn member<'a, T>(name: &'static str, value: &'a Option<T>) -> Member<'a, T> {
    Member {
        name,
        value: value.as_ref(),
    }
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
        let secret = SecretMembers {
            value: member("headerValue", &config.header_value),
            variable: member("headerValueEnv", &config.header_value_env),
        };
        let value_member = if config.header_value.is_some() {
            "headerValue"
        } else {
            "headerValueEnv"
        };
        if config.header_value.is_none() && config.header_value_env.is_none() {
            self.fault(
                "headerValue",
                "is missing; give it, or `headerValueEnv`, which names an environment variable",
            );
        }
        let value = self.secret(&secret);
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
        let client = self.client(
            &Client {
                id: member("clientId", &config.client_id),
                secret: SecretMembers {
                    value: member("clientSecret", &config.client_secret),
                    variable: member("clientSecretEnv", &config.client_secret_env),
                },
            },
            ClientAuth::basic,
        );
        let endpoint = self.endpoint("tokenUrl", &config.token_url, false, client);
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
        if !config.scopes.is_empty() {
            strategy = strategy.scopes(&config.scopes);
        }
        self.build(strategy.build())
    }

    fn upstream_inject(&mut self, config: &UpstreamInjectConfig) -> Option<UpstreamInject> {
        self.need("providerName", &config.provider_name)?;
        let strategy = self.check("providerName", UpstreamInject::new(&config.provider_name))?;
        Some(strategy.clock(self.resources.clock()))
    }

    fn on_behalf_of(&mut self, config: &OnBehalfOfConfig) -> Option<OnBehalfOf> {
        if config.client_secret.is_none() && config.client_secret_env.is_none() {
            self.fault(
                "clientSecret",
                "is missing; give it, or `clientSecretEnv`, which names an environment variable",
            );
            if config.client_id.is_none() {
                self.fault("clientId", "is missing");
            }
        }
        let client = self.client(
            &Client {
                id: member("clientId", &config.client_id),
                secret: SecretMembers {
                    value: member("clientSecret", &config.client_secret),
                    variable: member("clientSecretEnv", &config.client_secret_env),
                },
            },
            ClientAuth::post,
        );
        let endpoint = self.endpoint("tokenUrl", &config.token_url, false, client);
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
        let idp_client = self.client(
            &Client {
                id: member("idpClientId", &config.idp_client_id),
                secret: SecretMembers {
                    value: member("idpClientSecret", &config.idp_client_secret),
                    variable: member("idpClientSecretEnv", &config.idp_client_secret_env),
                },
            },
            ClientAuth::basic,
        );
        let identity_provider =
            self.endpoint("idpTokenUrl", &config.idp_token_url, false, idp_client);
        let target_client = self.client(
            &Client {
                id: member("targetClientId", &config.target_client_id),
                secret: SecretMembers {
                    value: member("targetClientSecret", &config.target_client_secret),
                    variable: member("targetClientSecretEnv", &config.target_client_secret_env),
                },
            },
            ClientAuth::basic,
        );
        let authorization_server = self.endpoint(
            "targetTokenUrl",
            &config.target_token_url,
            config.insecure_target_token_url,
            target_client,
        );
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
        if !config.scopes.is_empty() {
            strategy = strategy.scopes(&config.scopes);
        }
        self.build(strategy.build())
    }

    fn aws_sts(&mut self, config: &AwsStsConfig) -> Option<AwsSts> {
        self.need("region", &config.region);
        if config.role_mappings.is_empty() && config.fallback_role_arn.is_none() {
            self.fault(
                "roleMappings",
                "is missing; give it, or `fallbackRoleArn`, or nobody could have a role",
            );
        }
        let mappings: Vec<_> = config
            .role_mappings
            .iter()
            .enumerate()
            .map(|(index, mapping)| self.role_mapping(index, mapping))
            .collect();
        if !self.faults.is_empty() {
            self.find_aws_sts_faults(config);
            return None;
        }
        let mut strategy = with_settings(self.resources.aws_sts(&config.region), config);
        for mapping in mappings {
            strategy = strategy.role_mapping(mapping?);
        }
        match strategy.build() {
            Ok(strategy) => Some(strategy),
            Err(error) => {
                self.find_aws_sts_faults(config);
                if self.faults.is_empty() {
                    self.fault("", with_causes(&error));
                }
                None
            }
        }
    }

    fn role_mapping(&mut self, index: usize, mapping: &RoleMappingConfig) -> Option<RoleMapping> {
        let name = format!("roleMappings[{index}]");
        let built = match (&mapping.claim, &mapping.matcher) {
            (Some(claim), None) => RoleMapping::claim(claim, &mapping.role_arn),
            (None, Some(matcher)) => RoleMapping::matcher(matcher, &mapping.role_arn),
            (claim, _) => {
                let count = if claim.is_some() { "both" } else { "neither" };
                self.fault(
                    &name,
                    format!("has {count} of `claim` and `matcher`, and needs one"),
                );
                return None;
            }
        };
        Some(match mapping.priority {
            Some(priority) => built.priority(priority),
            None => built,
        })
    }

    /// Tries each member in a strategy whose others are right.
    fn find_aws_sts_faults(&mut self, config: &AwsStsConfig) {
        const REGION: &str = "eu-west-1";
        const ROLE: &str = "arn:aws:iam::123456789012:role/Any";

        let resources = self.resources;
        let right = || resources.aws_sts(REGION).fallback_role(ROLE);
        if !config.region.is_empty() {
            let strategy = resources.aws_sts(&config.region).fallback_role(ROLE);
            self.check("region", strategy.build());
        }
        if let Some(arn) = &config.fallback_role_arn {
            self.check("fallbackRoleArn", right().fallback_role(arn).build());
        }
        for (index, mapping) in config.role_mappings.iter().enumerate() {
            let path = |member| format!("roleMappings[{index}].{member}");
            let role = RoleMapping::claim("any", &mapping.role_arn);
            if self.need(&path("roleArn"), &mapping.role_arn).is_some() {
                self.check(&path("roleArn"), right().role_mapping(role).build());
            }
            if let Some(claim) = &mapping.claim {
                let mapping = RoleMapping::claim(claim, ROLE);
                self.check(&path("claim"), right().role_mapping(mapping).build());
            }
            if let Some(matcher) = &mapping.matcher {
                let mapping = RoleMapping::matcher(matcher, ROLE);
                self.check(&path("matcher"), right().role_mapping(mapping).build());
            }
        }
        let none = AwsStsConfig::default;
        let alone = [
            (
                "service",
                AwsStsConfig {
                    service: config.service.clone(),
                    ..none()
                },
            ),
            (
                "roleClaim",
                AwsStsConfig {
                    role_claim: config.role_claim.clone(),
                    ..none()
                },
            ),
            (
                "sessionDuration",
                AwsStsConfig {
                    session_duration: config.session_duration,
                    ..none()
                },
            ),
            (
                "sessionNameClaim",
                AwsStsConfig {
                    session_name_claim: config.session_name_claim.clone(),
                    ..none()
                },
            ),
            (
                "subjectProviderName",
                AwsStsConfig {
                    subject_provider_name: config.subject_provider_name.clone(),
                    ..none()
                },
            ),
        ];
        for (name, config) in &alone {
            self.check(name, with_settings(right(), config).build());
        }
    }

    fn endpoint(
        &mut self,
        name: &str,
        url: &str,
        insecure: bool,
        client: Option<Option<ClientAuth>>,
    ) -> Option<TokenEndpoint> {
        self.need(name, url)?;
        let mut endpoint = self.resources.token_endpoint(url);
        if insecure {
            endpoint = endpoint.insecure();
        }
        // The client's id is not blank, so what is refused here is the URL.
        if let Some(Some(client)) = client.clone() {
            endpoint = endpoint.client_auth(client);
        }
        let endpoint = self.check(name, endpoint.build());
        client.and(endpoint)
    }

    /// How the client authenticates, if it does; nothing where its members are at fault.
    fn client(
        &mut self,
        client: &Client<'_>,
        with_secret: fn(String, Secret) -> ClientAuth,
    ) -> Option<Option<ClientAuth>> {
        let has_secret =
            client.secret.value.value.is_some() || client.secret.variable.value.is_some();
        let secret = self.secret(&client.secret);
        match client.id.value {
            Some(id) if id.trim().is_empty() => {
                self.fault(client.id.name, "is empty; leave it out, or give it a value");
                None
            }
            Some(id) if has_secret => Some(Some(with_secret(id.clone(), secret?))),
            Some(id) => Some(Some(ClientAuth::none(id))),
            None if has_secret => {
                self.fault(client.id.name, "is missing, and there is a secret to it");
                None
            }
            None => Some(None),
        }
    }

    fn secret(&mut self, members: &SecretMembers<'_>) -> Option<Secret> {
        let SecretMembers { value, variable } = members;
        match (value.value, variable.value) {
            (None, None) => None,
            (Some(secret), None) => Some(secret.clone()),
            (Some(_), Some(_)) => {
                self.fault(
                    variable.name,
                    format!(
                        "is there beside `{}`; which one is meant cannot be told",
                        value.name
                    ),
                );
                None
            }
            (None, Some(name)) => match self.resources.variable(name) {
                Some(text) => match Secret::new(text) {
                    Ok(secret) => Some(secret),
                    Err(_) => {
                        self.fault(
                            variable.name,
                            format!(
                                "names the environment variable `{}`, which is empty",
                                name.escape_debug()
                            ),
                        );
                        None
                    }
                },
                None => {
                    self.fault(
                        variable.name,
                        format!(
                            "names the environment variable `{}`, which is not set, or not Unicode",
                            name.escape_debug()
                        ),
                    );
                    None
                }
            },
        }
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

    fn need<'v>(&mut self, name: &str, value: &'v str) -> Option<&'v str> {
        if value.is_empty() {
            self.fault(name, "is missing");
            return None;
        }
        Some(value)
    }

    fn check<T>(&mut self, name: &str, outcome: Result<T, AuthError>) -> Option<T> {
        match outcome {
            Ok(built) => Some(built),
            Err(error) => {
                self.fault(name, with_causes(&error));
                None
            }
        }
    }

    /// What a strategy makes of members that are right each by itself.
    fn build<T>(&mut self, outcome: Result<T, AuthError>) -> Option<T> {
        if !self.faults.is_empty() {
            return None;
        }
        self.check("", outcome)
    }

    fn fault(&mut self, name: &str, message: impl Into<String>) {
        let dot = if name.is_empty() { "" } else { "." };
        self.faults
            .add(format!("{}{dot}{name}", self.name), message);
    }
}

/// All settings but the region and the role mappings.
fn with_settings(mut strategy: AwsStsBuilder, config: &AwsStsConfig) -> AwsStsBuilder {
    if let Some(service) = &config.service {
        strategy = strategy.service(service);
    }
    if let Some(role) = &config.fallback_role_arn {
        strategy = strategy.fallback_role(role);
    }
    if let Some(claim) = &config.role_claim {
        strategy = strategy.role_claim(claim);
    }
    if let Some(claim) = &config.session_name_claim {
        strategy = strategy.session_name_claim(claim);
    }
    if let Some(seconds) = config.session_duration {
        // Less than none is as wrong as none.
        let seconds = u64::try_from(seconds).unwrap_or(0);
        strategy = strategy.session_duration(Duration::from_secs(seconds));
    }
    if let Some(provider) = &config.subject_provider_name {
        strategy = strategy.subject(Subject::upstream(provider));
    }
    strategy
}

/// The URN without what all have in common (RFC 8693 §3), which may be left out.
fn short_token_type(token_type: &str) -> &str {
    token_type.strip_prefix(TOKEN_TYPE).unwrap_or(token_type)
}
