//! AWS STS on loopback: it gives credentials for `AssumeRoleWithWebIdentity`, and remembers whose they are.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use aws_smithy_types::date_time::{DateTime, Format};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tower_identity::Clock;

use super::http_server::{HttpServer, ServerBody, server_body};

/// A running STS. It ends when it is dropped.
pub(crate) struct Sts {
    pub(crate) server: HttpServer,
    state: Arc<Mutex<State>>,
}

struct State {
    clock: Arc<dyn Clock>,
    lifetime: Option<Duration>,
    script: VecDeque<Behaviour>,
    asked: Vec<Asked>,
    sessions: HashMap<String, Session>,
}

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) uri: String,
    pub(crate) headers: HeaderMap,
    pub(crate) form: HashMap<String, String>,
}

/// What was given, and for whom.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) role: String,
    pub(crate) name: String,
    pub(crate) web_identity_token: String,
    pub(crate) secret_access_key: String,
    pub(crate) session_token: String,
    pub(crate) expires_at: SystemTime,
}

pub(crate) enum Behaviour {
    Answer(Response<Bytes>),
    Gate(Arc<Semaphore>),
}

impl Behaviour {
    /// An error of STS, which repeats what it was sent.
    pub(crate) fn error(status: u16, code: &str) -> Self {
        let text = format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
             <Code>{code}</Code><Message>Value 'TOKEN' is wrong</Message></Error>\
             <RequestId>c6104cbe</RequestId></ErrorResponse>"
        );
        Self::body(status, text)
    }

    pub(crate) fn body(status: u16, body: impl Into<Bytes>) -> Self {
        let response = Response::builder()
            .status(status)
            .header("content-type", "text/xml");
        Self::Answer(response.body(body.into()).unwrap())
    }

    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        if let Self::Answer(response) = &mut self {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        self
    }
}

impl Sts {
    pub(crate) async fn start(clock: Arc<dyn Clock>) -> Self {
        let state = Arc::new(Mutex::new(State {
            clock,
            lifetime: None,
            script: VecDeque::new(),
            asked: Vec::new(),
            sessions: HashMap::new(),
        }));
        let shared = state.clone();
        let server = HttpServer::start(move |request| answer(shared.clone(), request)).await;
        Self { server, state }
    }

    pub(crate) fn url(&self) -> String {
        self.server.uri("")
    }

    /// What it does with the next requests.
    pub(crate) fn script(&self, behaviour: impl IntoIterator<Item = Behaviour>) {
        self.state.lock().unwrap().script.extend(behaviour);
    }

    /// How long sessions last, whatever is asked for.
    pub(crate) fn set_lifetime(&self, lifetime: Duration) {
        self.state.lock().unwrap().lifetime = Some(lifetime);
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    pub(crate) fn calls(&self) -> usize {
        self.state.lock().unwrap().asked.len()
    }

    pub(crate) fn session(&self, access_key_id: &str) -> Option<Session> {
        let state = self.state.lock().unwrap();
        state.sessions.get(access_key_id).cloned()
    }

    /// Has one session with these credentials, as if it had been given.
    pub(crate) fn script_credentials(&self, id: &str, secret: &str, token: &str) {
        let now = self.state.lock().unwrap().clock.now();
        let text = credentials(id, secret, token, now + Duration::from_secs(3600));
        self.script([Behaviour::body(200, text)]);
    }
}

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Response<ServerBody> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let form: HashMap<String, String> = form_urlencoded::parse(&body).into_owned().collect();
    let behaviour = {
        let mut state = state.lock().unwrap();
        state.asked.push(Asked {
            uri: head.uri.to_string(),
            headers: head.headers.clone(),
            form: form.clone(),
        });
        state.script.pop_front()
    };
    let token = form.get("WebIdentityToken").cloned().unwrap_or_default();
    match behaviour {
        Some(Behaviour::Answer(response)) => {
            return response.map(|body| {
                let text = String::from_utf8_lossy(&body).replace("TOKEN", &token);
                server_body(Full::from(text))
            });
        }
        Some(Behaviour::Gate(gate)) => gate.acquire().await.unwrap().forget(),
        None => {}
    }
    let is_call = head.method == "POST"
        && head.uri.query().is_none()
        && !head.headers.contains_key("authorization")
        && form
            .get("Action")
            .is_some_and(|action| action == "AssumeRoleWithWebIdentity")
        && form
            .get("Version")
            .is_some_and(|version| version == "2011-06-15");
    assert!(is_call, "{head:?} {form:?}");
    let mut state = state.lock().unwrap();
    let number = state.sessions.len();
    let asked_for = Duration::from_secs(form["DurationSeconds"].parse().unwrap());
    let session = Session {
        role: form["RoleArn"].clone(),
        name: form["RoleSessionName"].clone(),
        web_identity_token: token,
        secret_access_key: format!("hush-secret-{number}"),
        session_token: format!("hush-session-{number}"),
        expires_at: state.clock.now() + state.lifetime.unwrap_or(asked_for),
    };
    let id = format!("ASIA{number:016}");
    let text = credentials(
        &id,
        &session.secret_access_key,
        &session.session_token,
        session.expires_at,
    );
    state.sessions.insert(id, session);
    Response::new(server_body(Full::from(text)))
}

/// The answer that gives these credentials.
pub(crate) fn credentials(id: &str, secret: &str, token: &str, expires_at: SystemTime) -> String {
    let expiration = DateTime::from(expires_at).fmt(Format::DateTime).unwrap();
    format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{id}</AccessKeyId>\
         <SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{token}</SessionToken>\
         <Expiration>{expiration}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
         </AssumeRoleWithWebIdentityResponse>"
    )
}
