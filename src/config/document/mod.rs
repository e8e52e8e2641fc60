//! A configuration as it was written, and how it is read: what does not fit is remembered, so that all of it can be told
//! at once.

mod members;
mod value;

use serde::de;

pub(super) use members::Members;
pub(super) use value::Value;

use super::{
    backend::{
        AwsStsConfig, BackendAuthConfig, CrossAppAccessConfig, HeaderInjectionConfig,
        OnBehalfOfConfig, RoleMappingConfig, TYPES, TokenExchangeConfig, UpstreamInjectConfig,
    },
    error::Faults,
};

/// Reads how a backend is authenticated. What is not one is among the faults.
pub(super) fn backend(value: Value, faults: &mut Faults) -> Option<BackendAuthConfig> {
    let members = match value {
        Value::Map(members) => members,
        Value::Null => {
            faults.add(
                "",
                "is null; give it a `type`, which may be `unauthenticated`",
            );
            return None;
        }
        value => {
            faults.add("", format!("is {}, and has to be a map", value.kind()));
            return None;
        }
    };
    let mut members = Members::new("", members, faults);
    let has_type = members.has("type");
    let backend = match members.text("type") {
        Some(name) => read_type(name, &mut members),
        None => {
            if !has_type {
                members.fault("type", "is missing");
            }
            // Whether they go with it cannot be told.
            for block in TYPES.iter().filter_map(|(_, block)| *block) {
                members.take(block);
            }
            None
        }
    };
    members.finish();
    backend
}

fn read_type(name: String, members: &mut Members<'_>) -> Option<BackendAuthConfig> {
    let built_in = TYPES.iter().find(|(known, _)| *known == name);
    let own_block = built_in.and_then(|(_, block)| *block);
    for block in TYPES.iter().filter_map(|(_, block)| *block) {
        if Some(block) != own_block && members.take(block).is_some() {
            members.fault(
                block,
                format!("does not go with the type `{}`", name.escape_debug()),
            );
        }
    }
    let Some(block_name) = own_block else {
        return Some(match built_in {
            Some(_) => BackendAuthConfig::Unauthenticated,
            None => BackendAuthConfig::Registered(name),
        });
    };
    if !members.has(block_name) {
        members.take(block_name);
        members.fault(
            block_name,
            format!("is missing; the type `{name}` needs it"),
        );
        return None;
    }
    let mut block = members.block(block_name)?;
    let backend = match block_name {
        "headerInjection" => BackendAuthConfig::HeaderInjection(header_injection(&mut block)),
        "tokenExchange" => BackendAuthConfig::TokenExchange(token_exchange(&mut block)),
        "upstreamInject" => BackendAuthConfig::UpstreamInject(UpstreamInjectConfig {
            provider_name: block.needed_text("providerName"),
        }),
        "awsSts" => BackendAuthConfig::AwsSts(aws_sts(&mut block)),
        "obo" => BackendAuthConfig::OnBehalfOf(on_behalf_of(&mut block)),
        _ => BackendAuthConfig::CrossAppAccess(cross_app_access(&mut block)),
    };
    block.finish();
    Some(backend)
}

fn header_injection(block: &mut Members<'_>) -> HeaderInjectionConfig {
    HeaderInjectionConfig {
        header_name: block.needed_text("headerName"),
        header_value: block.secret("headerValue"),
        header_value_env: block.text("headerValueEnv"),
    }
}

fn token_exchange(block: &mut Members<'_>) -> TokenExchangeConfig {
    TokenExchangeConfig {
        token_url: block.needed_text("tokenUrl"),
        client_id: block.text("clientId"),
        client_secret: block.secret("clientSecret"),
        client_secret_env: block.text("clientSecretEnv"),
        audience: block.text("audience"),
        scopes: block.texts("scopes"),
        subject_token_type: block.text("subjectTokenType"),
        subject_provider_name: block.text("subjectProviderName"),
    }
}

fn aws_sts(block: &mut Members<'_>) -> AwsStsConfig {
    AwsStsConfig {
        region: block.needed_text("region"),
        service: block.text("service"),
        fallback_role_arn: block.text("fallbackRoleArn"),
        role_mappings: role_mappings(block),
        role_claim: block.text("roleClaim"),
        session_duration: block.integer("sessionDuration"),
        session_name_claim: block.text("sessionNameClaim"),
        subject_provider_name: block.text("subjectProviderName"),
    }
}

fn role_mappings(block: &mut Members<'_>) -> Vec<RoleMappingConfig> {
    let mappings = block.list("roleMappings");
    let read = mappings.into_iter().enumerate().map(|(index, value)| {
        let name = format!("roleMappings[{index}]");
        let Value::Map(members) = value else {
            block.wrong_kind(&name, &value, "a map");
            return RoleMappingConfig::default();
        };
        let mut mapping = block.within(&name, members);
        let read = RoleMappingConfig {
            claim: mapping.text("claim"),
            matcher: mapping.text("matcher"),
            role_arn: mapping.needed_text("roleArn"),
            priority: mapping.integer("priority"),
        };
        mapping.finish();
        read
    });
    read.collect()
}

fn on_behalf_of(block: &mut Members<'_>) -> OnBehalfOfConfig {
    OnBehalfOfConfig {
        token_url: block.needed_text("tokenUrl"),
        client_id: block.text("clientId"),
        client_secret: block.secret("clientSecret"),
        client_secret_env: block.text("clientSecretEnv"),
        audience: block.text("audience"),
        scopes: block.texts("scopes"),
        subject_token_provider_name: block.text("subjectTokenProviderName"),
        cache_skew_seconds: block.integer("cacheSkewSeconds"),
    }
}

fn cross_app_access(block: &mut Members<'_>) -> CrossAppAccessConfig {
    CrossAppAccessConfig {
        idp_token_url: block.needed_text("idpTokenUrl"),
        idp_client_id: block.text("idpClientId"),
        idp_client_secret: block.secret("idpClientSecret"),
        idp_client_secret_env: block.text("idpClientSecretEnv"),
        target_token_url: block.needed_text("targetTokenUrl"),
        insecure_target_token_url: block.flag("insecureTargetTokenUrl"),
        target_client_id: block.text("targetClientId"),
        target_client_secret: block.secret("targetClientSecret"),
        target_client_secret_env: block.text("targetClientSecretEnv"),
        target_audience: block.needed_text("targetAudience"),
        target_resource: block.text("targetResource"),
        scopes: block.texts("scopes"),
        subject_provider_name: block.needed_text("subjectProviderName"),
        subject_token_type: block.text("subjectTokenType"),
    }
}

/// What a whole document begins with.
pub(super) fn map<E: de::Error>(value: Value) -> Result<Vec<(String, Value)>, E> {
    match value {
        Value::Map(members) => Ok(members),
        value => Err(E::custom(format!(
            "a configuration of outgoing authentication is a map; this is {}",
            value.kind()
        ))),
    }
}
