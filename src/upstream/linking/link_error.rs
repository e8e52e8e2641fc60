use std::{error::Error, fmt, fmt::Write};

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use http_body_util::Full;

use crate::error::{AuthError, AuthErrorKind};

/// The reason why an account was not linked, or why a login failed.
///
/// Needs the feature `linking`.
///
/// `Display` and [`advice`](Self::advice) have no text of the provider or of the request.
///
/// [`AccountLinking`](crate::AccountLinking) has an example of a page.
#[derive(Clone, Debug)]
pub struct LinkError {
    kind: LinkErrorKind,
    provider: Option<String>,
    retry_url: Option<String>,
    return_url: Option<String>,
    source: Option<AuthError>,
}

impl LinkError {
    /// The kind of failure.
    pub fn kind(&self) -> LinkErrorKind {
        self.kind
    }

    /// The name of the provider, where the request names one that is known.
    pub fn provider(&self) -> Option<&str> {
        self.provider.as_deref()
    }

    /// Where the user can start the link again, if that can help.
    pub fn retry_url(&self) -> Option<&str> {
        self.retry_url
            .as_deref()
            .filter(|_| self.kind.can_be_retried())
    }

    /// Where the user came from, or the page of the accounts.
    pub fn return_url(&self) -> Option<&str> {
        self.return_url.as_deref()
    }

    /// One or two sentences for the user.
    pub fn advice(&self) -> &'static str {
        self.kind.advice()
    }

    /// The status of the page.
    pub fn status(&self) -> StatusCode {
        self.kind.status()
    }

    /// The page that [`AccountLinking`](crate::AccountLinking) shows: plain HTML without scripts and styles, in the
    /// browser's own light or dark colours.
    pub fn page(&self) -> Response<Full<Bytes>> {
        let mut page = String::from(concat!(
            r#"<!doctype html><html lang="en"><head><meta charset="utf-8">"#,
            r#"<meta name="viewport" content="width=device-width, initial-scale=1">"#,
            r#"<meta name="color-scheme" content="light dark">"#,
            "<title>That did not work</title></head><body><main><h1>That did not work</h1>",
        ));
        // A `String` takes everything.
        let _ = write!(page, "<p>{}</p>", escaped(self.advice()));
        for (url, text) in [(self.retry_url(), "Try again"), (self.return_url(), "Back")] {
            if let Some(url) = url {
                let _ = write!(page, r#"<p><a href="{}">{text}</a></p>"#, escaped(url));
            }
        }
        page.push_str("</main></body></html>");
        let mut response = Response::new(Full::from(page));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        );
        match self.status() {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                let wait = self.source.as_ref().and_then(AuthError::retry_after);
                let seconds = wait.map_or(1, |wait| wait.as_secs().max(1));
                headers.insert(RETRY_AFTER, seconds.into());
            }
            _ => {}
        }
        response
    }

    pub(super) fn of(mut self, provider: &str) -> Self {
        self.provider = Some(provider.to_owned());
        self
    }

    pub(super) fn with_retry_url(mut self, url: String) -> Self {
        self.retry_url = Some(url);
        self
    }

    /// The failed request to the provider or to the store, if there was one.
    pub fn auth_error(&self) -> Option<&AuthError> {
        self.source.as_ref()
    }

    pub(super) fn returning_to(mut self, url: &str) -> Self {
        self.return_url = Some(url.to_owned());
        self
    }

    pub(super) fn with_source(mut self, source: AuthError) -> Self {
        self.source = Some(source);
        self
    }
}

impl From<LinkErrorKind> for LinkError {
    fn from(kind: LinkErrorKind) -> Self {
        Self {
            kind,
            provider: None,
            retry_url: None,
            return_url: None,
            source: None,
        }
    }
}

impl From<AuthError> for LinkError {
    fn from(error: AuthError) -> Self {
        let kind = match error.kind() {
            AuthErrorKind::Unavailable => LinkErrorKind::Unavailable,
            AuthErrorKind::Rejected | AuthErrorKind::Expired | AuthErrorKind::InsufficientScope => {
                LinkErrorKind::Refused
            }
            _ => LinkErrorKind::Configuration,
        };
        Self::from(kind).with_source(error)
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.fault())?;
        match &self.provider {
            Some(provider) => write!(f, " (provider `{provider}`)"),
            None => Ok(()),
        }
    }
}

