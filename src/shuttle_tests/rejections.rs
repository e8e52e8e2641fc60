//! A whole outgoing stack whose backend rejects the cached credential.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::Full;
use shuttle::future::{block_on, spawn, yield_now};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::{
    identity::Identity,
    oauth::token_endpoint::TokenEndpoint,
    origin::Origin,
    outgoing::{auth::layer::AuthLayer, identity::IdentityLayer},
    secret::AccessToken,
    strategy::token_exchange::TokenExchange,
};

use super::{SwitchingClock, check_stack};

type Body = Full<Bytes>;

/// Mints `<user>-1`, `<user>-2` and so on for a user's token.
#[derive(Clone, Default)]
struct Issuer {
    minted: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Issuer {
    fn minted_for(&self, user: &str) -> usize {
        self.minted
            .lock()
            .unwrap()
            .get(user)
            .copied()
            .unwrap_or_default()
    }

    async fn mint(&self, form: Bytes) -> Response<Body> {
        let user = form_urlencoded::parse(&form)
            .find_map(|(name, value)| (name == "subject_token").then(|| value.into_owned()))
            .unwrap();
        yield_now().await;
        let number = {
            let mut minted = self.minted.lock().unwrap();
            let number = minted.entry(user.clone()).or_default();
            *number += 1;
            *number
        };
        let answer = serde_json::json!({
            "access_token": format!("{user}-{number}"),
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "Bearer",
            "expires_in": 3600,
        });
        Response::new(answer.to_string().into())
    }

    fn strategy(&self) -> TokenExchange {
        let issuer = self.clone();
        let client = service_fn(move |request: Request<Body>| {
            let issuer = issuer.clone();
            async move {
                let form = http_body_util::BodyExt::collect(request.into_body()).await?;
                Ok::<_, BoxError>(issuer.mint(form.to_bytes()).await)
            }
        });
        let endpoint = TokenEndpoint::builder("https://idp.example.com/token", client)
            .build()
            .unwrap();
        TokenExchange::builder(endpoint)
            .clock(Arc::new(SwitchingClock::default()))
            .build()
            .unwrap()
    }
}

/// Takes what was minted for the user whom the path names, and rejects the first of it.
async fn backend(request: Request<Body>) -> Result<Response<Body>, BoxError> {
    yield_now().await;
    let authorization = request.headers()[AUTHORIZATION].to_str()?;
    let (user, number) = authorization
        .strip_prefix("Bearer ")
        .and_then(|token| token.split_once('-'))
        .unwrap();
    assert_eq!(request.uri().path(), format!("/{user}"));
    let mut response = Response::new(Body::default());
    if number == "1" {
        *response.status_mut() = StatusCode::UNAUTHORIZED;
    }
    Ok(response)
}

fn client(
    strategy: TokenExchange,
) -> impl Service<
    Request<Body>,
    Response = Response<crate::outgoing::PeekedBody<Body>>,
    Error = BoxError,
    Future: Send,
> + Clone
+ Send {
    ServiceBuilder::new()
        .layer(IdentityLayer::new(None))
        .layer(
            AuthLayer::new(
                Origin::try_from("https://mcp.example.com").unwrap(),
                strategy,
            )
            .retry_rejected(),
        )
        .service(service_fn(backend))
}

fn request(user: &str) -> Request<Body> {
    let identity = Identity::builder(user)
        .token(AccessToken::new(user).unwrap())
        .build()
        .unwrap();
    let mut request = Request::get(format!("https://mcp.example.com/{user}"))
        .body(Body::default())
        .unwrap();
    request.extensions_mut().insert(identity);
    request
}

#[test]
fn a_rejected_credential_is_dropped_once_and_every_call_goes_out_with_its_own_users() {
    check_stack(|| {
        block_on(async {
            let issuer = Issuer::default();
            let client = client(issuer.strategy());
            let calls: Vec<_> = ["alice", "alice", "bob", "alice"]
                .into_iter()
                .map(|user| {
                    let client = client.clone();
                    spawn(async move { client.oneshot(request(user)).await.unwrap().status() })
                })
                .collect();
            for call in calls {
                assert_eq!(call.await.unwrap(), StatusCode::OK);
            }
            assert_eq!(
                (issuer.minted_for("alice"), issuer.minted_for("bob")),
                (2, 2)
            );
        });
    });
}
