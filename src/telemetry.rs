//! Telemetry: the names of spans, events and metrics.
//!
//! # Spans
//!
//! Each request that an [`AuthService`](crate::outgoing::AuthService) authenticates has a `tracing` span
//! `authenticate`, at debug level. The span ends when the credential is on the request, or when the strategy fails. It
//! does not include the sending of the request.
//!
//! | field | value |
//! | --- | --- |
//! | `backend` | the layer's [`Origin`] |
//! | `strategy` | the strategy's [name](crate::Strategy::name) |
//! | `cache` | see the table of labels below. Empty if no `CredentialCache` was asked |
//! | `outcome` | see the table of labels below |
//!
//! # Events
//!
//! A request that an `AuthService` authenticated is the event "a request was authenticated", at debug level, within the
//! span. So a subscriber that prints events, such as `tracing_subscriber::fmt`, prints the fields of the span.
//!
//! A request that [`AuthLayer`](crate::AuthLayer) or [`HeaderForwardLayer`](crate::HeaderForwardLayer) refuses is the event
//! "a request was refused", with the fields `backend`, `strategy`, `kind` and `error`. Its level is `warn` for the kinds
//! `wrong_origin` and `configuration`, which concern the operator, and `debug` for all others. `strategy` is
//! `header_forward` for `HeaderForwardLayer`. `error` is an error value, so subscribers print its causes too:
//! `tracing_subscriber::fmt` does so as `error.sources`.
//!
//! Two more events at warn level tell of mistakes: "a handler needs an identity" (feature `axum`), where no
//! [`TokenValidatorLayer`](crate::TokenValidatorLayer) is around a route, and "the file has keys that are not read"
//! (feature `config`), when a [`VmcpConfig`](crate::config::VmcpConfig) is built.
//!
//! "a request to link an account failed" (feature `linking`) has the fields `kind`, `error` and `source`. Its level is
//! `warn` for the kind `Configuration`, where the provider refused the application, and `debug` for all others.
//!
//! # Metrics
//!
//! With the feature `metrics`, the crate sends these metrics to the recorder of the
//! [`metrics`](https://docs.rs/metrics) facade. Install the recorder before the first request, because the handles for
//! the hot path are created then and kept. `UpstreamTokens` refreshes through a `CredentialCache`, so its refreshes are
//! counted as well.
//!
//! | name | kind | labels | counts |
//! | --- | --- | --- | --- |
//! | `tower_identity_requests_total` | counter | `backend`, `strategy`, `outcome` | requests that an `AuthService` authenticated or refused |
//! | `tower_identity_cache_lookups_total` | counter | `cache` | credentials that a `CredentialCache` was asked for |
//! | `tower_identity_cache_evictions_total` | counter | | credentials that a `CredentialCache` dropped because it was full |
//! | `tower_identity_refresh_duration_seconds` | histogram | `reason`, `outcome` | the time to obtain a credential that was missing, or to renew one |
//! | `tower_identity_forced_refreshes_total` | counter | `strategy` | requests that an `AuthService` authenticated again, because the backend rejected their credential |
//! | `tower_identity_fallbacks_total` | counter | | requests without an identity that were sent with the session's |
//!
//! [`describe_metrics`] gives the recorder their units and help texts. The page
//! [`guide::monitoring`](crate::guide::monitoring) shows exporters, and the alerts worth having.
//!
//! | label | values |
//! | --- | --- |
//! | `backend` | the layer's [`Origin`] |
//! | `strategy` | `unauthenticated`, `header_injection`, `upstream_inject`, `token_exchange`, `client_credentials`, `on_behalf_of`, `cross_app_access`, `aws_sts`, `claim_injection`, `signed_identity`, `both`, `custom`, or the [name](crate::Strategy::name) of your strategy |
//! | `outcome` | `ok`, or the [kind](AuthErrorKind) of the error: `missing_identity`, `missing_token`, `expired`, `rejected`, `insufficient_scope`, `unavailable`, `configuration`, `wrong_origin`, `payload_too_large` |
//! | `cache` | `hit`: the credential was cached<br>`miss`: the caller asked for the credential<br>`refresh`: the credential was about to expire or was rejected, and the caller waited for its renewal<br>`coalesced`: the caller waited for a credential that another caller had asked for<br>`refused`: an attempt failed a short while ago |
//! | `reason` | `miss`, or `refresh`: the credential was renewed before it expired |
//!
//! # Security
//!
//! No token, claim, subject or URL is in a span, an event or a label.

#[cfg(any(feature = "axum", all(feature = "dpop", feature = "redis")))]
use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(feature = "metrics")]
use std::sync::{Arc, OnceLock};
#[cfg(feature = "token-exchange")]
use std::time::Duration;

