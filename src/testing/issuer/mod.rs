use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value};

use crate::{
    AccessToken, ClientAuth, Clock, DefaultClock, Identity, Origin, Secret, UpstreamToken,
    upstream::ProviderTokens,
};

use self::{
    state::{ANY_CLIENT, Grant, Kept, Kind, State},
    token::{Key, TestToken, is_jwt, random_text, seconds, verified},
};
use super::{Answer, ReceivedRequest, origin_of};

mod authorize;
mod clients;
#[cfg(feature = "dpop")]
mod dpop;
mod grants;
mod routes;
mod state;
pub(super) mod token;

/// An issuer of tokens in the test's process: an OpenID provider as a Tower service.
///
/// Needs the feature `testing`.
///
/// It is the HTTP client of whatever asks an issuer, so no request leaves the process. Clones are the same issuer.
///
/// ```
/// use tower_identity::{TokenValidator, testing::TestIssuer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let issuer = TestIssuer::new("https://idp.example.com");
/// let validator = TokenValidator::builder(issuer.url(), issuer.clone())
///     .audience("https://gateway.example.com")
///     .build()?;
///
/// let token = issuer
///     .token("alice")
///     .audience("https://gateway.example.com")
///     .claim("sid", "laptop")
///     .sign();
/// let alice = validator.validate(&token).await?;
/// assert_eq!(alice.subject(), "alice");
/// # Ok(())
/// # }
/// ```
///
/// # What it answers
///
/// It behaves as an ordinary provider does. A test of the crate sends the same requests to it and to npm's
/// `oidc-provider`, and compares status, error codes and members.
///
/// | path, under that of the issuer | answer |
/// | --- | --- |
/// | `/.well-known/openid-configuration`, `/.well-known/oauth-authorization-server` | its metadata (OIDC Discovery §4, RFC 8414 §3) |
/// | `/jwks` | its public keys, for ES256 |
/// | `/auth` | sends the user whom `login_hint` names back with a code, as [`authorize`](Self::authorize) does |
/// | `/token` | `authorization_code` with PKCE, `refresh_token`, `client_credentials`, token exchange (RFC 8693) and `jwt-bearer` (RFC 7523) |
/// | `/token/introspection` | what an opaque token stands for (RFC 7662) |
/// | `/token/revocation` | revokes a token (RFC 7009) |
///
/// - A token for a `resource` or an `audience` is a signed JWT with this `aud`. One for none of them is opaque.
/// - A token that is requested with a DPoP proof (feature `dpop`) is bound to its key (`cnf.jkt`), and so are a code with
///   `dpop_jkt`, and the refresh tokens of a public client.
/// - A refresh token is replaced at each use. If an old one is used again, all tokens of that login are revoked.
/// - Each endpoint asks for client authentication. Every client and every resource is admitted, until the first one is
///   registered ([`register_client`](Self::register_client), [`register_resource`](Self::register_resource)).
/// - `jwt-bearer` takes its own JWTs, and those of issuers that it [trusts](Self::trust).
/// - A request for another host fails, as it would not reach this issuer.
///
/// # Over a connection
///
/// Any server of Tower services can serve it, for example hyper. Bind the listener first, because the issuer's name is
/// its address:
///
/// ```
/// use hyper_util::{
///     rt::{TokioExecutor, TokioIo},
///     server::conn::auto,
///     service::TowerToHyperService,
/// };
/// use tokio::net::TcpListener;
/// use tower_identity::testing::TestIssuer;
///
/// # async fn example() -> std::io::Result<()> {
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let issuer = TestIssuer::new(&format!("http://{}", listener.local_addr()?));
/// let service = TowerToHyperService::new(issuer.clone());
/// tokio::spawn(async move {
///     while let Ok((tcp, _)) = listener.accept().await {
///         let service = service.clone();
///         tokio::spawn(async move {
///             let server = auto::Builder::new(TokioExecutor::new());
///             let _ = server.serve_connection(TokioIo::new(tcp), service).await;
///         });
///     }
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TestIssuer {
    url: Arc<str>,
    origin: Origin,
    state: Arc<Mutex<State>>,
}

impl TestIssuer {
    /// Creates an issuer with this identifier, for example `https://idp.example.com`.
    ///
    /// Its clock is the thread's [default](crate::DefaultClock).
    ///
    /// # Panics
    ///
    /// If `url` is not an absolute `https` URL (or `http` on loopback) without a query.
    #[track_caller]
    pub fn new(url: &str) -> Self {
        let path_at = url.match_indices('/').nth(2);
        let (host, path) = url.split_at(path_at.map_or(url.len(), |(index, _)| index));
        assert!(!path.contains(['?', '#']), "an issuer has no query: {url}");
        Self {
            url: url.into(),
            origin: origin_of(host),
            state: Arc::new(Mutex::new(State::new(DefaultClock::get()))),
        }
    }

