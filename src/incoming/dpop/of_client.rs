use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, Method};

use crate::oauth::SigningAlgorithm;

use super::{
    proof::{Expected, sent_in},
    public_url::PublicUrl,
};

const WINDOW: Duration = Duration::from_secs(300);

/// The proof of a client, as the issuer and the backend of tests read it.
pub(crate) struct ClientProof {
    /// The thumbprint of its key, as `cnf.jkt` has it.
    pub(crate) thumbprint: String,
    /// Stands for the proof.
    pub(crate) id: [u8; 32],
    pub(crate) nonce: Option<String>,
}

/// The request that a proof comes with.
pub(crate) struct ClientRequest<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) method: &'a Method,
    /// Of the server. Its path does not count.
    pub(crate) url: &'a str,
    pub(crate) path: &'a str,
    /// A request for a token has none.
    pub(crate) token: Option<&'a str>,
}

impl ClientRequest<'_> {
    /// Checks the proof. A fault is a sentence that holds nothing of it.
    pub(crate) fn check(&self, now: SystemTime) -> Result<ClientProof, &'static str> {
        let expected = Expected {
            algorithms: &SigningAlgorithm::ALL,
            urls: &[PublicUrl::origin_of(self.url, true).ok_or("the server has no origin")?],
            window: WINDOW,
            method: self.method,
            path: self.path,
            token: self.token,
            now,
        };
        let (proof, nonce) = expected.check(sent_in(self.headers)?)?;
        Ok(ClientProof {
            thumbprint: URL_SAFE_NO_PAD.encode(proof.thumbprint),
            id: proof.id,
            nonce,
        })
    }
}
