//! The pages for a browser: log in at the gateway's issuer, see the linked accounts, link, unlink, log out.
//!
//! They are plain HTML without scripts. A session is a sealed cookie, so that any replica reads it.

use std::{
    fmt::Write,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{any_service, get, post},
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Uri,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, LOCATION, ORIGIN,
        REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
    },
};
use http_body_util::Full;
use serde_json::{Value, json};
use tower::BoxError;
use tower_identity::{
    AccountLinking, AuthError, Clock, Identity, UpstreamTokenStore,
    upstream::{
        TokenOwner,
        linking::{CodeFlow, LinkError},
    },
};

const COOKIE_NAME: &str = "__Host-gateway-session";
const PURPOSE: &str = "session of the gateway's pages";
const SESSION: Duration = Duration::from_secs(8 * 3600);
const POLICY: &str = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";
const STYLE: &str = "\
:root { color-scheme: light dark; font: 1.1rem/1.6 system-ui, sans-serif }
body { max-width: 40rem; margin: 3rem auto; padding: 0 1rem }
header, li { display: flex; flex-wrap: wrap; gap: 1rem; align-items: center; justify-content: space-between }
ul { list-style: none; padding: 0 }
li { padding: .8rem 0; border-top: 1px solid GrayText }
li > span:last-child { display: flex; gap: .6rem }
form { margin: 0 }
small { display: block; opacity: .8 }
a, button { font: inherit; padding: .3rem .9rem; border: 1px solid; border-radius: .4rem; color: inherit;
  background: none; text-decoration: none; cursor: pointer }
a:focus-visible, button:focus-visible { outline: 3px solid LinkText; outline-offset: 2px }
";

#[derive(Clone)]
pub(crate) struct Pages {
    inner: Arc<Inner>,
}

struct Inner {
    /// Of the gateway, as browsers see it.
    origin: String,
    login: CodeFlow,
    linking: AccountLinking,
    providers: Vec<String>,
    store: Arc<dyn UpstreamTokenStore>,
    clock: Arc<dyn Clock>,
}

impl Pages {
    pub(crate) fn new(
        origin: &str,
        login: CodeFlow,
        linking: AccountLinking,
        providers: Vec<String>,
        store: Arc<dyn UpstreamTokenStore>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                origin: origin.trim_end_matches('/').to_owned(),
                login,
                linking,
                providers,
                store,
                clock,
            }),
        }
    }

    pub(crate) fn link_url(&self, provider: &str) -> Option<String> {
        self.inner.linking.link_url(provider)
    }

    pub(crate) fn router(self) -> Router {
        let linking = self.inner.linking.clone();
        Router::new()
            .route("/accounts", get(accounts))
            .route("/accounts/link/{*page}", any_service(linking.clone()))
            .route("/accounts/unlink/{*page}", any_service(linking))
            .route_layer(from_fn_with_state(self.clone(), logged_in))
            .route("/accounts/style.css", get(style))
            .route("/login", get(log_in))
            .route("/login/callback", get(come_back))
            .route("/logout", post(log_out))
            .with_state(self)
    }
}

impl Inner {
    fn seal(&self, user: &Identity) -> Result<HeaderValue, BoxError> {
        let end = (self.clock.now() + SESSION).duration_since(SystemTime::UNIX_EPOCH)?;
        let session = json!({ "iss": user.issuer(), "sub": user.subject(), "exp": end.as_secs() });
        let key = self.store.sealing_keys().first().ok_or("no sealing key")?;
        let sealed = key.seal(PURPOSE, session.to_string().as_bytes())?;
        let mut cookie = HeaderValue::try_from(format!(
            "{COOKIE_NAME}={sealed}; Path=/; Max-Age={}; Secure; HttpOnly; SameSite=Lax",
            SESSION.as_secs()
        ))?;
        cookie.set_sensitive(true);
        Ok(cookie)
    }

    /// The user of the session in the browser's cookie, unless it has ended.
    fn user(&self, headers: &HeaderMap) -> Option<Identity> {
        let cookies = headers.get_all(COOKIE).into_iter();
        let mut pairs = cookies
            .filter_map(|cookies| cookies.to_str().ok())
            .flat_map(|cookies| cookies.split(';'));
        let (_, sealed) = pairs.find_map(|pair| {
            pair.trim()
                .split_once('=')
                .filter(|(name, _)| *name == COOKIE_NAME)
        })?;
        let mut keys = self.store.sealing_keys().iter();
        let session = keys.find_map(|key| key.open(PURPOSE, sealed))?;
        let session: Value = serde_json::from_slice(&session).ok()?;
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(session["exp"].as_u64()?);
        let user = Identity::builder(session["sub"].as_str()?).issuer(session["iss"].as_str()?);
        user.build().ok().filter(|_| self.clock.now() < end)
    }
}

/// Puts the user of the session on the request, or sends the browser to the login.
async fn logged_in(State(pages): State<Pages>, mut request: Request, next: Next) -> Response {
    let Some(user) = pages.inner.user(request.headers()) else {
        if request.method() != Method::GET {
            return (StatusCode::UNAUTHORIZED, [("www-authenticate", "Bearer")]).into_response();
        }
        let path = request.uri().path();
        let query: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("return_to", path)
            .finish();
        return to(&format!("/login?{query}"));
    };
    request.extensions_mut().insert(user);
    next.run(request).await
}

