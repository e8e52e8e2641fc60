use std::{borrow::Cow, fmt};

use zeroize::Zeroizing;

use crate::{
    credential::cache::key::CacheScope,
    dpop::BoundKey,
    error::{AuthError, AuthErrorKind},
};

#[cfg(feature = "dpop")]
use super::dpop::key::DpopKey;
use super::{
    form::Form,
    response::repeats,
    syntax::{is_absolute_uri, is_scope},
    token_type::TokenType,
};

/// A request to a token endpoint, with a grant and its parameters (RFC 6749 §4).
///
/// Needs the feature `token-exchange`.
///
/// The values are kept in memory that is wiped when the request is dropped. The endpoint adds the client
/// authentication.
///
/// The part that is the same for all users can be built and [checked](Self::check) once, and then cloned for each user.
///
/// [`TokenEndpoint`](crate::TokenEndpoint) has an example.
#[derive(Clone)]
#[must_use = "nothing is sent before an endpoint gets it"]
pub struct TokenRequest {
    grant: Grant,
    form: Form,
    requested_token_type: Option<TokenType>,
    /// It has a `grant_type` of the issuer's own.
    has_own_grant_type: bool,
    /// The tokens in the request are of the client itself.
    is_of_client: bool,
    invalid: Option<&'static str>,
    /// The key that the token is bound to, if it is not the one for tokens that belong to no user.
    #[cfg(feature = "dpop")]
    dpop_key: Option<DpopKey>,
}

#[derive(Clone, Copy, PartialEq)]
enum Grant {
    TokenExchange,
    ClientCredentials,
    JwtBearer,
    AuthorizationCode,
    RefreshToken,
}

impl TokenRequest {
    /// Creates a request that exchanges one token for another (RFC 8693 §2.1). It needs a
    /// [`subject_token`](Self::subject_token).
    pub fn token_exchange() -> Self {
        Self::new(Grant::TokenExchange)
    }

    /// Creates a request for a token for the client itself (RFC 6749 §4.4).
    pub fn client_credentials() -> Self {
        Self::new(Grant::ClientCredentials)
    }

    /// Creates a request for a token for the subject of a JWT (RFC 7523 §2.1). It needs an
    /// [`assertion`](Self::assertion).
    pub fn jwt_bearer() -> Self {
        Self::new(Grant::JwtBearer)
    }

    /// Creates a request that exchanges an authorization code for the user's token (RFC 6749 §4.1.3).
    ///
    /// If the authorization request had a `redirect_uri` or a code challenge, add the `redirect_uri` or the
    /// `code_verifier` (RFC 7636 §4.5) as a [parameter](Self::parameter).
    pub fn authorization_code(code: &str) -> Self {
        Self::new(Grant::AuthorizationCode).parameter("code", code)
    }

    /// Creates a request that exchanges a refresh token for a new access token (RFC 6749 §6).
    pub fn refresh_token(refresh_token: &str) -> Self {
        Self::new(Grant::RefreshToken).parameter("refresh_token", refresh_token)
    }

    /// Says that the tokens in the request are of the client itself, so that a refusal is not about a user.
    pub(crate) fn of_client(mut self) -> Self {
        self.is_of_client = true;
        self
    }

    /// Sends another `grant_type` with the same parameters.
    pub(crate) fn with_grant_type(mut self, grant_type: &str) -> Self {
        let mut parameters = self.form.parameters.iter_mut();
        if let Some((_, sent)) = parameters.find(|(name, _)| name == "grant_type") {
            *sent = Zeroizing::new(grant_type.to_owned());
        }
        self.has_own_grant_type = true;
        self
    }

    /// Sets the JWT whose subject the token is for (RFC 7523 §2.1).
    pub fn assertion(self, jwt: &str) -> Self {
        self.parameter("assertion", jwt)
    }

    /// Sets the token of the party that the new token is for (RFC 8693 §2.1).
    pub fn subject_token(self, token: &str, token_type: TokenType) -> Self {
        self.parameter("subject_token", token)
            .parameter("subject_token_type", token_type.urn())
    }

