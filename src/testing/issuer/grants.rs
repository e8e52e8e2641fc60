//! The tokens that each grant brings.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{
    super::Answer,
    TestIssuer,
    state::{ANY_CLIENT, Grant, Kind},
    token::{bind, bound_to, is_jwt, random_text},
};

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const ID_JAG: &str = "urn:ietf:params:oauth:token-type:id-jag";

/// The parameters of a request. An empty one counts as absent (RFC 6749 §3.2).
pub(super) struct Form {
    pairs: Vec<(String, String)>,
    /// The key of the request's DPoP proof.
    key: Option<String>,
}

impl Form {
    /// No parameter is there twice (RFC 6749 §3.2), except the targets of a token.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let pairs = form_urlencoded::parse(body).into_owned();
        let pairs: Vec<_> = pairs.filter(|(_, value)| !value.is_empty()).collect();
        let mut form = Self {
            pairs: Vec::new(),
            key: None,
        };
        for (name, value) in pairs {
            let is_target = ["audience", "resource"].contains(&&*name);
            if !is_target && form.get(&name).is_some() {
                let description = "a parameter must not be provided twice";
                return Err(Refusal::new(400, "invalid_request", description));
            }
            form.pairs.push((name, value));
        }
        Ok(form)
    }

    #[cfg(feature = "dpop")]
    pub(super) fn proven(mut self, key: Option<String>) -> Self {
        self.key = key;
        self
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub(super) fn need(&self, name: &'static str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| {
            Refusal::new(400, "invalid_request", "missing required parameter").of(name)
        })
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let pairs = self.pairs.iter();
        pairs.filter_map(move |(key, value)| (key == name).then_some(&**value))
    }
}

/// An error answer (RFC 6749 §5.2).
#[derive(Debug)]
pub(super) struct Refusal {
    status: u16,
    code: &'static str,
    description: &'static str,
    parameter: Option<&'static str>,
    scope: Option<String>,
    nonce: Option<String>,
    /// The client tried HTTP Basic, and gets a challenge.
    pub(super) is_basic: bool,
}

impl Refusal {
    pub(super) fn new(status: u16, code: &'static str, description: &'static str) -> Self {
        Self {
            status,
            code,
            description,
            parameter: None,
            scope: None,
            nonce: None,
            is_basic: false,
        }
    }

    /// A nonce for the next DPoP proof.
    #[cfg(feature = "dpop")]
    pub(super) fn with_nonce(mut self, nonce: String) -> Self {
        self.nonce = Some(nonce);
        self
    }

    fn of(mut self, parameter: &'static str) -> Self {
        self.parameter = Some(parameter);
        self
    }

    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn description(&self) -> String {
        match self.parameter {
            Some(parameter) => format!("{} '{parameter}'", self.description),
            None => self.description.to_owned(),
        }
    }

    pub(super) fn answer(&self, realm: &str) -> Answer {
        let description = self.description();
        let mut body = json!({ "error": self.code, "error_description": description });
        if let Some(scope) = &self.scope {
            add(&mut body, "scope", scope.as_str().into());
        }
        let mut answer = Answer::json(self.status, &body);
        if let Some(nonce) = &self.nonce {
            answer = answer.header("dpop-nonce", nonce);
        }
        let challenge = format!(
            r#"Basic realm="{realm}", error="{}", error_description="{description}""#,
            self.code
        );
        match HeaderValue::try_from(challenge) {
            Ok(challenge) if self.is_basic => answer.set(WWW_AUTHENTICATE, challenge),
            _ => answer,
        }
    }
}

/// The tokens of a login.
pub(super) struct Issued {
    pub(super) access_token: String,
    pub(super) refresh_token: String,
    pub(super) id_token: Option<String>,
}

impl TestIssuer {
    pub(super) fn issue_for(&self, client: &str, form: &Form) -> Result<Value, Refusal> {
        match form.need("grant_type")? {
            "authorization_code" => self.redeem_code(client, form),
            "refresh_token" => self.refresh(client, form),
            "client_credentials" => self.issue_to_client(client, form),
            TOKEN_EXCHANGE => self.exchange(client, form),
            JWT_BEARER => self.take_assertion(client, form),
            _ => Err(Refusal::new(
                400,
                "unsupported_grant_type",
                "unsupported grant_type requested",
            )),
        }
    }

