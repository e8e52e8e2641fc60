use std::{error::Error, fmt};

const OUTGOING_AUTH: &str = "outgoingAuth";

/// A configuration cannot be used. It lists all faults, not just the first.
///
/// Needs the feature `config`.
///
/// `Display` has one line for each fault. It shows no secret.
///
/// ```
/// # use bytes::Bytes; use http_body_util::Full;
/// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// # let token_client =
/// #     Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
/// # let resources = tower_identity::config::Resources::<Full<Bytes>>
/// #     ::builder(token_client).build()?;
/// use tower_identity::OutgoingAuthConfig;
///
/// let auth: OutgoingAuthConfig = serde_json::from_str(
///     r#"{ "backends": { "github": { "type": "upstream-inject" } } }"#,
/// )?;
/// let error = auth.check(&resources).unwrap_err();
/// let fault = &error.faults()[0];
/// assert_eq!((fault.backend(), fault.key()), (Some("github"), "type"));
/// assert!(fault.message().contains("did you mean `upstream_inject`?"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
        f.write_str("the configuration cannot be used")?;
        for fault in &self.faults {
            write!(f, "\n- {fault}")?;
        }
        Ok(())
    }
}

impl Error for ConfigError {}

/// One fault of a configuration: the backend, the key, and what is wrong.
///
/// Needs the feature `config`.
///
/// [`ConfigError`](crate::config::ConfigError) has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    pub(super) section: Section,
    /// Whether the section is within `outgoingAuth` of a whole file.
    pub(super) is_in_file: bool,
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
    pub(super) fn new(
        section: Section,
        key: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            section,
            is_in_file: false,
            key: key.into(),
            message: message.into(),
        }
    }

    /// The same fault, of the block `outgoingAuth` of a whole file.
    pub(super) fn within_file(mut self) -> Self {
        match self.section {
            Section::Document if self.key.is_empty() => self.key = OUTGOING_AUTH.to_owned(),
            Section::Document => self.key = format!("{OUTGOING_AUTH}.{}", self.key),
            Section::Default | Section::Backend(_) => self.is_in_file = true,
        }
        self
    }

    /// Whether it is of the key of the other fault, or within the block of this key.
    pub(super) fn is_at(&self, other: &Self) -> bool {
        let rest = self.key.strip_prefix(&other.key);
        self.section == other.section
            && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// Whether it is of this key, or within its block or list.
    fn is_within(&self, key: &str) -> bool {
        let rest = self.key.strip_prefix(key);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }

    /// The same fault of a block that begins at `key`, if it is within it.
    fn from(&self, key: &str) -> Option<Self> {
        let key = self.key.strip_prefix(key)?.strip_prefix('.')?;
        Some(Self::new(Section::Document, key, self.message.clone()))
    }

    /// The backend whose configuration is at fault. It is `None` for `default`, and for a key beside `backends`.
    pub fn backend(&self) -> Option<&str> {
        match &self.section {
            Section::Backend(name) => Some(name),
            Section::Document | Section::Default => None,
        }
    }

    /// The key within the backend's configuration, for example `tokenExchange.tokenUrl` or
    /// `awsSts.roleMappings[2].matcher`. It is empty where the whole of it is wrong. Elsewhere it is the key within the
    /// document, for example `incomingAuth.oidc.issuer` or `passthroughHeaders[0]`.
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
        if self.is_in_file {
            write!(f, "{OUTGOING_AUTH}.")?;
        }
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
    /// Faults of form, which are reported already. A key that has one is not reported as missing.
    told: Vec<ConfigFault>,
}

impl SectionFaults {
    pub(super) fn new(section: Section) -> Self {
        Self {
            section,
            found: Vec::new(),
            told: Vec::new(),
        }
    }

    /// Those that are found after the faults of form in `told`.
    pub(super) fn after(section: Section, told: &[ConfigFault]) -> Self {
        let told = told.iter().filter(|told| told.section == section);
        Self {
            told: told.cloned().collect(),
            ..Self::new(section)
        }
    }

    /// Those of the block that begins at `key`, with keys from there.
    pub(super) fn within(&self, key: &str) -> Self {
        let told = self.told.iter();
        Self {
            told: told.filter_map(|told| told.from(key)).collect(),
            ..Self::new(Section::Document)
        }
    }

    pub(super) fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.found
            .push(ConfigFault::new(self.section.clone(), key, message));
    }

    /// Whether there is a fault of this key. A key that ends with `.` or `[` stands for all in its block or list.
    pub(super) fn has(&self, key: &str) -> bool {
        let mut faults = self.found.iter();
        let is_found = match key.ends_with(['.', '[']) {
            true => faults.any(|fault| fault.key.starts_with(key)),
            false => faults.any(|fault| fault.key == key),
        };
        let key = key.trim_end_matches(['.', '[']);
        is_found || self.told.iter().any(|told| told.is_within(key))
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
