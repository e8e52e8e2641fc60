use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, request, response};
use http_body::Body;
use tower::BoxError;

use crate::{
    error::{AuthError, AuthErrorKind},
    origin::Origin,
    outgoing::auth::layer::AuthLayer,
    strategy::{authenticating::Authenticating, rejection::Rejection, strategy::Strategy},
};

#[cfg(feature = "private-key-jwt")]
use crate::oauth::signing_keys::PublishedKeys;

use super::{
    error::ConfigError,
    outgoing_auth::{Backend, OutgoingAuthConfig},
    resources::Resources,
};

/// A configuration that can be replaced while requests are running.
///
/// Needs the feature `config`.
///
/// Its layers and their services follow. A request whose authentication has begun continues with the old configuration,
/// and the next request uses the new one. Backends with an unchanged configuration keep their credentials. A clone is
/// cheap, and shares the configuration.
///
/// ```no_run
/// # use bytes::Bytes; use http_body_util::Full;
/// # use tower_identity::{Origin, OutgoingAuthConfig, config::Resources};
/// # fn example(
/// #     auth: OutgoingAuthConfig,
/// #     changed: OutgoingAuthConfig,
/// #     resources: Resources<Full<Bytes>>,
/// # ) -> Result<(), tower::BoxError> {
/// use tower_identity::config::LiveOutgoingAuth;
///
/// let live = LiveOutgoingAuth::new(auth, resources)?;
/// let origin = Origin::try_from("https://mcp.example.com")?;
/// let layer = live.layer_for("github", origin)?;
/// // and later, when the file has changed
/// live.replace(changed)?;
/// # Ok(())
/// # }
/// ```
pub struct LiveOutgoingAuth<B> {
    inner: Arc<Inner<B>>,
}

struct Inner<B> {
    resources: Resources<B>,
    #[cfg(feature = "private-key-jwt")]
    published: PublishedKeys,
    current: Mutex<Current<B>>,
}

struct Current<B> {
    /// Each replacement is another allocation, so the pointer tells configurations apart.
    config: Arc<OutgoingAuthConfig>,
    followers: BTreeMap<String, Weak<Follower<B>>>,
}

type Replaced<B> = (Arc<Follower<B>>, Arc<Backend<B>>);

impl<B> Current<B> {
    fn follower(&self, backend: &str) -> Option<Arc<Follower<B>>> {
        self.followers.get(backend).and_then(Weak::upgrade)
    }

    /// Returns what was replaced, or all followers if the backend of one is missing. The caller drops either without
    /// the lock, because it may be the last reference to a strategy.
    fn replace(
        &mut self,
        config: &Arc<OutgoingAuthConfig>,
        backends: &BTreeMap<String, Arc<Backend<B>>>,
    ) -> Result<Vec<Replaced<B>>, Vec<Arc<Follower<B>>>> {
        let followers = self.followers.iter();
        let followers: Vec<_> = followers
            .filter_map(|(backend, follower)| Some((follower.upgrade()?, backends.get(backend))))
            .collect();
        if followers.iter().any(|(_, backend)| backend.is_none()) {
            return Err(followers
                .into_iter()
                .map(|(follower, _)| follower)
                .collect());
        }
        let replaced = followers.into_iter().filter_map(|(follower, backend)| {
            let replaced = follower.0.swap(Arc::clone(backend?));
            Some((follower, replaced))
        });
        let replaced = replaced.collect();
        self.config = Arc::clone(config);
        Ok(replaced)
    }
}

impl<B> LiveOutgoingAuth<B>
where
    B: Body + From<Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Starts with `config`.
    ///
    /// # Errors
    ///
    /// As [`OutgoingAuthConfig::check`].
    pub fn new(config: OutgoingAuthConfig, resources: Resources<B>) -> Result<Self, ConfigError> {
        config.check(&resources)?;
        Ok(Self {
            inner: Arc::new(Inner {
                #[cfg(feature = "private-key-jwt")]
                published: PublishedKeys::new(&config.published(&resources)),
                resources,
                current: Mutex::new(Current {
                    config: Arc::new(config),
                    followers: BTreeMap::new(),
                }),
            }),
        })
    }

    /// Builds the layer that authenticates requests to `backend`, which is at `origin`, by the current configuration.
    ///
    /// # Errors
    ///
    /// As [`OutgoingAuthConfig::layer_for`].
    pub fn layer_for(
        &self,
        backend: &str,
        origin: Origin,
    ) -> Result<AuthLayer<Arc<dyn Strategy<B>>>, ConfigError> {
        let follower = loop {
            let config = {
                let current = self.current();
                if let Some(known) = current.follower(backend) {
                    break known;
                }
                Arc::clone(&current.config)
            };
            // Not under the lock, because making a strategy clones clients and reads clocks.
            let built = config.backend(backend, &self.inner.resources)?;
            let follower = Arc::new(Follower(ArcSwap::from_pointee(built)));
            let mut current = self.current();
            let known = current.follower(backend);
            if known.is_none() && Arc::ptr_eq(&config, &current.config) {
                let weak = Arc::downgrade(&follower);
                current.followers.insert(backend.to_owned(), weak);
                break follower;
            }
            drop(current);
            drop(known);
        };
        let of_the_moment = Arc::clone(&follower);
        let ceiling = Arc::new(move || Arc::clone(&of_the_moment.0.load().step_up_scopes));
        Ok(AuthLayer::new(origin, follower as Arc<dyn Strategy<B>>).with_ceiling(ceiling))
    }

    /// Replaces the configuration. Requests to a backend that is no longer configured then fail with
    /// [`Configuration`](AuthErrorKind::Configuration).
    ///
    /// # Errors
    ///
    /// As [`OutgoingAuthConfig::check`]. The old configuration then stays in use.
    pub fn replace(&self, config: OutgoingAuthConfig) -> Result<(), ConfigError> {
        let resources = &self.inner.resources;
        config.check(resources)?;
        #[cfg(feature = "private-key-jwt")]
        let keys = config.published(resources);
        let config = Arc::new(config);
        let mut built = BTreeMap::new();
        loop {
            let missing: Vec<_> = {
                let mut current = self.current();
                current
                    .followers
                    .retain(|_, follower| follower.strong_count() > 0);
                let backends = current.followers.keys();
                backends
                    .filter(|backend| !built.contains_key(*backend))
                    .cloned()
                    .collect()
            };
            for backend in missing {
                let new = config.backend(&backend, resources);
                built.insert(backend, Arc::new(new.unwrap_or_else(|_| unconfigured())));
            }
            let mut current = self.current();
            // A key is published before it signs.
            #[cfg(feature = "private-key-jwt")]
            self.inner.published.replace(&keys);
            let replaced = current.replace(&config, &built);
            drop(current);
            if replaced.is_ok() {
                return Ok(());
            }
        }
    }

    /// Returns the service that publishes the keys of all `signed_identity` blocks of the current configuration (JWKS).
    ///
    /// Needs the feature `private-key-jwt`.
    ///
    /// To rotate a key, add the new one at the end of `signingKeys` and replace the configuration. Make it the first one
    /// when all backends may have fetched it, after 5 minutes, and remove the old one some minutes later.
    #[cfg(feature = "private-key-jwt")]
    pub fn jwks(&self) -> crate::oauth::Jwks {
        self.inner.published.jwks()
    }

    fn current(&self) -> MutexGuard<'_, Current<B>> {
        self.inner
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Clone for LiveOutgoingAuth<B> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<B> fmt::Debug for LiveOutgoingAuth<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveOutgoingAuth")
            .field("resources", &self.inner.resources)
            .finish_non_exhaustive()
    }
}

