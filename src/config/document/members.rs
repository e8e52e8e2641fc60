use std::collections::{BTreeMap, BTreeSet};

use zeroize::Zeroizing;

use crate::{
    config::{
        backend::BackendAuthConfig,
        error::SectionFaults,
        file_path::FilePath,
        kind::{Keys, REDACTED},
        variable_name::VariableName,
    },
    secret::Secret,
};

use super::{
    nearest::{nearest, one_of},
    value::Value,
};

const EMPTY: &str = "is empty; leave it out, or give it a value";

/// The members of a map, taken out one by one. The members that are left at the end are unknown keys.
pub(in crate::config) struct Members<'a> {
    path: String,
    members: Vec<(String, Value)>,
    faults: &'a mut SectionFaults,
}

impl<'a> Members<'a> {
    /// `path` is where the map is, within what `faults` is for.
    pub(in crate::config) fn new(
        path: impl Into<String>,
        members: Vec<(String, Value)>,
        faults: &'a mut SectionFaults,
    ) -> Self {
        let mut read = Self {
            path: path.into(),
            members: Vec::with_capacity(members.len()),
            faults,
        };
        let mut names = BTreeSet::new();
        for (name, value) in members {
            if names.insert(name.clone()) {
                read.members.push((name, value));
            } else {
                read.fault(&name, "is there twice, remove one of the two");
            }
        }
        read
    }

    pub(in crate::config) fn has(&self, key: &str) -> bool {
        let mut members = self.members.iter();
        members.any(|(member, value)| member == key && !matches!(value, Value::Null))
    }

    /// The key's value, if it is there and not null: null is as if the key were not there.
    pub(in crate::config) fn take(&mut self, key: &str) -> Option<Value> {
        let at = self.members.iter().position(|(member, _)| member == key)?;
        match self.members.swap_remove(at).1 {
            Value::Null => None,
            value => Some(value),
        }
    }

    /// For a map that means something without any key: there it is not clear what null means.
    pub(in crate::config) fn refuse_null(&mut self, key: &str, fault: &str) {
        let mut members = self.members.iter();
        if members.any(|(member, value)| member == key && matches!(value, Value::Null)) {
            self.fault(key, fault);
        }
    }

    fn zeroizing_string(&mut self, key: &str, empty: &str) -> Option<Zeroizing<String>> {
        match self.take(key)? {
            Value::String(text) if text.trim().is_empty() => {
                self.fault(key, empty);
                None
            }
            Value::String(text) => Some(text),
            value @ (Value::Boolean(_) | Value::Integer(_) | Value::OtherNumber) => {
                let found = value.kind();
                self.fault(
                    key,
                    format!("expected a string, found {found}; put it in quotes"),
                );
                None
            }
            value => {
                self.wrong_kind(key, &value, "a string");
                None
            }
        }
    }

    pub(in crate::config) fn string(&mut self, key: &str) -> Option<String> {
        self.zeroizing_string(key, EMPTY)
            .map(|mut text| std::mem::take(&mut *text))
    }

    pub(in crate::config) fn required_string(&mut self, key: &str) -> Option<String> {
        self.zeroizing_string(key, "is empty; give it a value")
            .map(|mut text| std::mem::take(&mut *text))
    }

    pub(in crate::config) fn variable_name(&mut self, key: &str) -> Option<VariableName> {
        let name = self.string(key)?;
        self.is_not_redacted(key, &name)?;
        Some(VariableName::from(name))
    }

    pub(in crate::config) fn file_path(&mut self, key: &str) -> Option<FilePath> {
        let path = self.string(key)?;
        self.is_not_redacted(key, &path)?;
        Some(FilePath::from(path))
    }

    fn is_not_redacted(&mut self, key: &str, text: &str) -> Option<()> {
        if text != REDACTED {
            return Some(());
        }
        self.fault(
            key,
            format!("is `{REDACTED}`, which is written in place of a secret; give the secret itself, or its environment variable"),
        );
        None
    }

    pub(in crate::config) fn secret(&mut self, key: &str) -> Option<Secret> {
        let mut text = self.zeroizing_string(key, EMPTY)?;
        self.is_not_redacted(key, &text)?;
        Secret::new(std::mem::take(&mut *text)).ok()
    }

    pub(in crate::config) fn strings(&mut self, key: &str) -> Vec<String> {
        let members = self.list(key);
        let mut texts = Vec::with_capacity(members.len());
        for (index, member) in members.into_iter().enumerate() {
            match member {
                Value::String(mut text) => texts.push(std::mem::take(&mut *text)),
                value => self.wrong_kind(&format!("{key}[{index}]"), &value, "a string"),
            }
        }
        texts
    }

    pub(in crate::config) fn maps<T: Keys + Default>(&mut self, key: &str) -> Vec<T> {
        let members = self.list(key);
        let read = members.into_iter().enumerate().map(|(index, value)| {
            let key = format!("{key}[{index}]");
            match value {
                Value::Map(members) => self.read_within(&key, members),
                value => {
                    self.wrong_kind(&key, &value, "a map");
                    T::default()
                }
            }
        });
        read.collect()
    }

