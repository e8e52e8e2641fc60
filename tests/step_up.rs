//! Step-up: a backend asks for more scope, and gets what the operator's ceiling allows.
#![cfg(feature = "token-exchange")]

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};
use http_body_util::{BodyExt, Full};
use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, prop_assert, prop_oneof, proptest},
};
use tower::{Layer, ServiceExt, util::BoxCloneSyncService};
use tower_identity::{
    AccessToken, AuthErrorKind, AuthLayer, ClientAuth, ClientCredentials, DefaultClock,
    HeaderInjection, HealthCheck, Identity, ManualClock, OnBehalfOf, Origin, Placement, Secret,
    Strategy, TokenEndpoint, TokenExchange, UpstreamInject, UpstreamToken,
    outgoing::{PeekedBody, RetryRejected},
    strategy::Both,
};

const URL: &str = "https://mcp.example.com/mcp";

type Body = Full<Bytes>;
type Client = BoxCloneSyncService<Request<Body>, Response<PeekedBody<Body>>, tower::BoxError>;

/// An issuer and a backend.
#[derive(Clone, Default)]
struct World {
    /// The scopes that the issuer was asked for.
    asked: Arc<Mutex<Vec<String>>>,
    /// The tokens that arrived at the backend.
    arrived: Arc<Mutex<Vec<String>>>,
    /// The issuer refuses this scope.
    refused: Arc<Mutex<Option<&'static str>>>,
    /// The scopes that the issuer grants and names where it is asked for none.
    grants: Arc<Mutex<Option<&'static str>>>,
}

