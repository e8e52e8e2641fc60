//! A configuration of outgoing authentication, as JSON, else as YAML.

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use serde_json::Value;
use tower_identity::{Origin, OutgoingAuthConfig, Unauthenticated, config::Resources};

use crate::harness::{self, Peer, shown};

const OF_THE_ENVIRONMENT: &str = "hush-of-the-environment";
/// In documents: a secret that is in no other word.
const WRITTEN_OUT: &str = "hush-written-out";
const SECRETS: [&str; 4] = [
    "headerValue",
    "clientSecret",
    "idpClientSecret",
    "targetClientSecret",
];

pub(crate) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    // Of what is neither, the parsers tell: they are the caller's.
    let (config, document) = match serde_json::from_str::<OutgoingAuthConfig>(text) {
        Ok(config) => (
            config,
            serde_json::from_str::<Value>(text).unwrap_or_default(),
        ),
        Err(_) => match serde_saphyr::from_str::<OutgoingAuthConfig>(text) {
            Ok(config) => (config, serde_saphyr::from_str(text).unwrap_or_default()),
            Err(_) => return,
        },
    };
    let is_secret = is_only_secret(text, &document);
    let resources = Resources::<Full<Bytes>>::builder(Peer::new(|_| Response::default()))
        .environment(|variable| match variable {
            "UNSET" => None,
            "EMPTY" => Some(String::new()),
            _ => Some(OF_THE_ENVIRONMENT.to_owned()),
        })
        .strategy("registered", Unauthenticated)
        .clock(harness::clock())
        .build()
        .unwrap();

    let outcome = config.check(&resources);
    let written = serde_json::to_string(&config).unwrap();
    let debug = format!("{config:?} {config:#?} {resources:?}");
    let mut texts = vec![written.clone(), debug];
    let origin = || Origin::try_from("https://mcp.example.com").unwrap();
    for backend in config
        .backends
        .keys()
        .map(String::as_str)
        .chain(["of-no-name"])
    {
        match config.layer_for(backend, origin(), &resources) {
            Ok(layer) => texts.push(format!("{layer:?}")),
            Err(error) => {
                let is_configured = config.backends.contains_key(backend);
                assert!(outcome.is_err() || !is_configured, "{backend}: {error}");
                texts.push(shown(&error));
            }
        }
    }
    if let Err(error) = &outcome {
        assert!(!error.faults().is_empty());
        let text = error.to_string();
        assert_eq!(
            text.lines().count(),
            1 + error.faults().len(),
            "one line for each fault: {text}"
        );
        for fault in error.faults() {
            assert!(!fault.message().is_empty());
        }
        texts.push(shown(error));
    }
    for text in texts {
        assert!(!text.contains(OF_THE_ENVIRONMENT), "{text}");
        assert!(!is_secret || !text.contains(WRITTEN_OUT), "{text}");
    }
    // What stands in place of a secret is not taken for one.
    if !written.contains("[redacted]") {
        let again: OutgoingAuthConfig = serde_json::from_str(&written).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), written);
    }
}

/// Whether that text is where a secret belongs, and nowhere else.
fn is_only_secret(text: &str, document: &Value) -> bool {
    fn count(value: &Value, is_in_secret: bool) -> usize {
        match value {
            Value::String(text) if is_in_secret => text.matches(WRITTEN_OUT).count(),
            Value::Array(members) => members.iter().map(|member| count(member, false)).sum(),
            Value::Object(members) => members
                .iter()
                .map(|(name, member)| count(member, SECRETS.contains(&name.as_str())))
                .sum(),
            _ => 0,
        }
    }

    let written = text.matches(WRITTEN_OUT).count();
    let (first, second) = WRITTEN_OUT.split_at(WRITTEN_OUT.len() / 2);
    // It might be put together, with an escape or a line in between.
    let halves = text
        .matches(first)
        .count()
        .max(text.matches(second).count());
    written > 0 && halves == written && count(document, false) == written
}
