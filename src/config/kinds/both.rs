use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;
use tower::BoxError;

use crate::{
    config::{
        backend::BackendAuthConfig,
        block::Block,
        kind::{Kind, keys},
    },
    strategy::{both::Both, strategy::Strategy},
};

keys! {
    /// Two credentials on one request, for example a key of the gateway and a token of the user. They need different headers.
    pub struct BothConfig {
        /// How the request is authenticated first: a `type` with its block.
        #[schemars(required)]
        "first" => first: Option<Box<BackendAuthConfig>>,
        /// How the request is authenticated then: a `type` with its block.
        #[schemars(required)]
        "second" => second: Option<Box<BackendAuthConfig>>,
    }
}

impl BothConfig {
    /// The credentials of both.
    pub fn new(first: BackendAuthConfig, second: BackendAuthConfig) -> Self {
        Self {
            first: Some(Box::new(first)),
            second: Some(Box::new(second)),
        }
    }

    pub(in crate::config) fn parts(
        &self,
    ) -> impl Iterator<Item = (&'static str, &BackendAuthConfig)> {
        let parts = [("first", &self.first), ("second", &self.second)];
        let parts = parts.into_iter();
        parts.filter_map(|(key, part)| Some((key, &**part.as_ref()?)))
    }
}

impl Kind for BothConfig {
    const TYPE: &'static str = "both";
    const BLOCK: &'static str = "both";

    /// Only one of the two can be asked for more scope, see [`Both`].
    fn step_up_scopes(&self) -> &[String] {
        let mut parts = self.parts().map(|(_, part)| part.step_up_scopes());
        parts.find(|scopes| !scopes.is_empty()).unwrap_or_default()
    }

    fn headers(&self) -> Vec<String> {
        self.parts().flat_map(|(_, part)| part.headers()).collect()
    }

    fn build<B>(&self, block: &mut Block<'_, B>) -> Option<Arc<dyn Strategy<B>>>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let first = block.inner("first", self.first.as_deref());
        let second = block.inner("second", self.second.as_deref());
        let headers = |part: &Option<Box<BackendAuthConfig>>| {
            let headers = part.iter().flat_map(|part| part.headers());
            let headers = headers.map(|name| name.to_ascii_lowercase().replace('_', "-"));
            headers.collect::<Vec<_>>()
        };
        let taken = headers(&self.first);
        let mut sent = headers(&self.second).into_iter();
        if let Some(name) = sent.find(|name| taken.contains(name)) {
            let name = name.escape_debug();
            block.fault(
                "second",
                format!("sends the header `{name}` as `first` does, so that only one would leave; send another"),
            );
        }
        let can_widen_scope = |part: &Option<Arc<dyn Strategy<B>>>| {
            part.as_ref().is_some_and(|part| part.can_widen_scope())
        };
        if !self.step_up_scopes().is_empty() && can_widen_scope(&first) && can_widen_scope(&second)
        {
            block.fault(
                "second",
                "can have more scope as `first` can, so that a backend that wants more does not say of which; leave \
                 out `stepUpScopes`",
            );
        }
        let both = first.zip(second).filter(|_| block.faults.is_empty());
        let (first, second) = both?;
        Some(Arc::new(Both(first, second)))
    }
}
