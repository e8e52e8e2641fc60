use http::HeaderValue;

use crate::error::{AuthError, AuthErrorKind, challenge::push_parameter};

/// The scheme that a token is presented under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "dpop"),
    allow(dead_code, reason = "without it, no scheme but Bearer is read")
)]
pub(crate) enum Scheme {
    /// RFC 6750.
    Bearer,
    /// RFC 9449 §7.1.
    Dpop,
}

/// The challenges of this resource, which tell a refused caller how to get a token (RFC 6750 §3, RFC 9449 §7.1, RFC 9728
/// §5.1).
pub(crate) struct Challenge {
    /// `realm="…"` and so on, without an error.
    parameters: Vec<(&'static str, String)>,
    accepts_bearer: bool,
    /// The algorithms of proofs, where tokens that are bound to a key are accepted.
    algorithms: Option<String>,
}

impl Challenge {
    /// Creates the challenge. A header must be able to carry the values.
    pub(crate) fn new(realm: &str, resource_metadata: Option<&str>, scopes: &[String]) -> Self {
        let scope = Some(scopes.join(" ")).filter(|scope| !scope.is_empty());
        let parameters = [
            ("realm", Some(realm.to_owned())),
            ("resource_metadata", resource_metadata.map(str::to_owned)),
            ("scope", scope),
        ];
        let parameters = parameters.into_iter();
        Self {
            parameters: parameters
                .filter_map(|(name, value)| Some((name, value?)))
                .collect(),
            accepts_bearer: true,
            algorithms: None,
        }
    }

    /// Adds the scheme `DPoP`, or replaces `Bearer` by it.
    #[cfg(feature = "dpop")]
    pub(crate) fn with_dpop(mut self, algorithms: String, is_required: bool) -> Self {
        self.algorithms = Some(algorithms);
        self.accepts_bearer = !is_required;
        self
    }

    /// Adds the challenge to an error whose response has one. The error belongs to a token that was presented under this
    /// scheme.
    pub(crate) fn added_to(&self, error: AuthError, used: Scheme) -> AuthError {
        match self.header(&error, used) {
            Some(challenge) => error.with_challenge(challenge),
            None => error,
        }
    }

    /// A caller that used `DPoP` is not told of `Bearer`, because many clients look at the first challenge alone. For all
    /// others `Bearer` comes first, for the same reason.
    fn header(&self, error: &AuthError, used: Scheme) -> Option<HeaderValue> {
        let fault = match error.kind() {
            AuthErrorKind::MissingIdentity => Vec::new(),
            AuthErrorKind::MissingToken
            | AuthErrorKind::Expired
            | AuthErrorKind::Rejected
            | AuthErrorKind::InsufficientScope => error.challenge_parameters(),
            _ => return None,
        };
        let concerns_dpop =
            self.algorithms.is_some() && (used == Scheme::Dpop || !self.accepts_bearer);
        let mut challenges = Vec::new();
        if !concerns_dpop {
            challenges.push(self.challenge("Bearer", &fault));
        }
        if let Some(algorithms) = &self.algorithms {
            let fault = if concerns_dpop { &fault[..] } else { &[] };
            let mut challenge = self.challenge("DPoP", fault);
            push_parameter(&mut challenge, "algs", algorithms);
            challenges.push(challenge);
        }
        HeaderValue::try_from(challenges.join(", ")).ok()
    }

    fn challenge(&self, scheme: &str, fault: &[(&'static str, String)]) -> String {
        let mut challenge = scheme.to_owned();
        let has_scope = self.parameters.iter().any(|(name, _)| *name == "scope");
        // A parameter comes once (RFC 9110 §11.2), and the scopes of this resource win.
        let fault = fault
            .iter()
            .filter(|(name, _)| *name != "scope" || !has_scope);
        for (name, value) in self.parameters.iter().chain(fault) {
            push_parameter(&mut challenge, name, value);
        }
        challenge
    }
}