impl World {
    fn endpoint(&self) -> TokenEndpoint {
        let world = self.clone();
        let issuer = tower::service_fn(move |request: Request<Full<Bytes>>| {
            let world = world.clone();
            async move {
                let form = request.into_body().collect().await?.to_bytes();
                let scope = form_urlencoded::parse(&form).find(|(name, _)| name == "scope");
                let scope = scope.map_or(String::new(), |(_, scope)| scope.into_owned());
                world.asked.lock().unwrap().push(scope.clone());
                let refused = *world.refused.lock().unwrap();
                let is_refused = refused.is_some_and(|refused| scope.contains(refused));
                let mut answer = Response::new(Full::<Bytes>::from(if is_refused {
                    r#"{"error":"invalid_scope"}"#.to_owned()
                } else {
                    let named = *world.grants.lock().unwrap();
                    let granted = named.filter(|_| scope.is_empty()).unwrap_or(&scope);
                    let names = named.map_or(String::new(), |_| format!(r#""scope":"{granted}","#));
                    // The token is its scope.
                    let token = match granted {
                        "" => "none".to_owned(),
                        granted => granted.replace(' ', "+"),
                    };
                    format!(
                        r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":600,{names}
                        "issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}}"#
                    )
                }));
                if is_refused {
                    *answer.status_mut() = StatusCode::BAD_REQUEST;
                }
                let json = HeaderValue::from_static("application/json");
                answer.headers_mut().insert("content-type", json);
                Ok::<_, Infallible>(answer)
            }
        });
        TokenEndpoint::builder("https://idp.example.com/token", issuer)
            .client_auth(ClientAuth::basic("gateway", Secret::new("secret").unwrap()))
            .build()
            .unwrap()
    }

    fn exchange(&self) -> TokenExchange {
        let builder = TokenExchange::builder(self.endpoint());
        builder.scopes(["read"]).build().unwrap()
    }

    /// A backend that wants these scopes, and asks for them with the first challenge that is not content.
    fn client<A>(&self, layer: AuthLayer<A, RetryRejected<Body>>, wants: &'static str) -> Client
    where
        A: Strategy<Body> + Clone + Send + Sync + 'static,
    {
        let challenge = format!(r#"Bearer error="insufficient_scope", scope="{wants}""#);
        self.client_with(layer, move |token| {
            let is_content = wants
                .split(' ')
                .all(|wanted| token.split('+').any(|scope| scope == wanted));
            (!is_content).then(|| challenge.clone())
        })
    }

    fn client_with<A>(
        &self,
        layer: AuthLayer<A, RetryRejected<Body>>,
        challenge: impl Fn(&str) -> Option<String> + Clone + Send + Sync + 'static,
    ) -> Client
    where
        A: Strategy<Body> + Clone + Send + Sync + 'static,
    {
        let arrived = self.arrived.clone();
        let backend = tower::service_fn(move |request: Request<Body>| {
            let extensions = request.extensions();
            assert!(
                extensions
                    .get::<tower_identity::strategy::WiderScope>()
                    .is_none()
            );
            let token = request.headers().get(AUTHORIZATION);
            let token = token.map_or("", |token| token.to_str().unwrap());
            let token = token.trim_start_matches("Bearer ").to_owned();
            let mut response = Response::new(Body::default());
            if let Some(challenge) = challenge(&token) {
                *response.status_mut() = StatusCode::FORBIDDEN;
                let challenge = HeaderValue::try_from(challenge).unwrap();
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            arrived.lock().unwrap().push(token);
            std::future::ready(Ok::<_, Infallible>(response))
        });
        BoxCloneSyncService::new(layer.layer(backend))
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    fn arrived(&self) -> Vec<String> {
        std::mem::take(&mut self.arrived.lock().unwrap())
    }
}

fn layer<A>(strategy: A) -> AuthLayer<A, RetryRejected<Body>> {
    let origin = Origin::try_from("https://mcp.example.com").unwrap();
    AuthLayer::new(origin, strategy).retry_rejected()
}

fn user(subject: &str) -> Identity {
    let token = AccessToken::new(format!("token-of-{subject}")).unwrap();
    let github = UpstreamToken::new(AccessToken::new("gho_1").unwrap());
    let user = Identity::builder(subject).issuer("https://idp.example.com");
    user.token(token)
        .upstream("github", github)
        .build()
        .unwrap()
}

async fn call(client: &Client, user: &Identity, tool: &'static str) -> Response<PeekedBody<Body>> {
    let mut request = Request::post(URL).header("mcp-method", "tools/call");
    request = request.header("mcp-name", tool);
    let mut request = request.body(Body::from("{}")).unwrap();
    request.extensions_mut().insert(user.clone());
    client.clone().oneshot(request).await.unwrap()
}

fn assert_is_told(response: &Response<PeekedBody<Body>>, scope: &str) {
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap();
    assert!(challenge.contains(scope), "{challenge}");
}

#[tokio::test]
async fn a_backend_that_asks_for_more_scope_gets_it_and_the_call_succeeds() {
    let world = World::default();
    let client = world.client(
        layer(world.exchange()).step_up(["read", "write", "list"]),
        "read write",
    );
    let response = call(&client, &user("alice"), "save").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(world.arrived(), ["read", "read+write"]);
    assert_eq!(world.asked(), ["read", "read write"]);
}

#[tokio::test]
async fn the_scope_is_remembered_for_the_same_user_and_operation_and_for_no_other() {
    let world = World::default();
    let client = world.client(layer(world.exchange()).step_up(["read", "write"]), "write");
    call(&client, &user("alice"), "save").await;
    world.arrived();
    call(&client, &user("alice"), "save").await;
    assert_eq!(world.arrived(), ["read+write"]);
    call(&client, &user("alice"), "other").await;
    assert_eq!(world.arrived(), ["read", "read+write"]);
    call(&client, &user("bob"), "save").await;
    assert_eq!(world.arrived(), ["read", "read+write"]);
    // Alice's two operations share a token of each scope, and Bob has his own.
    assert_eq!(world.asked().len(), 4);
}

#[tokio::test]
async fn after_an_hour_the_smaller_scope_is_tried_again() {
    let clock = Arc::new(ManualClock::new(SystemTime::now()));
    let _guard = DefaultClock::set(clock.clone());
    let world = World::default();
    let client = world.client(layer(world.exchange()).step_up(["write"]), "write");
    call(&client, &user("alice"), "save").await;
    world.arrived();
    clock.advance(Duration::from_secs(3601));
    call(&client, &user("alice"), "save").await;
    assert_eq!(world.arrived(), ["read", "read+write"]);
}

#[tokio::test]
async fn a_hostile_backend_gains_nothing_beyond_the_ceiling() {
    for wants in [
        "admin",
        "write admin",
        "read write admin",
        "Write",
        "write\\\\",
    ] {
        let world = World::default();
        let client = world.client(layer(world.exchange()).step_up(["write"]), wants);
        assert_is_told(&call(&client, &user("alice"), "save").await, wants);
        assert_eq!(world.asked(), ["read"], "{wants}");
        assert_eq!(world.arrived(), ["read"], "{wants}");
    }
}

#[tokio::test]
async fn without_a_ceiling_the_caller_gets_the_challenge() {
    let world = World::default();
    for layer in [
        layer(world.exchange()),
        layer(world.exchange()).step_up([""; 0]),
    ] {
        let client = world.client(layer, "write");
        assert_is_told(&call(&client, &user("alice"), "save").await, "write");
        assert_eq!(world.arrived(), ["read"]);
    }
}

#[tokio::test]
async fn a_strategy_that_cannot_widen_its_scope_hands_the_challenge_up() {
    let world = World::default();
    let inject = UpstreamInject::new("github").unwrap();
    let client = world.client(layer(inject).step_up(["write"]), "write");
    assert_is_told(&call(&client, &user("alice"), "save").await, "write");
    assert_eq!(world.arrived(), ["gho_1"]);

    // The issuer decides on the scopes and does not name them, so nobody knows to what `write` would be added.
    let exchange = TokenExchange::builder(world.endpoint());
    let exchange = exchange.build().unwrap();
    let client = world.client(layer(exchange).step_up(["write"]), "write");
    assert_is_told(&call(&client, &user("alice"), "save").await, "write");
    assert_eq!(world.asked(), [""]);

    // Microsoft Entra refuses `.default` beside others.
    let entra = OnBehalfOf::builder(world.endpoint());
    let entra = entra.scopes(["api://backend/.default"]).build().unwrap();
    let client = world.client(layer(entra).step_up(["write"]), "write");
    assert_is_told(&call(&client, &user("alice"), "save").await, "write");
    assert_eq!(world.asked(), ["api://backend/.default"]);
}

#[tokio::test]
async fn where_the_issuer_decides_more_is_added_to_the_scopes_that_it_named() {
    let world = World::default();
    *world.grants.lock().unwrap() = Some("profile read");
    let exchange = TokenExchange::builder(world.endpoint()).build().unwrap();
    let of_client = ClientCredentials::builder(world.endpoint())
        .build()
        .unwrap();
    let strategies: [Arc<dyn Strategy<Body>>; 2] = [Arc::new(exchange), Arc::new(of_client)];
    for strategy in strategies {
        let client = world.client(layer(strategy).step_up(["write"]), "write");
        for _ in 0..2 {
            let response = call(&client, &user("alice"), "save").await;
            assert_eq!(response.status(), StatusCode::OK);
        }
        assert_eq!(world.asked(), ["", "profile read write"]);
    }
}

#[tokio::test]
async fn at_microsoft_entra_a_user_steps_up_to_scopes_that_are_named() {
    let world = World::default();
    let builder = OnBehalfOf::builder(world.endpoint());
    let strategy = builder.scopes(["api://b/read"]).build().unwrap();
    let layer = layer(strategy).step_up(["api://b/write"]);
    let client = world.client(layer, "api://b/write");
    let response = call(&client, &user("alice"), "save").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        world.asked(),
        ["api://b/read", "api://b/read api://b/write"]
    );
}

#[tokio::test]
async fn of_two_credentials_the_one_that_can_have_more_scope_gets_it() {
    let world = World::default();
    let key = HeaderInjection::new("x-api-key", "7Fjfp0ZBr1KtDRbnfVdmIw").unwrap();
    let client = world.client(
        layer(Both(key, world.exchange())).step_up(["write"]),
        "write",
    );
    let response = call(&client, &user("alice"), "save").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(world.asked(), ["read", "read write"]);

    // Nobody knows which of these two it is.
    let world = World::default();
    let other = Placement::header("x-other").unwrap();
    let other = ClientCredentials::builder(world.endpoint()).placement(other);
    let other = other.scopes(["read"]).build().unwrap();
    let client = world.client(
        layer(Both(other, world.exchange())).step_up(["write"]),
        "write",
    );
    assert_is_told(&call(&client, &user("alice"), "save").await, "write");
    assert_eq!(world.asked(), ["read", "read"]);

    // The issuer did not name the scopes of the second, which are therefore not known.
    let world = World::default();
    let other = Placement::header("x-other").unwrap();
    let other = ClientCredentials::builder(world.endpoint()).placement(other);
    let other = other.scopes(["admin"]).build().unwrap();
    let unknown = TokenExchange::builder(world.endpoint()).build().unwrap();
    let client = world.client(layer(Both(other, unknown)).step_up(["write"]), "write");
    assert_is_told(&call(&client, &user("alice"), "save").await, "write");
    assert_eq!(world.asked(), ["admin", ""]);
}

#[tokio::test]
async fn a_scope_that_the_credential_has_already_is_not_asked_for_again() {
    let world = World::default();
    let never_content = |_: &str| {
        let challenge = r#"Bearer error="insufficient_scope", scope="read""#;
        Some(challenge.to_owned())
    };
    let client = world.client_with(layer(world.exchange()).step_up(["read"]), never_content);
    assert_is_told(&call(&client, &user("alice"), "save").await, "read");
    assert_eq!(world.asked(), ["read"]);
    assert_eq!(world.arrived(), ["read"]);
}

#[tokio::test]
async fn an_application_steps_up_too() {
    let world = World::default();
    let builder = ClientCredentials::builder(world.endpoint());
    let strategy = builder.scopes(["read"]).build().unwrap();
    let strategy: Arc<dyn Strategy<Body>> = Arc::new(strategy);
    let client = world.client(layer(strategy).step_up(["write"]), "write");
    assert_eq!(
        call(&client, &user("alice"), "save").await.status(),
        StatusCode::OK
    );
    assert_eq!(world.asked(), ["read", "read write"]);
}

#[tokio::test]
async fn a_backend_that_is_never_content_is_asked_twice_and_three_times_a_minute() {
    let clock = Arc::new(ManualClock::new(SystemTime::now()));
    let _guard = DefaultClock::set(clock.clone());
    let world = World::default();
    let greedy = |_: &str| Some(r#"Bearer error="insufficient_scope", scope="write""#.into());
    let client = world.client_with(layer(world.exchange()).step_up(["write"]), greedy);
    assert_is_told(&call(&client, &user("alice"), "save").await, "write");
    assert_eq!(world.arrived(), ["read", "read+write"]);
    // It has had that scope, which was of no use.
    assert_is_told(&call(&client, &user("alice"), "save").await, "write");
    assert_eq!(world.arrived(), ["read+write"]);

    // Another scope each time.
    let ceiling: Vec<_> = (0..100).map(|n| format!("scope-{n}")).collect();
    let next = Arc::new(Mutex::new(0));
    let greedy = move |_: &str| {
        let mut next = next.lock().unwrap();
        *next += 1;
        Some(format!(
            r#"Bearer error="insufficient_scope", scope="scope-{next}""#
        ))
    };
    let client = world.client_with(layer(world.exchange()).step_up(ceiling), greedy);
    world.asked();
    for _ in 0..20 {
        call(&client, &user("alice"), "save").await;
    }
    assert_eq!(
        world.asked().len(),
        1 + 3,
        "the smaller scope, and three attempts"
    );
    clock.advance(Duration::from_secs(61));
    for _ in 0..20 {
        call(&client, &user("alice"), "save").await;
    }
    assert_eq!(world.asked().len(), 3);
}

#[tokio::test]
async fn if_the_issuer_refuses_the_scope_the_caller_gets_the_backends_challenge() {
    let world = World::default();
    *world.refused.lock().unwrap() = Some("write");
    let client = world.client(layer(world.exchange()).step_up(["write"]), "write");
    for _ in 0..2 {
        assert_is_told(&call(&client, &user("alice"), "save").await, "write");
    }
    assert_eq!(world.arrived(), ["read", "read"]);
}

#[tokio::test]
async fn if_the_issuer_takes_the_scope_back_the_smaller_one_is_tried_again() {
    let clock = Arc::new(ManualClock::new(SystemTime::now()));
    let _guard = DefaultClock::set(clock.clone());
    let world = World::default();
    let client = world.client(layer(world.exchange()).step_up(["write"]), "write");
    call(&client, &user("alice"), "save").await;
    // The token with more scope has expired, and the scope is remembered.
    clock.advance(Duration::from_secs(601));
    world.arrived();
    *world.refused.lock().unwrap() = Some("write");
    let mut request = Request::post(URL).body(Body::from("{}")).unwrap();
    request
        .headers_mut()
        .insert("mcp-method", HeaderValue::from_static("tools/call"));
    request
        .headers_mut()
        .insert("mcp-name", HeaderValue::from_static("save"));
    request.extensions_mut().insert(user("alice"));
    let error = client.clone().oneshot(request).await.unwrap_err();
    let error = tower_identity::AuthError::find_in(&*error).unwrap();
    assert_eq!(error.kind(), AuthErrorKind::InsufficientScope);
    assert_is_told(&call(&client, &user("alice"), "save").await, "write");
    assert_eq!(world.arrived().last().map(String::as_str), Some("read"));
}

#[tokio::test]
async fn a_probe_is_not_stepped_up() {
    let world = World::default();
    let client = world.client(layer(world.exchange()).step_up(["write"]), "write");
    let mut request = Request::post(URL).body(Body::default()).unwrap();
    request.extensions_mut().insert(HealthCheck);
    let response = client.clone().oneshot(request).await.unwrap();
    assert_is_told(&response, "write");
    assert_eq!(world.arrived().len(), 1);
}

#[tokio::test]
async fn a_hundred_calls_at_once_cause_one_request_for_each_scope() {
    let world = World::default();
    let client = world.client(layer(world.exchange()).step_up(["write"]), "write");
    let alice = user("alice");
    let calls = (0..100).map(|_| call(&client, &alice, "save"));
    for response in join_all(calls).await {
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert_eq!(world.asked(), ["read", "read write"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_backends_ask_for_the_issuer_is_asked_for_the_configuration_and_the_ceiling_alone(
        challenges in vec("[ -~]{0,40}", 1..5),
        wanted in vec(prop_oneof![Just("read"), Just("write"), Just("list"), Just("admin")], 0..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let world = World::default();
        let asked = runtime.block_on(async {
            let wanted = wanted.join(" ");
            let challenges = challenges.join(", ");
            let challenge = format!(r#"{challenges}, Bearer error="insufficient_scope", scope="{wanted}""#);
            let hostile = move |_: &str| Some(challenge.clone());
            let client = world.client_with(layer(world.exchange()).step_up(["write", "list"]), hostile);
            for _ in 0..3 {
                call(&client, &user("alice"), "save").await;
            }
            world.asked()
        });
        prop_assert!(asked.len() <= 4);
        for scope in asked.iter().flat_map(|scopes| scopes.split(' ')) {
            prop_assert!(["read", "write", "list"].contains(&scope), "{}", scope);
        }
    }
}
