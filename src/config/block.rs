use std::{path::Path, sync::Arc};

use bytes::Bytes;
use http_body::Body;
use tower::BoxError;

use crate::{
    error::{BuildError, InvalidSetting},
    oauth::{
        client_auth::ClientAuth,
        secret_source::SecretSource,
        syntax::{NOT_A_SCOPE, is_scope},
        token_endpoint::{TokenEndpoint, builder::TokenEndpointBuilder},
    },
    secret::{PLACEHOLDER, Secret, check_client_secret},
    strategy::strategy::Strategy,
};

use super::{
    backend::BackendAuthConfig, client_certificate::ClientCertificateConfig,
    client_key::ClientKeyConfig, dpop::DpopConfig, error::SectionFaults, file_path::FilePath,
    resources::Resources, variable_name::VariableName,
};

/// How a client authenticates, apart from its ID.
enum ClientCredential {
    Secret(SecretSource),
    Assertion(fn(String, SecretSource) -> ClientAuth, SecretSource),
    #[cfg(feature = "private-key-jwt")]
    Key(crate::oauth::PrivateKeyJwt),
    Certificate(fn(String) -> ClientAuth),
}

/// The block of one backend while its strategy is built. It collects the faults.
pub(super) struct Block<'a, B> {
    pub(super) name: &'static str,
    pub(super) resources: &'a Resources<B>,
    pub(super) faults: &'a mut SectionFaults,
}

/// The keys of the block that a builder's setting is made of. A place in a list is `[]`, and a key that ends with `.` or
/// `[` stands for all in its block or list.
pub(super) type KeysOfSettings<'a> = [(&'a str, &'a [&'a str])];

/// The keys that say who the client of a token endpoint is, and which key its tokens are bound to.
pub(super) struct ClientKeys<'a> {
    pub(super) id: (&'static str, &'a Option<String>),
    pub(super) secret: (&'static str, &'a Option<Secret>),
    pub(super) secret_env: (&'static str, &'a Option<VariableName>),
    pub(super) secret_file: (&'static str, &'a Option<FilePath>),
    pub(super) assertion_file: (&'static str, &'a Option<FilePath>),
    pub(super) assertion_type: (&'static str, &'a Option<String>),
    pub(super) key: (&'static str, &'a Option<ClientKeyConfig>),
    pub(super) certificate: (&'static str, &'a Option<ClientCertificateConfig>),
    pub(super) dpop: (&'static str, &'a Option<DpopConfig>),
    /// How a client with a secret authenticates.
    pub(super) with_secret: fn(String, SecretSource) -> ClientAuth,
}

/// Takes the keys from a block that calls them `clientId`, `clientSecret` and so on.
macro_rules! client_keys {
    ($block:expr, with_secret: $with_secret:expr) => {
        $crate::config::block::ClientKeys {
            id: ("clientId", &$block.client_id),
            secret: ("clientSecret", &$block.client_secret),
            secret_env: ("clientSecretEnv", &$block.client_secret_env),
            secret_file: ("clientSecretFile", &$block.client_secret_file),
            assertion_file: ("clientAssertionFile", &$block.client_assertion_file),
            assertion_type: ("clientAssertionType", &$block.client_assertion_type),
            key: ("clientKey", &$block.client_key),
            certificate: ("clientCertificate", &$block.client_certificate),
            dpop: ("dpop", &$block.dpop),
            with_secret: $with_secret,
        }
    };
}
pub(super) use client_keys;

impl ClientKeys<'_> {
    pub(super) fn has_credential(&self) -> bool {
        self.secret.1.is_some()
            || self.secret_env.1.is_some()
            || self.secret_file.1.is_some()
            || self.assertion_file.1.is_some()
            || self.key.1.is_some()
            || self.certificate.1.is_some()
    }
}

