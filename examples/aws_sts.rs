//! Three users reach a service of AWS, each signed for in the role that their claims choose.
//!
//! ```sh
//! cargo run --all-features --example aws_sts
//! ```
//!
//! AWS is moto's server where `moto_server` (PyPI `moto[server]`) is on the `PATH`, else a fake that is started here.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use aws_smithy_types::date_time::{DateTime, Format};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_identity::{
    AccessToken, AuthLayer, AwsSts, Identity, Origin, RoleMapping, client::hyper::https_client,
};

const WHO_AM_I: &str = "Action=GetCallerIdentity&Version=2011-06-15";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let aws = Aws::start().await?;
    let strategy = AwsSts::builder("us-east-1", https_client::<Full<Bytes>>()?)
        .sts_endpoint(&aws.url)
        .service("sts")
        .role_mapping(RoleMapping::claim("admins", role("Admin")).priority(1))
        .role_mapping(RoleMapping::matcher(
            r#"claims["sub"].startsWith("svc-") && !("act" in claims)"#,
            role("Service"),
        ))
        .fallback_role(role("Default"))
        .build()?;

    // Shows what goes out, and sends it.
    let http_client = https_client::<Full<Bytes>>()?;
    let shows_and_sends = tower::service_fn(move |request: Request<Full<Bytes>>| {
        let authorization = request.headers()["authorization"]
            .to_str()
            .unwrap_or_default();
        let (_, signed) = authorization
            .split_once("SignedHeaders=")
            .unwrap_or_default();
        println!("  signed: {}", signed.split(',').next().unwrap_or_default());
        http_client.clone().oneshot(request)
    });
    let origin = Origin::try_from(aws.url.clone())?;
    let mut client = AuthLayer::new(origin, strategy).layer(shows_and_sends);

    for (subject, claims) in [
        ("alice@example.com", json!({ "groups": ["devs", "admins"] })),
        ("svc-report", json!({ "sub": "svc-report" })),
        (
            "bob@example.com",
            json!({ "sub": "bob@example.com", "groups": "devs" }),
        ),
    ] {
        println!("{subject}");
        let mut request = Request::post(&aws.url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::from(WHO_AM_I))?;
        request.extensions_mut().insert(user(subject, claims)?);
        let answer = client.ready().await?.call(request).await?;
        let answer = answer.into_body().collect().await?.to_bytes();
        println!(
            "  AWS says: {}",
            element(&String::from_utf8_lossy(&answer), "Arn")
        );
    }
    Ok(())
}

fn role(name: &str) -> String {
    format!("arn:aws:iam::123456789012:role/{name}")
}

/// Stands in for the identity that a validator makes of an incoming request.
fn user(subject: &str, claims: Value) -> Result<Identity, BoxError> {
    let claims = claims.as_object().cloned().unwrap_or_default();
    Ok(Identity::builder(subject)
        .token(AccessToken::new(format!("token-of-{subject}"))?)
        .claims(claims)
        .build()?)
}

/// The text of the first element of this name.
fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let (_, rest) = xml.split_once(&format!("<{name}>")).unwrap_or_default();
    rest.split('<').next().unwrap_or_default()
}

struct Aws {
    url: String,
    moto: Option<Child>,
}

impl Aws {
    async fn start() -> Result<Self, BoxError> {
        let listener = bind().await?;
        let address = listener.local_addr()?;
        let url = format!("http://{address}");
        let mut moto = Command::new("moto_server");
        moto.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        match moto.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(moto) => {
                println!("AWS is moto's server");
                drop(listener);
                let aws = Self {
                    url,
                    moto: Some(moto),
                };
                wait_for(address).await?;
                Ok(aws)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                println!("AWS is a fake");
                tokio::spawn(serve(listener));
                Ok(Self { url, moto: None })
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        if let Some(moto) = &mut self.moto {
            let _ = moto.kill();
            let _ = moto.wait();
        }
    }
}

/// Listens on a port that no outgoing connection takes between now and the start of moto's server.
async fn bind() -> io::Result<TcpListener> {
    loop {
        match TcpListener::bind(("127.0.0.1", fastrand::u16(20_000..32_000))).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
}

async fn wait_for(address: SocketAddr) -> Result<(), BoxError> {
    for _ in 0..600 {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err("moto_server did not start".into())
}

async fn serve(listener: TcpListener) {
    while let Ok((tcp, _)) = listener.accept().await {
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(tcp), service_fn(answer));
        tokio::spawn(connection);
    }
}

/// Gives credentials whose id names the role and the session, and reads them back. It verifies no signature.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let authorization = request.headers().get("authorization");
    let answer = match authorization.and_then(|value| value.to_str().ok()) {
        Some(authorization) => {
            let (_, credential) = authorization.split_once("Credential=").unwrap_or_default();
            let session = credential
                .split('/')
                .next()
                .unwrap_or_default()
                .replace('.', "/");
            format!("<Arn>arn:aws:sts::123456789012:assumed-role/{session}</Arn>")
        }
        None => {
            let body = request
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes());
            let form: Vec<(String, String)> = form_urlencoded::parse(&body.unwrap_or_default())
                .into_owned()
                .collect();
            let value = |name: &str| {
                let found = form.iter().find(|(key, _)| key == name);
                found.map(|(_, value)| value.as_str()).unwrap_or_default()
            };
            let role = value("RoleArn").rsplit('/').next().unwrap_or_default();
            let session = value("RoleSessionName")
                .split('@')
                .next()
                .unwrap_or_default();
            let expires_at = DateTime::from(SystemTime::now() + Duration::from_secs(3600));
            format!(
                "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
                 <AccessKeyId>{role}.{session}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>\
                 <SessionToken>session</SessionToken><Expiration>{}</Expiration></Credentials>\
                 </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
                expires_at.fmt(Format::DateTime).unwrap_or_default(),
            )
        }
    };
    Ok(Response::new(Full::from(answer)))
}
