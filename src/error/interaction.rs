use std::{fmt, time::Duration};

/// The step that the user must take before a retry can succeed.
///
/// [`AuthError::interaction`](crate::AuthError::interaction) has it where the issuer, or the identity, tells more than
/// that the user must log in again. Values of an issuer are bounded and checked, and one that is not understood is left
/// out.
///
/// ```
/// use tower_identity::{AuthError, Interaction};
///
/// fn next_step(error: &AuthError) -> String {
///     match error.interaction() {
///         Some(Interaction::Consent { url: Some(url), .. }) => {
///             format!("agree at {url}")
///         }
///         Some(Interaction::LinkAccount { provider, .. }) => {
///             format!("log in at {provider}")
///         }
///         _ => "log in again".to_owned(),
///     }
/// }
/// ```
///
/// # Security
///
/// The URL of a consent is the issuer's. This crate never opens it. Show it to the user whose request failed, and to
/// nobody else, because it can be bound to them. `Debug` shows none of the values.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interaction {
    /// Log in again, in the way that the issuer asks for.
    ///
    /// From the codes `login_required`, `interaction_required`, `mfa_required` and `insufficient_user_authentication`
    /// (RFC 9470), Google's `invalid_rapt`, and from Microsoft Entra's `claims`.
    #[non_exhaustive]
    Login {
        /// The authentication contexts to ask for, separated by spaces: the parameter `acr_values` of the authorization
        /// request (OIDC Core §3.1.2.1). At most 512 characters.
        acr_values: Option<String>,
        /// The longest time since the user's last login, in whole seconds: the parameter `max_age`.
        max_age: Option<Duration>,
        /// The claims to ask for, a JSON object: the parameter `claims` (OIDC Core §5.5). At most 2 KiB.
        claims: Option<String>,
    },
    /// Agree to what the application asks for.
    ///
    /// From the code `consent_required`, and where the issuer sent a URL, for example Keycloak's `account-link-url`.
    #[non_exhaustive]
    Consent {
        /// Where the user can agree: an `https` URL of at most 2 KiB. `None` where the issuer named none. Then the user
        /// is asked at the next login, or an administrator has to agree.
        url: Option<String>,
    },
    /// Link an account at an upstream provider: the user has no tokens of it.
    #[non_exhaustive]
    LinkAccount {
        /// The name of the provider, as the strategy has it.
        provider: String,
        /// Where the user can link the account: a page of this application, from
        /// `AccountLinking::upstream_tokens`. `None` where the application has no such page.
        url: Option<String>,
    },
    /// Grant more scope: log in again, and ask for these scopes.
    #[non_exhaustive]
    GrantScope {
        /// The scopes that are needed (RFC 6749 §3.3).
        scopes: Vec<String>,
    },
}

impl Interaction {
    /// The step of a user whose account of this provider must be linked, for example because a backend refused its token.
    /// `url` is the page where the user can do it.
    ///
    /// ```
    /// use tower_identity::{AuthError, AuthErrorKind, Interaction};
    ///
    /// /// The answer of a gateway for a 401 of a backend that got the user's token of GitHub.
    /// fn refused_by_backend() -> AuthError {
    ///     let page = "https://gateway.example.com/accounts/link/github";
    ///     AuthError::new(
    ///         AuthErrorKind::Rejected,
    ///         "the backend refused the token of the linked account",
    ///     )
    ///     .with_provider("github")
    ///     .with_interaction(Interaction::link_account("github", Some(page)))
    /// }
    /// # assert!(refused_by_backend().interaction().is_some());
    /// ```
    pub fn link_account(provider: impl Into<String>, url: Option<&str>) -> Self {
        Self::LinkAccount {
            provider: provider.into(),
            url: url.map(str::to_owned),
        }
    }
}

impl fmt::Debug for Interaction {
    /// Shows which step it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Login { .. } => "Login",
            Self::Consent { .. } => "Consent",
            Self::LinkAccount { .. } => "LinkAccount",
            Self::GrantScope { .. } => "GrantScope",
        })
    }
}
