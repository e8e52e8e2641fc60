use http::{HeaderMap, HeaderName, HeaderValue, header::TRAILER};

/// A header that carries a credential.
///
/// Servers behind CGI read `x-api-key` and `x_api_key` as one header. So no header with another spelling of the name
/// stays beside the credential, and no trailer of the name is announced.
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
        if headers.contains_key(TRAILER) {
            self.remove_trailer(headers);
        }
    }

    pub(crate) fn remove_other_spellings(&self, headers: &mut HeaderMap) {
        let is_other =
            |name: &&HeaderName| **name != self.name && self.is_spelling(name.as_str().as_bytes());
        if headers.keys().any(|name| is_other(&name)) {
            let others: Vec<_> = headers.keys().filter(is_other).cloned().collect();
            for other in others {
                headers.remove(other);
            }
        }
    }

    #[cold]
    fn remove_trailer(&self, headers: &mut HeaderMap) {
        let announced: Vec<_> = headers.get_all(TRAILER).iter().cloned().collect();
        headers.remove(TRAILER);
        for value in announced {
            let names = value.as_bytes().split(|&byte| byte == b',');
            let names: Vec<_> = names.map(<[u8]>::trim_ascii).collect();
            if !names.iter().any(|name| self.is_spelling(name)) {
                headers.append(TRAILER, value);
                continue;
            }
            for name in names {
                if !self.is_spelling(name)
                    && let Ok(name) = HeaderValue::from_bytes(name)
                {
                    headers.append(TRAILER, name);
                }
            }
        }
    }

    fn is_spelling(&self, name: &[u8]) -> bool {
        let plain = |byte: &u8| match byte {
            b'_' => b'-',
            byte => byte.to_ascii_lowercase(),
        };
        name.iter()
            .map(plain)
            .eq(self.name.as_str().as_bytes().iter().map(plain))
    }
}
