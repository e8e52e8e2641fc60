use std::{sync::Arc, time::SystemTime};

use crate::{
    clock::Clock,
    error::{AuthError, AuthErrorKind},
    oauth::unverified_jwt::UnverifiedJwt,
};

/// The claims that an assertion must have before it is passed on.
pub(super) struct ExpectedAssertion {
    pub(super) is_id_jag: bool,
    pub(super) issuer: Option<String>,
    pub(super) audience: String,
    pub(super) client_id: Option<String>,
    pub(super) resources: Vec<String>,
    pub(super) requires_resource: bool,
    pub(super) clock: Arc<dyn Clock>,
}

impl ExpectedAssertion {
    /// Checks the assertion, and returns its end.
    pub(super) fn check(
        &self,
        assertion: &str,
        users_issuer: Option<&str>,
    ) -> Result<SystemTime, AuthError> {
        self.read(assertion, users_issuer).map_err(|fault| {
            AuthError::new(
                AuthErrorKind::Unavailable,
                format!("the identity provider issued an assertion {fault}; it was not passed on"),
            )
        })
    }

    fn read(
        &self,
        assertion: &str,
        users_issuer: Option<&str>,
    ) -> Result<SystemTime, &'static str> {
        let jwt = UnverifiedJwt::decode(assertion).ok_or("that is no JWT")?;
        let is_id_jag = |name: &str| {
            let name = name.to_ascii_lowercase();
            name.strip_prefix("application/").unwrap_or(&name) == "oauth-id-jag+jwt"
        };
        if self.is_id_jag && !jwt.header_type().is_some_and(is_id_jag) {
            return Err("whose `typ` is not `oauth-id-jag+jwt`");
        }
        let now = self.clock.now();
        let end = jwt.expires_at().filter(|end| *end > now);
        let end = end.ok_or("that has expired, or does not say when it will")?;
        let issuer = self.issuer.as_deref().or(users_issuer);
        if issuer.is_none() || jwt.issuer() != issuer {
            return Err("with another `iss` than expected (the ID token's, unless one is set)");
        }
        if jwt.texts("aud") != Some(vec![self.audience.as_str()]) {
            return Err("with another `aud` than the authorization server that was asked for");
        }
        if let (Some(client_id), true) = (&self.client_id, jwt.has("client_id"))
            && jwt.texts("client_id") != Some(vec![client_id.as_str()])
        {
            return Err("for another `client_id` than this client has at the authorization server");
        }
        self.check_resource(&jwt).map(|()| end)
    }

    fn check_resource(&self, jwt: &UnverifiedJwt) -> Result<(), &'static str> {
        if self.resources.is_empty() {
            return Ok(());
        }
        // The draft has it as optional, and Okta leaves it out.
        if !jwt.has("resource") {
            return match self.requires_resource {
                true => Err("without a `resource`, which `require_resource` demands"),
                false => Ok(()),
            };
        }
        let is_asked_for = |resource: &&str| self.resources.iter().any(|asked| asked == resource);
        let named = jwt.texts("resource").filter(|named| !named.is_empty());
        match named.is_some_and(|named| named.iter().all(is_asked_for)) {
            true => Ok(()),
            false => Err("whose `resource` is not what was asked for"),
        }
    }
}
