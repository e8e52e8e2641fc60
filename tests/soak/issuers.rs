//! The token endpoints: what they grant, and how they fail.

use std::{
    collections::HashMap,
    future::pending,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tower::BoxError;

use super::{
    mint::{Claims, Kind},
    realm::{CHAT, Realm, name},
    support::{
        http_server::{HttpServer, ServerBody, server_body},
        issuer::{JWT_BEARER, REFRESH_TOKEN, TOKEN_EXCHANGE},
        sts,
    },
};

pub(crate) const EXCHANGE_AUDIENCE: &str = "backend-exchange";
pub(crate) const ROLE: &str = "arn:aws:iam::123456789012:role/Soak";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// The upstream provider, whose refresh tokens rotate.
    Hub,
    /// Exchanges the user's own token.
    Exchange,
    /// Gives an assertion for an ID token of the hub.
    IdentityProvider,
    /// Gives a token for that assertion.
    AuthorizationServer,
    Sts,
}

impl Role {
    pub(crate) const ALL: [Self; 5] = [
        Self::Hub,
        Self::Exchange,
        Self::IdentityProvider,
        Self::AuthorizationServer,
        Self::Sts,
    ];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outage {
    RefusesConnections,
    Fails,
    Stalls,
    IsSlow,
    LosesAnswers,
}

impl Outage {
    pub(crate) const ALL: [Self; 5] = [
        Self::RefusesConnections,
        Self::Fails,
        Self::Stalls,
        Self::IsSlow,
        Self::LosesAnswers,
    ];
}

pub(crate) struct Issuer {
    pub(crate) role: Role,
    address: SocketAddr,
    server: Mutex<Option<HttpServer>>,
    state: Arc<State>,
}

struct State {
    role: Role,
    realm: Arc<Realm>,
    outage: Mutex<Option<Outage>>,
    arrived: AtomicU64,
    granted: AtomicU64,
    refused: AtomicU64,
}

type Form = HashMap<String, String>;

impl Issuer {
    pub(crate) async fn start(role: Role, realm: Arc<Realm>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            role,
            realm,
            outage: Mutex::default(),
            arrived: AtomicU64::new(0),
            granted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let issuer = Self {
            role,
            address,
            server: Mutex::default(),
            state,
        };
        issuer.listen(listener);
        issuer
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub(crate) fn arrived(&self) -> u64 {
        self.state.arrived.load(Relaxed)
    }

    pub(crate) fn granted(&self) -> u64 {
        self.state.granted.load(Relaxed)
    }

    pub(crate) fn refused(&self) -> u64 {
        self.state.refused.load(Relaxed)
    }

    /// Misbehaves for so long.
    pub(crate) async fn suffer(&self, outage: Outage, for_how_long: Duration) {
        *self.state.outage.lock().unwrap() = Some(outage);
        if outage == Outage::RefusesConnections {
            drop(self.server.lock().unwrap().take());
        }
        sleep(for_how_long).await;
        if outage == Outage::RefusesConnections {
            self.listen_again().await;
        }
        *self.state.outage.lock().unwrap() = None;
    }

    async fn listen_again(&self) {
        // Another process may have been given the port meanwhile.
        loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => return self.listen(listener),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn listen(&self, listener: TcpListener) {
        let state = Arc::clone(&self.state);
        let server = HttpServer::start_on(listener, move |request| {
            let state = Arc::clone(&state);
            async move { state.answer(request).await }
        });
        *self.server.lock().unwrap() = Some(server);
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<ServerBody> {
        self.arrived.fetch_add(1, Relaxed);
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return respond(StatusCode::BAD_REQUEST, "");
        };
        let form: Form = form_urlencoded::parse(&body.to_bytes())
            .into_owned()
            .collect();
        let outage = *self.outage.lock().unwrap();
        match outage {
            Some(Outage::Fails | Outage::RefusesConnections) => {
                let mut response = respond(StatusCode::SERVICE_UNAVAILABLE, "{}");
                let seconds = header::HeaderValue::from_static("5");
                response.headers_mut().insert(header::RETRY_AFTER, seconds);
                return response;
            }
            // It ends with the connection.
            Some(Outage::Stalls) => {
                let _ = timeout(Duration::from_secs(60), pending::<()>()).await;
            }
            Some(Outage::IsSlow) => {
                let milliseconds = self.realm.random().u64(100..1000);
                sleep(Duration::from_millis(milliseconds)).await;
            }
            _ => {}
        }
        let loses_answer = outage == Some(Outage::LosesAnswers);
        let authorization = head.headers.get(header::AUTHORIZATION);
        // `gateway:sesame`
        if self.role != Role::Sts && authorization.is_none_or(|sent| sent != CLIENT) {
            let trouble = format!(
                "{:?} was asked by a client that it does not know",
                self.role
            );
            self.realm.ledger.trouble(trouble);
        }
        let granted = match self.role {
            Role::Hub => self.refresh(&form, loses_answer),
            Role::Exchange => self.exchange(&form),
            Role::IdentityProvider => self.assert(&form),
            Role::AuthorizationServer => self.accept_assertion(&form),
            Role::Sts => self.assume_role(&form),
        };
        let Some(answer) = granted else {
            self.refused.fetch_add(1, Relaxed);
            return match self.role {
                Role::Sts => respond(StatusCode::BAD_REQUEST, EXPIRED_TOKEN),
                _ => respond(StatusCode::BAD_REQUEST, r#"{"error":"invalid_grant"}"#),
            };
        };
        self.granted.fetch_add(1, Relaxed);
        let mut response = respond(StatusCode::OK, answer);
        if loses_answer {
            let broken = stream::iter([Err::<Frame<Bytes>, BoxError>("lost".into())]);
            *response.body_mut() = server_body(StreamBody::new(broken));
        }
        response
    }

    fn refresh(&self, form: &Form, loses_answer: bool) -> Option<String> {
        self.expect(form, "grant_type", REFRESH_TOKEN);
        let issued = self
            .realm
            .refresh(form.get("refresh_token")?, loses_answer)?;
        let answer = json!({
            "token_type": "Bearer",
            "access_token": issued.access_token,
            "refresh_token": issued.refresh_token,
            "id_token": issued.id_token,
            "expires_in": issued.lifetime,
        });
        Some(answer.to_string())
    }

    fn exchange(&self, form: &Form) -> Option<String> {
        self.expect(form, "grant_type", TOKEN_EXCHANGE);
        self.expect(form, "audience", EXCHANGE_AUDIENCE);
        let caller = self.realm.caller(form.get("subject_token")?)?;
        let (expires_in, lifetime) = self.odd_lifetime();
        let token = self.issue(Kind::Exchanged, caller.user, lifetime, caller.expires_at);
        let mut answer = json!({
            "token_type": "Bearer",
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "access_token": token,
        });
        if let Some(expires_in) = expires_in {
            answer["expires_in"] = expires_in;
        }
        Some(answer.to_string())
    }

    fn assert(&self, form: &Form) -> Option<String> {
        self.expect(form, "grant_type", TOKEN_EXCHANGE);
        self.expect(form, "audience", CHAT);
        let id_token = form.get("subject_token")?;
        let id_token = self.realm.mint.open(Kind::UpstreamId, id_token)?;
        if self.realm.is_past(id_token.exp) {
            return None;
        }
        let claims = Claims {
            aud: CHAT.to_owned(),
            serial: self.realm.serial(),
            exp: self.realm.seconds() + 300,
            subject_exp: Some(id_token.exp),
            ..id_token
        };
        let answer = json!({
            "token_type": "N_A",
            "issued_token_type": "urn:ietf:params:oauth:token-type:id-jag",
            "access_token": self.realm.mint.issue(Kind::IdJag, &claims),
            "expires_in": 300,
        });
        Some(answer.to_string())
    }

    fn accept_assertion(&self, form: &Form) -> Option<String> {
        self.expect(form, "grant_type", JWT_BEARER);
        let assertion = form.get("assertion")?;
        let assertion = self.realm.mint.open(Kind::IdJag, assertion)?;
        if self.realm.is_past(assertion.exp) || assertion.aud != CHAT {
            return None;
        }
        let (expires_in, lifetime) = self.odd_lifetime();
        let subject_exp = assertion.subject_exp?;
        let token = self.issue(Kind::CrossApp, assertion.user, lifetime, subject_exp);
        let mut answer = json!({ "token_type": "bearer", "access_token": token });
        if let Some(expires_in) = expires_in {
            answer["expires_in"] = expires_in;
        }
        Some(answer.to_string())
    }

    fn assume_role(&self, form: &Form) -> Option<String> {
        self.expect(form, "Action", "AssumeRoleWithWebIdentity");
        self.expect(form, "RoleArn", ROLE);
        let caller = self.realm.caller(form.get("WebIdentityToken")?)?;
        self.expect(form, "RoleSessionName", &name(caller.user));
        let lifetime = self.realm.random().u64(60..900);
        let (serial, exp) = (self.realm.serial(), self.realm.seconds() + lifetime);
        let session = Claims {
            user: caller.user,
            serial,
            exp,
            subject_exp: Some(caller.expires_at),
            ..Claims::default()
        };
        let session_token = self.realm.mint.issue(Kind::AwsSession, &session);
        let id = access_key_id(serial);
        let secret = self.realm.mint.seal(&id);
        let expires_at = UNIX_EPOCH + Duration::from_secs(exp);
        Some(sts::credentials(&id, &secret, &session_token, expires_at))
    }

    fn issue(&self, kind: Kind, user: usize, lifetime: u64, subject_exp: u64) -> String {
        let claims = Claims {
            user,
            serial: self.realm.serial(),
            exp: self.realm.seconds() + lifetime,
            subject_exp: Some(subject_exp),
            ..Claims::default()
        };
        self.realm.mint.issue(kind, &claims)
    }

    /// An `expires_in` as issuers have them, and how many seconds the token really lives.
    fn odd_lifetime(&self) -> (Option<Value>, u64) {
        let mut random = self.realm.random();
        let lifetime = random.u64(30..900);
        match random.u8(0..20) {
            0 => (None, 3600),
            1 => (Some(Value::Null), 3600),
            2 => (Some(json!(0)), 60),
            3 => (Some(json!(-1)), 60),
            4 => (Some(json!(lifetime as f64)), lifetime),
            5 => (Some(json!(lifetime.to_string())), lifetime),
            _ => (Some(json!(lifetime)), lifetime),
        }
    }

    fn expect(&self, form: &Form, parameter: &str, value: &str) {
        let sent = form.get(parameter).map_or("", String::as_str);
        if sent != value {
            let trouble = format!("{:?} was sent {parameter}={sent}, not {value}", self.role);
            self.realm.ledger.trouble(trouble);
        }
    }
}

pub(crate) fn access_key_id(serial: u64) -> String {
    format!("ASIA{serial:016}")
}

const CLIENT: &str = "Basic Z2F0ZXdheTpzZXNhbWU=";

const EXPIRED_TOKEN: &str = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
     <Code>ExpiredTokenException</Code><Message>no</Message></Error><RequestId>1</RequestId></ErrorResponse>";

fn respond(status: StatusCode, body: impl Into<Bytes>) -> Response<ServerBody> {
    let body = body.into();
    let content_type = match body.first() {
        Some(b'<') => "text/xml",
        _ => "application/json",
    };
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, content_type)
        .body(server_body(Full::from(body)))
        .unwrap()
}
