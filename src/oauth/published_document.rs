use bytes::Bytes;
use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
};
use http_body_util::Full;

/// A JSON document that anyone may read, and caches may keep.
pub(crate) struct PublishedDocument {
    pub(crate) content_type: &'static str,
    pub(crate) cache_control: &'static str,
    pub(crate) content: Bytes,
}

impl PublishedDocument {
    /// Answers `GET` and `HEAD` with the document, and any other method with 405.
    pub(crate) fn answer(self, method: &Method) -> Response<Full<Bytes>> {
        let mut response = Response::default();
        let headers = response.headers_mut();
        if ![Method::GET, Method::HEAD].contains(method) {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            return response;
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(self.cache_control));
        // The server leaves the body of an answer to `HEAD` out.
        *response.body_mut() = Full::new(self.content);
        response
    }
}
