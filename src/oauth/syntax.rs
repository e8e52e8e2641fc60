//! How scopes, names and URIs are written.

use http::Uri;

use crate::error::Faults;

pub(crate) const NOT_A_SCOPE: &str =
    "is not one word of visible ASCII without quotes and backslashes (RFC 6749 §3.3)";

/// Returns `true` if the text can be the name of a parameter (RFC 6749, appendix A).
pub(crate) fn is_parameter_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

/// Returns `true` for the parameters of grants and of client authentication: each has another setting, or no place in an
/// exchange.
pub(crate) fn is_reserved_parameter(name: &str) -> bool {
    const RESERVED: [&str; 22] = [
        "grant_type",
        "client_id",
        "client_secret",
        "client_assertion",
        "client_assertion_type",
        "subject_token",
        "subject_token_type",
        "actor_token",
        "actor_token_type",
        "requested_token_type",
        "requested_token_use",
        "audience",
        "resource",
        "scope",
        "assertion",
        "code",
        "code_verifier",
        "redirect_uri",
        "refresh_token",
        "username",
        "password",
        "device_code",
    ];
    // Some servers compare names without regard to case.
    RESERVED
        .iter()
        .any(|reserved| reserved.eq_ignore_ascii_case(name))
}

/// Says what is wrong with the `grant_type` of an issuer's own (RFC 6749 §4.5).
pub(crate) fn fault_of_grant_type(grant_type: &str) -> Option<&'static str> {
    const OTHERS: [&str; 6] = [
        "authorization_code",
        "client_credentials",
        "password",
        "refresh_token",
        "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "urn:ietf:params:oauth:grant-type:device_code",
    ];
    if OTHERS.contains(&grant_type) {
        Some("is a grant with other parameters than those of an exchange")
    } else if !is_parameter_name(grant_type) && !is_absolute_uri(grant_type) {
        Some("is neither an absolute URI nor a name (RFC 6749 §4.5)")
    } else {
        None
    }
}

/// Returns `true` if the text is one scope of RFC 6749 §3.3.
pub(crate) fn is_scope(scope: &str) -> bool {
    !scope.is_empty()
        && scope
            .bytes()
            .all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// Returns `true` if the text is an absolute URI without a fragment (RFC 8707 §2).
pub(crate) fn is_absolute_uri(text: &str) -> bool {
    !text.contains('#')
        && match text.split_once(':') {
            // `Uri` knows schemes with an authority only; `urn:example:tool` is absolute, too.
            Some((scheme, rest)) if !rest.starts_with("//") => {
                is_scheme(scheme)
                    && !rest.is_empty()
                    && rest.bytes().all(|byte| matches!(byte, 0x21..=0x7e))
            }
            Some(_) => text.parse::<Uri>().is_ok_and(|uri| uri.host().is_some()),
            None => false,
        }
}

fn is_scheme(scheme: &str) -> bool {
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

impl Faults {
    pub(crate) fn need_scopes(&mut self, setting: &str, scopes: &[String]) {
        for (index, scope) in scopes.iter().enumerate() {
            if !is_scope(scope) {
                self.add(format!("{setting}[{index}]"), NOT_A_SCOPE);
            }
        }
    }
}
