use std::{
    fs::File,
    io::{self, Read},
    path::{Component, Path},
};

use bytes::Bytes;

use crate::config::file_path::FilePath;

/// The system's own bundle has a quarter of it.
const MAX_SIZE: u64 = 1 << 20;

/// Certificate authorities in PEM.
#[derive(Clone)]
pub(super) struct CaBundle {
    pem: Bytes,
}

impl CaBundle {
    /// Reads the file. The error is a sentence whose subject is the path, and does not show it.
    pub(super) fn read(path: &FilePath) -> Result<Self, String> {
        let path = Path::new(path.as_str());
        if !path.is_absolute() {
            return Err("is not the absolute path of a file".to_owned());
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err("has `..`, give the path without".to_owned());
        }
        let pem = read(path).map_err(|error| format!("names a file that {error}"))?;
        check(&pem)?;
        Ok(Self { pem: pem.into() })
    }

    pub(super) fn pem(&self) -> &Bytes {
        &self.pem
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {}", error.kind());
    // A device or a pipe may have no end.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err("is no ordinary file".to_owned());
    }
    let mut pem = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_SIZE + 1)
        .read_to_end(&mut pem)
        .map_err(unreadable)?;
    if pem.len() as u64 > MAX_SIZE {
        return Err("has more than 1 MiB".to_owned());
    }
    Ok(pem)
}

#[cfg(feature = "hyper")]
fn check(pem: &[u8]) -> Result<(), String> {
    match crate::client::hyper::authorities(pem) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("names a file that {error}")),
    }
}

#[cfg(not(feature = "hyper"))]
fn check(pem: &[u8]) -> Result<(), String> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    if pem.windows(BEGIN.len()).any(|window| window == BEGIN) {
        return Ok(());
    }
    Err("names a file that has no certificate in PEM".to_owned())
}
