use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    error::AuthError,
    secret::Fingerprint,
    upstream::store::sealing_key::{SealingKey, open_for},
};

const PURPOSE: &[u8] = b"tower-identity authorization code flow";

/// One authorization request, until the browser comes back. It travels sealed, as the parameter `state`.
pub(super) struct State {
    pub(super) made_at: SystemTime,
    /// Stands for the user who started.
    pub(super) user: [u8; 32],
    /// Random. All that must not be guessed is made of it.
    seed: [u8; 32],
    pub(super) return_to: String,
}

/// Where a state belongs. It opens nowhere else.
pub(super) struct Place<'a> {
    pub(super) redirect_uri: &'a str,
    /// The secret in the browser's cookie.
    pub(super) browser: &'a str,
}

impl State {
    pub(super) fn new(
        made_at: SystemTime,
        user: [u8; 32],
        return_to: &str,
    ) -> Result<Self, getrandom::Error> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        Ok(Self {
            made_at,
            user,
            seed,
            return_to: return_to.to_owned(),
        })
    }

    pub(super) fn seal(&self, place: &Place<'_>, key: &SealingKey) -> Result<String, AuthError> {
        let since_1970 = self.made_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let made_at = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        let fields: [&[u8]; 4] = [
            &made_at.to_be_bytes(),
            &self.user,
            &self.seed,
            self.return_to.as_bytes(),
        ];
        key.seal_for(&place.context(), &fields.concat())
    }

    pub(super) fn open(sealed: &str, place: &Place<'_>, keys: &[SealingKey]) -> Option<Self> {
        let opened = open_for(keys, &place.context(), sealed)?;
        let (made_at, rest) = opened.split_first_chunk::<8>()?;
        let (user, rest) = rest.split_first_chunk::<32>()?;
        let (seed, return_to) = rest.split_first_chunk::<32>()?;
        let since_1970 = Duration::from_millis(u64::from_be_bytes(*made_at));
        Some(Self {
            made_at: UNIX_EPOCH.checked_add(since_1970)?,
            user: *user,
            seed: *seed,
            return_to: std::str::from_utf8(return_to).ok()?.to_owned(),
        })
    }

    /// The `code_verifier` (RFC 7636 §4.1).
    pub(super) fn code_verifier(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.derive(b"code verifier"))
    }

    /// The `code_challenge` with S256 (RFC 7636 §4.2).
    pub(super) fn code_challenge(&self) -> String {
        use sha2::{Digest, Sha256};

        URL_SAFE_NO_PAD.encode(Sha256::digest(self.code_verifier()))
    }

    /// The `nonce` (OIDC Core §3.1.2.1).
    pub(super) fn nonce(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.derive(b"nonce"))
    }

    /// By which its use is noted.
    pub(super) fn id(&self) -> [u8; 32] {
        self.derive(b"used once")
    }

    fn derive(&self, what: &[u8]) -> [u8; 32] {
        Fingerprint::of([PURPOSE, what, &self.seed]).0
    }
}

impl Place<'_> {
    fn context(&self) -> [&[u8]; 3] {
        [
            PURPOSE,
            self.redirect_uri.as_bytes(),
            self.browser.as_bytes(),
        ]
    }
}
