use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{FutureExt, future::Shared};
use tower::BoxError;
use zeroize::Zeroizing;

use crate::{
    clock::Clock,
    credential::cache::key::CacheScope,
    error::{AuthError, AuthErrorKind, Faults},
    runtime::{Mutex, MutexGuard, Unfinished, blocking, bounded, within},
    secret::{InvalidSecret, Secret, check_client_secret},
};

use super::{http_client::BoxFuture, response::repeats, unverified_jwt::UnverifiedJwt};

const TIME_LIMIT: Duration = Duration::from_secs(5);

/// How long a file's content is taken for the current one.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

const MAX_FILE: usize = 64 * 1024;

/// The pauses before a file that has no token is read again, because it may be half-written.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(100)];

/// Supplies a secret that may change while the application runs: from a file, or from a function.
///
/// Needs the feature `token-exchange`.
///
/// It supplies assertions ([`ClientAuth::assertion`](crate::ClientAuth::assertion)), the secrets of clients
/// ([`ClientAuth::basic`](crate::ClientAuth::basic)), and the token of a workload
/// ([`workload_token`](crate::strategy::ClientCredentialsBuilder::workload_token)). A [`Secret`] converts into a source
/// that never changes. A clone shares its state.
///
/// ```
/// use tower_identity::{ClientAuth, oauth::SecretSource};
///
/// // Kubernetes replaces the file before the token in it expires.
/// let token = SecretSource::file("/var/run/secrets/tokens/gateway");
/// let client_auth = ClientAuth::assertion("gateway", token);
/// ```
///
/// # When it is asked
///
/// A source is asked when a token endpoint is called, and not for each request of a user.
///
/// - A **file** is read again if the last look at it was more than a second ago. Only one read runs at a time. Space
///   and line breaks at both ends are trimmed. The file has at most 64 KiB of UTF-8.
/// - A **function** is called for each request to the endpoint, so it may sign a new assertion each time.
///
/// # When it fails
///
/// The last value is used as long as it is good, and an event on the level `WARN` says what is wrong. A token is good
/// until its `exp`. A secret that is no token is good until there is another. Without a good value the request fails:
///
/// | fault | kind of the error |
/// | --- | --- |
/// | the file is missing, cannot be read, is empty or too large, or is no text | [`Configuration`](AuthErrorKind::Configuration) |
/// | a JWT is expected, and the value is none, for example because the file is half-written | [`Configuration`](AuthErrorKind::Configuration) |
/// | the value has a character that the secret of a client cannot have | [`Configuration`](AuthErrorKind::Configuration) |
/// | the token has expired, and was not replaced | [`Unavailable`](AuthErrorKind::Unavailable) |
/// | the function fails or panics | [`Unavailable`](AuthErrorKind::Unavailable) |
/// | there is no value within the [time limit](Self::time_limit) | [`Unavailable`](AuthErrorKind::Unavailable) |
#[derive(Clone)]
pub struct SecretSource {
    supply: Supply,
    time_limit: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Clone)]
enum Supply {
    Fixed(Secret),
    File(Arc<Path>),
    Function { id: u64, call: Arc<Function> },
}

type Function = dyn Fn() -> BoxFuture<Result<Secret, BoxError>> + Send + Sync;

#[derive(Default)]
struct State {
    last: Option<Supplied>,
    looked_at: Option<Instant>,
    reading: Option<Reading>,
}

/// A read of the file that is running.
struct Reading {
    outcome: Shared<BoxFuture<Result<Secret, Fault>>>,
    is_late: bool,
}

#[derive(Clone)]
struct Supplied {
    secret: Secret,
    expires_at: Option<SystemTime>,
}

/// The form that a supplied secret must have.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Expected {
    Jwt,
    ClientSecret,
}

