//! The endpoints of an issuer.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response,
    header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE},
};
use http_body::Body;
use http_body_util::Full;
use serde_json::{Value, json};
use tower::{BoxError, Service};

use super::{
    super::{Answer, AnswerFuture, ReceivedRequest},
    TestIssuer,
    grants::{Form, Refusal, token_type},
    state::Kind,
    token::is_jwt,
};

const OPENID: &str = "/.well-known/openid-configuration";
const OAUTH: &str = "/.well-known/oauth-authorization-server";
const KEYS: &str = "/jwks";
pub(super) const AUTHORIZATION_ENDPOINT: &str = "/auth";
pub(super) const TOKEN: &str = "/token";
pub(super) const INTROSPECTION: &str = "/token/introspection";
const REVOCATION: &str = "/token/revocation";

const UNSUPPORTED_TOKEN_TYPE: &str = "unsupported_token_type";
const FORM: &str = "application/x-www-form-urlencoded";

impl<B> Service<Request<B>> for TestIssuer
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = AnswerFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> AnswerFuture {
        let issuer = self.clone();
        AnswerFuture::new(async move {
            let request = ReceivedRequest::read(request).await?;
            issuer.answer(request).await.give().await
        })
    }
}

impl TestIssuer {
    async fn answer(&self, request: ReceivedRequest) -> Answer {
        if !request.is_for(&self.origin) {
            return Answer::failed(
                "the request is for another host than that of the test's issuer",
            );
        }
        let is_down = {
            let mut state = self.state();
            state.requests.push(request.clone());
            state.is_down
        };
        if is_down {
            return Answer::oauth_error("temporarily_unavailable");
        }
        let is_at = |path| self.is_at(&request, path);
        match request.method {
            Method::GET if self.is_metadata(&request) => Answer::json(200, &self.metadata()),
            Method::GET if is_at(KEYS) => self.published_keys(),
            Method::GET if is_at(AUTHORIZATION_ENDPOINT) => self.redirect(request.uri.query()),
            Method::POST if is_at(TOKEN) => match self.scripted(&request) {
                Some(answer) => answer,
                None => self.said(self.issued(&request).await),
            },
            Method::POST if is_at(INTROSPECTION) => self.said(self.introspected(&request).await),
            Method::POST if is_at(REVOCATION) => match self.revoked(&request).await {
                Ok(()) => text(200, ""),
                Err(refusal) => refusal.answer(self.url()),
            },
            _ => text(404, "Not Found"),
        }
    }

    fn said(&self, said: Result<Value, Refusal>) -> Answer {
        let answer = match said {
            Ok(said) => Answer::json(200, &said),
            Err(refusal) => refusal.answer(self.url()),
        };
        answer.set(CACHE_CONTROL, HeaderValue::from_static("no-store"))
    }

    pub(super) fn is_at(&self, request: &ReceivedRequest, path: &str) -> bool {
        request.uri.path() == format!("{}{path}", self.path())
    }

    /// The well-known part is behind the path of the issuer, or before it.
    fn is_metadata(&self, request: &ReceivedRequest) -> bool {
        let before = |document| request.uri.path() == format!("{document}{}", self.path());
        self.is_at(request, OPENID) || before(OAUTH) || before(OPENID)
    }

    fn path(&self) -> &str {
        let url = self.url().trim_end_matches('/');
        let path_at = url.match_indices('/').nth(2);
        path_at.map_or("", |(index, _)| url.get(index..).unwrap_or_default())
    }

    fn metadata(&self) -> Value {
        #[cfg_attr(not(feature = "dpop"), allow(unused_mut))]
        let mut metadata = json!({
            "issuer": self.url(),
            "authorization_endpoint": self.endpoint(AUTHORIZATION_ENDPOINT),
            "token_endpoint": self.endpoint(TOKEN),
            "jwks_uri": self.endpoint(KEYS),
            "introspection_endpoint": self.endpoint(INTROSPECTION),
            "revocation_endpoint": self.endpoint(REVOCATION),
            "scopes_supported": ["openid", "offline_access"],
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": [
                "authorization_code", "refresh_token", "client_credentials",
                "urn:ietf:params:oauth:grant-type:token-exchange",
                "urn:ietf:params:oauth:grant-type:jwt-bearer",
            ],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "token_endpoint_auth_methods_supported": [
                "none", "client_secret_basic", "client_secret_post", "private_key_jwt",
            ],
            "token_endpoint_auth_signing_alg_values_supported": ["RS256", "PS256", "ES256", "EdDSA"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": true,
        });
        #[cfg(feature = "dpop")]
        if let Some(members) = metadata.as_object_mut() {
            let algorithms = crate::oauth::SigningAlgorithm::ALL;
            let algorithms = algorithms.map(|algorithm| algorithm.name());
            let name = "dpop_signing_alg_values_supported";
            members.insert(name.to_owned(), json!(algorithms));
        }
        metadata
    }