    /// Sets the [clock](trait@Clock#setting-the-clock).
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        self.state().clock = clock;
        self
    }

    /// Returns the issuer's identifier, as it was given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the URL of the token endpoint.
    pub fn token_endpoint(&self) -> String {
        self.endpoint(routes::TOKEN)
    }

    /// Returns the URL of the introspection endpoint.
    pub fn introspection_endpoint(&self) -> String {
        self.endpoint(routes::INTROSPECTION)
    }

    /// Begins a token for this subject, with any claims.
    ///
    /// It has `iss`, `sub`, `client_id`, `iat`, `exp` and `jti`, and needs an
    /// [audience](TestToken::audience) for most validators.
    pub fn token(&self, subject: &str) -> TestToken {
        TestToken::new(self, self.new_claims(subject, ANY_CLIENT))
    }

    /// Returns the identity that a validator makes of a token of this subject for `audience`, with that token.
    ///
    /// ```
    /// use tower_identity::testing::TestIssuer;
    ///
    /// let issuer = TestIssuer::new("https://idp.example.com");
    /// let alice = issuer.identity("alice", "https://gateway.example.com");
    /// assert!(alice.token().is_some());
    /// ```
    ///
    /// # Panics
    ///
    /// If the subject is blank.
    #[track_caller]
    pub fn identity(&self, subject: &str, audience: &str) -> Identity {
        let token = self.token(subject).audience(audience).sign();
        let claims = self.claims(&token).unwrap_or_default();
        Identity::builder(subject)
            .issuer(&*self.url)
            .token(access_token(token))
            .claims(claims)
            .build()
            .expect("an identity has a subject")
    }

    /// Returns the claims of an access token or an ID token of this issuer that is good now. `None` if it is expired,
    /// revoked or not one of this issuer.
    ///
    /// ```
    /// use std::{sync::Arc, time::{Duration, SystemTime}};
    /// use tower_identity::{ManualClock, testing::TestIssuer};
    ///
    /// let clock = Arc::new(ManualClock::new(SystemTime::now()));
    /// let issuer = TestIssuer::new("https://idp.example.com").clock(clock.clone());
    /// let token = issuer.token("alice").sign();
    /// assert_eq!(issuer.claims(&token).unwrap()["sub"], "alice");
    /// clock.advance(Duration::from_secs(3600));
    /// assert_eq!(issuer.claims(&token), None);
    /// ```
    pub fn claims(&self, token: &str) -> Option<Map<String, Value>> {
        let state = self.state();
        let claims = if is_jwt(token) {
            let keys: Vec<_> = state.keys.iter().map(Key::jwk).collect();
            let claims = verified(token, &keys)?;
            let is_own = claims.get("iss").and_then(Value::as_str) == Some(&*self.url);
            (is_own && !state.revoked.contains(token)).then_some(claims)
        } else {
            let kept = state.kept.get(token)?;
            let is_good = kept.kind == Kind::Access && !state.is_revoked(kept.grant);
            is_good.then(|| kept.claims.clone())
        };
        let now = seconds(state.clock.now());
        let is_fresh = |claims: &Map<String, Value>| {
            let end = claims.get("exp").and_then(Value::as_u64);
            end.is_none_or(|end| now < end)
        };
        claims.filter(is_fresh)
    }

    /// Logs a user in, and returns the tokens that a login brings, for an
    /// [`UpstreamTokenStore`](crate::UpstreamTokenStore).
    ///
    /// The access token is a JWT for `audience`, or opaque without one. Any client may use its ID token and
    /// its refresh token. [`authorize`](Self::authorize) is the login by browser.
    ///
    /// ```
    /// use tower_identity::{
    ///     MemoryStore, UpstreamTokenStore, testing::TestIssuer, upstream::TokenOwner,
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let github = TestIssuer::new("https://github.example.com");
    /// let store = MemoryStore::new();
    /// let alice = TokenOwner::new("https://idp.example.com", "alice")?;
    /// store.put(&alice, "github", &github.log_in("alice", None)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn log_in<'a>(
        &self,
        subject: &str,
        audience: impl Into<Option<&'a str>>,
    ) -> ProviderTokens {
        let grant = self.grant(Grant {
            subject: subject.to_owned(),
            client_id: None,
            scope: Some("openid".to_owned()),
            resource: audience.into().map(str::to_owned),
            nonce: None,
            dpop_jkt: None,
            is_revoked: false,
        });
        let issued = self.issue(grant, ANY_CLIENT, None);
        let (now, lifetime) = (self.now(), self.state().lifetime);
        let mut token =
            UpstreamToken::new(access_token(issued.access_token)).with_expires_at(now + lifetime);
        if let Some(id_token) = issued.id_token {
            token = token.with_id_token(secret(id_token));
        }
        ProviderTokens::new(token, now).with_refresh_token(secret(issued.refresh_token))
    }

    /// Revokes all that logins of this user brought: access tokens and refresh tokens. A later login is not affected.
    ///
    /// A refresh is then refused with `invalid_grant`. JWTs stay good until they expire, as elsewhere.
    pub fn revoke_logins(&self, subject: &str) {
        for grant in &mut self.state().grants {
            grant.is_revoked |= grant.subject == subject;
        }
    }

    /// Revokes one token. With a refresh token, all tokens of that login are revoked.
    pub fn revoke(&self, token: &str) {
        let mut state = self.state();
        let kept = state.kept.get(token).map(|kept| (kept.kind, kept.grant));
        match kept {
            Some((Kind::Refresh, grant)) => state.revoke_grant(grant),
            Some((Kind::Access, _)) => drop(state.kept.remove(token)),
            None => drop(state.revoked.insert(token.to_owned())),
        }
    }

    /// Answers 503 to everything from now on, or no longer does.
    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// Answers so to the next request of the token endpoint with this grant type that has no scripted answer yet.
    ///
    /// ```
    /// use tower_identity::testing::{Answer, TestIssuer};
    ///
    /// let issuer = TestIssuer::new("https://idp.example.com");
    /// issuer.answer_next("refresh_token", Answer::oauth_error("invalid_grant"));
    /// issuer.answer_next("client_credentials", Answer::connection_lost());
    /// ```
    pub fn answer_next(&self, grant_type: &str, answer: Answer) {
        let mut state = self.state();
        let next = state.next.entry(grant_type.to_owned()).or_default();
        next.push_back(answer);
    }

    /// Sets how long the tokens are good that are issued from now on. By default an hour.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.state().lifetime = lifetime;
    }

    /// Admits this client, and no longer every other one.
    ///
    /// The client must authenticate with the same ID and secret, the same assertion, or a JWT that the same
    /// [key](crate::oauth::PrivateKeyJwt) signed. A public client has only an ID.
    ///
    /// ```
    /// use tower_identity::{ClientAuth, Secret, testing::TestIssuer};
    ///
    /// let issuer = TestIssuer::new("https://idp.example.com");
    /// let gateway = ClientAuth::basic("gateway", Secret::new("7Fjfp0ZBr1KtDRbn")?);
    /// issuer.register_client(&gateway);
    /// # Ok::<(), tower_identity::InvalidSecret>(())
    /// ```
    pub fn register_client(&self, client: &ClientAuth) {
        self.state().clients.push(client.clone());
    }

    /// Issues tokens for this `resource` or `audience`, and no longer for every other one (`invalid_target`).
    pub fn register_resource(&self, resource: &str) {
        self.state().resources.push(resource.to_owned());
    }

    /// Takes JWTs of another issuer, too: as `subject_token`, as `actor_token`, and as an assertion that is for this issuer.
    pub fn trust(&self, issuer: &TestIssuer) {
        self.state().trusted.push(issuer.clone());
    }

    /// Signs with a new key from now on. The old keys stay published.
    pub fn rotate_keys(&self) {
        self.state().keys.insert(0, Key::new());
    }

    /// Publishes only the newest key from now on, so that tokens of the old ones are no longer good.
    pub fn withdraw_old_keys(&self) {
        self.state().keys.truncate(1);
    }

    /// Returns all requests so far, in the order in which they came.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.state().requests.clone()
    }

    /// Returns all requests of the token endpoint with this grant type so far, for example `refresh_token`.
    pub fn token_requests(&self, grant_type: &str) -> Vec<ReceivedRequest> {
        let mut requests = self.requests();
        requests.retain(|request| {
            self.is_at(request, routes::TOKEN)
                && request.parameter("grant_type").as_deref() == Some(grant_type)
        });
        requests
    }

    pub(super) fn origin(&self) -> Origin {
        self.origin.clone()
    }

    fn endpoint(&self, path: &str) -> String {
        format!("{}{path}", self.url.trim_end_matches('/'))
    }

    pub(super) fn now(&self) -> SystemTime {
        let clock = self.state().clock.clone();
        clock.now()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_claims(&self, subject: &str, client_id: &str) -> Map<String, Value> {
        let lifetime = self.state().lifetime;
        let now = seconds(self.now());
        let claims: [(&str, Value); 6] = [
            ("jti", random_text().into()),
            ("sub", subject.into()),
            ("iat", now.into()),
            ("exp", now.saturating_add(lifetime.as_secs()).into()),
            ("client_id", client_id.into()),
            ("iss", (*self.url).into()),
        ];
        let claims = claims.into_iter();
        claims
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    fn sign(
        &self,
        header_type: &str,
        header: Map<String, Value>,
        claims: Map<String, Value>,
    ) -> String {
        let state = self.state();
        let key = state.keys.first().expect("an issuer has a key");
        key.sign(header_type, header, claims)
    }

    fn keep(&self, kind: Kind, claims: Map<String, Value>, grant: Option<usize>) -> String {
        let token = random_text();
        let kept = Kept {
            kind,
            claims,
            grant,
            is_spent: false,
        };
        self.state().kept.insert(token.clone(), kept);
        token
    }

    fn grant(&self, grant: Grant) -> usize {
        let mut state = self.state();
        state.grants.push(grant);
        state.grants.len() - 1
    }
}

impl fmt::Debug for TestIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestIssuer")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

fn access_token(text: String) -> AccessToken {
    AccessToken::new(text).expect("a token is visible ASCII")
}

fn secret(text: String) -> Secret {
    Secret::new(text).expect("a token is visible ASCII")
}
