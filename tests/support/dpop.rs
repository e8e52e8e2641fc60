//! A token endpoint in the process that answers as it is told to and keeps the requests, and proofs as jose reads them.

use std::{
    collections::VecDeque,
    process::Command,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::{BoxError, util::BoxCloneSyncService};
use tower_identity::{
    TokenEndpoint,
    oauth::{DpopKeys, TokenEndpointBuilder, TokenRequest},
};

use super::peers;

pub(crate) const URL: &str = "https://idp.example.com/token";

type Answer = Response<Full<Bytes>>;

/// What the endpoint was asked, and what it answers next. Without a script it issues a bound token.
#[derive(Clone, Default)]
pub(crate) struct Asked {
    requests: Arc<Mutex<Vec<Request<Bytes>>>>,
    script: Arc<Mutex<VecDeque<Answer>>>,
}

impl Asked {
    pub(crate) fn endpoint(&self, url: &str) -> TokenEndpointBuilder {
        let asked = self.clone();
        let client = tower::service_fn(move |request: Request<Full<Bytes>>| {
            let asked = asked.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let request = Request::from_parts(head, body);
                asked.requests.lock().unwrap().push(request);
                let next = asked.script.lock().unwrap().pop_front();
                Ok::<_, BoxError>(next.unwrap_or_else(|| issued("DPoP")))
            }
        });
        TokenEndpoint::builder(url, BoxCloneSyncService::new(client))
    }

    pub(crate) fn answer(&self, answer: Answer) -> &Self {
        self.script.lock().unwrap().push_back(answer);
        self
    }

    pub(crate) fn requests(&self) -> Vec<Request<Bytes>> {
        let requests = self.requests.lock().unwrap();
        let copy = |request: &Request<Bytes>| {
            let mut copy = Request::new(request.body().clone());
            *copy.headers_mut() = request.headers().clone();
            *copy.uri_mut() = request.uri().clone();
            copy
        };
        requests.iter().map(copy).collect()
    }

    /// The proofs of all requests, which have one each.
    pub(crate) fn proofs(&self) -> Vec<String> {
        let requests = self.requests();
        let requests = requests.iter();
        let proof = |request: &Request<Bytes>| {
            let mut proofs = request.headers().get_all("dpop").iter();
            let proof = proofs.next().expect("a request has no proof");
            assert!(proofs.next().is_none(), "a request has two proofs");
            assert!(proof.is_sensitive());
            proof.to_str().unwrap().to_owned()
        };
        requests.map(proof).collect()
    }
}

/// A success with a token of this type.
pub(crate) fn issued(token_type: &str) -> Answer {
    let body = json!({ "access_token": "bound", "token_type": token_type, "expires_in": 60 });
    json_answer(200, &body)
}

/// A refusal with this code, and the nonces in its headers.
pub(crate) fn refused(status: u16, code: &str, nonces: &[&[u8]]) -> Answer {
    let mut answer = json_answer(status, &json!({ "error": code }));
    for nonce in nonces {
        let nonce = HeaderValue::from_bytes(nonce).unwrap();
        answer.headers_mut().append("dpop-nonce", nonce);
    }
    answer
}

pub(crate) fn json_answer(status: u16, body: &Value) -> Answer {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Full::from(body.to_string()))
        .unwrap()
}

/// A proof of these keys for the token endpoint at this URL.
pub(crate) async fn proof_for(keys: impl Into<DpopKeys>, url: &str) -> String {
    let asked = Asked::default();
    let endpoint = asked.endpoint(url).dpop(keys).build().unwrap();
    let request = TokenRequest::client_credentials();
    endpoint.request_token(request).await.unwrap();
    asked.proofs().remove(0)
}

/// A part of a JWT, without a look at its signature.
pub(crate) fn part(jwt: &str, index: usize) -> Value {
    let part = jwt.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// What npm's jose says of these proofs: `header`, `claims` and `thumbprint`, or `error`. `None` where it is not installed.
pub(crate) fn verified(proofs: &[String]) -> Option<Vec<Value>> {
    let provider = peers::required(peers::OIDC_PROVIDER)?;
    let said = Command::new(provider.get_program())
        .current_dir(provider.get_current_dir().unwrap())
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/peers/oidc-provider/dpop.mjs"
        ))
        .arg(json!(proofs).to_string())
        .output()
        .unwrap();
    Some(serde_json::from_slice(&said.stdout).unwrap())
}
