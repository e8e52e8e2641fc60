use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION, header::TRAILER};

/// Removes the names of credentials from `Trailer`, because a server may put what a trailer says into the header of that
/// name (RFC 9110 §6.5.2).
///
/// The names are removed in all spellings.
#[cold]
pub(crate) fn remove_trailers_of_credentials(headers: &mut HeaderMap) {
    if !headers.contains_key(TRAILER) {
        return;
    }
    let announced: Vec<HeaderValue> = headers.get_all(TRAILER).iter().cloned().collect();
    headers.remove(TRAILER);
    let credentials = Credentials::on(headers);
    for value in announced {
        let names = value.as_bytes().split(|&byte| byte == b',');
        let names: Vec<_> = names.map(<[u8]>::trim_ascii).collect();
        if !names.iter().any(|name| credentials.have(name)) {
            headers.append(TRAILER, value);
            continue;
        }
        for name in names {
            if !credentials.have(name)
                && let Ok(name) = HeaderValue::from_bytes(name)
            {
                headers.append(TRAILER, name);
            }
        }
    }
}

/// The names of the credentials on a request: `Authorization`, and each header whose value is marked as sensitive.
pub(crate) struct Credentials {
    besides_authorization: Vec<HeaderName>,
}

impl Credentials {
    pub(crate) fn on(headers: &HeaderMap) -> Self {
        let sensitive = headers.iter().filter(|(_, value)| value.is_sensitive());
        let names = sensitive.map(|(name, _)| name);
        Self {
            besides_authorization: names
                .filter(|name| **name != AUTHORIZATION)
                .cloned()
                .collect(),
        }
    }

    /// Whether a server may take a trailer of this name for one of them.
    pub(crate) fn have(&self, name: &[u8]) -> bool {
        let mut others = self.besides_authorization.iter();
        is_spelling(name, &AUTHORIZATION) || others.any(|other| is_spelling(name, other))
    }
}

/// Whether servers behind CGI read `name` as the header `header`: they know no case, and no difference of `-` and `_`.
pub(crate) fn is_spelling(name: &[u8], header: &HeaderName) -> bool {
    let plain = |byte: &u8| match byte {
        b'_' => b'-',
        byte => byte.to_ascii_lowercase(),
    };
    let header = header.as_str().as_bytes();
    // Most names have another length.
    name.len() == header.len() && name.iter().map(plain).eq(header.iter().map(plain))
}
