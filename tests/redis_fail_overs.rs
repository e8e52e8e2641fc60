//! Eight replicas of a gateway, which are processes and are killed, share users by Redis with Sentinel, which fails over
//! again and again. Their users' refresh tokens rotate at an OpenID provider that nobody here wrote.

mod support;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    env,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use support::{
    delegated_store::delegate_to_store,
    http_server::{HttpServer, server_body},
    oidc_provider::OidcProvider,
    owner,
    redis_fleet::{SERVICE, SentinelFleet},
};
use tokio::{task::spawn_blocking, time::sleep};
use tower_identity::{
    AuthError, AuthErrorKind, ClientAuth, RedisStore, TokenEndpoint, UpstreamTokenStore,
    UpstreamTokens,
    upstream::{
        Claim, Claimed, Lease, LoadedTokens, Provider, RedisStoreBuilder, RefreshTokenGrant,
        SealingKey, Settlement, StoredTokens, TokenOwner, UpstreamFuture,
    },
};

const REPLICAS: usize = 8;
const USERS: usize = 40;
const MOST_FAIL_OVERS: usize = 5;
const BETWEEN_FAIL_OVERS: Duration = Duration::from_secs(1);
/// None is begun after so long.
const FAIL_OVERS_FOR: Duration = Duration::from_secs(20);
const ALL_WELL_AFTER: Duration = Duration::from_secs(60);
const LIFETIME: Duration = Duration::from_secs(3);
const LEASE_TIME: Duration = Duration::from_secs(3);
const GRACE: Duration = Duration::from_secs(600);
const RESOURCE: &str = "https://backend.example.com/";
const REPLICA: &str = "TOWER_IDENTITY_TEST_FAIL_OVERS";

/// Both are clients of the same provider. It accepts a spent refresh token of `GENTLE` once more, and takes one of `STRICT`
/// for stolen.
const GENTLE: &str = "gentle";
const STRICT: &str = "strict";

/// Where a replica finds everything.
#[derive(Clone, Serialize, Deserialize)]
struct World {
    sentinels: Vec<String>,
    token_endpoint: String,
    report: String,
}

impl World {
    fn store(&self) -> RedisStoreBuilder {
        // Sentinel may promote either of both replicas of Redis.
        RedisStore::sentinel(&self.sentinels, SERVICE, SealingKey::new([1; 32])).replicas(2)
    }

    fn upstream(&self, id: &str, store: impl UpstreamTokenStore + 'static) -> UpstreamTokens {
        let provider = |name: &str, grace| {
            let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
            let url = format!("{}?by={id}", self.token_endpoint);
            let endpoint = TokenEndpoint::builder(url, client)
                .client_auth(ClientAuth::none(name))
                .build()
                .unwrap();
            Provider::builder(name, RefreshTokenGrant::new(endpoint))
                .grace(grace)
                .build()
                .unwrap()
        };
        let providers = [provider(GENTLE, GRACE), provider(STRICT, Duration::ZERO)];
        UpstreamTokens::new(store, providers).lease_time(LEASE_TIME)
    }
}

