use schemars::Schema;

use super::{
    document::Members,
    file_path::FilePath,
    kind::{Value, keys},
    variable_name::VariableName,
};

keys! {
    /// The key that tokens are bound to, so that nobody else can use them (DPoP, RFC 9449): a given one, one for each user,
    /// or without any of these keys one that is generated. It needs the feature `dpop`.
    pub struct DpopConfig {
        /// The absolute path of the file that has the private key in PEM: PKCS#8, or PKCS#1 for RSA. It is read once, so
        /// another key needs another file.
        #[serde(skip_serializing_if = "Option::is_none")]
        "keyFile" => key_file: Option<FilePath>,
        /// The environment variable that has the private key in PEM.
        #[serde(skip_serializing_if = "Option::is_none")]
        "keyEnv" => key_env: Option<VariableName>,
        /// The algorithm of the private key: `RS256`, `PS256`, `ES256`, `ES384` or `EdDSA`.
        #[serde(skip_serializing_if = "Option::is_none")]
        "algorithm" => algorithm: Option<String>,
        /// The absolute path of the file that has a random secret of at least 32 characters, of which a key is derived for
        /// each user. It is read once, so another secret needs another file.
        #[serde(skip_serializing_if = "Option::is_none")]
        "perUserSecretFile" => per_user_secret_file: Option<FilePath>,
        /// The environment variable that has this secret.
        #[serde(skip_serializing_if = "Option::is_none")]
        "perUserSecretEnv" => per_user_secret_env: Option<VariableName>,
        /// Accepts tokens that are bound to no key beside those that are, for a server that does not know DPoP yet.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        #[schemars(default)]
        "allowBearerTokens" => allow_bearer_tokens: bool,
    }
}

impl DpopConfig {
    /// A key that is generated, and ends with the [`Resources`](crate::config::Resources).
    pub fn generated() -> Self {
        Self::default()
    }

    /// The private key in the file at this absolute path, for this algorithm.
    pub fn new(key_file: impl Into<FilePath>, algorithm: impl Into<String>) -> Self {
        Self {
            key_file: Some(key_file.into()),
            algorithm: Some(algorithm.into()),
            ..Self::default()
        }
    }

    /// A key for each user, derived from the secret in the file at this absolute path.
    pub fn per_user(secret_file: impl Into<FilePath>) -> Self {
        Self {
            per_user_secret_file: Some(secret_file.into()),
            ..Self::default()
        }
    }
}

impl Value for Option<DpopConfig> {
    fn read(members: &mut Members<'_>, key: &str) -> Self {
        members.refuse_null(
            key,
            "is null; write `{}` for a key that is generated, or leave it out to bind the tokens to none",
        );
        members.block(key, &[])
    }
}

/// Takes null out of the schema of a block.
pub(super) fn not_null(schema: &mut Schema) {
    if let Some(serde_json::Value::Array(alternatives)) = schema.remove("anyOf") {
        let block = alternatives.into_iter().next();
        let members = block.and_then(|block| Schema::try_from(block).ok());
        let members = members
            .as_ref()
            .and_then(Schema::as_object)
            .into_iter()
            .flatten();
        for (name, value) in members {
            schema.insert(name.clone(), value.clone());
        }
    }
}
