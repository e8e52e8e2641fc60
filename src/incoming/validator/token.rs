//! Whether a token is good, and whose it is.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::{
    error::AuthError,
    identity::{Identity, Reading},
    incoming::{issuer::TrustedIssuer, key_set::Verification},
    secret::AccessToken,
    upstream::TokenOwner,
};

use super::{
    Inner,
    claims::{Accepted, Source, Vouched, issued_at, text},
    jwt::Jwt,
    malformed, not_active, rejected,
    validated_tokens::Validated,
};

const MAX_TOKEN: usize = 16 * 1024;

impl Inner {
    pub(super) fn remembered(&self, token: &[u8]) -> Option<Validated> {
        let tokens = self.validated_tokens.as_ref()?;
        let may_be_one = token.len() <= MAX_TOKEN;
        may_be_one.then(|| tokens.find(token, &*self.clock))?
    }

    /// `None`, when something has to be waited for.
    pub(super) fn validate_now(&self, token: &str) -> Option<Result<Validated, AuthError>> {
        if token.len() > MAX_TOKEN {
            return Some(Err(rejected("the token is too large")));
        }
        match Jwt::parse(token) {
            Some(jwt) => self.validate_jwt_now(&jwt, token).transpose(),
            None if self.introspection.is_some() => None,
            None => Some(Err(rejected(
                "the token is not a JWT, and no other is accepted here",
            ))),
        }
    }

    fn validate_jwt_now(&self, jwt: &Jwt<'_>, token: &str) -> Result<Option<Validated>, AuthError> {
        let claims = jwt.claims()?;
        let issuer = self.issuer_of(&claims)?;
        let Some(known) = issuer.keys.known() else {
            return Ok(None);
        };
        match jwt.verify(&known.keys, issuer, &claims)? {
            Verification::Good => self
                .accept_jwt(issuer, claims, token, Reading::now())
                .map(Some),
            Verification::Bad => Err(not_signed()),
            Verification::Unknown => Ok(None),
        }
    }

    pub(super) async fn validate_waiting(
        self: &Arc<Self>,
        token: &str,
        reading: Reading,
    ) -> Result<Validated, AuthError> {
        let Some(jwt) = Jwt::parse(token) else {
            return self.introspect(token, reading).await;
        };
        let claims = jwt.claims()?;
        let issuer = self.issuer_of(&claims)?;
        let known = issuer.keys.known();
        let keys = match &known {
            Some(keys) => keys.clone(),
            None => issuer.keys.first().await?,
        };
        let mut verification = jwt.verify(&keys.keys, issuer, &claims)?;
        // Keys that were fetched for this very token are as new as can be.
        if verification == Verification::Unknown
            && known.is_some()
            && let Some(newer) = issuer.keys.newer_than(&keys, issued_at(&claims)).await?
        {
            verification = jwt.verify(&newer.keys, issuer, &claims)?;
        }
        match verification {
            Verification::Good => self.accept_jwt(issuer, claims, token, reading),
            Verification::Bad | Verification::Unknown => Err(not_signed()),
        }
    }

    /// The issuer that the token says it is of. No key is looked up for a token of another one.
    fn issuer_of(&self, claims: &Map<String, Value>) -> Result<&TrustedIssuer, AuthError> {
        let issuer = text(claims, "iss")?
            .ok_or_else(|| rejected("the token does not say who issued it (`iss`)"))?;
        let is_exact = |trusted: &&TrustedIssuer| {
            !trusted.id.is_template() && trusted.id.is_of(issuer, claims)
        };
        let is_of = |trusted: &&TrustedIssuer| trusted.id.is_of(issuer, claims);
        let mut issuers = self.issuers.iter();
        issuers
            .clone()
            .find(is_exact)
            .or_else(|| issuers.find(is_of))
            .ok_or_else(|| rejected("the token is of another issuer (`iss`)"))
    }

    fn accept_jwt(
        &self,
        issuer: &TrustedIssuer,
        claims: Map<String, Value>,
        token: &str,
        reading: Reading,
    ) -> Result<Validated, AuthError> {
        self.accept(Vouched {
            issuer,
            source: Source::Signature,
            claims,
            token,
            reading,
        })
    }

    async fn introspect(
        self: &Arc<Self>,
        token: &str,
        reading: Reading,
    ) -> Result<Validated, AuthError> {
        let introspection = self.introspection.as_ref().ok_or_else(not_active)?;
        // What cannot be a token is not sent to anyone.
        let token = AccessToken::new(token).map_err(|_| malformed())?;
        let inner = Arc::clone(self);
        let ask = |token: AccessToken| async move { inner.ask(token.expose(), reading).await };
        introspection.once(token, ask).await
    }

    async fn ask(&self, token: &str, reading: Reading) -> Result<Validated, AuthError> {
        let introspection = self.introspection.as_ref().ok_or_else(not_active)?;
        let issuer = self.issuers.first().ok_or_else(not_active)?;
        let named = Some(issuer.id.as_str()).filter(|_| !issuer.id.is_template());
        let claims = introspection
            .endpoint
            .introspect(token, named, &*self.clock)
            .await?;
        self.accept(Vouched {
            issuer,
            source: Source::Introspection,
            claims: claims.ok_or_else(not_active)?,
            token,
            reading,
        })
    }

    fn accept(&self, mut vouched: Vouched<'_>) -> Result<Validated, AuthError> {
        let session = self.take_session(&mut vouched.claims);
        let accepted = self.admission.accept(vouched, self.clock.now())?;
        let Accepted {
            identity,
            bindings,
            expires_at,
        } = accepted;
        let validated = Validated {
            owner: self.owner(&identity, session)?,
            identity,
            bindings,
        };
        if let (Some(tokens), Some(expires_at)) = (&self.validated_tokens, expires_at) {
            tokens.keep(&validated, expires_at, &*self.clock);
        }
        Ok(validated)
    }

    /// Takes out the claim that names the session, so that no strategy passes it on.
    fn take_session(&self, claims: &mut Map<String, Value>) -> Option<Value> {
        claims.remove(self.upstream.as_ref()?.claim_of_session()?)
    }

    /// Returns the owner of the upstream tokens that the request gets, if any.
    fn owner(
        &self,
        identity: &Identity,
        session: Option<Value>,
    ) -> Result<Option<TokenOwner>, AuthError> {
        let Some(upstream) = &self.upstream else {
            return Ok(None);
        };
        let user = || {
            TokenOwner::of(identity)
                .map_err(|_| rejected("the token does not say who issued it (`iss`)"))
        };
        match session {
            Some(Value::String(session)) if !session.trim().is_empty() => {
                Ok(Some(user()?.with_session(session)))
            }
            Some(_) => Err(rejected(
                "the claim that names the session is empty or not a string",
            )),
            None if upstream.claim_of_session().is_some() => Ok(None),
            None => user().map(Some),
        }
    }
}

#[cold]
fn not_signed() -> AuthError {
    rejected("the token is not signed with a key of the issuer")
}
