use std::fmt;

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

use crate::{
    credential_header::CredentialHeader,
    error::{BuildError, Faults},
    outgoing::headers::{header_name, is_restricted},
    secret::{AccessToken, BEARER, InvalidSecret},
};

const LONGEST_PREFIX: usize = 64;

/// The header that a token is sent in. The default is `Authorization: Bearer …` (RFC 6750 §2.1).
///
/// ```
/// use tower_identity::{Placement, UpstreamInject};
///
/// // Authorization: token gho_16C7e42F292c
/// let github = UpstreamInject::new("github")?
///     .placement(Placement::header("authorization")?.prefix("token ")?);
///
/// // x-api-key: gho_16C7e42F292c
/// let api_key = UpstreamInject::new("github")?
///     .placement(Placement::header("x-api-key")?);
/// # Ok::<(), tower_identity::BuildError>(())
/// ```
///
/// The header replaces one that the request has, in each spelling: `x_api_key` is removed for `x-api-key`, because servers
/// behind CGI read both as one. To send two credentials, use [`Both`](crate::strategy::Both).
///
/// # Security
///
/// The value is marked sensitive, and leaves only to the [`Origin`](crate::Origin) of the
/// [`AuthLayer`](crate::AuthLayer). There is no placement in the query, because a URL is written into logs, into the
/// history of browsers and into `Referer` headers (RFC 9700 §4.3.2).
#[derive(Clone)]
pub struct Placement {
    header: CredentialHeader,
    /// `None` stands for `Bearer `, with which an `AccessToken` has a ready-made value.
    prefix: Option<String>,
    /// The header is `Authorization`, whose name has no other spelling.
    is_authorization: bool,
}

impl Placement {
    /// Sends `Authorization: Bearer …`.
    pub fn bearer() -> Self {
        Self {
            header: CredentialHeader::new(AUTHORIZATION),
            prefix: None,
            is_authorization: true,
        }
    }

    /// Sends the header `name` with the token alone.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] if `name` is not a header name (RFC 9110 §5.1), or is
    /// [restricted](crate::HeaderForwardLayer#restricted-names). Of the restricted names, `authorization` is allowed.
    pub fn header(name: &str) -> Result<Self, BuildError> {
        let mut faults = Faults::new("Placement");
        let name = faults.take("name", header_name(name));
        if name
            .as_ref()
            .is_some_and(|name| is_restricted(name) && name != AUTHORIZATION)
        {
            faults.add(
                "name",
                "is a header of the connection or the session, choose the one that the backend reads its credential from",
            );
        }
        let name = faults.or(name)?;
        Ok(Self {
            is_authorization: name == AUTHORIZATION,
            header: CredentialHeader::new(name),
            prefix: Some(String::new()),
        })
    }

    /// Sets the text before the token, with its space. For example, `Bearer ` in `x-upstream-authorization`.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] if `prefix` has more than 64 characters, begins with a space, or has a character outside
    /// of visible ASCII and space.
    pub fn prefix(mut self, prefix: &str) -> Result<Self, BuildError> {
        let mut faults = Faults::new("Placement");
        let is_text = prefix.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if prefix.len() > LONGEST_PREFIX || !is_text || prefix.starts_with(' ') {
            faults.add(
                "prefix",
                "is not a scheme such as `token ` (at most 64 characters of visible ASCII and space, and no space first)",
            );
        }
        faults.check()?;
        self.prefix = (prefix != BEARER).then(|| prefix.to_owned());
        Ok(self)
    }

    /// Whether it is `Authorization: Bearer …`.
    #[cfg(feature = "token-exchange")]
    pub(crate) fn is_bearer(&self) -> bool {
        self.is_authorization && self.prefix.is_none()
    }

    /// Returns the value of the header for this token.
    #[inline]
    pub(crate) fn value(&self, token: &AccessToken) -> Result<HeaderValue, InvalidSecret> {
        match &self.prefix {
            None => Ok(token.authorization().clone()),
            Some(prefix) => token.header_value(prefix),
        }
    }

    /// Puts the value onto the request.
    #[inline]
    pub(crate) fn set(&self, headers: &mut HeaderMap, value: HeaderValue) {
        if self.is_authorization {
            headers.insert(AUTHORIZATION, value);
        } else {
            self.header.insert(headers, value);
        }
    }

    /// Puts the value onto the request. Returns whether the request had this very value already.
    #[cfg(feature = "token-exchange")]
    #[inline]
    pub(crate) fn put_on(&self, headers: &mut HeaderMap, value: HeaderValue) -> bool {
        if self.is_authorization {
            let replaced = headers.insert(AUTHORIZATION, value);
            return replaced.is_some_and(|replaced| headers.get(AUTHORIZATION) == Some(&replaced));
        }
        let had_it = self.is_on(headers, &value);
        self.header.insert(headers, value);
        had_it
    }

    #[cfg(feature = "token-exchange")]
    pub(crate) fn is_on(&self, headers: &HeaderMap, value: &HeaderValue) -> bool {
        headers.get(self.header.name()) == Some(value)
    }

    /// Adds the setting to `scope`, unless it is the default.
    #[cfg(feature = "token-exchange")]
    pub(crate) fn describe(
        &self,
        scope: crate::credential::cache::key::CacheScope,
    ) -> crate::credential::cache::key::CacheScope {
        match &self.prefix {
            None if self.is_authorization => scope,
            prefix => scope
                .field("placement", self.header.name())
                .field("prefix", prefix.as_deref().unwrap_or(BEARER)),
        }
    }
}

impl Default for Placement {
    /// Returns [`Placement::bearer`].
    fn default() -> Self {
        Self::bearer()
    }
}

impl fmt::Debug for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placement")
            .field("header", self.header.name())
            .field("prefix", &self.prefix.as_deref().unwrap_or(BEARER))
            .finish()
    }
}
