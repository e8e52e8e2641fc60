use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use tower::BoxError;

use crate::{secret::Secret, strategy::strategy::Strategy};

use super::{
    backend::BackendAuthConfig, block::Block, document::Members, file_path::FilePath,
    variable_name::VariableName,
};

/// Serialization writes this in place of a secret. It is refused when it is read back.
pub(super) const REDACTED: &str = "[redacted]";

/// A kind of backend: the block of keys that goes with one `type`, and the strategy that comes of it.
pub(super) trait Kind: Keys + Serialize + JsonSchema {
    /// The `type` that chooses it.
    const TYPE: &'static str;
    /// The key of its block.
    const BLOCK: &'static str;

    /// The ceiling of step-up: the scopes that the backend may ask for.
    fn step_up_scopes(&self) -> &[String] {
        &[]
    }

    /// The names of the headers that its strategy sets.
    fn headers(&self) -> Vec<String>;

    /// Builds its strategy, or adds all faults to `block`.
    fn build<B>(&self, block: &mut Block<'_, B>) -> Option<Arc<dyn Strategy<B>>>
    where
        B: Body + From<Bytes> + Send + 'static,
        B::Error: Into<BoxError>;
}

/// A map with fixed keys.
pub(super) trait Keys: Sized {
    const KEYS: &'static [&'static str];

    /// Takes the keys out of `members`. A value of the wrong type is among the faults.
    fn read(members: &mut Members<'_>) -> Self;
}

/// The value of a key.
pub(super) trait Value: Sized {
    fn read(members: &mut Members<'_>, key: &str) -> Self;
}

/// It is required: where it is missing it is empty, which is a fault when the strategy is built.
impl Value for String {
    fn read(members: &mut Members<'_>, key: &str) -> Self {
        members.required_string(key).unwrap_or_default()
    }
}

impl Value for Option<String> {
    fn read(members: &mut Members<'_>, key: &str) -> Self {
        members.string(key)
    }
}

impl Value for Option<VariableName> {
    fn read(members: &mut Members<'_>, key: &str) -> Self {
        members.variable_name(key)
    }
}

impl Value for Option<FilePath> {
    fn read(members: &mut Members<'_>, key: &str) -> Self {
        members.file_path(key)
    }
}

impl Value for Option<Secret> {
    fn read(members: &mut Members<'_>, key: &str) -> Self {
        members.secret(key)
    }
}

impl Value for Option<i32> {
    fn read(members: &mut Members<'_>, key: &str) -> Self {
        members.integer(key)
    }
}

impl Value for Option<Box<BackendAuthConfig>> {
    fn read(members: &mut Members<'_>, key: &str) -> Self {
        members.backend(key).map(Box::new)
    }
}

impl Value for bool {
    fn read(members: &mut Members<'_>, key: &str) -> Self {
        members.boolean(key)
    }
}

impl Value for Vec<String> {
    fn read(members: &mut Members<'_>, key: &str) -> Self {
        members.strings(key)
    }
}

impl<T: Keys + Default> Value for Vec<T> {
    fn read(members: &mut Members<'_>, key: &str) -> Self {
        members.maps(key)
    }
}

/// Declares a struct whose fields are the keys of a map, with the name of each key, and [reads](Keys) it.
macro_rules! keys {
    (
        $(#[$attribute:meta])*
        pub struct $config:ident {
            $(
                $(#[$field_attribute:meta])*
                $key:literal => $field:ident: $value:ty,
            )+
        }
    ) => {
        #[derive(Clone, Debug, Default, serde::Serialize, schemars::JsonSchema)]
        $(#[$attribute])*
        // Not in the schema, where the text above is the description.
        #[cfg_attr(
            doc,
            doc = "\n\nNeeds the feature `config`. [`OutgoingAuthConfig`](crate::OutgoingAuthConfig) and [`VmcpConfig`](crate::config::VmcpConfig) have examples of documents."
        )]
        #[schemars(deny_unknown_fields)]
        #[non_exhaustive]
        pub struct $config {
            $(
                $(#[$field_attribute])*
                #[serde(rename = $key)]
                pub $field: $value,
            )+
        }

        impl $crate::config::kind::Keys for $config {
            const KEYS: &'static [&'static str] = &[$($key),+];

            fn read(members: &mut $crate::config::document::Members<'_>) -> Self {
                Self {
                    $($field: $crate::config::kind::Value::read(members, $key),)+
                }
            }
        }
    };
}

pub(super) use keys;

pub(super) fn write_redacted<S: Serializer>(
    _: &Option<Secret>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(REDACTED)
}