/// What a replica tells the test.
#[derive(Serialize, Deserialize)]
enum Report {
    /// From here on, until it lets go, it may have the right to spend a refresh token.
    Claims {
        by: String,
        claimed: Claimant,
    },
    LetsGo {
        by: String,
        claimed: Claimant,
    },
    Loaded {
        by: String,
        user: String,
        at: f64,
        loaded: BTreeMap<String, Outcome>,
    },
    /// The store could not be asked.
    NotLoaded {
        unavailable: bool,
        error: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Claimant {
    user: String,
    provider: String,
    holder: String,
}

impl Claimant {
    fn of(owner: &TokenOwner, provider: &str, claim: &Claim) -> Self {
        Self {
            user: owner.subject().to_owned(),
            provider: provider.to_owned(),
            holder: claim.holder().to_string(),
        }
    }
}

#[derive(Serialize, Deserialize)]
enum Outcome {
    Token(String),
    LoginRequired,
    Failed { unavailable: bool, error: String },
}

fn outcomes(loaded: &LoadedTokens) -> BTreeMap<String, Outcome> {
    let tokens = loaded.tokens().iter().map(|(provider, token)| {
        let token = token.access_token().expose().to_owned();
        (provider.clone(), Outcome::Token(token))
    });
    let login_required = loaded.login_required().keys();
    let login_required = login_required.map(|provider| (provider.clone(), Outcome::LoginRequired));
    let failed = loaded.failed().iter().map(|(provider, error)| {
        let failed = Outcome::Failed {
            unavailable: error.kind() == AuthErrorKind::Unavailable,
            error: error.to_string(),
        };
        (provider.clone(), failed)
    });
    tokens.chain(login_required).chain(failed).collect()
}

/// A store that says when this process may spend a refresh token.
#[derive(Debug)]
struct Watched {
    store: RedisStore,
    reporter: Reporter,
    granted: Mutex<HashMap<(String, String, u64), Claimant>>,
}

#[derive(Clone, Debug)]
struct Reporter {
    id: String,
    url: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Reporter {
    async fn report(&self, report: &Report) {
        let report = serde_json::to_vec(report).unwrap();
        let request = Request::post(&self.url).body(Full::from(report)).unwrap();
        self.client.request(request).await.unwrap();
    }

    async fn claims(&self, claimed: Claimant) {
        let by = self.id.clone();
        self.report(&Report::Claims { by, claimed }).await;
    }

    async fn lets_go(&self, claimed: Claimant) {
        let by = self.id.clone();
        self.report(&Report::LetsGo { by, claimed }).await;
    }
}

impl UpstreamTokenStore for Watched {
    fn load<'a>(
        &'a self,
        owner: &'a TokenOwner,
    ) -> UpstreamFuture<'a, BTreeMap<String, StoredTokens>> {
        self.store.load(owner)
    }

    delegate_to_store!(store);

    fn claim<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        claim: &'a Claim,
    ) -> UpstreamFuture<'a, Claimed> {
        Box::pin(async move {
            let claimant = Claimant::of(owner, provider, claim);
            self.reporter.claims(claimant.clone()).await;
            let claimed = self.store.claim(owner, provider, claim).await;
            match &claimed {
                Ok(Claimed::Granted(lease)) => {
                    let granted = granted(owner, provider, lease);
                    self.granted.lock().unwrap().insert(granted, claimant);
                }
                Ok(_) => self.reporter.lets_go(claimant).await,
                // It may have been granted.
                Err(_) => {}
            }
            claimed
        })
    }

    fn renew<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        lease: &'a Lease,
        time: Duration,
    ) -> UpstreamFuture<'a, bool> {
        self.store.renew(owner, provider, lease, time)
    }

    fn settle<'a>(
        &'a self,
        owner: &'a TokenOwner,
        provider: &'a str,
        lease: &'a Lease,
        settlement: &'a Settlement,
    ) -> UpstreamFuture<'a, bool> {
        Box::pin(async move {
            let settled = self.store.settle(owner, provider, lease, settlement).await;
            if let Ok(true) = settled {
                let granted = granted(owner, provider, lease);
                let claimant = self.granted.lock().unwrap().remove(&granted);
                if let Some(claimant) = claimant {
                    self.reporter.lets_go(claimant).await;
                }
            }
            settled
        })
    }
}

fn granted(owner: &TokenOwner, provider: &str, lease: &Lease) -> (String, String, u64) {
    let user = owner.subject().to_owned();
    (user, provider.to_owned(), lease.fence())
}

/// One of the processes of the test below: loads users, until it is killed.
#[test]
fn replica_process() {
    let Ok(configuration) = env::var(REPLICA) else {
        return;
    };
    let (id, world): (String, World) = serde_json::from_str(&configuration).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let reporter = Reporter {
            id: id.clone(),
            url: world.report.clone(),
            client: Client::builder(TokioExecutor::new()).build_http(),
        };
        let limit = Duration::from_secs(1);
        let store = Watched {
            store: world.store().response_limit(limit).build().unwrap(),
            reporter: reporter.clone(),
            granted: Mutex::default(),
        };
        let upstream = world.upstream(&id, store);
        let request_after_request = (0..5).map(async |_| {
            loop {
                sleep(Duration::from_millis(fastrand::u64(50..150))).await;
                let user = user(fastrand::usize(..USERS));
                let loaded = upstream.load(&owner(&user)).await;
                let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                let report = match &loaded {
                    Ok(loaded) => Report::Loaded {
                        by: id.clone(),
                        user,
                        at: at.as_secs_f64(),
                        loaded: outcomes(loaded),
                    },
                    Err(error) => not_loaded(error),
                };
                reporter.report(&report).await;
            }
        });
        let _: Vec<()> = join_all(request_after_request).await;
    });
}

fn not_loaded(error: &AuthError) -> Report {
    Report::NotLoaded {
        unavailable: error.kind() == AuthErrorKind::Unavailable,
        error: error.to_string(),
    }
}

