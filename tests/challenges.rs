//! The challenges of a backend (`WWW-Authenticate`): who is asked for what.

use http::{HeaderValue, Response, header::WWW_AUTHENTICATE, response::Parts};
use tower_identity::strategy::Rejection;

/// Each asks for the scope `files:read files:write` with the scheme `Bearer`, or with `DPoP` if no `Bearer` challenge has an
/// error.
const ASKING: [&[&str]; 11] = [
    &[r#"DPoP algs="ES256", error="insufficient_scope", scope="files:read files:write""#],
    &[r#"Bearer scope="x", DPoP error="insufficient_scope", scope="files:read files:write""#],
    &[r#"Bearer error="insufficient_scope", scope="files:read files:write""#],
    &[r#"bearer scope="files:read files:write", Error=insufficient_scope"#],
    &[r#"Bearer realm="mcp" error="insufficient_scope" scope="files:read files:write""#],
    &[
        r#"Basic realm="scope=x", Bearer error="insufficient_scope", scope="files:read files:write""#,
    ],
    &[
        r#"Bearer error="insufficient_scope", scope="files:read files:write", DPoP algs="ES256", scope="x""#,
    ],
    &[r#"Negotiate YWJj/+==, Bearer error="insufficient_scope",scope="files:read files:write""#],
    &[
        r#"DPoP error="insufficient_scope", scope="x""#,
        r#"Bearer error="insufficient_scope", scope="files:read files:write""#,
    ],
    &[
        r#"Bearer scope="x""#,
        r#"Bearer error="insufficient_scope", scope="files:read files:write""#,
    ],
    &[
        r#"Bearer error_description="\"scope=x\", y", error="insufficient_scope", scope="files:read files:write""#,
    ],
];

/// These ask for no scope.
const NOT_ASKING: [&str; 7] = [
    r#"Basic error="insufficient_scope", scope="files:read""#,
    r#"Digest error="insufficient_scope", scope="files:read""#,
    r#"Bearer error="invalid_token", error_description="not insufficient_scope, scope=x""#,
    r#"Bearer realm="x", Basic error="insufficient_scope", scope="x""#,
    r#"Bearer error="insufficient_scopes""#,
    r#"Bearer error="insufficient_scope"#,
    "Bearer",
];

fn forbidden(challenges: &[&str]) -> Parts {
    let mut response = Response::builder().status(403);
    for challenge in challenges {
        let challenge = HeaderValue::from_str(challenge).unwrap();
        response = response.header(WWW_AUTHENTICATE, challenge);
    }
    response.body(()).unwrap().into_parts().0
}

#[test]
fn f85_the_scope_and_the_error_are_those_of_the_bearer_challenge() {
    for challenges in ASKING {
        let rejection = Rejection::of(&forbidden(challenges));
        assert_eq!(rejection, Rejection::MoreScope, "{challenges:?}");
        #[cfg(feature = "rmcp")]
        assert_eq!(
            required_scope(challenges).as_deref(),
            Some("files:read files:write"),
            "{challenges:?}"
        );
    }
    for challenge in NOT_ASKING {
        let rejection = Rejection::of(&forbidden(&[challenge]));
        assert_eq!(rejection, Rejection::NotRejected, "{challenge}");
        #[cfg(feature = "rmcp")]
        assert_eq!(required_scope(&[challenge]), None, "{challenge}");
    }
}

/// The scope that a client of the MCP SDK is told.
#[cfg(feature = "rmcp")]
fn required_scope(challenges: &[&str]) -> Option<String> {
    use futures_util::FutureExt;
    use rmcp::transport::streamable_http_client::{StreamableHttpClient, StreamableHttpError};
    use tower_identity::client::rmcp::TowerHttpClient;

    let head = forbidden(challenges);
    let client = TowerHttpClient::new(tower::service_fn(move |_| {
        let mut response = Response::new(http_body_util::Empty::<bytes::Bytes>::new());
        *response.status_mut() = head.status;
        response.headers_mut().clone_from(&head.headers);
        std::future::ready(Ok::<_, std::convert::Infallible>(response))
    }));
    let url = "http://127.0.0.1:1/mcp".into();
    let deleted = client.delete_session(url, "s1".into(), None, Default::default());
    match deleted.now_or_never().unwrap().unwrap_err() {
        StreamableHttpError::InsufficientScope(error) => error.required_scope,
        error => panic!("{error:?}"),
    }
}
