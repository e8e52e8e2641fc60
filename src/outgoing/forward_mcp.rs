use http::{
    Extensions, HeaderName, Request, Uri,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE},
};

use crate::identity::Identity;

use super::{headers::CapturedHeaders, identity::HealthCheck};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Makes the request for an MCP server out of the request that a gateway received.
///
/// The new request has the method and the body of the incoming one, the URI `backend`, and of the headers only what MCP
/// needs, in all revisions of its HTTP transport:
///
/// | header | |
/// | --- | --- |
/// | `Accept`, `Content-Type`, `Content-Length` | the content |
/// | `Mcp-Protocol-Version` | the revision |
/// | `Mcp-Method`, `Mcp-Name`, `Mcp-Param-…` | what is called, since 2026-07-28 |
/// | `Mcp-Session-Id`, `Last-Event-ID` | the session and where its stream goes on, before 2026-07-28 |
/// | any other whose name starts with `Mcp-` | |
///
/// All others stay at the gateway, for example `Host`, `Cookie`, `Forwarded`, and `Authorization` and `DPoP`, which hold the
/// token and the proof that were meant for the gateway. Of the extensions, the [`Identity`], [`HealthCheck`] and
/// [`CapturedHeaders`] are copied.
///
/// ```
/// use http::{Request, Uri};
/// use tower_identity::{Identity, outgoing::forward_mcp};
///
/// let mut request = Request::post("/github")
///     .header("authorization", "Bearer for-the-gateway")
///     .header("mcp-method", "tools/call")
///     .body("{}")?;
/// let user = Identity::builder("user-1").build()?;
/// request.extensions_mut().insert(user);
///
/// let backend = Uri::from_static("https://mcp.example.com/mcp");
/// let request = forward_mcp(request, backend);
/// assert_eq!(request.uri(), "https://mcp.example.com/mcp");
/// assert_eq!(request.headers()["mcp-method"], "tools/call");
/// assert!(!request.headers().contains_key("authorization"));
/// assert!(request.extensions().get::<Identity>().is_some());
/// # Ok::<(), tower::BoxError>(())
/// ```
///
/// # Security
///
/// Of several headers with the same name, only the first one is copied, except for `Accept`. Otherwise a gateway could
/// look up the session of the first `Mcp-Session-Id`, while the MCP server uses the second.
pub fn forward_mcp<B>(request: Request<B>, backend: Uri) -> Request<B> {
    let (mut incoming, body) = request.into_parts();
    let mut request = Request::new(body);
    *request.method_mut() = incoming.method;
    *request.uri_mut() = backend;
    let headers = request.headers_mut();
    for (name, value) in &incoming.headers {
        if *name == ACCEPT || (is_needed(name) && !headers.contains_key(name)) {
            headers.append(name, value.clone());
        }
    }
    let extensions = request.extensions_mut();
    carry::<Identity>(&mut incoming.extensions, extensions);
    carry::<HealthCheck>(&mut incoming.extensions, extensions);
    carry::<CapturedHeaders>(&mut incoming.extensions, extensions);
    request
}

fn is_needed(name: &HeaderName) -> bool {
    name.as_str().starts_with("mcp-")
        || [CONTENT_TYPE, CONTENT_LENGTH, LAST_EVENT_ID].contains(name)
}

fn carry<T: Clone + Send + Sync + 'static>(from: &mut Extensions, to: &mut Extensions) {
    if let Some(extension) = from.remove::<T>() {
        to.insert(extension);
    }
}
