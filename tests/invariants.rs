//! The invariants, over random identities, methods, policies, strategies and orders of layers.

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::FutureExt;
use http::{HeaderValue, Method, Request, Response};
use proptest::{prelude::*, sample::select, strategy::Strategy as Generator};
use support::recording::{Arrival, RecordingService};
use tower::{BoxError, ServiceBuilder, ServiceExt, util::BoxCloneService};
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, AuthLayer, Authenticating, FallbackPolicy,
    HeaderForwardLayer, HeaderInjection, HealthCheck, Identity, IdentityLayer, Origin, Strategy,
    Unauthenticated, UpstreamInject, UpstreamToken,
};

const ORIGIN: &str = "https://mcp.example.com";

/// An identity whose token tells whose and which it is.
#[derive(Clone, Debug)]
struct User {
    subject: usize,
    issuer: Option<usize>,
    token: Option<usize>,
}

impl User {
    fn identity(&self) -> Identity {
        let mut builder = Identity::builder(format!("user-{}", self.subject));
        if let Some(issuer) = self.issuer {
            builder = builder.issuer(format!("https://idp-{issuer}.example.com"));
        }
        if let Some(token) = self.token() {
            builder = builder.upstream(
                "github",
                UpstreamToken::new(AccessToken::new(token).unwrap()),
            );
        }
        builder.build().unwrap()
    }

    fn token(&self) -> Option<String> {
        Some(format!(
            "token-{}-of-{}-at-{:?}",
            self.token?, self.subject, self.issuer
        ))
    }
}

fn user() -> impl Generator<Value = User> {
    (
        0..3_usize,
        prop::option::of(0..2_usize),
        prop::option::weighted(0.8, 0..100_usize),
    )
        .prop_map(|(subject, issuer, token)| User {
            subject,
            issuer,
            token,
        })
}

fn method() -> impl Generator<Value = Method> {
    select(vec![
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
    ])
}

#[derive(Clone, Debug)]
enum Policy {
    Always,
    Never,
    Methods(Vec<Method>),
    Teardown,
    WithBody,
}

impl Policy {
    fn build(&self) -> FallbackPolicy {
        match self {
            Self::Always => FallbackPolicy::always(),
            Self::Never => FallbackPolicy::never(),
            Self::Methods(methods) => FallbackPolicy::methods(methods.clone()),
            Self::Teardown => FallbackPolicy::teardown(),
            Self::WithBody => FallbackPolicy::when(|parts| {
                parts.method == Method::POST || parts.method == Method::PUT
            }),
        }
    }

    /// The rule in its own words, to compare with.
    fn allows(&self, method: &Method) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Methods(methods) => methods.contains(method),
            Self::Teardown => method == Method::DELETE,
            Self::WithBody => [Method::POST, Method::PUT].contains(method),
        }
    }
}

fn policy() -> impl Generator<Value = Policy> {
    prop_oneof![
        Just(Policy::Always),
        Just(Policy::Never),
        Just(Policy::Teardown),
        Just(Policy::WithBody),
        prop::collection::vec(method(), 0..3).prop_map(Policy::Methods),
    ]
}

#[derive(Clone, Copy, Debug)]
enum Credentials {
    Unauthenticated,
    HeaderInjection,
    UpstreamInject,
}

/// Counts how often it is asked, and passes the question on.
#[derive(Clone)]
struct Counting {
    asked: Arc<AtomicUsize>,
    strategy: Arc<dyn Strategy<String>>,
}

