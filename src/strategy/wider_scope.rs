use std::sync::Arc;

use http::Extensions;

/// The scopes that a backend asked for in addition to those of the strategy's configuration.
///
/// [`AuthLayer::step_up`](crate::AuthLayer) puts it into the extensions of a request, before it asks a strategy whose
/// [`can_widen_scope`](crate::Strategy::can_widen_scope) returns `true`. Such a strategy obtains a credential with these
/// scopes as well, and its cache key includes them. The layer removes the extension before it sends the request.
///
/// ```
/// use http::Request;
/// use tower_identity::strategy::WiderScope;
///
/// fn more_scopes<B>(request: &Request<B>) -> &[String] {
///     let wider = request.extensions().get::<WiderScope>();
///     wider.map_or(&[], WiderScope::scopes)
/// }
/// # assert!(more_scopes(&Request::new(())).is_empty());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WiderScope {
    scopes: Arc<[String]>,
}

impl WiderScope {
    /// The scopes are in order, each once.
    pub(crate) fn new(mut scopes: Vec<String>) -> Self {
        scopes.sort_unstable();
        scopes.dedup();
        Self {
            scopes: scopes.into(),
        }
    }

    /// The scopes, in the order of their bytes, each once.
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// Puts it into the extensions of a request.
    pub(crate) fn put_into(&self, extensions: &mut Extensions) {
        extensions.insert(self.clone());
    }
}
