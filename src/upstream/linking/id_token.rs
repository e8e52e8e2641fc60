use serde_json::Value;

use crate::{
    error::{AuthError, AuthErrorKind},
    identity::Identity,
    oauth::unverified_jwt::UnverifiedJwt,
    upstream::{OAuthProvider, ProviderTokens},
};

/// Returns the user that the ID token of a login names (OIDC Core §3.1.3.7). `None` where none was asked for.
///
/// The validator of tokens checks the signature, the issuer, the audience and the times.
pub(super) async fn check(
    provider: &OAuthProvider,
    tokens: &ProviderTokens,
    nonce: &str,
) -> Result<Option<Identity>, AuthError> {
    let (Some(validator), Some(id_token)) = (provider.id_tokens(), tokens.token().id_token())
    else {
        let is_missing = provider.wants_id_token();
        return is_missing.then_some(()).map_or(Ok(None), |()| {
            Err(wrong(
                "the provider issued no ID token, although it was asked for one",
            ))
        });
    };
    let id_token = id_token.expose();
    // An access token of the same issuer and audience says who the user is, too, but not for this login.
    let kind = UnverifiedJwt::decode(id_token);
    let kind = kind.as_ref().and_then(UnverifiedJwt::header_type);
    if kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("jwt")) {
        return Err(wrong("the ID token has the type of another token"));
    }
    let identity = validator.validate(id_token).await?;
    let claims = identity.claims();
    let text = |name| claims.get(name).and_then(Value::as_str);
    // Without `openid`, no nonce was sent.
    if provider.wants_id_token() && text("nonce") != Some(nonce) {
        return Err(wrong(
            "the ID token has the nonce of another login, or none",
        ));
    }
    let has_several = matches!(claims.get("aud"), Some(Value::Array(all)) if all.len() > 1);
    let is_ours = match claims.get("azp") {
        None => !has_several,
        Some(azp) => azp.as_str() == Some(provider.client_id()),
    };
    if !is_ours {
        return Err(wrong("the ID token was issued to another client"));
    }
    Ok(Some(identity))
}

#[cold]
fn wrong(fault: &'static str) -> AuthError {
    AuthError::new(AuthErrorKind::Rejected, fault)
}
