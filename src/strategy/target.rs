use crate::{
    error::{Faults, one_of},
    oauth::{request::TokenRequest, syntax::is_absolute_uri},
};

/// The settings that say what a token is for, and what it allows.
#[derive(Clone, Default)]
pub(super) struct Target {
    audiences: Vec<String>,
    resources: Vec<String>,
    pub(super) scopes: Scopes,
}

/// Scopes, which can only be set all at once.
#[derive(Clone, Default)]
pub(super) struct Scopes {
    scopes: Vec<String>,
    were_set_twice: bool,
}

impl Target {
    pub(super) fn audience(&mut self, audience: &str) {
        self.audiences.push(audience.to_owned());
    }

    pub(super) fn resource(&mut self, resource: &str) {
        self.resources.push(resource.to_owned());
    }

    pub(super) fn scopes<I>(&mut self, scopes: I)
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        self.scopes.set(scopes);
    }

    pub(super) fn resources(&self) -> &[String] {
        &self.resources
    }

    pub(super) fn check(&self, faults: &mut Faults) {
        faults.need_texts("audience", &self.audiences);
        for (index, resource) in self.resources.iter().enumerate() {
            if !is_absolute_uri(resource) {
                faults.add(
                    one_of("resource", &self.resources, index),
                    "is not an absolute URI without a fragment, such as `https://mcp.example.com` (RFC 8707 §2)",
                );
            }
        }
        self.scopes.check("scopes", faults);
    }

    pub(super) fn add_to(&self, mut request: TokenRequest) -> TokenRequest {
        for audience in &self.audiences {
            request = request.audience(audience);
        }
        for resource in &self.resources {
            request = request.resource(resource);
        }
        self.scopes.add_to(request)
    }
}

impl Scopes {
    pub(super) fn set<I>(&mut self, scopes: I)
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let scopes = scopes.into_iter().map(|scope| scope.as_ref().to_owned());
        let scopes: Vec<_> = scopes.collect();
        self.were_set_twice |= !self.scopes.is_empty() && !scopes.is_empty();
        self.scopes.extend(scopes);
    }

    pub(super) fn as_slice(&self) -> &[String] {
        &self.scopes
    }

    pub(super) fn check(&self, setting: &'static str, faults: &mut Faults) {
        if self.were_set_twice {
            faults.add(setting, "were set twice, set all of them at once");
        }
        faults.need_scopes(setting, &self.scopes);
    }

    pub(super) fn add_to(&self, request: TokenRequest) -> TokenRequest {
        request.scopes(&self.scopes)
    }
}
