use std::{borrow::Cow, time::Duration};

use crate::{
    error::Faults,
    oauth::{
        http_client::parse_url,
        response::Dialect,
        syntax::{is_absolute_uri, is_scope},
    },
};

/// Some providers issue access tokens for 60 days.
const LONGEST: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// Parameters that the authorization code flow sets itself.
const RESERVED: [&str; 12] = [
    "client_id",
    "client_secret",
    "code_challenge",
    "code_challenge_method",
    "dpop_jkt",
    "nonce",
    "redirect_uri",
    "request",
    "request_uri",
    "response_mode",
    "response_type",
    "state",
];

/// The data of a provider that users log in at: its endpoints, the scopes to ask for, and
/// how its answers differ from the standard.
///
/// Needs the feature `linking`.
///
/// ```
/// use tower_identity::upstream::ProviderSettings;
///
/// let github = ProviderSettings::github().scopes(["repo", "read:org"]);
/// let tracker = ProviderSettings::discovered("https://login.tracker.example.com")
///     .scopes(["openid", "issues"])
///     .resource("https://mcp.tracker.example.com/mcp");
/// ```
///
/// # Known providers
///
/// | provider | scopes that are always asked for | refresh tokens | differs from the standard |
/// | --- | --- | --- | --- |
/// | [`github`](Self::github) | | an OAuth app has none, and its tokens do not expire. Those of a GitHub App rotate | an answer may be a form |
/// | [`google`](Self::google) | `openid` | one, which stays | `access_type=offline` and `prompt=consent` ask for it |
/// | [`microsoft`](Self::microsoft) | `openid offline_access` | rotate, and the old one stays valid | the issuer has the tenant in it |
/// | [`slack`](Self::slack) | | rotate, if the app has token rotation | `user_scope`, `token_type` is `user`, the user's token is in `authed_user` |
/// | [`slack_bot`](Self::slack_bot) | | rotate, if the app has token rotation | `token_type` is `bot` |
/// | [`atlassian`](Self::atlassian) | `offline_access` | rotate | `audience` and `prompt`, `token_type` may be missing |
/// | [`okta`](Self::okta) | `openid offline_access` | rotate, or stay, by the app's setting | |
/// | [`auth0`](Self::auth0) | `openid offline_access` | rotate, or stay, by the app's setting | an answer may have no lifetime |
/// | [`linkedin`](Self::linkedin) | | only some apps have them | `token_type` may be missing, tokens last for 60 days |
///
/// A deviation is accepted from the provider that is known for it, and from no other.
///
/// For other providers, [`discovered`](Self::discovered) reads the endpoints from the
/// provider's metadata (OIDC Discovery, RFC 8414), and [`new`](Self::new) takes them.
#[derive(Clone, Debug)]
#[must_use = "settings do nothing before a provider is built with them"]
pub struct ProviderSettings {
    pub(super) place: Place,
    pub(super) issuer: Option<Cow<'static, str>>,
    pub(super) scopes: Vec<Cow<'static, str>>,
    pub(super) scope_parameter: &'static str,
    pub(super) scope_separator: &'static str,
    pub(super) parameters: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    pub(super) resource: Option<String>,
    pub(super) dialect: Dialect,
}

/// Where the endpoints are.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Known {
        authorization: Cow<'static, str>,
        token: Cow<'static, str>,
    },
    /// The metadata of the issuer has them.
    Discovered,
}

impl ProviderSettings {
    /// GitHub, for an OAuth app or a GitHub App.
    ///
    /// Use [`ClientAuth::post`](crate::ClientAuth::post). A GitHub App has no scopes, because its permissions are set at
    /// GitHub.
    ///
    /// Sources: [OAuth apps](https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps),
    /// [refresh of a GitHub App's
    /// tokens](https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/refreshing-user-access-tokens),
    /// [PKCE](https://github.blog/changelog/2025-07-14-pkce-support-for-oauth-and-github-app-authentication/).
    pub fn github() -> Self {
        let mut settings = Self::known(
            "https://github.com/login/oauth/authorize",
            "https://github.com/login/oauth/access_token",
        );
        settings.dialect.answers_as_form = true;
        settings
    }

