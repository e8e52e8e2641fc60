/// The subject of an error code. The grant decides what this means for the caller.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Meaning {
    /// The token of the user, which is not or no longer accepted.
    Token,
    /// A step that the user has to take, such as a login or a consent.
    Step,
    /// The scope or the audience, which the user may not have.
    Scope,
    /// The client: its id, its secret or key, or its rights.
    Client,
    /// The form. An issuer that is not precise says this of the user's token, too.
    Form,
    /// A grant, a target or a feature that this issuer does not have.
    Target,
    /// The proof that the client has the key that tokens are bound to.
    Proof,
    /// The server's nonce in that proof.
    Nonce,
    /// A fault that passes.
    Passing,
    /// A limit on how often the issuer may be asked.
    RateLimit,
}

/// The codes of RFC 6749 §5.2, of its extensions, and of issuers that are widely used.
const CODES: &[(&str, Meaning)] = {
    use Meaning::{Client, Form, Nonce, Passing, Proof, RateLimit, Scope, Step, Target, Token};

    &[
        // RFC 6749 §5.2, RFC 6750 §3.1, RFC 7009, RFC 8628 §3.5.
        ("invalid_grant", Token),
        ("invalid_token", Token),
        ("expired_token", Token),
        ("invalid_scope", Scope),
        ("insufficient_scope", Scope),
        ("access_denied", Scope),
        ("invalid_client", Client),
        ("unauthorized_client", Client),
        ("invalid_request", Form),
        ("unsupported_grant_type", Target),
        ("unsupported_token_type", Target),
        ("server_error", Passing),
        ("temporarily_unavailable", Passing),
        ("slow_down", RateLimit),
        // RFC 8693 §2.2.2, RFC 8707 §2, RFC 9449 §5 and §8.
        ("invalid_target", Target),
        ("invalid_resource", Target),
        ("invalid_dpop_proof", Proof),
        ("use_dpop_nonce", Nonce),
        // OIDC Core §3.1.2.6, RFC 9470 §3, Auth0, the OIDC extension for unmet requirements.
        ("login_required", Step),
        ("interaction_required", Step),
        ("account_selection_required", Step),
        ("consent_required", Step),
        ("insufficient_user_authentication", Step),
        ("unmet_authentication_requirements", Step),
        ("mfa_required", Step),
        // Keycloak's token exchange.
        ("not_linked", Step),
        ("token_expired", Token),
        // GitHub.
        ("bad_refresh_token", Token),
        ("bad_verification_code", Token),
        ("unverified_user_email", Token),
        ("incorrect_client_credentials", Client),
        ("redirect_uri_mismatch", Client),
        ("device_flow_disabled", Client),
        // Slack.
        ("invalid_refresh_token", Token),
        ("invalid_code", Token),
        ("code_already_used", Token),
        ("token_revoked", Token),
        ("authorization_not_found", Token),
        ("account_inactive", Token),
        ("bad_client_secret", Client),
        ("invalid_client_id", Client),
        ("bad_redirect_uri", Client),
        ("token_rotation_not_enabled", Client),
        ("no_scopes", Client),
        ("invalid_grant_type", Target),
        ("invalid_arguments", Target),
        ("invalid_arg_name", Target),
        ("invalid_charset", Target),
        ("invalid_form_data", Target),
        ("invalid_post_type", Target),
        ("missing_post_type", Target),
        ("method_deprecated", Target),
        ("deprecated_endpoint", Target),
        ("internal_error", Passing),
        ("fatal_error", Passing),
        ("service_unavailable", Passing),
        ("request_timeout", Passing),
        ("team_added_to_org", Passing),
        // Google.
        ("deleted_client", Client),
        ("disabled_client", Client),
        ("admin_policy_enforced", Token),
        ("internal_failure", Passing),
        ("backend_error", Passing),
        ("deadline_exceeded", Passing),
        ("unavailable", Passing),
        ("internal", Passing),
        ("resource_exhausted", RateLimit),
        // Salesforce.
        ("inactive_user", Token),
        ("inactive_org", Token),
        ("unknown_error", Passing),
        // Zoho.
        ("invalid_client_secret", Client),
        ("invalid_redirect_uri", Client),
        // Okta, in `errorCode`.
        ("E0000047", RateLimit),
        ("E0000009", Passing),
        // HubSpot, in `status`.
        ("bad_client_id", Client),
        ("missing_client_id", Client),
        ("missing_client_secret", Client),
        // Others.
        ("invalid_client_credentials", Client),
        ("invalid_client_metadata", Client),
        ("unknown_client", Client),
        ("internal_server_error", Passing),
        ("gateway_timeout", Passing),
        ("timeout", Passing),
        ("too_many_requests", RateLimit),
        ("too_many_attempts", RateLimit),
        ("rate_limited", RateLimit),
        ("ratelimited", RateLimit),
    ]
};

