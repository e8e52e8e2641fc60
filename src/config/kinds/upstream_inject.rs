use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;
use tower::BoxError;

use crate::{
    config::{
        block::Block,
        kind::{Kind, keys},
    },
    strategy::{strategy::Strategy, upstream_inject::UpstreamInject},
};

keys! {
    /// The user's access token of an upstream provider.
    pub struct UpstreamInjectConfig {
        /// The name of the upstream provider.
        "providerName" => provider_name: String,
    }
}

impl UpstreamInjectConfig {
    /// The token of the upstream provider with this name.
    pub fn new(provider_name: impl Into<String>) -> Self {
        Self {
            provider_name: provider_name.into(),
        }
    }
}

impl Kind for UpstreamInjectConfig {
    const TYPE: &'static str = "upstream_inject";
    const BLOCK: &'static str = "upstreamInject";

    fn build<B>(&self, block: &mut Block<'_, B>) -> Option<Arc<dyn Strategy<B>>>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        block.need("providerName", &self.provider_name);
        block.check_provider("providerName", &self.provider_name);
        let strategy = block.built(
            UpstreamInject::new(&self.provider_name),
            &[("provider", &["providerName"])],
        )?;
        Some(Arc::new(strategy.clock(block.resources.clock())))
    }
}