    /// Google.
    ///
    /// Google gives a refresh token only after the user has agreed on its page, so that it asks at each link.
    ///
    /// Source: [web server applications](https://developers.google.com/identity/protocols/oauth2/web-server),
    /// [metadata](https://accounts.google.com/.well-known/openid-configuration).
    pub fn google() -> Self {
        let settings = Self::known(
            "https://accounts.google.com/o/oauth2/v2/auth",
            "https://oauth2.googleapis.com/token",
        );
        settings
            .issuer("https://accounts.google.com")
            .scopes(["openid"])
            .parameter("access_type", "offline")
            .parameter("prompt", "consent")
    }

    /// Microsoft Entra, for the tenant with this id or domain, or for `common`, `organizations` or `consumers`.
    ///
    /// With the id of a tenant, ID tokens of other tenants are refused.
    ///
    /// Source: [authorization code flow](https://learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow).
    pub fn microsoft(tenant: &str) -> Self {
        let host = "https://login.microsoftonline.com";
        let settings = Self::known(
            format!("{host}/{tenant}/oauth2/v2.0/authorize"),
            format!("{host}/{tenant}/oauth2/v2.0/token"),
        );
        let is_id = tenant.len() == 36 && tenant.bytes().filter(|byte| *byte == b'-').count() == 4;
        let issuer = if is_id { tenant } else { "{tenantid}" };
        settings
            .issuer(format!("{host}/{issuer}/v2.0"))
            .scopes(["openid", "offline_access"])
    }

    /// Slack, for the user's own token.
    ///
    /// Sources: [`oauth.v2.access`](https://docs.slack.dev/reference/methods/oauth.v2.access),
    /// [token rotation](https://docs.slack.dev/authentication/using-token-rotation).
    pub fn slack() -> Self {
        let mut settings = Self::slack_bot();
        settings.scope_parameter = "user_scope";
        settings.dialect.bearer_types = &["user"];
        settings.dialect.user_member = Some("authed_user");
        settings
    }

    /// Slack, for the token of the app's bot in the user's workspace.
    ///
    /// Sources: as of [`slack`](Self::slack).
    pub fn slack_bot() -> Self {
        let mut settings = Self::known(
            "https://slack.com/oauth/v2/authorize",
            "https://slack.com/api/oauth.v2.access",
        );
        settings.scope_separator = ",";
        settings.dialect.bearer_types = &["bot"];
        settings
    }

    /// Atlassian: Jira and Confluence in the cloud (OAuth 2.0 3LO).
    ///
    /// Sources: [authorization](https://developer.atlassian.com/cloud/jira/platform/oauth-2-3lo-apps/),
    /// [refresh tokens](https://developer.atlassian.com/cloud/oauth/getting-started/refresh-tokens).
    pub fn atlassian() -> Self {
        let mut settings = Self::known(
            "https://auth.atlassian.com/authorize",
            "https://auth.atlassian.com/oauth/token",
        )
        .scopes(["offline_access"])
        .parameter("audience", "api.atlassian.com")
        .parameter("prompt", "consent");
        settings.dialect.type_is_optional = true;
        settings
    }

    /// Okta, at this authorization server, for example `https://example.okta.com/oauth2/default`.
    ///
    /// Its metadata has the endpoints.
    ///
    /// Sources: [authorization servers](https://developer.okta.com/docs/concepts/auth-servers/),
    /// [refresh tokens](https://developer.okta.com/docs/guides/refresh-tokens/main/).
    pub fn okta(issuer: impl Into<String>) -> Self {
        Self::discovered(issuer).scopes(["openid", "offline_access"])
    }

    /// Auth0, at this domain, for example `example.eu.auth0.com`.
    ///
    /// Its metadata has the endpoints. For the token of an API, name it:
    /// `.parameter("audience", "https://api.example.com")`.
    ///
    /// Sources: [authorization code
    /// flow](https://auth0.com/docs/get-started/authentication-and-authorization-flow/authorization-code-flow-with-pkce),
    /// [refresh tokens](https://auth0.com/docs/tokens/guides/get-refresh-tokens).
    pub fn auth0(domain: &str) -> Self {
        Self::discovered(format!("https://{domain}/")).scopes(["openid", "offline_access"])
    }

