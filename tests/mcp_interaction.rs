//! What the user must do, in MCP's own forms: a gateway on rmcp's server, and clients of both eras.
#![cfg(all(feature = "incoming", feature = "rmcp"))]

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header::AUTHORIZATION, request::Parts};
use http_body_util::{BodyExt, Full};
use rmcp::{
    ClientHandler, ErrorData, RoleClient, RoleServer, ServerHandler, ServiceError,
    model::{
        CallToolRequest, CallToolRequestParams, CallToolResponse, CallToolResult,
        ClientCapabilities, ClientConfig, ContentBlock, ElicitRequestParams, ElicitResult,
        ElicitationAction, ElicitationCapability, Implementation, ProtocolVersion,
        ServerCapabilities, ServerConfig, UrlElicitationCapability,
    },
    service::{ClientLifecycleMode, ClientServiceExt, RequestContext, RunningService},
    transport::{
        StreamableHttpClientTransport, StreamableHttpServerConfig, StreamableHttpService,
        streamable_http_client::StreamableHttpClientTransportConfig,
        streamable_http_server::session::local::LocalSessionManager,
    },
};
use serde_json::{Value, json};
use tower::{Layer, util::BoxCloneService};
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, AuthLayer, ClientAuth, Identity, IdentityLayer,
    ManualClock, Origin, Secret, Strategy, TokenEndpoint, TokenExchange, UpstreamInject,
    UpstreamToken,
    client::rmcp::{TowerHttpClient, input_required, mcp_error},
    incoming::McpRequest,
};

const LINK_AT: &str = "https://idp.example.com/link?user=";

/// A gateway whose users must link an account at the issuer, and a browser that can visit the page.
#[derive(Clone)]
struct World {
    linked: Arc<Mutex<BTreeSet<String>>>,
    clock: Arc<ManualClock>,
    exchange: TokenExchange,
}

