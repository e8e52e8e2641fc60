//! The users: what they ask for, and what they take for an answer.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use http::{Method, StatusCode};
use tokio::time::{sleep, timeout};
use tower_identity::{UpstreamTokenStore, upstream::TokenOwner};

use super::{
    backends::Backend,
    calls::{Answer, Call, Session, Town},
    faults::{Part, parts_behind},
    issuers::Role,
    realm::{UserToken, name},
};

/// How long a user's own token is good for at least when a call begins: longer than one takes that waits for nothing.
const SHORTEST_REST: Duration = Duration::from_secs(60);

/// How many calls a user makes on the average when they come.
const CALLS_OF_A_VISIT: f64 = 2.7;

pub(crate) struct User {
    town: Arc<Town>,
    number: usize,
    random: fastrand::Rng,
    token: UserToken,
    /// Names the upstream tokens of the user at the gateways' store.
    log_in: String,
    log_ins: u64,
}

impl User {
    pub(crate) async fn arrive(town: Arc<Town>, number: usize) -> Self {
        let mut user = Self {
            random: town.settings.random(100 + number as u64),
            token: town.realm.user_token(number, "none yet", Duration::ZERO),
            town,
            number,
            log_in: String::new(),
            log_ins: 0,
        };
        user.log_in().await;
        user
    }

    /// Comes and goes until the end.
    pub(crate) async fn live(mut self) -> Self {
        let town = Arc::clone(&self.town);
        let mean = town.settings.users as f64 * CALLS_OF_A_VISIT / town.settings.rate;
        while !town.has_ended.load(Relaxed) {
            sleep(Duration::from_secs_f64(mean * 2.0 * self.random.f64())).await;
            if town.has_ended.load(Relaxed) {
                break;
            }
            self.renew_token();
            match self.random.u8(0..100) {
                0..3 => self.come_with_a_bad_token().await,
                3..5 => self.intrude().await,
                5..7 => self.go_astray().await,
                7..13 => self.give_up().await,
                13..20 => self.tear_down().await,
                20..26 => self.call_at_once().await,
                _ => self.visit().await,
            }
        }
        self
    }

    /// Calls every backend, now that nothing is broken: each has to serve, after a log-in where one is due.
    pub(crate) async fn prove_access(&mut self) {
        for backend in Backend::ALL {
            for attempt in 0..2 {
                self.renew_token();
                let call = self.call(backend);
                let status = self.make(call).await;
                if status == Some(StatusCode::OK) {
                    self.town.ledger.count("at the end: served");
                    break;
                }
                if attempt == 1 {
                    let user = name(self.number);
                    let trouble = format!("{user} does not get into {backend:?}: {status:?}");
                    self.town.ledger.trouble(trouble);
                }
            }
        }
    }

    async fn log_in(&mut self) {
        let town = &self.town;
        let old = std::mem::take(&mut self.log_in);
        self.log_ins += 1;
        self.log_in = format!("{}-log-in-{}", name(self.number), self.log_ins);
        let tokens = town.realm.log_in(self.number);
        let user = TokenOwner::new(town.realm.keys().issuer(), name(self.number)).unwrap();
        let owner = user.clone().with_session(&self.log_in);
        while town.store.put(&owner, "hub", &tokens).await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
        if !old.is_empty() {
            town.ledger.count("log-in: once more");
            let _ = town.store.remove(&user.with_session(old)).await;
        }
        self.new_token();
    }

    fn renew_token(&mut self) {
        if self.token.expires_at < self.town.realm.now() + SHORTEST_REST {
            self.new_token();
        }
    }

    fn new_token(&mut self) {
        let lifetime = Duration::from_secs(self.random.u64(200..1500));
        let realm = &self.town.realm;
        self.token = realm.user_token(self.number, &self.log_in, lifetime);
    }

    fn call(&mut self, backend: Backend) -> Call {
        let session = self.town.sessions[self.number].lock().unwrap()[backend.index()].clone();
        let gateway = match &session {
            Some(session) => session.gateway,
            None => self.random.usize(0..2),
        };
        Call {
            backend,
            method: Method::POST,
            gateway,
            session: session.map(|session| session.id),
            token: self.token.text.clone(),
            token_ends: self.token.expires_at,
            is_astray: false,
        }
    }

