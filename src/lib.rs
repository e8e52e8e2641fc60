//! Whose credentials leave with a request, as Tower middleware.
//!
//! A gateway holds a session for a user and calls backends for them. On each incoming request a validator refreshes the
//! user's tokens and attaches a fresh [`Identity`]; this crate sees to it that the fresh one leaves, that the identity
//! captured when the session began fills gaps and nothing else, and that no credential goes to a host that it is not
//! for.
//!
//! ```text
//! TokenValidatorLayer  the caller's token becomes an Identity in http::Extensions, with fresh upstream tokens
//!   └▶ your service
//!
//! your service         the request that it sends has the Identity of the one that it serves
//!   └▶ IdentityLayer        the request's identity wins; the session's is used only when there is none
//!        └▶ HeaderForwardLayer   (optional) static and captured headers that the backend wants
//!             └▶ RetryLayer<Reauthenticate>  (optional, tower's own) one retry after a 401
//!                  └▶ AuthLayer<Strategy>  origin check, then credentials onto the request
//!                       └▶ HTTP client         hyper-util, reqwest, anything that is a tower Service
//! ```
//!
//! # First steps
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
//! # let (session_identity, access, body) = (None::<Identity>, "gho_16C7e42F292c", "{}");
//! let mut client = ServiceBuilder::new()
//!     .layer(IdentityLayer::new(session_identity).fallback(FallbackPolicy::teardown()))
//!     .layer(AuthLayer::new(Origin::try_from("https://mcp.example.com")?, UpstreamInject::new("github")?))
//!     .service(https_client::<Full<Bytes>>()?);
//!
//! let identity = Identity::builder("user-1")
//!     .issuer("https://idp.example.com")
//!     .upstream("github", UpstreamToken::new(AccessToken::new(access)?))
//!     .build()?;
//! let mut request = Request::post("https://mcp.example.com/mcp").body(Full::from(body))?;
//! request.extensions_mut().insert(identity);
//! let response = client.ready().await?.call(request).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! 1. **The request's identity always wins.** An `Identity` in the request's extensions is never replaced or merged.
//! 2. **The fallback only fills a gap**, only where [`FallbackPolicy`] allows it, and its use can be seen (a `tracing`
//!    event).
//! 3. **A credential has an address.** [`AuthLayer`] and [`HeaderForwardLayer`] are bound to one [`Origin`]; a request
//!    for another fails before any credential is obtained.
//! 4. **All or nothing.** A strategy that fails leaves no half-authenticated request behind, and none is sent.
//! 5. **One user's credential never reaches another.**
//! 6. **Secrets do not leak**, not through `Debug`, `Display`, an error and its sources, a `tracing` field, a URL or
//!    serde. Header values are marked sensitive; secret memory is zeroized.
//! 7. **A cancelled caller harms nobody.**
//! 8. **No identity means no identity.** There is no empty or anonymous [`Identity`].
//!
//! # Features
//!
//! Without any, the crate is the layers and the strategies, and depends on little more than tower, http and serde_json.
//!
//! | feature | adds |
//! | --- | --- |
//! | `credential-cache` | `CredentialCache`: credentials that were obtained for a user, kept and renewed |
//! | `token-exchange` | the strategies that have a token issued (`TokenExchange`, `ClientCredentials`, `OnBehalfOf`, `CrossAppAccess`), `Reauthenticate`, and `TokenEndpoint`; with it `credential-cache` |
//! | `private-key-jwt` | client authentication at a token endpoint with a signed assertion; with it `token-exchange` |
//! | `aws-sts` | `AwsSts`: the user's claims choose an IAM role, and each request is signed in it; with it `token-exchange` |
//! | `hyper` | `client::hyper`: a ready-made HTTPS client over hyper-util and rustls |
//! | `incoming` | `incoming`: the caller's bearer token is validated, and becomes an identity with fresh upstream tokens; with it `token-exchange` |
//! | `redis` | `RedisStore`: upstream tokens that all replicas share, and `incoming` |
//! | `reqwest` | `client::reqwest`: a `reqwest::Client` as a Tower HTTP service |
//! | `rmcp` | `client::rmcp`: a Tower stack as the HTTP client of the MCP Rust SDK |
//! | `config` | `OutgoingAuthConfig`: the strategies of many backends out of one configuration, with ToolHive's keys; with it `aws-sts` and `token-exchange` |
//! | `metrics` | counters and histograms: see [`telemetry`] |
//! | `full` | all of them |

#![cfg_attr(
    feature = "full",
    doc = "
# Guides

- I have [a hyper client](guide::hyper), [reqwest](guide::reqwest), [an MCP client](guide::rmcp).
- I [write a gateway](guide::gateway), [come from ToolHive](guide::toolhive), [write my own strategy](guide::strategy).
- [The threat model, what is promised, and by which test](guide::security). [Faults of others](guide::faults).
- [Several replicas](guide::replicas). [Troubleshooting](guide::troubleshooting).
"
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

pub mod client;
mod clock;
#[cfg(feature = "config")]
pub mod config;
#[cfg(feature = "token-exchange")]
pub mod credential;
mod error;
#[cfg(all(doc, feature = "full"))]
pub mod guide;
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
#[cfg(feature = "incoming")]
pub mod upstream;

#[cfg(feature = "config")]
#[doc(inline)]
pub use crate::config::{backend::BackendAuthConfig, outgoing_auth::OutgoingAuthConfig};
#[cfg(feature = "aws-sts")]
#[doc(inline)]
pub use crate::strategy::aws_sts::{AwsSts, role_mapper::RoleMapping};
#[cfg(feature = "redis")]
#[doc(inline)]
pub use crate::upstream::store::redis::RedisStore;
#[doc(inline)]
pub use crate::{
    clock::{Clock, ManualClock, SystemClock},
    error::{AuthError, AuthErrorKind},
    identity::{Identity, IdentityBuilder, InvalidIdentity, UpstreamToken},
    origin::{InvalidOrigin, Origin},
    outgoing::{
        auth::AuthLayer,
        headers::{CapturedHeaders, HeaderForwardLayer},
        identity::{FallbackPolicy, HealthCheck, IdentityLayer},
    },
    secret::{AccessToken, InvalidSecret, Secret},
    strategy::{
        authenticating::Authenticating,
        header_injection::HeaderInjection,
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
    outgoing::reauthenticate::Reauthenticate,
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
        jwks::KeySet,
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
