//! I have an MCP client of the Rust SDK (`rmcp`).
//!
//! # 1. Build a stack for the session
//!
//! The SDK sends much by itself: the handshake, the event stream and its reconnects, answers to the server, the `DELETE`.
//! No user asked for these, so the session's identity is used. They are sent long after log-in, so let it
//! [follow](crate::IdentityLayer::follow_requests) the requests of its user.
//!
//! # 2. Give it to the transport
//!
//! [`TowerHttpClient`](crate::client::rmcp::TowerHttpClient) takes the place of the SDK's own HTTP client. The rest of your
//! code stays: a `RunningService` comes out of `serve`, as before.
//!
//! # 3. Make calls as the user of the moment
//!
//! The SDK's `call_tool` carries no identity. [`call_tool_as`](crate::client::rmcp::SendAs::call_tool_as) and
//! [`send_request_as`](crate::client::rmcp::SendAs::send_request_as) do.
//!
//! ```no_run
//! use rmcp::{ServiceExt, model::CallToolRequestParams, transport::StreamableHttpClientTransport};
//! use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
//! use tower::{BoxError, ServiceBuilder};
//! use tower_identity::client::{hyper::https_client, rmcp::{SendAs, TowerHttpClient}};
//! use tower_identity::{
//!     AuthError, AuthErrorKind, AuthLayer, Identity, IdentityLayer, Origin,
//!     UpstreamInject,
//! };
//!
//! async fn session(at_log_in: Identity, of_this_call: Identity) -> Result<(), BoxError> {
//!     let stack = ServiceBuilder::new()
//!         .layer(IdentityLayer::new(at_log_in).follow_requests())
//!         .layer(AuthLayer::new(Origin::try_from("https://mcp.example.com")?, UpstreamInject::new("github")?))
//!         .service(https_client()?);
//!     let config = StreamableHttpClientTransportConfig::with_uri("https://mcp.example.com/mcp");
//!     let transport = StreamableHttpClientTransport::with_client(TowerHttpClient::new(stack), config);
//!     let session = ().serve(transport).await?;
//!
//!     match session.call_tool_as(of_this_call, CallToolRequestParams::new("search")).await {
//!         Ok(result) => println!("{result:?}"),
//!         Err(error) => match AuthError::find_in(&error).map(AuthError::kind) {
//!             Some(AuthErrorKind::Expired | AuthErrorKind::Rejected) => println!("log in again"),
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
//! Then nobody's identity may fill a gap: [`FallbackPolicy::never`](crate::FallbackPolicy::never). The SDK's own requests
//! go out without a user, so they need a strategy that wants none; a session for each user is the better design.
//!
//! # Go on
//!
//! - [Whose identity goes where](crate::client::rmcp#whose-identity-goes-where), request by request.
//! - A server that refuses is an error of the SDK: [which status becomes which](crate::client::rmcp#refusals).
//! - Do not set the transport's own `auth_header`: the strategy replaces it.
//! - `cargo run --all-features --example session_refresh` shows a session whose token is refreshed twice, and with
//!   `--stale` what happens where a captured identity wins.
