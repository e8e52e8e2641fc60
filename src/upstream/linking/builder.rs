use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::{Response, Uri};
use http_body_util::Full;

use crate::{
    error::{BuildError, Faults},
    oauth::http_client::parse_url,
    upstream::upstream_tokens::UpstreamTokens,
};

use super::{
    account_linking::{AccountLinking, ErrorPage, Inner},
    browser::is_local_path,
    code_flow::{CodeFlow, NO_KEYS},
    link_error::LinkError,
};

const LONGEST_NAME: usize = 64;

/// Builds an [`AccountLinking`].
///
/// Needs the feature `linking`.
#[must_use = "nothing is checked before `build`"]
pub struct AccountLinkingBuilder {
    url: String,
    upstream: UpstreamTokens,
    return_to: Option<String>,
    error_page: Option<Arc<ErrorPage>>,
}

impl AccountLinkingBuilder {
    pub(super) fn new(url: String, upstream: UpstreamTokens) -> Self {
        Self {
            url,
            upstream,
            return_to: None,
            error_page: None,
        }
    }

    /// Sets the path on this host where users go at the end, if their request names none. By default the path of the
    /// service's URL.
    pub fn return_to(mut self, path: impl Into<String>) -> Self {
        self.return_to = Some(path.into());
        self
    }

    /// Sets the response for an error, for example a page in your application's style, or a redirect to its login for
    /// [`NotLoggedIn`](super::LinkErrorKind::NotLoggedIn). By default it is [`LinkError::page`].
    ///
    /// `Cache-Control`, `Referrer-Policy` and `X-Content-Type-Options` are set on it, and a `Content-Security-Policy` if
    /// it has none.
    pub fn error_page<F>(mut self, page: F) -> Self
    where
        F: Fn(&LinkError) -> Response<Full<Bytes>> + Send + Sync + 'static,
    {
        self.error_page = Some(Arc::new(page));
        self
    }

    /// Makes the service.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when one of these settings is wrong:
    ///
    /// - `url` is not an absolute `https` URL (or `http` on loopback), or has a query.
    /// - `upstream` has no provider that an [`OAuthProvider`](crate::upstream::OAuthProvider) made, has one whose name is
    ///   not 1 to 64 of `[A-Za-z0-9._-]`, or its store has no [sealing keys](crate::UpstreamTokenStore::sealing_keys).
    /// - `return_to` is not a path of at most 512 visible ASCII characters.
    pub fn build(self) -> Result<AccountLinking, BuildError> {
        let mut faults = Faults::new("AccountLinking");
        let url = faults.take("url", parse_url(&self.url, false));
        if url.as_ref().is_some_and(|(uri, _)| uri.query().is_some()) {
            faults.add("url", "has a query, leave it out");
        }
        let linked: Vec<_> = self.upstream.linked().collect();
        if linked.is_empty() {
            faults.add(
                "upstream",
                "has no provider that an `OAuthProvider` made, add one with `OAuthProvider::provider`",
            );
        }
        let is_name = |name: &str| {
            (1..=LONGEST_NAME).contains(&name.len())
                && name.bytes().any(|byte| byte != b'.')
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
        };
        if linked.iter().any(|(name, _)| !is_name(name)) {
            faults.add(
                "upstream",
                "has a provider whose name is not 1 to 64 of `[A-Za-z0-9._-]`, as a path needs it",
            );
        }
        if self.upstream.store().sealing_keys().is_empty() {
            faults.add("upstream.store", NO_KEYS);
        }
        if self
            .return_to
            .as_deref()
            .is_some_and(|path| !is_local_path(path))
        {
            faults.add(
                "return_to",
                "is not a path of this host, such as `/accounts`",
            );
        }
        let (uri, _) = faults.or(url)?;
        // As a browser writes it in `Origin`.
        let origin = origin_of(&uri);
        let prefix = uri.path().trim_end_matches('/').to_owned();
        let flows = linked.into_iter().map(|(name, provider)| {
            let redirect_uri = format!("{origin}{prefix}/link/callback/{name}");
            let store = Arc::clone(self.upstream.store());
            let flow = CodeFlow::of(provider.clone(), redirect_uri, store, self.upstream.time());
            (name.to_owned(), flow)
        });
        Ok(AccountLinking::of(Inner {
            flows: flows.collect(),
            return_to: self.return_to.unwrap_or_else(|| match &*prefix {
                "" => "/".to_owned(),
                prefix => prefix.to_owned(),
            }),
            origin,
            prefix,
            upstream: self.upstream,
            error_page: self.error_page,
        }))
    }
}

/// The origin in the form of RFC 6454 §6.2: in lower case, and without a default port.
fn origin_of(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    match (scheme, uri.port_u16()) {
        (_, None) | ("https", Some(443)) | ("http", Some(80)) => format!("{scheme}://{host}"),
        (_, Some(port)) => format!("{scheme}://{host}:{port}"),
    }
}

impl fmt::Debug for AccountLinkingBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountLinkingBuilder")
            .field("upstream", &self.upstream)
            .finish_non_exhaustive()
    }
}
