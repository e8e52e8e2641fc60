use std::{fmt, sync::Arc, time::Duration};

use crate::{
    clock::Clock,
    credential::cache::{CredentialCache, entry::Obtained, key::CacheScope},
    error::AuthError,
    incoming::introspection::IntrospectionEndpoint,
    secret::AccessToken,
};

use super::validated_tokens::Validated;

const REFUSED_TOKENS: usize = 4096;

/// Asks the endpoint about each token once at a time. A refusal is remembered for as long as the cache remembers failures.
pub(super) struct Introspection {
    pub(super) endpoint: IntrospectionEndpoint,
    /// It keeps no token that is good: an issuer may revoke it.
    asked: CredentialCache<Validated>,
    scope: CacheScope,
}

impl Introspection {
    pub(super) fn new(endpoint: IntrospectionEndpoint, clock: Arc<dyn Clock>) -> Self {
        Self {
            endpoint,
            asked: CredentialCache::builder()
                .capacity(REFUSED_TOKENS)
                .clock(clock)
                .make(),
            scope: CacheScope::new("introspection"),
        }
    }

    /// The answer of `ask` about the token. It is not called while another caller waits for it, or after it refused.
    pub(super) async fn once<R>(
        &self,
        token: AccessToken,
        ask: impl FnOnce(AccessToken) -> R,
    ) -> Result<Validated, AuthError>
    where
        R: Future<Output = Result<Validated, AuthError>> + Send + 'static,
    {
        let key = self.scope.key(token.fingerprint());
        let answer = self.asked.obtain(key, None, move || {
            let answer = ask(token);
            async move { Ok(Obtained::new(answer.await?).expires_in(Duration::ZERO)) }
        });
        answer.await
    }
}

impl fmt::Debug for Introspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}