impl<B> Block<'_, B> {
    pub(super) fn endpoint(
        &mut self,
        url: &str,
        insecure: bool,
        client: &ClientKeys<'_>,
    ) -> Result<TokenEndpoint, BuildError> {
        let certificate = client.certificate.1.as_ref();
        let mut endpoint = match certificate.and_then(|certificate| certificate.name.as_ref()) {
            Some(name) => self.resources.mtls_token_endpoint(name, url),
            None => self.resources.token_endpoint(url),
        };
        if insecure {
            endpoint = endpoint.insecure();
        }
        if let Some(client_auth) = self.client_auth(client) {
            endpoint = endpoint.client_auth(client_auth);
        }
        if let (at, Some(config)) = client.dpop {
            endpoint = self.bind(endpoint, at, config);
        }
        endpoint.build()
    }

    /// Has the tokens of the endpoint bound to the key whose block is at `at`.
    #[cfg(feature = "dpop")]
    fn bind(
        &mut self,
        endpoint: TokenEndpointBuilder,
        at: &str,
        config: &DpopConfig,
    ) -> TokenEndpointBuilder {
        let Some(keys) = self.dpop_keys(at, config) else {
            return endpoint;
        };
        let endpoint = endpoint.dpop(keys);
        match config.allow_bearer_tokens {
            true => endpoint.allow_bearer_tokens(),
            false => endpoint,
        }
    }

    #[cfg(not(feature = "dpop"))]
    fn bind(
        &mut self,
        endpoint: TokenEndpointBuilder,
        at: &str,
        _: &DpopConfig,
    ) -> TokenEndpointBuilder {
        self.fault_of_dpop(at);
        endpoint
    }

    #[cfg(not(feature = "dpop"))]
    pub(super) fn fault_of_dpop(&mut self, at: &str) {
        self.fault(at, "needs the feature `dpop` of the crate `tower-identity`");
    }

    fn client_auth(&mut self, client: &ClientKeys<'_>) -> Option<ClientAuth> {
        let (id_key, id) = client.id;
        let credential = self.client_credential(client);
        let Some(id) = id else {
            let present = [
                (client.secret.0, client.secret.1.is_some()),
                (client.secret_env.0, client.secret_env.1.is_some()),
                (client.secret_file.0, client.secret_file.1.is_some()),
                (client.assertion_file.0, client.assertion_file.1.is_some()),
                (client.key.0, client.key.1.is_some()),
                (client.certificate.0, client.certificate.1.is_some()),
            ];
            if let Some((key, _)) = present.into_iter().rev().find(|(_, is_there)| *is_there) {
                self.fault(
                    id_key,
                    format!("is missing, and there is a secret that goes with it: `{key}`"),
                );
            }
            return None;
        };
        Some(match credential {
            Some(ClientCredential::Secret(secret)) => (client.with_secret)(id.clone(), secret),
            Some(ClientCredential::Assertion(make, assertion)) => make(id.clone(), assertion),
            #[cfg(feature = "private-key-jwt")]
            Some(ClientCredential::Key(key)) => ClientAuth::private_key_jwt(id, key),
            Some(ClientCredential::Certificate(make)) => make(id.clone()),
            None => ClientAuth::none(id),
        })
    }

    fn client_credential(&mut self, client: &ClientKeys<'_>) -> Option<ClientCredential> {
        let secret_key = match client.secret_env.1 {
            Some(_) => client.secret_env.0,
            None => client.secret.0,
        };
        let has_secret = client.secret.1.is_some() || client.secret_env.1.is_some();
        let secret = self.secret(client.secret, client.secret_env);
        let secret = secret.filter(|secret| {
            let checked = check_client_secret(secret.expose());
            if let Err(error) = &checked {
                self.fault(secret_key, format!("cannot be used: {error}"));
            }
            checked.is_ok()
        });
        let file = self.file(client.secret_file);
        let assertion = self.file(client.assertion_file);
        let mut first = has_secret.then_some(secret_key);
        for (key, is_there) in [
            (client.secret_file.0, client.secret_file.1.is_some()),
            (client.assertion_file.0, client.assertion_file.1.is_some()),
            (client.key.0, client.key.1.is_some()),
            (client.certificate.0, client.certificate.1.is_some()),
        ] {
            match first {
                Some(first) if is_there => {
                    self.fault(
                        key,
                        format!("is there beside `{first}`, remove one of the two"),
                    );
                }
                None if is_there => first = Some(key),
                _ => {}
            }
        }
        let make: fn(String, SecretSource) -> ClientAuth = match client.assertion_type.1.as_deref()
        {
            None | Some("jwt-bearer") => ClientAuth::assertion,
            Some("jwt-spiffe") => ClientAuth::spiffe,
            Some(_) => {
                let key = client.assertion_type.0;
                self.fault(key, "is neither `jwt-bearer` nor `jwt-spiffe`");
                ClientAuth::assertion
            }
        };
        if client.assertion_type.1.is_some() && client.assertion_file.1.is_none() {
            let file = client.assertion_file.0;
            let message = format!("is there without `{file}`, give it too");
            self.lack(client.assertion_type.0, &[file], message);
        }
        let secret = secret.map(SecretSource::from).or(file);
        match (secret, assertion) {
            (Some(secret), _) => Some(ClientCredential::Secret(secret)),
            (None, Some(assertion)) => Some(ClientCredential::Assertion(make, assertion)),
            (None, None) => match self.key_of_client(client) {
                Some(key) => Some(key),
                None => self.certificate_of_client(client),
            },
        }
    }

    fn certificate_of_client(&mut self, client: &ClientKeys<'_>) -> Option<ClientCredential> {
        let (at, config) = client.certificate;
        let make = self.client_with_certificate(at, config.as_ref()?)?;
        Some(ClientCredential::Certificate(make))
    }

    #[cfg(feature = "private-key-jwt")]
    fn key_of_client(&mut self, client: &ClientKeys<'_>) -> Option<ClientCredential> {
        let (at, config) = client.key;
        let key = self.client_key(at, config.as_ref()?)?;
        Some(ClientCredential::Key(key))
    }

    #[cfg(not(feature = "private-key-jwt"))]
    fn key_of_client(&mut self, client: &ClientKeys<'_>) -> Option<ClientCredential> {
        let (at, config) = client.key;
        config.as_ref()?;
        self.fault(
            at,
            "needs the feature `private-key-jwt` of the crate `tower-identity`",
        );
        None
    }

    /// The source that reads this file. The file itself is read when a token is requested.
    pub(super) fn file(&mut self, (key, path): (&str, &Option<FilePath>)) -> Option<SecretSource> {
        let path = path.as_ref()?.as_str();
        if !Path::new(path).is_absolute() {
            self.fault(key, "is not the absolute path of a file");
            return None;
        }
        Some(SecretSource::file(path))
    }

    pub(super) fn secret(
        &mut self,
        (key, secret): (&str, &Option<Secret>),
        (variable_key, variable): (&str, &Option<VariableName>),
    ) -> Option<Secret> {
        match (secret, variable) {
            (None, None) => None,
            (Some(secret), None) if !self.resources.is_replaced(secret) => {
                self.fault(key, format!("has {PLACEHOLDER}"));
                None
            }
            (Some(secret), None) => Some(secret.clone()),
            (Some(_), Some(_)) => {
                self.fault(
                    variable_key,
                    format!("is there beside `{key}`, remove one of the two"),
                );
                None
            }
            (None, Some(variable)) => {
                let fault = match self.resources.variable(variable.as_str()).map(Secret::new) {
                    Some(Ok(secret)) if !self.resources.is_replaced(&secret) => {
                        format!("whose value has {PLACEHOLDER}")
                    }
                    Some(Ok(secret)) => return Some(secret),
                    Some(Err(_)) => "that is empty".to_owned(),
                    None => "that is not set, or not Unicode".to_owned(),
                };
                let name = match variable.shown() {
                    Some(name) => format!(" `{name}`"),
                    None => String::new(),
                };
                self.fault(
                    variable_key,
                    format!("names an environment variable{name} {fault}"),
                );
                None
            }
        }
    }

    /// The strategy of a backend's configuration within this one.
    pub(super) fn inner(
        &mut self,
        key: &str,
        config: Option<&BackendAuthConfig>,
    ) -> Option<Arc<dyn Strategy<B>>>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let Some(config) = config else {
            self.fault(key, "is missing");
            return None;
        };
        let mut faults = self.faults.within(&self.path_of(key));
        let strategy = config.build(self.resources, &mut faults);
        for fault in faults.into_vec() {
            self.fault(&format!("{key}.{}", fault.key()), fault.message());
        }
        strategy
    }

    /// Says that a client that needs a credential has none, and then also whether it has no id. `instead` are keys
    /// that make a client unnecessary: where one of them has a fault, nothing more is said.
    pub(super) fn need_confidential_client(&mut self, client: &ClientKeys<'_>, instead: &[&str]) {
        if !client.has_credential() {
            let (env, file) = (client.secret_env.0, client.secret_file.0);
            let (assertion, key) = (client.assertion_file.0, client.key.0);
            let certificate = client.certificate.0;
            self.lack(
                client.secret.0,
                &[&[env, file, assertion, key, certificate], instead].concat(),
                format!(
                    "is missing; give it, `{env}`, `{file}`, `{assertion}`, `{key}` or `{certificate}`"
                ),
            );
            let (id_key, id) = client.id;
            if id.as_deref().unwrap_or_default().is_empty() {
                self.lack(id_key, instead, "is missing");
            }
        }
    }

    /// Says that there is neither a secret nor the variable that has it.
    pub(super) fn need_secret(&mut self, key: &str, is_there: bool) {
        if !is_there {
            let variable = format!("{key}Env");
            let message = format!(
                "is missing; give it, or `{variable}`, which names an environment variable"
            );
            self.lack(key, &[&variable], message);
        }
    }

    /// Checks that an upstream provider has this name, if the application told the names.
    pub(super) fn check_provider(&mut self, key: &str, name: &str) {
        let Some(known) = self.resources.upstream_providers() else {
            return;
        };
        if name.trim().is_empty() || known.iter().any(|known| known == name) {
            return;
        }
        let expected: Vec<_> = known.iter().map(|known| format!("`{known}`")).collect();
        let expected = match &*expected {
            [] => "there is none".to_owned(),
            _ => format!("expected one of {}", expected.join(", ")),
        };
        let name = name.escape_debug();
        self.fault(
            key,
            format!("`{name}` is not an upstream provider; {expected}"),
        );
    }

    /// The provider of the user's token: the one that is named, or else the first.
    pub(super) fn subject_provider(&mut self, key: &str, name: Option<&str>) -> Option<String> {
        if let Some(name) = name {
            self.check_provider(key, name);
            return Some(name.to_owned());
        }
        self.resources.upstream_providers()?.first().cloned()
    }

    /// The provider of the user's token: the one that is named, or else the only one.
    pub(super) fn only_subject_provider(&mut self, key: &str, name: Option<&str>) -> String {
        if let Some(name) = name {
            self.check_provider(key, name);
            return name.to_owned();
        }
        match self.resources.upstream_providers() {
            Some([only]) => return only.clone(),
            Some([_, _, ..]) => {
                self.fault(
                    key,
                    "is missing, and there is more than one upstream provider; name one",
                );
            }
            Some([]) | None => self.fault(key, "is missing"),
        }
        String::new()
    }

    pub(super) fn check_scopes(&mut self, key: &str, scopes: &[String]) {
        for (index, _) in scopes
            .iter()
            .enumerate()
            .filter(|(_, scope)| !is_scope(scope))
        {
            self.fault(&format!("{key}[{index}]"), NOT_A_SCOPE);
        }
    }

    pub(super) fn need(&mut self, key: &str, value: &str) {
        if value.is_empty() {
            self.fault(key, "is missing");
        }
    }

    /// Says that something is missing, unless one of the keys that would do in its place is at fault already.
    pub(super) fn lack(&mut self, key: &str, others: &[&str], message: impl Into<String>) {
        let mut others = others.iter().map(|other| self.path_of(other));
        if !others.any(|other| self.faults.has(&other)) {
            self.fault(key, message);
        }
    }

    pub(super) fn fault(&mut self, key: &str, message: impl Into<String>) {
        let path = self.path_of(key);
        self.faults.add(path, message);
    }

    #[cfg(not(all(feature = "aws-sts", feature = "private-key-jwt")))]
    pub(super) fn fault_of_type(&mut self, message: &str) {
        self.faults.add("type", message);
    }

    /// The strategy, unless a key is at fault. The faults of the builder's settings are added as faults of their keys.
    pub(super) fn built<T>(
        &mut self,
        built: Result<T, BuildError>,
        keys: &KeysOfSettings<'_>,
    ) -> Option<T> {
        let built = self.part(built, keys);
        built.filter(|_| self.faults.is_empty())
    }

    /// A part of the strategy, whichever other keys are at fault.
    pub(super) fn part<T>(
        &mut self,
        built: Result<T, BuildError>,
        keys: &KeysOfSettings<'_>,
    ) -> Option<T> {
        let add_all = |error: BuildError| {
            for invalid in error.invalid_settings() {
                self.add(invalid, keys);
            }
        };
        built.map_err(add_all).ok()
    }

    /// Where one of the setting's keys is at fault already, the setting's fault is no news.
    fn add(&mut self, invalid: &InvalidSetting, keys: &KeysOfSettings<'_>) {
        let (pattern, places) = pattern_of(invalid.setting());
        let of_setting = keys.iter().find(|(setting, _)| *setting == pattern);
        let message = in_words_of_keys(invalid.message(), keys);
        let message = without_other_settings(&message, &pattern, keys);
        let Some((_, of_setting)) = of_setting else {
            return self.fault("", format!("`{}` {message}", invalid.setting()));
        };
        let paths = of_setting
            .iter()
            .map(|key| self.path_of(&fill(key, &places)));
        let paths: Vec<_> = paths.collect();
        if !paths.iter().any(|path| self.faults.has(path)) {
            self.faults
                .add(paths.into_iter().next().unwrap_or_default(), message);
        }
    }

    fn path_of(&self, key: &str) -> String {
        let dot = if key.is_empty() { "" } else { "." };
        format!("{}{dot}{key}", self.name)
    }
}

