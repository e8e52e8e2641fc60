//! A configuration as it was written, and how it is read: what does not fit is remembered, so that all of it can be told
//! at once.

use std::{collections::BTreeSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use zeroize::Zeroizing;

use crate::secret::Secret;

use super::{
    backend::{
        AwsStsConfig, BackendAuthConfig, CrossAppAccessConfig, HeaderInjectionConfig,
        OnBehalfOfConfig, REDACTED, RoleMappingConfig, TYPES, TokenExchangeConfig,
        UpstreamInjectConfig,
    },
    error::Faults,
};

/// Any value. A text may be a secret, so it is wiped.
pub(super) enum Value {
    Null,
    Flag(bool),
    Integer(i64),
    OtherNumber,
    Text(Zeroizing<String>),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Flag(_) => "true or false",
            Self::Integer(_) | Self::OtherNumber => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a configuration of outgoing authentication")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Flag(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(i64::try_from(number).map_or(Value::OtherNumber, Value::Integer))
    }

    fn visit_i128<E>(self, _: i128) -> Result<Value, E> {
        Ok(Value::OtherNumber)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Value, E> {
        Ok(Value::OtherNumber)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::OtherNumber)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(Zeroizing::new(text)))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = list.next_element()? {
            members.push(member);
        }
        Ok(Value::List(members))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Value::Map(members))
    }
}

/// The members of a map, taken out one by one. What is left in the end is not known.
pub(super) struct Members<'a> {
    path: String,
    members: Vec<(String, Value)>,
    faults: &'a mut Faults,
}

impl<'a> Members<'a> {
    /// `path` is where the map is, within what `faults` is for.
    pub(super) fn new(
        path: impl Into<String>,
        members: Vec<(String, Value)>,
        faults: &'a mut Faults,
    ) -> Self {
        let mut read = Self {
            path: path.into(),
            members: Vec::with_capacity(members.len()),
            faults,
        };
        let mut names = BTreeSet::new();
        for (name, value) in members {
            if names.insert(name.clone()) {
                read.members.push((name, value));
            } else {
                read.fault(&name, "is there twice; which one is meant cannot be told");
            }
        }
        read
    }

    fn has(&self, name: &str) -> bool {
        let mut members = self.members.iter();
        members.any(|(member, value)| member == name && !matches!(value, Value::Null))
    }

    /// The member's value, if it is there and not null.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.members.iter().position(|(member, _)| member == name)?;
        match self.members.swap_remove(at).1 {
            Value::Null => None,
            value => Some(value),
        }
    }

    fn zeroizing_text(&mut self, name: &str) -> Option<Zeroizing<String>> {
        match self.take(name)? {
            Value::Text(text) if text.trim().is_empty() => {
                self.fault(name, "is empty; leave it out, or give it a value");
                None
            }
            Value::Text(text) => Some(text),
            Value::Flag(_) | Value::Integer(_) | Value::OtherNumber => {
                self.fault(name, "is not a text; put it in quotes");
                None
            }
            value => {
                self.wrong_kind(name, &value, "a text");
                None
            }
        }
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.zeroizing_text(name)
            .map(|mut text| std::mem::take(&mut *text))
    }

    fn needed_text(&mut self, name: &str) -> String {
        self.text(name).unwrap_or_default()
    }

    fn secret(&mut self, name: &str) -> Option<Secret> {
        let mut text = self.zeroizing_text(name)?;
        if *text == REDACTED {
            self.fault(
                name,
                format!("is `{REDACTED}`, which is written in place of a secret; give the secret itself, or its environment variable"),
            );
            return None;
        }
        Secret::new(std::mem::take(&mut *text)).ok()
    }

    fn texts(&mut self, name: &str) -> Vec<String> {
        let members = self.list(name);
        let mut texts = Vec::with_capacity(members.len());
        for (index, member) in members.into_iter().enumerate() {
            match member {
                Value::Text(mut text) => texts.push(std::mem::take(&mut *text)),
                value => self.wrong_kind(&format!("{name}[{index}]"), &value, "a text"),
            }
        }
        texts
    }

    fn list(&mut self, name: &str) -> Vec<Value> {
        match self.take(name) {
            None => Vec::new(),
            Some(Value::List(members)) => members,
            Some(value) => {
                self.wrong_kind(name, &value, "a list");
                Vec::new()
            }
        }
    }

    fn flag(&mut self, name: &str) -> bool {
        match self.take(name) {
            None => false,
            Some(Value::Flag(flag)) => flag,
            Some(value) => {
                self.wrong_kind(name, &value, "true or false");
                false
            }
        }
    }

    fn integer(&mut self, name: &str) -> Option<i32> {
        let value = self.take(name)?;
        let number = match value {
            Value::Integer(number) => i32::try_from(number).ok(),
            _ => None,
        };
        if number.is_none() {
            self.fault(name, "is not a whole number of 32 bits");
        }
        number
    }

    /// The members of a map, each of which is a section of its own.
    pub(super) fn sections(&mut self, name: &str) -> Vec<(String, Value)> {
        let members = self.map(name).unwrap_or_default();
        let path = self.path_of(name);
        Members::new(path, members, self.faults).members
    }

    fn map(&mut self, name: &str) -> Option<Vec<(String, Value)>> {
        match self.take(name)? {
            Value::Map(members) => Some(members),
            value => {
                self.wrong_kind(name, &value, "a map");
                None
            }
        }
    }

    /// A map within this one.
    fn block(&mut self, name: &str) -> Option<Members<'_>> {
        let members = self.map(name)?;
        let path = self.path_of(name);
        Some(Members::new(path, members, self.faults))
    }

    fn wrong_kind(&mut self, name: &str, value: &Value, expected: &str) {
        let message = format!("is {}, and has to be {expected}", value.kind());
        self.fault(name, message);
    }

    pub(super) fn fault(&mut self, name: &str, message: impl Into<String>) {
        let path = self.path_of(name);
        self.faults.add(path, message);
    }

    fn path_of(&self, name: &str) -> String {
        let name = name.escape_debug();
        if self.path.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// Has what was not taken reported.
    pub(super) fn finish(mut self) {
        let mut unknown = std::mem::take(&mut self.members);
        unknown.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (name, _) in unknown {
            self.fault(&name, "is not known here; check its spelling");
        }
    }
}

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
        let path = block.path_of(&name);
        let mut mapping = Members::new(path, members, block.faults);
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
