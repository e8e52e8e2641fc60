//! I come from ToolHive.
//!
//! The block `outgoingAuth` of your configuration is read as it is: the same keys, the same `type`s. What differs is
//! [listed with each type](crate::config#coming-from-toolhive).
//!
//! | ToolHive | here |
//! | --- | --- |
//! | `OutgoingAuthConfig` | [`OutgoingAuthConfig`](crate::OutgoingAuthConfig) |
//! | `BackendAuthStrategy` | [`BackendAuthConfig`](crate::BackendAuthConfig) |
//! | `NewOutgoingAuthRegistry(ctx, env)` | [`Resources::builder(client)`](crate::config::Resources::builder)`.build()?` |
//! | `registry.RegisterStrategy(name, s)` | [`.strategy(name, s)`](crate::config::ResourcesBuilder::strategy) on that builder |
//! | `ResolveForBackend(id)` and the `authRoundTripper` | [`auth.layer_for(id, origin, &resources)?`](crate::OutgoingAuthConfig::layer_for) |
//! | `DefaultValidator`, `thv vmcp validate` | [`auth.check(&resources)?`](crate::OutgoingAuthConfig::check) |
//! | a restart, to change it | [`LiveOutgoingAuth::replace`](crate::config::LiveOutgoingAuth::replace) |
//! | the strategy `unauthenticated` | [`Unauthenticated`](crate::Unauthenticated) |
//! | `header_injection` | [`HeaderInjection`](crate::HeaderInjection) |
//! | `token_exchange` | [`TokenExchange`](crate::TokenExchange) |
//! | `upstream_inject` | [`UpstreamInject`](crate::UpstreamInject) |
//! | `aws_sts` | [`AwsSts`](crate::AwsSts) |
//! | `obo` | [`OnBehalfOf`](crate::OnBehalfOf) |
//! | `xaa` | [`CrossAppAccess`](crate::CrossAppAccess) |
//! | `auth.Identity` | [`Identity`](crate::Identity) |
//! | `identity.UpstreamTokens[p]` | [`identity.upstream(p)`](crate::Identity::upstream), and its [`access_token()`](crate::UpstreamToken::access_token) |
//! | `identity.UpstreamIDTokens[p]` | the same, and its [`id_token()`](crate::UpstreamToken::id_token) |
//! | the identity that a session captured, `identityRoundTripper` | [`IdentityLayer::new(identity)`](crate::IdentityLayer)`.fallback(…)` |
//! | `WithHealthCheckMarker`, `IsHealthCheck` | [`HealthCheck`](crate::HealthCheck) in the request's extensions |
//!
//! # Step by step
//!
//! 1. Read the file with a parser of your choice, and [check](crate::OutgoingAuthConfig::check) it: all faults of all
//!    backends are told at once, each with the backend and the member.
//! 2. Keep one [`Resources`](crate::config::Resources) for as long as you run: credentials are kept there.
//! 3. Ask for a layer for each backend, with the origin that its credentials may go to.
//!
//! ```
//! use std::sync::Arc;
//!
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use tower::BoxError;
//! use tower_identity::{
//!     AuthLayer, Origin, OutgoingAuthConfig, Strategy, Unauthenticated,
//!     client::hyper::https_client, config::{LiveOutgoingAuth, Resources},
//! };
//!
//! # fn main() -> Result<(), BoxError> {
//! let auth: OutgoingAuthConfig = serde_saphyr::from_str(
//!     r#"
//!     source: inline
//!     backends:
//!       github:
//!         type: upstream_inject
//!         upstreamInject:
//!           providerName: github
//!       internal:
//!         type: our_own
//!     "#,
//! )?;
//! let resources = Resources::<Full<Bytes>>::builder(https_client::<Full<Bytes>>()?)
//!     .strategy("our_own", Unauthenticated)
//!     .build()?;
//! auth.check(&resources)?;
//!
//! let origin = Origin::try_from("https://mcp.example.com")?;
//! let layer: AuthLayer<Arc<dyn Strategy<Full<Bytes>>>> = auth.layer_for("github", origin.clone(), &resources)?;
//!
//! // Or, where the file may change while requests are under way:
//! let live = LiveOutgoingAuth::new(auth.clone(), resources)?;
//! let layer_that_follows = live.layer_for("github", origin)?;
//! live.replace(auth)?;
//! # let _ = (layer, layer_that_follows);
//! # Ok(())
//! # }
//! ```
//!
//! # What is different on purpose
//!
//! - A captured identity never replaces the one of a request. This is what the crate is for.
//! - A layer is bound to an origin. A redirect, a route or a `Host` header that leads elsewhere is refused.
//! - A backend that no configuration covers is an error, and not unauthenticated.
//! - Discovery in Kubernetes is yours: `externalAuthConfigRef` and `clientSecretRef` are not read.
