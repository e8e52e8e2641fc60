use std::{borrow::Cow, error::Error, fmt, sync::Arc};

/// Something was configured wrongly and cannot be built.
///
/// Every builder's `build()` and every fallible constructor of a configured type returns it. It lists all wrong
/// settings, not just the first. It never shows a value that was configured, because any value may be a secret in the
/// wrong place.
///
/// ```
/// use tower_identity::HeaderInjection;
///
/// let error = HeaderInjection::new("host", "4f3c2d1b\n").unwrap_err();
/// let settings: Vec<_> = error
///     .invalid_settings()
///     .iter()
///     .map(|invalid| invalid.setting())
///     .collect();
/// assert_eq!(settings, ["name", "value"]);
/// let text = error.to_string();
/// assert!(text.starts_with("cannot build `HeaderInjection`: `name` "));
/// assert!(!text.contains("4f3c2d1b"));
/// ```
///
/// An error that only a request can reveal is an [`AuthError`](crate::AuthError) of the kind
/// [`Configuration`](crate::AuthErrorKind::Configuration) instead.
#[derive(Clone)]
pub struct BuildError {
    inner: Arc<Inner>,
}

struct Inner {
    built: &'static str,
    invalid: Vec<InvalidSetting>,
}

impl BuildError {
    #[cfg(any(feature = "dpop", feature = "incoming"))]
    pub(crate) fn of(
        built: &'static str,
        setting: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let mut faults = Faults::new(built);
        faults.add(setting, message);
        faults.into_error()
    }

    /// The name of the type that cannot be built, for example `TokenExchange`.
    pub fn type_name(&self) -> &'static str {
        self.inner.built
    }

    /// All wrong settings. There is at least one.
    pub fn invalid_settings(&self) -> &[InvalidSetting] {
        &self.inner.invalid
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot build `{}`: ", self.inner.built)?;
        for (index, invalid) in self.inner.invalid.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{invalid}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildError")
            .field("type_name", &self.inner.built)
            .field("invalid_settings", &self.inner.invalid)
            .finish()
    }
}

impl Error for BuildError {}

/// One wrong setting of a [`BuildError`].
///
/// `Display` is the whole sentence, for example: `` `audience` is empty, leave it out or give it a value ``.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSetting {
    setting: Cow<'static, str>,
    message: Cow<'static, str>,
}

impl InvalidSetting {
    /// The name of the setter or of the constructor's argument.
    ///
    /// A setting within another one follows a dot, and the place among several values is counted from 0. For example:
    /// `audience`, `endpoint.client_auth.client_id`, `scopes[1]`, `role_mapping[2].matcher`.
    pub fn setting(&self) -> &str {
        &self.setting
    }

    /// Says what is wrong and what to do, as a sentence whose subject is the setting.
    ///
    /// For example: `is empty, leave it out or give it a value`.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for InvalidSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.setting, self.message)
    }
}

/// Collects the wrong settings of one type.
#[derive(Clone)]
pub(crate) struct Faults {
    built: &'static str,
    found: Vec<InvalidSetting>,
}

impl Faults {
    pub(crate) fn new(built: &'static str) -> Self {
        Self {
            built,
            found: Vec::new(),
        }
    }

    pub(crate) fn add(
        &mut self,
        setting: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) {
        self.found.push(InvalidSetting {
            setting: setting.into(),
            message: message.into(),
        });
    }

    /// The value, or its fault under the name of the setting.
    pub(crate) fn take<T, M>(
        &mut self,
        setting: impl Into<Cow<'static, str>>,
        value: Result<T, M>,
    ) -> Option<T>
    where
        M: Into<Cow<'static, str>>,
    {
        value.map_err(|message| self.add(setting, message)).ok()
    }

    pub(crate) fn need_text(&mut self, setting: impl Into<Cow<'static, str>>, text: &str) {
        if text.trim().is_empty() {
            self.add(setting, "is empty, give it a value");
        }
    }

    pub(crate) fn need_text_if_set(
        &mut self,
        setting: impl Into<Cow<'static, str>>,
        text: Option<&str>,
    ) {
        if text.is_some_and(|text| text.trim().is_empty()) {
            self.add(setting, "is empty, leave it out or give it a value");
        }
    }

    /// Returns what was built, unless a fault was found.
    pub(crate) fn or<T>(self, built: Option<T>) -> Result<T, BuildError> {
        match built {
            Some(built) if self.found.is_empty() => Ok(built),
            _ => Err(self.into_error()),
        }
    }

    pub(crate) fn check(self) -> Result<(), BuildError> {
        self.or(Some(()))
    }

    pub(crate) fn into_error(self) -> BuildError {
        BuildError {
            inner: Arc::new(Inner {
                built: self.built,
                invalid: self.found,
            }),
        }
    }
}

/// The name of one of the values that a setter was called with.
#[cfg(feature = "token-exchange")]
pub(crate) fn one_of<T>(setting: &'static str, values: &[T], index: usize) -> Cow<'static, str> {
    if values.len() == 1 {
        setting.into()
    } else {
        format!("{setting}[{index}]").into()
    }
}

#[cfg(feature = "token-exchange")]
impl Faults {
    /// `setting` is the name of a setter that may be called several times.
    pub(crate) fn need_texts(&mut self, setting: &'static str, texts: &[String]) {
        for (index, text) in texts.iter().enumerate() {
            self.need_text(one_of(setting, texts, index), text);
        }
    }

    /// Returns the value of `setting`, or adds all faults of the settings inside it.
    pub(crate) fn take_built<T>(
        &mut self,
        setting: &str,
        value: Result<T, BuildError>,
    ) -> Option<T> {
        let error = match value {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        for invalid in error.invalid_settings() {
            self.add(
                format!("{setting}.{}", invalid.setting),
                invalid.message.clone(),
            );
        }
        None
    }
}
