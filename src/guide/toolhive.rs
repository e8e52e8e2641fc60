//! Move from ToolHive.
//!
//! This crate reads your vMCP's file unchanged, as a [`VmcpConfig`](crate::config::VmcpConfig): the same keys, and the
//! same values of `type`. The documentation of [`OutgoingAuthConfig`](crate::OutgoingAuthConfig#coming-from-toolhive)
//! lists the differences of each type. If your application reads another file, let it contain the block `outgoingAuth`
//! alone, and read it as an [`OutgoingAuthConfig`](crate::OutgoingAuthConfig).
//!
//! # A file in, a router out
//!
//! `examples/toolhive` is a complete program:
//!
//! ```sh
//! cargo run --all-features --example toolhive -- vmcp.yaml 127.0.0.1:4483
//! ```
//!
//! It serves the backend `github` at `/github/mcp`, and needs the features `axum`, `config`, `hyper` and `incoming`. A test
//! of this crate runs it with an OpenID provider, so it is not only an illustration. This is the whole of it, apart from
//! `main`:
//!
//! ```no_run
#![doc = include_str!("../../examples/toolhive/gateway.rs")]
//! # fn main() {}
//! ```
//!
//! ToolHive looks up the workloads of a `groupRef`. This crate does not: add them to
//! [`VmcpConfig::backends`](crate::config::VmcpConfig::backends), if the file does not list them. Tools are not merged, so
//! each backend keeps its own endpoint. Backends at plain `http` in a cluster are named with
//! [`insecure_backend`](crate::config::VmcpConfig::insecure_backend).
//!
//! # What each part of the file becomes
//!
//! | key | in this crate |
//! | --- | --- |
//! | `incomingAuth.type` | `oidc`, or `anonymous` for no validator. `local` is an error: the user of the operating system is not authenticated. |
//! | `incomingAuth.oidc` | [`Vmcp::token_validator`](crate::config::Vmcp::token_validator). `resource` is the audience, if it is missing and the audience is a URL. `clientId` and `clientSecretEnv` are for `introspectionUrl`, which speaks RFC 7662: the endpoints of Google and GitHub, for which ToolHive has other protocols, are errors. The keys with `AllowPrivateIp` make no difference: the HTTP client decides which addresses it connects to. |
//! | `incomingAuth.authz` | An error, until the application [says that it enforces the policies](crate::config::VmcpConfig::handled_by_application). |
//! | `outgoingAuth` | [`VmcpBackend::auth_layer`](crate::config::VmcpBackend::auth_layer) |
//! | `passthroughHeaders` | [`VmcpBackend::header_forward_layer`](crate::config::VmcpBackend::header_forward_layer) |
//! | `backends[].caBundlePath` | [`VmcpBackend::https_client`](crate::config::VmcpBackend::https_client), or [`ca_bundle`](crate::config::VmcpBackend::ca_bundle) for another client. The file is read when the configuration is built. |
//! | `rateLimiting` | An error, until the application says that it enforces the limits. |
//! | all others | In [`Vmcp::unread`](crate::config::Vmcp::unread), with the reason, and in a warning in the log. |
//!
//! # Names
//!
//! | ToolHive | this crate |
//! | --- | --- |
//! | `Config`, `YAMLLoader` | [`VmcpConfig`](crate::config::VmcpConfig), read by a parser of your choice |
//! | `NewIncomingAuthMiddleware` | [`VmcpConfig::build`](crate::config::VmcpConfig::build), then [`Vmcp::token_validator`](crate::config::Vmcp::token_validator) |
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
//! # The block `outgoingAuth` alone, step by step
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
//! The keys and their meaning are those of ToolHive, except where its behaviour is unsafe or surprising.
//!
//! | about | in this crate | reason |
//! | --- | --- | --- |
//! | sessions | A captured identity never replaces the identity of a request. | The copy is older than the request. This is the purpose of the crate. |
//! | addresses | A layer is bound to an origin. It refuses a redirect, a route or a `Host` header that leads elsewhere. | The credential of one backend must not go to another. |
//! | backends without a configuration | They are an error. | Their requests would be sent unauthenticated. |
//! | the file | Loading reports all faults at once. These are faults: a secret by value and by variable, a block of another type, a backend that is `null`, a secret with a placeholder such as `${TOKEN}`. | The intention is not clear, so it is not guessed. |
//! | token endpoints | Each needs https, or http on loopback. A key allows http for `targetTokenUrl`. Redirects are not followed. | They get the users' tokens and the client's secret. |
//! | the client | It authenticates in the configured way only. An id without a secret is sent, too. | A second attempt would send the secret in another place. A public client must identify itself (RFC 6749 §3.2.1). |
//! | `subjectTokenType: id_token` | The upstream provider's ID token is sent. | ToolHive sends the access token under this label. |
//! | issued tokens | A token is sent as a bearer token only if `token_type` is `Bearer`, in any case, and `issued_token_type` is one that can be. | Other tokens are not for that use (RFC 8693 §2.2.1). |
//! | lifetimes | With an `expires_in` of 0, less, or `null`, a token is used once and not kept. `3600.0` and `"3600"` are an hour. | None of these means that the token never expires. |
//! | roles | A claim that is a string matches as a list of one. Mappings of one priority keep their order. If a matcher fails, there is no fallback role, unless `fallbackAfterFailedMatcher` is true. | A matcher that fails must not widen rights. |
//! | session names | A name that AWS does not accept is an error, unless `replaceUnfitSessionNames` is true. | Two users could get one name. |
//! | cross-app access | `exp`, `iss` and `aud` of the assertion are checked. `scopes` go to the identity provider, and `targetScopes` to the authorization server. | An assertion for another party must not be passed on. The two servers may know different scopes. |
//! | headers | [Restricted names](crate::HeaderForwardLayer#restricted-names) are neither injected (except `authorization`) nor forwarded. If a client sends such a header, the header is dropped, and the call goes on. | They belong to the connection, the session or the credential. |
//! | incoming tokens | `bearer` is matched in any case. A request without a token gets a 401 without an error code. An issuer or a store that does not answer causes a 503 with `Retry-After`, and not a 401. | RFC 9110 §11.1, RFC 6750 §3.1. A login does not end an outage. |
//! | upstream tokens | They belong to a user: an issuer and a subject. A refresh that was refused asks for a login, and one that merely failed is a 503. | Issuers may use the same session id twice. A login does not end an outage. |
//! | Kubernetes | The crate does not discover backends, and does not read `externalAuthConfigRef` and `clientSecretRef`. | It is a library, and has no client for Kubernetes. |
