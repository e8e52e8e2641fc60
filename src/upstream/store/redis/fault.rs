use std::{error::Error, fmt, io};

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::error::{AuthError, AuthErrorKind};

const LONGEST_CAUSE: usize = 200;

/// Why a call failed, and whether another connection may help.
#[derive(Clone)]
pub(super) struct Fault {
    error: AuthError,
    passes: bool,
    leaves: bool,
}

impl Fault {
    /// A fault of the connection or of the node. Another connection may lead to a node that works.
    fn passing(what: &str) -> Self {
        let message = format!("the token store {what}; check that Redis runs and can be reached");
        Self {
            error: AuthError::new(AuthErrorKind::Unavailable, message),
            passes: true,
            leaves: true,
        }
    }

    fn permanent(what: &'static str) -> Self {
        Self {
            error: AuthError::new(AuthErrorKind::Configuration, what),
            passes: false,
            leaves: false,
        }
    }

    fn leaving(self) -> Self {
        Self {
            leaves: true,
            ..self
        }
    }

    fn because(self, cause: Cause) -> Self {
        Self {
            error: self.error.with_source(cause),
            ..self
        }
    }

    pub(super) fn no_answer() -> Self {
        Self::passing("did not answer in time")
    }

    pub(super) fn not_connected() -> Self {
        Self {
            error: AuthError::new(
                AuthErrorKind::Unavailable,
                "the token store could not be connected to in time; check that Redis runs and can be reached, and with \
                 `rediss://` that its port takes TLS",
            ),
            passes: true,
            leaves: true,
        }
    }

    pub(super) fn too_few_replicas() -> Self {
        Self {
            error: AuthError::new(
                AuthErrorKind::Unavailable,
                "too few replicas of the token store confirmed a write, so it does not count; check their connection to \
                 the primary",
            ),
            passes: false,
            leaves: true,
        }
    }

    /// An error of a connection that is being made. Its text may repeat the password, and is not kept.
    pub(super) fn of_connecting(error: &RedisError) -> Self {
        Self::judge(error, false).leaving()
    }

    /// An error of a node that was asked for the other nodes.
    pub(super) fn of_cluster(error: &RedisError) -> Self {
        match server_error(error) {
            Some((_, text)) if text.contains("cluster support disabled") => {
                Self::permanent(NOT_A_CLUSTER).leaving()
            }
            _ => Self::of_connecting(error),
        }
    }

    pub(super) fn of_answer(error: &RedisError, is_cluster: bool) -> Self {
        let fault = Self::judge(error, is_cluster);
        match server_error(error) {
            Some((code, text)) => fault.because(Cause::answer(&code, &text)),
            None => fault.because(Cause::of(error)),
        }
    }

    fn judge(error: &RedisError, is_cluster: bool) -> Self {
        if let Some((code, text)) = server_error(error) {
            return match advice(&code, &text, is_cluster) {
                Some(advice) => Self::permanent(advice),
                None => Self::passing("cannot serve at the moment"),
            };
        }
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::permanent(PASSWORD),
            ErrorKind::RESP3NotSupported => Self::permanent(COMMAND),
            ErrorKind::Parse => Self::permanent(NOT_REDIS).leaving(),
            ErrorKind::InvalidClientConfig => Self::permanent(NOT_A_SENTINEL).leaving(),
            ErrorKind::MasterNameNotFoundBySentinel => Self::passing(
                "has no primary at the moment, or the sentinels know none of this name",
            ),
            ErrorKind::Client => Self::permanent(TLS).leaving(),
            _ if is_tls_error(error) => Self::permanent(TLS).leaving(),
            _ => Self::passing("cannot be reached"),
        }
    }

    pub(super) fn is_permanent(&self) -> bool {
        self.error.kind() == AuthErrorKind::Configuration
    }

    /// Whether the same call may succeed on a new connection.
    pub(super) fn passes(&self) -> bool {
        self.passes
    }

    /// Whether the connection is of no use any more.
    pub(super) fn leaves_connection(&self) -> bool {
        self.leaves
    }

    pub(super) fn into_error(self) -> AuthError {
        self.error
    }
}

const PASSWORD: &str = "Redis refuses the user or the password of the token store; check them in the URL or in `credentials`, and \
     whether the server has a password at all";
const RIGHTS: &str = "Redis forbids the token store a command or its keys; give its user the rights that the documentation of `RedisStore` \
     lists";
const COMMAND: &str = "Redis does not know a command that the token store needs, or it is disabled; use Redis 5 or newer, allow \
     `EVAL`, and leave out proxies that forbid scripts";
const CLUSTER: &str = "the token store is a node of Redis Cluster, which has only some of the keys; use `RedisStore::cluster`";
const NOT_A_CLUSTER: &str = "what answers at a node's address is not a node of Redis Cluster; check host and port, or use `RedisStore::builder`";
const DATABASE: &str =
    "Redis has no such database; check the number at the end of the token store's URL";
