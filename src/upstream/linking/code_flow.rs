use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, Response, Uri, header::SET_COOKIE};
use http_body_util::Full;

use crate::{
    clock::{Clock, DefaultClock},
    error::{AuthError, AuthErrorKind, BuildError, Faults},
    identity::Identity,
    oauth::{
        client_auth::ClientAuth,
        http_client::{BoxFuture, parse_url},
    },
    upstream::{
        OAuthProvider, ProviderTokens, SealingKey, TokenOwner, UpstreamFuture,
        bound_key::Key,
        oauth_provider::{Answered, Ask},
        store::UpstreamTokenStore,
    },
};

use super::{
    authorization_response::AuthorizationResponse,
    browser::{cookie, is_local_path, redirect, secrets_of},
    id_token,
    link_error::{LinkError, LinkErrorKind},
    state::{Place, State},
};

/// How long a user has between the start and the way back.
const LIFETIME: Duration = Duration::from_secs(600);

/// The authorization code flow with PKCE at one provider (RFC 6749 §4.1, RFC 7636), for a
/// login to your application.
///
/// Needs the feature `linking`.
///
/// [`AccountLinking`](crate::AccountLinking) uses it to link accounts. Use it directly to
/// log users in to your application:
///
/// ```no_run
/// use bytes::Bytes;
/// use http::{HeaderMap, Response, Uri};
/// use http_body_util::Full;
/// use tower_identity::upstream::linking::{CodeFlow, LinkError};
///
/// /// `GET /login`
/// async fn log_in(
///     flow: &CodeFlow,
///     headers: &HeaderMap,
/// ) -> Result<Response<Full<Bytes>>, LinkError> {
///     flow.start(headers, None, "/accounts").await
/// }
///
/// /// `GET /login/callback`
/// async fn come_back(
///     flow: &CodeFlow,
///     uri: &Uri,
///     headers: &HeaderMap,
/// ) -> Result<String, LinkError> {
///     let finished = flow.finish(uri, headers, None).await?;
///     let user = finished.identity();
///     Ok(user.map_or_else(String::new, |user| user.subject().to_owned()))
/// }
/// ```
///
/// # What is checked
///
/// | on the way back | requirement |
/// | --- | --- |
/// | `state` | sealed by a replica with the same keys, for this redirect URI and this browser, in the last 10 minutes, and not used before |
/// | the user | the same as at the start |
/// | `iss` (RFC 9207) | the provider's, if it is there. It must be there if the provider's metadata announces it |
/// | `code` | exchanged with the `code_verifier` and the exact redirect URI |
/// | the ID token | as [`TokenValidator`](crate::TokenValidator#what-is-checked) checks tokens, with this client as audience and `azp`, and the `nonce` of this login |
///
/// The browser is known by a cookie with the prefix `__Host-`, `Secure`, `HttpOnly` and
/// `SameSite=Lax`. Several logins of one browser may be under way, and may start at once.
#[derive(Clone)]
pub struct CodeFlow {
    inner: Arc<Inner>,
}

struct Inner {
    provider: OAuthProvider,
    redirect_uri: String,
    store: Arc<dyn UpstreamTokenStore>,
    keys: Vec<SealingKey>,
    clock: Arc<dyn Clock>,
}

/// The outcome of a [`CodeFlow`], which has an example.
///
/// Needs the feature `linking`.
#[derive(Clone, Debug)]
pub struct Finished {
    tokens: ProviderTokens,
    identity: Option<Identity>,
    return_to: String,
}

impl Finished {
    /// The tokens that the provider issued.
    pub fn tokens(&self) -> &ProviderTokens {
        &self.tokens
    }

    /// The user, as the provider's ID token names them. `None` if none was asked for.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// The path that was given at the start.
    pub fn return_to(&self) -> &str {
        &self.return_to
    }
}

impl CodeFlow {
    /// A flow at `provider`, which sends browsers back to `redirect_uri`. Register exactly this URI there.
    ///
    /// `store` has the keys that seal the state of a login, and remembers which were used.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when `redirect_uri` is not an absolute `https` URL (or `http` on loopback), or `store` has no
    /// [sealing keys](UpstreamTokenStore::sealing_keys).
    pub fn new<S>(
        provider: OAuthProvider,
        redirect_uri: impl Into<String>,
        store: S,
    ) -> Result<Self, BuildError>
    where
        S: UpstreamTokenStore + 'static,
    {
        let redirect_uri = redirect_uri.into();
        let mut faults = Faults::new("CodeFlow");
        faults.take("redirect_uri", parse_url(&redirect_uri, false));
        if store.sealing_keys().is_empty() {
            faults.add("store", NO_KEYS);
        }
        faults.check()?;
        Ok(Self::of(
            provider,
            redirect_uri,
            Arc::new(store),
            DefaultClock::get(),
        ))
    }

