//! A configuration as it was written, and how it is read. Faults of form are collected, so that all of them can be
//! reported at once.

mod members;
mod value;

use serde::de;

pub(super) use members::Members;
pub(super) use value::Value;

use super::{
    backend::{BackendAuthConfig, blocks_of},
    error::SectionFaults,
};

/// Reads how a backend is authenticated. Invalid values are added to the faults.
pub(super) fn backend(value: Value, faults: &mut SectionFaults) -> Option<BackendAuthConfig> {
    let members = match value {
        Value::Map(members) => members,
        Value::Null => {
            faults.add(
                "",
                "is null; give it a `type`, for example `unauthenticated`",
            );
            return None;
        }
        value => {
            faults.add("", format!("expected a map, found {}", value.kind()));
            return None;
        }
    };
    let mut members = Members::new("", members, faults);
    let type_is_missing = !members.has("type");
    let backend = match members.string("type") {
        Some(type_name) => {
            for (block, is_its_own) in blocks_of(Some(&type_name)) {
                if !is_its_own && members.take(block).is_some() {
                    let type_name = type_name.escape_debug();
                    members.fault(block, format!("does not go with the type `{type_name}`"));
                }
            }
            BackendAuthConfig::read(type_name, &mut members)
        }
        None => {
            if type_is_missing {
                members.fault("type", "is missing");
            }
            // Whether a block goes with the type cannot be told.
            for (block, _) in blocks_of(None) {
                members.take(block);
            }
            None
        }
    };
    members.finish(&["type"]);
    backend
}

/// Reads the map that is the root of a document.
pub(super) fn map<E: de::Error>(value: Value) -> Result<Vec<(String, Value)>, E> {
    match value {
        Value::Map(members) => Ok(members),
        value => Err(E::custom(format!(
            "expected a map of outgoing authentication, found {}",
            value.kind()
        ))),
    }
}
