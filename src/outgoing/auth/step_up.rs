use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use http::{Extensions, HeaderMap, Method, Uri, request};

use crate::{
    bearer_challenge::BearerChallenge,
    clock::{Clock, DefaultClock},
    identity::Identity,
    outgoing::identity::HealthCheck,
    strategy::wider_scope::WiderScope,
};

const MAX_ATTEMPTS: usize = 3;
const PER: Duration = Duration::from_secs(60);
/// How long a wider scope is remembered.
const KEPT: Duration = Duration::from_secs(3600);
const MAX_OPERATIONS: usize = 4096;
const MAX_SCOPES: usize = 32;

/// Returns the scopes that the operator allows now.
pub(crate) type Ceiling = Arc<dyn Fn() -> Arc<[String]> + Send + Sync>;

/// The scopes with which the operations of users succeed, within a ceiling.
pub(super) struct StepUp {
    ceiling: Ceiling,
    clock: Arc<dyn Clock>,
    hasher: RandomState,
    operations: RwLock<HashMap<Operation, Known>>,
}

/// A hash of the user, and of what the request is for. Two operations with the same hash would share scopes of the ceiling,
/// and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Operation(u64);

#[derive(Clone, Default)]
struct Known {
    wider: Option<Remembered>,
    /// The scopes that were tried, and since when.
    tried: Option<(Vec<WiderScope>, SystemTime)>,
}

#[derive(Clone)]
struct Remembered {
    wider: WiderScope,
    /// The ceiling of the time. Where the configuration was replaced, it is another one.
    ceiling: Arc<[String]>,
    since: SystemTime,
}

impl StepUp {
    pub(super) fn new(ceiling: Ceiling) -> Self {
        Self {
            ceiling,
            clock: DefaultClock::get(),
            hasher: RandomState::new(),
            operations: RwLock::default(),
        }
    }

    pub(super) fn operation(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Option<Operation> {
        if (self.ceiling)().is_empty() || extensions.get::<HealthCheck>().is_some() {
            return None;
        }
        let mut hasher = self.hasher.build_hasher();
        let user = extensions.get::<Identity>();
        let user = user.map(|identity| (identity.issuer(), identity.subject()));
        (user, method, uri.path()).hash(&mut hasher);
        for name in ["mcp-method", "mcp-name"] {
            headers.get(name).hash(&mut hasher);
        }
        Some(Operation(hasher.finish()))
    }

    /// Returns the scope with which the operation succeeded before.
    pub(super) fn recall(&self, operation: Operation) -> Option<WiderScope> {
        let operations = self
            .operations
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let known = operations.get(&operation)?.wider.clone()?;
        drop(operations);
        let is_current = Arc::ptr_eq(&known.ceiling, &(self.ceiling)());
        (is_current && self.is_within(known.since, KEPT)).then_some(known.wider)
    }

    /// Returns the scope with which the rejected request may succeed, if the ceiling and the number of attempts allow it.
    pub(super) fn widen(
        &self,
        operation: Operation,
        sent: &request::Parts,
        response: &HeaderMap,
        held: impl FnOnce() -> Option<Vec<String>>,
    ) -> Option<(WiderScope, Arc<[String]>)> {
        let scope = BearerChallenge::read(response)?.scope?;
        let asked: Vec<_> = scope.split_ascii_whitespace().collect();
        let ceiling = (self.ceiling)();
        let is_allowed = |scope: &&str| ceiling.iter().any(|allowed| allowed == scope);
        if asked.is_empty() || asked.len() > MAX_SCOPES || !asked.iter().all(is_allowed) {
            tracing::debug!("a backend asks for a scope that is not within the ceiling");
            return None;
        }
        let sent_with = sent.extensions.get::<WiderScope>();
        let more = |scopes: fn(&WiderScope) -> &[String]| sent_with.map_or(&[][..], scopes).iter();
        let asked = asked.into_iter().map(str::to_owned);
        let asked = asked.chain(more(WiderScope::asked).cloned()).collect();
        let held = held()?.into_iter().chain(more(WiderScope::scopes).cloned());
        let held: Vec<_> = held.collect();
        let asked: Vec<_> = asked;
        // If it had these scopes already, asking again is of no use.
        let is_more = asked.iter().any(|asked| !held.contains(asked));
        let wider = WiderScope::new(held, asked);
        if !is_more || !self.may_try(operation, &wider) {
            return None;
        }
        tracing::debug!(scopes = ?wider.scopes(), "a backend asks for more scope: obtaining a credential with it");
        Some((wider, ceiling))
    }

    /// Calls that are under way at the same time ask for the same scope, which counts once. The cache obtains it once.
    fn may_try(&self, operation: Operation, wider: &WiderScope) -> bool {
        let now = self.clock.now();
        let mut operations = self
            .operations
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if operations.len() >= MAX_OPERATIONS && !operations.contains_key(&operation) {
            operations.retain(|_, known| {
                let tried = known.tried.as_ref();
                let tried = tried.is_some_and(|(_, since)| is_within(now, *since, PER));
                let kept = known
                    .wider
                    .as_ref()
                    .is_some_and(|known| is_within(now, known.since, KEPT));
                tried || kept
            });
            if operations.len() >= MAX_OPERATIONS {
                return false;
            }
        }
        let known = operations.entry(operation).or_default();
        let tried = known
            .tried
            .take()
            .filter(|(_, since)| is_within(now, *since, PER));
        let (mut scopes, since) = tried.unwrap_or((Vec::new(), now));
        let is_known = scopes.contains(wider);
        let may_try = is_known || scopes.len() < MAX_ATTEMPTS;
        if may_try && !is_known {
            scopes.push(wider.clone());
        }
        known.tried = Some((scopes, since));
        may_try
    }

    pub(super) fn remember(&self, operation: Operation, wider: WiderScope, ceiling: Arc<[String]>) {
        let since = self.clock.now();
        let mut operations = self
            .operations
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = operations.get_mut(&operation) {
            known.wider = Some(Remembered {
                wider,
                ceiling,
                since,
            });
        }
    }

    /// Lets the next request of the operation try without more scope.
    pub(super) fn forget(&self, operation: Operation) {
        let mut operations = self
            .operations
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = operations.get_mut(&operation) {
            known.wider = None;
        }
    }

    fn is_within(&self, since: SystemTime, time: Duration) -> bool {
        is_within(self.clock.now(), since, time)
    }
}

/// A clock that was set back ends the time too.
fn is_within(now: SystemTime, since: SystemTime, time: Duration) -> bool {
    now.duration_since(since).is_ok_and(|passed| passed < time)
}
