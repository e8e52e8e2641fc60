use std::collections::BTreeSet;

use zeroize::Zeroizing;

use crate::{
    config::{backend::REDACTED, error::Faults},
    secret::Secret,
};

use super::value::Value;

/// The members of a map, taken out one by one. What is left in the end is not known.
pub(in crate::config) struct Members<'a> {
    path: String,
    members: Vec<(String, Value)>,
    faults: &'a mut Faults,
}

impl<'a> Members<'a> {
    /// `path` is where the map is, within what `faults` is for.
    pub(in crate::config) fn new(
        path: impl Into<String>,
        members: Vec<(String, Value)>,
        faults: &'a mut Faults,
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
                read.fault(&name, "is there twice; which one is meant cannot be told");
            }
        }
        read
    }

    pub(super) fn has(&self, name: &str) -> bool {
        let mut members = self.members.iter();
        members.any(|(member, value)| member == name && !matches!(value, Value::Null))
    }

    /// The member's value, if it is there and not null.
    pub(in crate::config) fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.members.iter().position(|(member, _)| member == name)?;
        match self.members.swap_remove(at).1 {
            Value::Null => None,
            value => Some(value),
        }
    }

    fn zeroizing_text(&mut self, name: &str) -> Option<Zeroizing<String>> {
        match self.take(name)? {
            Value::Text(text) if text.trim().is_empty() => {
                self.fault(name, "is empty; leave it out, or give it a value");
                None
            }
            Value::Text(text) => Some(text),
            Value::Flag(_) | Value::Integer(_) | Value::OtherNumber => {
                self.fault(name, "is not a text; put it in quotes");
                None
            }
            value => {
                self.wrong_kind(name, &value, "a text");
                None
            }
        }
    }

    pub(in crate::config) fn text(&mut self, name: &str) -> Option<String> {
        self.zeroizing_text(name)
            .map(|mut text| std::mem::take(&mut *text))
    }

    pub(super) fn needed_text(&mut self, name: &str) -> String {
        self.text(name).unwrap_or_default()
    }

    pub(super) fn secret(&mut self, name: &str) -> Option<Secret> {
        let mut text = self.zeroizing_text(name)?;
        if *text == REDACTED {
            self.fault(
                name,
                format!("is `{REDACTED}`, which is written in place of a secret; give the secret itself, or its environment variable"),
            );
            return None;
        }
        Secret::new(std::mem::take(&mut *text)).ok()
    }

    pub(super) fn texts(&mut self, name: &str) -> Vec<String> {
        let members = self.list(name);
        let mut texts = Vec::with_capacity(members.len());
        for (index, member) in members.into_iter().enumerate() {
            match member {
                Value::Text(mut text) => texts.push(std::mem::take(&mut *text)),
                value => self.wrong_kind(&format!("{name}[{index}]"), &value, "a text"),
            }
        }
        texts
    }

    pub(super) fn list(&mut self, name: &str) -> Vec<Value> {
        match self.take(name) {
            None => Vec::new(),
            Some(Value::List(members)) => members,
            Some(value) => {
                self.wrong_kind(name, &value, "a list");
                Vec::new()
            }
        }
    }

    pub(super) fn flag(&mut self, name: &str) -> bool {
        match self.take(name) {
            None => false,
            Some(Value::Flag(flag)) => flag,
            Some(value) => {
                self.wrong_kind(name, &value, "true or false");
                false
            }
        }
    }

    pub(super) fn integer(&mut self, name: &str) -> Option<i32> {
        let value = self.take(name)?;
        let number = match value {
            Value::Integer(number) => i32::try_from(number).ok(),
            _ => None,
        };
        if number.is_none() {
            self.fault(name, "is not a whole number of 32 bits");
        }
        number
    }

    /// The members of a map, each of which is a section of its own.
    pub(in crate::config) fn sections(&mut self, name: &str) -> Vec<(String, Value)> {
        let members = self.map(name).unwrap_or_default();
        self.within(name, members).members
    }

    fn map(&mut self, name: &str) -> Option<Vec<(String, Value)>> {
        match self.take(name)? {
            Value::Map(members) => Some(members),
            value => {
                self.wrong_kind(name, &value, "a map");
                None
            }
        }
    }

    /// A map within this one.
    pub(super) fn block(&mut self, name: &str) -> Option<Members<'_>> {
        let members = self.map(name)?;
        Some(self.within(name, members))
    }

    /// The members of what stands under `name`.
    pub(super) fn within(&mut self, name: &str, members: Vec<(String, Value)>) -> Members<'_> {
        Members::new(self.path_of(name), members, self.faults)
    }

    pub(super) fn wrong_kind(&mut self, name: &str, value: &Value, expected: &str) {
        let message = format!("is {}, and has to be {expected}", value.kind());
        self.fault(name, message);
    }

    pub(in crate::config) fn fault(&mut self, name: &str, message: impl Into<String>) {
        let path = self.path_of(name);
        self.faults.add(path, message);
    }

    fn path_of(&self, name: &str) -> String {
        let name = name.escape_debug();
        if self.path.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// Has what was not taken reported.
    pub(in crate::config) fn finish(mut self) {
        let mut unknown = std::mem::take(&mut self.members);
        unknown.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (name, _) in unknown {
            self.fault(&name, "is not known here; check its spelling");
        }
    }
}
