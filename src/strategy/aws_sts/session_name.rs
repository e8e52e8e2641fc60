use std::borrow::Cow;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    error::{AuthError, AuthErrorKind},
    identity::Identity,
};

use super::arn::is_name_byte;

const MIN: usize = 2;
const MAX: usize = 64;
/// Separates the beginning of an unfit name from its hash.
const MARK: &str = ",sha256=";
/// So many of the hash that nobody finds two names that have the same.
const HASH_BYTES: usize = 16;

/// Where the names of sessions come from.
#[derive(Clone, Debug)]
pub(super) struct SessionNames {
    pub(super) claim: String,
    pub(super) replace_unfit: bool,
}

impl SessionNames {
    /// The user's session name, which AWS shows in its logs and in the ARN of the session.
    pub(super) fn name_of<'a>(&self, identity: &'a Identity) -> Result<Cow<'a, str>, AuthError> {
        let value = match identity.claims().get(&self.claim) {
            Some(Value::String(value)) => value,
            None if self.claim == "sub" => identity.subject(),
            Some(_) => return Err(self.error("is not a text")),
            None => return Err(self.error("is not there")),
        };
        if is_fit(value) && !(self.replace_unfit && is_replacement(value)) {
            Ok(Cow::Borrowed(value))
        } else if value.is_empty() {
            Err(self.error("is empty"))
        } else if self.replace_unfit {
            Ok(Cow::Owned(fit(value)))
        } else {
            Err(self.error(
                "is not 2 to 64 characters of `A-Za-z0-9_+=,.@-`; choose another, or have unfit characters replaced \
                 (`replace_unfit_session_names`)",
            ))
        }
    }

    #[cold]
    fn error(&self, fault: &str) -> AuthError {
        AuthError::new(
            AuthErrorKind::Configuration,
            format!(
                "the claim `{}` of the user's token cannot name an AWS session: it {fault}",
                self.claim.escape_debug()
            ),
        )
    }
}

fn is_fit(name: &str) -> bool {
    (MIN..=MAX).contains(&name.len()) && name.bytes().all(is_name_byte)
}

/// Whether a name looks as if it had been made fit. Then it is made fit too, so that it is not somebody else's.
fn is_replacement(name: &str) -> bool {
    let hash = name.rsplit_once(MARK).map(|(_, hash)| hash);
    hash.is_some_and(|hash| {
        hash.len() == 2 * HASH_BYTES
            && hash
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Unfit characters become `-`, and a hash of the whole name tells it from others.
fn fit(name: &str) -> String {
    let hash = Sha256::digest(name);
    let mut suffix = String::from(MARK);
    for byte in hash.iter().take(HASH_BYTES) {
        suffix.push_str(&format!("{byte:02x}"));
    }
    let mut fit: String = name
        .chars()
        .map(|character| match u8::try_from(character) {
            Ok(byte) if is_name_byte(byte) => character,
            _ => '-',
        })
        .take(MAX - suffix.len())
        .collect();
    fit.push_str(&suffix);
    fit
}
