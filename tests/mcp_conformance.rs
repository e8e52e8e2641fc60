//! MCP's own conformance suite, with the SDK's client on this crate's HTTP client and layers.
//!
//! The suite (npm's `@modelcontextprotocol/conformance`) starts a server for each scenario, and runs this file again as the
//! client that it judges.
#![cfg(all(feature = "hyper", feature = "private-key-jwt", feature = "rmcp"))]

mod support;

use std::{
    collections::BTreeSet,
    env, fs,
    process::{Child, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header::LOCATION};
use http_body_util::{BodyExt, Full};
use rmcp::{
    ClientHandler, ErrorData, RoleClient, ServiceError,
    model::{
        CallToolRequestParams, ClientCapabilities, ClientConfig, ElicitRequestParams, ElicitResult,
        ElicitationAction, Implementation, ProtocolVersion,
    },
    service::{
        ClientInitializeError, ClientLifecycleMode, ClientServiceExt, RequestContext,
        RunningService,
    },
    transport::{
        StreamableHttpClientTransport,
        streamable_http_client::{InsufficientScopeError, StreamableHttpClientTransportConfig},
    },
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tower::{BoxError, Layer, ServiceExt};
use tower_identity::{
    AccessToken, AuthLayer, ClientAuth, ClientCredentials, CrossAppAccess, Identity, IdentityLayer,
    Origin, Secret, Strategy, TokenEndpoint, Unauthenticated, UpstreamInject, UpstreamToken,
    client::{
        hyper::https_client,
        rmcp::{SendAs, TowerHttpClient},
    },
    oauth::{PrivateKeyJwt, SigningAlgorithm, TokenRequest},
};

use support::peers;

use Verdict::{NotOurs, Passes};

enum Verdict {
    Passes,
    /// Why the scenario says nothing about this crate.
    NotOurs(&'static str),
}

const LOG_IN: &str =
    "about how a user's client finds the login: a gateway gets users who are logged in";
const DISCOVERY: &str =
    "about metadata of a server: here the operator configures the token endpoint";
const SCHEMAS: &str = "about what the SDK makes of a tool's schema";
const SKILLS: &str = "about an extension that the SDK does not have";

/// Every client scenario of the suite.
const SCENARIOS: [(&str, Verdict); 48] = [
    ("initialize", Passes),
    ("tools_call", Passes),
    ("elicitation-sep1034-client-defaults", Passes),
    ("sse-retry", Passes),
    ("request-metadata", Passes),
    ("auth/metadata-default", NotOurs(DISCOVERY)),
    ("auth/metadata-var1", NotOurs(DISCOVERY)),
    ("auth/metadata-var2", NotOurs(DISCOVERY)),
    ("auth/metadata-var3", NotOurs(DISCOVERY)),
    ("auth/basic-cimd", NotOurs(LOG_IN)),
    ("auth/scope-from-www-authenticate", NotOurs(LOG_IN)),
    ("auth/scope-from-scopes-supported", NotOurs(LOG_IN)),
    ("auth/scope-omitted-when-undefined", NotOurs(LOG_IN)),
    ("auth/scope-step-up", Passes),
    ("auth/scope-retry-limit", Passes),
    ("auth/token-endpoint-auth-basic", Passes),
    ("auth/token-endpoint-auth-post", Passes),
    ("auth/token-endpoint-auth-none", Passes),
    ("auth/pre-registration", NotOurs(LOG_IN)),
    (
        "auth/2025-03-26-oauth-metadata-backcompat",
        NotOurs(DISCOVERY),
    ),
    (
        "auth/2025-03-26-oauth-endpoint-fallback",
        NotOurs(DISCOVERY),
    ),
    ("auth/resource-mismatch", NotOurs(DISCOVERY)),
    ("auth/offline-access-scope", NotOurs(LOG_IN)),
    ("auth/offline-access-not-supported", NotOurs(LOG_IN)),
    ("auth/authorization-server-migration", NotOurs(DISCOVERY)),
    ("auth/iss-supported", NotOurs(LOG_IN)),
    ("auth/iss-not-advertised", NotOurs(LOG_IN)),
    ("auth/iss-supported-missing", NotOurs(LOG_IN)),
    ("auth/iss-wrong-issuer", NotOurs(LOG_IN)),
    ("auth/iss-unexpected", NotOurs(LOG_IN)),
    ("auth/iss-normalized", NotOurs(LOG_IN)),
    ("auth/metadata-issuer-mismatch", NotOurs(DISCOVERY)),
    ("auth/client-credentials-jwt", Passes),
    ("auth/client-credentials-basic", Passes),
    ("auth/enterprise-managed-authorization", Passes),
    (
        "auth/dpop",
        NotOurs("the crate has no sender-constrained tokens yet"),
    ),
    (
        "auth/dpop-nonce",
        NotOurs("the crate has no sender-constrained tokens yet"),
    ),
    ("auth/wif-jwt-bearer", Passes),
    (
        "sep-2322-client-request-state",
        NotOurs("about what the SDK sends again"),
    ),
    ("http-standard-headers", Passes),
    ("http-custom-headers", Passes),
    ("http-invalid-tool-headers", Passes),
    ("json-schema-ref-no-deref", NotOurs(SCHEMAS)),
    ("json-schema-2020-12-preservation", NotOurs(SCHEMAS)),
    ("sep-2640-client-no-prefetch", NotOurs(SKILLS)),
    ("sep-2640-client-verify-digest", NotOurs(SKILLS)),
    ("sep-2640-client-verify-size", NotOurs(SKILLS)),
    ("sep-2640-client-verify-frontmatter", NotOurs(SKILLS)),
];

#[test]
fn each_scenario_that_concerns_this_crate_passes() {
    let Some(mut list) = peers::required(peers::MCP_CONFORMANCE) else {
        return;
    };
    // A new version of the suite has scenarios that nobody has judged yet.
    let list = list.args(["list", "--client"]).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let known: BTreeSet<_> = SCENARIOS.iter().map(|(name, _)| *name).collect();
    let suite: BTreeSet<_> = list
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- ")?.split(' ').next())
        .collect();
    assert_eq!(suite, known);

    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((name, verdict)) =
                    SCENARIOS.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let outcome = match verdict {
                        Passes => judged(name),
                        NotOurs(reason) => Ok(format!("not for this crate: {reason}")),
                    };
                    rows.lock().unwrap().push((name, outcome));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort_by_key(|(name, _)| *name);
    for (name, outcome) in &rows {
        let (Ok(outcome) | Err(outcome)) = outcome;
        println!("{name:<45}{outcome}");
    }
    let failed = rows.iter().filter(|(_, outcome)| outcome.is_err());
    assert_eq!(failed.count(), 0, "a scenario failed");
}

/// What the suite says of one scenario.
fn judged(scenario: &str) -> Result<String, String> {
    let this = env::current_exe().unwrap();
    let client = format!(
        "{} --ignored --exact --nocapture the_client",
        this.display()
    );
    let results = tempfile::tempdir().unwrap();
    let mut suite = peers::required(peers::MCP_CONFORMANCE).unwrap();
    suite.args(["client", "--command", &client, "--scenario", scenario]);
    suite.arg("--output-dir").arg(results.path());
    let output = suite.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let checks = checks(results.path());
    let succeeded = checks
        .iter()
        .filter(|check| check["status"] == "SUCCESS")
        .count();
    if output.status.success() && succeeded > 0 {
        Ok(format!("passed ({succeeded} checks)"))
    } else {
        Err(format!("FAILED\n{said}"))
    }
}

fn checks(results: &std::path::Path) -> Vec<Value> {
    let mut checks = Vec::new();
    for entry in fs::read_dir(results).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            checks.extend(self::checks(&path));
        } else if path.file_name().is_some_and(|name| name == "checks.json") {
            let text = fs::read_to_string(path).unwrap();
            checks.extend(serde_json::from_str::<Vec<Value>>(&text).unwrap());
        }
    }
    checks
}

#[tokio::test]
async fn the_everything_server_answers_each_kind_of_request_over_tcp() {
    let Some(mut server) = peers::required(peers::MCP_EVERYTHING) else {
        return;
    };
    let port = peers::free_port();
    server.arg("streamableHttp").env("PORT", port.to_string());
    server.stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Running(server.spawn().unwrap());
    let url = format!("http://127.0.0.1:{port}/mcp");
    let session = async {
        loop {
            if let Ok(session) = open(&url, Unauthenticated, None).await {
                return session;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let session = tokio::time::timeout(Duration::from_secs(60), session).await;
    let session = session.expect("the server does not start");

    let user = Identity::builder("user-1").build().unwrap();
    let tools = session.list_all_tools().await.unwrap();
    assert!(tools.iter().any(|tool| tool.name == "echo"), "{tools:?}");
    assert!(!session.list_all_prompts().await.unwrap().is_empty());
    assert!(!session.list_all_resources().await.unwrap().is_empty());
    let calls = (0..20).map(|n| {
        let message = json!({ "message": format!("call {n}") });
        let echo = CallToolRequestParams::new("echo");
        let echo = echo.with_arguments(message.as_object().unwrap().clone());
        let call = session.call_tool_as(user.clone(), echo);
        async move {
            let result = call.await.unwrap();
            let text = &result.content[0].as_text().unwrap().text;
            assert!(text.ends_with(&format!("call {n}")), "{text}");
        }
    });
    futures_util::future::join_all(calls).await;
    // Its answer comes in an event stream, after progress.
    let long = json!({ "duration": 0.2, "steps": 2 });
    let operation = CallToolRequestParams::new("trigger-long-running-operation");
    let operation = operation.with_arguments(long.as_object().unwrap().clone());
    let result = session.call_tool_as(user.clone(), operation).await.unwrap();
    assert_ne!(result.is_error, Some(true), "{result:?}");
    let nothing = CallToolRequestParams::new("no-such-tool");
    let answer = session.call_tool_as(user, nothing).await;
    assert!(answer.is_err() || answer.unwrap().is_error == Some(true));
    session.cancel().await.unwrap();
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// The client.

const SCENARIO: &str = "MCP_CONFORMANCE_SCENARIO";

#[tokio::test]
#[ignore = "the suite runs it"]
async fn the_client() {
    let scenario = env::var(SCENARIO).expect("the suite runs this");
    let url = env::args().next_back().unwrap();
    let context = env::var("MCP_CONFORMANCE_CONTEXT").unwrap_or_else(|_| "{}".into());
    let context: Value = serde_json::from_str(&context).unwrap();
    let done = match scenario.as_str() {
        "auth/client-credentials-basic" => client_credentials(&url, &context, false).await,
        "auth/client-credentials-jwt" => client_credentials(&url, &context, true).await,
        "auth/wif-jwt-bearer" => workload(&url, &context).await,
        "auth/enterprise-managed-authorization" => cross_app_access(&url, &context).await,
        name if name.starts_with("auth/") => as_user(&url).await,
        _ => without_credentials(&url, &context).await,
    };
    done.unwrap();
}

async fn without_credentials(url: &str, context: &Value) -> Result<(), BoxError> {
    let session = open(url, Unauthenticated, None).await?;
    let info = session.peer_info();
    if info.is_none_or(|info| info.capabilities.tools.is_none()) {
        session.cancel().await?;
        return Ok(());
    }
    let tools = session.list_all_tools().await?;
    let calls = context["toolCalls"].as_array().cloned().unwrap_or_default();
    for tool in &tools {
        let mut of_context = calls
            .iter()
            .filter(|call| call["name"] == *tool.name)
            .peekable();
        if of_context.peek().is_none() && calls.is_empty() {
            let call = CallToolRequestParams::new(tool.name.clone());
            // Whatever the tool asks for.
            let call = call.with_arguments(arguments(&tool.input_schema));
            let _ = session.call_tool(call).await;
        }
        for call in of_context {
            let arguments = call["arguments"].as_object().cloned().unwrap_or_default();
            let call = CallToolRequestParams::new(tool.name.clone()).with_arguments(arguments);
            let _ = session.call_tool(call).await;
        }
    }
    let _ = session.list_all_prompts().await;
    let _ = session.list_all_resources().await;
    session.cancel().await?;
    Ok(())
}

/// A value for each property that a tool must have.
fn arguments(schema: &Map<String, Value>) -> Map<String, Value> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let value = |schema: &Value| match schema["type"].as_str() {
        Some("number" | "integer") => json!(3),
        Some("boolean") => json!(true),
        _ => json!("text"),
    };
    let properties = properties.into_iter().flatten();
    properties
        .map(|(name, schema)| (name.clone(), value(schema)))
        .collect()
}

async fn client_credentials(url: &str, context: &Value, with_key: bool) -> Result<(), BoxError> {
    let id = text(context, "client_id");
    let auth = if with_key {
        let pem = Secret::new(text(context, "private_key_pem"))?;
        let key = PrivateKeyJwt::builder(SigningAlgorithm::Es256, &pem).build()?;
        ClientAuth::private_key_jwt(id, key)
    } else {
        ClientAuth::basic(id, Secret::new(text(context, "client_secret"))?)
    };
    let server = Metadata::of(url).await?;
    let strategy = ClientCredentials::builder(server.token_endpoint(auth)?)
        .resource(&server.resource)
        .build()?;
    let session = open(url, strategy, None).await?;
    session.list_all_tools().await?;
    session.cancel().await?;
    Ok(())
}

/// Workload identity federation: the token of the platform is the grant.
async fn workload(url: &str, context: &Value) -> Result<(), BoxError> {
    let server = Metadata::of(url).await?;
    let endpoint = server.token_endpoint(ClientAuth::none(text(context, "client_id")))?;
    let strategy = ClientCredentials::builder(endpoint)
        .workload_token(Secret::new(text(context, "valid_jwt"))?)
        .resource(&server.resource)
        .build()?;
    let session = open(url, strategy, None).await?;
    session.list_all_tools().await?;
    session.cancel().await?;
    Ok(())
}

async fn cross_app_access(url: &str, context: &Value) -> Result<(), BoxError> {
    let identity_provider = TokenEndpoint::builder(
        text(context, "idp_token_endpoint"),
        https_client::<Full<Bytes>>()?,
    )
    .client_auth(ClientAuth::none(text(context, "idp_client_id")))
    .build()?;
    let secret = Secret::new(text(context, "client_secret"))?;
    let auth = ClientAuth::basic(text(context, "client_id"), secret);
    let server = Metadata::of(url).await?;
    let authorization_server = server.token_endpoint(auth)?;
    let strategy = CrossAppAccess::builder("idp", identity_provider, authorization_server)
        .audience(&server.issuer)
        .issuer(&text(context, "idp_issuer"))
        .resource(&server.resource)
        .build()?;
    let id_token = Secret::new(text(context, "idp_id_token"))?;
    let token = UpstreamToken::new(AccessToken::new("not-used")?).with_id_token(id_token);
    let user = Identity::builder("demo-user@example.com")
        .upstream("idp", token)
        .build()?;
    let session = open(url, strategy, Some(user)).await?;
    session.list_all_tools().await?;
    session.cancel().await?;
    Ok(())
}

/// A user who logs in with the scope that the server asks for, and once more where it needs more.
async fn as_user(url: &str) -> Result<(), BoxError> {
    let server = Metadata::of(url).await?;
    let client = server.register().await?;
    let mut scopes = asked_of_nobody(url).await;
    let mut user = server.log_in(&client, &scopes).await?;
    let mut log_ins = 1;
    let session = open(url, UpstreamInject::new("server")?, Some(user.clone())).await?;
    let mut tools = Vec::new();
    loop {
        let result = match tools.first() {
            None => {
                let list = rmcp::model::ListToolsRequest::default();
                session
                    .send_request_as(user.clone(), list)
                    .await
                    .map(|result| {
                        if let rmcp::model::ServerResult::ListToolsResult(list) = result {
                            tools = list.tools;
                        }
                        tools.is_empty()
                    })
            }
            Some(tool) => {
                let call = CallToolRequestParams::new(tool.name.clone());
                session.call_tool_as(user.clone(), call).await.map(|_| true)
            }
        };
        match result {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => {
                let needed = required_scope(&error).ok_or(error)?;
                if log_ins == 2 {
                    break;
                }
                scopes.extend(needed.split(' ').map(str::to_owned));
                user = server.log_in(&client, &scopes).await?;
                log_ins += 1;
            }
        }
    }
    session.cancel().await?;
    Ok(())
}

/// The scope in the challenge that a request without a token gets.
async fn asked_of_nobody(url: &str) -> Vec<String> {
    let challenge = match open(url, Unauthenticated, None).await {
        Ok(session) => match session.list_all_tools().await {
            Ok(_) => None,
            Err(error) => error.auth_challenge().map(str::to_owned),
        },
        Err(error) => error
            .downcast_ref::<ClientInitializeError>()
            .and_then(|error| error.auth_challenge().map(str::to_owned)),
    };
    let challenge = challenge.unwrap_or_default();
    let scope = challenge
        .split_once("scope=\"")
        .and_then(|(_, rest)| rest.split_once('"'));
    let scope = scope.map_or("", |(scope, _)| scope);
    scope.split_whitespace().map(str::to_owned).collect()
}

fn required_scope(error: &ServiceError) -> Option<String> {
    let ServiceError::TransportSend(error) = error else {
        return None;
    };
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&*error.error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<InsufficientScopeError>() {
            return error.required_scope.clone();
        }
        source = error.source();
    }
    None
}

type Session = RunningService<RoleClient, Handler>;

/// An MCP session with the strategy's credentials, in the era that the suite asks for.
async fn open<A>(url: &str, strategy: A, user: Option<Identity>) -> Result<Session, BoxError>
where
    A: Strategy<Full<Bytes>> + Clone + 'static,
{
    let origin = Origin::try_from(url.strip_suffix("/mcp").unwrap_or(url))?;
    let stack = AuthLayer::new(origin, strategy).layer(https_client::<Full<Bytes>>()?);
    let identity = match user {
        Some(user) => IdentityLayer::new(user).follow_requests(),
        None => IdentityLayer::health_check(),
    };
    let client = TowerHttpClient::new(identity.layer(stack));
    let config = StreamableHttpClientTransportConfig::with_uri(url);
    let transport = StreamableHttpClientTransport::with_client(client, config);
    let lifecycle = match env::var("MCP_CONFORMANCE_PROTOCOL_VERSION").as_deref() {
        Ok("2026-07-28") => ClientLifecycleMode::Discover {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        },
        _ => ClientLifecycleMode::Initialize,
    };
    Ok(Handler.serve_with_lifecycle(transport, lifecycle).await?)
}

/// Accepts what the server asks for, with the defaults that it suggests.
#[derive(Clone)]
struct Handler;

impl ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        let capabilities = ClientCapabilities::builder().enable_elicitation().build();
        ClientConfig::new(capabilities, Implementation::new("tower-identity", "0"))
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let request = serde_json::to_value(request).unwrap_or_default();
        let properties = request["requestedSchema"]["properties"].as_object();
        let defaults = properties
            .into_iter()
            .flatten()
            .filter_map(|(name, schema)| Some((name.clone(), schema.get("default")?.clone())));
        let defaults = Value::Object(defaults.collect());
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(defaults))
    }
}

