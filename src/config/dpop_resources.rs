use crate::oauth::{DpopKey, DpopKeys};

use super::{DpopConfig, block::Block, made_once::MadeOnce};

/// The keys that tokens are bound to.
pub(super) type DpopResources = MadeOnce<DpopConfig, DpopKeys>;

impl DpopConfig {
    pub(super) fn has_keys_of(&self, other: &Self) -> bool {
        self.key_file == other.key_file
            && self.key_env == other.key_env
            && self.algorithm == other.algorithm
            && self.per_user_secret_file == other.per_user_secret_file
            && self.per_user_secret_env == other.per_user_secret_env
    }

    /// Whether the application can have the same keys.
    pub(super) fn is_generated(&self) -> bool {
        self.has_keys_of(&Self::default())
    }
}

impl<B> Block<'_, B> {
    /// The keys whose block is at `at`.
    pub(super) fn dpop_keys(&mut self, at: &str, config: &DpopConfig) -> Option<DpopKeys> {
        if let Some(known) = self.resources.dpop().known(config) {
            return Some(known);
        }
        let keys = self.new_dpop_keys(at, config)?;
        let keys = keys.clock(self.resources.clock());
        Some(self.resources.dpop().keep(config, keys))
    }

    fn new_dpop_keys(&mut self, at: &str, config: &DpopConfig) -> Option<DpopKeys> {
        let [
            file_key,
            variable_key,
            secret_file_key,
            secret_variable_key,
            algorithm_key,
        ] = [
            "keyFile",
            "keyEnv",
            "perUserSecretFile",
            "perUserSecretEnv",
            "algorithm",
        ]
        .map(|key| format!("{at}.{key}"));
        let given = [
            (&file_key, config.key_file.is_some()),
            (&variable_key, config.key_env.is_some()),
            (&secret_file_key, config.per_user_secret_file.is_some()),
            (&secret_variable_key, config.per_user_secret_env.is_some()),
        ];
        let mut given = given.iter().filter(|(_, is_there)| *is_there);
        let first = given.next().map(|(key, _)| *key);
        if let (Some(first), Some((second, _))) = (first, given.next()) {
            self.fault(
                second,
                format!("is there beside `{first}`, remove one of the two"),
            );
            return None;
        }
        let has_key = config.key_file.is_some() || config.key_env.is_some();
        if has_key {
            let name = config.algorithm.as_deref().unwrap_or_default();
            let algorithm = self.signing_algorithm(&algorithm_key, name);
            let pem = self.private_key(at, &config.key_file, &config.key_env);
            let key = DpopKey::from_pem(algorithm?, &pem?);
            let pem_keys: &[&str] = &[first?];
            return self.part(key, &[("pem", pem_keys)]).map(DpopKeys::from);
        }
        if config.algorithm.is_some() {
            let message =
                format!("is there without a private key; give `{file_key}` too, or leave it out");
            self.lack(&algorithm_key, &[&file_key, &variable_key], message);
            return None;
        }
        let secret = match (&config.per_user_secret_file, &config.per_user_secret_env) {
            (Some(path), _) => self.content(&secret_file_key, path)?,
            (None, variable @ Some(_)) => {
                self.secret(("", &None), (&secret_variable_key, variable))?
            }
            (None, None) => return self.part(DpopKey::generate(), &[]).map(DpopKeys::from),
        };
        let secret_keys: &[&str] = &[first?];
        self.part(DpopKeys::per_user(&secret), &[("secret", secret_keys)])
    }
}