#[cfg(feature = "metrics")]
use ::metrics::{Counter, counter};
use tracing::{Span, field::Empty, span::Entered};

use crate::{
    error::{AuthError, AuthErrorKind},
    origin::Origin,
};

const SPAN: &str = "authenticate";

/// Gives the installed recorder the unit and the help text of each [metric](self#metrics).
///
/// Needs the feature `metrics`.
///
/// Call it once, after the recorder was installed. For example, the Prometheus exporter shows the texts as `# HELP`.
///
/// ```
/// use metrics_exporter_prometheus::PrometheusBuilder;
///
/// let recorder = PrometheusBuilder::new().build_recorder();
/// let exporter = recorder.handle();
/// metrics::set_global_recorder(recorder)?;
/// tower_identity::telemetry::describe_metrics();
///
/// // Answer `GET /metrics` with this text.
/// let text = exporter.render();
/// # let _ = text;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[cfg(feature = "metrics")]
pub fn describe_metrics() {
    use ::metrics::{Unit, describe_counter, describe_histogram};

    describe_counter!(
        "tower_identity_requests_total",
        Unit::Count,
        "Requests to a backend that were authenticated or refused"
    );
    describe_counter!(
        "tower_identity_fallbacks_total",
        Unit::Count,
        "Requests without an identity that were sent with the session's"
    );
    describe_counter!(
        "tower_identity_forced_refreshes_total",
        Unit::Count,
        "Requests that were authenticated again because the backend rejected their credential"
    );
    describe_counter!(
        "tower_identity_cache_lookups_total",
        Unit::Count,
        "Credentials that a cache was asked for"
    );
    describe_counter!(
        "tower_identity_cache_evictions_total",
        Unit::Count,
        "Credentials that a cache dropped because it was full"
    );
    describe_histogram!(
        "tower_identity_refresh_duration_seconds",
        Unit::Seconds,
        "Time to obtain a credential that was missing, or to renew one"
    );
}

/// The span of one authentication.
pub(crate) struct AuthenticationSpan {
    span: Span,
}

impl AuthenticationSpan {
    #[inline]
    pub(crate) fn new(backend: &Origin, strategy: impl FnOnce() -> &'static str) -> Self {
        Self {
            span: tracing::debug_span!(
                SPAN,
                %backend,
                strategy = strategy(),
                cache = Empty,
                outcome = Empty
            ),
        }
    }

    /// Enters the span until the guard is dropped.
    #[inline]
    pub(crate) fn enter(&self) -> Entered<'_> {
        self.span.enter()
    }

    /// Ends it now, though it may live a little longer.
    #[inline]
    pub(crate) fn end<T>(&mut self, outcome: &Result<T, AuthError>) {
        if !self.span.is_disabled() {
            self.span.record("outcome", name(outcome));
            // A refusal is an event already. Without any, a plain subscriber does not print the span.
            if outcome.is_ok() {
                tracing::debug!(parent: &self.span, "a request was authenticated");
            }
            self.span = Span::none();
        }
    }
}

/// A warning that callers can cause, and must not flood the log with: it is due at the first time, the second, the fourth
/// and so on.
#[cfg(any(feature = "axum", all(feature = "dpop", feature = "redis")))]
pub(crate) struct RareWarning(AtomicU64);

#[cfg(any(feature = "axum", all(feature = "dpop", feature = "redis")))]
impl RareWarning {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts one more cause, and returns how many there are if the warning is due.
    pub(crate) fn count(&self) -> Option<u64> {
        let causes = self.0.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        causes.is_power_of_two().then_some(causes)
    }
}

/// Tells that a request was refused and did not leave.
///
/// A wrong origin or a wrong configuration concerns the operator, and is a warning.
#[cold]
pub(crate) fn refused(layer: &'static str, error: &AuthError) {
    let kind = kind_name(error.kind());
    let backend = error.backend().map(tracing::field::display);
    let is_warning = matches!(
        error.kind(),
        AuthErrorKind::WrongOrigin | AuthErrorKind::Configuration
    );
    let error = error.in_event();
    if is_warning {
        tracing::warn!(
            backend,
            strategy = layer,
            kind,
            error,
            "a request was refused"
        );
    } else {
        tracing::debug!(
            backend,
            strategy = layer,
            kind,
            error,
            "a request was refused"
        );
    }
}

