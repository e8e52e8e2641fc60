//! The Tower service that reaches AWS STS, as the HTTP client of the AWS SDK.

use std::{fmt, sync::Arc, time::Duration};

use aws_smithy_runtime_api::{
    client::{
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings,
            SharedHttpConnector,
        },
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
        runtime_components::RuntimeComponents,
    },
    http::StatusCode,
};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http::{HeaderValue, Request, header::RETRY_AFTER};
use http_body_util::Full;
use tracing::{Dispatch, instrument::WithSubscriber};
use zeroize::Zeroizing;

use crate::{
    error::{AuthError, AuthErrorKind},
    oauth::http_client::{self, Answer, Failure},
};

const TIME_LIMIT: Duration = Duration::from_secs(30);

tokio::task_local! {
    /// The subscriber from before the SDK was silenced.
    pub(super) static SUBSCRIBER: Dispatch;
}

/// A Tower service as the HTTP client of the AWS SDK.
#[derive(Clone)]
pub(super) struct StsHttpClient {
    pub(super) client: Arc<http_client::HttpClient>,
}

impl HttpClient for StsHttpClient {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for StsHttpClient {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = Arc::clone(&self.client);
        let subscriber = SUBSCRIBER.try_with(Dispatch::clone).unwrap_or_default();
        HttpConnectorFuture::new(async move {
            let sending = send(client, request).with_subscriber(subscriber);
            sending
                .await
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

impl fmt::Debug for StsHttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StsHttpClient").finish_non_exhaustive()
    }
}

async fn send(
    client: Arc<http_client::HttpClient>,
    request: HttpRequest,
) -> Result<HttpResponse, AuthError> {
    let request = outgoing(request)?;
    let unavailable = |fault: &'static str| AuthError::new(AuthErrorKind::Unavailable, fault);
    match client.call(request, TIME_LIMIT).await {
        Ok(answer) => incoming(answer),
        Err(Failure::Unreachable(source)) => {
            Err(unavailable("AWS STS cannot be reached").with_source(source))
        }
        Err(Failure::Interrupted(source)) => {
            Err(unavailable("AWS STS broke off its answer").with_source(source))
        }
        Err(Failure::TooLarge) => Err(unavailable(
            "AWS STS sent more than 1 MiB, which are no credentials; the rest was not read",
        )),
        Err(Failure::TooLate) => Err(unavailable("AWS STS did not answer within 30 s")),
    }
}

fn outgoing(request: HttpRequest) -> Result<Request<Full<Bytes>>, AuthError> {
    let unsendable = || {
        AuthError::new(
            AuthErrorKind::Configuration,
            "the request to AWS STS could not be made; check the region and the endpoint",
        )
    };
    let request = request.try_into_http1x().map_err(|_| unsendable())?;
    let (head, body) = request.into_parts();
    let body = body.bytes().ok_or_else(unsendable)?;
    let body = Bytes::from_owner(Zeroizing::new(body.to_vec()));
    let mut outgoing = Request::new(Full::new(body));
    *outgoing.method_mut() = head.method;
    *outgoing.uri_mut() = head.uri;
    *outgoing.headers_mut() = head.headers;
    Ok(outgoing)
}

fn incoming(answer: Answer) -> Result<HttpResponse, AuthError> {
    let status = StatusCode::try_from(answer.status.as_u16()).map_err(|_| {
        AuthError::new(
            AuthErrorKind::Unavailable,
            "AWS STS answered with a status that is none",
        )
    })?;
    let body = SdkBody::from(Bytes::from_owner(answer.body));
    let mut response = HttpResponse::new(status, body);
    let retry_after = answer.headers.get(RETRY_AFTER);
    if let Some(Ok(retry_after)) = retry_after.map(HeaderValue::to_str) {
        let _ = response
            .headers_mut()
            .try_insert(RETRY_AFTER.as_str(), retry_after.to_owned());
    }
    Ok(response)
}
