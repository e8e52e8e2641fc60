use std::{fmt, fmt::Write, sync::Arc};

use http::{HeaderMap, HeaderValue, Request};
use serde_json::Value;

use crate::{
    credential_header::CredentialHeader,
    error::{AuthError, AuthErrorKind, BuildError, Faults},
    identity::Identity,
    outgoing::{
        headers::{header_name, is_restricted},
        identity::HealthCheck,
    },
};

use super::{authenticating::Authenticating, strategy::Strategy};

const MAX_VALUE: usize = 4 * 1024;
const PREFIX: &str = "x-claim-";

/// Sends chosen claims of the user as headers, to a backend that trusts the network.
///
/// ```
/// use tower_identity::ClaimInjection;
///
/// // x-claim-sub: alice
/// // x-user-mail: alice@example.com
/// let strategy = ClaimInjection::builder()
///     .claim("sub")
///     .claim_as("email", "x-user-mail")
///     .build()?;
/// # Ok::<(), tower_identity::BuildError>(())
/// ```
///
/// | claim | value of the header |
/// | --- | --- |
/// | a text | the text. A `%`, each byte outside of visible ASCII and the space, and a space at either end are written as in a URL (`%0A`, RFC 3986 §2.1) |
/// | a number, `true` or `false` | as in JSON |
/// | a list of these | its members with `,` between them. A `,` inside a member is `%2C` |
///
/// Each header replaces those that the request has, in each spelling of its name. A health check passes without claims.
///
/// # Security
///
/// The headers are not signed. Anyone who reaches the backend by another way can set them. If the network is not trusted,
/// use [`SignedIdentity`](crate::SignedIdentity), and send no more claims than the backend needs.
///
/// # Errors
///
/// - [`MissingIdentity`](AuthErrorKind::MissingIdentity): the request carries no identity.
/// - [`InsufficientScope`](AuthErrorKind::InsufficientScope): a claim is missing, is an object, has one in its list, or has
///   more than 4 KiB. The error names the claim, and not its value.
#[derive(Clone)]
pub struct ClaimInjection {
    claims: Arc<[(String, CredentialHeader)]>,
}

impl ClaimInjection {
    /// Creates a builder without claims.
    pub fn builder() -> ClaimInjectionBuilder {
        ClaimInjectionBuilder { claims: Vec::new() }
    }
}

impl<B> Strategy<B> for ClaimInjection {
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
        let identity = request.extensions().get::<Identity>().cloned();
        if HealthCheck::is_marked(request.extensions(), identity.as_ref()) {
            self.remove(request.headers_mut());
            return Authenticating::done();
        }
        let Some(identity) = identity else {
            return AuthError::new(
                AuthErrorKind::MissingIdentity,
                "the request carries no identity, so there are no claims to send; put an `Identity` in its extensions, or \
                 let `IdentityLayer` fall back to the session's",
            )
            .into();
        };
        for (claim, header) in &*self.claims {
            match value_of(claim, &identity) {
                Ok(value) => header.insert(request.headers_mut(), value),
                Err(fault) => return refusal(claim, fault).into(),
            }
        }
        Authenticating::done()
    }

    fn name(&self) -> &'static str {
        "claim_injection"
    }
}

impl ClaimInjection {
    fn remove(&self, headers: &mut HeaderMap) {
        for (_, header) in &*self.claims {
            header.remove_other_spellings(headers);
            headers.remove(header.name());
        }
    }
}

impl fmt::Debug for ClaimInjection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let claims = self.claims.iter();
        f.debug_map()
            .entries(claims.map(|(claim, header)| (claim, header.name())))
            .finish()
    }
}

/// Builds a [`ClaimInjection`].
#[derive(Clone, Debug)]
#[must_use = "nothing is checked before `build`"]
pub struct ClaimInjectionBuilder {
    claims: Vec<(String, String)>,
}

impl ClaimInjectionBuilder {
    /// Sends the claim in the header `x-claim-` with the claim's name, for example `x-claim-sub`.
    pub fn claim(self, claim: &str) -> Self {
        let header = format!("{PREFIX}{}", claim.replace('_', "-"));
        self.claim_as(claim, &header)
    }

