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

use super::placement;

keys! {
    /// The user's access token of an upstream provider.
    pub struct UpstreamInjectConfig {
        /// The name of the upstream provider.
        "providerName" => provider_name: String,
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
        Some(Arc::new(strategy.clock(block.resources.clock())))
    }
}
