//! An OAuth token endpoint on 127.0.0.1 that checks what it is sent, and misbehaves when it is told to.
//!
//! Unless something else was scripted it validates a request as RFC 6749 and RFC 8693 have it, answers what is wrong with
//! the right error code, and mints `exchanged-for-<subject>-<audience>-<n>` (or the like for another grant).

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};
use tower::BoxError;

pub(crate) const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
pub(crate) const CLIENT_CREDENTIALS: &str = "client_credentials";
pub(crate) const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
pub(crate) const REFRESH_TOKEN: &str = "refresh_token";

const TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:";

/// A running issuer. It stops when it is dropped.
pub(crate) struct Issuer {
    authority: String,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

/// Which client the issuer knows, and how it authenticates.
#[derive(Clone, Debug)]
pub(crate) enum Client {
    /// Whoever it is.
    Anyone,
    Public {
        id: String,
    },
    Basic {
        id: String,
        secret: String,
    },
    Post {
        id: String,
        secret: String,
    },
    /// The test verifies the assertion itself.
    Assertion {
        id: String,
    },
}

struct State {
    client: Client,
    subjects: HashMap<String, String>,
    allowed_scopes: Option<Vec<String>>,
    lifetime: Value,
    script: VecDeque<Behaviour>,
    requests: Vec<Received>,
    minted: usize,
    chunks: usize,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) uri: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) form: Vec<(String, String)>,
    /// Whom the subject token, refresh token or assertion stands for, where the issuer knows.
    pub(crate) subject: Option<String>,
}

impl Received {
    /// All values of a parameter, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.form.iter().filter(|(key, _)| key == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a parameter; one that is there twice is not there.
    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        match self.all(name)[..] {
            [value] => Some(value),
            _ => None,
        }
    }
}

/// What the issuer does with one request.
pub(crate) struct Behaviour {
    gate: Gate,
    answer: Answer,
}

enum Gate {
    Open,
    Delay(Duration),
    Permit(Arc<Semaphore>),
}

enum Answer {
    Mint,
    Respond(Response<Bytes>),
    /// `chunk`, `pause`, `chunk`, `pause`, … without an end.
    Endless {
        headers: HeaderMap,
        chunk: Bytes,
        pause: Duration,
    },
    Close,
    Hang,
}

impl Behaviour {
    /// What it does without a script.
    pub(crate) fn mint() -> Self {
        Answer::Mint.into()
    }

    /// This status and this body, whatever it is, as JSON.
    pub(crate) fn body(status: u16, body: impl Into<Bytes>) -> Self {
        let mut response = Response::new(body.into());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        Answer::Respond(response).into()
    }

    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::body(status, body.to_string())
    }

    /// An error answer (RFC 6749 §5.2).
    pub(crate) fn error(status: u16, code: &str) -> Self {
        Self::json(
            status,
            &json!({ "error": code, "error_description": "said by the issuer" }),
        )
    }

    /// A whole answer, as it is.
    pub(crate) fn respond(response: Response<Bytes>) -> Self {
        Answer::Respond(response).into()
    }

    /// `chunk` again and again, with a pause after each, and no end.
    pub(crate) fn endless(chunk: impl Into<Bytes>, pause: Duration) -> Self {
        let (headers, chunk) = (HeaderMap::new(), chunk.into());
        let answer = Answer::Endless {
            headers,
            chunk,
            pause,
        };
        answer.into()
    }

    /// Closes the connection without an answer.
    pub(crate) fn close() -> Self {
        Answer::Close.into()
    }

    /// Takes the request and never answers.
    pub(crate) fn hang() -> Self {
        Answer::Hang.into()
    }

    /// Sets a header of the answer.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        let headers = match &mut self.answer {
            Answer::Respond(response) => response.headers_mut(),
            Answer::Endless { headers, .. } => headers,
            Answer::Mint | Answer::Close | Answer::Hang => panic!("it has no headers to set"),
        };
        let value = HeaderValue::from_str(value).unwrap();
        headers.insert(HeaderName::from_static(name), value);
        self
    }

    /// Waits before.
    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.gate = Gate::Delay(delay);
        self
    }

    /// Waits for a permit before, and takes it.
    pub(crate) fn with_permit_of(mut self, permits: &Arc<Semaphore>) -> Self {
        self.gate = Gate::Permit(permits.clone());
        self
    }
}

impl From<Answer> for Behaviour {
    fn from(answer: Answer) -> Self {
        let gate = Gate::Open;
        Self { gate, answer }
    }
}