    /// Sends the claim in this header.
    pub fn claim_as(mut self, claim: &str, header: &str) -> Self {
        self.claims.push((claim.to_owned(), header.to_owned()));
        self
    }

    /// Builds the strategy.
    ///
    /// # Errors
    ///
    /// Returns a [`BuildError`] that lists each wrong setting:
    ///
    /// - `claims` is missing.
    /// - `claims[0]` is blank, or its header is not a header name, is
    ///   [restricted](crate::HeaderForwardLayer#restricted-names), or is that of an earlier claim. The number counts the
    ///   claims from 0.
    pub fn build(self) -> Result<ClaimInjection, BuildError> {
        let mut faults = Faults::new("ClaimInjection");
        if self.claims.is_empty() {
            faults.add("claims", "is missing, give at least one, such as `sub`");
        }
        let mut claims: Vec<(String, CredentialHeader)> = Vec::with_capacity(self.claims.len());
        for (index, (claim, header)) in self.claims.into_iter().enumerate() {
            let setting = format!("claims[{index}]");
            if claim.trim().is_empty() {
                faults.add(setting, "is empty, give the name of a claim");
                continue;
            }
            let Ok(name) = header_name(&header) else {
                faults.add(
                    setting,
                    "has a header whose name has a character that it cannot have, choose the header by name",
                );
                continue;
            };
            if is_restricted(&name) {
                faults.add(
                    setting.clone(),
                    "has a header of the connection or the session, choose another",
                );
            }
            let spelling = name.as_str().replace('_', "-");
            let mut earlier = claims.iter();
            if earlier.any(|(_, earlier)| earlier.name().as_str().replace('_', "-") == spelling) {
                faults.add(
                    setting,
                    "has the header of an earlier claim, choose another",
                );
            }
            claims.push((claim, CredentialHeader::new(name)));
        }
        faults.check()?;
        Ok(ClaimInjection {
            claims: claims.into(),
        })
    }
}

/// The value of the header, or what is wrong with the claim.
fn value_of(claim: &str, identity: &Identity) -> Result<HeaderValue, &'static str> {
    let mut value = String::new();
    match identity.claims().get(claim) {
        None | Some(Value::Null) if claim == "sub" => {
            write_text(&mut value, identity.subject(), false)
        }
        None | Some(Value::Null) => return Err("is missing"),
        Some(Value::Array(members)) => {
            for (index, member) in members.iter().enumerate() {
                if index > 0 {
                    value.push(',');
                }
                write_value(&mut value, member, true)?;
            }
        }
        Some(other) => write_value(&mut value, other, false)?,
    }
    if value.len() > MAX_VALUE {
        return Err("has more than 4 KiB");
    }
    let mut value = HeaderValue::try_from(value).map_err(|_| "cannot be a header")?;
    value.set_sensitive(true);
    Ok(value)
}

fn write_value(value: &mut String, claim: &Value, is_in_list: bool) -> Result<(), &'static str> {
    match claim {
        Value::String(text) if text.len() <= MAX_VALUE => write_text(value, text, is_in_list),
        Value::String(_) => return Err("has more than 4 KiB"),
        Value::Number(number) => value.push_str(&number.to_string()),
        Value::Bool(boolean) => value.push_str(if *boolean { "true" } else { "false" }),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            return Err(
                "is an object, or a list with something else than texts, numbers and booleans",
            );
        }
    }
    Ok(())
}

fn write_text(value: &mut String, text: &str, is_in_list: bool) {
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        let is_plain = match byte {
            b'%' => false,
            b',' => !is_in_list,
            b' ' => at != 0 && at != last,
            0x21..=0x7e => true,
            _ => false,
        };
        if is_plain {
            value.push(char::from(byte));
        } else {
            // Writing into a `String` does not fail.
            let _ = write!(value, "%{byte:02X}");
        }
    }
}

#[cold]
fn refusal(claim: &str, fault: &str) -> AuthError {
    AuthError::new(
        AuthErrorKind::InsufficientScope,
        format!(
            "the user's claim `{}` {fault}, and the backend wants to know it; have the issuer add it to its tokens as a \
             short text",
            claim.escape_debug()
        ),
    )
}