impl Counting {
    fn new(credentials: Credentials) -> Self {
        let strategy: Arc<dyn Strategy<String>> = match credentials {
            Credentials::Unauthenticated => Arc::new(Unauthenticated),
            Credentials::HeaderInjection => {
                Arc::new(HeaderInjection::new("authorization", "Basic c2VydmljZQ==").unwrap())
            }
            Credentials::UpstreamInject => Arc::new(UpstreamInject::new("github").unwrap()),
        };
        Self {
            asked: Arc::default(),
            strategy,
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Strategy<String> for Counting {
    fn authenticate(&self, request: &mut Request<String>) -> Authenticating<String> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.strategy.authenticate(request)
    }
}

fn credentials() -> impl Generator<Value = Credentials> {
    select(vec![
        Credentials::Unauthenticated,
        Credentials::HeaderInjection,
        Credentials::UpstreamInject,
    ])
}

type Client = BoxCloneService<Request<String>, Response<()>, BoxError>;

/// The layers above an [`AuthLayer`], in any order and any number.
#[derive(Clone, Debug)]
enum Outer {
    Identity {
        session: Option<User>,
        policy: Policy,
        follow: bool,
    },
    Headers,
}

fn outer() -> impl Generator<Value = Vec<Outer>> {
    let identity = (prop::option::weighted(0.8, user()), policy(), any::<bool>()).prop_map(
        |(session, policy, follow)| Outer::Identity {
            session,
            policy,
            follow,
        },
    );
    let layer = prop_oneof![3 => identity, 1 => Just(Outer::Headers)];
    prop::collection::vec(layer, 0..4)
}

fn stack(outer: &[Outer], strategy: Counting, backend: RecordingService) -> Client {
    let origin = Origin::try_from(ORIGIN).unwrap();
    let client = ServiceBuilder::new()
        .layer(AuthLayer::new(origin.clone(), strategy))
        .service(backend);
    outer
        .iter()
        .rev()
        .fold(BoxCloneService::new(client), |client, layer| match layer {
            Outer::Identity {
                session,
                policy,
                follow,
            } => {
                let layer = IdentityLayer::new(session.as_ref().map(User::identity))
                    .fallback(policy.build());
                let layer = if *follow {
                    layer.follow_requests()
                } else {
                    layer
                };
                BoxCloneService::new(ServiceBuilder::new().layer(layer).service(client))
            }
            Outer::Headers => {
                let layer = HeaderForwardLayer::builder(origin.clone())
                    .header("x-api-version", "2")
                    .build()
                    .unwrap();
                BoxCloneService::new(ServiceBuilder::new().layer(layer).service(client))
            }
        })
}

/// Whose identity should arrive: the request's, else that of the outermost session that may fill the gap.
fn expected_user<'a>(
    outer: &'a [Outer],
    own: Option<&'a User>,
    method: &Method,
) -> Option<&'a User> {
    own.or_else(|| {
        outer.iter().find_map(|layer| match layer {
            Outer::Identity {
                session: Some(session),
                policy,
                ..
            } if policy.allows(method) => Some(session),
            _ => None,
        })
    })
}

fn call(client: &Client, request: Request<String>) -> Result<Response<()>, BoxError> {
    client
        .clone()
        .oneshot(request)
        .now_or_never()
        .expect("nothing here waits")
}

fn request(uri: &str, method: Method, own: Option<&User>) -> Request<String> {
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .body(String::from("{}"))
        .unwrap();
    if let Some(user) = own {
        request.extensions_mut().insert(user.identity());
    }
    request
}

fn subject(user: Option<&User>) -> Option<String> {
    Some(format!("user-{}", user?.subject))
}

