//! The issuer's keys, under shuttle's schedulers.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use serde_json::{Value, json};
use shuttle::future::{block_on, spawn, yield_now};
use tower::{BoxError, service_fn};

use crate::{
    clock::Clock,
    oauth::http_client::HttpClient,
    shuttle_tests::{SwitchingClock, check_stack},
};

use super::{issuer, issuer_keys::Keys};

/// Serves its metadata and a set of one key, and counts how often the set is fetched.
#[derive(Clone, Default)]
struct Issuer {
    fetched: Arc<AtomicUsize>,
}

impl Issuer {
    async fn answer(&self, request: Request<Full<Bytes>>) -> Value {
        yield_now().await;
        if request.uri().path() == "/keys" {
            let number = self.fetched.fetch_add(1, SeqCst) + 1;
            json!({ "keys": [{ "kty": "RSA", "kid": number.to_string(), "n": "AQAB", "e": "AQAB" }] })
        } else {
            json!({ "issuer": "https://idp.example.com", "jwks_uri": "https://idp.example.com/keys" })
        }
    }

    fn keys(&self, clock: Arc<dyn Clock>) -> Keys {
        let issuer = self.clone();
        let client = HttpClient::new(service_fn(move |request| {
            let issuer = issuer.clone();
            async move {
                let body = issuer.answer(request).await.to_string();
                Ok::<_, BoxError>(Response::new(Full::new(Bytes::from(body))))
            }
        }));
        let issuer = issuer::Issuer::of_client("https://idp.example.com", client);
        let trusted = issuer.trust(&[], false, &clock).unwrap();
        trusted.keys
    }
}

#[test]
fn tokens_that_name_a_new_key_cause_one_fetch_and_all_of_them_get_it() {
    check_stack(|| {
        block_on(async {
            let issuer = Issuer::default();
            let keys = Arc::new(issuer.keys(Arc::new(SwitchingClock::default())));
            let seen = keys.first().await.unwrap();
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    let (keys, seen) = (Arc::clone(&keys), seen.clone());
                    spawn(async move { keys.newer_than(&seen, None).await.unwrap() })
                })
                .collect();
            for caller in callers {
                assert!(caller.await.unwrap().is_some(), "a good token is refused");
            }
            assert_eq!(issuer.fetched.load(SeqCst), 2);
        });
    });
}
