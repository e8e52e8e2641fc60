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
//! # Next steps
//!
//! - See [which request carries which identity](crate::client::rmcp::TowerHttpClient#whose-identity-a-request-carries).
//! - See [which error of the SDK each status becomes](crate::client::rmcp::TowerHttpClient#errors).
//! - Do not set the transport's own `auth_header`, because the strategy replaces it.
//! - `cargo run --all-features --example session_refresh` shows a session whose token is refreshed twice. With `--
//!   --stale` it shows what happens if a captured identity wins.