impl Issuer {
    /// Starts an issuer that knows no subject token, and any client.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State {
            client: Client::Anyone,
            subjects: HashMap::new(),
            allowed_scopes: None,
            lifetime: json!(3600),
            script: VecDeque::new(),
            requests: Vec::new(),
            minted: 0,
            chunks: 0,
        }));
        let server = tokio::spawn(serve(listener, state.clone()));
        Self {
            authority,
            state,
            server,
        }
    }

    /// The URL of its token endpoint.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/token", self.authority)
    }

    /// Requires this client, authenticated in this way and no other.
    pub(crate) fn require(&self, client: Client) -> &Self {
        self.state().client = client;
        self
    }

    /// Makes a subject token, actor token, refresh token or assertion known, and whom it stands for.
    pub(crate) fn know(&self, token: &str, subject: &str) -> &Self {
        let known = self.state().subjects.insert(token.into(), subject.into());
        assert!(known.is_none(), "a token stands for one subject");
        self
    }

    /// Makes a token unknown again: revoked, or expired.
    pub(crate) fn forget(&self, token: &str) -> &Self {
        self.state().subjects.remove(token);
        self
    }

    /// Allows these scopes, and no others.
    pub(crate) fn allow_scopes(&self, scopes: &[&str]) -> &Self {
        self.state().allowed_scopes = Some(scopes.iter().map(|&scope| scope.into()).collect());
        self
    }

    /// Sets the `expires_in` of what is minted from now on; 3600 at first.
    pub(crate) fn expires_in(&self, lifetime: impl Into<Value>) -> &Self {
        self.state().lifetime = lifetime.into();
        self
    }

    /// Does this with the next request that has nothing scripted for it yet.
    pub(crate) fn next(&self, behaviour: Behaviour) -> &Self {
        self.state().script.push_back(behaviour);
        self
    }

    /// All requests so far, in order.
    pub(crate) fn requests(&self) -> Vec<Received> {
        self.state().requests.clone()
    }

    /// The one request so far.
    pub(crate) fn request(&self) -> Received {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }

    /// How many chunks of endless answers have been taken off it.
    pub(crate) fn chunks(&self) -> usize {
        self.state().chunks
    }

    /// How many requests there were with this grant for this subject.
    pub(crate) fn count(&self, grant_type: &str, subject: Option<&str>) -> usize {
        let requests = self.requests();
        let same = |request: &&Received| {
            request.one("grant_type") == Some(grant_type) && request.subject.as_deref() == subject
        };
        requests.iter().filter(same).count()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = state.clone();
        let service = service_fn(move |request| answer(state.clone(), request));
        // A client that hangs up is no fault of the issuer.
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, BoxError> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let form = form_urlencoded::parse(&body).into_owned().collect();
    let mut received = Received {
        uri: head.uri.to_string(),
        headers: head.headers,
        body,
        form,
        subject: None,
    };
    let (behaviour, minted) = {
        let mut state = state.lock().unwrap();
        received.subject = state.subject_of(&received);
        state.requests.push(received.clone());
        match state.script.pop_front() {
            Some(behaviour) if !matches!(behaviour.answer, Answer::Mint) => (behaviour, None),
            scripted => {
                let right_target = head.method == http::Method::POST && head.uri == "/token";
                let minted = match right_target {
                    true => state.mint(&received),
                    false => Err((404, "not_found")),
                };
                (scripted.unwrap_or_else(Behaviour::mint), Some(minted))
            }
        }
    };
    match behaviour.gate {
        Gate::Open => {}
        Gate::Delay(delay) => tokio::time::sleep(delay).await,
        Gate::Permit(permits) => permits.acquire().await?.forget(),
    }
    match behaviour.answer {
        Answer::Mint => {
            let (status, body) = match minted.expect("minted above") {
                Ok(token) => (200, token),
                Err((status, code)) => (status, json!({ "error": code })),
            };
            let response = Response::builder()
                .status(status)
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::CACHE_CONTROL, "no-store")
                .body(Full::from(body.to_string()).boxed_unsync())?;
            Ok(response)
        }
        Answer::Respond(response) => Ok(response.map(|body| Full::new(body).boxed_unsync())),
        Answer::Endless {
            headers,
            chunk,
            pause,
        } => {
            let chunks = stream::unfold((), move |()| {
                let chunk = chunk.clone();
                state.lock().unwrap().chunks += 1;
                async move {
                    tokio::time::sleep(pause).await;
                    Some((Ok(Frame::data(chunk)), ()))
                }
            });
            let mut response = Response::new(StreamBody::new(chunks).boxed_unsync());
            *response.headers_mut() = headers;
            Ok(response)
        }
        Answer::Close => Err("closed, as scripted".into()),
        Answer::Hang => pending().await,
    }
}

impl State {
    fn subject_of(&self, request: &Received) -> Option<String> {
        let token = match request.one("grant_type")? {
            TOKEN_EXCHANGE => request.one("subject_token")?,
            JWT_BEARER => request.one("assertion")?,
            REFRESH_TOKEN => request.one("refresh_token")?,
            _ => return None,
        };
        self.subjects.get(token).cloned()
    }

