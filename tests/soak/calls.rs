//! A call of a gateway, and its answer.

use std::{
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use tokio::time::timeout;
use tower::BoxError;
use tower_identity::RedisStore;

use super::{
    backends::{Backend, INJECTED},
    faults::{Faults, Part, parts_behind},
    gateway::{ASTRAY, KIND, SESSION},
    ledger::Ledger,
    passage::HttpClient,
    realm::{Realm, name},
    settings::{AFTERMATH, AFTERMATH_OF_REDIS, ANSWER_LIMIT, Settings},
};

/// What all users share.
pub(crate) struct Town {
    pub(crate) settings: Settings,
    pub(crate) realm: Arc<Realm>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) gateways: [String; 2],
    pub(crate) client: HttpClient,
    pub(crate) store: RedisStore,
    pub(crate) has_ended: AtomicBool,
    /// The newest session of each user at each backend.
    pub(crate) sessions: Vec<Mutex<[Option<Session>; 4]>>,
}

/// A session: at which of the gateways, and its id there.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) gateway: usize,
    pub(crate) id: HeaderValue,
}

#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) backend: Backend,
    pub(crate) method: Method,
    pub(crate) gateway: usize,
    pub(crate) session: Option<HeaderValue>,
    pub(crate) token: String,
    pub(crate) token_ends: SystemTime,
    pub(crate) is_astray: bool,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) kind: Option<String>,
    pub(crate) is_injected: bool,
    pub(crate) session: Option<HeaderValue>,
    pub(crate) body: Bytes,
}

impl Town {
    /// Whether what is broken explains that a call got no credential.
    pub(crate) fn explain(&self, backend: Backend, began: Instant) -> bool {
        let parts = parts_behind(backend);
        self.faults.explain(parts, began, AFTERMATH)
    }

    /// Whether what is broken explains that the validator could not ask the store.
    pub(crate) fn explain_store(&self, began: Instant) -> bool {
        let parts = [Part::Redis];
        self.faults.explain(&parts, began, AFTERMATH_OF_REDIS)
    }

    /// Makes a call, and waits for the answer: there has to be one.
    pub(crate) async fn send(&self, user: usize, call: &Call) -> (Instant, Option<Answer>) {
        self.ledger.count("call: made");
        let began = Instant::now();
        let answer = match timeout(ANSWER_LIMIT, self.ask(user, call)).await {
            Ok(Ok(answer)) => {
                self.ledger.count("call: answered");
                Some(answer)
            }
            Ok(Err(error)) => {
                let trouble = format!("the gateway did not answer {}: {error:?}", name(user));
                self.ledger.trouble(trouble);
                None
            }
            Err(_) => {
                let backend = call.backend;
                let trouble = format!("{} hangs at {backend:?}", name(user));
                self.ledger.trouble(trouble);
                None
            }
        };
        (began, answer)
    }

    pub(crate) async fn ask(&self, user: usize, call: &Call) -> Result<Answer, BoxError> {
        let gateway = &self.gateways[call.gateway];
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{gateway}{}", call.backend.path()))
            .header(AUTHORIZATION, format!("Bearer {}", call.token));
        if let Some(session) = &call.session {
            request = request.header(SESSION, session);
        }
        if call.is_astray {
            request = request.header(ASTRAY, "yes");
        }
        let request = request.body(Full::from(name(user)))?;
        let (head, body) = self.client.request(request).await?.into_parts();
        let text = |name: &str| {
            let value = head.headers.get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        Ok(Answer {
            status: head.status,
            kind: text(KIND.as_str()),
            is_injected: head.headers.contains_key(INJECTED),
            session: head.headers.get(SESSION).cloned(),
            body: body.collect().await?.to_bytes(),
        })
    }
}