    /// Sets the token of the party that acts for the subject (RFC 8693 §2.1).
    pub fn actor_token(self, token: &str, token_type: TokenType) -> Self {
        self.parameter("actor_token", token)
            .parameter("actor_token_type", token_type.urn())
    }

    /// Sets the requested type of token (RFC 8693 §2.1).
    pub fn requested_token_type(mut self, token_type: TokenType) -> Self {
        self = self.parameter("requested_token_type", token_type.urn());
        self.requested_token_type = Some(token_type);
        self
    }

    /// Adds an audience: the name of a service that the token is for (RFC 8693 §2.1).
    pub fn audience(self, audience: &str) -> Self {
        self.parameter("audience", audience)
    }

    /// Adds a resource: the address of a service that the token is for (RFC 8707 §2). It is an absolute URI without a
    /// fragment.
    pub fn resource(mut self, resource: &str) -> Self {
        if !is_absolute_uri(resource) {
            self.invalid
                .get_or_insert("a resource is an absolute URI without a fragment (RFC 8707 §2)");
        }
        self.parameter("resource", resource)
    }

    /// Sets the scopes of the token (RFC 6749 §3.3). Without scopes the issuer decides.
    pub fn scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut joined = String::new();
        for scope in scopes {
            let scope = scope.as_ref();
            if !is_scope(scope) {
                self.invalid.get_or_insert(
                    "a scope is one word of ASCII without quotes and backslashes (RFC 6749 §3.3); \
                     pass several scopes one by one",
                );
            }
            if !joined.is_empty() {
                joined.push(' ');
            }
            joined.push_str(scope);
        }
        if joined.is_empty() {
            return self;
        }
        self.parameter("scope", &joined)
    }

    /// Adds scopes to those that the request has.
    pub(crate) fn with_more_scopes(mut self, more: &[String]) -> Self {
        let mut parameters = self.form.parameters.iter_mut();
        let Some((_, scope)) = parameters.find(|(name, _)| name == "scope") else {
            return self.scopes(more);
        };
        for more in more {
            if !scope.split(' ').any(|scope| scope == more) {
                scope.push(' ');
                scope.push_str(more);
            }
        }
        self
    }

    /// Adds another parameter. Only `audience` and `resource` may occur more than once (RFC 6749 §3.2).
    pub fn parameter(mut self, name: impl Into<Cow<'static, str>>, value: &str) -> Self {
        self.form.push(name, value);
        self
    }

    /// Binds the token to this key (DPoP, RFC 9449), for example to a user's
    /// [`DpopKeys::key`](crate::oauth::DpopKeys::key). The endpoint must [have keys](crate::oauth::TokenEndpointBuilder::dpop),
    /// and uses by default the one for tokens that belong to no user.
    ///
    /// Needs the feature `dpop`.
    #[cfg(feature = "dpop")]
    pub fn dpop_key(mut self, key: DpopKey) -> Self {
        self.dpop_key = Some(key);
        self
    }

    /// Binds the token to this key, if there is one.
    pub(crate) fn bound_to(self, key: Option<&BoundKey>) -> Self {
        match key {
            #[cfg(feature = "dpop")]
            Some(key) => self.dpop_key(key.clone()),
            #[cfg(not(feature = "dpop"))]
            Some(never) => match *never {},
            None => self,
        }
    }

    #[cfg(feature = "dpop")]
    pub(super) fn key(&self) -> Option<&DpopKey> {
        self.dpop_key.as_ref()
    }

    /// Checks the request as far as it is built.
    ///
    /// The endpoint checks it again before it sends it, and then also requires the token that the grant needs.
    ///
    /// # Errors
    ///
    /// Returns [`Configuration`](AuthErrorKind::Configuration) if a scope is not one word, a resource is not absolute
    /// or has a fragment, a parameter is empty, or a parameter that may occur only once occurs twice.
    pub fn check(&self) -> Result<(), AuthError> {
        match self.invalid {
            Some(invalid) => Err(AuthError::new(AuthErrorKind::Configuration, invalid)),
            None => self.form.check(),
        }
    }

    pub(super) fn check_bearer(&self) -> Result<(), AuthError> {
        match &self.requested_token_type {
            Some(requested) if !requested.can_be_bearer() => Err(AuthError::new(
                AuthErrorKind::Configuration,
                "the requested token type is no access token, so what is issued could not be sent as a bearer token",
            )),
            _ => self.check_whole(),
        }
    }

    /// Adds all parameters of the request to `scope`.
    pub(crate) fn describe(&self, scope: CacheScope) -> CacheScope {
        let parameters = self.form.parameters.iter();
        parameters.fold(scope, |scope, (name, value)| scope.field(name, &**value))
    }

    pub(super) fn check_assertion(&self) -> Result<(), AuthError> {
        match &self.requested_token_type {
            None | Some(TokenType::AccessToken | TokenType::RefreshToken) => Err(AuthError::new(
                AuthErrorKind::Configuration,
                "the requested token type is no assertion; ask for an ID token or an ID-JAG, for example",
            )),
            Some(_) => self.check_whole(),
        }
    }

    fn check_whole(&self) -> Result<(), AuthError> {
        self.check()?;
        match self.grant.needs() {
            Some(name) if !self.form.contains(name) => Err(AuthError::new(
                AuthErrorKind::Configuration,
                format!("a token request with this grant needs the parameter `{name}`"),
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn grant_type(&self) -> &str {
        let mut parameters = self.form.parameters.iter();
        let grant_type = parameters.find(|(name, _)| name == "grant_type");
        grant_type.map_or(self.grant.name(), |(_, grant_type)| grant_type)
    }

    pub(super) fn is_token_exchange(&self) -> bool {
        self.grant == Grant::TokenExchange && !self.has_own_grant_type
    }

    pub(super) fn is_refresh(&self) -> bool {
        self.grant == Grant::RefreshToken
    }

    /// Returns `true` if the request has a token or a code of a user, so that a refusal may be about the user.
    pub(super) fn presents_token_of_user(&self) -> bool {
        !self.is_of_client
    }

    /// Returns `true` if `text` repeats a token or another secret that was sent.
    pub(super) fn repeats_secret(&self, text: &str) -> bool {
        const PUBLIC: [&str; 9] = [
            "grant_type",
            "subject_token_type",
            "actor_token_type",
            "requested_token_type",
            "requested_token_use",
            "audience",
            "resource",
            "scope",
            "redirect_uri",
        ];

        let mut parameters = self.form.parameters.iter();
        parameters.any(|(name, value)| !PUBLIC.contains(&&**name) && repeats(text, value))
    }

    pub(super) fn scope(&self) -> Option<&str> {
        let mut parameters = self.form.parameters.iter();
        let scope = parameters.find(|(name, _)| name == "scope")?;
        Some(scope.1.as_str())
    }

    pub(super) fn requested(&self) -> Option<&TokenType> {
        self.requested_token_type.as_ref()
    }

    pub(super) fn form(&self) -> &Form {
        &self.form
    }

    fn new(grant: Grant) -> Self {
        let mut form = Form::default();
        form.push("grant_type", grant.name());
        Self {
            grant,
            form,
            requested_token_type: None,
            has_own_grant_type: false,
            is_of_client: grant == Grant::ClientCredentials,
            invalid: None,
            #[cfg(feature = "dpop")]
            dpop_key: None,
        }
    }
}

impl fmt::Debug for TokenRequest {
    /// Shows the names of the parameters, and not their values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRequest")
            .field("grant_type", &self.grant_type())
            .field("parameters", &self.form)
            .finish_non_exhaustive()
    }
}

impl Grant {
    fn name(self) -> &'static str {
        match self {
            Self::TokenExchange => "urn:ietf:params:oauth:grant-type:token-exchange",
            Self::ClientCredentials => "client_credentials",
            Self::JwtBearer => "urn:ietf:params:oauth:grant-type:jwt-bearer",
            Self::AuthorizationCode => "authorization_code",
            Self::RefreshToken => "refresh_token",
        }
    }

    fn needs(self) -> Option<&'static str> {
        match self {
            Self::TokenExchange => Some("subject_token"),
            Self::JwtBearer => Some("assertion"),
            Self::AuthorizationCode => Some("code"),
            Self::RefreshToken => Some("refresh_token"),
            Self::ClientCredentials => None,
        }
    }
}
