//! Write a gateway.
//!
//! A gateway should use [`FallbackPolicy::teardown()`](crate::FallbackPolicy::teardown) or
//! [`FallbackPolicy::never()`](crate::FallbackPolicy::never). It puts the caller's identity on each request that it
//! forwards, so the session's identity is needed for the closing `DELETE` at most. The default is
//! [`always()`](crate::FallbackPolicy::always), as in ToolHive, where this layer comes from. It suits a client that
//! speaks for one user, such as rmcp.
//!
//! `examples/gateway/gateway.rs` is a complete gateway in some 350 lines, and is meant to be copied. Of the files
//! beside it, `config.rs` reads its file and `pages.rs` has its pages. The others are the identity provider, the
//! backends and the client that it is tested with. This page explains the parts of the gateway. It needs this crate
//! with the features `config`, `hyper` and `incoming`, and the following dependencies:
//!
//! ```toml
//! axum = "0.8"
//! bytes = "1"
//! futures-util = "0.3"
//! http = "1"
//! http-body-util = "0.1"
//! moka = { version = "0.12", features = ["sync"] }
//! serde = { version = "1", features = ["derive"] }
//! tokio = { version = "1", features = [
//!     "macros", "net", "rt-multi-thread", "sync", "time",
//! ] }
//! tower = { version = "0.5", features = ["util"] }
//! tower-http = { version = "0.7", features = ["follow-redirect"] }
//! tracing = "0.1"
//! ```
//!
//! # 1. Validate the caller's token
//!
//! [`TokenValidatorLayer`](crate::TokenValidatorLayer) puts an [`Identity`](crate::Identity) on each request that it
//! lets through, and answers all others itself. With
//! [`upstream_tokens`](crate::incoming::TokenValidatorBuilder::upstream_tokens), the identity also has the user's
//! tokens of other providers, refreshed before they expire. Callers that have to log in again get a 401 that says so.
//! If the issuer or the store is unreachable, the answer is 503.
//!
//! ```no_run
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use tower::BoxError;
//! use tower_identity::{
//!     ClientAuth, RedisStore, Secret, TokenEndpoint, TokenValidator,
//!     TokenValidatorLayer, UpstreamTokens, client::hyper::https_client,
//!     upstream::{Provider, RefreshTokenGrant, SealingKey},
//! };
//!
//! fn validator_layer() -> Result<TokenValidatorLayer, BoxError> {
//!     let client = https_client::<Full<Bytes>>()?;
//!     let secret = Secret::new(std::env::var("GITHUB_SECRET")?)?;
//!     let token_url = "https://github.example.com/token";
//!     let endpoint = TokenEndpoint::builder(token_url, client.clone())
//!         .client_auth(ClientAuth::basic("gateway", secret))
//!         .build()?;
//!     let refresh = RefreshTokenGrant::new(endpoint);
//!     let github = Provider::builder("github", refresh).build()?;
//!
//!     let key = SealingKey::from_base64(&std::env::var("SEALING_KEY")?)?;
//!     let store = RedisStore::builder("redis://127.0.0.1/", key).build()?;
//!     let validator = TokenValidator::builder("https://idp.example.com", client)
//!         .audience("https://gateway.example.com")
//!         .upstream_tokens(UpstreamTokens::new(store, [github]))
//!         .build()?;
//!     Ok(TokenValidatorLayer::new(validator))
//! }
//! # let _ = validator_layer;
//! ```
//!
//! The tokens belong to the user, whom the claims `iss` and `sub` name, so any OpenID provider will do. When a user
//! has linked an account, put the provider's tokens into the store:
//!
//! ```
//! use tower::BoxError;
//! use tower_identity::{
//!     Identity, UpstreamTokenStore,
//!     upstream::{ProviderTokens, TokenOwner},
//! };
//!
//! async fn linked(
//!     store: &dyn UpstreamTokenStore,
//!     user: &Identity,
//!     tokens: &ProviderTokens,
//! ) -> Result<(), BoxError> {
//!     store.put(&TokenOwner::of(user)?, "github", tokens).await?;
//!     Ok(())
//! }
//!
//! async fn log_out_everywhere(
//!     store: &dyn UpstreamTokenStore,
//!     user: &Identity,
//! ) -> Result<(), BoxError> {
//!     store.remove_user(&TokenOwner::of(user)?).await?;
//!     Ok(())
//! }
//! # let _ = (linked, log_out_everywhere);
//! ```
//!
//! To keep the tokens of each login apart, name the claim of the session with
//! [`session_claim`](crate::UpstreamTokens::session_claim), and put the tokens for an owner
//! [with this session](crate::upstream::TokenOwner::with_session).
//!
//! [`MemoryStore`](crate::MemoryStore) replaces `RedisStore` where there is only one replica.
//!
//! MCP clients read in the [metadata](crate::TokenValidator::resource_metadata) of a resource where to log in. `resource`
//! in it must be the URL that the client called (RFC 9728 §3.3), and clients then ask the issuer for a token for this URL
//! (RFC 8707). A gateway with several backends therefore has one validator for each path, with the path's URL as
//! [`resource`](crate::incoming::TokenValidatorBuilder::resource) and as
//! [`audience`](crate::incoming::TokenValidatorBuilder::audience). The validators can share their `UpstreamTokens`.
//!
//! Keep health checks of the gateway itself outside of the layer. If your users come from several issuers,
//! add the others with [`issuer`](crate::incoming::TokenValidatorBuilder::issuer).
//!
//! # 2. Carry over the identity, and few headers
//!
//! Send each outgoing request as a new request. [`forward_mcp`](crate::outgoing::forward_mcp) makes one. It carries over
//! the identity of the incoming request, and only the headers that MCP needs, in all revisions of the protocol.
//!
//! ```
//! use http::{Request, Uri};
//! use tower_identity::outgoing::forward_mcp;
//!
//! fn to_github<B>(request: Request<B>) -> Request<B> {
//!     forward_mcp(request, Uri::from_static("https://mcp.example.com/mcp"))
//! }
//! # use tower_identity::Identity;
//! # let mut request = Request::post("/github")
//! #     .header("cookie", "a=b")
//! #     .header("mcp-protocol-version", "2026-07-28")
//! #     .header("mcp-method", "tools/call")
//! #     .header("mcp-name", "search")
//! #     .header("last-event-id", "7")
//! #     .body(())
//! #     .unwrap();
//! # request.extensions_mut().insert(Identity::builder("user-1").build().unwrap());
//! # let request = to_github(request);
//! # assert_eq!(request.headers().len(), 4);
//! # assert!(request.extensions().get::<Identity>().is_some());
//! ```
//!
//! For another protocol than MCP, copy the identity and the headers that the backend needs. Do not forward these:
//!
//! - `Host` names your gateway, so [`AuthLayer`](crate::AuthLayer) refuses the request.
//! - `Authorization` holds the token that was meant for you, and `DPoP` the proof for it. The validator removes both.
//! - `Cookie` belongs to your gateway.
//!
//! # 3. One client for each backend, one service for each session
//!
//! Build the backend's client and its [`AuthLayer`](crate::AuthLayer) once. When a session begins, wrap a clone of it
//! in the layers that belong to the session:
//!
//! ```
//! use tower::Layer;
//! use tower_identity::{
//!     BindSubject, FallbackPolicy, Identity, IdentityLayer,
//!     incoming::BindSubjectService, outgoing::IdentityService,
//! };
//!
//! type Session<S> = IdentityService<BindSubjectService<S>>;
//!
//! fn open<S: Clone>(user: &Identity, backend: &S) -> Session<S> {
//!     let captured = IdentityLayer::new(user.clone())
//!         .fallback(FallbackPolicy::teardown())
//!         .follow_requests();
//!     let bound = BindSubject::to(user.clone());
//!     captured.layer(bound.layer(backend.clone()))
//! }
//! # let _ = open::<()>;
//! ```
//!
//! - Keep the sessions in a bounded map that forgets idle sessions. Its key is the backend's name and the
//!   `Mcp-Session-Id` that the backend assigned.
//! - Clients of MCP's revision 2026-07-28 have no sessions. Their requests have no `Mcp-Session-Id`, and each carries all
//!   that it needs. The gateway treats each like the first request of a session that the backend does not open.
//! - [`BindSubject`](crate::BindSubject) refuses a caller who knows the id of another user's session.
//! - Each call carries its own identity, so the captured identity is only for requests that the gateway sends by
//!   itself. If that is only the `DELETE`, use [`teardown`](crate::FallbackPolicy::teardown). For other gateways, see
//!   [which policy fits which client](crate::IdentityLayer#which-policy-fits-which-client).
//! - [`follow_requests`](crate::IdentityLayer::follow_requests) replaces the captured identity by the newest identity
//!   of the same user that a request carried. Thus a `DELETE` hours into the session goes out with a valid token.
//!
//! # 4. Send each backend the credential that it wants
//!
//! | the backend wants | strategy | `type` in the configuration |
//! | --- | --- | --- |
//! | the user's own token of a provider, as a bearer token or in another header | [`UpstreamInject`](crate::UpstreamInject) with a [`Placement`](crate::Placement) | `upstream_inject` |
//! | a token that is issued for it, for the user | [`TokenExchange`](crate::TokenExchange), [`OnBehalfOf`](crate::OnBehalfOf) or [`CrossAppAccess`](crate::CrossAppAccess) | `token_exchange`, `obo`, `xaa` |
//! | a token of the gateway, the same for all users | [`ClientCredentials`](crate::ClientCredentials) | `client_credentials` |
//! | a statement of who the user is, from a gateway that it trusts | [`SignedIdentity`](crate::SignedIdentity), with its keys published on one of your routes | `signed_identity` |
//! | the user's name and groups in headers, on a network that it trusts | [`ClaimInjection`](crate::ClaimInjection) | `claim_injection` |
//! | an API key | [`HeaderInjection`](crate::HeaderInjection) | `header_injection` |
//! | two of these | [`Both`](crate::strategy::Both) | `both` |
//!
//! The gateway needs no stored secret at the issuers. In Kubernetes, the projected token of the pod is the client's
//! assertion ([`ClientAuth::assertion`](crate::ClientAuth::assertion)), or the grant itself
//! ([`workload_token`](crate::strategy::ClientCredentialsBuilder::workload_token)). A key in a KMS or an HSM signs through
//! [`JwtSigner`](crate::oauth::JwtSigner). The configuration has keys for
//! [all but the KMS](crate::OutgoingAuthConfig#credentials-without-a-stored-secret).
//!
//! # 5. Answer errors
//!
//! ```
//! use bytes::Bytes;
//! use http::{Response, StatusCode};
//! use http_body_util::Full;
//! use tower::BoxError;
//! use tower_identity::{AuthError, incoming::McpRequest};
//!
//! fn answer(message: &[u8], error: BoxError) -> Response<Full<Bytes>> {
//!     match (AuthError::find_in(&*error), McpRequest::read(message)) {
//!         (Some(error), Some(request)) => request.answer(error),
//!         (Some(error), None) => error.to_response(),
//!         (None, _) => {
//!             let mut response = Response::default();
//!             *response.status_mut() = StatusCode::BAD_GATEWAY;
//!             response
//!         }
//!     }
//! }
//! # use tower_identity::AuthErrorKind;
//! # let error = AuthError::new(AuthErrorKind::Unavailable, "the issuer is down");
//! # let call = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#;
//! # assert_eq!(answer(call, error.into()).status(), StatusCode::SERVICE_UNAVAILABLE);
//! ```
//!
//! The answer reveals nothing internal to the caller, so write the error to your log. Answer beneath the
//! [`TokenValidatorLayer`](crate::TokenValidatorLayer): it completes the challenge of a 401 or 403 with
//! `resource_metadata`, without which an MCP client does not find out where to log in. Where you answer outside of the
//! layer, pass the error through [`TokenValidator::challenge`](crate::TokenValidator::challenge) first. Do not relay a
//! backend's 401 with its challenge, because it is about the gateway's credential for that backend. Answer with an
//! error of the gateway instead, which says who can help: `Configuration` where the credential is the gateway's own,
//! [`Interaction::link_account`](crate::Interaction::link_account) where it is the token of an account that the user
//! links, and `Rejected` where a login brings another one.
//!
//! If the user must act, [`McpRequest::answer`](crate::incoming::McpRequest::answer) says so in MCP's form. To link an
//! account, a client that can show a URL gets the URL: in the error −32042, or since 2026-07-28 in a result after which it
//! repeats the call. Up to 2025-11-25 a client says that it can only in `initialize`, so keep
//! [`shows_urls`](crate::incoming::McpRequest::shows_urls) with the session. Others get the URL in the words of an error.
//! Where a login helps, all get the challenge, which tells where to log in and with which scope. A gateway that is an
//! rmcp server itself answers with [`mcp_error`](crate::client::rmcp::mcp_error).
//!
//! The URL of [`AccountLinking`](crate::AccountLinking) links the account to the user who visits it and logs in there, and
//! the next call has the identity that comes with it. So whoever else opens the URL changes nothing for the user who was
//! sent.
//!
//! # 6. Stream
//!
//! The layers pass bodies through. Do not buffer those of responses. The example reads a request's message, which is
//! small, in order to send it again when a credential is rejected, and to answer it as above. Set timeouts for the head
//! of a response, not for its body, because an event stream stays open for hours. [`AwsSts`](crate::AwsSts) is the
//! exception: it buffers the request's body in order to sign it.
//!
//! # 7. Shut down
//!
//! 1. Accept no new connections.
//! 2. Send the `DELETE` of each open session. No caller asked for it, so the session's identity fills the gap.
//! 3. Give running requests some time to finish.
//!
//! # Next steps
//!
//! - [Test it](crate::guide::test_your_gateway) without network, in milliseconds.
//! - Read the backends from a file: [`config`](crate::config).
//! - [Run several replicas](crate::guide::replicas).
//! - Watch spans and metrics: [`telemetry`](crate::telemetry).
//! - `cargo run --all-features --example gateway` runs the gateway with an identity provider, two MCP backends and a
//!   client in one process. It prints a table of a user's day: a login, seventeen tool calls with and without sessions, two
//!   token expiries, a revoked refresh token, a tampered redirect and a teardown.
//! - With `-- --demo` it starts the same world and waits for a browser: log in, link an account, unlink it. The pages
//!   are in `examples/gateway/pages.rs`, on top of [`AccountLinking`](crate::AccountLinking).
//! - With `-- --serve 127.0.0.1:8080 --config examples/gateway/gateway.yaml` it only serves. The environment must have
//!   the secrets that the file names.
