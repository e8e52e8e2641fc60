use std::{collections::BTreeMap, sync::Arc};

use crate::{
    clock::Clock,
    credential::cache::CredentialCache,
    oauth::{signing::Signer, signing_keys::Published},
    strategy::signed_identity::Statement,
};

use super::{SigningKeyConfig, block::Block, made_once::MadeOnce};

/// The keys that strategies sign with, each read once, and the statements that they have signed.
pub(super) struct SigningResources {
    statements: CredentialCache<Statement>,
    keys: MadeOnce<SigningKeyConfig, Published>,
    signers: BTreeMap<String, Signer>,
}

impl SigningResources {
    pub(super) fn new(clock: &Arc<dyn Clock>, signers: BTreeMap<String, Signer>) -> Self {
        Self {
            statements: CredentialCache::builder().clock(Arc::clone(clock)).make(),
            keys: MadeOnce::new(SigningKeyConfig::is_same),
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
        self.keys.known(config)
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
        Some(self.resources.signing().keys.keep(config, key))
    }
}
