use crate::{
    config::{
        error::{Faults, with_causes},
        resources::Resources,
    },
    oauth::{client_auth::ClientAuth, token_endpoint::TokenEndpoint},
    secret::Secret,
};

/// A block that is being built, and what is wrong with it.
pub(super) struct Block<'a, B> {
    pub(super) name: &'static str,
    pub(super) resources: &'a Resources<B>,
    pub(super) faults: &'a mut Faults,
}

/// The members that say where a token endpoint is, and who its client is.
pub(super) struct EndpointMembers<'a> {
    pub(super) url: Member<'a, String>,
    pub(super) insecure: bool,
    pub(super) client_id: Member<'a, Option<String>>,
    pub(super) client_secret: Member<'a, Option<Secret>>,
    pub(super) client_secret_env: Member<'a, Option<String>>,
    /// How a client with a secret authenticates.
    pub(super) client_auth: fn(String, Secret) -> ClientAuth,
}

pub(super) struct Member<'a, T> {
    name: &'static str,
    value: &'a T,
}

pub(super) fn member<'a, T>(name: &'static str, value: &'a T) -> Member<'a, T> {
    Member { name, value }
}

impl<B> Block<'_, B> {
    pub(super) fn endpoint(&mut self, members: &EndpointMembers<'_>) -> Option<TokenEndpoint> {
        let client = self.client(members);
        let url = &members.url;
        self.need(url.name, url.value)?;
        let mut endpoint = self.resources.token_endpoint(url.value);
        if members.insecure {
            endpoint = endpoint.insecure();
        }
        // The client's id is not blank, so what is refused here is the URL.
        if let Some(Some(client)) = client.clone() {
            endpoint = endpoint.client_auth(client);
        }
        let endpoint = self.check(url.name, endpoint.build());
        client.and(endpoint)
    }

    /// How the client authenticates, if it does; nothing where its members are at fault.
    fn client(&mut self, members: &EndpointMembers<'_>) -> Option<Option<ClientAuth>> {
        let EndpointMembers {
            client_id: id,
            client_secret: secret,
            client_secret_env: variable,
            client_auth: with_secret,
            ..
        } = members;
        let has_secret = secret.value.is_some() || variable.value.is_some();
        let secret = self.secret(secret, variable);
        match id.value {
            Some(text) if text.trim().is_empty() => {
                self.fault(id.name, "is empty; leave it out, or give it a value");
                None
            }
            Some(text) if has_secret => Some(Some(with_secret(text.clone(), secret?))),
            Some(text) => Some(Some(ClientAuth::none(text))),
            None if has_secret => {
                self.fault(id.name, "is missing, and there is a secret to it");
                None
            }
            None => Some(None),
        }
    }

    pub(super) fn secret(
        &mut self,
        value: &Member<'_, Option<Secret>>,
        variable: &Member<'_, Option<String>>,
    ) -> Option<Secret> {
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
            (None, Some(name)) => {
                // Its name is not told: it may be a secret that was meant for the other member.
                let fault = match self.resources.variable(name).map(Secret::new) {
                    Some(Ok(secret)) => return Some(secret),
                    Some(Err(_)) => "names an environment variable that is empty",
                    None => "names an environment variable that is not set, or not Unicode",
                };
                self.fault(variable.name, fault);
                None
            }
        }
    }

    /// Says that there is neither a secret nor the variable that has it.
    pub(super) fn fault_missing_secret(&mut self, name: &str) {
        self.fault(
            name,
            format!("is missing; give it, or `{name}Env`, which names an environment variable"),
        );
    }

    pub(super) fn need<'v>(&mut self, name: &str, value: &'v str) -> Option<&'v str> {
        if value.is_empty() {
            self.fault(name, "is missing");
            return None;
        }
        Some(value)
    }

    pub(super) fn check<T, E: std::error::Error + 'static>(
        &mut self,
        name: &str,
        outcome: Result<T, E>,
    ) -> Option<T> {
        match outcome {
            Ok(built) => Some(built),
            Err(error) => {
                self.fault(name, with_causes(&error));
                None
            }
        }
    }

    /// What a strategy makes of members that are right each by itself.
    pub(super) fn build<T, E: std::error::Error + 'static>(
        &mut self,
        outcome: Result<T, E>,
    ) -> Option<T> {
        if !self.faults.is_empty() {
            return None;
        }
        self.check("", outcome)
    }

    pub(super) fn fault(&mut self, name: &str, message: impl Into<String>) {
        let dot = if name.is_empty() { "" } else { "." };
        self.faults
            .add(format!("{}{dot}{name}", self.name), message);
    }
}
