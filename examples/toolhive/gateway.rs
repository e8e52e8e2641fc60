//! A ToolHive vMCP's file in, an axum router out: `/github/mcp` is the backend `github`.

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{Next, from_fn},
    response::Response,
    routing::{any, get},
};
use bytes::Bytes;
use http::{StatusCode, Uri};
use http_body_util::Full;
use tower::{BoxError, ServiceBuilder, ServiceExt, util::BoxCloneSyncService};
use tower_identity::{
    AuthError, AuthErrorKind, BackendAuthConfig, HeaderForwardLayer, Identity, TokenValidatorLayer,
    client::hyper::https_client,
    config::{Resources, VmcpConfig},
    outgoing::forward_mcp,
};

/// The keys that this program acts on itself, or has no use for. All others are read.
const HANDLED: [&str; 4] = ["name", "groupRef", "aggregation", "incomingAuth.authz"];

/// The types that send a credential of the gateway's own. Where it is refused, no login of the user helps.
const OF_THE_GATEWAY: [&str; 5] = [
    "unauthenticated",
    "header_injection",
    "client_credentials",
    "claim_injection",
    "signed_identity",
];

#[derive(Clone)]
struct Backend {
    sends_users_credential: bool,
    url: Uri,
    forwarded: HeaderForwardLayer,
    client: BoxCloneSyncService<Request, http::Response<hyper::body::Incoming>, BoxError>,
}

pub(crate) fn router(
    file: &str,
    environment: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
) -> Result<Router, BoxError> {
    // Without snippets: an error would quote the lines around it, with secrets.
    let options = serde_saphyr::options! { with_snippet: false };
    let file: VmcpConfig = serde_saphyr::from_str_with_options(file, options)?;
    let resources = Resources::builder(https_client::<Full<Bytes>>()?).environment(environment);
    let outgoing = file.outgoing_auth.clone().unwrap_or_default();
    let vmcp = file
        .handled_by_application(HANDLED)
        .build(&resources.build()?)?;

    let mut router = Router::new();
    for backend in vmcp.backends() {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if !backend.name().bytes().all(is_plain) {
            return Err(format!("{:?} cannot be a part of a path", backend.name()).into());
        }
        let client = ServiceBuilder::new()
            .layer(backend.header_forward_layer())
            .layer(backend.auth_layer())
            .service(backend.https_client::<Body>()?);
        let auth = outgoing.backends.get(backend.name());
        let auth = auth.or(outgoing.default.as_ref());
        let state = Backend {
            sends_users_credential: auth.is_some_and(sends_users_credential),
            url: backend.url().clone(),
            forwarded: backend.header_forward_layer(),
            client: BoxCloneSyncService::new(client),
        };
        let path = format!("/{}/mcp", backend.name());
        router = router.route(&path, any(forward).with_state(state));
    }
    let router = router.layer(from_fn(authorize));
    let Some(validator) = vmcp.token_validator() else {
        return Err(
            "this gateway needs callers with a token: set `incomingAuth.type` to `oidc`".into(),
        );
    };
    let router = router
        .layer(TokenValidatorLayer::new(validator.clone()))
        // What comes after the layer is open to everybody.
        .route("/health", get(async || "ok"));
    Ok(match validator.resource_metadata() {
        Some(metadata) => router.route_service(metadata.path(), metadata.clone()),
        None => router,
    })
}

type Answer = Result<Response, AuthError>;

/// In place of `incomingAuth.authz`: this crate has no policies. Enforce yours here.
async fn authorize(caller: Identity, request: Request, next: Next) -> Answer {
    if caller.subject() == "mallory" {
        let message = "the caller may not use this gateway";
        return Err(AuthError::new(AuthErrorKind::InsufficientScope, message));
    }
    Ok(next.run(request).await)
}

async fn forward(State(backend): State<Backend>, mut request: Request) -> Answer {
    let captured = backend.forwarded.captured(request.headers());
    request.extensions_mut().insert(captured);
    let request = forward_mcp(request, backend.url.clone());
    match backend.client.oneshot(request).await {
        // Whatever the backend says: `TokenValidatorLayer` says where the caller can log in.
        Ok(response) if response.status() == StatusCode::UNAUTHORIZED => {
            Err(if backend.sends_users_credential {
                let message = "the backend refused the caller's credential";
                AuthError::new(AuthErrorKind::Rejected, message)
            } else {
                let message = "the backend refused a request without a credential of the caller";
                AuthError::new(AuthErrorKind::Configuration, message)
            })
        }
        Ok(response) => Ok(response.map(Body::new)),
        Err(error) => Err(match AuthError::find_in(&*error) {
            Some(error) => error.clone(),
            None => AuthError::new(AuthErrorKind::Unavailable, "the backend cannot be reached")
                .with_source(error),
        }),
    }
}

fn sends_users_credential(auth: &BackendAuthConfig) -> bool {
    match auth {
        BackendAuthConfig::Both(both) => {
            let parts = [&both.first, &both.second].into_iter().flatten();
            parts.map(|part| &**part).any(sends_users_credential)
        }
        other => !OF_THE_GATEWAY.contains(&other.type_name()),
    }
}