impl Error for LinkError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// The kind of a [`LinkError`].
///
/// Needs the feature `linking`.
///
/// [`AccountLinking`](crate::AccountLinking) has an example of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkErrorKind {
    /// The request carries no user. The application should send the user to its login.
    NotLoggedIn,
    /// There is no such page, or no such provider.
    NotFound,
    /// The page does not take this method.
    Method,
    /// The query has a parameter twice, or one that is too long.
    Malformed,
    /// Another site made the request, or it is no visit of a page.
    Foreign,
    /// The `state` is not one that was made for this browser and this provider.
    OtherBrowser,
    /// The user came back too late.
    Late,
    /// The redirect was followed before.
    Used,
    /// The browser came back as another user than the one who started.
    OtherUser,
    /// The user did not agree.
    Declined,
    /// The response is another provider's (RFC 9207).
    MixedUp,
    /// The provider refused the user, or the code.
    Refused,
    /// The ID token is missing, or is not one for this login.
    IdToken,
    /// The provider, or the store, cannot be asked.
    Unavailable,
    /// The provider refused the application.
    Configuration,
}

impl LinkErrorKind {
    fn status(self) -> StatusCode {
        match self {
            Self::NotLoggedIn => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Foreign | Self::OtherUser | Self::Declined | Self::Refused => {
                StatusCode::FORBIDDEN
            }
            Self::Malformed | Self::OtherBrowser | Self::Late | Self::Used | Self::MixedUp => {
                StatusCode::BAD_REQUEST
            }
            Self::IdToken => StatusCode::BAD_GATEWAY,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Configuration => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn can_be_retried(self) -> bool {
        !matches!(
            self,
            Self::NotLoggedIn | Self::NotFound | Self::Method | Self::Configuration
        )
    }

    fn advice(self) -> &'static str {
        match self {
            Self::NotLoggedIn => "You are not logged in. Log in, and then try again.",
            Self::NotFound => "There is no such page.",
            Self::Method => "This page cannot be used in this way.",
            Self::Malformed => "The request was incomplete or damaged. Start again.",
            Self::Foreign => "The request did not come from this site, so nothing was changed.",
            Self::OtherBrowser => {
                "This browser did not start this. Start again, and stay in the same browser. Cookies must be allowed."
            }
            Self::Late => "It took too long. Start again.",
            Self::Used => {
                "This was done before, or you went back. If it is not done yet, start again."
            }
            Self::OtherUser => {
                "You are now logged in as somebody else than when you started. Start again as the right user."
            }
            Self::Declined => {
                "You did not agree at the provider, so nothing was changed. You can start again at any time."
            }
            Self::MixedUp => {
                "The answer came from another provider than the one that was asked. Nothing was changed. Start again."
            }
            Self::Refused => "The provider refused. Start again, or ask its administrator.",
            Self::IdToken => {
                "The provider did not say correctly who you are, so nothing was changed. Start again."
            }
            Self::Unavailable => {
                "The provider, or a part of this application, does not answer at the moment. Try again later."
            }
            Self::Configuration => {
                "This application is not set up correctly for the provider. Tell its administrator."
            }
        }
    }

    fn fault(self) -> &'static str {
        match self {
            Self::NotLoggedIn => "the request carries no user",
            Self::NotFound => "there is no such page or provider",
            Self::Method => "the page does not take this method",
            Self::Malformed => "the query is malformed",
            Self::Foreign => "the request is of another site, or no visit of a page",
            Self::OtherBrowser => "the state was not made for this browser and provider",
            Self::Late => "the user came back too late",
            Self::Used => "the redirect was followed before",
            Self::OtherUser => "the browser came back as another user",
            Self::Declined => "the user did not agree",
            Self::MixedUp => "the response is of another issuer (RFC 9207)",
            Self::Refused => "the provider refused",
            Self::IdToken => "the ID token is missing or wrong",
            Self::Unavailable => "the provider or the store is not available",
            Self::Configuration => "the provider refused the application, or it is set up wrongly",
        }
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
