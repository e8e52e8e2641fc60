use std::sync::Arc;

use crate::error::Faults;

use super::syntax::is_absolute_uri;

/// The type of a token (RFC 8693 §3).
///
/// Needs the feature `token-exchange`.
///
/// ```
/// use tower_identity::oauth::TokenType;
///
/// let saml = TokenType::of_urn("urn:ietf:params:oauth:token-type:saml2");
/// assert_eq!(saml, TokenType::Saml2);
/// let own = TokenType::of_urn("urn:example:token-type:badge");
/// assert_eq!(own.urn(), "urn:example:token-type:badge");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenType {
    /// An OAuth 2.0 access token.
    AccessToken,
    /// An OAuth 2.0 refresh token.
    RefreshToken,
    /// An OpenID Connect ID token.
    IdToken,
    /// A JWT for any use.
    Jwt,
    /// An identity assertion for another authorization server (draft-ietf-oauth-identity-assertion-authz-grant).
    IdJag,
    /// A SAML 1.1 assertion, in base64url.
    Saml1,
    /// A SAML 2.0 assertion, in base64url.
    Saml2,
    /// Any other type, by its URI. [`of_urn`](Self::of_urn) makes it.
    Other(Arc<str>),
}

impl TokenType {
    const KNOWN: [Self; 7] = [
        Self::AccessToken,
        Self::RefreshToken,
        Self::IdToken,
        Self::Jwt,
        Self::IdJag,
        Self::Saml1,
        Self::Saml2,
    ];

    /// Returns the type with this identifier, an absolute URI.
    pub fn of_urn(urn: &str) -> Self {
        Self::KNOWN
            .into_iter()
            .find(|known| known.urn() == urn)
            .unwrap_or_else(|| Self::Other(urn.into()))
    }

    /// Returns the identifier of the type, for example `urn:ietf:params:oauth:token-type:access_token`.
    pub fn urn(&self) -> &str {
        match self {
            Self::AccessToken => "urn:ietf:params:oauth:token-type:access_token",
            Self::RefreshToken => "urn:ietf:params:oauth:token-type:refresh_token",
            Self::IdToken => "urn:ietf:params:oauth:token-type:id_token",
            Self::Jwt => "urn:ietf:params:oauth:token-type:jwt",
            Self::IdJag => "urn:ietf:params:oauth:token-type:id-jag",
            Self::Saml1 => "urn:ietf:params:oauth:token-type:saml1",
            Self::Saml2 => "urn:ietf:params:oauth:token-type:saml2",
            Self::Other(urn) => urn,
        }
    }

    /// Returns `true` if a token of this type can be sent as a bearer token.
    pub(crate) fn can_be_bearer(&self) -> bool {
        matches!(self, Self::AccessToken | Self::Jwt | Self::Other(_))
    }

    /// Reports a type whose identifier is no URI under the name of this setting.
    pub(crate) fn check(&self, setting: &'static str, faults: &mut Faults) {
        if !is_absolute_uri(self.urn()) {
            faults.add(
                setting,
                "is not an absolute URI, such as `urn:ietf:params:oauth:token-type:saml2` (RFC 8693 §3)",
            );
        }
    }
}