/// Finds the code in the table, in any case. Returns the text of the table, which is not the issuer's.
pub(super) fn find(code: &str) -> Option<(&'static str, Meaning)> {
    let mut rows = CODES.iter();
    rows.find(|(known, _)| known.eq_ignore_ascii_case(code))
        .copied()
}

/// Whether a code that is not in the table speaks of a limit.
pub(super) fn is_rate_limit(code: &str) -> bool {
    const WORDS: [&str; 8] = [
        "ratelimit",
        "rateexceeded",
        "limitexceeded",
        "quotaexceeded",
        "requestlimit",
        "throttl",
        "slowdown",
        "toomany",
    ];

    let letters: String = code
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|letter| letter.to_ascii_lowercase())
        .take(128)
        .collect();
    WORDS.iter().any(|word| letters.contains(word))
}

/// Words of a description that tell apart the meanings of a code. The first row whose code and words are found decides.
const DESCRIPTIONS: &[(&[&str], &str, Meaning)] = &[
    // Salesforce: two refreshes at once, and 3,600 logins an hour.
    (
        &["invalid_grant"],
        "request is already being processed",
        Meaning::Passing,
    ),
    (
        &["invalid_grant"],
        "login rate exceeded",
        Meaning::RateLimit,
    ),
    // Exact Online, Auth0 and others.
    (
        &["invalid_grant", "access_denied", "invalid_request"],
        "rate limit exceeded",
        Meaning::RateLimit,
    ),
    (
        &["invalid_grant", "access_denied", "invalid_request"],
        "global limit has been reached",
        Meaning::RateLimit,
    ),
    (
        &["invalid_grant", "access_denied", "invalid_request"],
        "too many requests",
        Meaning::RateLimit,
    ),
    // Keycloak binds refresh tokens to the client's certificate, and refuses them once that is replaced.
    (
        &["unauthorized_client"],
        "thumbprint and one in the",
        Meaning::Token,
    ),
    // A parameter that only the operator sets.
    (&["invalid_request"], "client_id", Meaning::Client),
    (&["invalid_request"], "client_secret", Meaning::Client),
    (&["invalid_request"], "client_assertion", Meaning::Client),
    (&["invalid_request"], "grant_type", Meaning::Target),
    (&["invalid_request"], "redirect_uri", Meaning::Client),
    // Microsoft Entra: the assertion of a workload, with which the client authenticates.
    (
        &["invalid_request", "invalid_grant"],
        "no matching federated identity",
        Meaning::Client,
    ),
];

/// The meaning by the description of a known code, where the code alone means several things.
pub(super) fn find_by_description(code: &str, description: &str) -> Option<Meaning> {
    let described = lower(description);
    let mut rows = DESCRIPTIONS.iter();
    rows.find(|(codes, words, _)| codes.contains(&code) && described.contains(words))
        .map(|(.., meaning)| *meaning)
}

/// The beginning of a text that is matched, and never shown.
pub(super) fn lower(description: &str) -> String {
    let letters = description.chars().take(512);
    letters.map(|letter| letter.to_ascii_lowercase()).collect()
}