// The part of a login that is not this crate's.

struct Metadata {
    resource: String,
    issuer: String,
    document: Value,
}

const REDIRECT_URI: &str = "http://localhost:3000/callback";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

impl Metadata {
    async fn of(url: &str) -> Result<Self, BoxError> {
        let base = url.strip_suffix("/mcp").unwrap_or(url);
        let mut resource = Value::Null;
        for path in ["/mcp", ""] {
            let url = format!("{base}/.well-known/oauth-protected-resource{path}");
            if let Ok(document) = json(Request::get(url).body(Full::default())?).await {
                resource = document;
                break;
            }
        }
        let issuer = resource["authorization_servers"][0]
            .as_str()
            .ok_or("no issuer")?;
        let issuer_uri: Uri = issuer.parse()?;
        let at = format!(
            "{}://{}",
            issuer_uri.scheme_str().unwrap_or("http"),
            issuer_uri.authority().ok_or("no authority")?
        );
        let path = issuer_uri.path().trim_end_matches('/');
        let mut document = Value::Null;
        for known in ["oauth-authorization-server", "openid-configuration"] {
            let url = format!("{at}/.well-known/{known}{path}");
            if let Ok(found) = json(Request::get(url).body(Full::default())?).await {
                document = found;
                break;
            }
        }
        Ok(Self {
            issuer: text(&document, "issuer"),
            resource: text(&resource, "resource"),
            document,
        })
    }

