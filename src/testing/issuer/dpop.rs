//! Tokens that are bound to a key of the client (DPoP, RFC 9449 §5 and §8).

use crate::incoming::dpop::ClientRequest;

use super::{super::ReceivedRequest, TestIssuer, grants::Refusal, token::random_text};

impl TestIssuer {
    /// Asks for a nonce in the DPoP proof of each token request from now on (RFC 9449 §8). Each call makes another nonce,
    /// and proofs with an earlier one are refused with `use_dpop_nonce`.
    ///
    /// Needs the feature `dpop`.
    ///
    /// ```
    /// use tower_identity::{
    ///     ClientAuth, TokenEndpoint,
    ///     oauth::{DpopKey, TokenRequest},
    ///     testing::TestIssuer,
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let issuer = TestIssuer::new("https://idp.example.com");
    /// issuer.require_dpop_nonce();
    /// let endpoint = TokenEndpoint::builder(issuer.token_endpoint(), issuer.clone())
    ///     .client_auth(ClientAuth::none("gateway"))
    ///     .dpop(DpopKey::generate()?)
    ///     .build()?;
    /// let request = TokenRequest::client_credentials();
    /// let response = endpoint.request_token(request).await?;
    /// assert!(response.is_dpop_bound());
    /// // The first request had no nonce, and the second one has the issuer's.
    /// assert_eq!(issuer.token_requests("client_credentials").len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn require_dpop_nonce(&self) {
        self.state().dpop_nonce = Some(random_text());
    }

    /// The thumbprint of the key of a request with a proof.
    pub(super) fn proven_key(&self, request: &ReceivedRequest) -> Result<Option<String>, Refusal> {
        if !request.headers.contains_key("dpop") {
            return Ok(None);
        }
        let expected = ClientRequest {
            headers: &request.headers,
            method: &request.method,
            url: self.url(),
            path: request.uri.path(),
            token: None,
        };
        let proof = expected
            .check(self.now())
            .map_err(|fault| Refusal::new(400, "invalid_dpop_proof", fault))?;
        let mut state = self.state();
        if let Some(nonce) = state.dpop_nonce.clone()
            && proof.nonce.as_ref() != Some(&nonce)
        {
            let fault = "nonce is required in the DPoP proof";
            return Err(Refusal::new(400, "use_dpop_nonce", fault).with_nonce(nonce));
        }
        if !state.used_proofs.insert(proof.id) {
            return Err(super::grants::invalid_grant());
        }
        Ok(Some(proof.thumbprint))
    }
}