fn user(number: usize) -> String {
    format!("user-{number}")
}

/// What the test knows of what happened.
#[derive(Default)]
struct Seen {
    tokens: usize,
    failures: BTreeMap<String, usize>,
    troubles: Vec<String>,
    /// Who may have the right to spend the refresh token of a user and provider.
    claimed: HashMap<String, HashSet<Claimant>>,
}

impl Seen {
    fn take(&mut self, report: Report) {
        match report {
            Report::Claims { by, claimed } => {
                self.claimed.entry(by).or_default().insert(claimed);
            }
            Report::LetsGo { by, claimed } => {
                self.claimed.entry(by).or_default().remove(&claimed);
            }
            Report::NotLoaded { unavailable, error } => self.fail(unavailable, error),
            Report::Loaded {
                by,
                user,
                at,
                loaded,
            } => {
                for (provider, outcome) in loaded {
                    match outcome {
                        Outcome::Token(token) => match judge(&token, &user, &provider, at) {
                            Ok(()) => self.tokens += 1,
                            Err(fault) => self.troubles.push(format!("{by}: {fault}")),
                        },
                        Outcome::LoginRequired => self
                            .troubles
                            .push(format!("{by}: {user} has to log in at {provider}")),
                        Outcome::Failed { unavailable, error } => self.fail(unavailable, error),
                    }
                }
            }
        }
    }

    fn fail(&mut self, unavailable: bool, error: String) {
        if unavailable {
            *self.failures.entry(error).or_default() += 1;
        } else {
            self.troubles.push(error);
        }
    }
}

/// Whether a token is the right one, and good.
fn judge(token: &str, user: &str, provider: &str, at: f64) -> Result<(), String> {
    let claims = token.split('.').nth(1).ok_or("it is no JWT")?;
    let claims = URL_SAFE_NO_PAD.decode(claims).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let is_right = claims["sub"] == user && claims["client_id"] == provider;
    // The provider writes whole seconds.
    let is_good = claims["exp"].as_f64().unwrap() + 1.0 > at;
    if is_right && is_good {
        return Ok(());
    }
    Err(format!("at {at}, for {user} at {provider}: {claims}"))
}

struct Replica {
    id: String,
    process: Child,
}