impl SecretSource {
    /// Creates a source that reads the file at `path`. It is not read before it is needed.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::new(Supply::File(path.into().into()))
    }

    /// Creates a source that calls `supply`.
    ///
    /// The call and its future run in a separate task, which is cancelled at the time limit. The error of `supply` becomes
    /// the source of the [`AuthError`].
    ///
    /// ```
    /// use tower_identity::{ClientAuth, Secret, oauth::SecretSource};
    ///
    /// # async fn fetch_jwt_svid(_audience: &str) -> Result<String, std::io::Error> {
    /// #     Ok("eyJhbGciOiJFUzI1NiJ9".to_owned())
    /// # }
    /// let svid = SecretSource::function(async || {
    ///     let svid = fetch_jwt_svid("https://idp.example.com").await?;
    ///     Ok(Secret::new(svid)?)
    /// });
    /// let client_auth =
    ///     ClientAuth::spiffe("spiffe://example.com/gateway", svid);
    /// ```
    pub fn function<F, R>(supply: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<Secret, BoxError>> + Send + 'static,
    {
        static NEXT: AtomicU64 = AtomicU64::new(0);

        Self::new(Supply::Function {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            call: Arc::new(move || Box::pin(supply())),
        })
    }

    /// Sets how long a request waits for the value. The default is 5 s.
    #[must_use]
    pub fn time_limit(mut self, time_limit: Duration) -> Self {
        self.time_limit = time_limit;
        self
    }

    fn new(supply: Supply) -> Self {
        Self {
            supply,
            time_limit: TIME_LIMIT,
            state: Arc::default(),
        }
    }

    /// Reports a source that can supply nothing under the name of this setting.
    pub(crate) fn check(&self, setting: &'static str, expected: Expected, faults: &mut Faults) {
        match &self.supply {
            Supply::Fixed(secret) => {
                if expected == Expected::ClientSecret
                    && let Err(error) = check_client_secret(secret.expose())
                {
                    faults.add(setting, format!("cannot be used: {error}"));
                }
            }
            Supply::File(path) if path.as_os_str().is_empty() => {
                faults.add(setting, "has an empty path, give that of a file");
            }
            Supply::File(_) | Supply::Function { .. } => {}
        }
        if self.time_limit.is_zero() {
            faults.add(
                setting,
                "has a time limit of zero, so nothing could be in time; 5 s is the default",
            );
        }
    }

    /// Adds to `scope` where the secret comes from, because the secret itself may change.
    pub(crate) fn describe(&self, scope: CacheScope, setting: &str) -> CacheScope {
        match &self.supply {
            Supply::Fixed(secret) => scope.field(setting, secret.expose()),
            Supply::File(path) => scope
                .field("file of", setting)
                .field("path", path.as_os_str().as_encoded_bytes()),
            Supply::Function { id, .. } => scope
                .field("function of", setting)
                .field("id", id.to_be_bytes()),
        }
    }

    /// Returns `true` if `text` repeats the last value.
    pub(crate) fn repeats(&self, text: &str) -> bool {
        match &self.supply {
            Supply::Fixed(secret) => repeats(text, secret.expose()),
            Supply::File(_) | Supply::Function { .. } => {
                let last = self.state().last.clone();
                last.is_some_and(|last| repeats(text, last.secret.expose()))
            }
        }
    }

    /// Returns the current value, or the last one if there is no new one and it is still good.
    pub(crate) async fn get(
        &self,
        expected: Expected,
        clock: &dyn Clock,
    ) -> Result<Secret, AuthError> {
        let now = clock.now();
        let supplied = match &self.supply {
            Supply::Fixed(secret) => return Ok(secret.clone()),
            Supply::File(path) => {
                let looked_at = clock.monotonic();
                if let Some(secret) = self.read_just_now(now, looked_at) {
                    return Ok(secret);
                }
                self.read(path, expected, looked_at).await
            }
            Supply::Function { call, .. } => self.call(call).await,
        };
        let supplied = supplied.and_then(|secret| Supplied::check(secret, expected, now));
        match supplied {
            Ok(supplied) => {
                let secret = supplied.secret.clone();
                let before = self.state().last.replace(supplied);
                drop(before);
                Ok(secret)
            }
            Err(fault) => {
                let last = self.state().last.clone();
                let error = fault.into_error(&self.supply);
                match last.filter(|last| last.is_good(now)) {
                    Some(last) => {
                        tracing::warn!(
                            error = error.in_event(),
                            "the last value of a secret is used once more"
                        );
                        Ok(last.secret)
                    }
                    None => Err(error),
                }
            }
        }
    }

    fn read_just_now(&self, now: SystemTime, monotonic: Instant) -> Option<Secret> {
        let state = self.state();
        let since = monotonic.saturating_duration_since(state.looked_at?);
        let last = state.last.as_ref()?;
        (since < LOOK_AGAIN_AFTER && last.is_good(now)).then(|| last.secret.clone())
    }

    async fn read(
        &self,
        path: &Arc<Path>,
        expected: Expected,
        looked_at: Instant,
    ) -> Result<Secret, Fault> {
        let (outcome, is_late) = {
            let mut state = self.state();
            let reading = state.reading.get_or_insert_with(|| {
                let path = Arc::clone(path);
                let read = blocking(move || read_patiently(&path, expected));
                let outcome = async { read.await.unwrap_or(Err(Fault::Unfinished)) };
                Reading {
                    outcome: outcome.boxed().shared(),
                    is_late: false,
                }
            });
            (reading.outcome.clone(), reading.is_late)
        };
        // Nobody waits a second time for a file system that hangs.
        let limit = if is_late {
            Duration::ZERO
        } else {
            self.time_limit
        };
        let read = within(limit, outcome).await;
        let mut state = self.state();
        state.looked_at = Some(looked_at);
        match read {
            Some(read) => {
                let reading = state.reading.take();
                drop(state);
                drop(reading);
                read
            }
            None => {
                if let Some(reading) = &mut state.reading {
                    reading.is_late = true;
                }
                Err(Fault::Late(self.time_limit))
            }
        }
    }

    async fn call(&self, call: &Arc<Function>) -> Result<Secret, Fault> {
        let call = Arc::clone(call);
        match bounded(self.time_limit, async move { call().await }).await {
            Ok(Ok(secret)) => Ok(secret),
            Ok(Err(error)) => Err(Fault::Failed(error.into())),
            Err(Unfinished::Panicked) => Err(Fault::Unfinished),
            Err(Unfinished::Late) => Err(Fault::Late(self.time_limit)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Secret> for SecretSource {
    /// Makes a source that always supplies this secret.
    fn from(secret: Secret) -> Self {
        Self::new(Supply::Fixed(secret))
    }
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.supply {
            Supply::Fixed(_) => "SecretSource([redacted])",
            Supply::File(_) => "SecretSource(file)",
            Supply::Function { .. } => "SecretSource(function)",
        })
    }
}

impl Supplied {
    fn check(secret: Secret, expected: Expected, now: SystemTime) -> Result<Self, Fault> {
        let expires_at = match expected {
            Expected::Jwt => {
                let jwt = UnverifiedJwt::decode(secret.expose()).ok_or(Fault::NoJwt)?;
                jwt.expires_at()
            }
            Expected::ClientSecret => {
                check_client_secret(secret.expose()).map_err(Fault::Invalid)?;
                None
            }
        };
        let supplied = Self { secret, expires_at };
        match supplied.is_good(now) {
            true => Ok(supplied),
            false => Err(Fault::Expired),
        }
    }

    fn is_good(&self, now: SystemTime) -> bool {
        self.expires_at.is_none_or(|expires_at| now < expires_at)
    }
}

#[derive(Clone)]
enum Fault {
    Missing,
    Unreadable(Arc<io::Error>),
    Empty,
    TooLarge,
    NotText,
    NoJwt,
    Invalid(InvalidSecret),
    Expired,
    Late(Duration),
    Failed(Arc<dyn std::error::Error + Send + Sync>),
    Unfinished,
}

impl Fault {
    #[cold]
    fn into_error(self, supply: &Supply) -> AuthError {
        let source = match supply {
            Supply::File(path) => match shown(path) {
                Some(path) => format!("the file `{path}`, which has a secret or a token,"),
                None => "the file that has a secret or a token".to_owned(),
            },
            Supply::Fixed(_) | Supply::Function { .. } => {
                "the function that supplies a secret or a token".to_owned()
            }
        };
        let kind = match self {
            Self::Missing
            | Self::Unreadable(_)
            | Self::Empty
            | Self::TooLarge
            | Self::NotText
            | Self::NoJwt
            | Self::Invalid(_) => AuthErrorKind::Configuration,
            Self::Expired | Self::Late(_) | Self::Failed(_) | Self::Unfinished => {
                AuthErrorKind::Unavailable
            }
        };
        let message = match &self {
            Self::Missing => {
                format!("{source} does not exist; check its path, and that it is mounted")
            }
            Self::Unreadable(_) => {
                format!("{source} cannot be read; check that it is a file, and its permissions")
            }
            Self::Empty => format!("{source} is empty; check the program that writes it"),
            Self::TooLarge => format!("{source} has more than 64 KiB; check its path"),
            Self::NotText => format!("{source} is not UTF-8; check its path"),
            Self::NoJwt => format!(
                "{source} has no signed JWT, or only a part of one; check the program that supplies it, which must replace \
                 it as a whole"
            ),
            Self::Invalid(error) => format!("{source} has a secret that cannot be used: {error}"),
            Self::Expired => format!(
                "{source} has a token that has expired, and there is no newer one; check the program that renews it"
            ),
            Self::Late(limit) => format!("{source} gave nothing within {limit:?}"),
            Self::Failed(_) => format!("{source} failed"),
            Self::Unfinished => format!("{source} gave nothing, because it panicked"),
        };
        let error = AuthError::new(kind, message);
        match self {
            Self::Unreadable(source) => error.with_source(source),
            Self::Failed(source) => error.with_source(source),
            _ => error,
        }
    }
}

/// The path, if it looks like an absolute one. A secret may stand in its place by mistake.
fn shown(path: &Path) -> Option<&str> {
    let path = path.to_str()?;
    let is_path = path.starts_with('/') && path.matches('/').count() > 1;
    is_path.then_some(path)
}

/// Reads the file, and once more where it looks as if it were being written.
fn read_patiently(path: &Path, expected: Expected) -> Result<Secret, Fault> {
    let mut outcome = read_file(path, expected);
    for pause in PAUSES {
        if !matches!(outcome, Err(Fault::Empty | Fault::NoJwt)) {
            break;
        }
        thread::sleep(pause);
        outcome = read_file(path, expected);
    }
    outcome
}

fn read_file(path: &Path, expected: Expected) -> Result<Secret, Fault> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Fault::Missing,
        _ => Fault::Unreadable(Arc::new(error)),
    };
    let file = fs::File::open(path).map_err(unreadable)?;
    // Large enough from the start, because a `Vec` that grows leaves a copy that is not wiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE + 1));
    let limit = u64::try_from(MAX_FILE + 1).unwrap_or(u64::MAX);
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > MAX_FILE {
        return Err(Fault::TooLarge);
    }
    let text = str::from_utf8(&bytes).map_err(|_| Fault::NotText)?;
    let secret = Secret::new(text.trim()).map_err(|_| Fault::Empty)?;
    match expected {
        Expected::Jwt if UnverifiedJwt::decode(secret.expose()).is_none() => Err(Fault::NoJwt),
        _ => Ok(secret),
    }
}