const PROTECTED: &str = "Redis is in protected mode and refuses other hosts; give it a password, and the token store too";
const NOT_OURS: &str = "the token store holds something that is none of ours; check its key prefix";
const NOT_REDIS: &str = "what answers at the token store's address does not speak the protocol of Redis; check host and port";
const NOT_A_SENTINEL: &str = "what answers at a sentinel's address is not a sentinel; check host and port, or use `RedisStore::builder`";
const TLS: &str = "the TLS connection to the token store failed; check whether its port takes TLS, that its certificate names the \
     host and is from a trusted CA, and the client certificate";

#[cold]
pub(super) fn unreadable() -> AuthError {
    AuthError::new(AuthErrorKind::Configuration, NOT_OURS)
}

/// Returns the advice for an error response that another attempt does not change. All other error responses are about
/// the node's state.
fn advice(code: &str, text: &str, is_cluster: bool) -> Option<&'static str> {
    let by_code = |code: &str| match code {
        "NOAUTH" | "WRONGPASS" => Some(PASSWORD),
        "NOPERM" => Some(RIGHTS),
        "NOPROTO" => Some(COMMAND),
        "DENIED" => Some(PROTECTED),
        "WRONGTYPE" => Some(NOT_OURS),
        // A client of a cluster follows them, unless the cluster changes faster than that.
        "MOVED" | "ASK" | "CROSSSLOT" if !is_cluster => Some(CLUSTER),
        _ => None,
    };
    if let Some(advice) = by_code(code) {
        return Some(advice);
    }
    if code != "ERR" {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    // Behind it are the arguments, which may contain anything.
    if lower.starts_with("unknown command") || lower.starts_with("unknown subcommand") {
        return Some(COMMAND);
    }
    // A script tells the error of its command within the text of its own.
    let mut words = text.split(|c: char| !c.is_ascii_alphabetic());
    if words.clone().any(is_state) {
        return None;
    }
    if let Some(advice) = words.find_map(by_code) {
        return Some(advice);
    }
    [
        ("unknown command", COMMAND),
        ("unknown redis command called from", COMMAND),
        ("unsupported command", COMMAND),
        ("without any password configured", PASSWORD),
        ("no password is set", PASSWORD),
        ("invalid password", PASSWORD),
        ("wrong number of arguments for 'auth'", PASSWORD),
        ("acl failure", RIGHTS),
        ("can't run this command", RIGHTS),
        ("no permissions", RIGHTS),
        ("can't access at least one of the keys", RIGHTS),
        ("in cluster mode", CLUSTER),
        ("db index", DATABASE),
        ("not an integer", NOT_OURS),
    ]
    .into_iter()
    .find_map(|(part, advice)| lower.contains(part).then_some(advice))
}

fn is_state(word: &str) -> bool {
    matches!(
        word,
        "BUSY"
            | "CLUSTERDOWN"
            | "FAILOVER"
            | "LOADING"
            | "MASTERDOWN"
            | "MISCONF"
            | "NOREPLICAS"
            | "OOM"
            | "READONLY"
            | "REDIRECT"
            | "TRYAGAIN"
            | "UNBLOCKED"
    )
}

fn server_error(error: &RedisError) -> Option<(String, String)> {
    let errors = error.clone().into_server_errors()?;
    let (_, first) = errors.first()?;
    let code = first.code().to_owned();
    Some((code, first.details().unwrap_or_default().to_owned()))
}

fn is_tls_error(error: &RedisError) -> bool {
    if error.kind() != ErrorKind::Io {
        return false;
    }
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::InvalidData;
        }
        let shared = error.downcast_ref::<std::sync::Arc<dyn Error + Send + Sync>>();
        cause = match shared {
            Some(shared) => Some(&**shared),
            None => error.source(),
        };
    }
    false
}

/// The error text of a peer or the system, made safe to show.
#[derive(Debug)]
struct Cause(String);

impl Cause {
    fn answer(code: &str, text: &str) -> Self {
        // Behind it are the arguments of the call.
        let text = text.split(", with args").next().unwrap_or_default();
        Self::shown(&format!("{code} {text}"))
    }

    fn of(error: &RedisError) -> Self {
        match error.kind() {
            // It would show what it read.
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Self::shown(error.category()),
            ErrorKind::Server(ServerErrorKind::ResponseError) => Self::shown("ERR"),
            _ => Self::shown(&error.to_string()),
        }
    }

    fn shown(text: &str) -> Self {
        let text = text.trim_end();
        let start: String = text.chars().take(LONGEST_CAUSE).collect();
        let mut shown = start.escape_debug().to_string();
        if start.len() < text.len() {
            shown.push('…');
        }
        Self(shown)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Cause {}
