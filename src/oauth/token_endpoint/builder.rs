use std::{fmt, sync::Arc, time::Duration};

#[cfg(feature = "dpop")]
use crate::oauth::{dpop::keys::DpopKeys, response::Binding};
use crate::{
    clock::{Clock, DefaultClock},
    error::{AuthErrorKind, BuildError, Faults},
    oauth::{
        client_auth::ClientAuth,
        http_client::{HttpClient, parse_url},
        refusal::OwnRows,
        response::Dialect,
    },
};

#[cfg(feature = "hyper")]
use crate::client::hyper::CertificateSource;

use super::{Inner, TokenEndpoint};

const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Builds a [`TokenEndpoint`].
///
/// Needs the feature `token-exchange`.
#[must_use = "nothing is checked before `build`"]
pub struct TokenEndpointBuilder {
    url: String,
    issuer: Option<String>,
    insecure: bool,
    client_auth: Option<ClientAuth>,
    #[cfg(feature = "hyper")]
    certificate: Option<CertificateSource>,
    time_limit: Duration,
    own_rows: OwnRows,
    dialect: Dialect,
    clock: Arc<dyn Clock>,
    client: HttpClient,
    #[cfg(feature = "dpop")]
    dpop: Option<DpopKeys>,
    #[cfg(feature = "dpop")]
    allows_bearer_tokens: bool,
}

impl TokenEndpointBuilder {
    pub(super) fn new(url: String, client: HttpClient) -> Self {
        Self {
            url,
            issuer: None,
            insecure: false,
            client_auth: None,
            #[cfg(feature = "hyper")]
            certificate: None,
            time_limit: TIME_LIMIT,
            own_rows: OwnRows::default(),
            dialect: Dialect::STANDARD,
            clock: DefaultClock::get(),
            client,
            #[cfg(feature = "dpop")]
            dpop: None,
            #[cfg(feature = "dpop")]
            allows_bearer_tokens: false,
        }
    }

    /// Sets how the client authenticates (RFC 6749 §2.3), and nothing else is tried. By default a request has neither a
    /// `client_id` nor a secret.
    pub fn client_auth(mut self, client_auth: ClientAuth) -> Self {
        self.client_auth = Some(client_auth);
        self
    }

    /// Says which certificate the endpoint's HTTP client presents. Tokens are then cached for this certificate: when its
    /// files are replaced, new tokens are requested. By default it is not known.
    ///
    /// It is the same source that the [client](crate::client::hyper::HttpsClientBuilder::client_certificate) has, and the
    /// client of the backend, too. Set it where the issuer binds the tokens to the certificate (RFC 8705 §3), because a token
    /// that is bound to an older certificate is refused over a new connection.
    ///
    /// Needs the feature `hyper`.
    #[cfg(feature = "hyper")]
    pub fn client_certificate(mut self, certificate: CertificateSource) -> Self {
        self.certificate = Some(certificate);
        self
    }

    /// Sets the issuer identifier of the authorization server (RFC 8414 §2), which is the audience of
    /// [`PrivateKeyJwt`](crate::oauth::PrivateKeyJwt) assertions. It is compared exactly. By default it is not known.
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use http_body_util::Full;
    /// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    /// use tower_identity::TokenEndpoint;
    ///
    /// # let client = Client::builder(TokioExecutor::new())
    /// #     .build_http::<Full<Bytes>>();
    /// let endpoint =
    ///     TokenEndpoint::builder("https://idp.example.com/token", client)
    ///         .issuer("https://idp.example.com")
    ///         .build()?;
    /// # Ok::<(), tower::BoxError>(())
    /// ```
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Sets the time limit of a request, from waiting for the client's readiness to the last byte of the answer. By default
    /// 30 s.
    pub fn time_limit(mut self, time_limit: Duration) -> Self {
        self.time_limit = time_limit;
        self
    }

    /// Sets the kind of error that an error code of this issuer is.
    ///
    /// The codes of widely used issuers are known, see the [table](TokenEndpoint#refusals). A code that you set wins
    /// over the table and over the status, except over 429. It is compared as the issuer writes it, in the member
    /// `error`.
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use http_body_util::Full;
    /// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    /// use tower_identity::{AuthErrorKind, TokenEndpoint};
    ///
    /// # let client = Client::builder(TokioExecutor::new())
    /// #     .build_http::<Full<Bytes>>();
    /// // This issuer has a code for users who may log in at 9 o'clock.
    /// let endpoint =
    ///     TokenEndpoint::builder("https://idp.example.com/token", client)
    ///         .refusal("outside_working_hours", AuthErrorKind::Unavailable)
    ///         .build()?;
    /// # Ok::<(), tower::BoxError>(())
    /// ```
    pub fn refusal(mut self, code: impl Into<String>, kind: AuthErrorKind) -> Self {
        self.own_rows.add(code.into(), kind);
        self
    }

