use std::{error::Error, fmt};

/// A configuration cannot be used. It lists all faults, not just the first.
///
/// `Display` has one line for each fault. It shows no secret.
#[derive(Clone, Debug)]
pub struct ConfigError {
    faults: Vec<ConfigFault>,
}

impl ConfigError {
    pub(super) fn new(faults: Vec<ConfigFault>) -> Self {
        Self { faults }
    }

    /// All faults, in the order of the document's sections. There is at least one.
    pub fn faults(&self) -> &[ConfigFault] {
        &self.faults
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration of outgoing authentication cannot be used")?;
        for fault in &self.faults {
            write!(f, "\n- {fault}")?;
        }
        Ok(())
    }
}

impl Error for ConfigError {}

/// One fault of a configuration: the backend, the key, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    pub(super) section: Section,
    pub(super) key: String,
    pub(super) message: String,
}

/// The part of the document that a fault is in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Section {
    Document,
    Default,
    Backend(String),
}

impl ConfigFault {
    /// The backend whose configuration is at fault. It is `None` for `default`, and for a key beside `backends`.
    pub fn backend(&self) -> Option<&str> {
        match &self.section {
            Section::Backend(name) => Some(name),
            Section::Document | Section::Default => None,
        }
    }

    /// The key within the backend's configuration, for example `tokenExchange.tokenUrl` or
    /// `awsSts.roleMappings[2].matcher`. It is empty where the whole of it is wrong.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns what is wrong and how to correct it, for example ``unknown key, did you mean `tokenUrl`? …``.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.key.is_empty() { "" } else { "." };
        match &self.section {
            Section::Document => f.write_str(&self.key)?,
            Section::Default => write!(f, "default{dot}{}", self.key)?,
            Section::Backend(name) => {
                write!(f, "backends.{}{dot}{}", name.escape_debug(), self.key)?;
            }
        }
        write!(f, ": {}", self.message)
    }
}

impl Error for ConfigFault {}

/// Collects the faults of one section.
pub(super) struct SectionFaults {
    section: Section,
    found: Vec<ConfigFault>,
}

impl SectionFaults {
    pub(super) fn new(section: Section) -> Self {
        Self {
            section,
            found: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.found.push(ConfigFault {
            section: self.section.clone(),
            key: key.into(),
            message: message.into(),
        });
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.found.iter().any(|fault| fault.key == key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Puts the faults of `block` in the order of its keys.
    pub(super) fn sort_by_keys(&mut self, block: &str, keys: &[&str]) {
        self.found.sort_by_key(|fault| {
            let key = fault.key.strip_prefix(block)?.strip_prefix('.')?;
            let end = key.find(['.', '[']).unwrap_or(key.len());
            keys.iter().position(|known| Some(*known) == key.get(..end))
        });
    }

    pub(super) fn into_vec(self) -> Vec<ConfigFault> {
        self.found
    }
}