async fn log_in(State(pages): State<Pages>, uri: Uri, headers: HeaderMap) -> Response {
    let query = uri.query().unwrap_or_default().as_bytes();
    let mut pairs = form_urlencoded::parse(query);
    let return_to = pairs.find(|(name, _)| name == "return_to");
    let return_to = return_to.map_or("/accounts".into(), |(_, path)| path);
    let started = pages.inner.login.start(&headers, None, &return_to).await;
    match started {
        Ok(response) => response.map(Body::new),
        Err(error) => failed(&error),
    }
}

async fn come_back(State(pages): State<Pages>, uri: Uri, headers: HeaderMap) -> Response {
    let finished = match pages.inner.login.finish(&uri, &headers, None).await {
        Ok(finished) => finished,
        Err(error) => return failed(&error),
    };
    let cookie = finished.identity().map(|user| pages.inner.seal(user));
    let Some(Ok(cookie)) = cookie else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    let mut response = to(finished.return_to());
    response.headers_mut().insert(SET_COOKIE, cookie);
    response
}

async fn log_out(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let is_own = match headers.get("sec-fetch-site") {
        Some(site) => site == "same-origin",
        None => headers
            .get(ORIGIN)
            .is_some_and(|origin| *origin == *pages.inner.origin),
    };
    if !is_own {
        return StatusCode::FORBIDDEN.into_response();
    }
    let gone = format!("{COOKIE_NAME}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax");
    let body = r#"<header><h1>You are logged out</h1></header><p><a href="/accounts">Log in again</a></p>"#;
    let mut response = page("Logged out", body);
    if let Ok(gone) = HeaderValue::try_from(gone) {
        response.headers_mut().insert(SET_COOKIE, gone);
    }
    response
}

/// The accounts of the user, and what can be done with them.
async fn accounts(State(pages): State<Pages>, request: Request) -> Response {
    let Some(user) = request.extensions().get::<Identity>() else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    match list(&pages.inner, user).await {
        Ok(body) => page("Linked accounts", &body),
        Err(error) => error.to_response(),
    }
}

async fn list(pages: &Inner, user: &Identity) -> Result<String, AuthError> {
    let owner = TokenOwner::of(user).map_err(|error| {
        let fault = "the session has no issuer";
        AuthError::new(tower_identity::AuthErrorKind::Configuration, fault).with_source(error)
    })?;
    let linked = pages.store.load(&owner).await?;
    let mut body = format!(
        "<header><h1>Linked accounts</h1><form method=\"post\" action=\"/logout\">\
         <button>Log out</button></form></header><p>You are logged in as <b>{}</b>.</p><ul>",
        escaped(user.subject())
    );
    for name in &pages.providers {
        let tokens = linked.get(name).map(|stored| stored.tokens());
        let state = match tokens {
            None => "not linked".to_owned(),
            Some(tokens) => match (tokens.refresh_token(), tokens.token().expires_at()) {
                (None, None) => "linked".to_owned(),
                (Some(_), Some(end)) => format!("linked, next renewed before {}", date(end)),
                (Some(_), None) => "linked, renewed by itself".to_owned(),
                (None, Some(end)) if end <= pages.clock.now() => "the link has ended".to_owned(),
                (None, Some(end)) => format!("linked until {}", date(end)),
            },
        };
        let name = escaped(name);
        let link = if tokens.is_some() {
            "Link again"
        } else {
            "Link"
        };
        let _ = write!(
            body,
            "<li><span>{name}<small>{state}</small></span><span><a href=\"/accounts/link/{name}\" \
             aria-label=\"{link} {name}\">{link}</a> "
        );
        if tokens.is_some() {
            let _ = write!(
                body,
                "<form method=\"post\" action=\"/accounts/unlink/{name}\">\
                 <button aria-label=\"Unlink {name}\">Unlink</button></form>"
            );
        }
        body.push_str("</span></li>");
    }
    body.push_str("</ul>");
    Ok(body)
}

async fn style() -> Response {
    ([(CONTENT_TYPE, "text/css; charset=utf-8")], STYLE).into_response()
}

fn date(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}

fn to(path: &str) -> Response {
    match HeaderValue::try_from(path) {
        Ok(location) => guarded((StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response()),
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

fn failed(error: &LinkError) -> Response {
    tracing::info!(%error, kind = ?error.kind(), "a login failed");
    guarded(failure(error).map(Body::new))
}

/// The library's page for a failure, in the style of these pages.
pub(crate) fn failure(error: &LinkError) -> http::Response<Full<Bytes>> {
    let title = "That did not work";
    let mut body = format!("<h1>{title}</h1><p>{}</p><p>", escaped(error.advice()));
    for (url, text) in [
        (error.retry_url(), "Try again"),
        (error.return_url(), "Back"),
    ] {
        if let Some(url) = url {
            let _ = write!(body, "<a href=\"{}\">{text}</a> ", escaped(url));
        }
    }
    let mut response = error.page().map(|_| html(title, &body).into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

fn page(title: &str, body: &str) -> Response {
    let html = html(title, body);
    guarded(([(CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response())
}

fn html(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{title}</title>\
         <link rel=\"stylesheet\" href=\"/accounts/style.css\"></head><body><main>{body}</main></body></html>"
    )
}

fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "same-origin"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, POLICY),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}