    fn token_endpoint(&self, auth: ClientAuth) -> Result<TokenEndpoint, BoxError> {
        let url = text(&self.document, "token_endpoint");
        Ok(TokenEndpoint::builder(url, https_client::<Full<Bytes>>()?)
            .issuer(&self.issuer)
            .client_auth(auth)
            .build()?)
    }

    async fn register(&self) -> Result<ClientAuth, BoxError> {
        let methods = &self.document["token_endpoint_auth_methods_supported"];
        let method = methods[0].as_str().unwrap_or("none");
        let registration = json!({ "client_name": "tower-identity",
            "redirect_uris": [REDIRECT_URI], "grant_types": ["authorization_code"],
            "response_types": ["code"], "token_endpoint_auth_method": method });
        let url = text(&self.document, "registration_endpoint");
        let request = Request::post(url).header("content-type", "application/json");
        let client = json(request.body(Full::from(registration.to_string()))?).await?;
        let id = text(&client, "client_id");
        let secret = || Secret::new(text(&client, "client_secret"));
        Ok(
            match client["token_endpoint_auth_method"]
                .as_str()
                .unwrap_or(method)
            {
                "client_secret_basic" => ClientAuth::basic(id, secret()?),
                "client_secret_post" => ClientAuth::post(id, secret()?),
                _ => ClientAuth::none(id),
            },
        )
    }