impl World {
    fn new() -> Self {
        let linked = Arc::<Mutex<BTreeSet<String>>>::default();
        let known = linked.clone();
        let issuer = tower::service_fn(move |request: Request<Full<Bytes>>| {
            let known = known.clone();
            async move {
                let form = request.into_body().collect().await?.to_bytes();
                let mut form = form_urlencoded::parse(&form);
                let (_, user) = form.find(|(name, _)| name == "subject_token").unwrap();
                let is_linked = known.lock().unwrap().contains(&*user);
                let mut answer = Response::new(Full::<Bytes>::from(if is_linked {
                    format!(
                        r#"{{"access_token":"of-{user}","token_type":"Bearer","expires_in":600,
                        "issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}}"#
                    )
                } else {
                    format!(r#"{{"error":"not_linked","account-link-url":"{LINK_AT}{user}"}}"#)
                }));
                if !is_linked {
                    *answer.status_mut() = StatusCode::BAD_REQUEST;
                }
                let json = HeaderValue::from_static("application/json");
                answer.headers_mut().insert("content-type", json);
                Ok::<_, Infallible>(answer)
            }
        });
        let clock = Arc::new(ManualClock::new(SystemTime::now()));
        let endpoint = TokenEndpoint::builder("https://idp.example.com/token", issuer)
            .client_auth(ClientAuth::basic("gateway", Secret::new("secret").unwrap()))
            .build()
            .unwrap();
        let exchange = TokenExchange::builder(endpoint).clock(clock.clone());
        Self {
            linked,
            exchange: exchange.build().unwrap(),
            clock,
        }
    }

    /// The page links the account of the user who is logged in there, whoever was sent.
    fn visit(&self, url: &str, browser: &str) {
        let sent = url.strip_prefix(LINK_AT).unwrap();
        if sent == browser {
            self.linked.lock().unwrap().insert(browser.to_owned());
        }
        // A refusal is believed for 10 s.
        self.clock.advance(Duration::from_secs(11));
    }

    async fn session<H: ClientHandler>(
        &self,
        user: &str,
        handler: H,
        version: Option<ProtocolVersion>,
    ) -> RunningService<RoleClient, H> {
        let gateway = Gateway {
            exchange: self.exchange.clone(),
        };
        let sessions = Arc::new(LocalSessionManager::default());
        let config = StreamableHttpServerConfig::default();
        let http = StreamableHttpService::new(move || Ok(gateway.clone()), sessions, config);
        let http = tower::service_fn(move |mut request: Request<Full<Bytes>>| {
            let http = http.clone();
            let host = HeaderValue::from_static("127.0.0.1:1");
            request.headers_mut().insert("host", host);
            async move { Ok::<_, Infallible>(http.handle(request).await) }
        });
        let origin = Origin::try_from("http://127.0.0.1:1").unwrap();
        let token = UpstreamToken::new(AccessToken::new(user).unwrap());
        let identity = Identity::builder(user)
            .upstream("gateway", token)
            .build()
            .unwrap();
        let stack = AuthLayer::new(origin, UpstreamInject::new("gateway").unwrap()).layer(http);
        let stack = BoxCloneService::new(IdentityLayer::new(identity).layer(stack));
        let config = StreamableHttpClientTransportConfig::with_uri("http://127.0.0.1:1/mcp");
        let transport =
            StreamableHttpClientTransport::with_client(TowerHttpClient::new(stack), config);
        let lifecycle = match version {
            Some(version) => ClientLifecycleMode::Discover {
                preferred_versions: vec![version],
            },
            None => ClientLifecycleMode::Initialize,
        };
        handler
            .serve_with_lifecycle(transport, lifecycle)
            .await
            .unwrap()
    }
}

#[derive(Clone)]
struct Gateway {
    exchange: TokenExchange,
}

impl ServerHandler for Gateway {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn call_tool(
        &self,
        _: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let head = context.extensions.get::<Parts>().unwrap();
        let user = head.headers[AUTHORIZATION].to_str().unwrap();
        let user = user.strip_prefix("Bearer ").unwrap();
        let identity = Identity::builder(user).token(AccessToken::new(user).unwrap());
        let mut request = Request::new(());
        request.extensions_mut().insert(identity.build().unwrap());
        match self
            .exchange
            .authenticate(&mut request)
            .complete(request)
            .await
        {
            Ok(request) => {
                let token = request.headers()[AUTHORIZATION]
                    .to_str()
                    .unwrap()
                    .to_owned();
                Ok(CallToolResult::success(vec![ContentBlock::text(token)]).into())
            }
            Err(error) => {
                let client = context.client_capabilities().unwrap_or_default();
                let is_stateless =
                    context.protocol_version() >= Some(ProtocolVersion::V_2026_07_28);
                match input_required(&error, &client).filter(|_| is_stateless) {
                    Some(input) => Ok(input.into()),
                    None => Err(mcp_error(&error, &client)),
                }
            }
        }
    }
}

/// A user's client, which shows a URL in the browser of `browser`.
#[derive(Clone)]
struct User {
    world: World,
    browser: &'static str,
    can_visit: bool,
}

impl ClientHandler for User {
    fn get_info(&self) -> ClientConfig {
        let mut capabilities = ClientCapabilities::default();
        if self.can_visit {
            let elicitation = ElicitationCapability::new();
            let url = UrlElicitationCapability::default();
            capabilities.elicitation = Some(elicitation.with_url(url));
        }
        ClientConfig::new(capabilities, Implementation::new("user", "0"))
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let ElicitRequestParams::UrlElicitationParams { url, .. } = request else {
            panic!("{request:?}");
        };
        self.world.visit(&url, self.browser);
        Ok(ElicitResult::new(ElicitationAction::Accept))
    }
}

fn tool() -> CallToolRequestParams {
    CallToolRequestParams::new("tool")
}

fn text(result: CallToolResult) -> String {
    result.content[0].as_text().unwrap().text.clone()
}

fn mcp_error_of(error: ServiceError) -> ErrorData {
    let ServiceError::McpError(error) = error else {
        panic!("{error:?}");
    };
    error
}

#[tokio::test]
async fn a_client_that_can_show_a_url_gets_it_and_the_call_succeeds_afterwards() {
    let world = World::new();
    let user = User {
        world: world.clone(),
        browser: "alice",
        can_visit: true,
    };
    let session = world.session("alice", user, None).await;
    let error = mcp_error_of(session.call_tool(tool()).await.unwrap_err());
    assert_eq!(error.code.0, -32_042);
    let elicitation = &error.data.unwrap()["elicitations"][0];
    assert_eq!(elicitation["mode"], "url");
    assert_eq!(elicitation["url"], format!("{LINK_AT}alice"));
    assert!(!elicitation["elicitationId"].as_str().unwrap().is_empty());
    assert!(!elicitation["message"].as_str().unwrap().is_empty());

    world.visit(elicitation["url"].as_str().unwrap(), "alice");
    assert_eq!(
        text(session.call_tool(tool()).await.unwrap()),
        "Bearer of-alice"
    );
}

#[tokio::test]
async fn without_sessions_the_sdk_shows_the_url_and_makes_the_call_again_by_itself() {
    let world = World::new();
    let user = User {
        world: world.clone(),
        browser: "alice",
        can_visit: true,
    };
    let session = world
        .session("alice", user, Some(ProtocolVersion::V_2026_07_28))
        .await;
    assert_eq!(
        text(session.call_tool(tool()).await.unwrap()),
        "Bearer of-alice"
    );
}

#[tokio::test]
async fn the_user_who_comes_back_must_be_the_one_who_was_sent() {
    for version in [None, Some(ProtocolVersion::V_2026_07_28)] {
        // Bob visits the page that Alice was sent to.
        let world = World::new();
        let alice = User {
            world: world.clone(),
            browser: "bob",
            can_visit: true,
        };
        let session = world.session("alice", alice, version.clone()).await;
        session.call_tool(tool()).await.unwrap_err();
        world.visit(&format!("{LINK_AT}alice"), "bob");
        session.call_tool(tool()).await.unwrap_err();
        assert!(world.linked.lock().unwrap().is_empty());

        // Alice has come back: that is no help to Bob.
        world.visit(&format!("{LINK_AT}alice"), "alice");
        assert_eq!(
            text(session.call_tool(tool()).await.unwrap()),
            "Bearer of-alice"
        );
        let bob = User {
            world: world.clone(),
            browser: "nobody",
            can_visit: true,
        };
        let session = world.session("bob", bob, version).await;
        session.call_tool(tool()).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_client_that_cannot_show_a_url_is_told_in_words() {
    for version in [None, Some(ProtocolVersion::V_2026_07_28)] {
        let world = World::new();
        let user = User {
            world: world.clone(),
            browser: "alice",
            can_visit: false,
        };
        let session = world.session("alice", user, version).await;
        let request = CallToolRequest::new(tool());
        let error = session.send_request(request.into()).await.unwrap_err();
        let error = mcp_error_of(error);
        assert_eq!(error.code.0, -32_000);
        assert!(
            error.message.contains(&format!("{LINK_AT}alice")),
            "{error:?}"
        );
        assert!(error.data.is_none());
    }
}

#[test]
fn where_nothing_fits_the_words_say_what_helps_and_nothing_of_the_error() {
    use AuthErrorKind::*;
    for (kind, words) in [
        (MissingIdentity, "log in again"),
        (MissingToken, "log in again"),
        (Expired, "log in again"),
        (Rejected, "log in again"),
        (InsufficientScope, "does not permit"),
        (Unavailable, "try again in a while"),
        (Configuration, "tell its operator"),
        (WrongOrigin, "tell its operator"),
    ] {
        let error = AuthError::new(kind, "an internal detail");
        let mut client = ClientCapabilities::default();
        client.elicitation = Some(ElicitationCapability::new().with_url(Default::default()));
        assert!(input_required(&error, &client).is_none());
        let answer = mcp_error(&error, &client);
        assert_eq!(answer.code.0, -32_000);
        assert!(
            answer.message.contains(words),
            "{kind:?}: {}",
            answer.message
        );
        assert!(!answer.message.contains("internal"), "{}", answer.message);
    }
}

// The same through an HTTP gateway, which reads the client's message.

fn to_link() -> AuthError {
    let interaction = format!(r#"{{"error":"not_linked","account-link-url":"{LINK_AT}alice"}}"#);
    let issuer = tower::service_fn(move |_: Request<Full<Bytes>>| {
        let mut answer = Response::new(Full::<Bytes>::from(interaction.clone()));
        *answer.status_mut() = StatusCode::BAD_REQUEST;
        let json = HeaderValue::from_static("application/json");
        answer.headers_mut().insert("content-type", json);
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let endpoint = TokenEndpoint::builder("https://idp.example.com/token", issuer)
        .client_auth(ClientAuth::none("gateway"))
        .build()
        .unwrap();
    let request = tower_identity::oauth::TokenRequest::token_exchange()
        .subject_token("of-alice", tower_identity::oauth::TokenType::AccessToken);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let answer = std::thread::spawn(move || runtime.block_on(endpoint.request_token(request)));
    answer.join().unwrap().unwrap_err()
}

fn call(method: &str, params: &Value) -> Option<McpRequest> {
    let message = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
    McpRequest::read(message.to_string().as_bytes())
}

/// The parameters of a call of this era, whose client can or cannot show a URL.
fn params(is_stateless: bool, shows_urls: bool) -> Value {
    let elicitation = if shows_urls {
        json!({ "url": {} })
    } else {
        json!({})
    };
    let capabilities = json!({ "elicitation": elicitation });
    match is_stateless {
        true => json!({ "_meta": { "io.modelcontextprotocol/clientCapabilities": capabilities } }),
        false => json!({}),
    }
}

fn answered(request: &McpRequest, error: &AuthError) -> (Response<()>, Value) {
    let (head, body) = request.answer::<Bytes>(error).into_parts();
    let message: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(message["jsonrpc"], "2.0");
    assert_eq!(head.headers["content-type"], "application/json");
    (Response::from_parts(head, ()), message)
}

#[test]
fn an_http_gateway_sends_a_client_of_each_era_to_the_url_if_it_can_show_one() {
    let error = to_link();
    let url = format!("{LINK_AT}alice");
    for method in ["tools/call", "prompts/get", "resources/read", "tools/list"] {
        // With a session, where `initialize` declared it.
        let request = call(method, &params(false, true)).unwrap();
        let (head, message) = answered(&request.clone().in_session(true), &error);
        assert_eq!(head.status(), StatusCode::OK);
        assert_eq!(message["id"], 7);
        assert_eq!(message["error"]["code"], -32_042);
        assert_eq!(message["error"]["data"]["elicitations"][0]["url"], url);
        let (head, message) = answered(&request.in_session(false), &error);
        assert_eq!(head.status(), StatusCode::OK);
        says_in_words(&message, &url);

        // Without a session, each request declares it, whatever a session did.
        let request = call(method, &params(true, true)).unwrap().in_session(false);
        let (head, message) = answered(&request, &error);
        assert_eq!(head.status(), StatusCode::OK);
        if method == "tools/list" {
            says_in_words(&message, &url);
        } else {
            let result: rmcp::model::InputRequiredResult =
                serde_json::from_value(message["result"].clone()).unwrap();
            let asked = serde_json::to_value(result.input_requests).unwrap();
            assert_eq!(asked["interaction"]["params"]["url"], url);
        }
        let request = call(method, &params(true, false)).unwrap().in_session(true);
        let (head, message) = answered(&request, &error);
        assert_eq!(head.status(), StatusCode::OK);
        says_in_words(&message, &url);

        // What a login helps is answered with the challenge, whatever the client can show.
        let request = call(method, &params(true, true)).unwrap();
        let expired = AuthError::new(AuthErrorKind::Expired, "an internal detail");
        let (head, message) = answered(&request, &expired);
        assert_eq!(head.status(), StatusCode::UNAUTHORIZED);
        assert!(head.headers().contains_key("www-authenticate"));
        assert!(head.extensions().get::<AuthError>().is_some());
        assert_eq!(message["error"]["code"], -32_000);
    }
}

fn says_in_words(message: &Value, url: &str) {
    assert_eq!(message["error"]["code"], -32_000);
    let words = message["error"]["message"].as_str().unwrap();
    assert!(words.contains(url), "{words}");
}

#[test]
fn initialize_declares_for_the_session_and_is_itself_answered_in_words() {
    let error = to_link();
    for (elicitation, shows_urls) in [
        (json!({ "url": {} }), true),
        (json!({ "form": {}, "url": {} }), true),
        (json!({ "form": {} }), false),
        (json!({ "url": true }), false),
        (json!("url"), false),
        (json!(null), false),
    ] {
        let params = json!({ "capabilities": { "elicitation": elicitation } });
        let request = call("initialize", &params).unwrap();
        assert_eq!(request.shows_urls(), shows_urls, "{elicitation}");
        let (head, message) = answered(&request, &error);
        assert_eq!(head.status(), StatusCode::OK);
        says_in_words(&message, &format!("{LINK_AT}alice"));
        // Another request cannot declare it in this way.
        assert!(!call("tools/call", &params).unwrap().shows_urls());
    }
}

#[test]
fn an_answer_has_the_id_of_its_request_and_what_has_none_gets_no_answer() {
    let error = AuthError::new(AuthErrorKind::Unavailable, "an internal detail");
    for id in [
        json!(0),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(""),
        json!("a\"\u{0}b"),
    ] {
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call" });
        let request = McpRequest::read(message.to_string().as_bytes()).unwrap();
        let (head, message) = answered(&request, &error);
        assert_eq!(head.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(message["id"], id);
        assert!(!message.to_string().contains("internal"), "{message}");
    }
    let deep = format!(
        "{{\"id\":1,\"method\":\"x\",\"params\":{}",
        "[".repeat(100_000)
    );
    for message in [
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":true,"method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":[1],"method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":{},"method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
        r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call"}]"#,
        "",
        "{",
        &deep,
    ] {
        assert!(McpRequest::read(message.as_bytes()).is_none(), "{message}");
    }
}
