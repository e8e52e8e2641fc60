//! Four servers that know from the credential whose it is, and compare that with whom the request is for.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::{net::TcpListener, time::sleep};

use super::{
    issuers::access_key_id,
    mint::{Claims, Kind},
    realm::{Realm, name, number},
    settings::LEEWAY,
    support::{
        http_server::{HttpServer, ServerBody, server_body},
        sigv4::{Arrived, MOST_SERVICES, Signature},
    },
};

/// When the request left, on the fast clock, in milliseconds.
pub(crate) const LEFT_AT: &str = "x-left-at";
/// The answer is a 401 to a good token, or to one that was rejected before.
pub(crate) const INJECTED: &str = "x-injected";

/// How long a user is left in peace after a good token of theirs was rejected: longer than any call takes.
const PEACE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Takes tokens of the upstream provider (`UpstreamInject`).
    Upstream,
    /// Takes exchanged tokens (`TokenExchange`), and revokes some.
    Exchange,
    /// Takes those of its own authorization server (`CrossAppAccess`).
    CrossApp,
    /// Takes signatures (`AwsSts`).
    Aws,
}

impl Backend {
    pub(crate) const ALL: [Self; 4] = [Self::Upstream, Self::Exchange, Self::CrossApp, Self::Aws];

    pub(crate) fn index(self) -> usize {
        self as usize
    }

    pub(crate) fn path(self) -> &'static str {
        ["/upstream", "/exchange", "/cross-app", "/aws"][self.index()]
    }

    pub(crate) fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|backend| backend.path() == path)
    }
}

pub(crate) struct BackendServer {
    pub(crate) server: HttpServer,
}

struct State {
    backend: Backend,
    realm: Arc<Realm>,
    /// For each user when a good token was last rejected, and which.
    rejected: Vec<Mutex<Option<(Instant, u64)>>>,
}

impl BackendServer {
    pub(crate) async fn start(backend: Backend, users: usize, realm: Arc<Realm>) -> Self {
        let state = Arc::new(State {
            backend,
            realm,
            rejected: (0..users).map(|_| Mutex::default()).collect(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = HttpServer::start_on(listener, move |request| {
            let state = Arc::clone(&state);
            async move { state.answer(request).await }
        });
        Self { server }
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<ServerBody> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return respond(StatusCode::BAD_REQUEST, Bytes::new());
        };
        let body = body.to_bytes();
        let for_whom = std::str::from_utf8(&body).ok().and_then(number);
        let backend = self.backend;
        let claims = match self.verified(&head, &body) {
            Ok(claims) => claims,
            Err(fault) => {
                let trouble = format!("{backend:?} was sent, for {for_whom:?}, {fault}");
                self.realm.ledger.trouble(trouble);
                return respond(StatusCode::FORBIDDEN, Bytes::new());
            }
        };
        if for_whom != Some(claims.user) {
            let whose = name(claims.user);
            let trouble = format!("{backend:?} was sent a token of {whose} for {for_whom:?}");
            self.realm.ledger.trouble(trouble);
            return respond(StatusCode::FORBIDDEN, Bytes::new());
        }
        if self.was_rejected(&claims) {
            self.realm
                .ledger
                .count("backend: a rejected token once more");
            return rejection();
        }
        let (is_slow, is_rejected) = {
            let mut random = self.realm.random();
            (random.u8(..) < 6, random.u8(..) < 4)
        };
        if is_slow {
            let milliseconds = self.realm.random().u64(20..400);
            sleep(Duration::from_millis(milliseconds)).await;
        }
        if is_rejected && self.rejects(&claims) {
            self.realm.ledger.count("backend: 401 for a good token");
            return rejection();
        }
        self.realm.ledger.count("backend: served");
        respond(StatusCode::OK, body)
    }

    /// Whose credential it is, or what is wrong with it.
    fn verified(&self, head: &Parts, body: &[u8]) -> Result<Claims, String> {
        let mint = &self.realm.mint;
        let claims = match self.backend {
            Backend::Upstream => mint.open(Kind::UpstreamAccess, bearer(&head.headers)?),
            Backend::Exchange => mint.open(Kind::Exchanged, bearer(&head.headers)?),
            Backend::CrossApp => mint.open(Kind::CrossApp, bearer(&head.headers)?),
            Backend::Aws => Some(self.signer(head, body)?),
        };
        let claims = claims.ok_or("a token that was not issued for it")?;
        let left_at = one(&head.headers, LEFT_AT)?;
        let left_at: u64 = left_at.parse().map_err(|_| "a time that is none")?;
        let leeway = LEEWAY.as_secs();
        let is_past = |end: u64| (end + leeway) * 1000 < left_at;
        if is_past(claims.exp) {
            let late = left_at / 1000 - claims.exp;
            return Err(format!("a token that had expired {late} s before it left"));
        }
        if claims.subject_exp.is_some_and(is_past) {
            return Err("a token whose subject token had expired".to_owned());
        }
        Ok(claims)
    }

    fn signer(&self, head: &Parts, body: &[u8]) -> Result<Claims, String> {
        let session_token = one(&head.headers, "x-amz-security-token")?;
        let session = self.realm.mint.open(Kind::AwsSession, session_token);
        let session = session.ok_or("a session token that STS did not issue")?;
        one(&head.headers, "authorization")?;
        one(&head.headers, "x-amz-date")?;
        let signature = Signature::of(&head.headers);
        let id = access_key_id(session.serial);
        let arrived = Arrived {
            method: head.method.clone(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers: head.headers.clone(),
            body: body.to_vec(),
        };
        let secret = self.realm.mint.seal(&id);
        if signature.access_key_id != id || !signature.is_by(&secret, &arrived, MOST_SERVICES) {
            return Err("a signature that is not the session's".to_owned());
        }
        Ok(session)
    }

    fn was_rejected(&self, claims: &Claims) -> bool {
        let rejected = self.rejected[claims.user].lock().unwrap();
        let is_this = rejected.is_some_and(|(_, serial)| serial == claims.serial);
        self.backend == Backend::Exchange && is_this
    }

    fn rejects(&self, claims: &Claims) -> bool {
        let is_stormy = self
            .realm
            .is_stormy
            .load(std::sync::atomic::Ordering::Relaxed);
        let mut rejected = self.rejected[claims.user].lock().unwrap();
        let is_in_peace = rejected.is_some_and(|(when, _)| when.elapsed() < PEACE);
        if !is_stormy || is_in_peace {
            return false;
        }
        *rejected = Some((Instant::now(), claims.serial));
        true
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, String> {
    let value = one(headers, "authorization")?;
    let token = value.strip_prefix("Bearer ");
    token.ok_or_else(|| "an authorization that is no bearer token".to_owned())
}

fn one<'a>(headers: &'a HeaderMap, header: &str) -> Result<&'a str, String> {
    let mut values = headers.get_all(header).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| format!("an odd {header}")),
        (None, _) => Err(format!("no {header}")),
        (Some(_), Some(_)) => Err(format!("{header} twice")),
    }
}

fn rejection() -> Response<ServerBody> {
    let mut response = respond(StatusCode::UNAUTHORIZED, Bytes::new());
    let yes = header::HeaderValue::from_static("yes");
    response.headers_mut().insert(INJECTED, yes);
    response
}

fn respond(status: StatusCode, body: Bytes) -> Response<ServerBody> {
    let mut response = Response::new(server_body(Full::from(body)));
    *response.status_mut() = status;
    response
}
