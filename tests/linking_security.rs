//! What an attacker can try where users link accounts: a test for each line of the threat model.
#![cfg(feature = "linking")]

mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::json;
use support::{
    key_pair::{ED25519, P256},
    linking::{
        BASE, Browser, CLIENT, FakeProvider, GATEWAY, ISSUER, Page, USERS, encoded, owner, query,
    },
    log::Log,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tower::{ServiceExt, service_fn};
use tower_identity::{
    AccountLinking, ClientAuth, KeySet, MemoryStore, TokenValidator, UpstreamTokenStore,
    UpstreamTokens,
    upstream::{
        OAuthProvider, ProviderSettings,
        linking::{CodeFlow, LinkErrorKind},
    },
};

const LOGGED_IN: &str = "https://gateway.example.com/login/callback";
/// The beginning of the name.
const COOKIE: &str = "__Host-tower-identity-link-";

struct World {
    provider: FakeProvider,
    store: MemoryStore,
    linking: AccountLinking,
}

fn world() -> World {
    let provider = FakeProvider::new();
    let store = provider.store();
    let linking = provider.linking(store.clone());
    World {
        provider,
        store,
        linking,
    }
}

impl World {
    /// Starts a link, and agrees at the provider. What comes back is not followed yet.
    async fn agreed(&self, browser: &mut Browser, provider: &str) -> String {
        let url = format!("{BASE}/link/{provider}");
        let start = browser.get(&self.linking, &url).await;
        self.provider.agree(start.location())
    }

    async fn linked(&self, subject: &str) -> Vec<String> {
        let stored = self.store.load(&owner(subject)).await.unwrap();
        stored.into_keys().collect()
    }

    async fn refused(&self, browser: &mut Browser, url: &str, status: StatusCode) -> Page {
        let page = browser.get(&self.linking, url).await;
        assert_eq!(page.status, status, "{page:?}");
        guarded(&page);
        for user in ["alice", "mallory"] {
            assert!(self.linked(user).await.is_empty(), "nothing is linked");
        }
        page
    }
}

fn guarded(page: &Page) {
    let all = [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in all {
        assert_eq!(page.headers[name], value);
    }
    let policy = page.headers[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
}

#[tokio::test]
async fn a_link_that_nobody_attacks_succeeds() {
    let world = world();
    let mut alice = Browser::of("alice");
    for provider in ["idp", "other"] {
        let back = world.agreed(&mut alice, provider).await;
        let page = alice.get(&world.linking, &back).await;
        assert_eq!(page.status, StatusCode::SEE_OTHER, "{page:?}");
        assert_eq!(page.location(), BASE);
        guarded(&page);
    }
    assert_eq!(world.linked("alice").await, ["idp", "other"]);
}

#[tokio::test]
async fn the_redirect_of_an_attackers_link_does_nothing_in_a_victims_browser() {
    let world = world();
    let mut mallory = Browser::of("mallory");
    let back = world.agreed(&mut mallory, "idp").await;
    // The victim has no link under way, or one of their own.
    let mut alice = Browser::of("alice");
    world
        .refused(&mut alice, &back, StatusCode::BAD_REQUEST)
        .await;
    world.agreed(&mut alice, "idp").await;
    world
        .refused(&mut alice, &back, StatusCode::BAD_REQUEST)
        .await;
    assert!(
        world.provider.token_requests().is_empty(),
        "no code was sent"
    );
}

#[tokio::test]
async fn the_redirect_of_an_attackers_login_logs_nobody_in_in_a_victims_browser() {
    let world = world();
    let idp = ProviderSettings::discovered(ISSUER).scopes(["openid"]);
    let idp = world.provider.provider(idp);
    let flow = CodeFlow::new(idp, LOGGED_IN, world.store.clone()).unwrap();
    let flow = flow.clock(world.provider.clock.clone());
    let begin = async || {
        let start = flow.start(&HeaderMap::new(), None, "/").await.unwrap();
        let cookie = start.headers()[header::SET_COOKIE].to_str().unwrap();
        let cookie = cookie.split(';').next().unwrap().parse().unwrap();
        let location = start.headers()[header::LOCATION].to_str().unwrap();
        let back = world.provider.agree(location);
        (HeaderMap::from_iter([(header::COOKIE, cookie)]), back)
    };
    let (mallory, back) = begin().await;
    let (alice, _) = begin().await;
    let back: Uri = back.parse().unwrap();
    // The victim has no login under way, or one of their own.
    for browser in [&HeaderMap::new(), &alice] {
        let error = flow.finish(&back, browser, None).await.unwrap_err();
        assert_eq!(error.kind(), LinkErrorKind::OtherBrowser);
    }
    // Nor does the login link an account, or somebody's link log them in.
    let (_, cookie) = mallory[header::COOKIE]
        .to_str()
        .unwrap()
        .split_once('=')
        .unwrap();
    let mut browser = Browser::of("mallory");
    browser.cookies.insert(COOKIE.to_owned(), cookie.to_owned());
    let elsewhere = back
        .to_string()
        .replace(LOGGED_IN, &format!("{BASE}/link/callback/idp"));
    world
        .refused(&mut browser, &elsewhere, StatusCode::BAD_REQUEST)
        .await;
    let link = world.agreed(&mut browser, "idp").await;
    let elsewhere = link.replace(&format!("{BASE}/link/callback/idp"), LOGGED_IN);
    let error = flow
        .finish(&elsewhere.parse().unwrap(), &mallory, None)
        .await;
    assert_eq!(error.unwrap_err().kind(), LinkErrorKind::OtherBrowser);
    assert!(
        world.provider.token_requests().is_empty(),
        "no code was sent"
    );
    let finished = flow.finish(&back, &mallory, None).await.unwrap();
    assert!(finished.identity().is_some(), "it is the attacker's login");
}

#[tokio::test]
async fn a_browser_that_comes_back_as_somebody_else_links_nothing() {
    let world = world();
    let mut browser = Browser::of("mallory");
    let back = world.agreed(&mut browser, "idp").await;
    browser.user = Browser::of("alice").user;
    let page = world
        .refused(&mut browser, &back, StatusCode::FORBIDDEN)
        .await;
    assert!(page.text.contains("somebody else"), "{page:?}");
    browser.user = None;
    let page = world
        .refused(&mut browser, &back, StatusCode::UNAUTHORIZED)
        .await;
    assert_eq!(page.headers[header::WWW_AUTHENTICATE], "Bearer");
    assert!(
        world.provider.token_requests().is_empty(),
        "no code was sent"
    );
}

#[tokio::test]
async fn the_address_of_a_link_names_no_user_so_that_who_opens_it_links_their_own_account() {
    let world = world();
    let address = world.linking.link_url("idp").unwrap();
    assert_eq!(address, format!("{BASE}/link/idp"));
    let mut alice = Browser::of("alice");
    let start = alice.get(&world.linking, &address).await;
    let back = world.provider.agree(start.location());
    alice.get(&world.linking, &back).await;
    assert_eq!(world.linked("alice").await, ["idp"]);
    assert!(world.linked("mallory").await.is_empty());
}

#[tokio::test]
async fn a_state_is_accepted_once_however_many_ask_at_once() {
    let world = world();
    let mut alice = Browser::of("alice");
    let back = world.agreed(&mut alice, "idp").await;
    let pages = join_all((0..20).map(|_| {
        let (mut browser, linking, back) = (alice.clone(), world.linking.clone(), back.clone());
        async move { browser.get(&linking, &back).await.status }
    }));
    let statuses = pages.await;
    let accepted = statuses
        .iter()
        .filter(|status| **status == StatusCode::SEE_OTHER);
    assert_eq!(accepted.count(), 1, "{statuses:?}");
    assert_eq!(world.provider.token_requests().len(), 1);
    let page = alice.get(&world.linking, &back).await;
    assert_eq!(
        page.status,
        StatusCode::BAD_REQUEST,
        "as back and reload do"
    );
    assert!(page.text.contains("done before"), "{page:?}");
    assert_eq!(
        world.linked("alice").await,
        ["idp"],
        "and it is still linked"
    );
}

#[tokio::test]
async fn a_stolen_state_is_of_no_use_without_the_browser_and_a_refusal_uses_it_up() {
    let world = world();
    let mut alice = Browser::of("alice");
    let back = world.agreed(&mut alice, "idp").await;
    let mut thief = Browser::of("alice");
    world
        .refused(&mut thief, &back, StatusCode::BAD_REQUEST)
        .await;
    thief.cookies.insert(COOKIE.to_owned(), "A".repeat(43));
    world
        .refused(&mut thief, &back, StatusCode::BAD_REQUEST)
        .await;

    let state = query(&back)["state"].clone();
    let declined =
        format!("{BASE}/link/callback/idp?error=access_denied&state={state}&iss={ISSUER}");
    let page = world
        .refused(&mut alice, &declined, StatusCode::FORBIDDEN)
        .await;
    assert!(page.text.contains("did not agree"), "{page:?}");
    assert!(
        page.text.contains(&format!(r#"href="{BASE}/link/idp""#)),
        "{page:?}"
    );
    world
        .refused(&mut alice, &back, StatusCode::BAD_REQUEST)
        .await;
}

#[tokio::test]
async fn a_state_is_good_for_ten_minutes() {
    let world = world();
    let mut alice = Browser::of("alice");
    let back = world.agreed(&mut alice, "idp").await;
    let again = world.agreed(&mut alice, "idp").await;
    world.provider.clock.advance(Duration::from_secs(601));
    let page = world
        .refused(&mut alice, &back, StatusCode::BAD_REQUEST)
        .await;
    assert!(page.text.contains("too long"), "{page:?}");
    // A replica whose clock is behind takes it.
    let behind = std::time::UNIX_EPOCH + Duration::from_secs(1_799_999_990);
    world.provider.clock.set(behind);
    let page = alice.get(&world.linking, &again).await;
    assert_eq!(page.status, StatusCode::SEE_OTHER, "{page:?}");
}

#[tokio::test]
async fn a_state_that_was_changed_in_any_place_is_refused() {
    let world = world();
    let mut alice = Browser::of("alice");
    let back = world.agreed(&mut alice, "idp").await;
    let state = query(&back)["state"].clone();
    for at in 0..state.len() {
        let mut changed = state.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let url = format!("{BASE}/link/callback/idp?code=c&iss={ISSUER}&state={changed}");
        world
            .refused(&mut alice, &url, StatusCode::BAD_REQUEST)
            .await;
    }
    for length in 0..state.len() {
        let url = format!(
            "{BASE}/link/callback/idp?code=c&iss={ISSUER}&state={}",
            &state[..length]
        );
        world
            .refused(&mut alice, &url, StatusCode::BAD_REQUEST)
            .await;
    }
    assert!(
        world.provider.token_requests().is_empty(),
        "no code was sent"
    );
}

#[tokio::test]
async fn a_response_of_one_provider_is_not_taken_for_one_of_another() {
    let world = world();
    let mut alice = Browser::of("alice");
    let back = world.agreed(&mut alice, "idp").await;
    // At the redirect URI of another provider, its state opens nothing.
    let elsewhere = back.replace("/callback/idp", "/callback/other");
    world
        .refused(&mut alice, &elsewhere, StatusCode::BAD_REQUEST)
        .await;
    // Its `iss` must be there, because the metadata announces it (RFC 9207 §2.4).
    for iss in ["", "&iss=https%3A%2F%2Fevil.example.com", "&iss="] {
        let back = world.agreed(&mut alice, "idp").await;
        let (without_iss, _) = back.split_once("&iss=").unwrap();
        let page = world
            .refused(
                &mut alice,
                &format!("{without_iss}{iss}"),
                StatusCode::BAD_REQUEST,
            )
            .await;
        assert!(page.text.contains("another provider"), "{page:?}");
    }
    assert!(
        world.provider.token_requests().is_empty(),
        "no code was sent"
    );
    let [idp, other] = ["idp", "other"].map(|name| world.linking.redirect_uri(name).unwrap());
    assert_ne!(idp, other, "(RFC 9700 §4.4.2.2)");
}

#[tokio::test]
async fn a_code_of_another_authorization_request_is_not_accepted() {
    let world = world();
    let mut mallory = Browser::of("mallory");
    let stolen = query(&world.agreed(&mut mallory, "idp").await)["code"].clone();
    let mut alice = Browser::of("alice");
    let back = world.agreed(&mut alice, "idp").await;
    let own = query(&back)["code"].clone();
    let injected = back.replace(&format!("code={own}"), &format!("code={stolen}"));
    let page = world
        .refused(&mut alice, &injected, StatusCode::FORBIDDEN)
        .await;
    assert!(page.text.contains("refused"), "{page:?}");
}

#[tokio::test]
async fn each_request_has_an_s256_challenge_and_nothing_turns_that_off() {
    let world = world();
    let mut alice = Browser::of("alice");
    let mut seen = Vec::new();
    for provider in ["idp", "other", "idp"] {
        let start = alice
            .get(&world.linking, &format!("{BASE}/link/{provider}"))
            .await;
        let asked = query(start.location());
        assert_eq!(asked["code_challenge_method"], "S256");
        assert_eq!(asked["code_challenge"].len(), 43);
        assert_eq!(
            asked["redirect_uri"],
            world.linking.redirect_uri(provider).unwrap()
        );
        seen.extend([asked["state"].clone(), asked["code_challenge"].clone()]);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 6, "all of them are new each time");

    // A provider that says it takes no S256 is not asked at all.
    let world = self::world();
    world
        .provider
        .metadata("code_challenge_methods_supported", json!(["plain"]));
    let page = world
        .refused(
            &mut alice,
            &format!("{BASE}/link/idp"),
            StatusCode::INTERNAL_SERVER_ERROR,
        )
        .await;
    assert!(page.text.contains("not set up correctly"), "{page:?}");

    let turned_off = ProviderSettings::github().parameter("code_challenge_method", "plain");
    let client_auth = tower_identity::ClientAuth::none("gateway");
    let error = tower_identity::upstream::OAuthProvider::builder(
        turned_off,
        client_auth,
        world.provider.client(),
    )
    .build()
    .unwrap_err();
    assert_eq!(error.invalid_settings()[0].setting(), "parameter");
}

#[tokio::test]
async fn an_id_token_that_is_not_of_this_login_links_nothing() {
    let in_ten_minutes = 1_800_000_000 + 600;
    let wrong = [
        json!({ "nonce": "of-another-login" }),
        json!({ "nonce": null }),
        json!({ "aud": "another-client" }),
        json!({ "aud": [CLIENT, "another-client"] }),
        json!({ "azp": "another-client" }),
        json!({ "iss": "https://evil.example.com" }),
        json!({ "exp": in_ten_minutes - 3600 }),
        json!({ "exp": null }),
        json!({ "iat": in_ten_minutes + 3600 }),
        json!({ "sub": null }),
        json!({ "sub": " " }),
        json!({ "token_use": "access" }),
        json!({ "typ": "Bearer" }),
        json!({ "typ": "Logout" }),
    ];
    for claims in wrong {
        let world = world();
        world.provider.id_token(claims);
        let mut alice = Browser::of("alice");
        let back = world.agreed(&mut alice, "idp").await;
        let page = world
            .refused(&mut alice, &back, StatusCode::BAD_GATEWAY)
            .await;
        assert!(page.text.contains("who you are"), "{page:?}");
    }
    let others: [fn(&FakeProvider); 4] = [
        |provider| provider.sign_with(ED25519),
        |provider| provider.id_token_header(json!({ "alg": "none" })),
        |provider| provider.id_token_header(json!({ "typ": "at+jwt" })),
        FakeProvider::issue_no_id_token,
    ];
    for wrong in others {
        let world = world();
        wrong(&world.provider);
        let mut alice = Browser::of("alice");
        let back = world.agreed(&mut alice, "idp").await;
        world
            .refused(&mut alice, &back, StatusCode::BAD_GATEWAY)
            .await;
    }
    for right in [
        json!({ "azp": CLIENT }),
        json!({ "aud": [CLIENT] }),
        json!({ "aud": [CLIENT, "another"], "azp": CLIENT }),
        json!({ "typ": "ID" }),
        json!({ "token_use": "id" }),
    ] {
        let world = world();
        world.provider.id_token(right);
        world.provider.sign_with(P256);
        let mut alice = Browser::of("alice");
        let back = world.agreed(&mut alice, "idp").await;
        let page = alice.get(&world.linking, &back).await;
        assert_eq!(page.status, StatusCode::SEE_OTHER, "{page:?}");
    }
}

#[tokio::test]
async fn no_redirect_leaves_this_host_except_to_the_provider() {
    let world = world();
    let mut alice = Browser::of("alice");
    let away = [
        "https://evil.example.com",
        "//evil.example.com",
        "/\\evil.example.com",
        "\\\\evil.example.com",
        "/\t/evil.example.com",
        "/%0d%0aLocation:%20https://evil.example.com\r\nx: y",
        "javascript:alert(1)",
        "evil.example.com",
        "@evil.example.com",
        ".evil.example.com",
        ":8443/",
        "/a\u{202e}b",
        "",
    ];
    for path in away {
        let url = format!("{BASE}/link/idp?return_to={}", encoded(path));
        let start = alice.get(&world.linking, &url).await;
        let back = world.provider.agree(start.location());
        let page = alice.get(&world.linking, &back).await;
        assert_eq!(page.location(), BASE, "{path}");
        let unlink = format!("{BASE}/unlink/idp?return_to={}", encoded(path));
        let page = alice
            .send(
                &world.linking,
                Method::POST,
                &unlink,
                &[("origin", GATEWAY)],
            )
            .await;
        assert_eq!(page.location(), BASE, "{path}");
    }
    for path in ["/", "/accounts?linked=idp", "/a/%2f%2fb?c=d&e=//f"] {
        let url = format!("{BASE}/link/idp?return_to={}", encoded(path));
        let start = alice.get(&world.linking, &url).await;
        let back = world.provider.agree(start.location());
        let page = alice.get(&world.linking, &back).await;
        assert_eq!(page.location(), format!("{GATEWAY}{path}"));
    }
}

#[tokio::test]
async fn no_other_site_starts_a_link_unseen_or_ends_one() {
    let world = world();
    let mut alice = Browser::of("alice");
    let unseen: [&[(&str, &str)]; 4] = [
        &[("sec-fetch-dest", "image")],
        &[
            ("sec-fetch-dest", "iframe"),
            ("sec-fetch-site", "cross-site"),
        ],
        &[("sec-fetch-dest", "empty")],
        &[("sec-fetch-dest", "document"), ("sec-purpose", "prefetch")],
    ];
    for headers in unseen {
        let url = format!("{BASE}/link/idp");
        let page = alice.send(&world.linking, Method::GET, &url, headers).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN, "{headers:?}");
        assert!(!page.headers.contains_key(header::SET_COOKIE));
    }
    // A click on a link in another page is a visit: a chat that shows the address, for example.
    let visit = [
        ("sec-fetch-dest", "document"),
        ("sec-fetch-site", "cross-site"),
    ];
    let start = alice
        .send(
            &world.linking,
            Method::GET,
            &format!("{BASE}/link/idp"),
            &visit,
        )
        .await;
    let back = world.provider.agree(start.location());
    alice.send(&world.linking, Method::GET, &back, &visit).await;
    assert_eq!(world.linked("alice").await, ["idp"]);

    let foreign: [&[(&str, &str)]; 7] = [
        &[],
        &[("origin", "null")],
        &[("origin", "https://evil.example.com")],
        &[("origin", "https://gateway.example.com.evil.example.com")],
        &[
            ("origin", "https://other.example.com"),
            ("sec-fetch-site", "same-site"),
        ],
        &[("origin", GATEWAY), ("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "none")],
    ];
    let url = format!("{BASE}/unlink/idp");
    for headers in foreign {
        let page = alice
            .send(&world.linking, Method::POST, &url, headers)
            .await;
        assert_eq!(page.status, StatusCode::FORBIDDEN, "{headers:?}");
    }
    let page = alice.get(&world.linking, &url).await;
    assert_eq!(
        page.status,
        StatusCode::METHOD_NOT_ALLOWED,
        "a link cannot unlink"
    );
    assert_eq!(world.linked("alice").await, ["idp"]);
    // A page without referrer sends `Origin: null`.
    let own = [("origin", "null"), ("sec-fetch-site", "same-origin")];
    let page = alice.send(&world.linking, Method::POST, &url, &own).await;
    assert_eq!(page.location(), BASE);
    assert!(world.linked("alice").await.is_empty());
}

#[tokio::test]
async fn the_cookie_cannot_be_set_by_another_host_nor_read_by_a_script() {
    let world = world();
    let mut alice = Browser::of("alice");
    let start = alice.get(&world.linking, &format!("{BASE}/link/idp")).await;
    let cookie = &start.headers[header::SET_COOKIE];
    assert!(cookie.is_sensitive());
    let cookie = cookie.to_str().unwrap();
    assert!(cookie.starts_with(COOKIE), "{cookie}");
    let mut attributes: Vec<_> = cookie.split("; ").skip(1).collect();
    attributes.sort_unstable();
    assert_eq!(
        attributes,
        [
            "HttpOnly",
            "Max-Age=600",
            "Path=/",
            "SameSite=Lax",
            "Secure"
        ],
        "and no `Domain`"
    );
    // Links in two tabs do not disturb each other.
    let first = world.provider.agree(start.location());
    let second = world.agreed(&mut alice, "other").await;
    for back in [first, second] {
        let page = alice.get(&world.linking, &back).await;
        assert_eq!(page.status, StatusCode::SEE_OTHER, "{page:?}");
    }
    // A cookie that is none of ours is replaced.
    for odd in ["", "short", "\"><script>", &"x".repeat(5000)] {
        let mut browser = Browser::of("alice");
        browser.cookies.insert(COOKIE.to_owned(), odd.to_owned());
        browser
            .get(&world.linking, &format!("{BASE}/link/idp"))
            .await;
        assert_eq!(browser.cookies.len(), 2);
        assert_eq!(browser.cookies.last_key_value().unwrap().1.len(), 43);
    }
}

#[tokio::test]
async fn f93_two_tabs_that_start_at_once_both_come_back() {
    for providers in [["idp", "other"], ["idp", "idp"]] {
        let world = world();
        // Neither has the cookie of the other when its request leaves.
        let mut tabs = [Browser::of("alice"), Browser::of("alice")];
        let mut back = Vec::new();
        for (tab, provider) in tabs.iter_mut().zip(providers) {
            back.push(world.agreed(tab, provider).await);
        }
        let mut alice = Browser::of("alice");
        for tab in tabs {
            alice.cookies.extend(tab.cookies);
        }
        for back in &back {
            let page = alice.get(&world.linking, back).await;
            assert_eq!(page.status, StatusCode::SEE_OTHER, "{page:?}");
        }
        // With a cookie there is no second one.
        let known = alice.cookies.len();
        for provider in providers {
            world.agreed(&mut alice, provider).await;
        }
        assert_eq!(alice.cookies.len(), known);
    }
}

#[tokio::test]
async fn a_user_who_tries_again_comes_back_to_the_page_where_they_came_from() {
    let world = world();
    let mut alice = Browser::of("alice");
    let asked = format!("{BASE}/link/idp?return_to={}", encoded("/inbox?unread=1&x"));
    let retry = |page: &Page| {
        let back = format!(r#"<a href="{GATEWAY}/inbox?unread=1&amp;x">Back</a>"#);
        assert!(page.text.contains(&back), "{page:?}");
        let (_, retry) = page.text.split_once("<a href=\"").unwrap();
        retry.split_once('"').unwrap().0.replace("&amp;", "&")
    };
    let start = alice.get(&world.linking, &asked).await;
    let state = query(start.location())["state"].clone();
    let declined = format!(
        "{BASE}/link/callback/idp?error=access_denied&state={}&iss={}",
        encoded(&state),
        encoded(ISSUER)
    );
    let page = alice.get(&world.linking, &declined).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN, "{page:?}");
    let again = alice.get(&world.linking, &retry(&page)).await;
    let back = world.provider.agree(again.location());
    let page = alice.get(&world.linking, &back).await;
    assert_eq!(page.location(), format!("{GATEWAY}/inbox?unread=1&x"));

    // No page for links ends one.
    let unlink = format!("{BASE}/unlink/idp?return_to=%2Finbox");
    let page = alice
        .send(
            &world.linking,
            Method::POST,
            &unlink,
            &[("origin", "https://evil.example")],
        )
        .await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    assert!(
        page.text.contains("/inbox") && !page.text.contains("/link/"),
        "{page:?}"
    );

    // A start that fails is tried again, too.
    let world = self::world();
    world
        .provider
        .metadata("issuer", json!("https://other.example.com"));
    let page = alice.get(&world.linking, &asked).await;
    assert!(page.status.is_server_error(), "{page:?}");
    assert_eq!(retry(&page), asked);
}

/// A validator leaves the claim of the session out of the identity.
#[tokio::test]
async fn f95_a_session_that_a_validator_found_is_the_one_whose_account_is_linked() {
    let provider = FakeProvider::new();
    let store = provider.store();
    let settings = ProviderSettings::discovered(ISSUER).scopes(["openid"]);
    let upstream = provider.upstream(store.clone(), [("idp", settings)]);
    let upstream = upstream.session_claim("sid");
    let linking = AccountLinking::builder(BASE, upstream.clone())
        .build()
        .unwrap();
    let keys = KeySet::from_json(json!({ "keys": [P256.public()] }).to_string()).unwrap();
    let validator = TokenValidator::builder_with_keys(USERS, keys)
        .audience("gateway")
        .upstream_tokens(upstream)
        .clock(provider.clock.clone())
        .build()
        .unwrap();
    let token = json!({
        "iss": USERS, "sub": "alice", "aud": "gateway", "exp": 1_800_003_600, "sid": "laptop",
    });
    let token = P256.sign(&P256.header(), &token);
    let mut alice = Browser {
        user: Some(validator.validate(&token).await.unwrap()),
        ..Browser::default()
    };
    let start = alice.get(&linking, &format!("{BASE}/link/idp")).await;
    assert_eq!(start.status, StatusCode::SEE_OTHER, "{start:?}");
    let page = alice.get(&linking, &provider.agree(start.location())).await;
    assert_eq!(page.status, StatusCode::SEE_OTHER, "{page:?}");
    let linked = store.load(&owner("alice").with_session("laptop")).await;
    assert_eq!(linked.unwrap().len(), 1);
    assert!(store.load(&owner("alice")).await.unwrap().is_empty());
    let identity = validator.validate(&token).await.unwrap();
    assert!(identity.upstream("idp").is_some());
}

/// Says when it is dropped.
struct Dropped(Arc<Notify>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn f92_a_browser_that_goes_away_while_the_code_is_exchanged_has_linked_the_account() {
    let provider = FakeProvider::new();
    let store = provider.store();
    let (asked, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (asking, answering, fake) = (asked.clone(), answer.clone(), provider.clone());
    let client = service_fn(move |request: Request<Full<Bytes>>| {
        let (asking, answering, fake) = (asking.clone(), answering.clone(), fake.client());
        async move {
            if request.uri().path() == "/token" {
                asking.notify_one();
                answering.notified().await;
            }
            fake.oneshot(request).await
        }
    });
    let settings = ProviderSettings::discovered(ISSUER).scopes(["openid"]);
    let idp = OAuthProvider::builder(settings, ClientAuth::none(CLIENT), client)
        .clock(provider.clock.clone())
        .build()
        .unwrap();
    let idp = idp.provider("idp").build().unwrap();
    let upstream = UpstreamTokens::new(store.clone(), [idp]).clock(provider.clock.clone());
    let linking = AccountLinking::builder(BASE, upstream).build().unwrap();
    let mut alice = Browser::of("alice");
    let start = alice.get(&linking, &format!("{BASE}/link/idp")).await;
    let back = provider.agree(start.location());

    // A real server, which drops the work of a connection that is closed.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let dropped = Arc::new(Notify::new());
    let dropping = dropped.clone();
    tokio::spawn(async move {
        let (connection, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            let (linking, guard) = (linking.clone(), Dropped(dropping.clone()));
            request.extensions_mut().insert(owner("alice"));
            async move {
                let _guard = guard;
                linking.oneshot(request).await
            }
        });
        let connection = TokioIo::new(connection);
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(connection, service)
            .await;
    });
    let path = back.strip_prefix(GATEWAY).unwrap();
    let cookies: Vec<_> = alice.cookies.iter().collect();
    let cookies = cookies
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let cookies = cookies.collect::<Vec<_>>().join("; ");
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: gateway.example.com\r\ncookie: {cookies}\r\n\r\n");
    let mut browser = TcpStream::connect(address).await.unwrap();
    browser.write_all(request.as_bytes()).await.unwrap();
    asked.notified().await;
    drop(browser);
    dropped.notified().await;
    answer.notify_one();

    let linked = async {
        while store.load(&owner("alice")).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let linked = tokio::time::timeout(Duration::from_secs(5), linked).await;
    assert!(
        linked.is_ok(),
        "the code was spent, and its tokens are lost"
    );
}

#[tokio::test]
async fn nothing_of_a_request_reaches_a_page() {
    let world = world();
    let script = "<script>alert(1)</script>\"'&";
    let state = encoded(script);
    let urls = [
        format!("{BASE}/link/{state}"),
        format!("{BASE}/link/callback/{state}"),
        format!("{BASE}/link/callback/idp?error={state}&error_description={state}&state={state}"),
        format!("{BASE}/link/callback/idp?code={state}&state={state}&iss={state}"),
        format!("{BASE}/{state}?{state}={state}"),
    ];
    let mut alice = Browser::of("alice");
    let back = world.agreed(&mut alice, "idp").await;
    let real = query(&back)["state"].clone();
    let with_state = format!(
        "{BASE}/link/callback/idp?state={real}&iss={ISSUER}&error={state}&error_description={state}&error_uri={state}"
    );
    for url in urls.iter().chain([&with_state]) {
        let page = alice.get(&world.linking, url).await;
        assert!(page.status.is_client_error(), "{page:?}");
        assert_eq!(
            page.headers[header::CONTENT_TYPE],
            "text/html; charset=utf-8"
        );
        for part in ["script", "alert", &encoded("<"), "&lt;"] {
            assert!(!page.text.contains(part), "{url}: {page:?}");
        }
        guarded(&page);
    }
}

#[tokio::test]
async fn no_secret_is_logged_at_trace() {
    let log = Log::default();
    let captured = log.capture("trace");
    let world = world();
    let mut alice = Browser::of("alice");
    let back = world.agreed(&mut alice, "idp").await;
    alice.get(&world.linking, &back).await;
    alice.get(&world.linking, &back).await;
    let declined = world.agreed(&mut alice, "other").await;
    alice
        .get(&world.linking, &declined.replace("code=", "error="))
        .await;
    drop(captured);
    let said = log.text();
    assert!(said.contains("an account was linked"), "{said}");
    let asked = query(&back);
    let [request] = &world.provider.token_requests()[..] else {
        panic!("one request");
    };
    for secret in [
        &*asked["state"],
        &asked["code"],
        &request["code_verifier"],
        alice.cookies.last_key_value().unwrap().1,
        "access-of-",
        "refresh-1-",
        "alice",
        "eyJ",
        support::linking::SECRET,
    ] {
        assert!(!said.contains(secret), "{secret:?} in {said}");
    }
}

#[tokio::test]
async fn a_provider_that_refuses_the_application_is_a_warning_and_what_concerns_a_user_is_none() {
    let log = Log::default();
    let _captured = log.capture("warn");
    let world = world();
    let mut alice = Browser::of("alice");
    let back = world.agreed(&mut alice, "idp").await;
    for (code, said) in [("invalid_grant", false), ("invalid_client", true)] {
        let answer = json!({ "error": code, "error_description": "7Fjfp0ZBr1Kt" });
        let (status, json) = (StatusCode::BAD_REQUEST, "application/json");
        world
            .provider
            .answer_with(status, json, &answer.to_string());
        let back = match said {
            true => world.agreed(&mut alice, "idp").await,
            false => back.clone(),
        };
        alice.get(&world.linking, &back).await;
        assert_eq!(log.text().contains("WARN"), said, "{}", log.text());
    }
    let said = log.text();
    assert!(
        said.contains("the token endpoint at https://idp.example.com"),
        "{said}"
    );
    assert!(!said.contains("7Fjfp0ZBr1Kt"), "{said}");
}

#[tokio::test]
async fn odd_queries_get_a_page_and_nothing_else() {
    let world = world();
    let mut alice = Browser::of("alice");
    let back = world.agreed(&mut alice, "idp").await;
    let state = query(&back)["state"].clone();
    let long = "x".repeat(20_000);
    let odd = [
        String::new(),
        "state".to_owned(),
        "state=".to_owned(),
        format!("state={state}&state={state}&code=c"),
        format!("state={state}&code=c&code=d"),
        format!("state={state}&error=a&error=b"),
        format!("state={state}&code=c&iss={ISSUER}&iss={ISSUER}"),
        format!("state={long}&code=c"),
        format!("state={state}&code={long}"),
        "state=%00%ff%fe&code=%".to_owned(),
        "&&&===&".to_owned(),
    ];
    for query in odd {
        let url = format!("{BASE}/link/callback/idp?{query}");
        world
            .refused(&mut alice, &url, StatusCode::BAD_REQUEST)
            .await;
    }
    for _ in 0..2_000 {
        let length = fastrand::usize(..60);
        let text: String = (0..length).map(|_| fastrand::char('!'..'~')).collect();
        let url = format!(
            "{BASE}/link/callback/idp?{}",
            text.replace(['#', '"', '<', '>', '\\', '^', '`', '{', '|', '}'], ".")
        );
        if url.parse::<http::Uri>().is_ok() {
            world
                .refused(&mut alice, &url, StatusCode::BAD_REQUEST)
                .await;
        }
    }
    let neither = format!("{BASE}/link/callback/idp?state={state}&iss={ISSUER}");
    world
        .refused(&mut alice, &neither, StatusCode::BAD_REQUEST)
        .await;
}

#[tokio::test]
async fn odd_answers_of_a_token_endpoint_link_nothing_and_are_not_shown() {
    let odd = [
        (StatusCode::OK, "application/json", "{}"),
        (StatusCode::OK, "application/json", "<html>&secret-text"),
        (StatusCode::OK, "text/html", "{}"),
        (StatusCode::FOUND, "application/json", "{}"),
        (
            StatusCode::OK,
            "application/json",
            r#"{"access_token":"secret-text"}"#,
        ),
        (
            StatusCode::OK,
            "application/json",
            r#"{"access_token":"secret-text","token_type":"mac"}"#,
        ),
        (
            StatusCode::OK,
            "application/json",
            r#"{"access_token":"a b","token_type":"Bearer"}"#,
        ),
        (
            StatusCode::BAD_REQUEST,
            "application/json",
            r#"{"error":"secret-text","error_description":"secret-text"}"#,
        ),
        (
            StatusCode::INTERNAL_SERVER_ERROR,
            "text/plain",
            "secret-text",
        ),
    ];
    for (status, content_type, body) in odd {
        let world = world();
        let mut alice = Browser::of("alice");
        let back = world.agreed(&mut alice, "idp").await;
        world.provider.answer_with(status, content_type, body);
        let page = alice.get(&world.linking, &back).await;
        assert!(
            !page.status.is_success() && !page.status.is_redirection(),
            "{page:?}"
        );
        assert!(!page.text.contains("secret-text"));
        assert!(world.linked("alice").await.is_empty());
    }
    let nested = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let world = world();
    let mut alice = Browser::of("alice");
    let back = world.agreed(&mut alice, "idp").await;
    world
        .provider
        .answer_with(StatusCode::OK, "application/json", &nested);
    let page = alice.get(&world.linking, &back).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
}
