use std::{error::Error, fmt};

/// Why a configuration cannot be used: all that is wrong with it, not just the first.
///
/// `Display` has one line for each fault. No value of a secret is shown.
#[derive(Clone, Debug)]
pub struct ConfigError {
    faults: Vec<ConfigFault>,
}

impl ConfigError {
    pub(super) fn new(faults: Vec<ConfigFault>) -> Self {
        Self { faults }
    }

    /// What is wrong, in the order of the document's sections; there is at least one.
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

/// One thing that is wrong with a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    pub(super) section: Section,
    pub(super) member: String,
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
    /// The backend whose configuration is at fault; none where it is `default`, or a member beside `backends`.
    pub fn backend(&self) -> Option<&str> {
        match &self.section {
            Section::Backend(name) => Some(name),
            Section::Document | Section::Default => None,
        }
    }

    /// The member within the backend's configuration, such as `tokenExchange.tokenUrl`. It is empty where all of it is
    /// meant.
    pub fn member(&self) -> &str {
        &self.member
    }

    /// What is wrong, and what to do.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.member.is_empty() { "" } else { "." };
        match &self.section {
            Section::Document => f.write_str(&self.member)?,
            Section::Default => write!(f, "default{dot}{}", self.member)?,
            Section::Backend(name) => {
                write!(f, "backends.{}{dot}{}", name.escape_debug(), self.member)?;
            }
        }
        write!(f, ": {}", self.message)
    }
}

impl Error for ConfigFault {}

/// Gathers the faults of one section.
pub(super) struct Faults {
    section: Section,
    found: Vec<ConfigFault>,
}

impl Faults {
    pub(super) fn new(section: Section) -> Self {
        Self {
            section,
            found: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, member: impl Into<String>, message: impl Into<String>) {
        self.found.push(ConfigFault {
            section: self.section.clone(),
            member: member.into(),
            message: message.into(),
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn into_vec(self) -> Vec<ConfigFault> {
        self.found
    }
}

/// An error and its causes, as one sentence.
pub(super) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
