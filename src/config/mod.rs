//! Configuration: the strategies of all backends from one file, with the keys of ToolHive's `outgoingAuth`.
//!
//! Needs the feature `config`.
//!
//! [`OutgoingAuthConfig`](crate::OutgoingAuthConfig) is the whole block, and
//! [`BackendAuthConfig`](crate::BackendAuthConfig) is the entry of one backend. [`VmcpConfig`] is the whole file of a
//! ToolHive vMCP, with the incoming side and the backends' URLs. [`Resources`] has what a file cannot
//! contain, such as the HTTP client for token endpoints. [`LiveOutgoingAuth`] replaces the configuration while requests
//! are running.

pub(crate) mod backend;
mod block;
mod client_certificate;
mod client_key;
mod document;
mod dpop;
#[cfg(feature = "dpop")]
mod dpop_resources;
pub(crate) mod error;
mod file_path;
mod kind;
mod kinds;
mod live;
#[cfg(feature = "private-key-jwt")]
mod made_once;
pub(crate) mod outgoing_auth;
#[cfg(feature = "private-key-jwt")]
mod private_key;
mod resources;
#[cfg(feature = "private-key-jwt")]
mod signing_resources;
#[cfg(feature = "aws-sts")]
mod sts_resources;
mod variable_name;
mod vmcp;

pub use client_certificate::ClientCertificateConfig;
pub use client_key::ClientKeyConfig;
pub use dpop::DpopConfig;
pub use error::{ConfigError, ConfigFault};
pub use file_path::FilePath;
pub use kinds::{
    aws_sts::{AwsStsConfig, RoleMappingConfig},
    both::BothConfig,
    claim_injection::ClaimInjectionConfig,
    client_credentials::ClientCredentialsConfig,
    cross_app_access::CrossAppAccessConfig,
    header_injection::HeaderInjectionConfig,
    on_behalf_of::OnBehalfOfConfig,
    signed_identity::{SignedIdentityConfig, SigningKeyConfig},
    token_exchange::{ParameterConfig, TokenExchangeConfig},
    upstream_inject::UpstreamInjectConfig,
};
pub use live::LiveOutgoingAuth;
pub use outgoing_auth::Source;
pub use resources::{Resources, ResourcesBuilder};
pub use variable_name::VariableName;
pub use vmcp::{IncomingAuthConfig, OidcConfig, Vmcp, VmcpBackend, VmcpBackendConfig, VmcpConfig};