/// How the requests of one layer are counted. Clones count together.
#[derive(Clone, Default)]
pub(crate) struct Requests {
    #[cfg(feature = "metrics")]
    authenticated: Arc<OnceLock<(&'static str, Counter)>>,
}

#[cfg(feature = "metrics")]
impl Requests {
    pub(crate) fn count<T>(
        &self,
        backend: &Origin,
        strategy: impl FnOnce() -> &'static str,
        outcome: &Result<T, AuthError>,
    ) {
        let strategy = strategy();
        let register = || {
            counter!(
                "tower_identity_requests_total",
                "backend" => backend.to_string(),
                "strategy" => strategy,
                "outcome" => name(outcome)
            )
        };
        if outcome.is_ok() {
            let Some((registered, counter)) = self.authenticated.get() else {
                let counter = register();
                // Not `get_or_init`: the recorder would run while others wait.
                let _ = self.authenticated.set((strategy, counter.clone()));
                return counter.increment(1);
            };
            // A configuration that was replaced may have put another strategy in the place of the first.
            if *registered == strategy {
                return counter.increment(1);
            }
        }
        register().increment(1);
    }
}

#[cfg(not(feature = "metrics"))]
impl Requests {
    #[inline]
    pub(crate) fn count<T>(
        &self,
        _backend: &Origin,
        _strategy: impl FnOnce() -> &'static str,
        _outcome: &Result<T, AuthError>,
    ) {
    }
}

/// The result of a lookup in a credential cache.
#[cfg(feature = "token-exchange")]
#[derive(Clone, Copy)]
pub(crate) enum Lookup {
    Hit,
    Miss,
    Refresh,
    Coalesced,
    Refused,
}

#[cfg(feature = "token-exchange")]
impl Lookup {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Refresh => "refresh",
            Self::Coalesced => "coalesced",
            Self::Refused => "refused",
        }
    }

    /// Puts it on the span of the authentication that it is part of, if it is part of one.
    fn show(self) {
        if tracing::span_enabled!(tracing::Level::DEBUG) {
            let span = Span::current();
            if span.metadata().is_some_and(|span| span.name() == SPAN) {
                span.record("cache", self.name());
            }
        }
    }
}

/// How the look-ups of one credential cache are counted.
#[cfg(feature = "token-exchange")]
#[derive(Default)]
pub(crate) struct Lookups {
    #[cfg(feature = "metrics")]
    hits: OnceLock<Counter>,
}

#[cfg(feature = "token-exchange")]
impl Lookups {
    pub(crate) fn count(&self, lookup: Lookup) {
        lookup.show();
        #[cfg(feature = "metrics")]
        match lookup {
            // Literals, so that not even the first hit allocates.
            Lookup::Hit => match self.hits.get() {
                Some(hits) => hits.increment(1),
                None => {
                    let hits = counter!("tower_identity_cache_lookups_total", "cache" => "hit");
                    let _ = self.hits.set(hits.clone());
                    hits.increment(1);
                }
            },
            _ => counter!("tower_identity_cache_lookups_total", "cache" => lookup.name())
                .increment(1),
        }
    }
}

/// A credential was asked for, because of `reason`, and this came of it.
#[cfg(feature = "token-exchange")]
pub(crate) fn refreshed<T>(reason: Lookup, outcome: &Result<T, AuthError>, took: Duration) {
    #[cfg(feature = "metrics")]
    ::metrics::histogram!(
        "tower_identity_refresh_duration_seconds",
        "reason" => reason.name(),
        "outcome" => name(outcome)
    )
    .record(took);
    #[cfg(not(feature = "metrics"))]
    let _ = (reason, outcome, took);
}

/// Credentials were dropped, because the cache was full.
#[cfg(feature = "token-exchange")]
pub(crate) fn evicted(count: usize) {
    #[cfg(feature = "metrics")]
    counter!("tower_identity_cache_evictions_total").increment(count as u64);
    #[cfg(not(feature = "metrics"))]
    let _ = count;
}

/// The backend rejected a credential, and the strategy has another.
pub(crate) fn forced_refresh(strategy: &'static str) {
    #[cfg(feature = "metrics")]
    counter!("tower_identity_forced_refreshes_total", "strategy" => strategy).increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = strategy;
}

/// A session's identity filled a gap.
pub(crate) fn fallback() {
    #[cfg(feature = "metrics")]
    counter!("tower_identity_fallbacks_total").increment(1);
}

fn name<T>(outcome: &Result<T, AuthError>) -> &'static str {
    match outcome {
        Ok(_) => "ok",
        Err(error) => kind_name(error.kind()),
    }
}

fn kind_name(kind: AuthErrorKind) -> &'static str {
    match kind {
        AuthErrorKind::MissingIdentity => "missing_identity",
        AuthErrorKind::MissingToken => "missing_token",
        AuthErrorKind::Expired => "expired",
        AuthErrorKind::Rejected => "rejected",
        AuthErrorKind::InsufficientScope => "insufficient_scope",
        AuthErrorKind::Unavailable => "unavailable",
        AuthErrorKind::Configuration => "configuration",
        AuthErrorKind::WrongOrigin => "wrong_origin",
        AuthErrorKind::PayloadTooLarge => "payload_too_large",
    }
}