    async fn log_in(&self, client: &ClientAuth, scopes: &[String]) -> Result<Identity, BoxError> {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
        let scope = scopes.join(" ");
        let mut query = form_urlencoded::Serializer::new(String::new());
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", client.client_id())
            .append_pair("redirect_uri", REDIRECT_URI)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256")
            .append_pair("resource", &self.resource)
            .append_pair("state", "s");
        if !scope.is_empty() {
            query.append_pair("scope", &scope);
        }
        let url = text(&self.document, "authorization_endpoint");
        let url = format!("{url}?{}", query.finish());
        let (_, headers, _) = send(Request::get(url).body(Full::default())?).await?;
        let location: Uri = headers
            .get(LOCATION)
            .ok_or("no redirect")?
            .to_str()?
            .parse()?;
        let query = location.query().unwrap_or_default();
        let code = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "code");
        let (_, code) = code.ok_or("no code")?;
        let request = TokenRequest::authorization_code(&code)
            .parameter("redirect_uri", REDIRECT_URI)
            .parameter("code_verifier", VERIFIER)
            .resource(&self.resource);
        let endpoint = self.token_endpoint(client.clone())?;
        let token = endpoint.request_token(request).await?.into_token();
        let user = Identity::builder("user-1").upstream("server", UpstreamToken::new(token));
        Ok(user.build()?)
    }
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

async fn json(request: Request<Full<Bytes>>) -> Result<Value, BoxError> {
    let (status, _, body) = send(request).await?;
    if !status.is_success() {
        return Err(format!("{status}").into());
    }
    Ok(serde_json::from_slice(&body)?)
}

async fn send(request: Request<Full<Bytes>>) -> Result<(StatusCode, HeaderMap, Bytes), BoxError> {
    let response: Response<_> = https_client()?.oneshot(request).await?;
    let (head, body) = response.into_parts();
    Ok((head.status, head.headers, body.collect().await?.to_bytes()))
}
