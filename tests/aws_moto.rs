//! moto's server, which nobody here wrote, verifies what `AwsSts` signs.
//!
//! It runs where `moto_server` (PyPI `moto[server]`) is on the `PATH`. Where it is not, this says so and tests nothing;
//! with `CI` set that is a failure. moto keeps no end of a session: that one is refused which it does not know any more.

mod support;

use std::{
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use support::{
    aws_stack::{Body, http_client, user_with},
    peers,
};
use tower::{BoxError, Layer, ServiceBuilder, ServiceExt, layer::layer_fn};
use tower_identity::{
    AuthErrorKind, AuthLayer, AwsSts, Identity, Origin, RoleMapping, Strategy,
    strategy::{AwsStsBuilder, PayloadHash},
};

const WHO: &str = "Action=GetCallerIdentity&Version=2011-06-15";
const START_LIMIT: Duration = Duration::from_secs(60);

struct Moto {
    server: Child,
    url: String,
}

impl Moto {
    async fn start() -> Option<Self> {
        let mut command = peers::required(peers::MOTO)?;
        let port = peers::free_port();
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let server = command.stdout(Stdio::null()).stderr(Stdio::null());
        let server = server.spawn().unwrap();
        let mut moto = Self {
            server,
            url: format!("http://127.0.0.1:{port}"),
        };
        let started = Instant::now();
        while moto.post("/moto-api/reset", "", "").await.is_err() {
            assert!(
                moto.server.try_wait().unwrap().is_none(),
                "moto_server ended"
            );
            assert!(
                started.elapsed() < START_LIMIT,
                "moto_server does not answer"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        moto.set_up().await;
        Some(moto)
    }

    /// Roles that may do anything, and a bucket.
    async fn set_up(&self) {
        let iam = "AWS4-HMAC-SHA256 Credential=mock/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=0";
        for role in ["Reader", "Admin"] {
            for call in [
                format!(
                    "Action=CreateRole&Version=2010-05-08&RoleName={role}&AssumeRolePolicyDocument=%7B%7D"
                ),
                format!(
                    "Action=PutRolePolicy&Version=2010-05-08&RoleName={role}&PolicyName=all&PolicyDocument=\
                     %7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%5B%7B%22Effect%22%3A%22Allow%22%2C\
                     %22Action%22%3A%22*%22%2C%22Resource%22%3A%22*%22%7D%5D%7D"
                ),
            ] {
                let (status, answer) = self.post("/", iam, &call).await.unwrap();
                assert_eq!(status, StatusCode::OK, "{answer}");
            }
        }
    }

    /// Whether requests are verified from now on; calls of STS do not pass then, because they have no signature.
    async fn verify(&self, verify: bool) {
        let count = if verify { "0" } else { "inf" };
        let request = Request::post(format!("{}/moto-api/reset-auth", self.url))
            .header("content-type", "text/plain")
            .body(Full::from(count))
            .unwrap();
        let answer = http_client::<Body>().request(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }

    async fn post(
        &self,
        path: &str,
        authorization: &str,
        body: &str,
    ) -> Result<(StatusCode, String), BoxError> {
        let request = Request::post(format!("{}{path}", self.url))
            .header("authorization", authorization)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::from(body.to_owned()))?;
        let answer = http_client::<Body>().request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn strategy(&self, service: &str) -> AwsSts {
        self.builder(service).build().unwrap()
    }

    fn builder(&self, service: &str) -> AwsStsBuilder {
        AwsSts::builder("us-east-1", http_client::<Body>())
            .service(service)
            .sts_endpoint(&self.url)
            .role_mapping(RoleMapping::claim(
                "admins",
                "arn:aws:iam::123456789012:role/Admin",
            ))
            .fallback_role("arn:aws:iam::123456789012:role/Reader")
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
        user: &Identity,
    ) -> Request<Body> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::from(body.into()))
            .unwrap();
        request.extensions_mut().insert(user.clone());
        request
    }

    /// Signs the request and sends what `tamper` makes of it.
    async fn send(
        &self,
        strategy: &AwsSts,
        request: Request<Body>,
        tamper: impl Fn(Request<Body>) -> Request<Body> + Clone + Send,
    ) -> (StatusCode, String) {
        let origin = Origin::try_from(self.url.clone()).unwrap();
        let client = AuthLayer::new(origin, strategy.clone()).layer(
            ServiceBuilder::new()
                .layer(layer_fn(|service| {
                    tower::util::MapRequest::new(service, tamper.clone())
                }))
                .service(http_client::<Body>()),
        );
        let answer = client.oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn untouched(request: Request<Body>) -> Request<Body> {
    request
}

/// STS takes the tags out of the token. moto issues a session for any token and has no tags in it, so that what is judged
/// here is that the token reaches STS as it is where it has the tags, and does not where it lacks one.
#[tokio::test]
async fn a_token_with_the_required_session_tags_gets_a_session_at_moto_and_another_does_not_get_there()
 {
    let Some(moto) = Moto::start().await else {
        return;
    };
    let sts = moto
        .builder("sts")
        .required_session_tag("Department")
        .build()
        .unwrap();
    let with = |tags: serde_json::Value| {
        let claims = serde_json::json!({ "sub": "alice", "https://aws.amazon.com/tags": tags });
        user_with("alice", "alice-token", claims)
    };
    let tagged = with(serde_json::json!({
        "principal_tags": { "Department": ["Sales"] },
        "transitive_tag_keys": ["Department"],
    }));
    let (status, answer) = moto
        .send(&sts, moto.request("POST", "/", WHO, &tagged), untouched)
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(answer.contains("assumed-role/Reader/alice"), "{answer}");

    let untagged = with(serde_json::json!({ "principal_tags": { "Team": ["A"] } }));
    let mut request = moto.request("POST", "/", WHO, &untagged);
    let refused = sts
        .authenticate(&mut request)
        .complete(request)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), AuthErrorKind::InsufficientScope);
}

#[tokio::test]
async fn moto_accepts_what_is_signed_and_refuses_what_was_tampered_with() {
    let Some(moto) = Moto::start().await else {
        return;
    };
    let (sts, s3) = (moto.strategy("sts"), moto.strategy("s3"));
    let alice = user_with(
        "alice",
        "alice-token",
        serde_json::json!({ "sub": "alice" }),
    );
    let bob = user_with(
        "bob",
        "bob-token",
        serde_json::json!({ "groups": ["admins"] }),
    );

    // The sessions are had while nothing is verified.
    for user in [&alice, &bob] {
        let (status, answer) = moto
            .send(&sts, moto.request("POST", "/", WHO, user), untouched)
            .await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
    let (status, answer) = moto
        .send(&s3, moto.request("PUT", "/bucket", "", &alice), untouched)
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    moto.verify(true).await;

    for (user, arn) in [
        (&alice, "assumed-role/Reader/alice"),
        (&bob, "assumed-role/Admin/bob"),
    ] {
        for path in ["/", "/?b=2&a=1&a=0"] {
            let (status, answer) = moto
                .send(&sts, moto.request("POST", path, WHO, user), untouched)
                .await;
            assert_eq!(status, StatusCode::OK, "{path}: {answer}");
            assert!(answer.contains(arn), "{answer}");
        }
    }

    let with_header = |name: &'static str, value: &'static str| {
        move |mut request: Request<Body>| {
            request
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
            request
        }
    };
    let to = |path: &'static str| {
        let url = format!("{}{path}", moto.url);
        move |mut request: Request<Body>| {
            *request.uri_mut() = url.parse().unwrap();
            request
        }
    };
    let refused = |what: &str, (status, answer): (StatusCode, String)| {
        assert_eq!(status, StatusCode::FORBIDDEN, "{what}: {answer}");
    };
    let call = || moto.request("POST", "/", WHO, &alice);
    let body = |request: Request<Body>| request.map(|_| Full::from(format!("{WHO}&More=1")));
    refused("body", moto.send(&sts, call(), body).await);
    refused("query", moto.send(&sts, call(), to("/?a=1")).await);
    let header = with_header(
        "content-type",
        "application/x-www-form-urlencoded; charset=utf-8",
    );
    refused("signed header", moto.send(&sts, call(), header).await);
    refused(
        "date",
        moto.send(&sts, call(), with_header("x-amz-date", "20260101T000000Z"))
            .await,
    );
    refused(
        "session token",
        moto.send(&sts, call(), with_header("x-amz-security-token", "other"))
            .await,
    );
    let key = |replace: fn(&str) -> String| {
        move |mut request: Request<Body>| {
            let authorization = replace(request.headers()["authorization"].to_str().unwrap());
            request
                .headers_mut()
                .insert("authorization", authorization.parse().unwrap());
            request
        }
    };
    refused(
        "unknown key",
        moto.send(
            &sts,
            call(),
            key(|text| text.replacen("Credential=", "Credential=X", 1)),
        )
        .await,
    );
    refused(
        "signature",
        moto.send(
            &sts,
            call(),
            key(|text| {
                let (signed, signature) = text.split_once("Signature=").unwrap();
                format!(
                    "{signed}Signature={}",
                    signature.chars().rev().collect::<String>()
                )
            }),
        )
        .await,
    );
    // An unsigned header may change: proxies do that.
    let (status, answer) = moto
        .send(&sts, call(), with_header("user-agent", "a proxy"))
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");

    let object = |path: &str| moto.request("PUT", path, "contents", &alice);
    for path in [
        "/bucket/object",
        "/bucket/a%20b/c",
        "/bucket/a//b/../c",
        "/bucket/x?tagging",
    ] {
        let request = object(path);
        let request = if path.ends_with("tagging") {
            request.map(|_| Full::from("<Tagging><TagSet></TagSet></Tagging>"))
        } else {
            request
        };
        let (status, answer) = moto.send(&s3, request, untouched).await;
        assert_ne!(status, StatusCode::FORBIDDEN, "{path}: {answer}");
    }
    refused(
        "S3 path",
        moto.send(&s3, object("/bucket/object"), to("/bucket/other"))
            .await,
    );
    let hash = with_header("x-amz-content-sha256", "UNSIGNED-PAYLOAD");
    refused(
        "S3 hash",
        moto.send(&s3, object("/bucket/object"), hash).await,
    );
    let other = |request: Request<Body>| request.map(|_| Full::from("other contents"));
    // Without a signed hash, and as services want it that are not S3.
    let unsigned = moto
        .builder("s3")
        .payload_hash(PayloadHash::Unsigned)
        .build()
        .unwrap();
    moto.verify(false).await;
    moto.send(&unsigned, object("/bucket/first"), untouched)
        .await;
    moto.verify(true).await;
    // moto would take the content of a form for its parameters.
    let text = || {
        let mut request = object("/bucket/unsigned");
        let text = HeaderValue::from_static("text/plain");
        request.headers_mut().insert("content-type", text);
        request
    };
    let (status, answer) = moto.send(&unsigned, text(), other).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    refused(
        "unsigned payload, other path",
        moto.send(&unsigned, object("/bucket/unsigned"), to("/bucket/other"))
            .await,
    );
    let read = moto.request("GET", "/bucket/unsigned", "", &alice);
    let (status, answer) = moto.send(&s3, read, untouched).await;
    assert_eq!(
        (status, answer.as_str()),
        (StatusCode::OK, "other contents")
    );

    let aoss = moto.strategy("aoss");
    let collections = || {
        let mut request = moto.request("POST", "/", "{}", &alice);
        let target = HeaderValue::from_static("OpenSearchServerless.ListCollections");
        request.headers_mut().insert("x-amz-target", target);
        let json = HeaderValue::from_static("application/x-amz-json-1.0");
        request.headers_mut().insert("content-type", json);
        request
    };
    moto.verify(false).await;
    moto.send(&aoss, collections(), untouched).await;
    moto.verify(true).await;
    let (status, answer) = moto.send(&aoss, collections(), untouched).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let hash = with_header("x-amz-content-sha256", "UNSIGNED-PAYLOAD");
    refused("aoss hash", moto.send(&aoss, collections(), hash).await);

    // moto takes the hash from the header, and does not compare it with the body: AWS does.
    let (status, _) = moto.send(&s3, object("/bucket/object"), other).await;
    assert!(status == StatusCode::OK || status == StatusCode::FORBIDDEN);

    // Sessions that are no more.
    moto.verify(false).await;
    moto.post("/moto-api/reset", "", "").await.unwrap();
    moto.verify(true).await;
    refused("ended session", moto.send(&sts, call(), untouched).await);
}
