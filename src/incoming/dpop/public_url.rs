use std::borrow::Cow;

use crate::{oauth::http_client::parse_url, origin::Origin};

/// A URL under which callers know this gateway: its origin, and what its paths begin with.
pub(super) struct PublicUrl {
    origin: Origin,
    /// The origin as most clients write it.
    text: String,
    prefix: String,
}

impl PublicUrl {
    /// A fault is a sentence whose subject is the URL.
    pub(super) fn read(url: &str, insecure: bool) -> Result<Self, &'static str> {
        let (uri, origin) = parse_url(url, insecure)?;
        if uri.query().is_some() {
            return Err("has a query, remove the `?` and all after it");
        }
        Ok(Self {
            text: origin.to_string(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            origin,
        })
    }

    /// The origin of a URL, without its path.
    pub(super) fn origin_of(url: &str, insecure: bool) -> Option<Self> {
        let (_, origin) = parse_url(url, insecure).ok()?;
        Some(Self {
            text: origin.to_string(),
            prefix: String::new(),
            origin,
        })
    }

    /// Compares `htu` with the URL of a request (RFC 9449 §4.3): without query and fragment, after the normalization of
    /// RFC 3986 §6.2.2 and §6.2.3. `path` is the request's, beneath this URL.
    pub(super) fn is_of(&self, htu: &str, path: &str) -> bool {
        let end = htu.find(['?', '#']).unwrap_or(htu.len());
        let (htu, _) = htu.split_at(end);
        let Some(target) = self.path_of(htu) else {
            return false;
        };
        // Whoever calls the prefix itself may do without the slash at its end.
        (path == "/" && !self.prefix.is_empty() && is_same(target, &self.prefix))
            || match &*self.prefix {
                "" => is_same(target, path),
                prefix => is_same(target, &format!("{prefix}{path}")),
            }
    }

    /// The path of a URL with this origin.
    fn path_of<'a>(&self, url: &'a str) -> Option<&'a str> {
        let at_once = url.strip_prefix(&*self.text);
        if let Some(path) = at_once.filter(|path| path.is_empty() || path.starts_with('/')) {
            return Some(path);
        }
        let (scheme, rest) = url.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let origin = Origin::insecure(&format!("{scheme}://{authority}")).ok()?;
        (origin == self.origin).then_some(path)
    }
}

fn is_same(left: &str, right: &str) -> bool {
    left == right || normalized(left) == normalized(right)
}

/// The normal form of a path: each percent-encoding in upper case, or decoded where the character needs none, no segments
/// of dots, and a slash where there is nothing (RFC 3986 §6.2.2.1 to §6.2.3).
fn normalized(path: &str) -> Cow<'_, str> {
    if path.is_empty() {
        return "/".into();
    }
    let path = if path.contains('%') {
        Cow::Owned(decoded(path))
    } else {
        Cow::Borrowed(path)
    };
    if path.contains("/.") {
        without_dots(&path).into()
    } else {
        path
    }
}

fn decoded(path: &str) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, behind)) = rest.split_once('%') {
        decoded.push_str(before);
        let digits = behind
            .get(..2)
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        rest = match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                let is_unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
                if is_unreserved {
                    decoded.push(char::from(byte));
                } else {
                    decoded.push_str(&format!("%{byte:02X}"));
                }
                behind.get(2..).unwrap_or_default()
            }
            None => {
                decoded.push('%');
                behind
            }
        };
    }
    decoded.push_str(rest);
    decoded
}

/// RFC 3986 §5.2.4, for a path that begins with a slash.
fn without_dots(path: &str) -> String {
    let mut segments = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        match part {
            "." => {}
            ".." => _ = segments.pop(),
            part => {
                segments.push(part);
                continue;
            }
        }
        if is_last {
            segments.push("");
        }
    }
    format!("/{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_of(url: &str, htu: &str, path: &str) -> bool {
        PublicUrl::read(url, false).unwrap().is_of(htu, path)
    }

    #[test]
    fn a_target_is_compared_in_its_normal_form() {
        let gateway = "https://gateway.example.com";
        for (htu, path) in [
            ("https://gateway.example.com/mcp", "/mcp"),
            ("HTTPS://Gateway.EXAMPLE.com:443/mcp", "/mcp"),
            ("https://gateway.example.com:/mcp", "/mcp"),
            ("https://gateway.example.com/mcp?a=b#c", "/mcp"),
            ("https://gateway.example.com/mcp#c?d", "/mcp"),
            ("https://gateway.example.com", "/"),
            ("https://gateway.example.com?q", "/"),
            ("https://gateway.example.com/%7euser/a%2fb", "/~user/a%2Fb"),
            ("https://gateway.example.com/a/./b/../c", "/a/c"),
            ("https://gateway.example.com/a/%2e%2E/c", "/c"),
            ("https://gateway.example.com/a/b/..", "/a/"),
            ("https://gateway.example.com/../a", "/a"),
            ("https://gateway.example.com/%zz%", "/%zz%"),
        ] {
            assert!(is_of(gateway, htu, path), "{htu} {path}");
        }
        for (htu, path) in [
            ("http://gateway.example.com/mcp", "/mcp"),
            ("https://gateway.example.com:8443/mcp", "/mcp"),
            ("https://gateway.example.com.evil.example/mcp", "/mcp"),
            (
                "https://evil.example/https://gateway.example.com/mcp",
                "/mcp",
            ),
            ("https://gateway.example.com@evil.example/mcp", "/mcp"),
            ("https://user@gateway.example.com/mcp", "/mcp"),
            ("https://gateway.example.com/mcp/", "/mcp"),
            ("https://gateway.example.com/MCP", "/mcp"),
            ("https://gateway.example.com/a%2fb", "/a/b"),
            ("https://gateway.example.com//mcp", "/mcp"),
            ("https://gateway.example.com/other", "/mcp"),
            ("/mcp", "/mcp"),
            ("gateway.example.com/mcp", "/mcp"),
            ("https:///mcp", "/mcp"),
            ("", "/"),
            ("?", "/"),
        ] {
            assert!(!is_of(gateway, htu, path), "{htu} {path}");
        }
    }

    #[test]
    fn a_prefix_comes_before_each_path() {
        let gateway = "https://gateway.example.com/tenants/%61cme/";
        for (htu, path) in [
            ("https://gateway.example.com/tenants/acme/mcp", "/mcp"),
            ("https://gateway.example.com/tenants/acme", "/"),
            ("https://gateway.example.com/tenants/acme/", "/"),
        ] {
            assert!(is_of(gateway, htu, path), "{htu} {path}");
        }
        assert!(!is_of(gateway, "https://gateway.example.com/mcp", "/mcp"));
        assert!(!is_of(gateway, "https://gateway.example.com", "/"));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_each_url_is_its_own(htu in ".{0,80}", path in "/[ -~]{0,40}") {
            let _ = is_of("https://gateway.example.com/a", &htu, &path);
            let _ = is_of("https://gateway.example.com", &format!("https://gateway.example.com{htu}"), &path);
            let clean = path.split(['?', '#']).next().unwrap();
            let whole = format!("https://gateway.example.com{clean}");
            let is_its_own = is_of("https://gateway.example.com", &whole, clean);
            prop_assert!(is_its_own);
        }

        #[test]
        fn a_normal_form_is_its_own_normal_form(path in "/[a-c./]{0,40}") {
            let once = normalized(&path).into_owned();
            prop_assert_eq!(&*normalized(&once), &*once);
        }
    }
}
