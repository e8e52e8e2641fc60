//! Tokens that say what they are, whose they are and until when, under a seal: nobody has to remember them for half an hour.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    UpstreamAccess,
    UpstreamId,
    UpstreamRefresh,
    Exchanged,
    IdJag,
    CrossApp,
    AwsSession,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::UpstreamAccess => "upstream-access",
            Self::UpstreamId => "upstream-id",
            Self::UpstreamRefresh => "upstream-refresh",
            Self::Exchanged => "exchanged",
            Self::IdJag => "oauth-id-jag+jwt",
            Self::CrossApp => "cross-app",
            Self::AwsSession => "aws-session",
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) aud: String,
    #[serde(rename = "sub")]
    pub(crate) user: usize,
    /// Which log-in of the user it comes of.
    pub(crate) log_in: u64,
    #[serde(rename = "jti")]
    pub(crate) serial: u64,
    pub(crate) exp: u64,
    /// The end of the token that it was issued for.
    pub(crate) subject_exp: Option<u64>,
}

impl Claims {
    pub(crate) fn expires_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.exp)
    }
}

pub(crate) struct Mint {
    secret: u64,
}

impl Mint {
    pub(crate) fn new(secret: u64) -> Self {
        Self { secret }
    }

    pub(crate) fn issue(&self, kind: Kind, claims: &Claims) -> String {
        let header = json!({ "typ": kind.name(), "alg": "none" }).to_string();
        let claims = serde_json::to_string(claims).unwrap();
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
        let message = format!("{header}.{claims}");
        let seal = self.seal(&message);
        format!("{message}.{seal}")
    }

    /// What it says, if it was issued here, and as this.
    pub(crate) fn open(&self, kind: Kind, token: &str) -> Option<Claims> {
        let (message, seal) = token.rsplit_once('.')?;
        if self.seal(message) != seal {
            return None;
        }
        let (header, claims) = message.split_once('.')?;
        let header = URL_SAFE_NO_PAD.decode(header).ok()?;
        let header: serde_json::Value = serde_json::from_slice(&header).ok()?;
        if header["typ"] != kind.name() {
            return None;
        }
        let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
        serde_json::from_slice(&claims).ok()
    }

    pub(crate) fn seal(&self, message: &str) -> String {
        let digest = Sha256::new()
            .chain_update(self.secret.to_be_bytes())
            .chain_update(message)
            .finalize();
        URL_SAFE_NO_PAD.encode(digest)
    }
}
