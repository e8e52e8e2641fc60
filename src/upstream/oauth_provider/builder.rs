use std::{fmt, sync::Arc};

#[cfg(feature = "dpop")]
use crate::oauth::DpopKeys;
use crate::{
    clock::{Clock, DefaultClock},
    error::{BuildError, Faults},
    incoming::{
        issuer::{Issuer, ServerDiscovery},
        validator::{TokenValidator, builder::TokenValidatorBuilder},
    },
    oauth::{client_auth::ClientAuth, http_client::HttpClient, token_endpoint::TokenEndpoint},
};

use super::{
    Inner, OAuthProvider,
    server::{Binding, Endpoints, Server, Source, endpoint},
    settings::{Place, ProviderSettings},
};

/// Builds an [`OAuthProvider`].
///
/// Needs the feature `linking`.
#[must_use = "nothing is checked before `build`"]
pub struct OAuthProviderBuilder {
    settings: ProviderSettings,
    client_auth: ClientAuth,
    client: HttpClient,
    presents_certificate: bool,
    client_is_registered: bool,
    insecure: bool,
    clock: Arc<dyn Clock>,
    binding: Binding,
}

impl OAuthProviderBuilder {
    pub(super) fn new(
        settings: ProviderSettings,
        client_auth: ClientAuth,
        client: HttpClient,
    ) -> Self {
        Self {
            settings,
            presents_certificate: client_auth.is_tls(),
            client_auth,
            client,
            client_is_registered: false,
            insecure: false,
            clock: DefaultClock::get(),
            binding: Binding::default(),
        }
    }

    /// Says that the HTTP client presents a certificate, to which the provider binds the tokens (RFC 8705 §3), although the
    /// client authenticates in another way.
    ///
    /// The token endpoint is then the one in the metadata's `mtls_endpoint_aliases`, if there is one (RFC 8705 §5). Clients
    /// with [`ClientAuth::tls_client_auth`] or [`ClientAuth::self_signed_tls_client_auth`] use it without this setting.
    ///
    /// The stored tokens do not say to which certificate they are bound. After the certificate was replaced, a user's access
    /// token is refused by backends until it expires and is refreshed, so replace the certificate long before its end, and
    /// choose a provider whose access tokens are short-lived. The refresh succeeds if the provider binds refresh tokens to
    /// the client. If it binds them to the certificate, the user must log in again: that holds for public clients
    /// ([`ClientAuth::none`], RFC 8705 §4), and at Keycloak for all.
    pub fn certificate_bound_tokens(mut self) -> Self {
        self.presents_certificate = true;
        self
    }

    /// Binds the users' tokens to a key (DPoP, RFC 9449), so that whoever steals one cannot use it.
    ///
    /// Needs the feature `dpop`.
    ///
    /// The authorization request names the key (`dpop_jkt`), and the code and each refresh token are presented with a proof
    /// of it. A key for each user ([`DpopKeys::per_user`](crate::oauth::DpopKeys::per_user)) is that of the user who starts
    /// the link. A bearer token is refused, see [`allow_bearer_tokens`](Self::allow_bearer_tokens).
    ///
    /// Where the provider's metadata has `dpop_signing_alg_values_supported` without the algorithm of the key, a link or a
    /// refresh fails with [`Configuration`](crate::AuthErrorKind::Configuration).
    ///
    /// ```
    /// # use bytes::Bytes;
    /// # use http_body_util::Full;
    /// # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    /// use tower_identity::{
    ///     ClientAuth, Secret,
    ///     oauth::DpopKeys,
    ///     upstream::{OAuthProvider, ProviderSettings},
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    /// # let secret = Secret::new("q3t6w9z$C&F)J@NcRfUjXn2r5u7x!A%D")?;
    /// // All replicas have the same secret, so they have the same keys.
    /// let keys = DpopKeys::per_user(&secret)?;
    /// let issuer = "https://login.tracker.example.com";
    /// let settings = ProviderSettings::discovered(issuer);
    /// let tracker =
    ///     OAuthProvider::builder(settings, ClientAuth::none("gateway"), client)
    ///         .dpop(keys)
    ///         .build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "dpop")]
    pub fn dpop(mut self, keys: impl Into<DpopKeys>) -> Self {
        self.binding.keys = Some(keys.into());
        self
    }

    /// Accepts tokens that are not bound to a key beside those that are, for a provider that does not know
    /// [DPoP](Self::dpop) yet. Without `dpop` this changes nothing.
    ///
    /// The refresh token of a public client may be bound all the same (RFC 9449 §5). It is presented with the key of its
    /// request alone.
    ///
    /// Needs the feature `dpop`.
    #[cfg(feature = "dpop")]
    pub fn allow_bearer_tokens(mut self) -> Self {
        self.binding.allows_bearer_tokens = true;
        self
    }

