//! Secrets and assertions that somebody supplies while the application runs: in a file, or from a function.
#![cfg(feature = "token-exchange")]

mod support;

use std::{
    fs,
    future::pending,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;
use support::{
    issuer::{self, CLIENT_CREDENTIALS, Issuer, JWT_BEARER, TOKEN_EXCHANGE},
    log::Log,
    token_stack::{
        Backend, at, clock, endpoint_builder, http_client, jwt, seconds, secret, send, user,
        user_with_id_token,
    },
};
use tower_identity::{
    AuthError, AuthErrorKind, ClientAuth, ClientCredentials, CrossAppAccess, ManualClock,
    OnBehalfOf, Secret, TokenEndpoint, TokenExchange,
    oauth::{SecretSource, TokenRequest},
};

const JWT_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const SPIFFE_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";

/// A folder with one file, which a platform writes.
struct Platform {
    folder: tempfile::TempDir,
}

impl Platform {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    /// Replaces the file as a whole, as Kubernetes does.
    fn write(&self, content: impl AsRef<[u8]>) {
        let new = self.folder.path().join("new");
        fs::write(&new, content).unwrap();
        fs::rename(new, self.path()).unwrap();
    }

    fn source(&self) -> SecretSource {
        SecretSource::file(self.path())
    }
}

/// A token of the workload, which ends at this second.
fn token(name: &str, exp: u64) -> String {
    jwt(
        &json!({ "alg": "none" }),
        &json!({ "sub": name, "exp": exp }),
    )
}

async fn issuer() -> Issuer {
    let issuer = Issuer::start().await;
    issuer.require(issuer::Client::Assertion {
        id: "gateway".into(),
    });
    issuer
}

fn endpoint(issuer: &Issuer, client_auth: ClientAuth, clock: &Arc<ManualClock>) -> TokenEndpoint {
    endpoint_builder(issuer)
        .client_auth(client_auth)
        .clock(clock.clone())
        .build()
        .unwrap()
}

/// The assertion that the client comes with, or why it does not.
async fn assertion(issuer: &Issuer, endpoint: &TokenEndpoint) -> Result<String, AuthError> {
    endpoint
        .request_token(TokenRequest::client_credentials())
        .await?;
    let sent = issuer.requests().pop().unwrap();
    Ok(sent.one("client_assertion").unwrap().to_owned())
}

/// All that an error shows, without the content of the file.
fn shown(error: &AuthError, platform: &Platform) -> String {
    let sources = std::iter::successors(Some(error as &dyn std::error::Error), |&error| {
        error.source()
    });
    let shown: Vec<_> = sources.map(|error| format!("{error} {error:?}")).collect();
    let shown = shown.join(" ");
    if let Ok(content) = fs::read_to_string(platform.path())
        && content.len() > 8
    {
        assert!(!shown.contains(&content), "{shown}");
    }
    shown
}

#[tokio::test]
async fn a_token_in_a_file_authenticates_the_client_under_each_grant() {
    let platform = Platform::new();
    let (issuer, backend) = (issuer().await, Backend::start().await);
    issuer.know("alices-token", "alice");
    let clock = clock();
    platform.write(token("workload", 3600) + "\n");
    let endpoint = || {
        let client_auth = ClientAuth::assertion("gateway", platform.source());
        endpoint(&issuer, client_auth, &clock)
    };

    let exchange = TokenExchange::builder(endpoint()).clock(clock.clone());
    let own = ClientCredentials::builder(endpoint()).clock(clock.clone());
    let on_behalf_of = OnBehalfOf::builder(endpoint())
        .scopes(["api"])
        .clock(clock.clone());
    let alice = || user("alice", "alices-token");
    let client = backend.client(exchange.build().unwrap());
    send(&client, backend.request(alice())).await.unwrap();
    let client = backend.client(own.build().unwrap());
    send(&client, backend.request(alice())).await.unwrap();
    let client = backend.client(on_behalf_of.build().unwrap());
    send(&client, backend.request(alice())).await.unwrap();

    let id_token = jwt(
        &json!({}),
        &json!({ "iss": "https://idp.example.com", "exp": 3600 }),
    );
    let id_jag = jwt(
        &json!({ "typ": "oauth-id-jag+jwt" }),
        &json!({ "iss": "https://idp.example.com", "aud": "https://as.example.com", "exp": 3600 }),
    );
    issuer.know(&id_jag, "alice").next(issuer::Behaviour::json(
        200,
        &json!({
            "access_token": id_jag,
            "token_type": "N_A",
            "issued_token_type": "urn:ietf:params:oauth:token-type:id-jag",
        }),
    ));
    let across = CrossAppAccess::builder("idp", endpoint(), endpoint())
        .audience("https://as.example.com")
        .clock(clock.clone());
    let client = backend.client(across.build().unwrap());
    let alice = user_with_id_token("alice", &id_token);
    send(&client, backend.request(alice)).await.unwrap();

    let requests = issuer.requests();
    let grants: Vec<_> = requests.iter().map(|sent| sent.one("grant_type")).collect();
    let expected = [
        TOKEN_EXCHANGE,
        CLIENT_CREDENTIALS,
        JWT_BEARER,
        TOKEN_EXCHANGE,
        JWT_BEARER,
    ];
    assert_eq!(grants, expected.map(Some));
    for sent in requests {
        assert_eq!(sent.one("client_id"), Some("gateway"));
        assert_eq!(sent.one("client_assertion_type"), Some(JWT_TYPE));
        let workload = token("workload", 3600);
        assert_eq!(sent.one("client_assertion"), Some(&*workload));
        assert_eq!(sent.headers.get("authorization"), None);
    }
}

#[tokio::test]
async fn a_spiffe_id_is_presented_as_what_it_is_and_may_be_named_by_the_token_alone() {
    let issuer = Issuer::start().await;
    let svid = token("spiffe://example.com/gateway", 3600);
    for (client_auth, client_id) in [
        (
            ClientAuth::spiffe("spiffe://example.com/gateway", secret(&svid)),
            Some("spiffe://example.com/gateway"),
        ),
        (
            ClientAuth::spiffe("spiffe://example.com/gateway", secret(&svid)).omit_client_id(),
            None,
        ),
    ] {
        let endpoint = endpoint(&issuer, client_auth, &clock());
        assert_eq!(assertion(&issuer, &endpoint).await.unwrap(), svid);
        let sent = issuer.requests().pop().unwrap();
        assert_eq!(sent.one("client_assertion_type"), Some(SPIFFE_TYPE));
        assert_eq!(sent.one("client_id"), client_id);
    }
}

#[tokio::test]
async fn a_workloads_token_is_the_grant_itself_and_its_refusal_asks_no_user_to_log_in() {
    let platform = Platform::new();
    let (issuer, backend) = (Issuer::start().await, Backend::start().await);
    let clock = clock();
    platform.write(token("workload", 3600));
    issuer.know(&token("workload", 3600), "gateway");
    let endpoint = endpoint_builder(&issuer).clock(clock.clone());
    let strategy = ClientCredentials::builder(endpoint.build().unwrap())
        .workload_token(platform.source())
        .resource("https://mcp.example.com")
        .clock(clock.clone())
        .build()
        .unwrap();
    let client = backend.client(strategy);
    send(&client, backend.request(None)).await.unwrap();
    let sent = issuer.request();
    assert_eq!(sent.one("grant_type"), Some(JWT_BEARER));
    assert_eq!(sent.one("resource"), Some("https://mcp.example.com"));
    assert_eq!(sent.one("client_id"), None);
    let authorizations = backend.authorizations();
    assert_eq!(authorizations, [["Bearer issued-for-gateway-1"]]);

    issuer.forget(&token("workload", 3600));
    clock.advance(seconds(3600));
    platform.write(token("workload", 7200));
    let refused = send(&client, backend.request(None)).await.unwrap_err();
    assert_eq!(refused.kind(), AuthErrorKind::Configuration, "{refused}");
    assert!(refused.interaction().is_none());
}

#[tokio::test]
async fn a_file_is_read_again_when_a_second_has_passed_and_not_before() {
    let platform = Platform::new();
    let (issuer, clock) = (issuer().await, clock());
    platform.write(token("first", 3600));
    let source = platform.source();
    let client_auth = ClientAuth::assertion("gateway", source);
    let endpoint = endpoint(&issuer, client_auth, &clock);
    let first = token("first", 3600);
    assert_eq!(assertion(&issuer, &endpoint).await.unwrap(), first);
    platform.write(token("second", 3600));
    clock.advance(Duration::from_millis(999));
    assert_eq!(assertion(&issuer, &endpoint).await.unwrap(), first);
    clock.advance(Duration::from_millis(1));
    let second = token("second", 3600);
    assert_eq!(assertion(&issuer, &endpoint).await.unwrap(), second);
}

/// A look at a file that is gone would be told, because the last value is used in its place.
#[tokio::test]
async fn no_file_is_looked_at_for_a_request_whose_token_is_cached() {
    let (issuer, backend, clock) = (Issuer::start().await, Backend::start().await, clock());
    issuer.know("alices-token", "alice");
    let platform = Platform::new();
    platform.write(token("gateway", 3600));
    issuer.know(&token("gateway", 3600), "gateway");
    let basic = || {
        endpoint(
            &issuer,
            ClientAuth::basic("gateway", platform.source()),
            &clock,
        )
    };
    let assertion = || {
        endpoint(
            &issuer,
            ClientAuth::assertion("gateway", platform.source()),
            &clock,
        )
    };
    let workload = endpoint_builder(&issuer)
        .clock(clock.clone())
        .build()
        .unwrap();
    let exchange = |endpoint| {
        let exchange = TokenExchange::builder(endpoint).clock(clock.clone());
        exchange.build().unwrap()
    };
    let workload = ClientCredentials::builder(workload)
        .workload_token(platform.source())
        .clock(clock.clone())
        .build()
        .unwrap();
    let (by_secret, by_assertion) = (exchange(basic()), exchange(assertion()));
    let (by_secret, by_assertion) = (backend.client(by_secret), backend.client(by_assertion));
    let workload = backend.client(workload);
    let request = || backend.request(user("alice", "alices-token"));
    let send_all = async || {
        send(&by_secret, request()).await.unwrap();
        send(&by_assertion, request()).await.unwrap();
        send(&workload, request()).await.unwrap();
    };
    send_all().await;
    let asked = issuer.requests().len();
    fs::remove_dir_all(platform.folder.path()).unwrap();
    // The next look would be due.
    clock.advance(seconds(2));
    let log = Log::default();
    let capturing = log.capture("tower_identity=warn");
    for _ in 0..100 {
        send_all().await;
    }
    drop(capturing);
    assert_eq!(issuer.requests().len(), asked);
    assert_eq!(log.text(), "");
}

#[tokio::test]
async fn a_file_that_is_at_fault_is_told_to_the_operator_and_the_old_token_serves_to_its_end() {
    type Spoil = fn(&Path);
    let cases: [(Spoil, AuthErrorKind, &str); 8] = [
        (
            |path| fs::remove_file(path).unwrap(),
            AuthErrorKind::Configuration,
            "does not exist",
        ),
        (
            |path| fs::write(path, "").unwrap(),
            AuthErrorKind::Configuration,
            "is empty",
        ),
        (
            |path| fs::write(path, " \n").unwrap(),
            AuthErrorKind::Configuration,
            "is empty",
        ),
        (
            |path| fs::write(path, "e".repeat(64 * 1024 + 1)).unwrap(),
            AuthErrorKind::Configuration,
            "more than 64 KiB",
        ),
        (
            |path| fs::write(path, &token("half-written", 3600)[..30]).unwrap(),
            AuthErrorKind::Configuration,
            "no signed JWT",
        ),
        (
            |path| fs::write(path, [0xff, 0xfe]).unwrap(),
            AuthErrorKind::Configuration,
            "UTF-8",
        ),
        (
            |path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            },
            AuthErrorKind::Configuration,
            "cannot be read",
        ),
        (
            |path| fs::write(path, token("old", 0)).unwrap(),
            AuthErrorKind::Unavailable,
            "has expired",
        ),
    ];
    for (spoil, kind, message) in cases {
        let platform = Platform::new();
        let (issuer, clock) = (issuer().await, clock());
        let good = token("good", 60);
        platform.write(&good);
        let client_auth = ClientAuth::assertion("gateway", platform.source());
        let with_old = endpoint(&issuer, client_auth, &clock);
        assert_eq!(assertion(&issuer, &with_old).await.unwrap(), good);

        clock.advance(seconds(1));
        spoil(&platform.path());
        let log = Log::default();
        let capturing = log.capture("tower_identity=warn");
        assert_eq!(assertion(&issuer, &with_old).await.unwrap(), good);
        assert!(log.text().contains(message), "{}", log.text());
        assert!(!log.text().contains(&good), "{}", log.text());
        drop(capturing);
        clock.set(at(60));
        let after_its_end = assertion(&issuer, &with_old).await.unwrap_err();

        let client_auth = ClientAuth::assertion("gateway", platform.source());
        let without = endpoint(&issuer, client_auth, &clock);
        let at_first = assertion(&issuer, &without).await.unwrap_err();
        for error in [after_its_end, at_first] {
            assert_eq!(error.kind(), kind, "{error}");
            assert!(shown(&error, &platform).contains(message), "{error}");
            let path = platform.path();
            assert!(
                error.to_string().contains(path.to_str().unwrap()),
                "{error}"
            );
        }
        assert_eq!(issuer.requests().len(), 2, "{message}");

        if platform.path().is_dir() {
            fs::remove_dir(platform.path()).unwrap();
        }
        platform.write(token("next", 3600));
        clock.advance(seconds(1));
        let next = assertion(&issuer, &with_old).await.unwrap();
        assert_eq!(next, token("next", 3600));
    }
}

