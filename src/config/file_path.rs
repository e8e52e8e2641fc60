use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};

use super::kind::REDACTED;

/// The absolute path of a file that has a secret or a token, which may be replaced while the application runs.
///
/// Needs the feature `config`.
///
/// A secret may stand in its place by mistake. So errors, `Debug` and serialization show the path only if it looks like
/// one: it begins with `/` and has another `/`. Otherwise serialization writes `[redacted]`, which is refused when it is
/// read back.
///
/// ```
/// use tower_identity::config::FilePath;
///
/// let path = FilePath::from("/run/secrets/gateway");
/// assert_eq!(format!("{path:?}"), "FilePath(/run/secrets/gateway)");
/// let mistake = FilePath::from("7Fjfp0ZBr1KtDRbnfVdmIw");
/// assert_eq!(format!("{mistake:?}"), "FilePath([redacted])");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct FilePath(String);

impl FilePath {
    /// The path, or what stands in its place.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn shown(&self) -> Option<&str> {
        let is_path = self.0.starts_with('/') && self.0.matches('/').count() > 1;
        is_path.then_some(&*self.0)
    }
}

impl From<String> for FilePath {
    fn from(path: String) -> Self {
        Self(path)
    }
}

impl From<&str> for FilePath {
    fn from(path: &str) -> Self {
        Self(path.to_owned())
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FilePath({})", self.shown().unwrap_or(REDACTED))
    }
}

impl Serialize for FilePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown().unwrap_or(REDACTED))
    }
}

impl JsonSchema for FilePath {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "FilePath".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}