/// A setting without its places in lists, and these places: `role_mapping[].role` and `2`.
fn pattern_of(setting: &str) -> (String, Vec<&str>) {
    let mut parts = setting.split('[');
    let mut pattern = parts.next().unwrap_or_default().to_owned();
    let mut places = Vec::new();
    for part in parts {
        let (place, rest) = part.split_once(']').unwrap_or((part, ""));
        places.push(place);
        pattern.push_str("[]");
        pattern.push_str(rest);
    }
    (pattern, places)
}

fn fill(key: &str, places: &[&str]) -> String {
    let mut filled = key.to_owned();
    for place in places {
        filled = filled.replacen("[]", &format!("[{place}]"), 1);
    }
    filled
}

/// Messages name other settings in backquotes.
fn in_words_of_keys(message: &str, keys: &KeysOfSettings<'_>) -> String {
    keys.iter()
        .filter_map(|(setting, keys)| Some((setting, keys.first()?)))
        .fold(message.to_owned(), |message, (setting, key)| {
            message.replace(&format!("`{setting}`"), &format!("`{key}`"))
        })
}

/// Plain http is allowed by a setting of each endpoint, which not all have a key for.
fn without_other_settings(message: &str, setting: &str, keys: &KeysOfSettings<'_>) -> String {
    let insecure = setting.replace(".url", ".insecure");
    let of_setting = keys
        .iter()
        .find(|(key, _)| (*key == insecure && insecure != setting) || *key == "insecure");
    let allowed = match of_setting.and_then(|(_, keys)| keys.first()) {
        Some(key) => format!(", or for a trusted network with `{key}`"),
        None => String::new(),
    };
    message.replace(
        " and for a network that is declared to be trusted",
        &allowed,
    )
}