impl Replica {
    fn start(number: usize, world: &World) -> Self {
        let id = format!("replica-{number}");
        let process = Command::new(env::current_exe().unwrap())
            .args(["replica_process", "--exact", "--nocapture"])
            .env(REPLICA, json!([id, world]).to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { id, process }
    }

    fn kill(&mut self) {
        let ended = self.process.try_wait().unwrap();
        assert!(ended.is_none(), "{} ended by itself: {ended:?}", self.id);
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn provider() -> Option<OidcProvider> {
    let client = |id: &str| json!({ "client_id": id, "token_endpoint_auth_method": "none" });
    OidcProvider::start(json!({
        "clients": [client(GENTLE), client(STRICT)],
        "resources": { RESOURCE: { "alg": "ES256", "ttl": LIFETIME.as_secs() } },
        "grace": { GENTLE: GRACE.as_secs() },
        "delay": 60,
    }))
    .await
}

async fn log_in(provider: &OidcProvider, store: &RedisStore, user: &str) {
    for client in [GENTLE, STRICT] {
        let issued_at = SystemTime::now();
        let tokens = provider.log_in(client, user, "openid", RESOURCE).await;
        let tokens = tokens.tokens(issued_at);
        store.put(&owner(user), client, &tokens).await.unwrap();
    }
}

/// Loads each user until all is well again, but for tokens that are in doubt because a replica died with them. Gives those.
async fn in_doubt(
    upstream: &UpstreamTokens,
    died_with: impl Fn(&str, &str) -> bool,
) -> Vec<(String, String)> {
    let loading = (0..USERS).map(async |number| {
        let user = user(number);
        let began = Instant::now();
        loop {
            let loaded = upstream.load(&owner(&user)).await;
            if let Ok(loaded) = &loaded {
                assert!(loaded.login_required().is_empty(), "{user}: {loaded:?}");
                let is_lost = |(provider, error): (&String, &AuthError)| {
                    error.to_string().contains("broken off") && died_with(&user, provider)
                };
                if loaded.failed().iter().all(is_lost) {
                    let failed = loaded.failed().keys();
                    return failed
                        .map(|provider| (user.clone(), provider.clone()))
                        .collect::<Vec<_>>();
                }
            }
            assert!(began.elapsed() < ALL_WELL_AFTER, "{user}: {loaded:?}");
            sleep(Duration::from_millis(50)).await;
        }
    });
    join_all(loading).await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_replicas_that_are_killed_while_redis_fails_over_cost_nobody_a_log_in_that_need_not_be()
 {
    let starting = spawn_blocking(|| SentinelFleet::start(&[]));
    let (Some(provider), Some(fleet)) = (provider().await, starting.await.unwrap()) else {
        return;
    };
    let fleet = Arc::new(fleet);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let server = HttpServer::start({
        let seen = Arc::clone(&seen);
        move |request| {
            let seen = Arc::clone(&seen);
            async move {
                let report = request.into_body().collect().await;
                if let Ok(report) = report {
                    let report = serde_json::from_slice(&report.to_bytes()).unwrap();
                    seen.lock().unwrap().take(report);
                }
                Response::new(server_body(Full::default()))
            }
        }
    })
    .await;
    let world = World {
        sentinels: fleet.sentinel_urls(),
        token_endpoint: provider.token_endpoint(),
        report: server.uri("/report"),
    };
    let patient = world.store().response_limit(Duration::from_secs(10));
    let patient = patient.build().unwrap();
    let users: Vec<_> = (0..USERS).map(user).collect();
    join_all(users.iter().map(|user| log_in(&provider, &patient, user))).await;

    let began = Instant::now();
    let mut replicas: Vec<_> = (0..REPLICAS)
        .map(|number| Replica::start(number, &world))
        .collect();
    let mut started = REPLICAS;
    let failing_over = spawn_blocking({
        let fleet = Arc::clone(&fleet);
        move || {
            let mut number = 0;
            while number < MOST_FAIL_OVERS && began.elapsed() < FAIL_OVERS_FOR {
                std::thread::sleep(BETWEEN_FAIL_OVERS);
                match number % 2 {
                    0 => fleet.fail_over(),
                    _ => fleet.crash_primary(),
                };
                fleet.heal();
                number += 1;
            }
            number
        }
    });
    let mut killed = Vec::new();
    while !failing_over.is_finished() {
        sleep(Duration::from_millis(fastrand::u64(300..900))).await;
        let replica = &mut replicas[fastrand::usize(..REPLICAS)];
        replica.kill();
        killed.push(replica.id.clone());
        *replica = Replica::start(started, &world);
        started += 1;
    }
    let fail_overs = failing_over.await.unwrap();
    let took = began.elapsed();

    let died_with = |user: &str, provider: &str| {
        let claimed = &seen.lock().unwrap().claimed;
        let of_killed = killed.iter().filter_map(|id| claimed.get(id));
        let is_lost = |lost: &Claimant| lost.user == user && lost.provider == provider;
        of_killed.flatten().any(is_lost)
    };
    let in_doubt = in_doubt(&world.upstream("checker", patient), died_with).await;
    for replica in &mut replicas {
        replica.kill();
    }
    let spent = provider.spent().await;
    let refused = ["grant.error", "grant.revoked"];
    let refused = refused.map(|event| provider.count(event, "refresh_token"));
    let refused = join_all(refused).await;
    let mut times = HashMap::<_, usize>::new();
    for spent in &spent {
        let token = (spent["client"].as_str(), spent["refreshToken"].as_str());
        *times.entry(token).or_default() += 1;
    }
    let again = times.values().map(|times| times - 1).sum::<usize>();
    let seen = seen.lock().unwrap();
    println!(
        "{fail_overs} fail-overs in {} s, {} replicas killed, {} tokens handed out, {} refreshes, {again} of them again \
         within the grace period, {} of {USERS} users in doubt",
        took.as_secs(),
        killed.len(),
        seen.tokens,
        spent.len(),
        in_doubt.len(),
    );
    println!("told to try again: {:#?}", seen.failures);
    assert!(seen.troubles.is_empty(), "{:#?}", seen.troubles);
    assert_eq!(refused, [0, 0], "errors and revocations");
    let spent_twice = |(client, _): &(Option<&str>, _)| *client == Some(STRICT);
    let spent_twice = times
        .iter()
        .filter(|(token, times)| spent_twice(token) && **times > 1);
    assert_eq!(spent_twice.count(), 0, "a spent refresh token came again");
    for (user, provider) in &in_doubt {
        assert_eq!(provider, STRICT, "{user}");
    }
    assert!(seen.tokens > 5 * USERS && spent.len() > 2 * USERS);
}
