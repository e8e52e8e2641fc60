use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, PROXY_AUTHENTICATE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Removes the headers of the caller's connection (RFC 9110 §7.6.1), so that no inner service deletes a header that the
/// layer adds.
///
/// It removes each header that `Connection` names, and the hop-by-hop headers. `Connection` keeps `close`, `keep-alive`
/// and an upgrade with its `Upgrade` header. An upgrade to HTTP/2 (`h2c`) is removed too: it is obsolete (RFC 9113
/// §3.1), and would let a caller send further requests past the gateway. `TE: trailers` stays, because gRPC needs it and
/// HTTP/2 allows it (RFC 9113 §8.2.2).
///
/// It returns whether the request announces trailers, because whoever adds a credential then has to [take its name out of
/// them](crate::trailers::remove_trailers_of_credentials).
#[cfg(feature = "aws-sts")]
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) -> bool {
    NotableHeaders::of(headers).remove_hop_by_hop(headers)
}

/// Says which headers a request has of those that are looked at before a credential is added. It is found in one pass,
/// which is cheaper than looking each of them up.
#[derive(Clone, Copy, Default)]
pub(crate) struct NotableHeaders {
    pub(crate) has_host: bool,
    has_hops_or_trailers: bool,
    /// The request has a DPoP proof (RFC 9449 §4.1).
    has_proof: bool,
}

impl NotableHeaders {
    #[inline]
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for name in headers.keys() {
            let name = name.as_str();
            if may_be_one(name) {
                found.note(name);
            }
        }
        found
    }

    /// Whether some of the headers may have to be removed.
    #[inline]
    pub(crate) fn are_to_change(self) -> bool {
        self.has_hops_or_trailers | self.has_proof
    }

    /// As [`remove_hop_by_hop`], for the headers that this was found of.
    #[inline]
    pub(crate) fn remove_hop_by_hop(self, headers: &mut HeaderMap) -> bool {
        self.has_hops_or_trailers && remove(headers)
    }

    fn note(&mut self, name: &str) {
        match name {
            "host" => self.has_host = true,
            "dpop" => self.has_proof = true,
            "connection" | "http2-settings" | "keep-alive" | "proxy-authenticate"
            | "proxy-connection" | "te" | "trailer" | "transfer-encoding" | "upgrade" => {
                self.has_hops_or_trailers = true;
            }
            _ => {}
        }
    }
}

/// Whether the name has the length and the first letter of one that [`NotableHeaders::note`] knows. Most names do not.
#[inline]
fn may_be_one(name: &str) -> bool {
    matches!(name.len(), 2 | 4 | 7 | 10 | 14 | 16 | 17 | 18)
        && matches!(
            name.as_bytes(),
            [b'c' | b'd' | b'h' | b'k' | b'p' | b't' | b'u', ..]
        )
}

#[cold]
fn remove(headers: &mut HeaderMap) -> bool {
    let mut kept = Vec::new();
    let mut named = Vec::new();
    let connection: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    for value in &connection {
        for option in value.as_bytes().split(|&byte| byte == b',') {
            let option = option.trim_ascii();
            if option.eq_ignore_ascii_case(b"close") {
                kept.push("close");
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                kept.push("keep-alive");
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                if upgrades_to_another_protocol(headers) {
                    kept.push("upgrade");
                }
            } else if let Ok(name) = HeaderName::from_bytes(option) {
                named.push(name);
            }
        }
    }
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        HTTP2_SETTINGS,
        KEEP_ALIVE,
        PROXY_AUTHENTICATE,
        PROXY_CONNECTION,
        TRANSFER_ENCODING,
    ] {
        headers.remove(name);
    }
    if !kept.contains(&"upgrade") {
        headers.remove(UPGRADE);
    }
    let mut te = headers.get_all(TE).iter();
    let only_trailers = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"trailers");
    if !te.all(only_trailers) {
        headers.remove(TE);
    }
    kept.sort_unstable();
    kept.dedup();
    if !kept.is_empty()
        && let Ok(connection) = HeaderValue::try_from(kept.join(", "))
    {
        headers.insert(CONNECTION, connection);
    }
    headers.contains_key(TRAILER)
}

fn upgrades_to_another_protocol(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(UPGRADE).iter().peekable();
    let is_http2 = |protocol: &[u8]| {
        let name = protocol.split(|&byte| byte == b'/').next();
        let name = name.unwrap_or_default().trim_ascii();
        name.eq_ignore_ascii_case(b"h2c") || name.eq_ignore_ascii_case(b"h2")
    };
    protocols.peek().is_some()
        && !protocols.any(|value| value.as_bytes().split(|&byte| byte == b',').any(is_http2))
}