    fn list(&mut self, key: &str) -> Vec<Value> {
        match self.take(key) {
            None => Vec::new(),
            Some(Value::List(members)) => members,
            Some(value) => {
                self.wrong_kind(key, &value, "a list");
                Vec::new()
            }
        }
    }

    pub(in crate::config) fn boolean(&mut self, key: &str) -> bool {
        match self.take(key) {
            None => false,
            Some(Value::Boolean(boolean)) => boolean,
            Some(value) => {
                self.wrong_kind(key, &value, "true or false");
                false
            }
        }
    }

    pub(in crate::config) fn integer(&mut self, key: &str) -> Option<i32> {
        let value = self.take(key)?;
        let number = match value {
            Value::Integer(number) => i32::try_from(number).ok(),
            _ => None,
        };
        if number.is_none() {
            self.fault(key, "expected a whole number of 32 bits");
        }
        number
    }

    /// Takes out a map in which each member is a section.
    pub(in crate::config) fn sections(&mut self, key: &str) -> Vec<(String, Value)> {
        let members = self.map(key).unwrap_or_default();
        self.within(key, members).members
    }

    /// Takes out a map whose values are strings.
    pub(in crate::config) fn texts(&mut self, key: &str) -> BTreeMap<String, String> {
        let members = self.map(key).unwrap_or_default();
        let mut texts = BTreeMap::new();
        for (name, value) in members {
            match value {
                Value::String(mut text) => {
                    texts.insert(name, std::mem::take(&mut *text));
                }
                value => self.wrong_kind(&format!("{key}.{name}"), &value, "a string"),
            }
        }
        texts
    }

    /// Takes an empty string for a key that is not there.
    pub(in crate::config) fn drop_empty(&mut self, key: &str) {
        self.members
            .retain(|(member, value)| member != key || !value.is_text(""));
    }

    /// The block under this key, if there is one. These keys within may be empty, which is as if they were not there.
    pub(in crate::config) fn block<T: Keys>(
        &mut self,
        key: &str,
        may_be_empty: &[&str],
    ) -> Option<T> {
        let members = self.map(key)?;
        let mut within = self.within(key, members);
        for key in may_be_empty {
            within.drop_empty(key);
        }
        let read = T::read(&mut within);
        within.finish(T::KEYS);
        Some(read)
    }

    pub(in crate::config) fn map(&mut self, key: &str) -> Option<Vec<(String, Value)>> {
        match self.take(key)? {
            Value::Map(members) => Some(members),
            value => {
                self.wrong_kind(key, &value, "a map");
                None
            }
        }
    }

    /// The block that the `type` needs.
    pub(in crate::config) fn needed_block<T: Keys>(
        &mut self,
        key: &str,
        type_name: &str,
    ) -> Option<T> {
        if !self.has(key) {
            self.take(key);
            self.fault(key, format!("is missing; the type `{type_name}` needs it"));
            return None;
        }
        let members = self.map(key)?;
        Some(self.read_within(key, members))
    }

    /// How a backend is authenticated, within another one.
    pub(in crate::config) fn backend(&mut self, key: &str) -> Option<BackendAuthConfig> {
        let value = self.take(key)?;
        super::backend(self.path_of(key), value, self.faults)
    }

    fn read_within<T: Keys>(&mut self, key: &str, members: Vec<(String, Value)>) -> T {
        let mut within = self.within(key, members);
        let read = T::read(&mut within);
        within.finish(T::KEYS);
        read
    }

    /// The members of what stands under `key`.
    pub(in crate::config) fn within(
        &mut self,
        key: &str,
        members: Vec<(String, Value)>,
    ) -> Members<'_> {
        Members::new(self.path_of(key), members, self.faults)
    }

    fn wrong_kind(&mut self, key: &str, value: &Value, expected: &str) {
        let message = format!("expected {expected}, found {}", value.kind());
        self.fault(key, message);
    }

    pub(in crate::config) fn fault(&mut self, key: &str, message: impl Into<String>) {
        let path = self.path_of(key);
        self.faults.add(path, message);
    }

    fn path_of(&self, key: &str) -> String {
        let key = key.escape_debug();
        if self.path.is_empty() {
            key.to_string()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Has all members that were not taken reported: only these keys are known.
    pub(in crate::config) fn finish(self, known: &[&str]) {
        self.finish_beside(known, "", &[]);
    }

    /// As [`finish`](Self::finish), and these other keys are known within the block beside them.
    pub(super) fn finish_beside(mut self, known: &[&str], block: &str, within: &[&str]) {
        let mut unknown = std::mem::take(&mut self.members);
        unknown.sort_by(|(one, _), (other, _)| one.cmp(other));
        let expected = one_of(known.iter().copied());
        for (key, _) in unknown {
            let message = if within.contains(&&*key) {
                format!("belongs within `{block}`, move it there")
            } else if let Some(meant) = nearest(&key, known.iter().copied()) {
                format!("unknown key, did you mean `{meant}`? Expected {expected}")
            } else {
                format!("unknown key; expected {expected}")
            };
            self.fault(&key, message);
        }
    }
}
