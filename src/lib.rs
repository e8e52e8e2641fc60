//! Tower middleware for the authentication of outgoing requests: it sends the right user's OAuth token, or another
//! credential, from a gateway or an MCP client to a backend.
//!
//! A gateway opens a session for a user and keeps a copy of the user's identity. Hours later the copy is stale, while
//! each incoming request carries freshly refreshed tokens. A transport that injects the copy undoes every refresh, and
//! the user has to log in again about once a day.
//!
//! With this crate the request's own identity always wins, the session's identity only fills gaps, and a credential is
//! only sent to the origin that it is for.
//!
//! ```no_run
//! # #[cfg(feature = "hyper")]
//! # async fn example() -> Result<(), tower::BoxError> {
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::Full;
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! use tower_identity::{
//!     AccessToken, AuthLayer, FallbackPolicy, Identity, IdentityLayer, Origin,
//!     UpstreamInject, UpstreamToken, client::hyper::https_client,
//! };
//!
//! # let session_identity = Identity::builder("user-1").build()?;
//! // Once for each session: a stack around an HTTP client.
//! let origin = Origin::try_from("https://mcp.example.com")?;
//! let captured = IdentityLayer::new(session_identity)
//!     .fallback(FallbackPolicy::teardown());
//! let mut client = ServiceBuilder::new()
//!     .layer(captured)
//!     .layer(AuthLayer::new(origin, UpstreamInject::new("github")?))
//!     .service(https_client::<Full<Bytes>>()?);
//!
//! // For each request: the identity with the user's newest token.
//! let github = UpstreamToken::new(AccessToken::new("gho_16C7e42F292c")?);
//! let identity = Identity::builder("user-1")
//!     .issuer("https://idp.example.com")
//!     .upstream("github", github)
//!     .build()?;
//! let mut request = Request::post("https://mcp.example.com/mcp")
//!     .body(Full::from("{}"))?;
//! request.extensions_mut().insert(identity);
//! let response = client.ready().await?.call(request).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # The path of a request
//!
//! ```text
//! a request arrives
//!   TokenValidatorLayer      validates the caller's token, adds an Identity
//!    └▶ your service         sends requests that carry this Identity
//!
//! a request leaves
//!   IdentityLayer            the request's identity wins over the session's
//!    └▶ HeaderForwardLayer   (optional) adds headers that the backend wants
//!        └▶ AuthLayer        checks the origin, adds the credential
//!            └▶ HTTP client  hyper, reqwest, or any other tower Service
//! ```
//!
//! The [`Identity`] travels in the request's extensions. A [`Strategy`] turns it into a credential, such as the user's
//! own token or one exchanged for it.
//!
//! # Types
//!
//! | type | purpose |
//! | --- | --- |
//! | **A request arrives** | feature `incoming` |
//! | [`TokenValidatorLayer`] | Turns the caller's token into an `Identity`, or answers 401. |
//! | [`TokenValidator`] | Validates the tokens of one or several issuers: JWTs, and opaque tokens by introspection. |
//! | [`KeySet`] | The issuer's signing keys, where they are not fetched from the issuer. |
//! | [`IntrospectionEndpoint`] | Asks the issuer about an opaque token (RFC 7662). |
//! | [`ProtectedResourceMetadata`] | Tells clients where to log in, as a service for its well-known path (RFC 9728). |
//! | [`BindSubject`] | Refuses a request of one user on the session of another. |
//! | [`delegation_chain`], [`ActingParty`] | The parties that act for the user, from the claim `act` (RFC 8693). |
//! | **Identity** | |
//! | [`Identity`], [`IdentityBuilder`] | The user a request is made for, with claims and tokens. |
//! | [`UpstreamToken`] | The user's tokens at another provider, such as GitHub. |
//! | [`AccessToken`], [`Secret`] | Secret text: validated, redacted in `Debug`, and wiped when dropped. |
//! | [`HealthCheck`] | Marks a request that is made for no user. |
//! | **A request leaves** | |
//! | [`IdentityLayer`] | Adds the session's identity to a request that has none. |
//! | [`FallbackPolicy`] | Selects the requests that may get the session's identity. |
//! | [`HeaderForwardLayer`], [`CapturedHeaders`] | Adds static headers, and headers of the caller, to requests for one origin. |
//! | [`AuthLayer`] | Checks the origin, adds the credential, and can retry a rejected request once. |
//! | [`Origin`] | The scheme, host and port that a credential is for. |
//! | **Strategies** | |
//! | [`Strategy`], [`strategy_fn`] | Turns the identity on a request into a credential: the trait, and a closure as one. |
//! | [`Authenticating`] | The result of a strategy: done, refused, or still obtaining the credential. |
//! | [`Unauthenticated`] | Adds no credential. |
//! | [`HeaderInjection`] | Sets a fixed header, such as an API key. |
//! | [`UpstreamInject`] | Sends the user's own token of an upstream provider. |
//! | [`TokenExchange`] | Exchanges one of the user's tokens for another (RFC 8693). |
//! | [`ClientCredentials`] | Sends the application's own token (RFC 6749 §4.4). |
//! | [`OnBehalfOf`] | Exchanges the user's token at Microsoft Entra. |
//! | [`CrossAppAccess`] | Gets a token of the backend's authorization server for an assertion of the user's identity provider (ID-JAG). |
//! | [`SignedIdentity`] | Sends a statement of who the user is, signed by this gateway. |
//! | [`ClaimInjection`] | Sends chosen claims of the user as headers. |
//! | [`AwsSts`], [`RoleMapping`] | Signs requests to AWS with an IAM role that the user's claims select. |
//! | [`Placement`] | Selects the header that a token is sent in. |
//! | [`Subject`], [`Actor`] | Select the tokens that an exchange sends as `subject_token` and `actor_token`. |
//! | **Obtaining and keeping credentials** | feature `token-exchange` |
//! | [`TokenEndpoint`] | Calls an OAuth token endpoint. |
//! | [`ClientAuth`] | Authenticates this application to the endpoint. |
//! | [`CredentialCache`] | Keeps a credential per user, and renews it before it expires. |
//! | **Time** | |
//! | [`Clock`], [`SystemClock`] | The trait by which all parts read the time, and the time of the system. |
//! | [`ManualClock`], [`DefaultClock`] | For tests: a clock that you move, and the clock of all parts that a test makes. |
//! | **Upstream tokens** | feature `incoming` |
//! | [`UpstreamTokens`] | Loads and refreshes the tokens that a user has at other providers. |
//! | [`UpstreamTokenStore`] | The trait for stores of these tokens. |
//! | [`MemoryStore`], [`RedisStore`] | Stores for one process, and for several replicas. |
//! | [`AccountLinking`] | Links users' accounts at other providers, for a browser. Feature `linking`. |
//! | **Configuration** | feature `config` |
//! | [`OutgoingAuthConfig`] | The strategies of all backends, from YAML or JSON with ToolHive's keys. |
//! | [`BackendAuthConfig`] | The strategy of one backend. |
//! | [`config::VmcpConfig`] | The whole file of a ToolHive vMCP: also the validator, the headers and the backends. |
//! | **Clients** | |
//! | [`client::hyper::https_client`] | A ready-made HTTPS client. |
//! | [`client::reqwest::ReqwestService`] | A `reqwest::Client` as a Tower service. |
//! | [`client::rmcp::TowerHttpClient`] | A Tower stack as the HTTP client of the MCP Rust SDK. |
//! | **Errors** | |
//! | [`AuthError`], [`AuthErrorKind`] | A request was not authenticated, and was not sent. |
//! | [`Interaction`] | The step that the user must take before a retry can succeed. |
//! | [`BuildError`], [`InvalidSetting`] | Names every wrong setting of a builder. |
//! | [`InvalidOrigin`], [`InvalidSecret`] | A string is not a valid origin, token or secret. |
//!
//! # Namespaces
//!
//! Modules hold the builders, futures and services of these types, and the following:
//!
//! | module | also contains |
//! | --- | --- |
//! | [`incoming`] | [`DpopPolicy`](incoming::DpopPolicy) accepts callers' tokens that are bound to a key, and [`ClientCertificate`](incoming::ClientCertificate) those that are bound to a certificate. [`McpRequest`](incoming::McpRequest) answers an MCP client with what its user must do. |
//! | [`outgoing`] | [`forward_mcp`](outgoing::forward_mcp) makes an outgoing MCP request of an incoming one. |
//! | [`strategy`] | [`Both`](strategy::Both) sends two credentials. For your own strategy: [`Rejection`](strategy::Rejection), its judgement of a response, and [`WiderScope`](strategy::WiderScope), a request for more scope. |
//! | [`oauth`] | Token requests and responses, and [`TokenType`](oauth::TokenType). For clients: [`PrivateKeyJwt`](oauth::PrivateKeyJwt), and [`SecretSource`](oauth::SecretSource) for secrets that are replaced. Keys that tokens are bound to: [`DpopKey`](oauth::DpopKey), [`DpopKeys`](oauth::DpopKeys). [`SigningKeys`](oauth::SigningKeys) of `SignedIdentity`. [`ResourceMetadata`](oauth::ResourceMetadata) says whose tokens a backend accepts. |
//! | [`credential`] | For your own strategy: cache keys ([`CacheScope`](credential::CacheScope), [`Fingerprint`](credential::Fingerprint)), and [`Obtained`](credential::Obtained), a credential with its lifetime. |
//! | [`upstream`] | [`Provider`](upstream::Provider) with [`RefreshTokenGrant`](upstream::RefreshTokenGrant), [`OAuthProvider`](upstream::OAuthProvider) with [`ProviderSettings`](upstream::ProviderSettings), [`SealingKey`](upstream::SealingKey), and the types for your own store or refresher. |
//! | [`upstream::linking`] | [`CodeFlow`](upstream::linking::CodeFlow), the authorization code flow for a login to your application. [`ClientMetadata`](upstream::linking::ClientMetadata), the document by which providers know the application. [`LinkError`](upstream::linking::LinkError) is the error of both. |
//! | [`config`] | [`Resources`](config::Resources), which holds what a file cannot contain, [`LiveOutgoingAuth`](config::LiveOutgoingAuth) for a configuration that is replaced while requests are running, and the block of each kind of backend. |
//! | [`client`] | Adapters for [`hyper`](client::hyper), with client certificates ([`CertificateSource`](client::hyper::CertificateSource)), for [`reqwest`](client::reqwest), and for [`rmcp`](client::rmcp), which also turns an error into MCP's own form. |
//! | [`telemetry`] | The names of spans, events and metrics. |
//! | [`testing`] | An issuer, a backend and a network in the process, for tests of your application. |
//!
//! # Promises
//!
//! 1. **The request's identity always wins.** An `Identity` in the request's extensions is never replaced or merged.
//! 2. **The fallback only fills a gap**, only where [`FallbackPolicy`] allows it, and a `tracing` event shows its use.
//! 3. **A credential has an address.** [`AuthLayer`] and [`HeaderForwardLayer`] are bound to one [`Origin`], and refuse
//!    a request for another one before any credential is obtained.
//! 4. **All or nothing.** A request whose strategy fails is not sent.
//! 5. **One user's credential never reaches another.** A cache key is made from the strategy's whole configuration and
//!    the user's token.
//! 6. **Secrets do not leak** through `Debug`, `Display`, an error and its sources, a `tracing` field, a URL or serde.
//! 7. **A cancelled caller does not disturb others.** Obtaining a credential goes on if the request that started it is
//!    cancelled.
//! 8. **No identity means no identity.** There is no empty or anonymous [`Identity`].
//!
//! The [threat model](crate::guide::security) names the tests that hold each promise.
//!
//! # Features
//!
//! The core (the layers, `HeaderInjection`, `UpstreamInject`, `ClaimInjection` and `strategy_fn`) needs no feature, few
//! dependencies, and Rust 1.88.
//!
//! | feature | adds |
//! | --- | --- |
//! | `axum` | [`Identity`] as an argument of a handler, [`AuthError`] as its error. |
//! | `token-exchange` | [`TokenEndpoint`], [`CredentialCache`], [`TokenExchange`], [`ClientCredentials`], [`OnBehalfOf`] and [`CrossAppAccess`]. |
//! | `private-key-jwt` | Client authentication with a signed assertion (RFC 7523), and [`SignedIdentity`]. Enables `token-exchange`. |
//! | `aws-sts` | [`AwsSts`]. It needs Rust 1.94.1. Enables `token-exchange`. |
//! | `dpop` | [`DpopKey`](oauth::DpopKey): tokens that are bound to a key (RFC 9449). With `incoming` also [`DpopPolicy`](incoming::DpopPolicy). Enables `private-key-jwt`. |
//! | `incoming` | [`TokenValidatorLayer`] and [`UpstreamTokens`]. Enables `token-exchange`. |
//! | `linking` | [`AccountLinking`] and [`upstream::OAuthProvider`]. Enables `incoming`. |
//! | `redis` | [`RedisStore`]. Enables `incoming`. |
//! | `config` | [`OutgoingAuthConfig`] and [`config::VmcpConfig`]. Enables `token-exchange`. |
//! | `hyper` | [`client::hyper`]. |
//! | `reqwest` | [`client::reqwest`]. |
//! | `rmcp` | [`client::rmcp`]. |
//! | `metrics` | Counters and histograms through the [`metrics`](https://docs.rs/metrics) facade, see [`telemetry`]. |
//! | `full` | All of them. It needs Rust 1.94.1. |
//! | `testing` | [`testing`], for tests only. `full` does not contain it. Enables `incoming` and `private-key-jwt`. |
//!
//! # Guides
//!
//! - Add the layers to [a hyper client](crate::guide::hyper), to [reqwest](crate::guide::reqwest), to
//!   [tonic](crate::guide::tonic), or to [an MCP client](crate::guide::rmcp).
//! - [Protect an axum API](crate::guide::axum), [write a gateway](crate::guide::gateway), [move from
//!   ToolHive](crate::guide::toolhive), or [write your own strategy](crate::guide::strategy).
//! - [Test your gateway](crate::guide::test_your_gateway) without network and without waiting.
//! - Operate it: [several replicas](crate::guide::replicas), [monitoring](crate::guide::monitoring),
//!   [troubleshooting](crate::guide::troubleshooting), [what it costs](crate::guide::cost).
//! - Trust it: [threat model](crate::guide::security), [faults of other systems](crate::guide::faults), [how the crate
//!   is tested](crate::guide::testing).

#![cfg_attr(
    not(all(feature = "full", feature = "testing")),
    allow(rustdoc::broken_intra_doc_links)
)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(test),
    deny(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

#[cfg(feature = "axum")]
mod axum;
mod bearer_challenge;
pub mod client;
mod clock;
#[cfg(feature = "config")]
pub mod config;
#[cfg(feature = "token-exchange")]
pub mod credential;
mod credential_header;
mod dpop;
mod error;
#[cfg(all(doc, feature = "full"))]
pub mod guide;
mod hop_by_hop;
mod identity;
#[cfg(feature = "incoming")]
pub mod incoming;
mod inner_service_accessors;
#[cfg(feature = "token-exchange")]
pub mod oauth;
mod origin;
pub mod outgoing;
#[cfg(feature = "token-exchange")]
mod ready_or_pending;
mod runtime;
mod secret;
mod sent_or_refused;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
pub mod strategy;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod trailers;
#[cfg(feature = "incoming")]
pub mod upstream;
mod wiped;

#[cfg(feature = "config")]
#[doc(inline)]
pub use crate::config::{backend::BackendAuthConfig, outgoing_auth::OutgoingAuthConfig};
#[cfg(feature = "aws-sts")]
#[doc(inline)]
pub use crate::strategy::aws_sts::{AwsSts, role_mapper::RoleMapping};
#[cfg(feature = "private-key-jwt")]
#[doc(inline)]
pub use crate::strategy::signed_identity::SignedIdentity;
#[cfg(feature = "linking")]
#[doc(inline)]
pub use crate::upstream::linking::account_linking::AccountLinking;
#[cfg(feature = "redis")]
#[doc(inline)]
pub use crate::upstream::store::redis::RedisStore;
#[doc(inline)]
pub use crate::{
    clock::{Clock, DefaultClock, ManualClock, SystemClock},
    error::{AuthError, AuthErrorKind, BuildError, Interaction, InvalidSetting},
    identity::{Identity, IdentityBuilder, UpstreamToken},
    origin::{InvalidOrigin, Origin},
    outgoing::{
        auth::layer::AuthLayer,
        headers::{CapturedHeaders, HeaderForwardLayer},
        identity::{FallbackPolicy, HealthCheck, IdentityLayer},
    },
    secret::{AccessToken, InvalidSecret, Secret},
    strategy::{
        authenticating::Authenticating,
        claim_injection::ClaimInjection,
        header_injection::HeaderInjection,
        placement::Placement,
        strategy::{Strategy, strategy_fn},
        unauthenticated::Unauthenticated,
        upstream_inject::UpstreamInject,
    },
};
#[cfg(feature = "token-exchange")]
#[doc(inline)]
pub use crate::{
    credential::cache::CredentialCache,
    oauth::{client_auth::ClientAuth, token_endpoint::TokenEndpoint},
    strategy::{
        client_credentials::ClientCredentials,
        cross_app_access::CrossAppAccess,
        on_behalf_of::OnBehalfOf,
        subject::{Actor, Subject},
        token_exchange::TokenExchange,
    },
};
#[cfg(feature = "incoming")]
#[doc(inline)]
pub use crate::{
    incoming::{
        bind_subject::BindSubject,
        delegation::{ActingParty, delegation_chain},
        introspection::IntrospectionEndpoint,
        key_set::KeySet,
        layer::TokenValidatorLayer,
        metadata::ProtectedResourceMetadata,
        validator::TokenValidator,
    },
    upstream::{
        store::{UpstreamTokenStore, memory::MemoryStore},
        upstream_tokens::UpstreamTokens,
    },
};

#[cfg(all(doctest, feature = "full"))]
#[doc = include_str!("../README.md")]
struct Readme;