proptest! {
    #[test]
    fn i1_the_requests_identity_always_wins(
        outer in outer(), own in user(), method in method(), credentials in credentials(),
    ) {
        let backend = RecordingService::new();
        let client = stack(&outer, Counting::new(credentials), backend.clone());
        let identity = own.identity();
        let mut request = request("https://mcp.example.com/mcp", method, None);
        request.extensions_mut().insert(identity.clone());
        if call(&client, request).is_ok() {
            let arrived = backend.arrival().identity.unwrap();
            prop_assert!(arrived.is_same_user(&identity));
            prop_assert!(!arrived.is_newer_than(&identity) && !identity.is_newer_than(&arrived), "merged or replaced");
        }
    }

    #[test]
    fn i2_the_fallback_only_fills_a_gap_and_only_where_the_policy_allows(
        outer in outer(), own in prop::option::of(user()), method in method(),
    ) {
        let backend = RecordingService::new();
        let client = stack(&outer, Counting::new(Credentials::Unauthenticated), backend.clone());
        call(&client, request("https://mcp.example.com/mcp", method.clone(), own.as_ref())).unwrap();
        let expected = subject(expected_user(&outer, own.as_ref(), &method));
        let arrival = backend.arrival();
        prop_assert_eq!(arrival.subject(), expected.as_deref());
    }

    #[test]
    fn i3_a_credential_goes_to_its_origin_and_nowhere_else(
        outer in outer(),
        own in prop::option::of(user()),
        method in method(),
        credentials in credentials(),
        scheme in select(vec!["https", "http", "HTTPS"]),
        host in select(vec!["mcp.example.com", "MCP.example.com", "evil.example", "mcp.example.com.evil.example", "localhost"]),
        port in select(vec!["", ":443", ":80", ":8443"]),
        host_header in prop::option::of(select(vec!["mcp.example.com", "mcp.example.com:443", "evil.example", "mcp.example.com:80", ""])),
    ) {
        let backend = RecordingService::new();
        let strategy = Counting::new(credentials);
        let client = stack(&outer, strategy.clone(), backend.clone());
        let mut request = request(&format!("{scheme}://{host}{port}/mcp"), method, own.as_ref());
        if let Some(host) = host_header {
            request.headers_mut().insert("host", HeaderValue::from_static(host));
        }
        let right = scheme.eq_ignore_ascii_case("https")
            && host.eq_ignore_ascii_case("mcp.example.com")
            && ["", ":443"].contains(&port)
            && host_header.is_none_or(|host| ["mcp.example.com", "mcp.example.com:443"].contains(&host));

        let answer = call(&client, request);
        if right {
            prop_assert_eq!(strategy.asked(), 1);
        } else {
            let error = answer.unwrap_err();
            prop_assert_eq!(AuthError::find_in(error.as_ref()).unwrap().kind(), AuthErrorKind::WrongOrigin);
            prop_assert_eq!(strategy.asked(), 0, "a credential was obtained");
            prop_assert!(backend.arrivals().is_empty());
        }
    }

    #[test]
    fn i4_a_request_leaves_with_its_credential_or_not_at_all(
        outer in outer(), own in prop::option::of(user()), method in method(), probe in any::<bool>(),
    ) {
        let backend = RecordingService::new();
        let client = stack(&outer, Counting::new(Credentials::UpstreamInject), backend.clone());
        let mut request = request("https://mcp.example.com/mcp", method.clone(), own.as_ref());
        request.headers_mut().append("authorization", HeaderValue::from_static("Bearer of-the-caller"));
        if probe {
            request.extensions_mut().insert(HealthCheck);
        }
        let token = expected_user(&outer, own.as_ref(), &method).and_then(User::token);
        let answer = call(&client, request);
        let sent: Vec<_> = backend.arrivals().iter().map(|arrival| arrival.header("authorization").concat()).collect();
        match token {
            _ if probe => prop_assert_eq!(sent, ["Bearer of-the-caller"]),
            Some(token) => prop_assert_eq!(sent, [format!("Bearer {token}")]),
            None => prop_assert!(answer.is_err() && sent.is_empty(), "{:?}", sent),
        }
    }

    #[test]
    fn i5_many_users_on_one_stack_each_leave_with_their_own_token(
        calls in prop::collection::vec((user(), method()), 1..40), follow in any::<bool>(), session in user(),
    ) {
        let outer = [Outer::Identity { session: Some(session), policy: Policy::Always, follow }];
        let backend = RecordingService::new();
        let client = stack(&outer, Counting::new(Credentials::UpstreamInject), backend.clone());
        let mut expected = Vec::new();
        for (own, method) in &calls {
            let answer = call(&client, request("https://mcp.example.com/mcp", method.clone(), Some(own)));
            prop_assert_eq!(answer.is_ok(), own.token.is_some());
            expected.extend(own.token().map(|token| format!("Bearer {token}")));
        }
        let arrived: Vec<_> = backend.arrivals().iter().map(|arrival| arrival.header("authorization").concat()).collect();
        prop_assert_eq!(arrived, expected);
    }

    #[test]
    fn i5_a_followed_fallback_is_always_the_newest_of_the_sessions_own_user(
        session in user(), seen in prop::collection::vec(user(), 0..20),
    ) {
        let outer = [Outer::Identity { session: Some(session.clone()), policy: Policy::Always, follow: true }];
        let backend = RecordingService::new();
        let client = stack(&outer, Counting::new(Credentials::Unauthenticated), backend.clone());
        let same = |user: &&User| {
            session.issuer.is_some() && (user.subject, user.issuer) == (session.subject, session.issuer)
        };
        for own in &seen {
            call(&client, request("https://mcp.example.com/mcp", Method::POST, Some(own))).unwrap();
        }
        call(&client, request("https://mcp.example.com/mcp", Method::DELETE, None)).unwrap();
        let expected = seen.iter().rfind(same).unwrap_or(&session).token();
        let teardown = backend.arrivals().pop().and_then(|arrival: Arrival| arrival.identity).unwrap();
        let sent = teardown.upstream("github").map(|token| token.access_token().expose().to_owned());
        prop_assert_eq!(sent, expected);
    }

    #[test]
    fn i6_no_token_is_shown_whatever_it_is(token in "[!-~]{12,60}") {
        let token = AccessToken::new(token).unwrap();
        let upstream = UpstreamToken::new(token.clone());
        let identity = Identity::builder("user-1").token(token.clone()).upstream("github", upstream).build().unwrap();
        let shown = format!("{token:?} {identity:?} {:?} {:?}", token.authorization(), IdentityLayer::new(identity.clone()));
        prop_assert!(!shown.contains(token.expose()));
    }

    #[test]
    fn i8_there_is_no_identity_without_a_subject(subject in "\\s{0,5}", issuer in prop::option::of("[a-z]{0,5}")) {
        let mut builder = Identity::builder(subject);
        if let Some(issuer) = issuer {
            builder = builder.issuer(issuer);
        }
        let error = builder.build().unwrap_err();
        prop_assert_eq!(error.invalid_settings()[0].setting(), "subject");
    }
}
