//! Certificates of the keys in `support/keys`.

use base64::{Engine, engine::general_purpose::STANDARD};

/// A certificate of the private key in `pem`: in PEM and in DER.
pub(crate) fn certificate(pem: &str) -> (String, Vec<u8>) {
    let key = pem.lines().filter(|line| !line.starts_with("-----"));
    let key = STANDARD.decode(key.collect::<String>()).unwrap();
    let key = rcgen::KeyPair::try_from(&*key).unwrap();
    let certificate = rcgen::CertificateParams::new(["gateway".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let der = certificate.der().to_vec();
    let body = STANDARD.encode(&der);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    (pem, der)
}
