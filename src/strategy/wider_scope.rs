use std::sync::Arc;

use http::Extensions;

/// The scopes that a request needs: those that its credential had, and those that a backend asked for.
///
/// [`AuthLayer::step_up`](crate::AuthLayer) puts it into the extensions of a request, before it asks a strategy whose
/// [`held_scopes`](crate::Strategy::held_scopes) are known. Such a strategy obtains a credential with these scopes as
/// well as those of its configuration, and its cache key includes them. The layer removes the extension before it sends
/// the request.
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
#[derive(Clone, Debug)]
pub struct WiderScope {
    scopes: Arc<[String]>,
    /// Those among them that a backend asked for.
    asked: Arc<[String]>,
}

impl PartialEq for WiderScope {
    fn eq(&self, other: &Self) -> bool {
        self.scopes == other.scopes
    }
}

impl Eq for WiderScope {}

impl WiderScope {
    pub(crate) fn new(held: Vec<String>, asked: Vec<String>) -> Self {
        Self {
            scopes: in_order(held.into_iter().chain(asked.iter().cloned()).collect()),
            asked: in_order(asked),
        }
    }

    /// The scopes, in the order of their bytes, each once.
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// Those that a backend asked for, and the operator must allow.
    pub(crate) fn asked(&self) -> &[String] {
        &self.asked
    }

    /// Returns the one beside another extension, such as the identity. Where that is alone, a look-up is spared.
    #[cfg(feature = "token-exchange")]
    #[inline]
    pub(crate) fn beside(extensions: &Extensions) -> Option<&Self> {
        if extensions.len() > 1 {
            extensions.get()
        } else {
            None
        }
    }

    /// Puts it into the extensions of a request.
    pub(crate) fn put_into(&self, extensions: &mut Extensions) {
        extensions.insert(self.clone());
    }
}

fn in_order(mut scopes: Vec<String>) -> Arc<[String]> {
    scopes.sort_unstable();
    scopes.dedup();
    scopes.into()
}
