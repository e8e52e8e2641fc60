//! The authorization endpoint, and the browser of a user before it (RFC 6749 §4.1).

use form_urlencoded::Serializer;
use http::{HeaderValue, header::LOCATION};

use super::{
    super::Answer,
    TestIssuer,
    grants::{Form, Refusal},
    routes::AUTHORIZATION_ENDPOINT,
    state::Grant,
};

impl TestIssuer {
    /// Logs a user in at an authorization URL, as a browser would, and returns the URL that the browser is sent back to.
    ///
    /// `None` is a user who refuses. PKCE is required (RFC 9700 §2.1.1). An authorization URL comes for example from
    /// [`AccountLinking`](crate::AccountLinking), or from [`CodeFlow`](crate::upstream::linking::CodeFlow).
    ///
    /// ```
    /// use tower_identity::testing::TestIssuer;
    ///
    /// let issuer = TestIssuer::new("https://idp.example.com");
    /// let back = issuer.authorize(
    ///     "https://idp.example.com/auth?client_id=gateway&response_type=code\
    ///      &redirect_uri=https://gateway.example.com/callback&state=s1\
    ///      &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM\
    ///      &code_challenge_method=S256",
    ///     "alice",
    /// );
    /// assert!(back.starts_with("https://gateway.example.com/callback?code="));
    /// ```
    ///
    /// # Panics
    ///
    /// If the URL is not one of this issuer, or is not sent back: the client is not registered, or there is no
    /// `redirect_uri`.
    #[track_caller]
    pub fn authorize<'a>(&self, url: &str, user: impl Into<Option<&'a str>>) -> String {
        let (endpoint, query) = url.split_once('?').unwrap_or((url, ""));
        assert_eq!(endpoint, self.endpoint(AUTHORIZATION_ENDPOINT));
        match self.sent_back(query.as_bytes(), user.into()) {
            Ok(back) => back,
            Err(refusal) => panic!("{}: {}", refusal.code(), refusal.description()),
        }
    }

    pub(super) fn redirect(&self, query: Option<&str>) -> Answer {
        let query = query.unwrap_or_default().as_bytes();
        let hint = Form::parse(query).ok();
        let user = hint.as_ref().and_then(|form| form.get("login_hint"));
        let back = self.sent_back(query, user).ok();
        let location = back.and_then(|back| HeaderValue::try_from(back).ok());
        match location {
            Some(location) => Answer::new(303).set(LOCATION, location),
            None => Answer::new(400),
        }
    }

    /// An error is shown to the user, where it cannot be sent back.
    fn sent_back(&self, query: &[u8], user: Option<&str>) -> Result<String, Refusal> {
        let form = Form::parse(query)?;
        let client = form.need("client_id")?.to_owned();
        let redirect_uri = form.need("redirect_uri")?.to_owned();
        let is_known = {
            let clients = &self.state().clients;
            clients.is_empty() || clients.iter().any(|known| known.client_id() == client)
        };
        if !is_known {
            return Err(Refusal::new(400, "invalid_client", "client is invalid"));
        }
        let outcome = self.code(&form, client, &redirect_uri, user);
        let mut back = Serializer::new(String::new());
        match outcome {
            Ok(code) => drop(back.append_pair("code", &code)),
            Err(refusal) => {
                back.append_pair("error", refusal.code());
                back.append_pair("error_description", &refusal.description());
            }
        }
        if let Some(state) = form.get("state") {
            back.append_pair("state", state);
        }
        back.append_pair("iss", self.url());
        let separator = if redirect_uri.contains('?') { '&' } else { '?' };
        Ok(format!("{redirect_uri}{separator}{}", back.finish()))
    }

    fn code(
        &self,
        form: &Form,
        client: String,
        redirect_uri: &str,
        user: Option<&str>,
    ) -> Result<String, Refusal> {
        if form.need("response_type")? != "code" {
            return Err(Refusal::new(
                400,
                "unsupported_response_type",
                "unsupported response_type requested",
            ));
        }
        let challenge = form.get("code_challenge");
        let (Some(challenge), Some("S256")) = (challenge, form.get("code_challenge_method")) else {
            return Err(Refusal::new(
                400,
                "invalid_request",
                "Authorization Server policy requires PKCE to be used for this request",
            ));
        };
        let Some(user) = user else {
            return Err(Refusal::new(403, "access_denied", "the user refused"));
        };
        let grant = Grant {
            subject: user.to_owned(),
            client_id: Some(client),
            scope: form.get("scope").map(str::to_owned),
            resource: form.get("resource").map(str::to_owned),
            nonce: form.get("nonce").map(str::to_owned),
            dpop_jkt: form.get("dpop_jkt").map(str::to_owned),
            is_revoked: false,
        };
        Ok(self.code_for(grant, redirect_uri, challenge))
    }
}