    fn any_call(&mut self) -> Call {
        let backend = self.random.choice(Backend::ALL).unwrap();
        self.call(backend)
    }

    /// A few calls in a row: the credential of the first is at hand for the others.
    async fn visit(&mut self) {
        let backend = self.random.choice(Backend::ALL).unwrap();
        for _ in 0..self.random.usize(1..6) {
            self.renew_token();
            let call = self.call(backend);
            self.make(call).await;
            sleep(Duration::from_millis(self.random.u64(10..200))).await;
        }
    }

    /// Several calls with the same credential, or for want of the same.
    async fn call_at_once(&mut self) {
        let call = self.any_call();
        let calls = (0..self.random.usize(2..6)).map(|_| self.town.send(self.number, &call));
        let answers = join_all(calls).await;
        let mut has_to_log_in = false;
        for (began, answer) in answers {
            has_to_log_in |= self.judge(&call, began, &answer);
            self.keep_session(&call, &answer);
        }
        if has_to_log_in {
            self.log_in().await;
        }
    }

    async fn make(&mut self, call: Call) -> Option<StatusCode> {
        let (began, answer) = self.town.send(self.number, &call).await;
        self.keep_session(&call, &answer);
        if self.judge(&call, began, &answer) {
            self.log_in().await;
        }
        answer.map(|answer| answer.status)
    }

    async fn give_up(&mut self) {
        let call = self.any_call();
        let patience = Duration::from_micros(self.random.u64(0..30_000));
        self.town.ledger.count("call: made");
        match timeout(patience, self.town.ask(self.number, &call)).await {
            Ok(_) => self
                .town
                .ledger
                .count("call: answered before it was given up"),
            Err(_) => self.town.ledger.count("call: given up"),
        }
    }

    /// Closes a session. Its last request is sent by the gateway, for nobody.
    async fn tear_down(&mut self) {
        let call = self.any_call();
        if call.session.is_none() {
            return;
        }
        let method = Method::DELETE;
        self.make(Call { method, ..call }).await;
    }

    async fn come_with_a_bad_token(&mut self) {
        let mut call = self.any_call();
        call.token = match self.random.u8(0..3) {
            0 => "no-token".to_owned(),
            1 => format!("{}x", call.token),
            _ => {
                let realm = &self.town.realm;
                let expired = realm.now() - Duration::from_secs(400);
                realm
                    .user_token_until(self.number, &self.log_in, expired)
                    .text
            }
        };
        let (_, answer) = self.town.send(self.number, &call).await;
        self.expect_refusal("bad token", &answer, |answer| {
            answer.status == StatusCode::UNAUTHORIZED && answer.kind.is_none()
        });
    }

    /// Uses the session of somebody else.
    async fn intrude(&mut self) {
        let victim = self.random.usize(0..self.town.settings.users);
        let mut call = self.any_call();
        let session = self.town.sessions[victim].lock().unwrap()[call.backend.index()].clone();
        let Some(session) = session.filter(|_| victim != self.number) else {
            return;
        };
        call.gateway = session.gateway;
        call.session = Some(session.id);
        let (began, answer) = self.town.send(self.number, &call).await;
        if self.is_turned_away(&call, began, &answer) {
            return;
        }
        self.expect_refusal("another's session", &answer, |answer| {
            answer.kind.as_deref() == Some("insufficient_scope")
                || (answer.status == StatusCode::NOT_FOUND && answer.kind.is_none())
        });
    }

    async fn go_astray(&mut self) {
        let mut call = self.any_call();
        call.is_astray = true;
        let (began, answer) = self.town.send(self.number, &call).await;
        self.keep_session(&call, &answer);
        if self.is_turned_away(&call, began, &answer) {
            return;
        }
        self.expect_refusal("astray", &answer, |answer| {
            answer.kind.as_deref() == Some("wrong_origin") || answer.status == StatusCode::NOT_FOUND
        });
    }

