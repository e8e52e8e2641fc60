//! [`Origin`]: the only place where a credential may be sent.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

use http::{
    Uri,
    header::HeaderValue,
    uri::{Authority, Scheme},
};

const HTTP: &str = "http";
const HTTPS: &str = "https";

/// The scheme, host and port of a backend (RFC 6454 §4), the only place where its credentials may be sent.
///
/// Comparison ignores the case of the host, and treats a missing port as the default port of the scheme. Plain `http`
/// is refused except for loopback (`localhost`, `127.0.0.0/8`, `[::1]`). Use [`Origin::insecure`] to allow it for
/// another host.
///
/// ```
/// use tower_identity::Origin;
///
/// let origin = Origin::try_from("https://MCP.example.com:443")?;
/// assert_eq!(origin, Origin::try_from("https://mcp.example.com")?);
/// assert_eq!(origin.to_string(), "https://mcp.example.com");
///
/// assert!(Origin::try_from("https://mcp.example.com/mcp").is_err());
/// assert!(Origin::try_from("http://mcp.internal").is_err());
/// assert!(Origin::insecure("http://mcp.internal").is_ok());
/// # Ok::<(), tower_identity::InvalidOrigin>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    inner: Arc<Inner>,
}

#[derive(PartialEq, Eq, Hash)]
struct Inner {
    is_https: bool,
    host: String,
    port: u16,
    /// The authority as clients write it: without the default port.
    authority: String,
    /// The whole, as `Display` writes it.
    text: String,
}

impl Origin {
    /// Creates an origin whose scheme may be plain `http` on any host.
    ///
    /// # Security
    ///
    /// With plain `http`, anyone who can read the network can read the credentials. Use it only in a trusted network.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidOrigin`] if the text is not an origin.
    pub fn insecure(origin: &str) -> Result<Self, InvalidOrigin> {
        Self::parse(origin)
    }

    /// Returns the scheme, `http` or `https`.
    pub fn scheme(&self) -> &str {
        if self.inner.is_https { HTTPS } else { HTTP }
    }

    /// Returns the host in lower case. An IPv6 address is in brackets.
    pub fn host(&self) -> &str {
        &self.inner.host
    }

    /// Returns the port, or the scheme's default port if none was given.
    pub fn port(&self) -> u16 {
        self.inner.port
    }

    #[cfg(feature = "dpop")]
    pub(crate) fn as_str(&self) -> &str {
        &self.inner.text
    }

    fn parse(text: &str) -> Result<Self, InvalidOrigin> {
        // `Uri` drops a fragment without a word.
        if text.contains('#') {
            return Err(InvalidOrigin::NotOnlyAnOrigin("a fragment"));
        }
        let uri = text.parse::<Uri>().map_err(|_| InvalidOrigin::NotAUri)?;
        Self::from_uri(&uri)
    }

    fn from_uri(uri: &Uri) -> Result<Self, InvalidOrigin> {
        let is_https = match uri.scheme().map(Scheme::as_str) {
            Some(HTTPS) => true,
            Some(HTTP) => false,
            _ => return Err(InvalidOrigin::Scheme),
        };
        let authority = uri.authority().ok_or(InvalidOrigin::Host)?;
        if authority.as_str().contains('@') {
            return Err(InvalidOrigin::NotOnlyAnOrigin("user info"));
        }
        if uri.path() != "/" {
            return Err(InvalidOrigin::NotOnlyAnOrigin("a path"));
        }
        if uri.query().is_some() {
            return Err(InvalidOrigin::NotOnlyAnOrigin("a query"));
        }
        let host = authority.host().to_ascii_lowercase();
        if !is_host(&host) {
            return Err(InvalidOrigin::Host);
        }
        let port = port(authority, is_https)
            .filter(|port| *port != 0)
            .ok_or(InvalidOrigin::Port)?;
        let authority = if port == default_port(is_https) {
            host.clone()
        } else {
            format!("{host}:{port}")
        };
        let scheme = if is_https { HTTPS } else { HTTP };
        Ok(Self {
            inner: Arc::new(Inner {
                text: format!("{scheme}://{authority}"),
                is_https,
                host,
                port,
                authority,
            }),
        })
    }

