//! Requests of several users and requests without one, side by side in a session that follows.

use std::{convert::Infallible, future::ready};

use futures_util::FutureExt;
use http::Request;
use shuttle::thread;
use tower::{Layer, Service, service_fn};

use crate::{identity::Identity, outgoing::identity::IdentityLayer};

use super::{check, identity};

/// The identity that a request leaves with.
fn send(layer: &IdentityLayer, carried: Option<&Identity>) -> Identity {
    let mut client = layer.layer(service_fn(|request: Request<()>| {
        let identity = request.extensions().get::<Identity>().cloned();
        ready(Ok::<_, Infallible>(identity.unwrap()))
    }));
    let mut request = Request::new(());
    if let Some(identity) = carried {
        request.extensions_mut().insert(identity.clone());
    }
    client.call(request).now_or_never().unwrap().unwrap()
}

fn is_same(one: &Identity, other: &Identity) -> bool {
    !one.is_newer_than(other) && !other.is_newer_than(one)
}

#[test]
fn the_fallback_is_the_sessions_user_and_as_new_as_what_was_sent_before() {
    check(|| {
        let at_log_in = identity("alice");
        let fresh = [identity("alice"), identity("alice"), identity("alice")];
        let bob = identity("bob");
        let layer = IdentityLayer::new(at_log_in.clone()).follow_requests();

        let [oldest, older, newest] = fresh.clone();
        let sent_by_each = [
            vec![oldest, newest.clone()],
            vec![bob, older.clone()],
            vec![older, at_log_in.clone()],
            vec![],
        ];
        let callers = sent_by_each.map(|sent| {
            let (layer, at_log_in) = (layer.clone(), at_log_in.clone());
            thread::spawn(move || {
                let mut known = at_log_in;
                for carried in &sent {
                    assert!(is_same(&send(&layer, Some(carried)), carried));
                    if carried.is_same_user(&known) && carried.is_newer_than(&known) {
                        known = carried.clone();
                    }
                    known = no_older_than(known, send(&layer, None));
                }
                for _ in 0..2 {
                    known = no_older_than(known, send(&layer, None));
                }
            })
        });
        for caller in callers {
            caller.join().unwrap();
        }
        assert!(is_same(&send(&layer, None), &newest));
    });
}

fn no_older_than(known: Identity, fallback: Identity) -> Identity {
    assert_eq!(fallback.subject(), "alice");
    assert!(
        !known.is_newer_than(&fallback),
        "the fallback was turned back"
    );
    fallback
}
