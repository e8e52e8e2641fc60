use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::{BoxError, Service};

use crate::{
    clock::{Clock, DefaultClock},
    credential::cache::CredentialCache,
    error::{BuildError, Faults},
    oauth::{http_client::parse_url, token_endpoint::TokenEndpointBuilder},
    strategy::{
        aws_sts::{AwsSts, builder::AwsStsBuilder, credentials::SessionCredentials},
        issued::IssuedToken,
        strategy::Strategy,
    },
};

use super::backend::TYPES;

/// What strategies need besides their configuration: the client that reaches token endpoints and AWS STS, the
/// environment, and the caches that they share.
///
/// Keep one for as long as the application runs. Credentials are kept here, under all of the configuration that obtained
/// them: strategies that are configured alike share theirs, also where a configuration is replaced by another. `B` is the
/// body of the requests that are authenticated. A clone is cheap, and shares all of it.
pub struct Resources<B> {
    inner: Arc<Inner<B>>,
}

struct Inner<B> {
    token_endpoint: Box<dyn Fn(&str) -> TokenEndpointBuilder + Send + Sync>,
    aws_sts: Box<dyn Fn(&str) -> AwsStsBuilder + Send + Sync>,
    environment: Environment,
    clock: Arc<dyn Clock>,
    tokens: CredentialCache<IssuedToken>,
    sessions: CredentialCache<SessionCredentials>,
    strategies: BTreeMap<String, Arc<dyn Strategy<B>>>,
}

type Environment = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

impl<B> Resources<B> {
    /// Starts resources with `client` for token endpoints and AWS STS.
    ///
    /// The client is one of its own, not the stack that the requests go through: see
    /// [readiness](crate::AuthLayer#readiness-is-held). It follows no redirects.
    pub fn builder<S, ResBody>(client: S) -> ResourcesBuilder<B>
    where
        S: Service<Request<Full<Bytes>>, Response = Response<ResBody>>,
        S: Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        ResBody: Body + Send + 'static,
        ResBody::Data: Send,
        ResBody::Error: Into<BoxError>,
    {
        let sts_client = client.clone();
        ResourcesBuilder {
            token_endpoint: Box::new(move |url| crate::TokenEndpoint::builder(url, client.clone())),
            aws_sts: Box::new(move |region| AwsSts::builder(region, sts_client.clone())),
            sts_endpoint: None,
            environment: Box::new(|variable| std::env::var(variable).ok()),
            clock: DefaultClock::get(),
            tokens: None,
            sessions: None,
            strategies: Vec::new(),
        }
    }

    pub(super) fn token_endpoint(&self, url: &str) -> TokenEndpointBuilder {
        (self.inner.token_endpoint)(url).clock(self.clock())
    }

    pub(super) fn aws_sts(&self, region: &str) -> AwsStsBuilder {
        (self.inner.aws_sts)(region)
            .cache(self.inner.sessions.clone())
            .clock(self.clock())
    }

    pub(super) fn tokens(&self) -> CredentialCache<IssuedToken> {
        self.inner.tokens.clone()
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        self.inner.clock.clone()
    }

    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.inner.environment)(name)
    }

    pub(super) fn strategy(&self, name: &str) -> Option<Arc<dyn Strategy<B>>> {
        self.inner.strategies.get(name).cloned()
    }
}

impl<B> Clone for Resources<B> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<B> fmt::Debug for Resources<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resources")
            .field("tokens", &self.inner.tokens)
            .field("sessions", &self.inner.sessions)
            .field("strategies", &self.inner.strategies.keys())
            .finish_non_exhaustive()
    }
}

/// Builds [`Resources`].
#[must_use = "nothing is checked before `build`"]
pub struct ResourcesBuilder<B> {
    token_endpoint: Box<dyn Fn(&str) -> TokenEndpointBuilder + Send + Sync>,
    aws_sts: Box<dyn Fn(&str) -> AwsStsBuilder + Send + Sync>,
    sts_endpoint: Option<String>,
    environment: Environment,
    clock: Arc<dyn Clock>,
    tokens: Option<CredentialCache<IssuedToken>>,
    sessions: Option<CredentialCache<SessionCredentials>>,
    strategies: Vec<(String, Arc<dyn Strategy<B>>)>,
}

impl<B> ResourcesBuilder<B> {
    /// Makes `strategy` the one of backends whose `type` is `name`.
    pub fn strategy<A>(mut self, name: impl Into<String>, strategy: A) -> Self
    where
        A: Strategy<B> + 'static,
    {
        self.strategies.push((name.into(), Arc::new(strategy)));
        self
    }

    /// Sets where the members that end with `Env` are looked up. By default in the environment of the process.
    pub fn environment(
        mut self,
        variable: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.environment = Box::new(variable);
        self
    }

    /// Sets where AWS STS is, for all backends: see [`AwsStsBuilder::sts_endpoint`].
    pub fn sts_endpoint(mut self, url: impl Into<String>) -> Self {
        self.sts_endpoint = Some(url.into());
        self
    }

    /// Keeps tokens in this cache. By default there is one of its own.
    pub fn token_cache(mut self, cache: CredentialCache<IssuedToken>) -> Self {
        self.tokens = Some(cache);
        self
    }

    /// Keeps credentials of AWS in this cache. By default there is one of its own.
    pub fn session_cache(mut self, cache: CredentialCache<SessionCredentials>) -> Self {
        self.sessions = Some(cache);
        self
    }

    /// Sets the clock of all strategies, and of the caches that were not given.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes the resources.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when one of these settings is wrong:
    ///
    /// - `strategy[0]` has a name that is blank, is a `type` that this crate has a strategy for, or was given to an
    ///   earlier strategy. The number counts the calls of [`strategy`](Self::strategy) from 0.
    /// - `sts_endpoint` is not an absolute `https` URL (or `http` on loopback).
    pub fn build(self) -> Result<Resources<B>, BuildError> {
        let mut faults = Faults::new("Resources");
        let mut strategies = BTreeMap::new();
        for (index, (name, strategy)) in self.strategies.into_iter().enumerate() {
            let fault = if name.trim().is_empty() {
                Some("has no name, give it one")
            } else if TYPES.iter().any(|(built_in, _)| *built_in == name) {
                Some("has the name of a type of this crate, choose another")
            } else if strategies.insert(name, strategy).is_some() {
                Some("has a name that an earlier strategy has, choose another")
            } else {
                None
            };
            if let Some(fault) = fault {
                faults.add(format!("strategy[{index}]"), fault);
            }
        }
        if let Some(endpoint) = &self.sts_endpoint {
            faults.take("sts_endpoint", parse_url(endpoint, false));
        }
        faults.check()?;
        let tokens = self
            .tokens
            .unwrap_or_else(|| CredentialCache::builder().clock(self.clock.clone()).make());
        let sessions = self
            .sessions
            .unwrap_or_else(|| CredentialCache::builder().clock(self.clock.clone()).make());
        let aws_sts = match self.sts_endpoint {
            None => self.aws_sts,
            Some(endpoint) => {
                let aws_sts = self.aws_sts;
                Box::new(move |region: &str| aws_sts(region).sts_endpoint(endpoint.clone()))
            }
        };
        Ok(Resources {
            inner: Arc::new(Inner {
                token_endpoint: self.token_endpoint,
                aws_sts,
                environment: self.environment,
                clock: self.clock,
                tokens,
                sessions,
                strategies,
            }),
        })
    }
}

impl<B> fmt::Debug for ResourcesBuilder<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResourcesBuilder").finish_non_exhaustive()
    }
}
