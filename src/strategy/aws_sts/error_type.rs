//! The error type in an answer of an AWS service: what it is called, and whether it speaks of the session.

use std::{borrow::Cow, fmt};

use http::{HeaderMap, HeaderName};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
/// Where a service that speaks JSON keeps the codes of a protocol that it spoke before (Smithy, `awsQueryCompatible`).
const QUERY_ERROR: HeaderName = HeaderName::from_static("x-amzn-query-error");

/// The judgement of whether an error is caused by the session that signed the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the session, or its key.
    Session,
    /// It may be the session.
    Ambiguous,
    /// It is something else.
    Other,
    /// No service of AWS is known to say this.
    Unknown,
}

/// Errors for which a new session helps.
const SESSION: [&str; 9] = [
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidToken",
    "TokenRefreshRequired",
    "UnrecognizedClient",
    "UnrecognizedClientException",
];
/// It is said of a session that has expired, but also of a clock that is wrong, or of a right that is missing.
const AMBIGUOUS: [&str; 2] = ["AuthFailure", "RequestExpired"];
/// With 401, for which a new session helps otherwise.
const OTHER: [&str; 6] = [
    "AccessDenied",
    "AccessDeniedException",
    "NotAuthorized",
    "NotAuthorizedException",
    "SignatureDoesNotMatch",
    "UnauthorizedOperation",
];

pub(super) fn verdict(error_type: &str) -> Verdict {
    if SESSION.contains(&error_type) {
        Verdict::Session
    } else if AMBIGUOUS.contains(&error_type) {
        Verdict::Ambiguous
    } else if OTHER.contains(&error_type) {
        Verdict::Other
    } else {
        Verdict::Unknown
    }
}

pub(super) fn in_headers(headers: &HeaderMap) -> Option<&str> {
    let text = |name| headers.get(name)?.to_str().ok();
    let code = text(ERROR_TYPE).or_else(|| text(QUERY_ERROR)?.split(';').next());
    code.map(bare).filter(|code| is_code(code))
}

/// The error type in the first bytes of a body, which is XML or JSON.
pub(super) fn in_body(first_bytes: &[u8]) -> Option<Cow<'_, str>> {
    let text = first_bytes.trim_ascii_start();
    let code = match text.first()? {
        b'{' => in_json(text)?,
        b'<' => Cow::Owned(in_xml(text)?),
        _ => return None,
    };
    let bare = bare(&code);
    is_code(bare).then(|| Cow::Owned(bare.to_owned()))
}

/// `com.amazon.coral.service#Code:http://internal.amazon.com/…` is `Code` (Smithy, "Operation error serialization").
fn bare(code: &str) -> &str {
    let code = code.split(':').next().unwrap_or(code);
    code.rsplit('#').next().unwrap_or(code).trim()
}

fn is_code(code: &str) -> bool {
    (1..=128).contains(&code.len())
        && code
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_'))
}

/// Reads the members at the first level of a JSON object. If the text is cut off, it is read up to that point.
fn in_json(text: &[u8]) -> Option<Cow<'_, str>> {
    let mut codes = Codes::default();
    let mut json = serde_json::Deserializer::from_slice(text);
    let _ = json.deserialize_map(&mut codes);
    let codes = [codes.tagged, codes.plain, codes.of_query];
    codes.into_iter().flatten().next().map(Cow::Owned)
}

#[derive(Default)]
struct Codes {
    /// `__type`.
    tagged: Option<String>,
    /// `code`.
    plain: Option<String>,
    /// `Code` in the member `Error`: a service of the query protocol says it so where JSON is asked for.
    of_query: Option<String>,
}

impl<'de> Visitor<'de> for &mut Codes {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut members: M) -> Result<(), M::Error> {
        while let Some(name) = members.next_key::<Cow<'de, str>>()? {
            let code = match name.as_ref() {
                "__type" => &mut self.tagged,
                "code" | "Code" => &mut self.plain,
                "Error" => {
                    let error: Value = members.next_value()?;
                    let code = error.get("Code").and_then(Value::as_str);
                    self.of_query = code.map(str::to_owned);
                    continue;
                }
                _ => {
                    members.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *code = Some(members.next_value()?);
        }
        Ok(())
    }
}

/// Where the codes of AWS's XML protocols are.
const XML_PATHS: [&[&[u8]]; 3] = [
    &[b"Error", b"Code"],
    &[b"ErrorResponse", b"Error", b"Code"],
    &[b"Response", b"Errors", b"Error", b"Code"],
];

fn in_xml(mut text: &[u8]) -> Option<String> {
    let mut path: Vec<&[u8]> = Vec::new();
    loop {
        text = after(text, b"<")?;
        let skipped: Option<&[u8]> = if text.starts_with(b"!--") {
            Some(b"-->")
        } else if text.starts_with(b"![CDATA[") {
            Some(b"]]>")
        } else if text.starts_with(b"?") || text.starts_with(b"!") {
            Some(b">")
        } else {
            None
        };
        if let Some(end) = skipped {
            text = after(text, end)?;
            continue;
        }
        let (tag, rest) = split(text, b">")?;
        text = rest;
        if tag.starts_with(b"/") {
            path.pop();
            continue;
        }
        if tag.ends_with(b"/") {
            continue;
        }
        let is_space = |byte: &u8| byte.is_ascii_whitespace();
        path.push(tag.split(is_space).next().unwrap_or(tag));
        if XML_PATHS.contains(&path.as_slice()) {
            let (code, _) = split(text, b"<")?;
            return str::from_utf8(code).ok().map(str::to_owned);
        }
    }
}

fn after<'a>(text: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    split(text, mark).map(|(_, rest)| rest)
}

fn split<'a>(text: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = text.windows(mark.len()).position(|window| window == mark)?;
    let (before, rest) = text.split_at_checked(at)?;
    Some((before, rest.get(mark.len()..)?))
}
