use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};

use crate::secret::is_variable_name;

use super::kind::REDACTED;

/// The name of an environment variable that has a secret.
///
/// Needs the feature `config`.
///
/// A secret may stand in its place by mistake. So errors, `Debug` and serialization show the name only if it looks like one:
/// a capital letter, then capital letters, digits and `_`. Otherwise serialization writes `[redacted]`, which is refused
/// when it is read back.
///
/// ```
/// use tower_identity::config::VariableName;
///
/// let name = VariableName::from("GATEWAY_SECRET");
/// assert_eq!(format!("{name:?}"), "VariableName(GATEWAY_SECRET)");
/// let mistake = VariableName::from("7Fjfp0ZBr1KtDRbnfVdmIw");
/// assert_eq!(format!("{mistake:?}"), "VariableName([redacted])");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct VariableName(String);

impl VariableName {
    /// The name, or what stands in its place.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, if it looks like one.
    pub(super) fn shown(&self) -> Option<&str> {
        is_variable_name(&self.0).then_some(&*self.0)
    }
}

impl From<String> for VariableName {
    fn from(name: String) -> Self {
        Self(name)
    }
}

impl From<&str> for VariableName {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl fmt::Debug for VariableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VariableName({})", self.shown().unwrap_or(REDACTED))
    }
}

impl Serialize for VariableName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown().unwrap_or(REDACTED))
    }
}

impl JsonSchema for VariableName {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "VariableName".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}
