//! The parts of a browser's request that are read, and the headers of each response to it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, LOCATION, ORIGIN, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use http_body_util::Full;

use crate::secret::Fingerprint;

use super::link_error::{LinkError, LinkErrorKind};

/// The beginning of the name. Tabs that start at once get a cookie each, and none replaces that of another.
const COOKIE_NAME: &str = "__Host-tower-identity-link-";
/// 32 bytes in base64url.
const SECRET_LENGTH: usize = 43;
/// A start adds a cookie only where there is none, so that there are rarely two.
const MOST_SECRETS: usize = 8;
const LONGEST_PATH: usize = 512;

const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");

/// No page of another site frames it, and nothing of it is loaded or sent elsewhere.
const POLICY: &str =
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The secrets by which a browser is known again, if it has any.
pub(super) fn secrets_of(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let cookies = headers.get_all(COOKIE).into_iter();
    let pairs = cookies
        .filter_map(|cookies| cookies.to_str().ok())
        .flat_map(|cookies| cookies.split(';'));
    let secrets = pairs.filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.starts_with(COOKIE_NAME).then_some(value)
    });
    let is_secret = |secret: &&str| {
        secret.len() == SECRET_LENGTH
            && secret
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    secrets.filter(is_secret).take(MOST_SECRETS)
}

/// The prefix keeps other hosts of the domain from setting it. `Lax` sends it with the redirect back.
pub(super) fn cookie(secret: &str, seconds: u64) -> Option<HeaderValue> {
    let Fingerprint([a, b, c, d, e, f, ..]) = Fingerprint::of([secret.as_bytes()]);
    let name = URL_SAFE_NO_PAD.encode([a, b, c, d, e, f]);
    let cookie = format!(
        "{COOKIE_NAME}{name}={secret}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Lax"
    );
    let mut cookie = HeaderValue::try_from(cookie).ok()?;
    cookie.set_sensitive(true);
    Some(cookie)
}

/// Refuses what is no visit of a page: an image, a frame, or a page that is fetched in advance.
pub(super) fn check_visit(headers: &HeaderMap) -> Result<(), LinkError> {
    let is_visit = headers
        .get(SEC_FETCH_DEST)
        .is_none_or(|destination| destination == "document");
    if is_visit && !headers.contains_key(SEC_PURPOSE) {
        return Ok(());
    }
    Err(LinkErrorKind::Foreign.into())
}

/// Refuses a form of another site, or of another host of this one.
pub(super) fn check_form(headers: &HeaderMap, origin: &str) -> Result<(), LinkError> {
    // With a page that sends no referrer, `Origin` is `null`.
    let is_own = match headers.get(SEC_FETCH_SITE) {
        Some(site) => site == "same-origin",
        None => headers.get(ORIGIN).is_some_and(|sent| sent == origin),
    };
    is_own
        .then_some(())
        .ok_or_else(|| LinkErrorKind::Foreign.into())
}

/// Whether a path with its query stays on this host, whatever a browser makes of it.
pub(super) fn is_local_path(path: &str) -> bool {
    let mut bytes = path.bytes();
    bytes.next() == Some(b'/')
        && !matches!(bytes.next(), Some(b'/'))
        && path.len() <= LONGEST_PATH
        && path.bytes().all(|byte| {
            matches!(byte, b'!'..=b'~')
                && !matches!(
                    byte,
                    b'"' | b'#' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'
                )
        })
}

/// Sends the browser elsewhere with a `GET`.
pub(super) fn redirect(location: &str) -> Option<Response<Full<Bytes>>> {
    let mut location = HeaderValue::try_from(location).ok()?;
    location.set_sensitive(true);
    let mut response = Response::default();
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(LOCATION, location);
    Some(response)
}

/// Adds the headers that each response has.
pub(super) fn guarded(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(POLICY));
    response
}
