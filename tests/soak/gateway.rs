//! The system under soak: validator, upstream tokens in Redis, sessions, and a stack for each backend.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tower::{
    BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService,
};
use tower_identity::{
    AuthError, AuthLayer, AwsSts, BindSubject, ClientAuth, CredentialCache, CrossAppAccess,
    FallbackPolicy, Identity, IdentityLayer, Origin, Secret, TokenEndpoint, TokenExchange,
    TokenValidator, TokenValidatorLayer, UpstreamInject, UpstreamTokens,
    incoming::BindSubjectService,
    outgoing::IdentityService,
    upstream::{Provider, RefreshTokenGrant},
};

use super::{
    backends::{Backend, INJECTED},
    faults::{Faults, Part},
    issuers::{EXCHANGE_AUDIENCE, Issuer, ROLE, Role},
    passage::{
        Asked, Body, Entering, EnteringAgain, Leaving, Passage, TokenClient, http_client, kind_name,
    },
    realm::{CHAT, Realm},
    redis::Redis,
    settings::TOKEN_LIMIT,
    store::{ObservedStore, RefreshCount},
    support::{
        aws_stack::REGION,
        http_server::{HttpServer, server_body},
        identity_provider::AUDIENCE,
    },
};

pub(crate) const SESSION: HeaderName = HeaderName::from_static("x-session");
pub(crate) const KIND: HeaderName = HeaderName::from_static("x-kind");
/// Has the gateway send the request to another backend than its stack is for.
pub(crate) const ASTRAY: HeaderName = HeaderName::from_static("x-astray");

const REMEMBERED: usize = 4096;

type ResBody = UnsyncBoxBody<Bytes, hyper::Error>;
type Stack = BoxCloneSyncService<Request<Body>, Response<ResBody>, BoxError>;
type Session = IdentityService<BindSubjectService<Stack>>;

pub(crate) struct Gateway {
    pub(crate) server: HttpServer,
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    realm: Arc<Realm>,
    origins: [Origin; 4],
    stacks: [Stack; 4],
    /// The newest session of each user at each backend, and its number.
    sessions: Mutex<HashMap<(String, usize), (u64, Session)>>,
    number: AtomicU64,
    pub(crate) teardowns: AtomicU64,
    pub(crate) refreshes: Arc<RefreshCount>,
}

/// What both gateways share, but for their own clients and caches.
pub(crate) struct Surroundings<'a> {
    pub(crate) realm: Arc<Realm>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) issuers: &'a [Arc<Issuer>],
    pub(crate) asked: &'a HashMap<Role, Arc<Asked>>,
    pub(crate) asked_for_keys: Arc<Asked>,
    pub(crate) origins: [Origin; 4],
    pub(crate) passages: [Arc<Passage>; 4],
    pub(crate) redis: &'a Redis,
}

impl Surroundings<'_> {
    fn url(&self, role: Role) -> String {
        let issuer = self.issuers.iter().find(|issuer| issuer.role == role);
        issuer.unwrap().url()
    }

    fn client(&self, role: Role) -> TokenClient {
        let (realm, faults) = (Arc::clone(&self.realm), Arc::clone(&self.faults));
        let on_silence = move |form: &[u8]| {
            faults.note(Part::Issuer(role));
            realm.ledger.count(&format!("silence: {role:?}"));
            if role == Role::Hub {
                realm.got_no_answer(form);
            }
        };
        TokenClient::new(Arc::clone(&self.asked[&role]), Arc::new(on_silence))
    }

    fn endpoint(&self, role: Role) -> TokenEndpoint {
        let secret = Secret::new("sesame").unwrap();
        TokenEndpoint::builder(self.url(role), self.client(role))
            .client_auth(ClientAuth::basic("gateway", secret))
            .time_limit(TOKEN_LIMIT)
            .clock(self.realm.clock.clone())
            .build()
            .unwrap()
    }

    fn cache<C: Clone + Send + Sync + 'static>(&self) -> CredentialCache<C> {
        CredentialCache::builder()
            .capacity(REMEMBERED)
            .clock(self.realm.clock.clone())
            .build()
            .unwrap()
    }

    fn stack<L>(&self, backend: Backend, layer: impl FnOnce(Origin) -> L) -> Entering<L::Service>
    where
        L: Layer<Leaving>,
    {
        let passage = Arc::clone(&self.passages[backend.index()]);
        let leaving = Leaving {
            client: http_client(),
            clock: self.realm.clock.clone(),
            passage: Arc::clone(&passage),
        };
        let origin = self.origins[backend.index()].clone();
        Entering {
            inner: layer(origin).layer(leaving),
            backend,
            passage,
        }
    }

    fn validator(&self, refreshes: Arc<RefreshCount>) -> TokenValidator {
        let clock = self.realm.clock.clone();
        let hub = RefreshTokenGrant::new(self.endpoint(Role::Hub));
        let hub = Provider::builder("hub", hub)
            .uses_id_token()
            .build()
            .unwrap();
        let store = ObservedStore {
            store: self.redis.store(),
            refreshes,
        };
        let issuer = self.realm.keys().issuer();
        TokenValidator::builder(
            issuer,
            TokenClient::new(self.asked_for_keys.clone(), Arc::new(|_| {})),
        )
        .audience(AUDIENCE)
        .cache_tokens(REMEMBERED)
        .upstream_tokens(
            UpstreamTokens::new(store, [hub])
                .session_claim("tsid")
                .clock(clock.clone()),
        )
        .clock(clock)
        .build()
        .unwrap()
    }
}

