//! What known providers answer, as they document it, is accepted from them and from no other.
#![cfg(feature = "linking")]

mod support;

use std::time::{Duration, UNIX_EPOCH};

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use support::linking::{BASE, Browser, FakeProvider, owner, query};
use tower_identity::{
    AccessToken, Secret, UpstreamToken, UpstreamTokenStore,
    upstream::{ProviderSettings, ProviderTokens, Refreshed, Refresher},
};

#[derive(Deserialize)]
struct Answer {
    issuer: String,
    name: String,
    grant: String,
    status: u16,
    headers: std::collections::BTreeMap<String, String>,
    body: String,
    expected: Value,
}

fn answers() -> Vec<Answer> {
    let file = include_str!("data/issuer_answers.json");
    let mut file: Value = serde_json::from_str(file).unwrap();
    serde_json::from_value(file["answers"].take()).unwrap()
}

fn known(issuer: &str) -> Option<ProviderSettings> {
    Some(match issuer {
        "github" => ProviderSettings::github(),
        "google" => ProviderSettings::google(),
        "entra" => ProviderSettings::microsoft("common"),
        "slack" => ProviderSettings::slack(),
        "slack bot" => ProviderSettings::slack_bot(),
        "atlassian" => ProviderSettings::atlassian(),
        "okta" => ProviderSettings::okta("https://example.okta.com/oauth2/default"),
        "auth0" => ProviderSettings::auth0("example.eu.auth0.com"),
        "linkedin" => ProviderSettings::linkedin(),
        "another" => ProviderSettings::new(
            "https://another.example.com/authorize",
            "https://another.example.com/token",
        ),
        _ => return None,
    })
}

const ALL: [&str; 10] = [
    "github",
    "google",
    "entra",
    "slack",
    "slack bot",
    "atlassian",
    "okta",
    "auth0",
    "linkedin",
    "another",
];

/// A provider that answers every token request so.
fn answering(answer: &Answer, issuer: &str) -> FakeProvider {
    let provider = FakeProvider::new();
    match issuer {
        "okta" => publish(&provider, "https://example.okta.com/oauth2/default"),
        "auth0" => publish(&provider, "https://example.eu.auth0.com/"),
        _ => {}
    }
    let content_type = answer.headers.get("content-type").cloned();
    let content_type = content_type.unwrap_or_else(|| "application/json".to_owned());
    let status = StatusCode::from_u16(answer.status).unwrap();
    provider.answer_with(status, content_type.leak(), &answer.body);
    provider
}

fn publish(provider: &FakeProvider, issuer: &str) {
    let at = |path: &str| Value::from(format!("{}{path}", issuer.trim_end_matches('/')));
    provider.metadata("issuer", Value::from(issuer));
    provider.metadata("authorization_endpoint", at("/v1/authorize"));
    provider.metadata("token_endpoint", at("/v1/token"));
    provider.metadata("jwks_uri", at("/v1/keys"));
}

async fn refreshed(answer: &Answer, issuer: &str) -> Option<ProviderTokens> {
    let provider = answering(answer, issuer).provider(known(issuer).unwrap());
    let old = UpstreamToken::new(AccessToken::new("old").unwrap());
    let old = ProviderTokens::new(old, UNIX_EPOCH)
        .with_refresh_token(Secret::new("refresh-old-7Fjfp0ZBr1Kt").unwrap());
    match provider.refresh(&old, UNIX_EPOCH).await {
        Ok(Refreshed::Tokens(tokens)) => Some(tokens),
        _ => None,
    }
}