    fn confidential(self) -> Result<Self, InvalidOrigin> {
        if self.inner.is_https || is_loopback(&self.inner.host) {
            Ok(self)
        } else {
            Err(InvalidOrigin::Insecure)
        }
    }

    #[inline]
    pub(crate) fn is_scheme(&self, scheme: &Scheme) -> bool {
        match scheme.as_str() {
            HTTPS => self.inner.is_https,
            HTTP => !self.inner.is_https,
            _ => false,
        }
    }

    #[inline]
    pub(crate) fn is_authority(&self, authority: &Authority) -> bool {
        authority.as_str().as_bytes() == self.inner.authority.as_bytes()
            || self.is_authority_in_other_words(authority)
    }

    #[cold]
    fn is_authority_in_other_words(&self, authority: &Authority) -> bool {
        !authority.as_str().contains('@')
            && authority.host().eq_ignore_ascii_case(&self.inner.host)
            && port(authority, self.inner.is_https) == Some(self.inner.port)
    }

    pub(crate) fn is_host_header(&self, host: &HeaderValue) -> bool {
        host == self.inner.authority.as_str()
            || Authority::try_from(host.as_bytes())
                .is_ok_and(|authority| self.is_authority(&authority))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.text)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({self})")
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        Self::parse(text)?.confidential()
    }
}

impl TryFrom<&str> for Origin {
    type Error = InvalidOrigin;

    fn try_from(text: &str) -> Result<Self, InvalidOrigin> {
        text.parse()
    }
}

impl TryFrom<String> for Origin {
    type Error = InvalidOrigin;

    fn try_from(text: String) -> Result<Self, InvalidOrigin> {
        text.parse()
    }
}

impl TryFrom<&Uri> for Origin {
    type Error = InvalidOrigin;

    fn try_from(uri: &Uri) -> Result<Self, InvalidOrigin> {
        Self::from_uri(uri)?.confidential()
    }
}

impl TryFrom<Uri> for Origin {
    type Error = InvalidOrigin;

    fn try_from(uri: Uri) -> Result<Self, InvalidOrigin> {
        Self::try_from(&uri)
    }
}

/// The reason why a text is not an [`Origin`].
///
/// The text is not repeated, because it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidOrigin {
    /// It is not a URI (RFC 3986).
    #[error(
        "an origin is a URI such as `https://mcp.example.com`, an international name in its ASCII form (`xn--…`); this is none"
    )]
    NotAUri,
    /// It has no scheme, or a scheme other than `http` or `https`.
    #[error("an origin begins with `https://` (or `http://`)")]
    Scheme,
    /// It has no host, or a host in brackets that is not an IPv6 address.
    #[error("an origin has a host: a name, an IPv4 address, or an IPv6 address in brackets")]
    Host,
    /// Its port is 0, too large or not a number.
    #[error("the port of an origin is a number from 1 to 65535")]
    Port,
    /// It has a path, a query, a fragment or user info.
    #[error("an origin is scheme, host and port alone; this has {0}")]
    NotOnlyAnOrigin(&'static str),
    /// It is plain `http` on a host that is not loopback.
    #[error(
        "plain http would show the credentials to the network; use https, \
         or `Origin::insecure` where the network is trusted"
    )]
    Insecure,
}

/// Returns `None` if the text after the host is not a port.
fn port(authority: &Authority, is_https: bool) -> Option<u16> {
    match authority.as_str().strip_prefix(authority.host())? {
        "" | ":" => Some(default_port(is_https)),
        port => {
            let port = port.strip_prefix(':')?;
            port.bytes()
                .all(|byte| byte.is_ascii_digit())
                .then(|| port.parse().ok())?
        }
    }
}

/// Checks the host, because the crate `http` accepts any text in brackets.
fn is_host(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(address) => address
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => !host.is_empty(),
    }
}

fn default_port(is_https: bool) -> u16 {
    if is_https { 443 } else { 80 }
}

fn is_loopback(host: &str) -> bool {
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    host == "localhost"
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}