    /// Binds tokens to a key (DPoP, RFC 9449): each request has a proof, and the token that is issued has the type `DPoP`.
    ///
    /// Needs the feature `dpop`.
    ///
    /// A request that fails because the server wants a nonce in the proof (`use_dpop_nonce`, RFC 9449 §8) is sent once
    /// more with it, within the same [time limit](Self::time_limit) and with a new client assertion. The newest nonce of
    /// the server is in each further proof.
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use http_body_util::Full;
    /// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    /// use tower_identity::{TokenEndpoint, oauth::DpopKey};
    ///
    /// # let client = Client::builder(TokioExecutor::new())
    /// #     .build_http::<Full<Bytes>>();
    /// let endpoint =
    ///     TokenEndpoint::builder("https://idp.example.com/token", client)
    ///         .dpop(DpopKey::generate()?)
    ///         .build()?;
    /// # Ok::<(), tower::BoxError>(())
    /// ```
    ///
    /// # Security
    ///
    /// A server that does not know DPoP issues a bearer token, which can be used by whoever steals it. Such an answer is
    /// refused with [`Configuration`](AuthErrorKind::Configuration), unless
    /// [`allow_bearer_tokens`](Self::allow_bearer_tokens) was called.
    #[cfg(feature = "dpop")]
    pub fn dpop(mut self, keys: impl Into<DpopKeys>) -> Self {
        self.dpop = Some(keys.into());
        self
    }

    /// Accepts tokens that are not bound to a key beside those that are, for a server that does not know
    /// [DPoP](Self::dpop) yet. Without `dpop` this changes nothing.
    ///
    /// Needs the feature `dpop`.
    #[cfg(feature = "dpop")]
    pub fn allow_bearer_tokens(mut self) -> Self {
        self.allows_bearer_tokens = true;
        self
    }

    #[cfg(feature = "linking")]
    pub(crate) fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// Lets the scheme be plain `http` on any host.
    ///
    /// # Security
    ///
    /// Everybody who can read the network can then read the secrets and the tokens. Use it only in a network that is
    /// trusted itself.
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Sets the clock that client assertions are dated with, and a `Retry-After` date is compared with.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes the endpoint.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when one of these settings is wrong:
    ///
    /// - `url` is not an absolute `https` URL (or `http` on loopback), or has a fragment (RFC 6749 §3.2) or user info.
    /// - `issuer` is blank.
    /// - `client_auth.client_id` is blank, or has a line break or another character that cannot be seen.
    /// - `client_auth.secret` has such a character.
    /// - `time_limit` is zero.
    /// - `refusal` has an error code that RFC 6749 §5.2 does not allow, or a kind other than `Rejected`,
    ///   `InsufficientScope`, `Configuration` and `Unavailable`.
    pub fn build(self) -> Result<TokenEndpoint, BuildError> {
        let mut faults = Faults::new("TokenEndpoint");
        let url = faults.take("url", parse_url(&self.url, self.insecure));
        faults.need_text_if_set("issuer", self.issuer.as_deref());
        if let Some(client_auth) = &self.client_auth {
            client_auth.check(&mut faults);
        }
        if self.time_limit.is_zero() {
            faults.add(
                "time_limit",
                "is zero, so no answer could be in time; 30 s is the default",
            );
        }
        self.own_rows.check(&mut faults);
        let (uri, origin) = faults.or(url)?;
        #[cfg(feature = "dpop")]
        let dialect = Dialect {
            binding: match self.dpop {
                Some(_) if self.allows_bearer_tokens => Binding::Either,
                Some(_) => Binding::Dpop,
                None => Binding::Bearer,
            },
            ..self.dialect
        };
        #[cfg(not(feature = "dpop"))]
        let dialect = self.dialect;
        Ok(TokenEndpoint {
            inner: Arc::new(Inner {
                uri,
                origin,
                client_auth: self.client_auth,
                #[cfg(feature = "hyper")]
                certificate: self.certificate,
                time_limit: self.time_limit,
                own_rows: self.own_rows,
                dialect,
                clock: self.clock,
                client: self.client,
                #[cfg(feature = "dpop")]
                binding: self.dpop.map(super::dpop::Binding::new),
            }),
            issuer: self.issuer.map(Into::into),
        })
    }
}

impl fmt::Debug for TokenEndpointBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenEndpointBuilder")
            .field("client_auth", &self.client_auth)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}
