use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;
use tower::BoxError;

use crate::{
    config::{
        block::Block,
        dpop::{DpopConfig, not_null},
        kind::{Kind, keys},
    },
    strategy::{strategy::Strategy, upstream_inject::UpstreamInject},
};

use super::placement;

keys! {
    /// The user's access token of an upstream provider.
    pub struct UpstreamInjectConfig {
        /// The name of the upstream provider.
        "providerName" => provider_name: String,
        /// The keys that the user's tokens are bound to, which the application gives the provider too. By default, a token
        /// that is bound to a key is not sent.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(transform = not_null)]
        "dpop" => dpop: Option<DpopConfig>,
        /// The header that the token is sent in. By default `Authorization`, after `Bearer `.
        #[serde(skip_serializing_if = "Option::is_none")]
        "headerName" => header_name: Option<String>,
        /// The text before the token in the header `headerName`, for example `token`, and a space after it. By default
        /// there is none.
        #[serde(skip_serializing_if = "Option::is_none")]
        "headerPrefix" => header_prefix: Option<String>,
    }
}

impl UpstreamInjectConfig {
    /// The token of the upstream provider with this name.
    pub fn new(provider_name: impl Into<String>) -> Self {
        Self {
            provider_name: provider_name.into(),
            ..Self::default()
        }
    }
}

impl Kind for UpstreamInjectConfig {
    const TYPE: &'static str = "upstream_inject";
    const BLOCK: &'static str = "upstreamInject";

    fn headers(&self) -> Vec<String> {
        vec![super::header_of_token(self.header_name.as_deref())]
    }

    fn build<B>(&self, block: &mut Block<'_, B>) -> Option<Arc<dyn Strategy<B>>>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        block.need("providerName", &self.provider_name);
        block.check_provider("providerName", &self.provider_name);
        let placement = placement(
            block,
            self.header_name.as_deref(),
            self.header_prefix.as_deref(),
        );
        let mut strategy = block.built(
            UpstreamInject::new(&self.provider_name),
            &[("provider", &["providerName"])],
        )?;
        if let Some(placement) = placement {
            strategy = strategy.placement(placement);
        }
        if let Some(config) = &self.dpop {
            strategy = with_keys(strategy, block, config)?;
        }
        Some(Arc::new(strategy.clock(block.resources.clock())))
    }
}

/// The strategy with the keys of the block `dpop`.
#[cfg(feature = "dpop")]
fn with_keys<B>(
    strategy: UpstreamInject,
    block: &mut Block<'_, B>,
    config: &DpopConfig,
) -> Option<UpstreamInject> {
    if config.is_generated() {
        block.fault(
            "dpop",
            "has no key, and the application has to give the same to the provider; give `dpop.perUserSecretFile`, or \
             another",
        );
        return None;
    }
    if config.allow_bearer_tokens {
        block.fault(
            "dpop.allowBearerTokens",
            "is of no use here, because the provider decides on the tokens; leave it out",
        );
        return None;
    }
    let keys = block.dpop_keys("dpop", config)?;
    if strategy.has_other_placement() {
        block.fault(
            "headerName",
            "is there beside `dpop`, and a token that is bound to a key is sent in `Authorization`; remove one of the two",
        );
        return None;
    }
    Some(strategy.dpop(keys))
}

#[cfg(not(feature = "dpop"))]
fn with_keys<B>(
    _: UpstreamInject,
    block: &mut Block<'_, B>,
    _: &DpopConfig,
) -> Option<UpstreamInject> {
    block.fault_of_dpop("dpop");
    None
}
