use crate::{identity::UpstreamToken, oauth::unverified_jwt::UnverifiedJwt, secret::Fingerprint};

/// An account at a provider: stands for the issuer and the subject of its ID token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account(Fingerprint);

impl Account {
    /// Returns `None` without an ID token that names both. For example, it may be encrypted.
    pub(crate) fn of(token: &UpstreamToken) -> Option<Self> {
        let id_token = UnverifiedJwt::decode(token.id_token()?.expose())?;
        let names = [id_token.issuer()?, id_token.subject()?];
        Some(Self(Fingerprint::of(names.map(str::as_bytes))))
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.0
    }
}