    fn redeem_code(&self, client: &str, form: &Form) -> Result<Value, Refusal> {
        let presented = form.need("code")?;
        let now = self.now();
        let grant = {
            let mut state = self.state();
            let Some(code) = state.codes.get_mut(presented) else {
                return Err(invalid_grant());
            };
            let grant = code.grant;
            if std::mem::replace(&mut code.is_spent, true) {
                // RFC 6749 §4.1.2.
                state.revoke_grant(Some(grant));
                return Err(invalid_grant());
            }
            let verifier = form.get("code_verifier").unwrap_or_default();
            let is_proven = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) == code.challenge;
            let is_redirected = form.get("redirect_uri") == Some(&*code.redirect_uri);
            if !is_proven || !is_redirected || code.expires_at <= now {
                return Err(invalid_grant());
            }
            let granted = state.grants.get(grant).ok_or_else(invalid_grant)?;
            let is_bound_to_another = granted.dpop_jkt.is_some() && granted.dpop_jkt != form.key;
            if granted.client_id.as_deref() != Some(client) || is_bound_to_another {
                return Err(invalid_grant());
            }
            grant
        };
        Ok(self.answer_of_login(grant, client, form))
    }

    fn refresh(&self, client: &str, form: &Form) -> Result<Value, Refusal> {
        let presented = form.need("refresh_token")?;
        let grant = {
            let mut state = self.state();
            let kept = state.kept.get_mut(presented);
            let Some(kept) = kept.filter(|kept| kept.kind == Kind::Refresh) else {
                return Err(invalid_grant());
            };
            let Some(grant) = kept.grant else {
                return Err(invalid_grant());
            };
            let was_spent = kept.is_spent;
            let bound_to = bound_to(&kept.claims).map(str::to_owned);
            let granted = state.grants.get(grant);
            if granted.is_none_or(|grant| grant.is_revoked || grant.is_of_another(client)) {
                return Err(invalid_grant());
            }
            if was_spent {
                // RFC 9700 §4.14.2.
                state.revoke_grant(Some(grant));
                return Err(invalid_grant());
            }
            if bound_to.is_some() && bound_to != form.key {
                return Err(invalid_grant());
            }
            if let (Some(scope), Some(grant)) = (form.get("scope"), state.grants.get(grant)) {
                let missing = |scope: &&str| !grant.scopes().any(|own| own == *scope);
                let missing: Vec<_> = scope.split(' ').filter(missing).collect();
                if !missing.is_empty() {
                    return Err(invalid_scope(&missing));
                }
            }
            if let Some(kept) = state.kept.get_mut(presented) {
                kept.is_spent = true;
            }
            grant
        };
        Ok(self.answer_of_login(grant, client, form))
    }

    fn issue_to_client(&self, client: &str, form: &Form) -> Result<Value, Refusal> {
        let target = self.target(form)?;
        // Scopes are those of a resource.
        let scope = form.get("scope").filter(|_| target.is_some());
        let mut claims = self.new_claims(client, client);
        if target.is_none() {
            claims.remove("sub");
        }
        Ok(self.answer_of_grant(claims, target, scope, form))
    }

    /// RFC 8693 §2.1. A token that is not accepted is an invalid request (§2.2.2).
    fn exchange(&self, client: &str, form: &Form) -> Result<Value, Refusal> {
        let invalid = |description| Refusal::new(400, "invalid_request", description);
        let requested = form.get("requested_token_type").unwrap_or(ACCESS_TOKEN);
        if ![ACCESS_TOKEN, JWT, ID_JAG].contains(&requested) {
            return Err(invalid("requested_token_type is not supported"));
        }
        let holder = |token: &'static str, token_type: &'static str| {
            let claims = self.holder(form.get(token)?, form.get(token_type)?, client);
            claims.filter(|claims| claims.contains_key("sub"))
        };
        let subject = holder("subject_token", "subject_token_type");
        let subject = subject.ok_or_else(|| invalid("subject_token is not valid"))?;
        let mut actors = subject.get("act").cloned();
        if form.get("actor_token").is_some() {
            let actor = holder("actor_token", "actor_token_type");
            let actor = actor.ok_or_else(|| invalid("actor_token is not valid"))?;
            let mut acting = json!({ "sub": actor.get("sub") });
            if let (Some(before), Some(acting)) = (actors, acting.as_object_mut()) {
                acting.insert("act".to_owned(), before);
            }
            actors = Some(acting);
        }
        let scope = form.get("scope");
        if requested == ID_JAG {
            return self.assert(client, form, &subject);
        }
        let target = self.target(form)?;
        let mut claims = self.new_claims(subject_of(&subject), client);
        if let Some(actors) = actors {
            claims.insert("act".to_owned(), actors);
        }
        let mut answer = self.answer_of_grant(claims, target, scope, form);
        add(&mut answer, "issued_token_type", requested.into());
        Ok(answer)
    }

    /// An assertion for another authorization server, which `audience` names
    /// (draft-ietf-oauth-identity-assertion-authz-grant §4).
    fn assert(
        &self,
        client: &str,
        form: &Form,
        subject: &Map<String, Value>,
    ) -> Result<Value, Refusal> {
        let audience = form.need("audience")?;
        let mut claims = self.new_claims(subject_of(subject), client);
        claims.insert("aud".to_owned(), audience.into());
        for name in ["resource", "scope"] {
            if let Some(value) = form.get(name) {
                claims.insert(name.to_owned(), value.into());
            }
        }
        let assertion = self.sign("oauth-id-jag+jwt", Map::new(), claims);
        let mut answer = self.answer_with(&assertion, form.get("scope"), false);
        add(&mut answer, "issued_token_type", ID_JAG.into());
        add(&mut answer, "token_type", "N_A".into());
        Ok(answer)
    }

    /// RFC 7523 §2.1, and Microsoft Entra's on-behalf-of.
    fn take_assertion(&self, client: &str, form: &Form) -> Result<Value, Refusal> {
        let assertion = form.need("assertion")?;
        if !is_jwt(assertion) {
            return Err(invalid_grant());
        }
        let own = self.claims(assertion);
        let of_others = || {
            let claims = self.claims_of_trusted(assertion)?;
            let is_for_this = claims
                .get("aud")
                .and_then(Value::as_str)
                .is_some_and(|audience| self.is_own_name(audience));
            is_for_this.then_some(claims)
        };
        let holder = own.or_else(of_others).ok_or_else(invalid_grant)?;
        if !holder.contains_key("sub") {
            return Err(invalid_grant());
        }
        let asserted = |name: &str| holder.get(name).and_then(Value::as_str);
        let target = match self.target(form)? {
            Some(target) => Some(target),
            None => asserted("resource").map(str::to_owned),
        };
        let scope = form.get("scope").or(asserted("scope"));
        let claims = self.new_claims(subject_of(&holder), client);
        Ok(self.answer_of_grant(claims, target, scope, form))
    }

    fn holder(&self, token: &str, token_type: &str, client: &str) -> Option<Map<String, Value>> {
        let claims = self
            .claims(token)
            .or_else(|| self.claims_of_trusted(token))?;
        match token_type {
            ACCESS_TOKEN => Some(claims),
            JWT => is_jwt(token).then_some(claims),
            ID_TOKEN => {
                let audience = claims.get("aud")?;
                (audience == client || audience == ANY_CLIENT).then_some(claims)
            }
            _ => None,
        }
    }

    fn claims_of_trusted(&self, jwt: &str) -> Option<Map<String, Value>> {
        let trusted = self.state().trusted.clone();
        let mut others = trusted.iter().filter(|_| is_jwt(jwt));
        others.find_map(|other| other.claims(jwt))
    }

    /// The one resource that the token is for (RFC 8707 §2, RFC 8693 §2.1).
    fn target(&self, form: &Form) -> Result<Option<String>, Refusal> {
        let mut targets = form.all("resource").chain(form.all("audience"));
        let Some(target) = targets.next() else {
            return Ok(None);
        };
        let resources = &self.state().resources;
        let is_known = resources.is_empty() || resources.iter().any(|known| known == target);
        if !is_known || targets.any(|other| other != target) {
            return Err(Refusal::new(
                400,
                "invalid_target",
                "resource indicator is missing, or unknown",
            ));
        }
        Ok(Some(target.to_owned()))
    }

    /// New tokens of a login. The old refresh token is spent.
    pub(super) fn issue(&self, index: usize, client: &str, form: Option<&Form>) -> Issued {
        let key = form.and_then(|form| form.key.as_deref());
        let grant = self.state().grants.get(index).cloned();
        let grant = grant.expect("a login is not forgotten");
        let scope = grant.scope.as_deref();
        let mut claims = self.new_claims(&grant.subject, client);
        bind(&mut claims, key);
        let access_token = self.access_token(
            claims,
            grant.resource.clone(),
            grant.access_scope().as_deref(),
            Some(index),
        );

        let mut claims = self.new_claims(&grant.subject, client);
        add_scope(&mut claims, scope);
        // Only the key proves that a public client is the same one (RFC 9449 §5).
        bind(&mut claims, key.filter(|_| self.is_public(client)));
        let refresh_token = self.keep(Kind::Refresh, claims, Some(index));
        Issued {
            access_token,
            refresh_token,
            id_token: self.id_token(&grant, client),
        }
    }

    fn id_token(&self, grant: &Grant, client: &str) -> Option<String> {
        grant.scopes().find(|scope| *scope == "openid")?;
        let mut claims = self.new_claims(&grant.subject, client);
        for name in ["client_id", "jti"] {
            claims.remove(name);
        }
        claims.insert("aud".to_owned(), client.into());
        if let Some(nonce) = &grant.nonce {
            claims.insert("nonce".to_owned(), nonce.as_str().into());
        }
        let mut header = Map::new();
        header.insert("typ".to_owned(), Value::Null);
        Some(self.sign("JWT", header, claims))
    }

    fn answer_of_login(&self, grant: usize, client: &str, form: &Form) -> Value {
        let issued = self.issue(grant, client, Some(form));
        let grant = self.state().grants.get(grant).cloned();
        let scope = grant.and_then(|grant| grant.access_scope());
        let is_bound = form.key.is_some();
        let mut answer = self.answer_with(&issued.access_token, scope.as_deref(), is_bound);
        add(&mut answer, "refresh_token", issued.refresh_token.into());
        if let Some(id_token) = issued.id_token {
            add(&mut answer, "id_token", id_token.into());
        }
        answer
    }

    /// A JWT for its target, or an opaque token for none.
    fn access_token(
        &self,
        mut claims: Map<String, Value>,
        target: Option<String>,
        scope: Option<&str>,
        grant: Option<usize>,
    ) -> String {
        add_scope(&mut claims, scope);
        match target {
            Some(target) => {
                claims.insert("aud".to_owned(), target.into());
                self.sign("at+jwt", Map::new(), claims)
            }
            None => self.keep(Kind::Access, claims, grant),
        }
    }

    /// The answer to a grant without a login.
    fn answer_of_grant(
        &self,
        mut claims: Map<String, Value>,
        target: Option<String>,
        scope: Option<&str>,
        form: &Form,
    ) -> Value {
        bind(&mut claims, form.key.as_deref());
        let token = self.access_token(claims, target, scope, None);
        self.answer_with(&token, scope, form.key.is_some())
    }

    fn is_public(&self, client: &str) -> bool {
        let clients = &self.state().clients;
        let mut clients = clients.iter().filter(|known| known.client_id() == client);
        clients.all(|known| !known.is_confidential())
    }

    fn answer_with(&self, token: &str, scope: Option<&str>, is_bound: bool) -> Value {
        let lifetime = self.state().lifetime.as_secs();
        let mut answer = json!({
            "access_token": token,
            "expires_in": lifetime,
            "token_type": token_type(is_bound),
        });
        if let Some(scope) = scope {
            add(&mut answer, "scope", scope.into());
        }
        answer
    }

    /// A code that its client can redeem once.
    pub(super) fn code_for(&self, grant: Grant, redirect_uri: &str, challenge: &str) -> String {
        let code = random_text();
        let expires_at = self.now() + super::state::CODE_LIFETIME;
        let grant = self.grant(grant);
        let kept = super::state::Code {
            grant,
            redirect_uri: redirect_uri.to_owned(),
            challenge: challenge.to_owned(),
            expires_at,
            is_spent: false,
        };
        self.state().codes.insert(code.clone(), kept);
        code
    }
}

pub(super) fn token_type(is_bound: bool) -> &'static str {
    if is_bound { "DPoP" } else { "Bearer" }
}

fn subject_of(claims: &Map<String, Value>) -> &str {
    let subject = claims.get("sub").and_then(Value::as_str);
    subject.unwrap_or_default()
}

fn add_scope(claims: &mut Map<String, Value>, scope: Option<&str>) {
    if let Some(scope) = scope.filter(|scope| !scope.is_empty()) {
        claims.insert("scope".to_owned(), scope.into());
    }
}

fn add(answer: &mut Value, name: &str, value: Value) {
    if let Some(members) = answer.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
}

pub(super) fn invalid_grant() -> Refusal {
    Refusal::new(400, "invalid_grant", "grant request is invalid")
}

fn invalid_scope(missing: &[&str]) -> Refusal {
    let description = "refresh token missing requested scope";
    let mut refusal = Refusal::new(400, "invalid_scope", description);
    refusal.scope = Some(missing.join(" "));
    refusal
}
