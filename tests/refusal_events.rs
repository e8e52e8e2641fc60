//! Each refusal on the way out is one event, and the advice of the troubleshooting guide shows it.

mod support;

use http::Request;
use support::{
    log::Log,
    recording::{RecordingService, identity},
};
use tower::{Layer, ServiceExt};
use tower_identity::{
    AuthError, AuthErrorKind, AuthLayer, Authenticating, HeaderForwardLayer, Origin, Strategy,
    UpstreamInject,
};

const BACKEND: &str = "https://mcp.example.com";

/// The value of `RUST_LOG` that the guide recommends.
fn advised_filter() -> &'static str {
    let guide = include_str!("../src/guide/troubleshooting.rs");
    let (_, advice) = guide.split_once("RUST_LOG=").unwrap();
    advice.split_once('`').unwrap().0
}

fn post(uri: &str) -> Request<String> {
    Request::post(uri).body(String::new()).unwrap()
}

fn origin() -> Origin {
    Origin::try_from(BACKEND).unwrap()
}

/// The lines about refusals that a plain subscriber prints while a request is refused with `kind`.
async fn lines_of_refusal<A>(filter: &str, strategy: A, request: Request<String>) -> Vec<String>
where
    A: Strategy<String> + Clone + 'static,
{
    let log = Log::default();
    let _capturing = log.capture(filter);
    let client = AuthLayer::new(origin(), strategy).layer(RecordingService::new());
    let error = client.oneshot(request).await.unwrap_err();
    assert!(AuthError::find_in(error.as_ref()).is_some());
    let text = log.text();
    let lines = text
        .lines()
        .filter(|line| line.contains("a request was refused"));
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn the_advised_filter_shows_the_lines_that_the_guide_has_for_both_outcomes() {
    let guide = include_str!("../src/guide/troubleshooting.rs");
    // The guide wraps them.
    let (_, block) = guide.split_once("```text\n//! DEBUG ").unwrap();
    let (block, _) = block.split_once("\n//! ```").unwrap();
    let documented = block.replace("\n//!     ", " ");
    let documented: Vec<_> = documented
        .split("\n//! DEBUG ")
        .map(|line| line.strip_suffix('…').unwrap_or(line))
        .collect();
    let log = Log::default();
    let capturing = log.capture(advised_filter());
    let github = UpstreamInject::new("github").unwrap();
    let client = AuthLayer::new(origin(), github).layer(RecordingService::new());
    let mut request = post(&format!("{BACKEND}/mcp"));
    request.extensions_mut().insert(identity("user-1", "hush"));
    client.clone().oneshot(request).await.unwrap();
    let request = post(&format!("{BACKEND}/mcp"));
    client.oneshot(request).await.unwrap_err();
    drop(capturing);

    let printed = without_colours(&log.text());
    let printed: Vec<_> = printed.lines().collect();
    assert_eq!((printed.len(), documented.len()), (2, 2), "{printed:#?}");
    for (printed, documented) in printed.into_iter().zip(documented) {
        let (_, line) = printed.split_once("DEBUG ").unwrap();
        assert!(line.starts_with(documented), "{line}\n{documented}");
    }
}

fn without_colours(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| {
        plain + part.split_once('m').map_or("", |(_, rest)| rest)
    })
}

#[tokio::test]
async fn f59_the_advised_filter_shows_one_event_for_each_refusal() {
    let github = || UpstreamInject::new("github").unwrap();
    let mut of_user = post("https://stranger.example/mcp");
    of_user.extensions_mut().insert(identity("user-1", "hush"));
    let to_backend = || post(&format!("{BACKEND}/mcp"));

    let lines = lines_of_refusal(advised_filter(), github(), to_backend()).await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in ["DEBUG", BACKEND, "upstream_inject", "missing_identity"] {
        assert!(lines[0].contains(part), "{part}: {}", lines[0]);
    }

    let lines = lines_of_refusal(advised_filter(), github(), of_user).await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in ["WARN", BACKEND, "upstream_inject", "wrong_origin"] {
        assert!(lines[0].contains(part), "{part}: {}", lines[0]);
    }
    assert!(!lines[0].contains("hush"));

    let lines = lines_of_refusal(advised_filter(), Late, to_backend()).await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("WARN") && lines[0].contains("configuration"),
        "{}",
        lines[0]
    );
}

#[tokio::test]
async fn f59_a_plain_subscriber_shows_only_what_concerns_the_operator_by_default() {
    let github = || UpstreamInject::new("github").unwrap();
    let backend = format!("{BACKEND}/mcp");
    assert!(
        lines_of_refusal("info", github(), post(&backend))
            .await
            .is_empty()
    );
    let elsewhere = post("https://stranger.example/mcp");
    assert_eq!(lines_of_refusal("info", github(), elsewhere).await.len(), 1);
}

#[tokio::test]
async fn f59_a_refusal_of_forwarded_headers_is_an_event_too() {
    let log = Log::default();
    let _capturing = log.capture(advised_filter());
    let layer = HeaderForwardLayer::builder(origin())
        .header("x-api-key", "hush")
        .build()
        .unwrap();
    let elsewhere = post("https://stranger.example/mcp");

    let client = layer.layer(RecordingService::new());
    client.oneshot(elsewhere).await.unwrap_err();

    let text = log.text();
    assert_eq!(text.matches("a request was refused").count(), 1);
    assert!(
        text.contains("header_forward") && text.contains("wrong_origin"),
        "{text}"
    );
    assert!(!text.contains("hush"));
}

#[tokio::test]
async fn a_refusal_is_logged_with_its_causes() {
    let lines = lines_of_refusal(
        advised_filter(),
        Unreachable,
        post(&format!("{BACKEND}/mcp")),
    );
    let lines = lines.await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in ["the vault cannot be reached", "the certificate has expired"] {
        assert!(lines[0].contains(part), "{part}: {}", lines[0]);
    }
}

#[derive(Clone)]
struct Unreachable;

impl<B> Strategy<B> for Unreachable {
    fn authenticate(&self, _: &mut Request<B>) -> Authenticating<B> {
        AuthError::new(AuthErrorKind::Unavailable, "the vault cannot be reached")
            .with_source(std::io::Error::other("the certificate has expired"))
            .into()
    }
}

/// Refuses after a while.
#[derive(Clone)]
struct Late;

impl<B: Send + 'static> Strategy<B> for Late {
    fn authenticate(&self, _: &mut Request<B>) -> Authenticating<B> {
        Authenticating::pending(async |_| {
            Err(AuthError::new(
                AuthErrorKind::Configuration,
                "no client is known",
            ))
        })
    }
}
