//! MCP's own conformance suite, with the SDK's client on this crate's HTTP client and layers.
//!
//! The suite (npm's `@modelcontextprotocol/conformance`) starts a server for each scenario, and runs this file again as the
//! client that it judges.
#![cfg(all(
    feature = "dpop",
    feature = "hyper",
    feature = "linking",
    feature = "private-key-jwt",
    feature = "rmcp"
))]

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

use bytes::Bytes;
use http::{
    HeaderMap, Request, Response, StatusCode, Uri,
    header::{COOKIE, LOCATION, SET_COOKIE, WWW_AUTHENTICATE},
};
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
use tower::{BoxError, Layer, ServiceExt};
use tower_identity::{
    AccessToken, AuthLayer, ClientAuth, ClientCredentials, CrossAppAccess, Identity, IdentityLayer,
    MemoryStore, Origin, Secret, Strategy, TokenEndpoint, Unauthenticated, UpstreamInject,
    UpstreamToken,
    client::{
        hyper::https_client,
        rmcp::{SendAs, TowerHttpClient},
    },
    oauth::{DpopKey, DpopKeys, PrivateKeyJwt, ResourceMetadata, SigningAlgorithm},
    upstream::{
        OAuthProvider, ProviderSettings,
        linking::{CodeFlow, LinkError},
    },
};

use support::peers;

use Verdict::{NotOurs, Passes};

enum Verdict {
    Passes,
    /// Why the scenario says nothing about this crate.
    NotOurs(&'static str),
}

const SKILLS: &str = "about the files of skills that a host loads, and the SDK is no host";

/// Every client scenario of the suite.
const SCENARIOS: [(&str, Verdict); 48] = [
    ("initialize", Passes),
    ("tools_call", Passes),
    ("elicitation-sep1034-client-defaults", Passes),
    ("sse-retry", Passes),
    ("request-metadata", Passes),
    ("auth/metadata-default", Passes),
    ("auth/metadata-var1", Passes),
    ("auth/metadata-var2", Passes),
    ("auth/metadata-var3", Passes),
    ("auth/basic-cimd", Passes),
    ("auth/scope-from-www-authenticate", Passes),
    ("auth/scope-from-scopes-supported", Passes),
    ("auth/scope-omitted-when-undefined", Passes),
    ("auth/scope-step-up", Passes),
    ("auth/scope-retry-limit", Passes),
    ("auth/token-endpoint-auth-basic", Passes),
    ("auth/token-endpoint-auth-post", Passes),
    ("auth/token-endpoint-auth-none", Passes),
    ("auth/pre-registration", Passes),
    ("auth/2025-03-26-oauth-metadata-backcompat", Passes),
    ("auth/2025-03-26-oauth-endpoint-fallback", Passes),
    ("auth/resource-mismatch", Passes),
    ("auth/offline-access-scope", Passes),
    ("auth/offline-access-not-supported", Passes),
    ("auth/authorization-server-migration", Passes),
    ("auth/iss-supported", Passes),
    ("auth/iss-not-advertised", Passes),
    ("auth/iss-supported-missing", Passes),
    ("auth/iss-wrong-issuer", Passes),
    ("auth/iss-unexpected", Passes),
    ("auth/iss-normalized", Passes),
    ("auth/metadata-issuer-mismatch", Passes),
    ("auth/client-credentials-jwt", Passes),
    ("auth/client-credentials-basic", Passes),
    ("auth/enterprise-managed-authorization", Passes),
    ("auth/dpop", Passes),
    ("auth/dpop-nonce", Passes),
    ("auth/wif-jwt-bearer", Passes),
    ("sep-2322-client-request-state", Passes),
    ("http-standard-headers", Passes),
    ("http-custom-headers", Passes),
    ("http-invalid-tool-headers", Passes),
    ("json-schema-ref-no-deref", Passes),
    ("json-schema-2020-12-preservation", Passes),
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
        "auth/dpop" | "auth/dpop-nonce" => {
            let key = DpopKey::generate().unwrap();
            as_user(&url, &context, Some(key.into())).await
        }
        name if name.starts_with("auth/") => as_user(&url, &context, None).await,
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
            let mut arguments = arguments(&tool.input_schema);
            if tool.name == "json_schema_echo"
                && let Some(other) = tools.iter().find(|other| other.name != tool.name)
            {
                let schema = Value::Object((*other.input_schema).clone());
                arguments.insert("schema".to_owned(), schema);
            }
            let call = call.with_arguments(arguments);
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

async fn list_tools<A>(url: &str, strategy: A, user: Option<Identity>) -> Result<(), BoxError>
where
    A: Strategy<Full<Bytes>> + Clone + 'static,
{
    let session = open(url, strategy, user).await?;
    session.list_all_tools().await?;
    session.cancel().await?;
    Ok(())
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
    list_tools(url, strategy, None).await
}

/// Workload identity federation: the token of the platform is the grant.
async fn workload(url: &str, context: &Value) -> Result<(), BoxError> {
    let server = Metadata::of(url).await?;
    let endpoint = server.token_endpoint(ClientAuth::none(text(context, "client_id")))?;
    let strategy = ClientCredentials::builder(endpoint)
        .workload_token(Secret::new(text(context, "valid_jwt"))?)
        .resource(&server.resource)
        .build()?;
    list_tools(url, strategy, None).await
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
    list_tools(url, strategy, Some(user)).await
}

/// A user who logs in with the scope that the server asks for, and once more where it needs more, or another login.
/// With keys, their tokens are bound to them.
async fn as_user(url: &str, context: &Value, keys: Option<DpopKeys>) -> Result<(), BoxError> {
    let mut server = Server::of(url, context, keys.clone()).await?;
    let mut scopes = server.scopes.clone();
    let mut user = server.log_in(&scopes).await?;
    let mut log_ins = 1;
    let strategy = UpstreamInject::new("server")?;
    let strategy = match &keys {
        Some(keys) => strategy.dpop(keys.clone()),
        None => strategy,
    };
    let session = open(url, strategy, Some(user.clone())).await?;
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
            Err(_) if log_ins == 2 => break,
            Err(error) => {
                match required_scope(&error) {
                    Some(needed) => scopes.extend(needed.split(' ').map(str::to_owned)),
                    None if error.auth_challenge().is_some() => {
                        server = Server::of(url, context, keys.clone()).await?;
                    }
                    None => return Err(error.into()),
                }
                user = server.log_in(&scopes).await?;
                log_ins += 1;
            }
        }
    }
    session.cancel().await?;
    Ok(())
}

