use std::borrow::Cow;

use crate::error::{AuthError, AuthErrorKind};

use super::link_error::{LinkError, LinkErrorKind};

const LONGEST_QUERY: usize = 16 * 1024;

/// The parameters of an authorization response (RFC 6749 §4.1.2, RFC 9207).
pub(super) struct AuthorizationResponse {
    pub(super) state: String,
    code: Option<String>,
    error: Option<String>,
    pub(super) issuer: Option<String>,
}

impl AuthorizationResponse {
    pub(super) fn read(query: &str) -> Result<Self, LinkError> {
        let malformed = || LinkError::from(LinkErrorKind::Malformed);
        if query.len() > LONGEST_QUERY {
            return Err(malformed());
        }
        let [mut state, mut code, mut error, mut issuer] = [const { None }; 4];
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "state" => &mut state,
                "code" => &mut code,
                "error" => &mut error,
                "iss" => &mut issuer,
                _ => continue,
            };
            if place.replace(Cow::into_owned(value)).is_some() {
                return Err(malformed());
            }
        }
        Ok(Self {
            state: state.ok_or_else(malformed)?,
            code,
            error,
            issuer,
        })
    }

    pub(super) fn code(&self) -> Result<&str, LinkError> {
        if let Some(error) = &self.error {
            return Err(refused(error));
        }
        let code = self.code.as_deref().filter(|code| !code.is_empty());
        code.ok_or_else(|| LinkErrorKind::Malformed.into())
    }
}

/// Reads the provider's error code (RFC 6749 §4.1.2.1, OIDC Core §3.1.2.6).
fn refused(code: &str) -> LinkError {
    let (kind, link_kind) = match code {
        "access_denied"
        | "consent_required"
        | "interaction_required"
        | "login_required"
        | "user_cancelled_authorize"
        | "user_cancelled_login" => (AuthErrorKind::Rejected, LinkErrorKind::Declined),
        "server_error" | "temporarily_unavailable" => {
            (AuthErrorKind::Unavailable, LinkErrorKind::Unavailable)
        }
        "application_suspended"
        | "invalid_request"
        | "invalid_scope"
        | "invalid_target"
        | "redirect_uri_mismatch"
        | "unauthorized_client"
        | "unsupported_response_type" => {
            (AuthErrorKind::Configuration, LinkErrorKind::Configuration)
        }
        _ => (AuthErrorKind::Rejected, LinkErrorKind::Refused),
    };
    let source = AuthError::new(
        kind,
        "the provider answered the authorization request with an error",
    );
    LinkError::from(link_kind).with_source(source.with_oauth_error(code))
}
