//! Move from ToolHive.
//!
//! This crate reads the `outgoingAuth` block of your configuration unchanged: it has the same keys and the same values
//! of `type`. The documentation of [`OutgoingAuthConfig`](crate::OutgoingAuthConfig#coming-from-toolhive) lists the
//! differences of each type.
//!
//! | ToolHive | this crate |
//! | --- | --- |
//! | `OutgoingAuthConfig` | [`OutgoingAuthConfig`](crate::OutgoingAuthConfig) |
//! | `BackendAuthStrategy` | [`BackendAuthConfig`](crate::BackendAuthConfig) |
//! | `NewOutgoingAuthRegistry(ctx, env)` | [`Resources::builder(client)`](crate::config::Resources::builder)`.build()?` |
//! | `InjectSubjectProviderNames`, and the check that a provider exists | [`.upstream_providers(names)`](crate::config::ResourcesBuilder::upstream_providers) on that builder |
//! | `registry.RegisterStrategy(name, s)` | [`.strategy(name, s)`](crate::config::ResourcesBuilder::strategy) on that builder |
//! | `ResolveForBackend(id)` and the `authRoundTripper` | [`auth.layer_for(id, origin, &resources)?`](crate::OutgoingAuthConfig::layer_for) |
//! | `DefaultValidator`, `thv vmcp validate` | [`auth.check(&resources)?`](crate::OutgoingAuthConfig::check) |
//! | a restart after a change | [`LiveOutgoingAuth::replace`](crate::config::LiveOutgoingAuth::replace) |
//! | the strategy `unauthenticated` | [`Unauthenticated`](crate::Unauthenticated) |
//! | `header_injection` | [`HeaderInjection`](crate::HeaderInjection) |
//! | `token_exchange` | [`TokenExchange`](crate::TokenExchange) |
//! | `upstream_inject` | [`UpstreamInject`](crate::UpstreamInject) |
//! | `aws_sts` | [`AwsSts`](crate::AwsSts) |
//! | `obo` | [`OnBehalfOf`](crate::OnBehalfOf) |
//! | `xaa` | [`CrossAppAccess`](crate::CrossAppAccess) |
//! | `auth.Identity` | [`Identity`](crate::Identity) |
//! | `identity.UpstreamTokens[p]` | [`identity.upstream(p)`](crate::Identity::upstream), and its [`access_token()`](crate::UpstreamToken::access_token) |
//! | `identity.UpstreamIDTokens[p]` | [`identity.upstream(p)`](crate::Identity::upstream), and its [`id_token()`](crate::UpstreamToken::id_token) |
//! | upstream tokens by the claim `tsid` | [`UpstreamTokens::session_claim("tsid")`](crate::UpstreamTokens::session_claim). Without it they are found by issuer and subject |
//! | the session's captured identity, `identityRoundTripper` | [`IdentityLayer::new(identity)`](crate::IdentityLayer)`.fallback(…)` |
//! | `WithHealthCheckMarker`, `IsHealthCheck` | [`HealthCheck`](crate::HealthCheck) in the request's extensions |
//!
//! # Step by step
//!
//! 1. Read the file with a parser of your choice. Then [check](crate::OutgoingAuthConfig::check) it: the error lists
//!    all faults of all backends, each with the backend and the key.
//! 2. Keep one [`Resources`](crate::config::Resources) for the life of the process, because it holds the cached
//!    credentials.
//! 3. Build a layer for each backend, with the origin that its credentials are for.
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
//! // Without snippets: an error would quote the lines around it, with secrets.
//! let options = serde_saphyr::options! { with_snippet: false };
//! let auth: OutgoingAuthConfig = serde_saphyr::from_str_with_options(
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
//!     options,
//! )?;
//! let token_client = https_client::<Full<Bytes>>()?;
//! let resources = Resources::<Full<Bytes>>::builder(token_client)
//!     .strategy("our_own", Unauthenticated)
//!     .build()?;
//! auth.check(&resources)?;
//!
//! let origin = Origin::try_from("https://mcp.example.com")?;
//! let layer: AuthLayer<Arc<dyn Strategy<Full<Bytes>>>> =
//!     auth.layer_for("github", origin.clone(), &resources)?;
//!
//! // Or, if the file may change while requests are running:
//! let live = LiveOutgoingAuth::new(auth.clone(), resources)?;
//! let live_layer = live.layer_for("github", origin)?;
//! live.replace(auth)?;
//! # let _ = (layer, live_layer);
//! # Ok(())
//! # }
//! ```
//!
//! # Intended differences
//!
//! - A captured identity never replaces the identity of a request. This is the purpose of the crate.
//! - A layer is bound to an origin. A redirect, a route or a `Host` header that leads elsewhere is refused.
//! - A backend without a configuration is an error. Its requests are not sent unauthenticated.
//! - The crate does not discover backends in Kubernetes. It does not read `externalAuthConfigRef` and
//!   `clientSecretRef`.
