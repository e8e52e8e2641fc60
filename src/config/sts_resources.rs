use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::{BoxError, Service};

use crate::{
    clock::Clock,
    credential::cache::CredentialCache,
    error::Faults,
    oauth::http_client::parse_url,
    strategy::aws_sts::{AwsSts, builder::AwsStsBuilder, credentials::SessionCredentials},
};

use super::resources::ResourcesBuilder;

/// The resources that strategies for AWS share.
pub(super) struct StsResources {
    builder: Box<dyn Fn(&str) -> AwsStsBuilder + Send + Sync>,
    endpoint: Option<String>,
    pub(super) sessions: CredentialCache<SessionCredentials>,
}

impl StsResources {
    pub(super) fn strategy(&self, region: &str) -> AwsStsBuilder {
        let builder = (self.builder)(region).cache(self.sessions.clone());
        match &self.endpoint {
            Some(endpoint) => builder.sts_endpoint(endpoint),
            None => builder,
        }
    }
}

/// The settings of [`StsResources`].
pub(super) struct StsSettings {
    builder: Box<dyn Fn(&str) -> AwsStsBuilder + Send + Sync>,
    endpoint: Option<String>,
    sessions: Option<CredentialCache<SessionCredentials>>,
}

impl StsSettings {
    pub(super) fn new<S, ResBody>(client: S) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
        S: Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        ResBody: Body + Send + 'static,
        ResBody::Data: Send,
        ResBody::Error: Into<BoxError>,
    {
        Self {
            builder: Box::new(move |region| AwsSts::builder(region, client.clone())),
            endpoint: None,
            sessions: None,
        }
    }

    pub(super) fn check(&self, faults: &mut Faults) {
        if let Some(endpoint) = &self.endpoint {
            faults.take("sts_endpoint", parse_url(endpoint, false));
        }
    }

    pub(super) fn make(self, clock: &Arc<dyn Clock>) -> StsResources {
        let own_cache = || CredentialCache::builder().clock(clock.clone()).make();
        StsResources {
            builder: self.builder,
            endpoint: self.endpoint,
            sessions: self.sessions.unwrap_or_else(own_cache),
        }
    }
}

impl<B> ResourcesBuilder<B> {
    /// Sets the endpoint of AWS STS for all backends: see
    /// [`AwsStsBuilder::sts_endpoint`](crate::strategy::AwsStsBuilder::sts_endpoint). By default it is the endpoint of
    /// each backend's region.
    pub fn sts_endpoint(mut self, url: impl Into<String>) -> Self {
        self.sts.endpoint = Some(url.into());
        self
    }

    /// Sets a cache to keep credentials of AWS in. By default the resources have their own.
    pub fn session_cache(mut self, cache: CredentialCache<SessionCredentials>) -> Self {
        self.sts.sessions = Some(cache);
        self
    }
}
