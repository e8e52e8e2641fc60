use std::{borrow::Cow, str, time::SystemTime};

use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Uri,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, PROXY_AUTHORIZATION, TRAILER},
    uri::{Authority, Scheme},
};
use tracing::{Dispatch, dispatcher};

use crate::{
    error::{AuthError, AuthErrorKind},
    hop_by_hop::remove_hop_by_hop,
    trailers::is_spelling,
};

use super::{
    credentials::SessionCredentials,
    payload_hash::{PayloadHash, is_s3},
};

/// Signing writes the query anew, each byte as at most four, and a URI has at most 65,534.
const MAX_PATH_AND_QUERY: usize = 16_000;

const AMZ_PREFIX: &str = "x-amz-";
const AMZ_CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
pub(super) const AMZ_SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// Signs requests as AWS wants them (SigV4, "AWS API request signatures").
pub(super) struct Signer {
    region: String,
    service: String,
    settings: SigningSettings,
    payload_hash: PayloadHash,
}

/// The part of a request's body that is signed.
pub(super) struct SignedPayload<'a> {
    /// `None` is a body that is not signed.
    pub(super) bytes: Option<&'a [u8]>,
    pub(super) has_trailers: bool,
}

impl Signer {
    pub(super) fn new(region: String, service: String, payload_hash: Option<PayloadHash>) -> Self {
        let payload_hash = payload_hash.unwrap_or_else(|| PayloadHash::of_service(&service));
        let mut settings = SigningSettings::default();
        // What is signed is chosen here.
        settings.excluded_headers = None;
        if is_s3(&service) {
            settings.percent_encoding_mode = PercentEncodingMode::Single;
            settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        }
        settings.payload_checksum_kind = match payload_hash {
            PayloadHash::Signed => PayloadChecksumKind::NoHeader,
            PayloadHash::Header | PayloadHash::Unsigned => PayloadChecksumKind::XAmzSha256,
        };
        Self {
            region,
            service,
            settings,
            payload_hash,
        }
    }

    /// Whether the body has to be read before a request can be signed.
    pub(super) fn reads_payload(&self) -> bool {
        self.payload_hash != PayloadHash::Unsigned
    }

    /// Signs a request with this payload, and makes its head what is then to be sent.
    pub(super) fn sign<B>(
        &self,
        request: &mut Request<B>,
        payload: &SignedPayload<'_>,
        credentials: &SessionCredentials,
        now: SystemTime,
    ) -> Result<(), AuthError> {
        if now >= credentials.usable_until() {
            return Err(expired());
        }
        clean(request.headers_mut(), payload.has_trailers);
        name_host(request)?;
        let path_and_query = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        if path_and_query.len() > MAX_PATH_AND_QUERY {
            return Err(AuthError::new(
                AuthErrorKind::PayloadTooLarge,
                "the path and query of the request are longer than the 16,000 bytes that can be signed",
            ));
        }
        let signable = SignableRequest::new(
            request.method().as_str(),
            Cow::Borrowed(path_and_query),
            signed_headers(request.headers())?.into_iter(),
            payload
                .bytes
                .map_or(SignableBody::UnsignedPayload, SignableBody::Bytes),
        )
        .map_err(unsignable)?;
        let params = v4::SigningParams::builder()
            .identity(credentials.signing_identity())
            .region(&self.region)
            .name(&self.service)
            .time(now)
            .settings(self.settings.clone())
            .build()
            .map_err(unsignable)?
            .into();
        // What is signed may be secret (a customer's encryption key), and aws-sigv4 shows it at TRACE.
        let signed = dispatcher::with_default(&Dispatch::none(), || sign(signable, &params))
            .map_err(unsignable)?;
        let (signed, _) = signed.into_parts();
        let headers = request.headers_mut();
        for (name, value) in signed.headers() {
            let (name, sensitive) = match name {
                "authorization" => (AUTHORIZATION, true),
                "x-amz-date" => (AMZ_DATE, false),
                "x-amz-content-sha256" => (AMZ_CONTENT_SHA256, false),
                // Ready-made, below.
                _ => continue,
            };
            let mut value = HeaderValue::from_str(value).map_err(unsignable)?;
            value.set_sensitive(sensitive);
            headers.insert(name, value);
        }
        headers.insert(AMZ_SECURITY_TOKEN, credentials.security_token().clone());
        Ok(())
    }
}

