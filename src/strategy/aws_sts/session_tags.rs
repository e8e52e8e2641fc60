use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::{
    error::{AuthError, AuthErrorKind, Faults},
    identity::Identity,
    strategy::subject::Subject,
};

/// The claim in which AWS STS finds the tags of a session.
const CLAIM: &str = "https://aws.amazon.com/tags";
/// Where an issuer cannot make claims that are nested, their names are joined.
const FLAT_TAG: &str = "https://aws.amazon.com/tags/principal_tags/";
const FLAT_TRANSITIVE: &str = "https://aws.amazon.com/tags/transitive_tag_keys";

const MAX_TAGS: usize = 50;
const MAX_KEY: usize = 128;
const MAX_VALUE: usize = 256;

/// The tags that a user's token must have.
#[derive(Clone, Debug, Default)]
pub(super) struct RequiredTags {
    pub(super) keys: Vec<String>,
}

impl RequiredTags {
    pub(super) fn check(&self, subject: &Subject, faults: &mut Faults) {
        if subject.provider().is_some() && !self.keys.is_empty() {
            faults.add(
                "required_session_tag",
                "is looked for in the identity's own claims, and `subject` sends another token",
            );
        }
        if self.keys.len() > MAX_TAGS {
            faults.add(
                "required_session_tag",
                "is set more than 50 times, and a session has at most 50 tags",
            );
        }
        for (index, key) in self.keys.iter().enumerate() {
            if !is_key(key) {
                faults.add(
                    format!("required_session_tag[{index}]"),
                    "is not the key of a tag: 1 to 128 letters, digits, spaces and `_.:/=+-@`",
                );
            }
        }
    }

    /// Checks that a user's token has the tags, and has none that AWS would not accept. Where none is required, it is not
    /// looked at.
    pub(super) fn check_token(&self, identity: &Identity) -> Result<(), AuthError> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let tags = Tags::of(identity.claims()).and_then(|tags| tags.check().map(|()| tags));
        let tags = tags.map_err(|fault| {
            refused(
                AuthErrorKind::Configuration,
                &format!("AWS would not accept them: {fault}"),
            )
        })?;
        // Keys are not case sensitive.
        let is_missing = |key: &&String| {
            let key = key.to_lowercase();
            !tags
                .tags
                .iter()
                .any(|(known, _)| known.to_lowercase() == key)
        };
        match self.keys.iter().find(is_missing) {
            None => Ok(()),
            Some(key) => Err(refused(
                AuthErrorKind::InsufficientScope,
                &format!(
                    "the tag `{}` is required, and is not among them",
                    key.escape_debug()
                ),
            )),
        }
    }
}

/// The tags that a token brings (IAM User Guide, "Passing session tags using AssumeRoleWithWebIdentity").
#[derive(Default)]
struct Tags<'a> {
    tags: Vec<(&'a str, &'a Value)>,
    transitive: Vec<Cow<'a, Value>>,
}

impl<'a> Tags<'a> {
    fn of(claims: &'a Map<String, Value>) -> Result<Self, &'static str> {
        let mut tags = Self::default();
        let nested = match claims.get(CLAIM) {
            None => None,
            Some(Value::Object(claim)) => Some(claim),
            // Keycloak makes lists of all such claims.
            Some(Value::Array(claims)) => match claims.as_slice() {
                [Value::Object(claim)] => Some(claim),
                _ => return Err("the claim is not an object"),
            },
            Some(_) => return Err("the claim is not an object"),
        };
        if let Some(claim) = nested {
            match claim.get("principal_tags") {
                None => {}
                Some(Value::Object(members)) => {
                    tags.tags
                        .extend(members.iter().map(|(key, value)| (key.as_str(), value)));
                }
                Some(_) => return Err("`principal_tags` is not an object"),
            }
            tags.add_transitive(claim.get("transitive_tag_keys"))?;
        }
        for (name, value) in claims {
            if let Some(key) = name.strip_prefix(FLAT_TAG) {
                tags.tags.push((key, value));
            }
        }
        tags.add_transitive(claims.get(FLAT_TRANSITIVE))?;
        Ok(tags)
    }

    fn add_transitive(&mut self, keys: Option<&'a Value>) -> Result<(), &'static str> {
        match keys {
            None => {}
            Some(key @ Value::String(_)) => self.transitive.push(Cow::Borrowed(key)),
            Some(Value::Array(keys)) => self.transitive.extend(keys.iter().map(Cow::Borrowed)),
            Some(_) => return Err("`transitive_tag_keys` is not a list"),
        }
        Ok(())
    }

    /// API Reference of AWS STS, "Tag", and IAM User Guide, "Things to know about session tags".
    fn check(&self) -> Result<(), &'static str> {
        if self.tags.len() > MAX_TAGS {
            return Err("there are more than 50");
        }
        let mut keys: Vec<_> = self
            .tags
            .iter()
            .map(|(key, _)| key.to_lowercase())
            .collect();
        if !self.tags.iter().all(|(key, _)| is_key(key)) {
            return Err("a key is not 1 to 128 letters, digits, spaces and `_.:/=+-@`");
        }
        if !self.tags.iter().all(|(_, value)| is_value(value)) {
            return Err(
                "a value is not one text of at most 256 letters, digits, spaces and `_.:/=+-@`",
            );
        }
        keys.sort_unstable();
        if keys
            .windows(2)
            .any(|pair| matches!(pair, [one, other] if one == other))
        {
            return Err("two keys differ in nothing or in their case only");
        }
        let is_tag = |key: &Cow<'_, Value>| {
            let key = key.as_str().map(str::to_lowercase);
            key.is_some_and(|key| keys.binary_search(&key).is_ok())
        };
        if !self.transitive.iter().all(is_tag) {
            return Err("a transitive key is not the key of a tag");
        }
        Ok(())
    }
}

fn is_key(key: &str) -> bool {
    !key.is_empty()
        && key.chars().count() <= MAX_KEY
        && key.chars().all(is_tag_character)
        && !key.to_lowercase().starts_with("aws:")
}

/// A text, or a list of one.
fn is_value(value: &Value) -> bool {
    let text = match value {
        Value::Array(values) => match values.as_slice() {
            [Value::String(text)] => text,
            _ => return false,
        },
        Value::String(text) => text,
        _ => return false,
    };
    text.chars().count() <= MAX_VALUE && text.chars().all(is_tag_character)
}

/// `[\p{L}\p{Z}\p{N}_.:/=+\-@]`.
fn is_tag_character(character: char) -> bool {
    character.is_alphanumeric()
        || (character.is_whitespace() && !character.is_control())
        || "_.:/=+-@".contains(character)
}

#[cold]
fn refused(kind: AuthErrorKind, fault: &str) -> AuthError {
    AuthError::new(
        kind,
        format!(
            "the session tags in the claim `{CLAIM}` of the user's token are not right: {fault}"
        ),
    )
}