    fn published_keys(&self) -> Answer {
        let state = self.state();
        let keys: Vec<_> = state.keys.iter().map(|key| key.jwk()).collect();
        let media_type = HeaderValue::from_static("application/jwk-set+json; charset=utf-8");
        Answer::json(200, &json!({ "keys": keys })).set(CONTENT_TYPE, media_type)
    }

    fn scripted(&self, request: &ReceivedRequest) -> Option<Answer> {
        let form = Form::parse(&request.body).ok()?;
        let mut state = self.state();
        state.next.get_mut(form.get("grant_type")?)?.pop_front()
    }

    /// RFC 7662 §2. JWTs are for their readers to validate.
    async fn introspected(&self, request: &ReceivedRequest) -> Result<Value, Refusal> {
        let (_, token) = self.token_of_client(request).await?;
        if is_jwt(&token) {
            let description = "Structured JWT Tokens cannot be introspected";
            return Err(Refusal::new(400, UNSUPPORTED_TOKEN_TYPE, description));
        }
        let is_refresh = {
            let state = self.state();
            let kept = state.kept.get(&token);
            kept.is_some_and(|kept| {
                kept.kind == Kind::Refresh && !kept.is_spent && !state.is_revoked(kept.grant)
            })
        };
        let claims = if is_refresh {
            let kept = self.state().kept.get(&token).cloned();
            kept.map(|kept| kept.claims)
        } else {
            self.claims(&token)
        };
        let Some(mut claims) = claims else {
            return Ok(json!({ "active": false }));
        };
        claims.remove("jti");
        claims.insert("active".to_owned(), true.into());
        if !is_refresh {
            let token_type = token_type(claims.contains_key("cnf"));
            claims.insert("token_type".to_owned(), token_type.into());
        }
        Ok(claims.into())
    }

    /// RFC 7009 §2.
    async fn revoked(&self, request: &ReceivedRequest) -> Result<(), Refusal> {
        let (client, token) = self.token_of_client(request).await?;
        if is_jwt(&token) {
            let description = "Structured JWT Tokens cannot be revoked";
            return Err(Refusal::new(400, UNSUPPORTED_TOKEN_TYPE, description));
        }
        if self.is_of_another(&token, &client) {
            let description = "client is not authorized to revoke the presented token";
            return Err(Refusal::new(400, "invalid_request", description));
        }
        self.revoke(&token);
        Ok(())
    }

    fn is_of_another(&self, token: &str, client: &str) -> bool {
        let state = self.state();
        let grant = state.kept.get(token).and_then(|kept| kept.grant);
        let grant = grant.and_then(|grant| state.grants.get(grant));
        grant.is_some_and(|grant| grant.is_of_another(client))
    }

    async fn token_of_client(
        &self,
        request: &ReceivedRequest,
    ) -> Result<(String, String), Refusal> {
        let form = form(request)?;
        let client = self.client_of(request, &form).await?;
        Ok((client, form.need("token")?.to_owned()))
    }

    async fn issued(&self, request: &ReceivedRequest) -> Result<Value, Refusal> {
        let form = form(request)?;
        let client = self.client_of(request, &form).await?;
        #[cfg(feature = "dpop")]
        let form = form.proven(self.proven_key(request)?);
        self.issue_for(&client, &form)
    }

    async fn client_of(&self, request: &ReceivedRequest, form: &Form) -> Result<String, Refusal> {
        let authorization = request.headers.get(AUTHORIZATION);
        let authorization = authorization.map(|value| value.to_str().unwrap_or_default());
        self.authenticated_client(authorization, form).await
    }
}

fn form(request: &ReceivedRequest) -> Result<Form, Refusal> {
    let media_type = request.headers.get(CONTENT_TYPE);
    let media_type = media_type.and_then(|value| value.to_str().ok()?.split(';').next());
    if !request.body.is_empty() && media_type.map(str::trim) != Some(FORM) {
        return Err(Refusal::new(
            400,
            "invalid_request",
            "only application/x-www-form-urlencoded content-type bodies are supported",
        ));
    }
    Form::parse(&request.body)
}

fn text(status: u16, body: &'static str) -> Answer {
    let media_type = HeaderValue::from_static("text/plain; charset=utf-8");
    Answer::new(status).set(CONTENT_TYPE, media_type).body(body)
}
