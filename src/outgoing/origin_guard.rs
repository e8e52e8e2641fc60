use std::borrow::Cow;

use http::{
    HeaderMap, Request, Uri,
    header::HOST,
    uri::{Authority, Scheme},
};

use crate::{
    error::{AuthError, AuthErrorKind},
    hop_by_hop::NotableHeaders,
    origin::Origin,
};

/// Checks that a request goes to the origin, before a layer adds a credential.
#[derive(Clone, Debug)]
pub(crate) struct OriginGuard {
    origin: Origin,
    relative: RelativeUri,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum RelativeUri {
    Refused,
    ClientFixesOrigin,
}

impl OriginGuard {
    pub(crate) fn new(origin: Origin) -> Self {
        Self {
            origin,
            relative: RelativeUri::Refused,
        }
    }

    pub(crate) fn client_fixes_origin(mut self) -> Self {
        self.relative = RelativeUri::ClientFixesOrigin;
        self
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Refuses a request that does not, in every place that could route it, go to the origin.
    #[inline]
    pub(crate) fn check<B>(
        &self,
        request: &Request<B>,
        headers: NotableHeaders,
    ) -> Result<(), AuthError> {
        let uri = request.uri();
        if !is_only_a_path(uri) || !self.is_origin_of(uri) {
            return Err(self.refusal(uri));
        }
        if headers.has_host && !self.is_only_host(request.headers()) {
            return Err(self.wrong_origin(
                "the request's `host` header disagrees with the origin that these credentials are for; \
                 do not forward the incoming `host`",
            ));
        }
        Ok(())
    }

    #[inline]
    fn is_origin_of(&self, uri: &Uri) -> bool {
        match (uri.scheme(), uri.authority()) {
            (Some(scheme), Some(authority)) => {
                self.origin.is_scheme(scheme) && self.origin.is_authority(authority)
            }
            (None, None) => self.relative == RelativeUri::ClientFixesOrigin,
            _ => false,
        }
    }

    /// Says why a request to `uri` was refused.
    #[cold]
    fn refusal(&self, uri: &Uri) -> AuthError {
        if !is_only_a_path(uri) {
            return self.wrong_origin(
                "a client could take the path of the request for a host, or a part of one",
            );
        }
        match (uri.scheme(), uri.authority()) {
            (None, None) => self.wrong_origin(
                "the request has a relative URI, so where it goes is not known here; give it an absolute one, \
                 or tell the layer that the client beneath it fixes the origin (`client_fixes_origin`)",
            ),
            (_, Some(authority)) if authority.as_str().contains('@') => self.wrong_origin(
                "the request's URI has user info, which is a credential of its own; remove it",
            ),
            (scheme, authority) => {
                let scheme = scheme.map_or("", Scheme::as_str);
                let authority = authority.map_or("", Authority::as_str);
                self.wrong_origin(format!(
                    "the request goes to {scheme}://{authority}, and these credentials are for another origin; \
                     look for a redirect that was followed above this layer, or a wrong route",
                ))
            }
        }
    }

    fn is_only_host(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next();
        host.is_some_and(|host| self.origin.is_host_header(host)) && hosts.next().is_none()
    }

    #[cold]
    fn wrong_origin(&self, message: impl Into<Cow<'static, str>>) -> AuthError {
        AuthError::new(AuthErrorKind::WrongOrigin, message).with_backend(self.origin.clone())
    }
}

/// `http` accepts the path `*` after a host, and a client that resolves a relative `//host` goes there (RFC 3986 §4.2).
#[inline]
fn is_only_a_path(uri: &Uri) -> bool {
    match uri.path().as_bytes() {
        [b'/', b'/' | b'\\', ..] => uri.authority().is_some(),
        [b'/', ..] => true,
        _ => false,
    }
}
