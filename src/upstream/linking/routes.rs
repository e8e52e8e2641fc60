use http::Method;

/// The page that a request asks for.
pub(super) enum Route<'a> {
    Start(&'a str),
    Callback(&'a str),
    Unlink(&'a str),
    WrongMethod,
    NotFound,
}

/// Reads a path that begins with the prefix of the mount point, or from which a router has removed it.
pub(super) fn find<'a>(method: &Method, path: &'a str, prefix: &str) -> Route<'a> {
    let whole = path.strip_prefix(prefix).filter(|_| !prefix.is_empty());
    for path in whole.into_iter().chain([path]) {
        let mut parts = path.split('/');
        let parts: [_; 5] = std::array::from_fn(|_| parts.next());
        let (route, allowed) = match parts {
            [Some(""), Some("link"), Some(provider), None, _] => {
                (Route::Start(provider), Method::GET)
            }
            [
                Some(""),
                Some("link"),
                Some("callback"),
                Some(provider),
                None,
            ] => (Route::Callback(provider), Method::GET),
            [Some(""), Some("unlink"), Some(provider), None, _] => {
                (Route::Unlink(provider), Method::POST)
            }
            _ => continue,
        };
        return if *method == allowed {
            route
        } else {
            Route::WrongMethod
        };
    }
    Route::NotFound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: &str, path: &str, prefix: &str) -> String {
        match find(&method.parse().unwrap(), path, prefix) {
            Route::Start(provider) => format!("start {provider}"),
            Route::Callback(provider) => format!("callback {provider}"),
            Route::Unlink(provider) => format!("unlink {provider}"),
            Route::WrongMethod => "wrong method".to_owned(),
            Route::NotFound => "not found".to_owned(),
        }
    }

    #[test]
    fn routes_are_found_with_the_prefix_and_without() {
        for prefix in ["", "/accounts", "/link", "/link/link"] {
            for mounted in [prefix, ""] {
                for (method, path, expected) in [
                    ("GET", "/link/github", "start github"),
                    ("GET", "/link/callback/github", "callback github"),
                    ("POST", "/unlink/github", "unlink github"),
                    ("POST", "/link/github", "wrong method"),
                    ("GET", "/unlink/github", "wrong method"),
                    ("GET", "/", "not found"),
                    ("GET", "/link", "not found"),
                    ("GET", "/link/callback/github/more", "not found"),
                ] {
                    let path = format!("{mounted}{path}");
                    // With this prefix, the path is one of the pages itself.
                    if !prefix.starts_with("/link") || expected != "not found" {
                        assert_eq!(found(method, &path, prefix), expected, "{prefix} {path}");
                    }
                }
            }
        }
    }
}
