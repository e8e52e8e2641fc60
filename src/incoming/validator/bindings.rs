use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

#[cfg(feature = "dpop")]
use crate::incoming::dpop::Proof;
use crate::{error::AuthError, oauth::challenge::Scheme};

use super::{
    certificate_binding::{CertificateBinding, ClientCertificate},
    rejected,
};

/// The certificate and the key that a token is bound to (the claim `cnf`, RFC 7800). They are compared for each request
/// with what the caller proves.
#[derive(Clone, Copy, Default)]
pub(super) struct Bindings {
    certificate: Option<CertificateBinding>,
    /// The thumbprint of a key (`jkt`, RFC 9449 §6.1).
    key: Option<[u8; 32]>,
}

impl Bindings {
    /// Reads the claims. `admits_others` lets bindings pass that are not known here.
    pub(super) fn read(
        claims: &Map<String, Value>,
        admits_others: bool,
    ) -> Result<Option<Arc<Self>>, AuthError> {
        let Some(confirmation) = claims.get("cnf") else {
            return Ok(None);
        };
        let members = confirmation.as_object();
        let bindings = match members {
            Some(members) => Self {
                certificate: CertificateBinding::read(members)?,
                key: key(members)?,
            },
            None => Self::default(),
        };
        let known =
            usize::from(bindings.certificate.is_some()) + usize::from(bindings.key.is_some());
        let are_known = known > 0 && members.is_some_and(|members| members.len() == known);
        if !are_known && !admits_others {
            return Err(rejected(
                "the token is bound to a key (`cnf`), and it is not checked here whether the caller has it",
            ));
        }
        Ok(Some(Arc::new(bindings)))
    }
}

fn key(confirmation: &Map<String, Value>) -> Result<Option<[u8; 32]>, AuthError> {
    thumbprint(confirmation, "jkt", || {
        rejected("the token is bound to a key (`cnf`) by something else than its thumbprint")
    })
}

/// Reads a SHA-256 thumbprint of `cnf`, if the member is there.
pub(super) fn thumbprint(
    confirmation: &Map<String, Value>,
    member: &str,
    is_none: impl FnOnce() -> AuthError,
) -> Result<Option<[u8; 32]>, AuthError> {
    let Some(thumbprint) = confirmation.get(member) else {
        return Ok(None);
    };
    let decoded = thumbprint
        .as_str()
        .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok());
    decoded.map(Some).ok_or_else(is_none)
}

/// The proofs of a caller, besides that it knows the token.
#[derive(Default)]
pub(super) struct Presented {
    certificate: Option<ClientCertificate>,
    #[cfg(feature = "dpop")]
    proof: Option<Proof>,
}

impl Presented {
    /// A request over a connection with this certificate.
    pub(super) fn over(certificate: Option<ClientCertificate>) -> Self {
        Self {
            certificate,
            #[cfg(feature = "dpop")]
            proof: None,
        }
    }

    #[cfg(feature = "dpop")]
    pub(super) fn with_proof(mut self, proof: Proof) -> Self {
        self.proof = Some(proof);
        self
    }

    #[cfg(feature = "dpop")]
    pub(super) fn proof(&self) -> Option<&Proof> {
        self.proof.as_ref()
    }

    pub(super) fn scheme(&self) -> Scheme {
        match self.key() {
            Some(_) => Scheme::Dpop,
            None => Scheme::Bearer,
        }
    }

    /// Compares it with what the token is bound to.
    pub(super) fn check(&self, bindings: Option<&Bindings>) -> Result<(), AuthError> {
        if let Some(certificate) = bindings.and_then(|bindings| bindings.certificate.as_ref()) {
            certificate.check(self.certificate.as_ref())?;
        }
        let bound_to = bindings.and_then(|bindings| bindings.key.as_ref());
        match (bound_to, self.key()) {
            (None, None) => Ok(()),
            (Some(bound_to), Some(key)) if bound_to == key => Ok(()),
            (Some(_), Some(_)) => Err(rejected(
                "the token is bound to another key (`cnf`) than that of the proof",
            )),
            (Some(_), None) => Err(rejected(
                "the token is bound to a key (`cnf`), and was presented without a proof that the caller has it",
            )),
            (None, Some(_)) => Err(rejected(
                "the token is not bound to a key, so it cannot be presented with the scheme DPoP",
            )),
        }
    }

    /// The thumbprint of the key that the caller has.
    fn key(&self) -> Option<&[u8; 32]> {
        #[cfg(feature = "dpop")]
        return self.proof.as_ref().map(|proof| &proof.thumbprint);
        #[cfg(not(feature = "dpop"))]
        None
    }
}