impl Gateway {
    pub(crate) async fn start(surroundings: &Surroundings<'_>) -> Self {
        let clock = surroundings.realm.clock.clone();
        let inject = UpstreamInject::new("hub").unwrap().clock(clock.clone());
        let exchange = TokenExchange::builder(surroundings.endpoint(Role::Exchange))
            .audience(EXCHANGE_AUDIENCE)
            .cache(surroundings.cache())
            .build()
            .unwrap();
        let [identity_provider, authorization_server] =
            [Role::IdentityProvider, Role::AuthorizationServer]
                .map(|role| surroundings.endpoint(role));
        let cross_app = CrossAppAccess::builder("hub", identity_provider, authorization_server)
            .audience(CHAT)
            .cache(surroundings.cache())
            .clock(clock.clone())
            .build()
            .unwrap();
        let aws = AwsSts::builder(REGION, surroundings.client(Role::Sts))
            .sts_endpoint(surroundings.url(Role::Sts))
            .fallback_role(ROLE)
            .cache(surroundings.cache())
            .clock(clock)
            .build()
            .unwrap();
        let exchange = EnteringAgain {
            strategy: exchange,
            backend: Backend::Exchange,
            passage: Arc::clone(&surroundings.passages[Backend::Exchange.index()]),
        };
        let refreshes = Arc::new(RefreshCount::default());
        let inner = Arc::new(Inner {
            realm: Arc::clone(&surroundings.realm),
            origins: surroundings.origins.clone(),
            stacks: [
                boxed(
                    surroundings.stack(Backend::Upstream, |origin| AuthLayer::new(origin, inject)),
                ),
                boxed(surroundings.stack(Backend::Exchange, |origin| {
                    AuthLayer::new(origin, exchange).retry_rejected()
                })),
                boxed(surroundings.stack(Backend::CrossApp, |origin| {
                    AuthLayer::new(origin, cross_app)
                })),
                boxed(surroundings.stack(Backend::Aws, |origin| AuthLayer::new(origin, aws))),
            ],
            sessions: Mutex::default(),
            number: AtomicU64::new(0),
            teardowns: AtomicU64::new(0),
            refreshes: Arc::clone(&refreshes),
        });
        let forwarding = Arc::clone(&inner);
        let service = ServiceBuilder::new()
            .layer(TokenValidatorLayer::new(surroundings.validator(refreshes)))
            .service(service_fn(move |request: Request<Body>| {
                let gateway = Arc::clone(&forwarding);
                async move { Ok::<_, Infallible>(gateway.forward(request).await) }
            }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = HttpServer::start_on(listener, move |request: Request<Incoming>| {
            let service = service.clone();
            async move {
                let (head, body) = request.into_parts();
                let Ok(body) = body.collect().await else {
                    return Response::new(server_body(Full::default()));
                };
                let request = Request::from_parts(head, Full::from(body.to_bytes()));
                let Ok(response) = service.oneshot(request).await;
                response.map(server_body)
            }
        });
        Self { server, inner }
    }
}

impl Inner {
    async fn forward(&self, request: Request<Body>) -> Response<Body> {
        let Some(backend) = Backend::of_path(request.uri().path()) else {
            return status(StatusCode::NOT_FOUND);
        };
        let Some(identity) = request.extensions().get::<Identity>() else {
            self.realm.ledger.trouble("a caller without an identity");
            return status(StatusCode::INTERNAL_SERVER_ERROR);
        };
        let named = request.headers().get(SESSION);
        let named = named
            .and_then(|named| named.to_str().ok())
            .map(str::to_owned);
        let (id, session) = match named {
            None => self.open(backend, identity),
            Some(id) => match self.find(backend, &id, request.method() == Method::DELETE) {
                Some(session) => (id, session),
                None => return status(StatusCode::NOT_FOUND),
            },
        };
        let request = self.outgoing(backend, request);
        let mut response = match sent(session, request).await {
            Ok(response) => collected(response).await,
            Err(error) => self.refusal(&error),
        };
        let id = HeaderValue::from_str(&id).unwrap();
        response.headers_mut().insert(SESSION, id);
        response
    }

    fn open(&self, backend: Backend, identity: &Identity) -> (String, Session) {
        let captured = IdentityLayer::new(identity.clone())
            .fallback(FallbackPolicy::teardown())
            .follow_requests();
        let bound = BindSubject::to(identity.clone());
        let session = captured.layer(bound.layer(self.stacks[backend.index()].clone()));
        let number = self.number.fetch_add(1, Relaxed);
        let user = identity.subject().to_owned();
        let id = format!("{user}.{number}");
        let mut sessions = self.sessions.lock().unwrap();
        sessions.insert((user, backend.index()), (number, session.clone()));
        (id, session)
    }

    fn find(&self, backend: Backend, id: &str, closes: bool) -> Option<Session> {
        let (user, number) = id.split_once('.')?;
        let key = (user.to_owned(), backend.index());
        let mut sessions = self.sessions.lock().unwrap();
        let (newest, session) = sessions.get(&key)?;
        if newest.to_string() != number {
            return None;
        }
        let session = session.clone();
        if closes {
            sessions.remove(&key);
        }
        Some(session)
    }

    /// The request as it goes on. That which closes a session is the gateway's own, and nobody's.
    fn outgoing(&self, backend: Backend, request: Request<Body>) -> Request<Body> {
        let (head, body) = request.into_parts();
        let is_astray = head.headers.contains_key(ASTRAY);
        let origin = &self.origins[(backend.index() + usize::from(is_astray)) % 4];
        let mut outgoing = Request::new(body);
        *outgoing.uri_mut() = format!("{origin}/mcp").parse().unwrap();
        if head.method == Method::DELETE {
            self.teardowns.fetch_add(1, Relaxed);
        } else if let Some(identity) = head.extensions.get::<Identity>() {
            outgoing.extensions_mut().insert(identity.clone());
        }
        *outgoing.method_mut() = head.method;
        outgoing
    }

    fn refusal(&self, error: &BoxError) -> Response<Body> {
        let Some(error) = AuthError::find_in(error.as_ref()) else {
            let trouble = format!("a backend that was up did not answer: {error:?}");
            self.realm.ledger.trouble(trouble);
            return status(StatusCode::IM_A_TEAPOT);
        };
        let mut response = error.to_response();
        let kind = HeaderValue::from_static(kind_name(error.kind()));
        response.headers_mut().insert(KIND, kind);
        response
    }
}

/// With whatever body, since a layer that looks at responses has its own.
fn boxed<S, B>(stack: S) -> Stack
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes, Error = hyper::Error> + Send + 'static,
{
    Stack::new(stack.map_response(|response: Response<B>| response.map(BodyExt::boxed_unsync)))
}

/// Boxed, because the compiler does not see otherwise that it can be sent.
fn sent(
    session: Session,
    request: Request<Body>,
) -> BoxFuture<'static, Result<Response<ResBody>, BoxError>> {
    session.oneshot(request).boxed()
}

async fn collected(response: Response<ResBody>) -> Response<Body> {
    let (head, body) = response.into_parts();
    let Ok(body) = body.collect().await else {
        return status(StatusCode::IM_A_TEAPOT);
    };
    let mut response = Response::new(Full::from(body.to_bytes()));
    *response.status_mut() = head.status;
    if let Some(injected) = head.headers.get(INJECTED) {
        response.headers_mut().insert(INJECTED, injected.clone());
    }
    response
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    response
}