    /// Sets the [clock](trait@Clock#setting-the-clock).
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        let inner = &self.inner;
        Self::of(
            inner.provider.clone(),
            inner.redirect_uri.clone(),
            Arc::clone(&inner.store),
            clock,
        )
    }

    pub(super) fn of(
        provider: OAuthProvider,
        redirect_uri: String,
        store: Arc<dyn UpstreamTokenStore>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                provider,
                redirect_uri,
                keys: store.sealing_keys().to_vec(),
                store,
                clock,
            }),
        }
    }

    pub(super) fn client_id(&self) -> &str {
        self.inner.provider.client_id()
    }

    pub(super) fn client_auth(&self) -> &ClientAuth {
        self.inner.provider.client_auth()
    }

    /// The redirect URI, as it must be registered.
    pub fn redirect_uri(&self) -> &str {
        &self.inner.redirect_uri
    }

    /// Sends the browser that sent `headers` to the provider.
    ///
    /// `user` is the user who starts, if they are known already. [`finish`](Self::finish) must be called with the same.
    /// `return_to` is a path on this host for the end of the flow, at most 512 bytes. Another value counts as `/`.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](LinkErrorKind::Unavailable) or [`Configuration`](LinkErrorKind::Configuration), if the provider's
    /// metadata cannot be read.
    pub fn start(
        &self,
        headers: &HeaderMap,
        user: Option<&TokenOwner>,
        return_to: &str,
    ) -> CodeFlowFuture<Response<Full<Bytes>>> {
        let inner = Arc::clone(&self.inner);
        let secret = secrets_of(headers).next().map(str::to_owned);
        let key = inner.provider.key(user);
        let user = bytes_of(user);
        let return_to = if is_local_path(return_to) {
            return_to
        } else {
            "/"
        };
        let return_to = return_to.to_owned();
        CodeFlowFuture::new(async move { inner.start(secret, user, key?, &return_to).await })
    }

    /// Takes the browser's request for the redirect URI, and exchanges the code in it.
    ///
    /// # Errors
    ///
    /// [`LinkError`], which says what was [wrong](LinkErrorKind). Nothing was stored then.
    ///
    /// # Cancellation
    ///
    /// A code can be exchanged only once. If the future is dropped, for example because the browser goes away, the user has to
    /// start again. To prevent this, spawn it as a task.
    pub fn finish(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        user: Option<&TokenOwner>,
    ) -> CodeFlowFuture<Finished> {
        let inner = Arc::clone(&self.inner);
        let answer = AuthorizationResponse::read(uri.query().unwrap_or_default());
        let secrets = secrets_of(headers).map(str::to_owned).collect();
        let key = inner.provider.key(user);
        let user = bytes_of(user);
        CodeFlowFuture::new(async move { inner.finish(answer?, secrets, user, key?).await })
    }
}

pub(super) const NO_KEYS: &str =
    "has no sealing keys, return them from `UpstreamTokenStore::sealing_keys`";

/// Stands for the user who starts. No hash is all zeros.
fn bytes_of(user: Option<&TokenOwner>) -> [u8; 32] {
    user.map_or([0; 32], |user| user.key().to_bytes())
}

impl Inner {
    async fn start(
        &self,
        secret: Option<String>,
        user: [u8; 32],
        key: Option<Key>,
        return_to: &str,
    ) -> Result<Response<Full<Bytes>>, LinkError> {
        let secret = match secret {
            Some(secret) => secret,
            None => new_secret()?,
        };
        let state = State::new(self.clock.now(), user, return_to).map_err(no_random)?;
        let sealing_key = self.keys.first().ok_or(LinkErrorKind::Configuration)?;
        let sealed = state.seal(&self.place(&secret), sealing_key)?;
        let (code_challenge, nonce) = (state.code_challenge(), state.nonce());
        let ask = Ask {
            redirect_uri: &self.redirect_uri,
            state: &sealed,
            code_challenge: &code_challenge,
            nonce: &nonce,
            key: key.as_ref(),
        };
        let location = self.provider.authorization_url(&ask).await?;
        let cookie = cookie(&secret, LIFETIME.as_secs()).ok_or(LinkErrorKind::Configuration)?;
        let mut response = redirect(&location).ok_or(LinkErrorKind::Configuration)?;
        response.headers_mut().insert(SET_COOKIE, cookie);
        Ok(response)
    }

