//! Test your own gateway in milliseconds, without network and without waiting.
//!
//! Needs the feature `testing`.
//!
//! The module [`testing`](crate::testing) has an issuer, a backend and a network in the process of the test. Together
//! with a clock that stands still until you move it, a test lives through hours of a session: refreshes, outages and
//! logins.
//!
//! ```toml
//! [dependencies] # of the gateway on this page
//! tower-identity = { version = "0.1", features = ["axum", "hyper", "incoming"] }
//! axum = "0.8"
//! bytes = "1"
//! http = "1"
//! http-body-util = "0.1"
//! tower = { version = "0.5", features = ["util"] }
//!
//! [dev-dependencies]
//! tower-identity = { version = "0.1", features = ["testing"] }
//! tokio = { version = "1", features = ["macros", "rt"] }
//! ```
//!
//! # 1. Let the HTTP client be an argument
//!
//! An application that can be tested takes two things from outside: its HTTP client, and the store with the users'
//! tokens. All else is the same in production and in a test, the URLs and the layers too. This gateway is on axum:
//!
//! ```
//! use axum::{
//!     Router,
//!     body::{Body, Bytes},
//!     extract::State,
//!     http::{Request, Response},
//!     routing::get,
//! };
//! use http_body_util::Full;
//! use tower::{BoxError, ServiceBuilder, ServiceExt, util::BoxCloneSyncService};
//! use tower_identity::{
//!     AuthError, AuthErrorKind, AuthLayer, ClientAuth, Identity, Origin,
//!     TokenEndpoint, TokenValidator, TokenValidatorLayer, UpstreamInject,
//!     UpstreamTokenStore, UpstreamTokens,
//!     upstream::{Provider, RefreshTokenGrant},
//! };
//!
//! type HttpClient =
//!     BoxCloneSyncService<Request<Full<Bytes>>, Response<Body>, BoxError>;
//!
//! fn gateway(
//!     client: HttpClient,
//!     store: impl UpstreamTokenStore + 'static,
//! ) -> Result<Router, BoxError> {
//!     let url = "https://github.example.com/token";
//!     let endpoint = TokenEndpoint::builder(url, client.clone())
//!         .client_auth(ClientAuth::none("gateway"))
//!         .build()?;
//!     let github = Provider::builder("github", RefreshTokenGrant::new(endpoint));
//!     let upstream = UpstreamTokens::new(store, [github.build()?]);
//!     let issuer = "https://idp.example.com";
//!     let validator = TokenValidator::builder(issuer, client.clone())
//!         .audience("https://gateway.example.com")
//!         .upstream_tokens(upstream)
//!         .build()?;
//!     let origin = Origin::try_from("https://api.example.com")?;
//!     let backend = ServiceBuilder::new()
//!         .layer(AuthLayer::new(origin, UpstreamInject::new("github")?))
//!         .service(client);
//!     Ok(Router::new()
//!         .route("/repos", get(repos))
//!         .layer(TokenValidatorLayer::new(validator))
//!         .with_state(BoxCloneSyncService::new(backend)))
//! }
//!
//! async fn repos(
//!     State(backend): State<HttpClient>,
//!     caller: Identity,
//! ) -> Result<Response<Body>, AuthError> {
//!     let mut call = Request::new(Full::default());
//!     *call.uri_mut() = "https://api.example.com/repos".parse().map_err(failed)?;
//!     call.extensions_mut().insert(caller);
//!     backend.oneshot(call).await.map_err(failed)
//! }
//!
//! fn failed(error: impl Into<BoxError>) -> AuthError {
//!     let error = error.into();
//!     match AuthError::find_in(&*error) {
//!         Some(error) => error.clone(),
//!         None => AuthError::new(AuthErrorKind::Unavailable, "the call failed"),
//!     }
//! }
//! # fn main() {}
//! ```
//!
//! In production, the client is for example that of [`client::hyper`](crate::client::hyper):
//!
//! ```
//! use axum::{body::Body, http::Request};
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use tower::{BoxError, ServiceBuilder, util::BoxCloneSyncService};
//! use tower_identity::client::hyper::https_client;
//!
//! # type HttpClient = BoxCloneSyncService<
//! #     Request<Full<Bytes>>, axum::http::Response<Body>, BoxError,
//! # >;
//! fn http_client() -> Result<HttpClient, BoxError> {
//!     let client = ServiceBuilder::new()
//!         .map_response(|response: http::Response<_>| response.map(Body::new))
//!         .map_err(BoxError::from)
//!         .service(https_client::<Full<Bytes>>()?);
//!     Ok(HttpClient::new(client))
//! }
//! # let _ = http_client;
//! ```
//!
//! # 2. Move a session through its day
//!
//! `TestIssuer` is both the issuer of your users and the provider at which they have an account. `TestBackend` refuses
//! a token that has expired or is revoked, as a real one does. So the test fails when your gateway sends a stale one.
//!
//! ```
//! # use axum::{
//! #     Router,
//! #     body::{Body, Bytes},
//! #     extract::State,
//! #     http::{Request, Response},
//! #     routing::get,
//! # };
//! # use http_body_util::Full;
//! # use tower::{BoxError, ServiceBuilder, ServiceExt, util::BoxCloneSyncService};
//! # use tower_identity::{
//! #     AuthError, AuthErrorKind, AuthLayer, ClientAuth, Identity, Origin,
//! #     TokenEndpoint, TokenValidator, TokenValidatorLayer, UpstreamInject,
//! #     UpstreamTokenStore, UpstreamTokens,
//! #     upstream::{Provider, RefreshTokenGrant},
//! # };
//! # type HttpClient =
//! #     BoxCloneSyncService<Request<Full<Bytes>>, Response<Body>, BoxError>;
//! # fn gateway(
//! #     client: HttpClient,
//! #     store: impl UpstreamTokenStore + 'static,
//! # ) -> Result<Router, BoxError> {
//! #     let url = "https://github.example.com/token";
//! #     let endpoint = TokenEndpoint::builder(url, client.clone())
//! #         .client_auth(ClientAuth::none("gateway"))
//! #         .build()?;
//! #     let github = Provider::builder("github", RefreshTokenGrant::new(endpoint));
//! #     let upstream = UpstreamTokens::new(store, [github.build()?]);
//! #     let issuer = "https://idp.example.com";
//! #     let validator = TokenValidator::builder(issuer, client.clone())
//! #         .audience("https://gateway.example.com")
//! #         .upstream_tokens(upstream)
//! #         .build()?;
//! #     let origin = Origin::try_from("https://api.example.com")?;
//! #     let backend = ServiceBuilder::new()
//! #         .layer(AuthLayer::new(origin, UpstreamInject::new("github")?))
//! #         .service(client);
//! #     Ok(Router::new()
//! #         .route("/repos", get(repos))
//! #         .layer(TokenValidatorLayer::new(validator))
//! #         .with_state(BoxCloneSyncService::new(backend)))
//! # }
//! # async fn repos(
//! #     State(backend): State<HttpClient>,
//! #     caller: Identity,
//! # ) -> Result<Response<Body>, AuthError> {
//! #     let mut call = Request::new(Full::default());
//! #     *call.uri_mut() = "https://api.example.com/repos".parse().map_err(failed)?;
//! #     call.extensions_mut().insert(caller);
//! #     backend.oneshot(call).await.map_err(failed)
//! # }
//! # fn failed(error: impl Into<BoxError>) -> AuthError {
//! #     let error = error.into();
//! #     match AuthError::find_in(&*error) {
//! #         Some(error) => error.clone(),
//! #         None => AuthError::new(AuthErrorKind::Unavailable, "the call failed"),
//! #     }
//! # }
//! use std::{
//!     sync::Arc,
//!     time::{Duration, Instant, SystemTime},
//! };
//! use tower_identity::{
//!     DefaultClock, ManualClock, MemoryStore,
//!     testing::{TestBackend, TestIssuer, TestNetwork},
//!     upstream::TokenOwner,
//! };
//!
//! const HOUR: Duration = Duration::from_secs(3600);
//!
//! # /*
//! #[tokio::test]
//! # */
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() { a_session_lives_through_its_day().await.unwrap(); }
//! async fn a_session_lives_through_its_day() -> Result<(), BoxError> {
//!     let started = Instant::now();
//!     // One clock for all parts that are made after it, on this thread.
//!     let clock = Arc::new(ManualClock::new(SystemTime::now()));
//!     let _default = DefaultClock::set(clock.clone());
//!
//!     let users = TestIssuer::new("https://idp.example.com");
//!     let github = TestIssuer::new("https://github.example.com");
//!     let api = TestBackend::new("https://api.example.com")
//!         .protected_by(&github, "https://api.example.com");
//!     let network = TestNetwork::new()
//!         .issuer(&users)
//!         .issuer(&github)
//!         .backend(&api);
//!     let client = ServiceBuilder::new()
//!         .map_response(|response: Response<_>| response.map(Body::new))
//!         .service(network);
//!     let store = MemoryStore::new();
//!     let gateway = gateway(HttpClient::new(client), store.clone())?;
//!
//!     // A call of Alice, with a token that her client has just got.
//!     let call = async || {
//!         let audience = "https://gateway.example.com";
//!         let token = users.token("alice").audience(audience).sign();
//!         let request = Request::get("/repos")
//!             .header("authorization", format!("Bearer {token}"))
//!             .body(Body::empty())?;
//!         let response = gateway.clone().oneshot(request).await?;
//!         Ok::<_, BoxError>(response)
//!     };
//!     // Alice logs in at GitHub, as on your login page.
//!     let alice = TokenOwner::new(users.url(), "alice")?;
//!     let log_in = async || {
//!         let tokens = github.log_in("alice", None);
//!         store.put(&alice, "github", &tokens).await
//!     };
//!
//!     log_in().await?;
//!     assert_eq!(call().await?.status(), 200);
//!     let first = api.request();
//!
//!     // An hour later the token has expired. It is refreshed before it leaves.
//!     clock.advance(HOUR);
//!     assert_eq!(call().await?.status(), 200);
//!     assert_ne!(api.request().bearer_token(), first.bearer_token());
//!     assert_eq!(github.token_requests("refresh_token").len(), 1);
//!
//!     // GitHub has an outage. No request leaves with an old token.
//!     clock.advance(HOUR);
//!     github.set_down(true);
//!     let outage = call().await?;
//!     assert_eq!(outage.status(), 503);
//!     assert!(outage.headers().contains_key("retry-after"));
//!     assert_eq!(api.requests().len(), 2);
//!     github.set_down(false);
//!     clock.advance(Duration::from_secs(60));
//!     assert_eq!(call().await?.status(), 200);
//!
//!     // GitHub ends the login. The client is told that Alice must log in.
//!     github.revoke_logins("alice");
//!     clock.advance(HOUR);
//!     let ended = call().await?;
//!     assert_eq!(ended.status(), 401);
//!     assert!(ended.headers().contains_key("www-authenticate"));
//!     log_in().await?;
//!     assert_eq!(call().await?.status(), 200);
//!
//!     // The backend has never seen an expired token.
//!     assert_eq!(api.requests().len(), 4);
//!     assert!(started.elapsed() < Duration::from_secs(5));
//!     Ok(())
//! }
//! ```
//!
//! `UpstreamTokens` refreshes early, and in the background. A test that counts refreshes therefore moves the clock
//! beyond the end of the token, as above.
//!
//! # 3. Provoke what goes wrong
//!
//! | to test your gateway with | write |
//! | --- | --- |
//! | a backend that rejects one token | `api.answer_next(Answer::unauthorized())` |
//! | a backend that wants more scope | `api.answer_next(Answer::new(403).header("www-authenticate", …))` |
//! | an issuer that refuses one refresh | `github.answer_next("refresh_token", Answer::oauth_error("invalid_grant"))` |
//! | a connection that breaks after the request was sent | `Answer::connection_lost()` |
//! | an answer that comes late | `Answer::new(200).after(HOUR)` in a test with `start_paused = true` |
//! | an issuer with new keys | `users.rotate_keys()`, and `users.withdraw_old_keys()` |
//! | a token with strange claims | `users.token("alice").claim("groups", json!(["admins"]))` |
//! | an opaque token | `users.token("alice").opaque()`, with an [`IntrospectionEndpoint`](crate::IntrospectionEndpoint) |
//! | a user who refuses to link an account | `github.authorize(&authorization_url, None)` |
//! | a request for a foreign host | nothing: a host that is not in the network cannot be reached |
//!
//! # 4. An identity without an issuer
//!
//! The unit test of a layer or a handler needs no issuer, only an identity on the request:
//!
//! ```
//! use http::Request;
//! use tower_identity::{Identity, testing::identity};
//!
//! let mut request = Request::new(());
//! let alice = identity("alice", [("github", "gho_16C7e42F292c")]);
//! request.extensions_mut().insert(alice);
//! assert_eq!(request.extensions().get::<Identity>().unwrap().subject(), "alice");
//! ```
//!
//! # 5. An MCP server as the backend
//!
//! [`TestNetwork::host`](crate::testing::TestNetwork::host) takes any Tower service, and its responses can stream. For
//! example, an `axum::Router` becomes the backend of an API gateway, and an MCP server of `rmcp` that of an MCP gateway.
//! The server must allow the host by name, or it answers 403:
//!
//! ```
//! use std::sync::Arc;
//!
//! use rmcp::{
//!     ServerHandler, ServiceExt, model::CallToolRequestParams,
//!     tool, tool_handler, tool_router,
//!     transport::{
//!         StreamableHttpClientTransport as Transport,
//!         streamable_http_client::StreamableHttpClientTransportConfig,
//!         streamable_http_server::{
//!             StreamableHttpServerConfig, StreamableHttpService,
//!             session::local::LocalSessionManager,
//!         },
//!     },
//! };
//! use tower::{BoxError, ServiceBuilder};
//! use tower_identity::{
//!     AuthLayer, IdentityLayer, Origin, UpstreamInject,
//!     client::rmcp::{SendAs, TowerHttpClient},
//!     testing::{TestNetwork, identity},
//! };
//!
//! #[derive(Clone)]
//! struct Greeter;
//!
//! #[tool_router]
//! impl Greeter {
//!     #[tool(description = "Say hello")]
//!     fn hello(&self) -> String {
//!         "hello".to_owned()
//!     }
//! }
//!
//! #[tool_handler]
//! impl ServerHandler for Greeter {}
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let server = StreamableHttpService::new(
//!     || Ok(Greeter),
//!     Arc::new(LocalSessionManager::default()),
//!     StreamableHttpServerConfig::default()
//!         .with_allowed_hosts(["mcp.example.com"]),
//! );
//! let network = TestNetwork::new().host("https://mcp.example.com", server);
//!
//! let alice = identity("alice", [("github", "gho_16C7e42F292c")]);
//! let origin = Origin::try_from("https://mcp.example.com")?;
//! let stack = ServiceBuilder::new()
//!     .layer(IdentityLayer::new(alice.clone()).follow_requests())
//!     .layer(AuthLayer::new(origin, UpstreamInject::new("github")?))
//!     .service(network);
//! let config = StreamableHttpClientTransportConfig::with_uri(
//!     "https://mcp.example.com/mcp",
//! );
//! let client = TowerHttpClient::new(stack);
//! let session = ().serve(Transport::with_client(client, config)).await?;
//! let hello = CallToolRequestParams::new("hello");
//! let result = session.call_tool_as(alice, hello).await?;
//! assert_eq!(result.content[0].as_text().unwrap().text, "hello");
//! session.cancel().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # 6. Tokens that are bound to a key
//!
//! With the feature `dpop`, [`TestIssuer`](crate::testing::TestIssuer) binds a token to the key of the request's proof, so
//! nothing needs to be set. [`require_dpop_nonce`](crate::testing::TestIssuer::require_dpop_nonce) makes it ask for a
//! nonce, and another call makes it forget the one before. A backend that is [protected
//! by](crate::testing::TestBackend::protected_by) the issuer answers 401 to a bound token without a proof of its key.
//!
//! If your gateway demands such tokens of its callers, the test needs a caller that makes proofs. An
//! [`AuthLayer`](crate::AuthLayer) with [`UpstreamInject::dpop`](crate::UpstreamInject::dpop) is one:
//!
//! ```
//! use axum::{Router, body::Body, http::Request, routing::get};
//! use serde_json::json;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//! use tower_identity::{
//!     AccessToken, AuthLayer, Identity, Origin, TokenValidator,
//!     TokenValidatorLayer, UpstreamInject, UpstreamToken,
//!     incoming::DpopPolicy, oauth::DpopKey,
//!     testing::{TestIssuer, TestNetwork},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let url = "https://gateway.example.com";
//! let users = TestIssuer::new("https://idp.example.com");
//! let validator = TokenValidator::builder(users.url(), users.clone())
//!     .audience(url)
//!     .dpop(DpopPolicy::new().url(url).require())
//!     .build()?;
//! let gateway = Router::new()
//!     .route("/whoami", get(async |caller: Identity| caller.subject().to_owned()))
//!     .layer(TokenValidatorLayer::new(validator));
//!
//! // The caller's token names the key, and the caller has it.
//! let key = DpopKey::generate()?;
//! let token = users
//!     .token("alice")
//!     .audience(url)
//!     .claim("cnf", json!({ "jkt": key.thumbprint() }))
//!     .sign();
//! let token = UpstreamToken::new(AccessToken::new(token)?)
//!     .with_dpop_thumbprint(key.thumbprint());
//! let alice = Identity::builder("alice").upstream("gateway", token).build()?;
//! let prover = UpstreamInject::new("gateway")?.dpop(key);
//! let caller = ServiceBuilder::new()
//!     .layer(AuthLayer::new(Origin::try_from(url)?, prover))
//!     .service(TestNetwork::new().host(url, gateway));
//!
//! let mut call = Request::get("https://gateway.example.com/whoami")
//!     .body(Body::empty())?;
//! call.extensions_mut().insert(alice);
//! assert_eq!(caller.oneshot(call).await?.status(), 200);
//! # Ok(())
//! # }
//! ```
//!
//! # 7. Link an account
//!
//! [`TestIssuer::authorize`](crate::testing::TestIssuer::authorize) stands for the provider's page and the user in front
//! of it. Between the two requests of [`AccountLinking`](crate::AccountLinking), the test carries the cookie, as a browser
//! does (feature `linking`):
//!
//! ```
//! use axum::{Extension, Router, body::Body, http::Request};
//! use tower::{BoxError, ServiceExt};
//! use tower_identity::{
//!     AccountLinking, ClientAuth, MemoryStore, UpstreamTokenStore,
//!     UpstreamTokens,
//!     testing::{TestIssuer, identity},
//!     upstream::{OAuthProvider, ProviderSettings, TokenOwner},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let tracker = TestIssuer::new("https://tracker.example.com");
//! let settings = ProviderSettings::discovered(tracker.url());
//! let client = ClientAuth::none("gateway");
//! let provider =
//!     OAuthProvider::builder(settings, client, tracker.clone()).build()?;
//! let store = MemoryStore::new();
//! let provider = provider.provider("tracker").build()?;
//! let upstream = UpstreamTokens::new(store.clone(), [provider]);
//! let linking =
//!     AccountLinking::builder("https://gateway.example.com", upstream).build()?;
//! // In your gateway, the user comes from the session's cookie.
//! let alice = identity("alice", []);
//! let gateway = Router::new()
//!     .fallback_service(linking)
//!     .layer(Extension(alice.clone()));
//!
//! let start = Request::get("/link/tracker").body(Body::empty())?;
//! let start = gateway.clone().oneshot(start).await?;
//! let authorization_url = start.headers()["location"].to_str()?;
//! let cookie = start.headers()["set-cookie"].clone();
//! // The name of Alice at the tracker is another one.
//! let back = tracker.authorize(authorization_url, "alice-1");
//! let back = Request::get(back).header("cookie", cookie).body(Body::empty())?;
//! assert_eq!(gateway.oneshot(back).await?.status(), 303);
//!
//! let linked = store.providers(&TokenOwner::of(&alice)?).await?;
//! assert!(linked.contains("tracker"));
//! # Ok(())
//! # }
//! ```
//!
//! # 8. AWS STS
//!
//! A [`TestBackend`](crate::testing::TestBackend) that answers as AWS STS does is enough for
//! [`AwsSts`](crate::AwsSts) (feature `aws-sts`). It verifies no signature and no trust policy: moto
//! (`moto_server`) is closer to AWS, as `examples/aws_sts.rs` shows.
//!
//! ```
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::Full;
//! use serde_json::json;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//! use tower_identity::{
//!     AuthLayer, AwsSts, RoleMapping, TokenValidator,
//!     testing::{Answer, TestBackend, TestIssuer, TestNetwork},
//! };
//!
//! const SESSION: &str = "<AssumeRoleWithWebIdentityResponse>
//!     <AssumeRoleWithWebIdentityResult><Credentials>
//!         <AccessKeyId>ASIAEXAMPLE</AccessKeyId>
//!         <SecretAccessKey>wJalrXUtnFEMI</SecretAccessKey>
//!         <SessionToken>FwoGZXIvYXdzEXAMPLE</SessionToken>
//!         <Expiration>2099-01-01T00:00:00Z</Expiration>
//!     </Credentials></AssumeRoleWithWebIdentityResult>
//! </AssumeRoleWithWebIdentityResponse>";
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let sts = TestBackend::new("https://sts.us-east-1.amazonaws.com")
//!     .answering(|_| Answer::new(200).body(SESSION));
//! let service = TestBackend::new("https://aws-mcp.us-east-1.api.aws");
//! let network = TestNetwork::new().backend(&sts).backend(&service);
//!
//! let reader = "arn:aws:iam::123456789012:role/Reader";
//! let strategy = AwsSts::builder("us-east-1", network.clone())
//!     .role_mapping(RoleMapping::claim("readers", reader))
//!     .build()?;
//! let client = ServiceBuilder::new()
//!     .layer(AuthLayer::new(service.origin(), strategy))
//!     .service(network);
//!
//! // The validator makes the identity of a token, as in production.
//! let users = TestIssuer::new("https://idp.example.com");
//! let audience = "sts.amazonaws.com";
//! let validator = TokenValidator::builder(users.url(), users.clone())
//!     .audience(audience)
//!     .build()?;
//! let token = users
//!     .token("alice")
//!     .audience(audience)
//!     .claim("groups", json!(["readers"]))
//!     .sign();
//! let alice = validator.validate(&token).await?;
//!
//! let mut call = Request::get("https://aws-mcp.us-east-1.api.aws/")
//!     .body(Full::<Bytes>::default())?;
//! call.extensions_mut().insert(alice);
//! client.oneshot(call).await?;
//! assert_eq!(sts.request().parameter("RoleArn").as_deref(), Some(reader));
//! let request = service.request();
//! let signature = request.header("authorization").unwrap();
//! assert!(signature.starts_with("AWS4-HMAC-SHA256 "));
//! # Ok(())
//! # }
//! ```
//!
//! # What the issuer is compared with
//!
//! A fake that agrees with the code under test proves nothing. A test of this crate therefore sends more than a hundred
//! requests to `TestIssuer` and to npm's `oidc-provider`, and compares status, error codes and members. Your own issuer
//! may differ in what it is free to choose, for example how it limits scopes. [How the crate is
//! tested](super::testing) is another page.