#[tokio::test]
async fn a_file_that_was_not_replaced_after_its_token_expired_is_no_longer_sent() {
    let platform = Platform::new();
    let (issuer, clock) = (issuer().await, clock());
    platform.write(token("only", 60));
    let client_auth = ClientAuth::assertion("gateway", platform.source());
    let endpoint = endpoint(&issuer, client_auth, &clock);
    assertion(&issuer, &endpoint).await.unwrap();
    clock.advance(seconds(60));
    let error = assertion(&issuer, &endpoint).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    assert!(error.to_string().contains("has expired"), "{error}");
    assert_eq!(issuer.requests().len(), 1);
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_hangs_holds_nobody_up_who_has_a_good_token() {
    let platform = Platform::new();
    let (issuer, clock) = (issuer().await, clock());
    let good = token("good", 1_000_000);
    platform.write(&good);
    let source = platform.source().time_limit(Duration::from_millis(20));
    let endpoint = endpoint(&issuer, ClientAuth::assertion("gateway", source), &clock);
    assertion(&issuer, &endpoint).await.unwrap();
    fs::remove_file(platform.path()).unwrap();
    // Whoever opens it waits for a writer.
    let made = std::process::Command::new("mkfifo")
        .arg(platform.path())
        .status();
    assert!(made.unwrap().success());
    for _ in 0..3 {
        clock.advance(seconds(1));
        assert_eq!(assertion(&issuer, &endpoint).await.unwrap(), good);
    }
    // Lets go of the thread that reads.
    let writer = fs::OpenOptions::new().write(true).open(platform.path());
    fs::remove_file(platform.path()).unwrap();
    drop(writer.unwrap());
    let next = token("next", 1_000_000);
    platform.write(&next);
    while assertion(&issuer, &endpoint).await.unwrap() != next {
        tokio::time::sleep(Duration::from_millis(5)).await;
        clock.advance(seconds(1));
    }
}

#[tokio::test]
async fn a_function_is_called_for_each_request_and_may_fail_as_it_likes() {
    type Outcome = Result<Secret, tower::BoxError>;
    type Supply = fn() -> Option<Outcome>;
    let (issuer, clock) = (issuer().await, clock());
    let script = Arc::new(Mutex::new(Vec::<Supply>::new()));
    let next = script.clone();
    let source = SecretSource::function(move || {
        let outcome = next.lock().unwrap().pop().unwrap();
        async move {
            match outcome() {
                Some(outcome) => outcome,
                None => pending().await,
            }
        }
    });
    let source = source.time_limit(Duration::from_millis(20));
    let endpoint = endpoint(&issuer, ClientAuth::assertion("gateway", source), &clock);
    let run = async |outcome| {
        script.lock().unwrap().push(outcome);
        assertion(&issuer, &endpoint).await
    };
    let faults: [(Supply, AuthErrorKind, &str); 5] = [
        (
            || Some(Err("no agent".into())),
            AuthErrorKind::Unavailable,
            "failed",
        ),
        (
            || None,
            AuthErrorKind::Unavailable,
            "gave nothing within 20ms",
        ),
        (
            || panic!("a bug of the supplier"),
            AuthErrorKind::Unavailable,
            "panicked",
        ),
        (
            || Some(Ok(secret("garbage"))),
            AuthErrorKind::Configuration,
            "no signed JWT",
        ),
        (
            || Some(Ok(secret(&token("old", 0)))),
            AuthErrorKind::Unavailable,
            "has expired",
        ),
    ];
    for (outcome, kind, message) in faults {
        let error = run(outcome).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
    assert!(issuer.requests().is_empty());

    for name in ["first", "second"] {
        let supply: Supply = match name {
            "first" => || Some(Ok(secret(&token("first", 60)))),
            _ => || Some(Ok(secret(&token("second", 60)))),
        };
        assert_eq!(run(supply).await.unwrap(), token(name, 60));
    }
    for (outcome, _, _) in faults {
        assert_eq!(run(outcome).await.unwrap(), token("second", 60));
    }
    clock.set(at(60));
    for (outcome, kind, _) in faults {
        assert_eq!(run(outcome).await.unwrap_err().kind(), kind);
    }
}

#[tokio::test]
async fn a_clients_secret_is_read_from_a_file_and_may_rotate() {
    let platform = Platform::new();
    let (issuer, clock) = (Issuer::start().await, clock());
    platform.write("first-secret\n");
    issuer.require(issuer::Client::Basic {
        id: "gateway".into(),
        secret: "first-secret".into(),
    });
    let endpoint = endpoint(
        &issuer,
        ClientAuth::basic("gateway", platform.source()),
        &clock,
    );
    let request = async || {
        endpoint
            .request_token(TokenRequest::client_credentials())
            .await
    };
    request().await.unwrap();
    platform.write("second-secret\n");
    issuer.require(issuer::Client::Basic {
        id: "gateway".into(),
        secret: "second-secret".into(),
    });
    clock.advance(seconds(1));
    request().await.unwrap();
    for (content, message) in [("two\nlines", "line break"), ("", "is empty")] {
        platform.write(content);
        clock.advance(seconds(1));
        let log = Log::default();
        let _capturing = log.capture("tower_identity=warn");
        request().await.unwrap();
        assert!(log.text().contains(message), "{}", log.text());
        assert!(!log.text().contains("second-secret"), "{}", log.text());
    }
    let debug = format!("{endpoint:?} {:?}", platform.source());
    for secret in ["first-secret", "second-secret"] {
        assert!(!debug.contains(secret), "{debug}");
    }
}

#[tokio::test]
async fn a_refusal_that_repeats_a_supplied_assertion_is_not_repeated() {
    let (issuer, clock) = (Issuer::start().await, clock());
    let assertion = token("workload", 3600);
    let supplied = assertion.clone();
    let source = SecretSource::function(move || {
        let supplied = supplied.clone();
        async move { Ok(Secret::new(supplied)?) }
    });
    let endpoint = endpoint(&issuer, ClientAuth::assertion("gateway", source), &clock);
    issuer.next(issuer::Behaviour::error(400, &assertion));
    let error = endpoint.request_token(TokenRequest::client_credentials());
    let error = error.await.unwrap_err();
    assert_eq!(error.oauth_error(), None);
    assert!(!format!("{error} {error:?}").contains(&assertion));
}

#[test]
fn a_source_that_can_supply_nothing_is_refused_when_it_is_built() {
    for (source, setting) in [
        (SecretSource::file(""), "client_auth.assertion"),
        (
            SecretSource::file("/token").time_limit(Duration::ZERO),
            "client_auth.assertion",
        ),
    ] {
        let endpoint = TokenEndpoint::builder("https://idp.example.com/token", http_client())
            .client_auth(ClientAuth::assertion("gateway", source))
            .build();
        let error = endpoint.unwrap_err();
        assert_eq!(error.invalid_settings()[0].setting(), setting);
    }
}