    /// Whether the validator itself did not let the caller in, with reason.
    fn is_turned_away(&self, call: &Call, began: Instant, answer: &Option<Answer>) -> bool {
        let has_reason = |answer: &Answer| match answer.status {
            StatusCode::UNAUTHORIZED => self.town.realm.has_to_log_in(self.number),
            StatusCode::SERVICE_UNAVAILABLE => self.town.explain_store(began),
            _ => false,
        };
        let answer = answer.as_ref().filter(|answer| answer.kind.is_none());
        let is_turned_away = answer.is_some_and(has_reason);
        if is_turned_away {
            let backend = call.backend;
            let what = format!("call: {backend:?} was not reached, for a reason");
            self.town.ledger.count(&what);
        }
        is_turned_away
    }

    fn expect_refusal(
        &self,
        what: &str,
        answer: &Option<Answer>,
        is_right: impl Fn(&Answer) -> bool,
    ) {
        if answer.as_ref().is_some_and(is_right) {
            self.town.ledger.count(&format!("refused: {what}"));
        } else if let Some(answer) = answer {
            let (status, kind) = (answer.status, &answer.kind);
            let trouble = format!("{what} of {} got {status} {kind:?}", name(self.number));
            self.town.ledger.trouble(trouble);
        }
    }

    fn keep_session(&self, call: &Call, answer: &Option<Answer>) {
        let Some(answer) = answer else {
            return;
        };
        let is_gone = call.method == Method::DELETE
            || (answer.status == StatusCode::NOT_FOUND && answer.kind.is_none());
        let mut sessions = self.town.sessions[self.number].lock().unwrap();
        let session = &mut sessions[call.backend.index()];
        if is_gone {
            *session = None;
        } else if let Some(id) = &answer.session {
            let (gateway, id) = (call.gateway, id.clone());
            *session = Some(Session { gateway, id });
        }
    }

    /// Takes the answer for what it is. Returns whether the user has to log in again.
    fn judge(&self, call: &Call, began: Instant, answer: &Option<Answer>) -> bool {
        let Some(answer) = answer else {
            return false;
        };
        let town = &*self.town;
        let (status, kind) = (answer.status, answer.kind.as_deref());
        let (backend, closes) = (call.backend, call.method == Method::DELETE);
        let uses_hub = parts_behind(backend).contains(&Part::Issuer(Role::Hub));
        let own_token_ended = town.realm.now() >= call.token_ends;
        let is_user = answer.body == name(self.number);
        let (what, is_right) = match (status, kind) {
            (StatusCode::OK, None) => ("200", is_user),
            // It is sent once more with another token, if the issuer gives one.
            (StatusCode::UNAUTHORIZED, None) if answer.is_injected => {
                let is_right = backend != Backend::Exchange || town.explain(backend, began);
                ("401 of the backend", is_right)
            }
            (StatusCode::UNAUTHORIZED, None) => {
                ("log-in needed", town.realm.has_to_log_in(self.number))
            }
            (StatusCode::SERVICE_UNAVAILABLE, None) => {
                ("503 of the gateway", town.explain_store(began))
            }
            // Another call of the same user opened a session after this one's, or closed it.
            (StatusCode::NOT_FOUND, None) => ("no such session", call.session.is_some()),
            // What the session saw last may have ended since, or have come when the hub was down.
            (_, Some("expired")) if closes => ("expired at the teardown", true),
            (_, Some("unavailable")) if closes && uses_hub => ("unavailable at the teardown", true),
            (_, Some("unavailable")) => ("unavailable", town.explain(backend, began)),
            (_, Some("expired")) if uses_hub => ("expired", town.explain(backend, began)),
            (_, Some("expired")) => ("expired", own_token_ended),
            _ => ("something else", false),
        };
        town.ledger.count(&format!("{backend:?}: {what}"));
        if !is_right {
            let (user, body) = (name(self.number), &answer.body);
            town.ledger.trouble(format!(
                "{user} called {backend:?} ({} {:?}), and was answered {status} {kind:?} {body:?} after {:?}",
                call.method,
                call.session,
                began.elapsed()
            ));
        }
        what == "log-in needed"
    }
}
