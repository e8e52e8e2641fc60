//! SigV4 as the receiving side has it, written from AWS's description and checked against AWS's published examples.

use http::{HeaderMap, Method};
use sha2::{Digest, Sha256};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    pub(crate) method: Method,
    /// As it was sent, percent-encoding included.
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) encodes_path: bool,
    pub(crate) normalizes_path: bool,
}

pub(crate) const MOST_SERVICES: Rules = Rules {
    encodes_path: true,
    normalizes_path: true,
};

pub(crate) const S3: Rules = Rules {
    encodes_path: false,
    normalizes_path: false,
};

const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// What an `Authorization` header of SigV4 says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) access_key_id: String,
    pub(crate) date: String,
    pub(crate) region: String,
    pub(crate) service: String,
    pub(crate) signed_headers: Vec<String>,
    pub(crate) signature: String,
}

impl Signature {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let authorization: Vec<_> = headers.get_all("authorization").iter().collect();
        let [authorization] = authorization[..] else {
            panic!("one authorization header should be there: {authorization:?}");
        };
        let authorization = authorization.to_str().unwrap();
        let fields = authorization.strip_prefix("AWS4-HMAC-SHA256 ").unwrap();
        let [credential, signed_headers, signature] = fields
            .split(", ")
            .zip(["Credential=", "SignedHeaders=", "Signature="])
            .map(|(field, name)| field.strip_prefix(name).unwrap())
            .collect::<Vec<_>>()[..]
        else {
            panic!("{authorization}");
        };
        let scope: Vec<_> = credential.split('/').map(str::to_owned).collect();
        let [access_key_id, date, region, service, end] = &scope[..] else {
            panic!("{credential}");
        };
        assert_eq!(end, "aws4_request");
        Self {
            access_key_id: access_key_id.clone(),
            date: date.clone(),
            region: region.clone(),
            service: service.clone(),
            signed_headers: signed_headers.split(';').map(str::to_owned).collect(),
            signature: signature.to_owned(),
        }
    }

    /// Whether the request was signed with this key.
    pub(crate) fn is_by(&self, secret: &str, request: &Arrived, rules: Rules) -> bool {
        let date = request.headers["x-amz-date"].to_str().unwrap();
        assert!(date.starts_with(&self.date));
        let signed: Vec<&str> = self.signed_headers.iter().map(String::as_str).collect();
        let canonical = canonical_request(request, &signed, rules);
        sign(&canonical, secret, date, &self.region, &self.service) == self.signature
    }
}

pub(crate) fn canonical_request(request: &Arrived, signed: &[&str], rules: Rules) -> String {
    let path = match rules.normalizes_path {
        true => normalized(&request.path),
        false => request.path.clone(),
    };
    let path = match rules.encodes_path {
        true => encoded(path.as_bytes(), b"/"),
        false => path,
    };
    let mut pairs: Vec<(String, String)> = request
        .query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encoded(&decoded(name), b""), encoded(&decoded(value), b"")))
        .collect();
    pairs.sort();
    let query: Vec<String> = pairs
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let headers: String = signed
        .iter()
        .map(|name| {
            let values = request.headers.get_all(*name).iter();
            let values: Vec<String> = values.map(|value| trimmed(value.as_bytes())).collect();
            assert!(!values.is_empty(), "{name} was signed and has not arrived");
            format!("{name}:{}\n", values.join(","))
        })
        .collect();
    let is_unsigned = request
        .headers
        .get("x-amz-content-sha256")
        .is_some_and(|hash| hash == UNSIGNED_PAYLOAD);
    let hash = match is_unsigned {
        true => UNSIGNED_PAYLOAD.to_owned(),
        false => hex(&Sha256::digest(&request.body)),
    };
    format!(
        "{}\n{path}\n{}\n{headers}\n{}\n{hash}",
        request.method,
        query.join("&"),
        signed.join(";"),
    )
}

pub(crate) fn sign(
    canonical: &str,
    secret: &str,
    date: &str,
    region: &str,
    service: &str,
) -> String {
    let day = &date[..8];
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{date}\n{day}/{region}/{service}/aws4_request\n{}",
        hex(&Sha256::digest(canonical))
    );
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [day, region, service, "aws4_request", &to_sign] {
        key = hmac(&key, part.as_bytes());
    }
    hex(&key)
}

/// RFC 2104.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new_with_prefix(block.map(|byte| byte ^ 0x36)).chain_update(message);
    let outer =
        Sha256::new_with_prefix(block.map(|byte| byte ^ 0x5c)).chain_update(inner.finalize());
    outer.finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 3986 §5.2.4, and no empty segments.
fn normalized(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let is_folder = matches!(path.rsplit('/').next(), Some("" | "." | ".."));
    let end = if is_folder && !segments.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{end}", segments.join("/"))
}

fn encoded(bytes: &[u8], also: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(*byte).to_string()
            }
            byte if also.contains(byte) => char::from(*byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3);
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], byte) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            (b'+', _) => {
                decoded.push(b' ');
                at += 1;
            }
            (byte, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

fn trimmed(value: &[u8]) -> String {
    let value = std::str::from_utf8(value).unwrap();
    let words: Vec<&str> = value.split(' ').filter(|word| !word.is_empty()).collect();
    words.join(" ")
}