    async fn finish(
        &self,
        answer: AuthorizationResponse,
        secrets: Vec<String>,
        user: [u8; 32],
        key: Option<Key>,
    ) -> Result<Finished, LinkError> {
        let mut secrets = secrets.iter();
        let state = secrets
            .find_map(|secret| State::open(&answer.state, &self.place(secret), &self.keys))
            .ok_or(LinkErrorKind::OtherBrowser)?;
        let finished = self.answered(&answer, &state, user, key).await;
        finished.map_err(|error| error.returning_to(&state.return_to))
    }

    async fn answered(
        &self,
        answer: &AuthorizationResponse,
        state: &State,
        user: [u8; 32],
        key: Option<Key>,
    ) -> Result<Finished, LinkError> {
        let now = self.clock.now();
        // A clock may differ from that of the replica where it began.
        let age = now.duration_since(state.made_at).unwrap_or_default();
        if age > LIFETIME {
            return Err(LinkErrorKind::Late.into());
        }
        if state.user != user {
            return Err(LinkErrorKind::OtherUser.into());
        }
        if !self.use_once(state.id()).await? {
            return Err(LinkErrorKind::Used.into());
        }
        let issuer = answer.issuer.as_deref();
        if !self.provider.is_response_of(issuer).await? {
            return Err(LinkErrorKind::MixedUp.into());
        }
        let code_verifier = state.code_verifier();
        let answered = Answered {
            code: answer.code()?,
            code_verifier: &code_verifier,
            redirect_uri: &self.redirect_uri,
            key: key.as_ref(),
        };
        let tokens = self.provider.exchange(&answered, now).await?;
        let nonce = state.nonce();
        let identity = id_token::check(&self.provider, &tokens, &nonce).await;
        let identity = identity.map_err(|error| match error.kind() {
            AuthErrorKind::Unavailable => LinkError::from(error),
            _ => LinkError::from(LinkErrorKind::IdToken).with_source(error),
        })?;
        Ok(Finished {
            tokens: if identity.is_some() {
                tokens
            } else {
                tokens.without_id_token()
            },
            identity,
            return_to: state.return_to.clone(),
        })
    }

    async fn use_once(&self, id: [u8; 32]) -> Result<bool, AuthError> {
        // Longer than the state is accepted, for clocks that differ.
        let used: UpstreamFuture<'_, bool> =
            self.store.use_once(id, fastrand::u128(..), LIFETIME * 2);
        used.await
    }

    fn place<'a>(&'a self, browser: &'a str) -> Place<'a> {
        Place {
            redirect_uri: &self.redirect_uri,
            browser,
        }
    }
}

fn new_secret() -> Result<String, LinkError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(no_random)?;
    Ok(URL_SAFE_NO_PAD.encode(secret))
}

#[cold]
fn no_random(error: getrandom::Error) -> LinkError {
    let fault = "the operating system has no random numbers, so no login can begin";
    AuthError::new(AuthErrorKind::Configuration, fault)
        .with_source(error)
        .into()
}

impl fmt::Debug for CodeFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeFlow")
            .field("provider", &self.inner.provider)
            .field("redirect_uri", &self.inner.redirect_uri)
            .finish_non_exhaustive()
    }
}

/// The future of [`CodeFlow::start`] and [`CodeFlow::finish`].
///
/// Needs the feature `linking`.
///
/// [`CodeFlow`](crate::upstream::linking::CodeFlow) has an example.
#[must_use = "futures do nothing unless polled"]
pub struct CodeFlowFuture<T> {
    future: BoxFuture<Result<T, LinkError>>,
}

impl<T> CodeFlowFuture<T> {
    fn new(future: impl Future<Output = Result<T, LinkError>> + Send + 'static) -> Self {
        Self {
            future: Box::pin(future),
        }
    }
}

impl<T> Future for CodeFlowFuture<T> {
    type Output = Result<T, LinkError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.future.as_mut().poll(cx)
    }
}

impl<T> fmt::Debug for CodeFlowFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeFlowFuture").finish_non_exhaustive()
    }
}
