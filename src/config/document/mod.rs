//! A configuration as it was written, and how it is read. Faults of form are collected, so that all of them can be
//! reported at once.

mod members;
mod nearest;
mod value;

use serde::de;

pub(super) use members::Members;
pub(super) use nearest::{nearest, one_of};
pub(super) use value::Value;

use super::{
    backend::{BackendAuthConfig, block_of, blocks_of},
    error::{ConfigFault, Section, SectionFaults},
};

/// Reads how a backend is authenticated, which is at `path`. Invalid values are added to the faults.
pub(super) fn backend(
    path: String,
    value: Value,
    faults: &mut SectionFaults,
) -> Option<BackendAuthConfig> {
    let members = match value {
        Value::Map(members) => members,
        Value::Null => {
            faults.add(
                path,
                "is null; give it a `type`, for example `unauthenticated`",
            );
            return None;
        }
        value => {
            faults.add(path, format!("expected a map, found {}", value.kind()));
            return None;
        }
    };
    let mut members = Members::new(path, members, faults);
    let type_is_missing = !members.has("type");
    let type_name = members.string("type");
    let its_block = type_name.as_deref().and_then(block_of);
    let backend = match type_name {
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
    match its_block {
        Some((block, keys)) => members.finish_beside(&["type", block], block, keys),
        None => members.finish(&["type"]),
    }
    backend
}

/// Reads the map that is the root of a document.
pub(super) fn map<E: de::Error>(value: Value) -> Result<Vec<(String, Value)>, E> {
    match value {
        Value::Map(members) => Ok(members),
        value => Err(E::custom(format!(
            "expected a map, the configuration of authentication, found {}",
            value.kind()
        ))),
    }
}

/// The fault of a document that has the wanted block within it.
pub(super) fn whole_file(members: &[(String, Value)]) -> Option<ConfigFault> {
    let has = |name: &str| members.iter().any(|(member, _)| member == name);
    if has("outgoingAuth") {
        return Some(ConfigFault::new(
            Section::Document,
            "outgoingAuth",
            "this is the whole file of a vMCP; give this block alone, or read the file as a `VmcpConfig`",
        ));
    }
    resource_of_kubernetes(members)
}

/// The fault of a document that is what the operator makes the file of.
pub(super) fn resource_of_kubernetes(members: &[(String, Value)]) -> Option<ConfigFault> {
    let has = |name: &str| members.iter().any(|(member, _)| member == name);
    let is_resource = has("apiVersion") && has("kind");
    is_resource.then(|| {
        ConfigFault::new(
            Section::Document,
            "kind",
            "this is a resource of Kubernetes; give the file that the operator makes of it, which has `outgoingAuth`",
        )
    })
}
