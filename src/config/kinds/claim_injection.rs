use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;
use tower::BoxError;

use crate::{
    config::{
        block::Block,
        kind::{Kind, keys},
    },
    strategy::{claim_injection::ClaimInjection, strategy::Strategy},
};

keys! {
    /// Chosen claims of the user as headers, for a backend that trusts the network.
    pub struct ClaimInjectionConfig {
        /// The names of the claims. Each is sent in the header `x-claim-` with its name. By default `sub`.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[schemars(default)]
        "claims" => claims: Vec<String>,
    }
}

impl ClaimInjectionConfig {
    /// These claims.
    pub fn new(claims: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            claims: claims.into_iter().map(Into::into).collect(),
        }
    }
}

impl Kind for ClaimInjectionConfig {
    const TYPE: &'static str = "claim_injection";
    const BLOCK: &'static str = "claimInjection";

    fn headers(&self) -> Vec<String> {
        match &*self.claims {
            [] => vec!["x-claim-sub".to_owned()],
            claims => claims
                .iter()
                .map(|claim| format!("x-claim-{claim}"))
                .collect(),
        }
    }

    fn build<B>(&self, block: &mut Block<'_, B>) -> Option<Arc<dyn Strategy<B>>>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut strategy = ClaimInjection::builder();
        if self.claims.is_empty() {
            strategy = strategy.claim("sub");
        }
        for claim in &self.claims {
            strategy = strategy.claim(claim);
        }
        let strategy = block.built(strategy.build(), &[("claims[]", &["claims[]"])])?;
        Some(Arc::new(strategy))
    }
}