/// Does what the strategy of the moment does.
struct Follower<B>(ArcSwap<Backend<B>>);

impl<B> Strategy<B> for Follower<B> {
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
        self.0.load().strategy.authenticate(request)
    }

    fn rejected(&self, sent: &request::Parts, response: &response::Parts) -> Rejection {
        self.0.load().strategy.rejected(sent, response)
    }

    fn rejected_in_body(
        &self,
        sent: &request::Parts,
        response: &response::Parts,
        first_bytes: &[u8],
    ) -> Rejection {
        self.0
            .load()
            .strategy
            .rejected_in_body(sent, response, first_bytes)
    }

    fn held_scopes(&self, sent: &request::Parts) -> Option<Vec<String>> {
        self.0.load().strategy.held_scopes(sent)
    }

    fn can_widen_scope(&self) -> bool {
        self.0.load().strategy.can_widen_scope()
    }

    fn name(&self) -> &'static str {
        self.0.load().strategy.name()
    }
}

fn unconfigured<B>() -> Backend<B> {
    Backend {
        strategy: Arc::new(NoLongerConfigured),
        step_up_scopes: Arc::default(),
    }
}

struct NoLongerConfigured;

impl<B> Strategy<B> for NoLongerConfigured {
    fn authenticate(&self, _: &mut Request<B>) -> Authenticating<B> {
        AuthError::new(
            AuthErrorKind::Configuration,
            "the configuration was replaced by one without this backend; configure it again, or end its sessions",
        )
        .into()
    }
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    struct Renewable;

    impl Strategy<()> for Renewable {
        fn authenticate(&self, _: &mut Request<()>) -> Authenticating<()> {
            Authenticating::done()
        }

        fn rejected(&self, _: &request::Parts, _: &response::Parts) -> Rejection {
            Rejection::AnotherCredential
        }

        fn name(&self) -> &'static str {
            "renewable"
        }
    }

    #[test]
    fn a_rejection_and_a_name_are_those_of_the_strategy_of_the_moment() {
        let follower = Follower(ArcSwap::from_pointee(Backend {
            strategy: Arc::new(Renewable),
            step_up_scopes: Arc::default(),
        }));
        let (sent, ()) = Request::new(()).into_parts();
        let response = Response::builder().status(401).body(()).unwrap();
        let (response, ()) = response.into_parts();
        let rejection = || follower.rejected(&sent, &response);
        assert_eq!(rejection(), Rejection::AnotherCredential);
        assert_eq!(follower.name(), "renewable");

        follower.0.store(Arc::new(unconfigured()));
        assert_eq!(rejection(), Rejection::NothingHelps);
        assert_eq!(follower.name(), "custom");
    }

    #[test]
    fn replacing_leaves_the_drop_of_strategies_to_the_caller() {
        let strategy = Arc::new(Renewable);
        let follower = Arc::new(Follower(ArcSwap::from_pointee(Backend::<()> {
            strategy: strategy.clone(),
            step_up_scopes: Arc::default(),
        })));
        let mut current = Current {
            config: Arc::default(),
            followers: BTreeMap::from([("b".to_owned(), Arc::downgrade(&follower))]),
        };
        let config = Arc::default();
        let missing = current.replace(&config, &BTreeMap::new()).err();
        drop(follower);
        assert_eq!(Arc::strong_count(&strategy), 2, "the caller drops it");
        let built = BTreeMap::from([("b".to_owned(), Arc::new(unconfigured()))]);
        let replaced = current.replace(&config, &built).ok();
        drop(missing);
        assert_eq!(Arc::strong_count(&strategy), 2, "the caller drops it");
        drop(replaced);
        assert_eq!(Arc::strong_count(&strategy), 1);
    }
}
