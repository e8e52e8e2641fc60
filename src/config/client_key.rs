use super::{
    file_path::FilePath,
    kind::{Value, keys},
    variable_name::VariableName,
};

keys! {
    /// A private key that a client authenticates with: it signs an assertion for each request (`private_key_jwt`, RFC 7523
    /// §2.2). It needs the feature `private-key-jwt`.
    pub struct ClientKeyConfig {
        /// The absolute path of the file that has the private key in PEM: PKCS#8, or PKCS#1 for RSA. Either this, `keyEnv`
        /// or `signer`. It is read when the configuration is loaded.
        #[serde(skip_serializing_if = "Option::is_none")]
        "keyFile" => key_file: Option<FilePath>,
        /// The environment variable that has the private key in PEM.
        #[serde(skip_serializing_if = "Option::is_none")]
        "keyEnv" => key_env: Option<VariableName>,
        /// The name of a signer that the application gives, for a key that is in a KMS or an HSM.
        #[serde(skip_serializing_if = "Option::is_none")]
        "signer" => signer: Option<String>,
        /// The algorithm: `RS256`, `PS256`, `ES256`, `ES384` or `EdDSA`.
        "algorithm" => algorithm: String,
        /// The `kid`, by which the endpoint finds the public key. By default there is none.
        #[serde(skip_serializing_if = "Option::is_none")]
        "keyId" => key_id: Option<String>,
        /// The absolute path of the file that has the certificate of the key in PEM, and those of its issuers after it.
        /// Its thumbprint is sent (`x5t#S256`), which Microsoft Entra requires.
        #[serde(skip_serializing_if = "Option::is_none")]
        "certificateFile" => certificate_file: Option<FilePath>,
        /// Also sends the certificates (`x5c`), for an endpoint that trusts their issuer.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        #[schemars(default)]
        "sendCertificates" => send_certificates: bool,
        /// The audience of the assertion. By default the issuer if it is known, or else the URL of the endpoint.
        #[serde(skip_serializing_if = "Option::is_none")]
        "audience" => audience: Option<String>,
    }
}

impl ClientKeyConfig {
    /// The private key in the file at this absolute path, which signs with this algorithm.
    pub fn new(key_file: impl Into<FilePath>, algorithm: impl Into<String>) -> Self {
        Self {
            key_file: Some(key_file.into()),
            algorithm: algorithm.into(),
            ..Self::default()
        }
    }
}

impl Value for Option<ClientKeyConfig> {
    fn read(members: &mut super::document::Members<'_>, key: &str) -> Self {
        members.block(key, &[])
    }
}
