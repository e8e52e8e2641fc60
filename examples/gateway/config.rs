//! The content of the gateway's file. See `gateway.yaml`.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use serde::Deserialize;
use tower::BoxError;
use tower_identity::{
    ClientAuth, Clock, OutgoingAuthConfig, Secret,
    client::hyper::HttpsClient,
    upstream::{OAuthProvider, ProviderSettings},
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Config {
    /// The gateway's URL, as clients and browsers see it. Each backend is found under its name there.
    pub(super) url: String,
    pub(super) issuer: String,
    /// Another `aud` of callers' tokens than the URL of the backend, for an issuer that has no resource indicators.
    pub(super) audience: Option<String>,
    /// The scopes that callers should ask the issuer for. A token need not have them.
    #[serde(default)]
    pub(super) scopes: Vec<String>,
    /// Pages on which users link accounts. Without them, another application stores their tokens.
    pub(super) accounts: Option<AccountsConfig>,
    /// Where upstream tokens are kept, for several replicas. By default in this process.
    pub(super) redis: Option<String>,
    #[serde(default)]
    pub(super) providers: BTreeMap<String, ProviderConfig>,
    pub(super) backends: BTreeMap<String, String>,
    pub(super) outgoing_auth: OutgoingAuthConfig,
}

impl Config {
    pub(crate) fn from_yaml(text: &str) -> Result<Self, serde_saphyr::Error> {
        // Without snippets: an error would quote the lines around it, with secrets.
        let options = serde_saphyr::options! { with_snippet: false };
        serde_saphyr::from_str_with_options(text, options)
    }
}

/// Where the secrets of the file are, and how providers are asked.
pub(super) struct Asking<'a> {
    pub(super) environment: fn(&str) -> Option<String>,
    pub(super) client: &'a HttpsClient<Full<Bytes>>,
    pub(super) clock: &'a Arc<dyn Clock>,
}

impl Asking<'_> {
    fn secret(&self, variable: &str) -> Result<Secret, BoxError> {
        let secret = (self.environment)(variable);
        let secret = secret.ok_or_else(|| format!("the variable {variable} is not set"))?;
        Ok(Secret::new(secret)?)
    }

    fn provider(
        &self,
        settings: ProviderSettings,
        client_auth: ClientAuth,
    ) -> Result<OAuthProvider, BoxError> {
        let provider = OAuthProvider::builder(settings, client_auth, self.client.clone());
        Ok(provider.clock(self.clock.clone()).build()?)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct AccountsConfig {
    client_id: String,
    client_secret_env: String,
}

impl AccountsConfig {
    /// The issuer, at which users log in to the pages.
    pub(super) fn issuer(
        &self,
        issuer: &str,
        asking: &Asking<'_>,
    ) -> Result<OAuthProvider, BoxError> {
        let secret = asking.secret(&self.client_secret_env)?;
        let settings = ProviderSettings::discovered(issuer).scopes(["openid"]);
        asking.provider(settings, ClientAuth::basic(&self.client_id, secret))
    }
}

/// A provider by its name (`kind`), by its issuer's metadata, or by its two URLs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ProviderConfig {
    kind: Option<String>,
    issuer: Option<String>,
    authorization_url: Option<String>,
    token_url: Option<String>,
    client_id: String,
    client_secret_env: String,
    #[serde(default)]
    scopes: Vec<String>,
    resource: Option<String>,
}

impl ProviderConfig {
    pub(super) fn client(&self, asking: &Asking<'_>) -> Result<OAuthProvider, BoxError> {
        let secret = asking.secret(&self.client_secret_env)?;
        // GitHub reads them of the form.
        let client_auth = match self.kind.as_deref() {
            Some("github") => ClientAuth::post(&self.client_id, secret),
            _ => ClientAuth::basic(&self.client_id, secret),
        };
        asking.provider(self.settings()?, client_auth)
    }

    fn settings(&self) -> Result<ProviderSettings, BoxError> {
        let urls = self.authorization_url.as_ref().zip(self.token_url.as_ref());
        let settings = match (self.kind.as_deref(), &self.issuer, urls) {
            (Some("github"), None, None) => ProviderSettings::github(),
            (Some("google"), None, None) => ProviderSettings::google(),
            (Some("microsoft"), None, None) => ProviderSettings::microsoft("common"),
            (Some("slack"), None, None) => ProviderSettings::slack(),
            (Some("atlassian"), None, None) => ProviderSettings::atlassian(),
            (Some("linkedin"), None, None) => ProviderSettings::linkedin(),
            (Some("okta"), Some(issuer), None) => ProviderSettings::okta(issuer),
            (Some("auth0"), Some(issuer), None) => {
                let domain = issuer.trim_start_matches("https://");
                ProviderSettings::auth0(domain.trim_end_matches('/'))
            }
            (None, Some(issuer), None) => ProviderSettings::discovered(issuer),
            (None, None, Some((authorization, token))) => {
                ProviderSettings::new(authorization, token)
            }
            _ => return Err("it needs a known `kind`, an `issuer`, or both URLs".into()),
        };
        let settings = settings.scopes(self.scopes.iter().cloned());
        Ok(match &self.resource {
            Some(resource) => settings.resource(resource),
            None => settings,
        })
    }
}
