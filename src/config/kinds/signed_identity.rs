use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;
use tower::BoxError;

use crate::{
    config::{
        block::Block,
        file_path::FilePath,
        kind::{Kind, keys},
        variable_name::VariableName,
    },
    strategy::strategy::Strategy,
};

keys! {
    /// A statement of who the user is, signed by this gateway, for a backend that trusts the gateway.
    pub struct SignedIdentityConfig {
        /// The gateway's issuer identifier, which is the `iss` of the statement.
        "issuer" => issuer: String,
        /// The backend that the statement is for, which is its `aud`.
        "audience" => audience: String,
        /// The claims of the user's token that the statement repeats, beside `sub`. Each of them is required.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        #[schemars(default)]
        "claims" => claims: Vec<String>,
        /// The number of seconds for which a statement is valid, at most 3600. By default 60.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1, max = 3600))]
        "lifetimeSeconds" => lifetime_seconds: Option<i32>,
        /// The keys of the gateway. The first one signs, and all are published. At least one is required.
        #[schemars(length(min = 1))]
        "signingKeys" => signing_keys: Vec<SigningKeyConfig>,
        /// The header that the statement is sent in. By default `Authorization`, after `Bearer `.
        #[serde(skip_serializing_if = "Option::is_none")]
        "headerName" => header_name: Option<String>,
        /// The text before the statement in the header `headerName`, for example `token`, and a space after it. By default
        /// there is none.
        #[serde(skip_serializing_if = "Option::is_none")]
        "headerPrefix" => header_prefix: Option<String>,
    }
}

keys! {
    /// A key that the gateway signs with or publishes.
    pub struct SigningKeyConfig {
        /// The name under which the key is published (`kid`). Another key needs another name.
        "keyId" => key_id: String,
        /// The algorithm: `RS256`, `PS256`, `ES256`, `ES384` or `EdDSA`.
        "algorithm" => algorithm: String,
        /// The absolute path of the file that has the private key in PEM: PKCS#8, or PKCS#1 for RSA. Either this or
        /// `keyEnv`. It is read once, so another key needs another file.
        #[serde(skip_serializing_if = "Option::is_none")]
        "keyFile" => key_file: Option<FilePath>,
        /// The environment variable that has the private key in PEM.
        #[serde(skip_serializing_if = "Option::is_none")]
        "keyEnv" => key_env: Option<VariableName>,
    }
}

impl SignedIdentityConfig {
    /// Statements of the gateway `issuer` for the backend `audience`, signed with this key.
    pub fn new(
        issuer: impl Into<String>,
        audience: impl Into<String>,
        signing_key: SigningKeyConfig,
    ) -> Self {
        Self {
            issuer: issuer.into(),
            audience: audience.into(),
            signing_keys: vec![signing_key],
            ..Self::default()
        }
    }
}

impl SigningKeyConfig {
    /// Whether this is the same key of the same name.
    pub(in crate::config) fn is_same(&self, other: &Self) -> bool {
        self.key_id == other.key_id
            && self.algorithm == other.algorithm
            && self.key_file == other.key_file
            && self.key_env == other.key_env
    }

    /// The private key in the file at this absolute path, which signs with this algorithm and is published as `key_id`.
    pub fn new(
        key_id: impl Into<String>,
        algorithm: impl Into<String>,
        key_file: impl Into<FilePath>,
    ) -> Self {
        Self {
            key_id: key_id.into(),
            algorithm: algorithm.into(),
            key_file: Some(key_file.into()),
            ..Self::default()
        }
    }
}

impl Kind for SignedIdentityConfig {
    const TYPE: &'static str = "signed_identity";
    const BLOCK: &'static str = "signedIdentity";

    fn headers(&self) -> Vec<String> {
        vec![super::header_of_token(self.header_name.as_deref())]
    }

    #[cfg(not(feature = "private-key-jwt"))]
    fn build<B>(&self, block: &mut Block<'_, B>) -> Option<Arc<dyn Strategy<B>>>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        block.fault_of_type("needs the feature `private-key-jwt` of the crate `tower-identity`");
        None
    }

    #[cfg(feature = "private-key-jwt")]
    fn build<B>(&self, block: &mut Block<'_, B>) -> Option<Arc<dyn Strategy<B>>>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        use std::time::Duration;

        use crate::{oauth::SigningKeys, strategy::SignedIdentityBuilder};

        block.need("issuer", &self.issuer);
        block.need("audience", &self.audience);
        let keys = self.signing_keys.iter().enumerate();
        let keys: Vec<_> = keys
            .map(|(index, key)| block.signing_key(&format!("signingKeys[{index}]"), key))
            .collect();
        let keys = keys.into_iter().collect::<Option<Vec<_>>>();
        let keys = keys.and_then(SigningKeys::of);
        let mut strategy = SignedIdentityBuilder::new(&self.issuer, &self.audience, keys)
            .claims(&self.claims)
            .cache(block.resources.signing().statements())
            .clock(block.resources.clock());
        if let Some(seconds) = self.lifetime_seconds {
            // Less than zero is as wrong as too much.
            let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
            strategy = strategy.lifetime(Duration::from_secs(seconds));
        }
        if let Some(placement) = super::placement(
            block,
            self.header_name.as_deref(),
            self.header_prefix.as_deref(),
        ) {
            strategy = strategy.placement(placement);
        }
        let strategy = block.built(
            strategy.build(),
            &[
                ("issuer", &["issuer"]),
                ("audience", &["audience"]),
                ("claims[]", &["claims[]"]),
                ("lifetime", &["lifetimeSeconds"]),
                ("keys", &["signingKeys", "signingKeys["]),
            ],
        )?;
        Some(Arc::new(strategy))
    }
}
