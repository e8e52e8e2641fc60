//! The strategies of all backends out of one configuration, with the keys of ToolHive's `outgoingAuth`.

pub(crate) mod backend;
mod build;
mod document;
pub(crate) mod error;
mod live;
pub(crate) mod outgoing_auth;
mod resources;

pub use backend::{
    AwsStsConfig, CrossAppAccessConfig, HeaderInjectionConfig, OnBehalfOfConfig, RoleMappingConfig,
    TokenExchangeConfig, UpstreamInjectConfig,
};
pub use error::{ConfigError, ConfigFault};
pub use live::LiveOutgoingAuth;
pub use outgoing_auth::Source;
pub use resources::{Resources, ResourcesBuilder};