    /// Validates the request, and mints a token for it.
    fn mint(&mut self, request: &Received) -> Result<Value, (u16, &'static str)> {
        let content_type = request.headers.get(header::CONTENT_TYPE);
        let accept = request.headers.get(header::ACCEPT);
        if content_type.is_none_or(|value| value != "application/x-www-form-urlencoded")
            || accept.is_none_or(|value| value != "application/json")
        {
            return Err((400, "invalid_request"));
        }
        for (name, value) in &request.form {
            let repeatable = name == "audience" || name == "resource";
            if value.is_empty() || (!repeatable && request.one(name).is_none()) {
                return Err((400, "invalid_request"));
            }
        }
        self.check_client(request)?;
        let scope = request.one("scope");
        if let (Some(allowed), Some(scope)) = (&self.allowed_scopes, scope)
            && !scope.split(' ').all(|one| allowed.iter().any(|a| a == one))
        {
            return Err((400, "invalid_scope"));
        }

        let grant_type = request.one("grant_type").ok_or((400, "invalid_request"))?;
        let audience = match request.all("audience")[..] {
            [] => "any".to_owned(),
            ref audiences => audiences.join("+"),
        };
        let known = request.subject.clone();
        let number = self.minted + 1;
        let mut answer = json!({ "token_type": "Bearer" });
        let token = match grant_type {
            TOKEN_EXCHANGE => {
                // RFC 8693 §2.1: a token comes with its type; §2.2.2: what is not accepted is an invalid request.
                let subject = known.ok_or((400, "invalid_request"))?;
                let is_typed = |token: &str, token_type: &str| {
                    request.one(token).is_some() == request.one(token_type).is_some()
                };
                if !is_typed("subject_token", "subject_token_type")
                    || !is_typed("actor_token", "actor_token_type")
                {
                    return Err((400, "invalid_request"));
                }
                let actor = request.one("actor_token");
                if actor.is_some_and(|actor| !self.subjects.contains_key(actor)) {
                    return Err((400, "invalid_request"));
                }
                let access_token = format!("{TOKEN_TYPE}access_token");
                let issued = request.one("requested_token_type").unwrap_or(&access_token);
                if issued != access_token && issued != format!("{TOKEN_TYPE}jwt") {
                    answer["token_type"] = json!("N_A");
                }
                answer["issued_token_type"] = json!(issued);
                format!("exchanged-for-{subject}-{audience}-{number}")
            }
            CLIENT_CREDENTIALS => format!("issued-to-client-{audience}-{number}"),
            JWT_BEARER => {
                let subject = known.ok_or((400, "invalid_grant"))?;
                format!("issued-for-{subject}-{number}")
            }
            REFRESH_TOKEN => {
                let subject = known.ok_or((400, "invalid_grant"))?;
                format!("refreshed-for-{subject}-{number}")
            }
            _ => return Err((400, "unsupported_grant_type")),
        };
        self.minted = number;
        answer["access_token"] = json!(token);
        answer["expires_in"] = self.lifetime.clone();
        if let Some(scope) = scope {
            answer["scope"] = json!(scope);
        }
        Ok(answer)
    }

    fn check_client(&self, request: &Received) -> Result<(), (u16, &'static str)> {
        use base64::{Engine, engine::general_purpose::STANDARD};

        let sent = (
            request.one("client_id"),
            request.one("client_secret"),
            request.one("client_assertion"),
        );
        let basic = request.headers.get(header::AUTHORIZATION).map(|value| {
            let encoded = value.to_str().ok()?.strip_prefix("Basic ")?;
            let pair = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
            let (id, secret) = pair.split_once(':')?;
            Some((form_decoded(id), form_decoded(secret)))
        });
        let is_right = match (&self.client, basic, sent) {
            (Client::Anyone, ..) => true,
            (Client::Public { id }, None, (Some(sent), None, None)) => id == sent,
            (Client::Basic { id, secret }, Some(Some(basic)), (None, None, None)) => {
                basic == (id.clone(), secret.clone())
            }
            (Client::Post { id, secret }, None, (Some(sent), Some(password), None)) => {
                (id.as_str(), secret.as_str()) == (sent, password)
            }
            (Client::Assertion { id }, None, (Some(sent), None, Some(_))) => {
                let jwt_bearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                id == sent && request.one("client_assertion_type") == Some(jwt_bearer)
            }
            _ => false,
        };
        if is_right {
            Ok(())
        } else {
            Err((401, "invalid_client"))
        }
    }
}

fn form_decoded(text: &str) -> String {
    let pair = format!("x={text}");
    let mut pairs = form_urlencoded::parse(pair.as_bytes());
    pairs.next().unwrap().1.into_owned()
}
