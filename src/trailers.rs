use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION, header::TRAILER};

/// Removes the names of credentials from `Trailer`, because a server may put what a trailer says into the header of that
/// name (RFC 9110 §6.5.2).
///
/// A credential is `Authorization`, or a header whose value is marked as sensitive. Its name is removed in all spellings.
#[cold]
pub(crate) fn remove_trailers_of_credentials(headers: &mut HeaderMap) {
    if !headers.contains_key(TRAILER) {
        return;
    }
    let announced: Vec<HeaderValue> = headers.get_all(TRAILER).iter().cloned().collect();
    headers.remove(TRAILER);
    let sensitive = headers.iter().filter(|(_, value)| value.is_sensitive());
    let mut credentials: Vec<HeaderName> = sensitive.map(|(name, _)| name.clone()).collect();
    credentials.push(AUTHORIZATION);
    let is_credential = |name: &[u8]| {
        let mut credentials = credentials.iter();
        credentials.any(|credential| is_spelling(name, credential))
    };
    for value in announced {
        let names = value.as_bytes().split(|&byte| byte == b',');
        let names: Vec<_> = names.map(<[u8]>::trim_ascii).collect();
        if !names.iter().any(|name| is_credential(name)) {
            headers.append(TRAILER, value);
            continue;
        }
        for name in names {
            if !is_credential(name)
                && let Ok(name) = HeaderValue::from_bytes(name)
            {
                headers.append(TRAILER, name);
            }
        }
    }
}

/// Whether servers behind CGI read `name` as the header `header`: they know no case, and no difference of `-` and `_`.
pub(crate) fn is_spelling(name: &[u8], header: &HeaderName) -> bool {
    let plain = |byte: &u8| match byte {
        b'_' => b'-',
        byte => byte.to_ascii_lowercase(),
    };
    let header = header.as_str().as_bytes();
    name.iter().map(plain).eq(header.iter().map(plain))
}
