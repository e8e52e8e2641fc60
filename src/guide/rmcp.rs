//! Add the layers to an MCP client of the Rust SDK (`rmcp`).
//!
//! ```toml
//! tower-identity = { version = "0.1", features = ["hyper", "rmcp"] }
//! rmcp = { version = "3.11", features = [
//!     "client", "transport-streamable-http-client",
//! ] }
//! ```
//!
//! # 1. Build a stack for the session
//!
//! The SDK sends many requests by itself: the handshake, the event stream and its reconnects, answers to the server,
//! and the `DELETE` that ends the session. These requests carry no identity, so [`IdentityLayer`](crate::IdentityLayer)
//! gives them that of the session. They are often sent hours after the login. Therefore let the session
//! [follow](crate::IdentityLayer::follow_requests) its user's requests, so that it holds their newest token.
//!
//! # 2. Give the stack to the transport
//!
//! [`TowerHttpClient`](crate::client::rmcp::TowerHttpClient) replaces the SDK's own HTTP client. The rest of your code
//! does not change: `serve` returns a `RunningService`, as before.
//!
//! # 3. Make calls with the user's current identity
//!
//! The SDK's own `call_tool` carries no identity. Use [`call_tool_as`](crate::client::rmcp::SendAs::call_tool_as), or
//! [`send_request_as`](crate::client::rmcp::SendAs::send_request_as) for other requests.
//!
//! ```no_run
//! use rmcp::{
//!     ServiceExt, model::CallToolRequestParams,
//!     transport::{
//!         StreamableHttpClientTransport as Transport,
//!         streamable_http_client::StreamableHttpClientTransportConfig,
//!     },
//! };
//! use tower::{BoxError, ServiceBuilder};
//! use tower_identity::{
//!     AuthError, AuthErrorKind, AuthLayer, Identity, IdentityLayer, Origin,
//!     UpstreamInject,
//!     client::{hyper::https_client, rmcp::{SendAs, TowerHttpClient}},
//! };
//!
//! async fn session(login: Identity, current: Identity) -> Result<(), BoxError> {
//!     let origin = Origin::try_from("https://mcp.example.com")?;
//!     let stack = ServiceBuilder::new()
//!         .layer(IdentityLayer::new(login).follow_requests())
//!         .layer(AuthLayer::new(origin, UpstreamInject::new("github")?))
//!         .service(https_client()?);
//!     let config = StreamableHttpClientTransportConfig::with_uri(
//!         "https://mcp.example.com/mcp",
//!     );
//!     let client = TowerHttpClient::new(stack);
//!     let session = ().serve(Transport::with_client(client, config)).await?;
//!
//!     let search = CallToolRequestParams::new("search");
//!     match session.call_tool_as(current, search).await {
//!         Ok(result) => println!("{result:?}"),
//!         Err(error) => match AuthError::find_in(&error).map(AuthError::kind) {
//!             Some(AuthErrorKind::Expired | AuthErrorKind::Rejected) => {
//!                 println!("log in again");
//!             }
//!             _ => return Err(error.into()),
//!         },
//!     }
//!     session.cancel().await?;
//!     Ok(())
//! }
//! ```
//!
//! # 4. If several users share one session
//!
//! Use [`FallbackPolicy::never`](crate::FallbackPolicy::never), so that no user's identity fills a gap. Then the SDK's
//! own requests go out without a user, and need a strategy that works without one, such as
//! [`ClientCredentials`](crate::ClientCredentials). A separate session for each user is the better design.
//!
//! # 5. Serve all revisions of MCP
//!
//! The same stack works with all revisions of MCP. The `ClientLifecycleMode` of the SDK decides which one is spoken:
//!
//! | | up to 2025-11-25 | 2026-07-28 |
//! | --- | --- | --- |
//! | mode | `Initialize` (the SDK's default), or what `Auto` falls back to | `Discover`, `Auto` |
//! | what the SDK sends by itself | `initialize`, the event stream, `DELETE` | `server/discover` |
//! | whose identity a call has | its own | its own |
//! | what is kept | a session at the server: bind it to its user with [`BindSubject`](crate::BindSubject) | nothing |
//! | headers | `Mcp-Session-Id`, `Mcp-Protocol-Version` | `Mcp-Method`, `Mcp-Name`, `Mcp-Param-…`, `Mcp-Protocol-Version` |
//!
//! # 6. Calls that outlive the token
//!
//! A server checks the token when a request arrives, and not while it answers. So a call that reports progress for an hour,
//! or a `subscriptions/listen`, goes on when its token has expired, unless the server ends it. Then the following happens:
//!
//! - The server closes the event stream of the call. If the stream had event ids, the SDK resumes it with a `GET`, which
//!   carries no identity. [`IdentityLayer`](crate::IdentityLayer) gives it the session's, so let the session
//!   [follow](crate::IdentityLayer::follow_requests) its user, and it is resumed with the newest token.
//! - Otherwise, and always since 2026-07-28, the call fails with `TransportClosed`. Make it again with the current identity.
//!   A subscription ends, and is made again: it tells what changes from then on, so read the state once after it was made.
//!   The SDK's `listen` sends no identity, so it goes out with that of a session that follows its user.
//! - A server that answers the `GET` with 401 is not asked again. The call fails, and the next call shows whether the user
//!   has to log in.
//!
//! A server that is silent for longer than the
//! [`answer_timeout`](crate::client::rmcp::TowerHttpClient::answer_timeout) loses the call. Raise it for servers that send
//! nothing while they work. Whatever a server sends meanwhile, a call ends after the
//! [`call_timeout`](crate::client::rmcp::TowerHttpClient::call_timeout), by default an hour. Raise it for calls that take
//! longer. A subscription has no such limit.
//!
//! # 7. Tell the user what to do
//!
//! If a server asks for more scope, [`AuthLayer::step_up`](crate::AuthLayer#step-up) obtains it without the user, as
//! far as you allow. In a configuration file the key is `stepUpScopes`. If the user has to act,
//! [`mcp_error`](crate::client::rmcp::mcp_error) turns the error into MCP's own form for your client: a URL to visit
//! (error −32042), or words. Since 2026-07-28 [`input_required`](crate::client::rmcp::input_required) makes a result of
//! it, after which the client repeats the call.
//!
//! # 8. Other MCP SDKs
//!
//! The clients of the following SDKs have reqwest built in. They take neither a Tower stack nor an identity for each call,
//! so the layers do not fit beneath them. They ask a function for the token:
//!
//! | SDK | its function | with this crate |
//! | --- | --- | --- |
//! | `tower-mcp` 0.25 | `TokenProvider::get_token` (feature `oauth-client`), which may wait | `bearer_token` as below |
//! | `rust-mcp-sdk` 2.0 | `request_header_provider`, which cannot wait | a token that needs no request, such as that of [`UpstreamInject`](crate::UpstreamInject) |
//!
//! ```
//! use http::{Request, header::AUTHORIZATION};
//! use tower_identity::{AuthError, AuthErrorKind, Identity, Strategy};
//!
//! async fn bearer_token(
//!     strategy: &impl Strategy<()>,
//!     user: Identity,
//! ) -> Result<String, AuthError> {
//!     let mut request = Request::new(());
//!     request.extensions_mut().insert(user);
//!     let authenticating = strategy.authenticate(&mut request);
//!     let request = authenticating.complete(request).await?;
//!     let value = request.headers().get(AUTHORIZATION);
//!     let token = value
//!         .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
//!     token.map(str::to_owned).ok_or_else(|| {
//!         let message = "the strategy sends no bearer token";
//!         AuthError::new(AuthErrorKind::Configuration, message)
//!     })
//! }
//! # use tower_identity::{UpstreamInject, testing::identity};
//! # let alice = identity("alice", [("github", "gho_16C7e42F292c")]);
//! # let github = UpstreamInject::new("github")?;
//! # let token = bearer_token(&github, alice);
//! # let token = futures_util::FutureExt::now_or_never(token).unwrap()?;
//! # assert_eq!(token, "gho_16C7e42F292c");
//! # Ok::<(), tower::BoxError>(())
//! ```
//!
//! Open one client for each user, and let the function read the user's newest identity. The promises of the layers do
//! not hold there: no origin is checked, and no rejected request is sent again. Give the client the URL that the
//! strategy is for, and turn redirects off.
//!
//! The server of `tower-mcp` fits as it is. Put [`TokenValidatorLayer`](crate::TokenValidatorLayer) around the
//! `axum::Router` of its `HttpTransport`, and call two methods of the transport. `bridge_extension::<Identity>()`
//! gives the tools the identity. `session_principal_from_extension` binds a session to its user, by issuer and subject, as
//! [`BindSubject`](crate::BindSubject) does.
//!
//! # Next steps
//!
//! - See [which request carries which identity](crate::client::rmcp::TowerHttpClient#whose-identity-a-request-carries).
//! - See [which error of the SDK each status becomes](crate::client::rmcp::TowerHttpClient#errors).
//! - Do not set the transport's own `auth_header`, because the strategy replaces it.
//! - `cargo run --all-features --example session_refresh` shows a session whose token is refreshed twice. With `--
//!   --stale` it shows what happens if a captured identity wins.
