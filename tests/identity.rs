//! Identities and secrets: what cannot be built, and what is not shown.

mod support;

use std::time::{Duration, SystemTime};

use support::recording::{identity, upstream_token};
use tower_identity::{AccessToken, Identity, IdentityBuilder, InvalidSecret, Secret};

/// The settings that are wrong.
fn invalid(identity: IdentityBuilder) -> Vec<String> {
    let error = identity.build().unwrap_err();
    let settings = error.invalid_settings().iter();
    settings
        .map(|invalid| invalid.setting().to_owned())
        .collect()
}

#[test]
fn f02_an_empty_identity_cannot_be_built() {
    for subject in ["", " ", "\t\n"] {
        assert_eq!(invalid(Identity::builder(subject)), ["subject"]);
    }
    let with_all_else = Identity::builder("")
        .issuer("https://idp.example.com")
        .token(AccessToken::new("token").unwrap())
        .upstream("github", upstream_token("gho_1"));
    assert_eq!(invalid(with_all_else), ["subject"]);
}

#[test]
fn f03_a_half_empty_identity_cannot_be_built() {
    // What a restored session has: a name, and empty strings where the tokens were.
    assert_eq!(AccessToken::new("").unwrap_err(), InvalidSecret::Empty);
    assert_eq!(Secret::new("").unwrap_err(), InvalidSecret::Empty);
    assert_eq!(invalid(Identity::builder("user-1").issuer("")), ["issuer"]);
    let nameless = Identity::builder("user-1").upstream(" ", upstream_token("gho_1"));
    assert_eq!(invalid(nameless), ["upstream[0]"]);
}

#[test]
fn a_provider_that_is_added_twice_is_an_error_instead_of_a_guess() {
    let twice = Identity::builder("user-1")
        .upstream("github", upstream_token("gho_1"))
        .upstream("github", upstream_token("gho_2"));
    assert_eq!(invalid(twice), ["upstream[1]"]);
}

#[test]
fn an_identity_gives_back_what_it_was_built_with() {
    let expires_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let claims = serde_json::json!({ "sub": "user-1", "groups": ["admins"] });
    let identity = Identity::builder("user-1")
        .issuer("https://idp.example.com")
        .name("Ada")
        .email("ada@example.com")
        .claims(claims.as_object().unwrap().clone())
        .token(AccessToken::new("own-token").unwrap())
        .upstream(
            "github",
            upstream_token("gho_1")
                .with_expires_at(expires_at)
                .with_id_token(Secret::new("id-token").unwrap()),
        )
        .metadata("session", "s-1")
        .build()
        .unwrap();

    assert_eq!(identity.subject(), "user-1");
    assert_eq!(identity.issuer(), Some("https://idp.example.com"));
    assert_eq!(identity.name(), Some("Ada"));
    assert_eq!(identity.email(), Some("ada@example.com"));
    assert_eq!(identity.claims()["groups"][0], "admins");
    assert_eq!(identity.token().unwrap().expose(), "own-token");
    assert_eq!(identity.metadata()["session"], "s-1");
    let github = identity.upstream("github").unwrap();
    assert_eq!(github.access_token().expose(), "gho_1");
    assert_eq!(github.id_token().unwrap().expose(), "id-token");
    assert_eq!(github.expires_at(), Some(expires_at));
    assert!(
        identity.upstream("GitHub").is_none(),
        "a provider's name is matched exactly"
    );
    assert_eq!(
        identity
            .upstreams()
            .map(|(provider, _)| provider)
            .collect::<Vec<_>>(),
        ["github"]
    );
}

#[test]
fn an_empty_name_or_email_counts_as_none() {
    let identity = Identity::builder("user-1")
        .name("")
        .email("")
        .build()
        .unwrap();
    assert_eq!((identity.name(), identity.email()), (None, None));
}

#[test]
fn what_was_built_last_is_newest_and_a_clone_is_as_old_as_its_original() {
    let older = identity("user-1", "gho_1");
    let newer = identity("user-1", "gho_2");
    assert!(newer.is_newer_than(&older));
    assert!(!older.is_newer_than(&newer));
    assert!(!older.clone().is_newer_than(&newer));
    assert!(!older.is_newer_than(&older.clone()));
}

#[test]
fn f80_an_identity_whose_tokens_were_read_first_is_not_newer_because_it_was_built_last() {
    let first = Identity::builder("user-1");
    let second = Identity::builder("user-1").build().unwrap();
    let first = first.build().unwrap();
    assert!(second.is_newer_than(&first));
    assert!(!first.is_newer_than(&second));
}

#[test]
fn users_are_the_same_only_if_subject_and_issuer_are() {
    let user = identity("user-1", "gho_1");
    let elsewhere = Identity::builder("user-1")
        .issuer("https://other.example.com")
        .build()
        .unwrap();
    let nowhere = Identity::builder("user-1").build().unwrap();
    assert!(user.is_same_user(&identity("user-1", "gho_2")));
    assert!(!user.is_same_user(&identity("user-2", "gho_1")));
    assert!(!user.is_same_user(&elsewhere));
    assert!(!user.is_same_user(&nowhere));
    assert!(!nowhere.is_same_user(&Identity::builder("user-1").build().unwrap()));
    assert!(nowhere.is_same_user(&nowhere.clone()));
}

#[test]
fn a_token_that_cannot_be_a_header_is_refused_with_the_place_of_the_fault() {
    let cases = [
        ("line\nbreak", InvalidSecret::LineBreak { at: 4 }),
        ("trailing\r\n", InvalidSecret::LineBreak { at: 8 }),
        ("nul\0byte", InvalidSecret::Control { at: 3 }),
        ("delete\u{7f}", InvalidSecret::Control { at: 6 }),
        ("Bearer twice", InvalidSecret::Space { at: 6 }),
        ("caf\u{e9}", InvalidSecret::NonAscii { at: 3 }),
        ("tab\there", InvalidSecret::Control { at: 3 }),
    ];
    for (token, expected) in cases {
        let error = AccessToken::new(token).unwrap_err();
        assert_eq!(error, expected);
        assert!(
            !error.to_string().contains(token),
            "the error shows the token: {error}"
        );
    }
    for token in [
        "a",
        "2YotnFZFEjr1zCsicMWpAA==",
        "12|opaque!",
        &"x".repeat(100_000),
    ] {
        assert_eq!(AccessToken::new(token).unwrap().expose(), token);
    }
}

#[test]
fn a_secret_may_be_a_key_with_line_breaks() {
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\n-----END PRIVATE KEY-----\n";
    assert_eq!(Secret::new(pem).unwrap().expose(), pem);
}