#[tokio::test]
async fn each_refreshed_token_that_a_known_provider_documents_is_accepted_from_it() {
    let mut seen = std::collections::BTreeSet::new();
    for answer in answers() {
        let is_token = answer.expected["token"].is_string();
        if answer.grant != "refresh_token" || !is_token {
            continue;
        }
        let Some(_) = known(&answer.issuer) else {
            continue;
        };
        let issuer = match answer.expected["token_type_of_issuer"].as_str() {
            Some("bot") => "slack bot",
            _ => &answer.issuer,
        };
        let tokens = refreshed(&answer, issuer).await;
        let tokens = tokens.unwrap_or_else(|| panic!("{}", answer.name));
        let token = tokens.token();
        assert_eq!(
            token.access_token().expose(),
            answer.expected["token"],
            "{}",
            answer.name
        );
        let refresh_token = tokens.refresh_token().map(Secret::expose);
        assert_eq!(
            refresh_token,
            answer.expected["refresh_token"].as_str(),
            "{}",
            answer.name
        );
        let lifetime = answer.expected["lifetime"].as_u64();
        let expected = UNIX_EPOCH + Duration::from_secs(lifetime.unwrap_or(300));
        assert_eq!(token.expires_at(), Some(expected), "{}", answer.name);
        seen.insert(issuer.to_owned());
    }
    let seen: Vec<_> = seen.iter().map(String::as_str).collect();
    let mut expected: Vec<_> = ALL.into_iter().filter(|name| *name != "another").collect();
    expected.sort_unstable();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_deviation_of_one_provider_is_refused_from_every_other() {
    let deviations = [
        ("slack_bot_token_refresh", &["slack bot"][..]),
        ("slack_user_token_refresh", &["slack"]),
        (
            "atlassian_refresh_without_token_type",
            &["atlassian", "linkedin"],
        ),
        (
            "linkedin_refresh_without_token_type",
            &["atlassian", "linkedin"],
        ),
        ("github_app_refresh_form_encoded", &["github"]),
    ];
    let answers = answers();
    for (name, accepted_from) in deviations {
        let answer = answers.iter().find(|answer| answer.name == name).unwrap();
        for issuer in ALL {
            let is_accepted = refreshed(answer, issuer).await.is_some();
            assert_eq!(
                is_accepted,
                accepted_from.contains(&issuer),
                "{name} from {issuer}"
            );
        }
    }
}

async fn linked(answer: &Answer, issuer: &str) -> Option<(String, Option<std::time::SystemTime>)> {
    let provider = answering(answer, issuer);
    let store = provider.store();
    let linking = provider.linking_of(store.clone(), [("p", known(issuer).unwrap())]);
    let mut alice = Browser::of("alice");
    let start = alice.get(&linking, &format!("{BASE}/link/p")).await;
    let back = provider.agree(start.location());
    alice.get(&linking, &back).await;
    let stored = store.load(&owner("alice")).await.unwrap();
    let token = stored.get("p")?.tokens().token().clone();
    Some((token.access_token().expose().to_owned(), token.expires_at()))
}

#[tokio::test]
async fn a_link_stores_the_users_own_token_with_the_lifetime_that_it_has() {
    let answers = answers();
    let day = 24 * 3600;
    for (name, issuer, token, days) in [
        (
            "github_oauth_app_code_never_expires",
            "github",
            Some("gho_new"),
            None,
        ),
        (
            "slack_code_with_user_token_nested",
            "slack",
            Some("xoxp-user"),
            None,
        ),
        (
            "slack_code_with_user_token_nested",
            "slack bot",
            Some("xoxb-bot"),
            None,
        ),
        ("slack_code_with_user_token_nested", "another", None, None),
        (
            "slack_mcp_user_token_without_expiry",
            "slack",
            Some("xoxp-new"),
            None,
        ),
        (
            "linkedin_code_without_token_type",
            "linkedin",
            Some("AQXNnew"),
            Some(60),
        ),
        ("linkedin_code_without_token_type", "github", None, None),
        ("github_code_spent", "github", None, None),
        ("slack_code_spent", "slack", None, None),
    ] {
        let answer = answers.iter().find(|answer| answer.name == name).unwrap();
        let linked = linked(answer, issuer).await;
        let expected = token.map(|token| {
            let end = days.map(|days| UNIX_EPOCH + Duration::from_secs(1_800_000_000 + days * day));
            (token.to_owned(), end)
        });
        assert_eq!(linked, expected, "{name} from {issuer}");
    }
}

#[tokio::test]
async fn each_provider_is_asked_in_its_own_way() {
    type Parameters = &'static [(&'static str, &'static str)];
    let expected: [(&str, &str, Parameters); 8] = [
        (
            "github",
            "https://github.com/login/oauth/authorize?",
            &[("scope", "a b")],
        ),
        (
            "google",
            "https://accounts.google.com/o/oauth2/v2/auth?",
            &[
                ("scope", "openid a b"),
                ("access_type", "offline"),
                ("prompt", "consent"),
            ],
        ),
        (
            "entra",
            "https://login.microsoftonline.com/common/oauth2/v2.0/authorize?",
            &[("scope", "openid offline_access a b")],
        ),
        (
            "slack",
            "https://slack.com/oauth/v2/authorize?",
            &[("user_scope", "a,b")],
        ),
        (
            "slack bot",
            "https://slack.com/oauth/v2/authorize?",
            &[("scope", "a,b")],
        ),
        (
            "atlassian",
            "https://auth.atlassian.com/authorize?",
            &[
                ("scope", "offline_access a b"),
                ("audience", "api.atlassian.com"),
                ("prompt", "consent"),
            ],
        ),
        (
            "okta",
            "https://example.okta.com/oauth2/default/v1/authorize?",
            &[("scope", "openid offline_access a b")],
        ),
        (
            "auth0",
            "https://example.eu.auth0.com/v1/authorize?",
            &[("scope", "openid offline_access a b")],
        ),
    ];
    for (issuer, url, parameters) in expected {
        let provider = FakeProvider::new();
        match issuer {
            "okta" => publish(&provider, "https://example.okta.com/oauth2/default"),
            "auth0" => publish(&provider, "https://example.eu.auth0.com/"),
            _ => {}
        }
        let settings = known(issuer).unwrap().scopes(["a", "b"]);
        let settings = settings.resource("https://mcp.example.com/mcp");
        let linking = provider.linking_of(provider.store(), [("p", settings)]);
        let start = Browser::of("alice")
            .get(&linking, &format!("{BASE}/link/p"))
            .await;
        assert!(start.location().starts_with(url), "{start:?}");
        let asked = query(start.location());
        for (name, value) in parameters {
            assert_eq!(asked[*name], *value, "{issuer}");
        }
        assert_eq!(asked["resource"], "https://mcp.example.com/mcp");
        assert_eq!(asked.contains_key("scope"), issuer != "slack");
        let has_nonce = asked
            .get("scope")
            .is_some_and(|scope| scope.contains("openid"));
        assert_eq!(asked.contains_key("nonce"), has_nonce, "{issuer}");
    }
}