    /// Says that a client's ID which is a URL was registered at the provider.
    ///
    /// By default it is the URL of a [document](crate::upstream::linking::ClientMetadata), and an error of kind
    /// [`Configuration`](crate::AuthErrorKind::Configuration) says so where the metadata of a provider does not have
    /// `client_id_metadata_document_supported`. A provider with known endpoints has no metadata, so nothing is checked.
    pub fn client_is_registered(mut self) -> Self {
        self.client_is_registered = true;
        self
    }

    /// Lets the provider's URLs be plain `http` on any host.
    ///
    /// # Security
    ///
    /// Everybody who can read the network can then read the secrets and the tokens. Use it only in a trusted network.
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Sets the [clock](trait@Clock#setting-the-clock).
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes the client. It asks the provider for nothing before the first link or refresh.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when one of these settings is wrong:
    ///
    /// - `authorization_url`, `token_url` or `issuer` is not an absolute `https` URL (or `http` on loopback).
    /// - `scopes` has a scope that is not one word, or `resource` is not an absolute URI without a fragment.
    /// - `parameter` has the name of a parameter that the flow sets itself, or an empty value.
    /// - `client_auth.client_id` is blank, or the client's secret cannot be used.
    pub fn build(self) -> Result<OAuthProvider, BuildError> {
        let mut faults = Faults::new("OAuthProvider");
        self.settings.check(self.insecure, &mut faults);
        self.client_auth.check(&mut faults);
        let id_tokens = self.id_tokens(&mut faults);
        let endpoints = self.endpoints(&mut faults);
        let endpoints = faults.or(endpoints)?;
        Ok(OAuthProvider {
            inner: Arc::new(Inner {
                settings: self.settings,
                client_auth: self.client_auth,
                keys: self.binding.keys,
                endpoints,
                id_tokens,
            }),
        })
    }

    fn id_tokens(&self, faults: &mut Faults) -> Option<TokenValidator> {
        let issuer = self.settings.issuer.as_deref()?;
        let issuer = Issuer::of_client(issuer, self.client.clone());
        let builder = TokenValidatorBuilder::for_id_tokens(issuer, self.client_auth.client_id())
            .realm("ID token")
            .clock(Arc::clone(&self.clock));
        let builder = if self.insecure {
            builder.insecure()
        } else {
            builder
        };
        builder
            .build()
            .map_err(|error| {
                for invalid in error.invalid_settings() {
                    // The audience is the client's id, which has its own fault.
                    if invalid.setting() == "issuer" {
                        faults.add("issuer", invalid.message().to_owned());
                    }
                }
            })
            .ok()
    }

    fn endpoints(&self, faults: &mut Faults) -> Option<Endpoints> {
        match &self.settings.place {
            Place::Known {
                authorization,
                token,
            } => {
                let builder = TokenEndpoint::of_client(&**token, self.client.clone());
                let token = endpoint(
                    builder,
                    &self.settings,
                    &self.client_auth,
                    self.insecure,
                    &self.clock,
                    &self.binding,
                );
                // Each of its faults has been found already.
                let server = Server {
                    authorization: authorization.to_string(),
                    token: token.ok()?,
                    names_itself: false,
                };
                Some(Endpoints::Known(Arc::new(server)))
            }
            Place::Discovered => {
                let issuer = self.settings.issuer.as_deref().unwrap_or_default();
                let discovery = ServerDiscovery::new(issuer, self.insecure, self.client.clone());
                let discovery = match discovery {
                    Ok(discovery) => discovery,
                    // The validator of ID tokens has named it.
                    Err(_) if self.settings.issuer.is_some() => return None,
                    Err(fault) => {
                        faults.add("issuer", fault);
                        return None;
                    }
                };
                Some(Endpoints::discovered(Source {
                    discovery,
                    settings: self.settings.clone(),
                    client_auth: self.client_auth.clone(),
                    client: self.client.clone(),
                    presents_certificate: self.presents_certificate,
                    client_is_registered: self.client_is_registered,
                    insecure: self.insecure,
                    clock: Arc::clone(&self.clock),
                    binding: self.binding.clone(),
                }))
            }
        }
    }
}

impl fmt::Debug for OAuthProviderBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthProviderBuilder")
            .field("settings", &self.settings)
            .field("client_auth", &self.client_auth)
            .finish_non_exhaustive()
    }
}
