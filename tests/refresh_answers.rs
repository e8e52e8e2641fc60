//! What becomes of a session's tokens when a provider answers a refresh in an odd way.
#![cfg(feature = "incoming")]

mod support;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use support::{owner, token_stack::jwt};
use tower::service_fn;
use tower_identity::{
    AccessToken, AuthErrorKind, Clock, ManualClock, MemoryStore, Secret, TokenEndpoint,
    UpstreamToken, UpstreamTokenStore, UpstreamTokens,
    upstream::{Provider, ProviderTokens, RefreshTokenGrant},
};

const HOUR: Duration = Duration::from_secs(3600);
const JSON: &str = "application/json";

/// A provider that rotates: it takes the refresh token that it issued last, and issues the next.
#[derive(Clone)]
struct Rotating {
    state: Arc<Mutex<State>>,
}

struct State {
    issued: usize,
    presented: Vec<String>,
    content_type: &'static str,
    /// Makes the body of a success of the refresh token.
    answer: Box<dyn Fn(&str) -> String + Send>,
}

impl Rotating {
    fn new() -> Self {
        let state = State {
            issued: 0,
            presented: Vec::new(),
            content_type: JSON,
            answer: Box::new(good),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn answers(
        &self,
        content_type: &'static str,
        answer: impl Fn(&str) -> String + Send + 'static,
    ) {
        let mut state = self.state.lock().unwrap();
        state.content_type = content_type;
        state.answer = Box::new(answer);
    }

    fn presented(&self) -> Vec<String> {
        self.state.lock().unwrap().presented.clone()
    }

    fn answer(&self, form: &[u8]) -> Response<Full<Bytes>> {
        let state = &mut *self.state.lock().unwrap();
        let mut form = form_urlencoded::parse(form);
        let (_, presented) = form.find(|(name, _)| name == "refresh_token").unwrap();
        state.presented.push(presented.to_string());
        if presented != format!("refresh-{}", state.issued) {
            let response = Response::builder().status(400).header(CONTENT_TYPE, JSON);
            return response
                .body(r#"{"error":"invalid_grant"}"#.into())
                .unwrap();
        }
        state.issued += 1;
        let body = (state.answer)(&format!("refresh-{}", state.issued));
        let response = Response::builder().header(CONTENT_TYPE, state.content_type);
        response.body(body.into()).unwrap()
    }

    fn endpoint(&self) -> TokenEndpoint {
        let this = self.clone();
        let client = service_fn(move |request: Request<Full<Bytes>>| {
            let this = this.clone();
            async move {
                let form = request.into_body().collect().await?.to_bytes();
                Ok::<_, Infallible>(this.answer(&form))
            }
        });
        TokenEndpoint::builder("https://idp.example.com/token", client)
            .build()
            .unwrap()
    }
}

fn with(refresh_token: &str, changes: Value) -> String {
    let mut body = json!({
        "access_token": format!("access-of-{refresh_token}"),
        "token_type": "Bearer",
        "expires_in": 3600,
        "refresh_token": refresh_token,
    });
    for (name, value) in changes.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.to_string()
}

fn good(refresh_token: &str) -> String {
    with(refresh_token, json!({}))
}

struct Bench {
    clock: Arc<ManualClock>,
    provider: Rotating,
    store: MemoryStore,
    upstream: UpstreamTokens,
}

impl Bench {
    /// Alice has logged in, and her tokens have expired.
    async fn new(id_token: Option<&str>) -> Self {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000);
        let clock = Arc::new(ManualClock::new(start));
        let provider = Rotating::new();
        let store = MemoryStore::builder().clock(clock.clone()).build().unwrap();
        let grant = RefreshTokenGrant::new(provider.endpoint());
        let idp = Provider::builder("idp", grant).build().unwrap();
        let upstream = UpstreamTokens::new(store.clone(), [idp]).clock(clock.clone());
        let bench = Self {
            clock,
            provider,
            store,
            upstream,
        };
        bench.log_in(id_token).await;
        bench.clock.advance(HOUR);
        bench
    }

    async fn log_in(&self, id_token: Option<&str>) {
        let issued = self.provider.state.lock().unwrap().issued;
        let now = self.clock.now();
        let token = UpstreamToken::new(AccessToken::new("access-at-login").unwrap());
        let mut token = token.with_expires_at(now + HOUR);
        if let Some(id_token) = id_token {
            token = token.with_id_token(Secret::new(id_token).unwrap());
        }
        let refresh_token = Secret::new(format!("refresh-{issued}")).unwrap();
        let tokens = ProviderTokens::new(token, now).with_refresh_token(refresh_token);
        self.store
            .put(&owner("alice"), "idp", &tokens)
            .await
            .unwrap();
    }

    /// The access token, or the kind of error.
    async fn load(&self) -> Result<UpstreamToken, AuthErrorKind> {
        let loaded = self.upstream.load(&owner("alice")).await.unwrap();
        match loaded.tokens().get("idp") {
            Some(token) => Ok(token.clone()),
            None => {
                let failed = loaded.failed().get("idp");
                let error = failed.or(loaded.login_required().get("idp")).unwrap();
                Err(error.kind())
            }
        }
    }

    async fn access_token(&self) -> Result<String, AuthErrorKind> {
        let token = self.load().await?;
        Ok(token.access_token().expose().to_owned())
    }

    async fn is_kept(&self) -> bool {
        let stored = self.store.load(&owner("alice")).await.unwrap();
        stored.contains_key("idp")
    }
}

#[tokio::test]
async fn f67_a_success_that_is_refused_still_brings_its_new_refresh_token() {
    type Make = fn(&str) -> String;
    let refused: [(&str, &str, Make); 8] = [
        // LinkedIn.
        (JSON, "no token_type", |next| {
            with(next, json!({ "token_type": null }))
        }),
        // Slack.
        (JSON, "token_type", |next| {
            with(next, json!({ "token_type": "bot", "ok": true }))
        }),
        (JSON, "DPoP", |next| {
            with(next, json!({ "token_type": "DPoP" }))
        }),
        (JSON, "no access token", |next| {
            with(next, json!({ "access_token": null }))
        }),
        (JSON, "bad access token", |next| {
            with(next, json!({ "access_token": "a b" }))
        }),
        (JSON, "another type", |next| {
            with(
                next,
                json!({ "issued_token_type": "urn:ietf:params:oauth:token-type:saml2" }),
            )
        }),
        ("text/plain", "JSON that does not say so", good),
        ("application/x-www-form-urlencoded", "a form", |next| {
            format!("access_token=a&token_type=bearer&refresh_token={next}")
        }),
    ];
    for (content_type, name, answer) in refused {
        let bench = Bench::new(None).await;
        bench.provider.answers(content_type, answer);
        let refused = bench.access_token().await.unwrap_err();
        // A token that is bound to a key is what the provider's registration of this client says.
        let kind = match name {
            "DPoP" => AuthErrorKind::Configuration,
            _ => AuthErrorKind::Unavailable,
        };
        assert_eq!(refused, kind, "{name}");
        // Not for each request: it is tried again after a while.
        for _ in 0..10 {
            bench.access_token().await.unwrap_err();
        }
        assert_eq!(bench.provider.presented(), ["refresh-0"], "{name}");
        bench.clock.advance(Duration::from_secs(30));
        bench.access_token().await.unwrap_err();
        assert_eq!(
            bench.provider.presented(),
            ["refresh-0", "refresh-1"],
            "{name}"
        );

        bench.provider.answers(JSON, good);
        bench.clock.advance(Duration::from_secs(30));
        let token = bench.access_token().await;
        assert_eq!(token.as_deref(), Ok("access-of-refresh-3"), "{name}");
    }
}

#[tokio::test]
async fn f67_a_good_access_token_is_used_to_its_end_when_an_early_refresh_brings_no_other() {
    let bench = Bench::new(None).await;
    bench.log_in(None).await;
    bench
        .provider
        .answers(JSON, |next| with(next, json!({ "token_type": "bot" })));
    bench.clock.advance(HOUR - Duration::from_secs(10));
    for _ in 0..3 {
        let token = bench.access_token().await;
        assert_eq!(token.as_deref(), Ok("access-at-login"));
    }
    bench.provider.answers(JSON, good);
    bench.clock.advance(Duration::from_secs(10));
    bench.clock.advance(Duration::from_secs(30));
    assert!(
        bench
            .access_token()
            .await
            .unwrap()
            .starts_with("access-of-")
    );
}

#[tokio::test]
async fn f67_a_refusal_brings_no_refresh_token() {
    let bench = Bench::new(None).await;
    bench
        .provider
        .answers(JSON, |next| with(next, json!({ "error": "invalid_grant" })));
    assert_eq!(
        bench.access_token().await.unwrap_err(),
        AuthErrorKind::Rejected
    );
    assert!(!bench.is_kept().await);
}

fn id_token(issuer: Option<&str>, subject: Option<&str>) -> String {
    let claims = json!({ "iss": issuer, "sub": subject, "aud": "gateway", "exp": 1_800_000_000 });
    jwt(&json!({ "alg": "RS256" }), &claims)
}

#[tokio::test]
async fn f68_an_id_token_of_another_subject_or_issuer_ends_the_tokens_of_the_provider() {
    let (issuer, subject) = (Some("https://idp.example.com"), Some("alice"));
    let before = id_token(issuer, subject);
    for after in [
        id_token(issuer, Some("bob")),
        id_token(Some("https://idp.example.com/"), subject),
        id_token(None, subject),
        id_token(issuer, None),
        "not-a-jwt".to_owned(),
        "a.b.c".to_owned(),
        format!("{before}.d.e"),
    ] {
        let bench = Bench::new(Some(&before)).await;
        let answer = after.clone();
        bench
            .provider
            .answers(JSON, move |next| with(next, json!({ "id_token": answer })));
        let refused = bench.load().await.unwrap_err();
        assert_eq!(refused, AuthErrorKind::Rejected, "{after}");
        assert!(!bench.is_kept().await, "{after}");
    }
}

#[tokio::test]
async fn f68_an_id_token_of_the_same_subject_and_issuer_is_taken_or_kept() {
    let (issuer, subject) = (Some("https://idp.example.com"), Some("alice"));
    let before = id_token(issuer, subject);
    let encrypted = "a.b.c.d.e".to_owned();
    for (before, after) in [
        (before.clone(), Some(id_token(issuer, subject))),
        (before.clone(), None),
        // Nothing can be compared.
        (encrypted.clone(), Some(encrypted)),
    ] {
        let bench = Bench::new(Some(&before)).await;
        let answer = after.clone();
        bench.provider.answers(JSON, move |next| match &answer {
            Some(id_token) => with(next, json!({ "id_token": id_token })),
            None => good(next),
        });
        let token = bench.load().await.unwrap();
        assert_eq!(token.access_token().expose(), "access-of-refresh-1");
        let id_token = token.id_token().unwrap().expose();
        assert_eq!(id_token, after.unwrap_or(before));
    }
}
