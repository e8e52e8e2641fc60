//! Monitor a gateway: metrics, traces, and the alerts worth having.
//!
//! # Metrics
//!
//! Enable the feature `metrics`, and install a recorder of the [`metrics`](https://docs.rs/metrics) facade before the
//! first request. Then give it the units and help texts.
//!
//! ```toml
//! tower-identity = { version = "0.1", features = ["metrics"] }
//! metrics = "0.24"
//! metrics-exporter-prometheus = { version = "0.18", default-features = false }
//! ```
//!
//! ```
//! use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
//! use tower::BoxError;
//! use tower_identity::telemetry::describe_metrics;
//!
//! fn install() -> Result<PrometheusHandle, BoxError> {
//!     let recorder = PrometheusBuilder::new().build_recorder();
//!     let exporter = recorder.handle();
//!     metrics::set_global_recorder(recorder)?;
//!     describe_metrics();
//!     Ok(exporter)
//! }
//! # let exporter = install()?;
//! # assert_eq!(exporter.render(), "");
//! # Ok::<(), BoxError>(())
//! ```
//!
//! Answer `GET /metrics` with `exporter.render()`, and call `exporter.run_upkeep()` every few seconds. [All metrics and
//! their labels](crate::telemetry#metrics) are listed with the names.
//!
//! To send metrics by OTLP, let an OpenTelemetry Collector scrape this page with its `prometheus` receiver, and export
//! with `otlp`:
//!
//! ```yaml
//! receivers:
//!   prometheus:
//!     config:
//!       scrape_configs:
//!         - job_name: gateway
//!           static_configs: [{ targets: ["127.0.0.1:9090"] }]
//! exporters:
//!   otlp: { endpoint: "collector.example.com:4317" }
//! service:
//!   pipelines:
//!     metrics: { receivers: [prometheus], exporters: [otlp] }
//! ```
//!
//! # Traces
//!
//! Each request has the span `authenticate` on the level `DEBUG`. `tracing-opentelemetry` exports it by OTLP as a child
//! of the spans that you create. The filter `tower_identity=debug` lets it through.
//!
//! # Three alerts
//!
//! ```yaml
//! groups:
//!   - name: tower_identity
//!     rules:
//!       # Users get 503. The error says which issuer or store it is.
//!       - alert: IssuerOrStoreIsDown
//!         expr: >
//!           sum by (backend) (rate(
//!             tower_identity_requests_total{outcome="unavailable"}[5m]
//!           )) > 0.1
//!       # No user can help. Read the event "a request was refused", at warn.
//!       - alert: ConfigurationIsWrong
//!         expr: >
//!           increase(tower_identity_requests_total
//!             {outcome=~"configuration|wrong_origin"}[5m]) > 0
//!       # Tokens are not refreshed, or were revoked. Compare the labels
//!       # `backend` and `strategy`.
//!       - alert: UsersAreAskedToLogIn
//!         expr: >
//!           sum(rate(tower_identity_requests_total
//!             {outcome=~"expired|rejected"}[15m]))
//!           / sum(rate(tower_identity_requests_total[15m])) > 0.05
//! ```