/// The challenge that a request without a token gets.
async fn challenge(url: &str) -> HeaderMap {
    let challenge = match open(url, Unauthenticated, None).await {
        Ok(session) => match session.list_all_tools().await {
            Ok(_) => None,
            Err(error) => error.auth_challenge().map(str::to_owned),
        },
        Err(error) => error
            .downcast_ref::<ClientInitializeError>()
            .and_then(|error| error.auth_challenge().map(str::to_owned)),
    };
    let challenge = challenge.map(|challenge| challenge.parse().unwrap());
    let challenge = challenge.map(|challenge| (WWW_AUTHENTICATE, challenge));
    challenge.into_iter().collect()
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
    let layer = AuthLayer::new(origin, strategy).retry_rejected();
    let stack = layer.layer(https_client::<Full<Bytes>>()?);
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

// The server, as this crate reads its metadata, and the login at its authorization server.

const REDIRECT_URI: &str = "http://localhost:3000/callback";
/// The client that the suite knows by its metadata document.
const DOCUMENT: &str = "https://conformance-test.local/client-metadata.json";

struct Server {
    scopes: Vec<String>,
    provider: ProviderSettings,
    client: ClientAuth,
    keys: Option<DpopKeys>,
}

impl Server {
    /// Registers with the authorization server, unless the suite did.
    async fn of(url: &str, context: &Value, keys: Option<DpopKeys>) -> Result<Self, BoxError> {
        let refusal = challenge(url).await;
        let metadata = ResourceMetadata::fetch(url, &refusal, https_client()?).await;
        let (provider, issuer, scopes) = match &metadata {
            Ok(metadata) => {
                let issuer = metadata.authorization_servers().first();
                let issuer = issuer.ok_or("no issuer")?.clone();
                let provider = ProviderSettings::discovered(&issuer);
                let provider = provider.resource(metadata.resource());
                (provider, issuer, metadata.scopes())
            }
            // The revision of 2025-03-26 had no such metadata, and the server was its own authorization server.
            Err(error) if error.to_string().contains("has none") => {
                let issuer = url.strip_suffix("/mcp").unwrap_or(url).to_owned();
                let mut provider = ProviderSettings::discovered(&issuer);
                let nobody = ClientAuth::none("nobody");
                if let Err(error) = authorization(&provider, nobody, None).await {
                    if !error
                        .auth_error()
                        .is_some_and(|error| error.to_string().contains("404"))
                    {
                        return Err(error.into());
                    }
                    let at = |path: &str| format!("{issuer}/{path}");
                    provider = ProviderSettings::new(at("authorize"), at("token"));
                }
                (provider, issuer, &[][..])
            }
            Err(error) => return Err(error.clone().into()),
        };
        // Nobody registers with an authorization server that has the metadata of another.
        authorization(&provider, ClientAuth::none("nobody"), None).await?;
        let client = match context["client_id"].as_str() {
            Some(id) => ClientAuth::basic(id, Secret::new(text(context, "client_secret"))?),
            None => register(&issuer).await?,
        };
        Ok(Self {
            scopes: scopes.to_vec(),
            provider,
            client,
            keys,
        })
    }

    async fn log_in(&self, scopes: &[String]) -> Result<Identity, BoxError> {
        let provider = self.provider.clone().scopes(scopes.to_vec());
        let (flow, to_provider) =
            authorization(&provider, self.client.clone(), self.keys.clone()).await?;
        let cookie = to_provider.headers()[SET_COOKIE].to_str()?;
        let cookie = cookie.split(';').next().unwrap_or_default().parse()?;
        let (_, headers, _) =
            send(Request::get(location(to_provider.headers())?).body(Full::default())?).await?;
        let browser = HeaderMap::from_iter([(COOKIE, cookie)]);
        let finished = flow.finish(&location(&headers)?, &browser, None).await?;
        let token = finished.tokens().token().clone();
        let user = Identity::builder("user-1").upstream("server", token);
        Ok(user.build()?)
    }
}

/// Sends a browser to the authorization server.
async fn authorization(
    provider: &ProviderSettings,
    client: ClientAuth,
    keys: Option<DpopKeys>,
) -> Result<(CodeFlow, Response<Full<Bytes>>), LinkError> {
    let http = https_client::<Full<Bytes>>().unwrap();
    let provider = OAuthProvider::builder(provider.clone(), client, http);
    let provider = match keys {
        Some(keys) => provider.dpop(keys),
        None => provider,
    };
    let provider = provider.build().unwrap();
    let flow = CodeFlow::new(provider, REDIRECT_URI, MemoryStore::new()).unwrap();
    let to_provider = flow.start(&HeaderMap::new(), None, "/").await?;
    Ok((flow, to_provider))
}

fn location(headers: &HeaderMap) -> Result<Uri, BoxError> {
    let location = headers.get(LOCATION).ok_or("no redirect")?;
    Ok(location.to_str()?.parse()?)
}

// The registration of a client, which is an operator's task and not this crate's.

async fn register(issuer: &str) -> Result<ClientAuth, BoxError> {
    let metadata = authorization_server(issuer).await;
    if metadata["client_id_metadata_document_supported"] == true {
        return Ok(ClientAuth::none(DOCUMENT));
    }
    let methods = &metadata["token_endpoint_auth_methods_supported"];
    let method = methods[0].as_str().unwrap_or("none");
    let registration = json!({ "client_name": "tower-identity",
        "redirect_uris": [REDIRECT_URI], "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"], "application_type": "native",
        "token_endpoint_auth_method": method });
    let url = metadata["registration_endpoint"].as_str();
    let url = url.map_or_else(|| format!("{issuer}/register"), str::to_owned);
    let request = Request::post(url).header("content-type", "application/json");
    let client = json(request.body(Full::from(registration.to_string()))?).await?;
    let id = text(&client, "client_id");
    let secret = || Secret::new(text(&client, "client_secret"));
    let method = client["token_endpoint_auth_method"]
        .as_str()
        .unwrap_or(method);
    Ok(match method {
        "client_secret_basic" => ClientAuth::basic(id, secret()?),
        "client_secret_post" => ClientAuth::post(id, secret()?),
        _ => ClientAuth::none(id),
    })
}

