use http::{HeaderMap, HeaderName, HeaderValue};

use crate::trailers::is_spelling;

/// A header that carries a credential.
///
/// Servers behind CGI read `x-api-key` and `x_api_key` as one header. So no header with another spelling of the name
/// stays beside the credential.
#[derive(Clone, Debug)]
pub(crate) struct CredentialHeader {
    name: HeaderName,
    has_spellings: bool,
}

impl CredentialHeader {
    pub(crate) fn new(name: HeaderName) -> Self {
        let has_spellings = name.as_str().contains(['-', '_']);
        Self {
            name,
            has_spellings,
        }
    }

    pub(crate) fn name(&self) -> &HeaderName {
        &self.name
    }

    /// Replaces the header, in all its spellings.
    pub(crate) fn insert(&self, headers: &mut HeaderMap, value: HeaderValue) {
        if self.has_spellings {
            self.remove_other_spellings(headers);
        }
        headers.insert(self.name.clone(), value);
    }

    pub(crate) fn remove_other_spellings(&self, headers: &mut HeaderMap) {
        let is_other = |name: &&HeaderName| {
            **name != self.name && is_spelling(name.as_str().as_bytes(), &self.name)
        };
        if headers.keys().any(|name| is_other(&name)) {
            let others: Vec<_> = headers.keys().filter(is_other).cloned().collect();
            for other in others {
                headers.remove(other);
            }
        }
    }
}
