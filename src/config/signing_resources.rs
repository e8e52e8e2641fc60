use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    clock::Clock,
    credential::cache::CredentialCache,
    oauth::{signing::Signer, signing_keys::Published},
    strategy::signed_identity::Statement,
};

use super::{SigningKeyConfig, block::Block};

/// The keys that strategies sign with, each read once, and the statements that they have signed.
pub(super) struct SigningResources {
    statements: CredentialCache<Statement>,
    keys: Mutex<Vec<(SigningKeyConfig, Published)>>,
    signers: BTreeMap<String, Signer>,
}

impl SigningResources {
    pub(super) fn new(clock: &Arc<dyn Clock>, signers: BTreeMap<String, Signer>) -> Self {
        Self {
            statements: CredentialCache::builder().clock(Arc::clone(clock)).make(),
            keys: Mutex::default(),
            signers,
        }
    }

    pub(super) fn signer(&self, name: &str) -> Option<Signer> {
        self.signers.get(name).cloned()
    }

    pub(super) fn statements(&self) -> CredentialCache<Statement> {
        self.statements.clone()
    }

    /// The key, if it was read before.
    pub(super) fn known(&self, config: &SigningKeyConfig) -> Option<Published> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys = keys.iter();
        let known = keys.find(|(known, _)| known.is_same(config));
        known.map(|(_, key)| key.clone())
    }

    /// Keeps the key, unless it has been read meanwhile. All get the one that is kept, so that what is published is what
    /// signs, also where its file is replaced.
    fn keep(&self, config: &SigningKeyConfig, key: Published) -> Published {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = keys.iter().find(|(known, _)| known.is_same(config)) {
            return known.clone();
        }
        keys.push((config.clone(), key.clone()));
        key
    }
}

impl<B> Block<'_, B> {
    /// The key whose block is at `at`.
    pub(super) fn signing_key(&mut self, at: &str, config: &SigningKeyConfig) -> Option<Published> {
        if let Some(known) = self.resources.signing().known(config) {
            return Some(known);
        }
        let [key_id, algorithm, key_file, key_env] =
            ["keyId", "algorithm", "keyFile", "keyEnv"].map(|key| format!("{at}.{key}"));
        self.need(&key_id, &config.key_id);
        let algorithm = self.signing_algorithm(&algorithm, &config.algorithm);
        let pem = self.private_key(at, &config.key_file, &config.key_env);
        let pem_key = match &config.key_env {
            Some(_) => key_env,
            None => key_file,
        };
        let key = Published::read(config.key_id.clone(), algorithm?, &pem?, |_| false);
        let settings: &[(&str, &[&str])] = &[("key_id", &[&*key_id]), ("pem", &[&*pem_key])];
        let key = self.part(key, settings)?;
        Some(self.resources.signing().keep(config, key))
    }
}
