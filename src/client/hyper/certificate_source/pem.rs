use std::{
    fs,
    io::{self, Read},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    Error, InconsistentKeys,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use zeroize::Zeroizing;

use super::validity::not_after;

const MAX_FILE: usize = 64 * 1024;

/// A certificate with its chain and its key, and when it ends.
pub(super) struct Checked {
    pub(super) certified_key: Arc<CertifiedKey>,
    pub(super) expires_at: SystemTime,
}

/// The part that is at fault, and the fault as the end of a sentence about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) part: Part,
    pub(super) message: &'static str,
    /// Whether a program that is writing the files may be in the middle of it.
    pub(super) may_be_half_written: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Part {
    Certificate,
    Key,
}

impl Part {
    /// The name of the setting.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Key => "key",
        }
    }
}

fn fault(part: Part, message: &'static str) -> Fault {
    Fault {
        part,
        message,
        may_be_half_written: false,
    }
}

fn perhaps_half_written(part: Part, message: &'static str) -> Fault {
    Fault {
        part,
        message,
        may_be_half_written: true,
    }
}

/// Checks that both are there, that they fit together, and that the certificate has not expired.
pub(super) fn check(certificates: &[u8], key: &[u8], now: SystemTime) -> Result<Checked, Fault> {
    let chain = read_chain(certificates)?;
    let expires_at = chain.first().and_then(|first| not_after(first));
    let expires_at = expires_at.ok_or_else(|| fault(Part::Certificate, UNREADABLE))?;
    let key = read_key(key)?;
    let certified_key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
    let certified_key = certified_key.map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => perhaps_half_written(
            Part::Key,
            "does not fit the certificate; check that both are of one pair, and that the certificate comes before those \
             of its issuers",
        ),
        Error::InvalidCertificate(_) => fault(Part::Certificate, UNREADABLE),
        _ => fault(
            Part::Key,
            "is of a kind that is not supported; RSA, P-256, P-384, P-521 and Ed25519 are",
        ),
    })?;
    if now >= expires_at {
        return Err(fault(
            Part::Certificate,
            "has expired; check the program that renews it",
        ));
    }
    Ok(Checked {
        certified_key: Arc::new(certified_key),
        expires_at,
    })
}

const UNREADABLE: &str = "has a certificate that cannot be read";

fn read_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Fault> {
    check_size(Part::Certificate, pem)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(perhaps_half_written(
            Part::Certificate,
            "has no certificate in PEM, or only a part of one",
        )),
    }
}

fn read_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Fault> {
    check_size(Part::Key, pem)?;
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        perhaps_half_written(
            Part::Key,
            "has no private key in PEM (PKCS#8, PKCS#1 or SEC1), or only a part of one; a key that is encrypted must be \
             decrypted first",
        )
    })
}

fn check_size(part: Part, pem: &[u8]) -> Result<(), Fault> {
    match pem.len() {
        0 => Err(perhaps_half_written(part, "is empty")),
        1..=MAX_FILE => Ok(()),
        _ => Err(fault(part, "has more than 64 KiB; check the path")),
    }
}

/// Reads a file, at most one byte more than it may have.
pub(super) fn read(part: Part, path: &Path) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => perhaps_half_written(
            part,
            "does not exist; check the path, and that it is mounted",
        ),
        _ => fault(
            part,
            "cannot be read; check that it is a file, and its permissions",
        ),
    };
    // A pipe would be waited for.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(unreadable(io::ErrorKind::InvalidInput.into()));
    }
    let file = fs::File::open(path).map_err(unreadable)?;
    // Large enough from the start, because a `Vec` that grows leaves a copy that is not wiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE + 1));
    let limit = u64::try_from(MAX_FILE + 1).unwrap_or(u64::MAX);
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    Ok(bytes)
}