/// Removes what ends at the next hop, and what signing brings anew.
fn clean(headers: &mut HeaderMap, has_trailers: bool) {
    remove_hop_by_hop(headers);
    headers.remove(PROXY_AUTHORIZATION);
    if has_trailers {
        // HTTP/1.1 sends no trailers after a body whose length it knows (RFC 9112 §7.1.2).
        headers.remove(CONTENT_LENGTH);
    } else {
        headers.remove(TRAILER);
    }
    let anew = [
        AUTHORIZATION,
        AMZ_CONTENT_SHA256,
        AMZ_DATE,
        AMZ_SECURITY_TOKEN,
    ];
    let is_anew = |name: &&HeaderName| {
        let mut anew = anew.iter();
        anew.any(|anew| is_spelling(name.as_str().as_bytes(), anew))
    };
    while let Some(stale) = headers.keys().find(is_anew).cloned() {
        headers.remove(stale);
    }
}

/// Makes the `host` header what HTTP clients make of the URI, so that what is signed is what is sent.
fn name_host<B>(request: &mut Request<B>) -> Result<(), AuthError> {
    let (Some(scheme), Some(authority)) = (request.uri().scheme(), request.uri().authority())
    else {
        return if request.headers().contains_key(HOST) {
            Ok(())
        } else {
            Err(AuthError::new(
                AuthErrorKind::Configuration,
                "the request has a relative URI and no `host` header, so there is no host to sign; give it an absolute \
                 URI",
            ))
        };
    };
    let port = authority.port_u16().filter(|port| {
        let default = if *scheme == Scheme::HTTPS { 443 } else { 80 };
        *port != default
    });
    let host = match port {
        None => Cow::Borrowed(authority.host()),
        Some(port) => {
            let whole = authority.as_str();
            let written = whole.strip_prefix(authority.host());
            match written.and_then(|port| port.strip_prefix(':')) {
                Some(written) if !written.starts_with('0') => Cow::Borrowed(whole),
                _ => Cow::Owned(format!("{}:{port}", authority.host())),
            }
        }
    };
    let header = HeaderValue::from_str(&host).map_err(unsignable)?;
    if *host != *authority.as_str() {
        // HTTP/2 sends the authority as it is.
        *request.uri_mut() = with_authority(request.uri(), &host)?;
    }
    request.headers_mut().insert(HOST, header);
    Ok(())
}

fn with_authority(uri: &Uri, authority: &str) -> Result<Uri, AuthError> {
    let mut parts = uri.clone().into_parts();
    parts.authority = Some(Authority::try_from(authority).map_err(unsignable)?);
    Uri::from_parts(parts).map_err(unsignable)
}

/// Only what no proxy rewrites, and what AWS insists on.
fn is_signed(name: &HeaderName) -> bool {
    *name == HOST || *name == CONTENT_TYPE || name.as_str().starts_with(AMZ_PREFIX)
}

fn signed_headers(headers: &HeaderMap) -> Result<Vec<(&str, &str)>, AuthError> {
    let signed = headers.iter().filter(|(name, _)| is_signed(name));
    let as_text = signed.map(|(name, value)| {
        let value = str::from_utf8(value.as_bytes()).map_err(|_| {
            AuthError::new(
                AuthErrorKind::Configuration,
                format!("the header `{name}` is not UTF-8, so the request cannot be signed"),
            )
        })?;
        Ok((name.as_str(), value))
    });
    as_text.collect()
}

#[cold]
fn expired() -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        "the AWS credentials of this session expire within 5 s, so nothing was signed with them; check this machine's clock",
    )
}

/// The cause is left out, because it could show what was to be signed.
#[cold]
fn unsignable<E>(_: E) -> AuthError {
    AuthError::new(
        AuthErrorKind::Configuration,
        "the request cannot be signed for AWS (SigV4); check its URI and its `x-amz-*` headers",
    )
}
