use std::{borrow::Cow, fmt};

use bytes::Bytes;
use form_urlencoded::Serializer;
use http::{
    HeaderMap, HeaderValue, Method, Request, Uri,
    header::{ACCEPT, CONTENT_TYPE},
};
use http_body_util::Full;
use zeroize::Zeroizing;

use crate::error::{AuthError, AuthErrorKind};

/// The parameters of a form, which include secrets.
#[derive(Clone, Default)]
pub(crate) struct Form {
    pub(super) parameters: Vec<(Cow<'static, str>, Zeroizing<String>)>,
}

impl Form {
    pub(crate) fn push(&mut self, name: impl Into<Cow<'static, str>>, value: &str) {
        self.parameters
            .push((name.into(), Zeroizing::new(value.to_owned())));
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.parameters.iter().any(|(present, _)| present == name)
    }

    pub(super) fn check(&self) -> Result<(), AuthError> {
        let invalid = |name: &str, fault: &str| {
            let message = format!("the parameter `{name}` of a token request {fault}");
            Err(AuthError::new(AuthErrorKind::Configuration, message))
        };
        for (index, (name, value)) in self.parameters.iter().enumerate() {
            if value.is_empty() {
                return invalid(name, "is empty; leave it out, or give it a value");
            }
            let is_repeatable = matches!(&**name, "audience" | "resource");
            let mut earlier = self.parameters.iter().take(index);
            if !is_repeatable && earlier.any(|(earlier, _)| earlier == name) {
                return invalid(name, "is there twice; which one is meant cannot be told");
            }
        }
        Ok(())
    }

    /// Creates the request that sends the form to `uri`, with additional `headers`.
    pub(crate) fn post(&self, uri: &Uri, mut headers: HeaderMap) -> Request<Full<Bytes>> {
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        let mut request = Request::new(Full::new(Bytes::from_owner(self.encode())));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers;
        request
    }

    pub(super) fn encode(&self) -> Zeroizing<String> {
        // As long as it can get: what a `String` leaves behind when it grows is not wiped.
        let longest = self
            .parameters
            .iter()
            .map(|(name, value)| 3 * (name.len() + value.len()) + 2)
            .sum();
        let mut encoded = Zeroizing::new(String::with_capacity(longest));
        Serializer::new(&mut *encoded).extend_pairs(
            self.parameters
                .iter()
                .map(|(name, value)| (&**name, value.as_str())),
        );
        encoded
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.parameters.iter().map(|(name, _)| name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_left_behind_in_memory_by_a_form_that_grew() {
        let mut form = Form::default();
        form.push("%", "%%");
        form.push("%%", "%");
        let encoded = form.encode();
        assert_eq!(*encoded, "%25=%25%25&%25%25=%25");
        // There is one `&` for each pair, and the last goes without.
        assert_eq!(encoded.capacity(), encoded.len() + 1);
    }
}
