use std::sync::{Arc, PoisonError};

use http::HeaderMap;

use crate::{dpop::DPOP_NONCE, runtime::Mutex};

const LONGEST: usize = 1024;

/// The nonce that a server wants in the next proof (RFC 9449 §8), the newest that it sent. A clone shares it.
#[derive(Clone, Default)]
pub(crate) struct Nonces {
    newest: Arc<Mutex<Option<Arc<str>>>>,
}

impl Nonces {
    pub(crate) fn newest(&self) -> Option<Arc<str>> {
        self.newest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Keeps the nonce of a response for the next proof. A nonce that cannot be one is ignored, and so are several.
    pub(crate) fn learn(&self, response: &HeaderMap) {
        let Some(nonce) = nonce_of(response) else {
            return;
        };
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.as_deref() == Some(nonce) {
            return;
        }
        let before = newest.replace(nonce.into());
        drop(newest);
        drop(before);
    }
}

/// The nonce of a response, if it has one and only one of at most 1,024 of the characters that a nonce has (RFC 9449
/// §8.1).
pub(crate) fn nonce_of(response: &HeaderMap) -> Option<&str> {
    let mut values = response.get_all(DPOP_NONCE).iter();
    let nonce = values.next()?.to_str().ok()?;
    let is_nonce = (1..=LONGEST).contains(&nonce.len())
        && nonce
            .bytes()
            .all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
    (is_nonce && values.next().is_none()).then_some(nonce)
}
