//! Client authentication at each endpoint (RFC 6749 §2.3).

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use crate::{ClientAuth, oauth::unverified_jwt::UnverifiedJwt};

use super::{
    TestIssuer,
    grants::{Form, Refusal},
    token::{seconds, verified},
};

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const JWT_SPIFFE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";

/// The client that a request names.
#[derive(Debug, Default, PartialEq)]
struct Presented {
    client_id: String,
    secret: Option<String>,
    assertion: Option<String>,
    is_basic: bool,
}

impl TestIssuer {
    /// Returns the ID of the client that has authenticated.
    pub(super) async fn authenticated_client(
        &self,
        authorization: Option<&str>,
        form: &Form,
    ) -> Result<String, Refusal> {
        let presented = presented(authorization, form)?;
        let clients = self.state().clients.clone();
        if clients.is_empty() {
            return Ok(presented.client_id);
        }
        for client in clients {
            if client.client_id() == presented.client_id && self.is(&client, &presented).await {
                return Ok(presented.client_id);
            }
        }
        let mut refusal = Refusal::new(401, "invalid_client", "client authentication failed");
        refusal.is_basic = presented.is_basic;
        Err(refusal)
    }

    async fn is(&self, client: &ClientAuth, presented: &Presented) -> bool {
        if let Some(jwk) = client.public_key() {
            let assertion = presented.assertion.as_deref();
            return assertion.is_some_and(|assertion| self.is_signed(assertion, &jwk, presented));
        }
        let now = self.state().clock.clone();
        let Some((authorization, form)) = client.sent_to(&self.token_endpoint(), &*now).await
        else {
            return false;
        };
        let form = Form::parse(&form);
        let expected = form.and_then(|form| self::presented(authorization.as_deref(), &form));
        // The secret may be in the form or in the header.
        expected.is_ok_and(|expected| {
            (expected.secret, expected.assertion)
                == (presented.secret.clone(), presented.assertion.clone())
        })
    }

    fn is_signed(&self, assertion: &str, jwk: &Map<String, Value>, presented: &Presented) -> bool {
        let Some(claims) = verified(assertion, &[jwk]) else {
            return false;
        };
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let is_in_time = claims
            .get("exp")
            .and_then(Value::as_u64)
            .is_some_and(|end| seconds(self.now()) < end);
        let is_for_this = text("aud").is_some_and(|audience| self.is_own_name(audience));
        let is_own = [text("iss"), text("sub")] == [Some(&*presented.client_id); 2];
        is_in_time && is_for_this && is_own && claims.contains_key("jti")
    }

    /// An assertion is for the issuer, or for its token endpoint (RFC 7523 §3).
    pub(super) fn is_own_name(&self, audience: &str) -> bool {
        audience.trim_end_matches('/') == self.url().trim_end_matches('/')
            || audience == self.token_endpoint()
    }
}

fn presented(authorization: Option<&str>, form: &Form) -> Result<Presented, Refusal> {
    let invalid = |description| Err(Refusal::new(400, "invalid_request", description));
    let secret = form.get("client_secret");
    let assertion = form.get("client_assertion");
    if let Some(authorization) = authorization {
        let Some((client_id, secret_in_header)) = basic(authorization) else {
            return invalid("invalid authorization header value format");
        };
        if secret.or(assertion).is_some() {
            return invalid("client authentication must only be provided using one mechanism");
        }
        if form
            .get("client_id")
            .is_some_and(|other| other != client_id)
        {
            return invalid("mismatch in body and authorization client ids");
        }
        return Ok(Presented {
            client_id,
            secret: Some(secret_in_header),
            assertion: None,
            is_basic: true,
        });
    }
    if assertion.is_some() {
        if secret.is_some() {
            return invalid("client authentication must only be provided using one mechanism");
        }
        match form.get("client_assertion_type") {
            Some(JWT_BEARER | JWT_SPIFFE) => {}
            _ => {
                return invalid(
                    "client_assertion_type must have value \
                                 urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                );
            }
        }
    }
    let named = form.get("client_id").map(str::to_owned);
    let subject = assertion.and_then(UnverifiedJwt::decode);
    let subject = subject.and_then(|jwt| jwt.subject().map(str::to_owned));
    if let (Some(named), Some(subject)) = (&named, &subject)
        && named != subject
    {
        return invalid("client_id mismatch");
    }
    match named.or(subject) {
        Some(client_id) => Ok(Presented {
            client_id,
            secret: secret.map(str::to_owned),
            assertion: assertion.map(str::to_owned),
            is_basic: false,
        }),
        None => invalid("no client authentication mechanism provided"),
    }
}

/// Both parts are encoded as in a form (RFC 6749 §2.3.1).
fn basic(authorization: &str) -> Option<(String, String)> {
    let (scheme, encoded) = authorization.split_once(' ')?;
    let pair = STANDARD.decode(encoded).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    let (client_id, secret) = pair.split_once(':')?;
    scheme
        .eq_ignore_ascii_case("Basic")
        .then(|| (decoded(client_id), decoded(secret)))
}

fn decoded(text: &str) -> String {
    let pair = format!("x={text}");
    let mut pairs = form_urlencoded::parse(pair.as_bytes());
    pairs
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}