async fn authorization_server(issuer: &str) -> Value {
    let (at, path) = match issuer.match_indices('/').nth(2) {
        Some((slash, _)) => issuer.split_at(slash),
        None => (issuer, ""),
    };
    let path = path.trim_end_matches('/');
    for known in [
        format!("{at}/.well-known/oauth-authorization-server{path}"),
        format!("{at}/.well-known/openid-configuration{path}"),
        format!("{at}{path}/.well-known/openid-configuration"),
    ] {
        let request = Request::get(known).body(Full::default()).unwrap();
        if let Ok(document) = json(request).await {
            return document;
        }
    }
    Value::Null
}

/// For the strategies that need no login.
struct Metadata {
    resource: String,
    issuer: String,
    token_endpoint: String,
}

impl Metadata {
    async fn of(url: &str) -> Result<Self, BoxError> {
        let refusal = challenge(url).await;
        let metadata = ResourceMetadata::fetch(url, &refusal, https_client()?).await?;
        let issuer = metadata.authorization_servers().first();
        let issuer = issuer.ok_or("no issuer")?;
        let document = authorization_server(issuer).await;
        Ok(Self {
            resource: metadata.resource().to_owned(),
            issuer: text(&document, "issuer"),
            token_endpoint: text(&document, "token_endpoint"),
        })
    }

    fn token_endpoint(&self, auth: ClientAuth) -> Result<TokenEndpoint, BoxError> {
        let client = https_client::<Full<Bytes>>()?;
        Ok(TokenEndpoint::builder(&self.token_endpoint, client)
            .issuer(&self.issuer)
            .client_auth(auth)
            .build()?)
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
