use crate::{
    error::{BuildError, InvalidSetting},
    oauth::{client_auth::ClientAuth, token_endpoint::TokenEndpoint},
    secret::{PLACEHOLDER, Secret, check_client_secret},
};

use super::{error::SectionFaults, resources::Resources, variable_name::VariableName};

/// The block of one backend while its strategy is built. It collects the faults.
pub(super) struct Block<'a, B> {
    pub(super) name: &'static str,
    pub(super) resources: &'a Resources<B>,
    pub(super) faults: &'a mut SectionFaults,
}

/// The keys of the block that a builder's setting is made of. A place in a list is `[]`.
pub(super) type KeysOfSettings<'a> = [(&'a str, &'a [&'a str])];

/// The keys that say who the client of a token endpoint is.
pub(super) struct ClientKeys<'a> {
    pub(super) id: (&'static str, &'a Option<String>),
    pub(super) secret: (&'static str, &'a Option<Secret>),
    pub(super) secret_env: (&'static str, &'a Option<VariableName>),
    /// How a client with a secret authenticates.
    pub(super) with_secret: fn(String, Secret) -> ClientAuth,
}

impl<B> Block<'_, B> {
    pub(super) fn endpoint(
        &mut self,
        url: &str,
        insecure: bool,
        client: &ClientKeys<'_>,
    ) -> Result<TokenEndpoint, BuildError> {
        let mut endpoint = self.resources.token_endpoint(url);
        if insecure {
            endpoint = endpoint.insecure();
        }
        if let Some(client_auth) = self.client_auth(client) {
            endpoint = endpoint.client_auth(client_auth);
        }
        endpoint.build()
    }

    fn client_auth(&mut self, client: &ClientKeys<'_>) -> Option<ClientAuth> {
        let ClientKeys {
            id: (id_key, id),
            secret,
            secret_env,
            with_secret,
        } = client;
        let secret_key = match secret_env.1 {
            Some(_) => secret_env.0,
            None => secret.0,
        };
        let has_secret = secret.1.is_some() || secret_env.1.is_some();
        let secret = self.secret(*secret, *secret_env).filter(|secret| {
            let checked = check_client_secret(secret.expose());
            if let Err(error) = &checked {
                self.fault(secret_key, format!("cannot be used: {error}"));
            }
            checked.is_ok()
        });
        match (id, secret) {
            (Some(id), Some(secret)) => Some(with_secret(id.clone(), secret)),
            (Some(id), None) => Some(ClientAuth::none(id)),
            (None, _) => {
                if has_secret {
                    self.fault(
                        id_key,
                        format!(
                            "is missing, and there is a secret that goes with it: `{secret_key}`"
                        ),
                    );
                }
                None
            }
        }
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

    /// Says that there is neither a secret nor the variable that has it.
    pub(super) fn need_secret(&mut self, key: &str, is_there: bool) {
        if !is_there {
            self.fault(
                key,
                format!("is missing; give it, or `{key}Env`, which names an environment variable"),
            );
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

    pub(super) fn need(&mut self, key: &str, value: &str) {
        if value.is_empty() {
            self.fault(key, "is missing");
        }
    }

    pub(super) fn fault(&mut self, key: &str, message: impl Into<String>) {
        let path = self.path_of(key);
        self.faults.add(path, message);
    }

    #[cfg(not(feature = "aws-sts"))]
    pub(super) fn fault_of_type(&mut self, message: &str) {
        self.faults.add("type", message);
    }

    /// The strategy, unless a key is at fault. The faults of the builder's settings are added as faults of their keys.
    pub(super) fn built<T>(
        &mut self,
        built: Result<T, BuildError>,
        keys: &KeysOfSettings<'_>,
    ) -> Option<T> {
        match built {
            Ok(built) => Some(built).filter(|_| self.faults.is_empty()),
            Err(error) => {
                for invalid in error.invalid_settings() {
                    self.add(invalid, keys);
                }
                None
            }
        }
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
    let of_setting = keys.iter().find(|(setting, _)| *setting == insecure);
    let allowed = match of_setting.and_then(|(_, keys)| keys.first()) {
        Some(key) => format!(", or for a trusted network with `{key}`"),
        None => String::new(),
    };
    message.replace(
        " and for a network that is declared to be trusted",
        &allowed,
    )
}
