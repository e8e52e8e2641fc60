use std::time::Duration;

use http::{Uri, uri::Scheme};
use serde_json::Value;

use crate::error::{AuthErrorKind, Interaction};

use super::{request::TokenRequest, response::Members, syntax::is_scope};

const LONGEST_ACR_VALUES: usize = 512;
const LONGEST_CLAIMS: usize = 2048;
const LONGEST_URL: usize = 2048;
const MAX_SCOPES: usize = 32;

/// The names under which issuers send the URL where the user can consent. The first one is Keycloak's.
const URLS: [&str; 7] = [
    "account-link-url",
    "consent_url",
    "consent_uri",
    "authorization_url",
    "authorization_uri",
    "interaction_url",
    "interaction_uri",
];

/// Returns the step that the user must take, if a refusal names it in a known form.
pub(super) fn find(
    request: &TokenRequest,
    kind: AuthErrorKind,
    members: &Members,
    is_secret: impl Fn(&str) -> bool,
) -> Option<Interaction> {
    if !request.presents_token_of_user() {
        return None;
    }
    let code = members.error_code();
    match kind {
        AuthErrorKind::Rejected => {
            consent(code, members, &is_secret).or_else(|| login(code, members, &is_secret))
        }
        AuthErrorKind::InsufficientScope => consent_url(members, &is_secret)
            .map(|url| Interaction::Consent { url: Some(url) })
            .or_else(|| grant_scope(code, request, members, &is_secret)),
        _ => None,
    }
}

fn consent(
    code: Option<&str>,
    members: &Members,
    is_secret: &impl Fn(&str) -> bool,
) -> Option<Interaction> {
    let url = consent_url(members, is_secret);
    // Entra says it in `suberror`, with the code `invalid_grant`.
    let is_required = [code, members.text("suberror")].contains(&Some("consent_required"));
    (is_required || url.is_some()).then_some(Interaction::Consent { url })
}

fn login(
    code: Option<&str>,
    members: &Members,
    is_secret: &impl Fn(&str) -> bool,
) -> Option<Interaction> {
    const CODES: [&str; 6] = [
        "login_required",
        "interaction_required",
        "account_selection_required",
        "insufficient_user_authentication",
        "unmet_authentication_requirements",
        "mfa_required",
    ];
    // Entra's `suberror`, and Google's `error_subtype`.
    const DETAILS: [&str; 4] = [
        "basic_action",
        "user_password_expired",
        "invalid_rapt",
        "rapt_required",
    ];

    let acr_values = members
        .text("acr_values")
        .filter(|values| is_words(values, LONGEST_ACR_VALUES) && !is_secret(values))
        .map(str::to_owned);
    let max_age = members.seconds("max_age").map(Duration::from_secs);
    let claims = claims(members, is_secret);
    let has_detail = ["suberror", "error_subtype"]
        .into_iter()
        .filter_map(|name| members.text(name))
        .any(|detail| DETAILS.contains(&detail));
    let has_code = code.is_some_and(|code| CODES.contains(&code));
    let has_value = acr_values.is_some() || max_age.is_some() || claims.is_some();
    (has_code || has_detail || has_value).then_some(Interaction::Login {
        acr_values,
        max_age,
        claims,
    })
}

fn grant_scope(
    code: Option<&str>,
    request: &TokenRequest,
    members: &Members,
    is_secret: &impl Fn(&str) -> bool,
) -> Option<Interaction> {
    if code != Some("insufficient_scope") {
        return None;
    }
    let scope = members.text("scope").or_else(|| request.scope())?;
    let scopes: Vec<_> = scope.split(' ').map(str::to_owned).collect();
    let is_understood = scopes.len() <= MAX_SCOPES
        && scopes
            .iter()
            .all(|scope| is_scope(scope) && !is_secret(scope));
    is_understood.then_some(Interaction::GrantScope { scopes })
}

/// Reads a JSON object, which Entra writes into a string.
fn claims(members: &Members, is_secret: &impl Fn(&str) -> bool) -> Option<String> {
    let (claims, text): (Value, _) = match members.value("claims")? {
        Value::String(text) => (serde_json::from_str(text).ok()?, text.clone()),
        claims => (claims.clone(), claims.to_string()),
    };
    let is_bounded = text.len() <= LONGEST_CLAIMS && !text.chars().any(char::is_control);
    // Escapes in the text could hide a secret.
    let has_secret = is_secret(&text) || is_secret(&claims.to_string());
    (claims.is_object() && is_bounded && !has_secret).then_some(text)
}

fn consent_url(members: &Members, is_secret: &impl Fn(&str) -> bool) -> Option<String> {
    let mut urls = URLS.iter().filter_map(|name| members.text(name));
    urls.find(|url| is_consent_url(url) && !is_secret(url))
        .map(str::to_owned)
}

fn is_consent_url(url: &str) -> bool {
    // `Uri` takes some characters that a URL cannot have (RFC 3986 §2).
    let is_text = url.bytes().all(|byte| {
        matches!(byte, b'!'..=b'~')
            && !matches!(
                byte,
                b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'
            )
    });
    let uri = url.parse::<Uri>();
    let is_https = uri.is_ok_and(|uri| {
        let authority = uri.authority().map(|authority| authority.as_str());
        uri.scheme() == Some(&Scheme::HTTPS)
            && authority.is_some_and(|authority| !authority.contains('@'))
            && uri.host().is_some_and(|host| !host.is_empty())
    });
    url.len() <= LONGEST_URL && is_text && is_https
}

/// Returns `true` if a request parameter and a header can carry the text.
fn is_words(text: &str, longest: usize) -> bool {
    text.len() <= longest && text.split(' ').all(is_scope)
}