    /// LinkedIn.
    ///
    /// Sources: [authorization code
    /// flow](https://learn.microsoft.com/linkedin/shared/authentication/authorization-code-flow), [refresh
    /// tokens](https://learn.microsoft.com/linkedin/shared/authentication/programmatic-refresh-tokens).
    pub fn linkedin() -> Self {
        let mut settings = Self::known(
            "https://www.linkedin.com/oauth/v2/authorization",
            "https://www.linkedin.com/oauth/v2/accessToken",
        );
        settings.dialect.type_is_optional = true;
        settings
    }

    /// A provider that publishes its metadata (OIDC Discovery, RFC 8414), by its issuer identifier.
    ///
    /// The metadata is read at the first link or refresh, and again about once an hour.
    pub fn discovered(issuer: impl Into<String>) -> Self {
        Self::at(Place::Discovered).issuer(issuer.into())
    }

    /// A provider without metadata, by the URLs of its authorization endpoint and its token endpoint.
    pub fn new(authorization_url: impl Into<String>, token_url: impl Into<String>) -> Self {
        Self::known(authorization_url.into(), token_url.into())
    }

    fn known(
        authorization: impl Into<Cow<'static, str>>,
        token: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::at(Place::Known {
            authorization: authorization.into(),
            token: token.into(),
        })
    }

    fn at(place: Place) -> Self {
        Self {
            place,
            issuer: None,
            scopes: Vec::new(),
            scope_parameter: "scope",
            scope_separator: " ",
            parameters: Vec::new(),
            resource: None,
            dialect: Dialect {
                longest: LONGEST,
                ..Dialect::STANDARD
            },
        }
    }

    /// Sets the issuer identifier of an OpenID provider whose URLs were given to [`new`](Self::new).
    ///
    /// ID tokens are then checked. Without an issuer they are dropped.
    pub fn issuer(mut self, issuer: impl Into<Cow<'static, str>>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Adds scopes to ask for (RFC 6749 §3.3). With `openid`, the provider must answer with an ID token.
    pub fn scopes<I>(mut self, scopes: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<Cow<'static, str>>,
    {
        for scope in scopes {
            let scope = scope.into();
            if !self.scopes.contains(&scope) {
                self.scopes.push(scope);
            }
        }
        self
    }

    /// Sets the address of the service that the tokens are for (RFC 8707). By default there is none.
    ///
    /// It is sent with the authorization request, and with each token request.
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// Adds a parameter to the authorization request, for example `audience`, or `prompt` with `select_account`. It
    /// replaces an earlier one of this name.
    pub fn parameter(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        let name = name.into();
        self.parameters.retain(|(known, _)| *known != name);
        self.parameters.push((name, value.into()));
        self
    }

    /// The scopes as one parameter.
    pub(super) fn scope(&self) -> String {
        self.scopes.join(self.scope_separator)
    }

    /// Whether the provider identifies the user in an ID token.
    pub(super) fn wants_id_token(&self) -> bool {
        self.issuer.is_some() && self.scopes.iter().any(|scope| scope == "openid")
    }

    pub(super) fn check(&self, insecure: bool, faults: &mut Faults) {
        if let Place::Known {
            authorization,
            token,
        } = &self.place
        {
            faults.take("authorization_url", parse_url(authorization, insecure));
            faults.take("token_url", parse_url(token, insecure));
        }
        for (index, scope) in self.scopes.iter().enumerate() {
            if !is_scope(scope) || scope.contains(self.scope_separator) {
                faults.add(
                    format!("scopes[{index}]"),
                    "is not one word of visible ASCII without quotes and backslashes (RFC 6749 §3.3)",
                );
            }
        }
        if self
            .resource
            .as_deref()
            .is_some_and(|url| !is_absolute_uri(url))
        {
            faults.add(
                "resource",
                "is not an absolute URI without a fragment (RFC 8707 §2)",
            );
        }
        for (name, value) in &self.parameters {
            let is_reserved = RESERVED.contains(&&**name)
                || [self.scope_parameter, "scope", "resource"].contains(&&**name);
            if is_reserved || name.is_empty() {
                faults.add(
                    "parameter",
                    "has a name that the flow sets itself, or none, leave it out",
                );
            } else if value.is_empty() {
                faults.add(
                    "parameter",
                    "has an empty value, leave it out or give it one",
                );
            }
        }
    }
}
