use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use zeroize::Zeroizing;

use crate::{
    oauth::{PrivateKeyJwt, SigningAlgorithm, signing::Signer},
    secret::Secret,
};

use super::{ClientKeyConfig, block::Block, file_path::FilePath, variable_name::VariableName};

/// The largest file of a key or of certificates.
const MAX_FILE: usize = 64 * 1024;

impl<B> Block<'_, B> {
    /// The key of a client, whose block is at `at`.
    pub(super) fn client_key(
        &mut self,
        at: &str,
        config: &ClientKeyConfig,
    ) -> Option<PrivateKeyJwt> {
        let algorithm = self.signing_algorithm(&format!("{at}.algorithm"), &config.algorithm);
        let key = match &config.signer {
            Some(name) => self
                .signer(at, name, config)
                .and_then(|signer| Some(PrivateKeyJwt::of_signer(algorithm?, signer))),
            None => self
                .private_key(at, &config.key_file, &config.key_env)
                .and_then(|pem| Some(PrivateKeyJwt::builder(algorithm?, &pem))),
        };
        let certificate_key = format!("{at}.certificateFile");
        let certificates = config.certificate_file.as_ref();
        let certificates = certificates.map(|path| self.content(&certificate_key, path));
        let mut key = key?;
        if let Some(key_id) = &config.key_id {
            key = key.key_id(key_id);
        }
        if let Some(certificates) = certificates {
            key = key.certificates(certificates?.expose());
        }
        if config.send_certificates {
            key = key.send_certificates();
        }
        if let Some(audience) = &config.audience {
            key = key.audience(audience);
        }
        let [key_file, key_env, key_id, sends, audience] =
            ["keyFile", "keyEnv", "keyId", "sendCertificates", "audience"]
                .map(|key| format!("{at}.{key}"));
        let pem_key = match &config.key_env {
            Some(_) => key_env,
            None => key_file,
        };
        self.part(
            key.build(),
            &[
                ("pem", &[&*pem_key]),
                ("key_id", &[&*key_id]),
                ("certificates", &[&*certificate_key]),
                ("send_certificates", &[&*sends]),
                ("audience", &[&*audience]),
            ],
        )
    }

    /// The signer that the application registered under this name.
    fn signer(&mut self, at: &str, name: &str, config: &ClientKeyConfig) -> Option<Signer> {
        let key = format!("{at}.signer");
        let others = [
            ("keyFile", config.key_file.is_some()),
            ("keyEnv", config.key_env.is_some()),
        ];
        if let Some((other, _)) = others.into_iter().find(|(_, is_there)| *is_there) {
            self.fault(
                &key,
                format!("is there beside `{at}.{other}`, remove one of the two"),
            );
            return None;
        }
        let signer = self.resources.signing().signer(name);
        if signer.is_none() {
            self.fault(
                &key,
                "is the name of no signer; register it with `ResourcesBuilder::signer`",
            );
        }
        signer
    }

    /// The algorithm of this name.
    pub(super) fn signing_algorithm(&mut self, key: &str, name: &str) -> Option<SigningAlgorithm> {
        let mut known = SigningAlgorithm::ALL.into_iter();
        let found = known.find(|known| known.name() == name);
        match (found, name) {
            (None, "") => self.fault(key, "is missing"),
            (None, _) => self.fault(
                key,
                "is none of `RS256`, `PS256`, `ES256`, `ES384` and `EdDSA`",
            ),
            (Some(_), _) => {}
        }
        found
    }

    /// The private key in this file or this variable, in PEM. The keys are in the block at `at`.
    pub(super) fn private_key(
        &mut self,
        at: &str,
        file: &Option<FilePath>,
        variable: &Option<VariableName>,
    ) -> Option<Secret> {
        let [file_key, variable_key] = ["keyFile", "keyEnv"].map(|key| format!("{at}.{key}"));
        match (file, variable) {
            (Some(_), Some(_)) => {
                self.fault(
                    &variable_key,
                    format!("is there beside `{file_key}`, remove one of the two"),
                );
                None
            }
            (Some(path), None) => self.content(&file_key, path),
            (None, Some(_)) => self.secret(("", &None), (&variable_key, variable)),
            (None, None) => {
                let message = format!("is missing; give it, or `{variable_key}`");
                self.lack(&file_key, &[&variable_key], message);
                None
            }
        }
    }

    /// The content of the file, which is read now.
    pub(super) fn content(&mut self, key: &str, path: &FilePath) -> Option<Secret> {
        let content = read(Path::new(path.as_str()));
        content.map_err(|fault| self.fault(key, fault)).ok()
    }
}

fn read(path: &Path) -> Result<Secret, &'static str> {
    const UNREADABLE: &str = "cannot be read; check that it is a file, and its permissions";

    if !path.is_absolute() {
        return Err("is not the absolute path of a file");
    }
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => "does not exist; check the path, and that it is mounted",
        _ => UNREADABLE,
    };
    // A pipe would be waited for.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(UNREADABLE);
    }
    let file = fs::File::open(path).map_err(unreadable)?;
    // Large enough from the start, because a `Vec` that grows leaves a copy that is not wiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE + 1));
    let limit = u64::try_from(MAX_FILE + 1).unwrap_or(u64::MAX);
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > MAX_FILE {
        return Err("has more than 64 KiB; check the path");
    }
    let text = str::from_utf8(&bytes).map_err(|_| "is not UTF-8; check the path")?;
    Secret::new(text.trim()).map_err(|_| "is empty; check the program that writes it")
}
