//! What a tool call costs through `TowerHttpClient` and the layers, beside rmcp's own client on reqwest, which sends no
//! credential. Both call the same server on loopback, which is rmcp's own, in a session.
//!
//! ```sh
//! cargo bench --all-features --bench mcp_client
//! ```

use std::{hint::black_box, net::SocketAddr, thread, time::Duration};

use axum::{Router, serve::ListenerExt};
use bytes::Bytes;
use criterion::{Criterion, SamplingMode};
use http_body_util::Full;
use rmcp::{
    RoleClient, ServerHandler, ServiceExt,
    model::{CallToolRequestParams, ServerCapabilities, ServerConfig},
    service::RunningService,
    tool, tool_handler, tool_router,
    transport::{
        StreamableHttpClientTransport, StreamableHttpService,
        streamable_http_client::StreamableHttpClientTransportConfig,
        streamable_http_server::session::local::LocalSessionManager,
    },
};
use tokio::{net::TcpListener, runtime::Runtime};
use tower::ServiceBuilder;
use tower_identity::{
    AccessToken, AuthLayer, Identity, IdentityLayer, Origin, UpstreamInject, UpstreamToken,
    client::{
        hyper::https_client,
        rmcp::{SendAs, TowerHttpClient},
    },
};

#[derive(Clone)]
struct Tools;

#[tool_router]
impl Tools {
    #[tool(description = "Answers pong")]
    async fn ping(&self) -> String {
        "pong".to_owned()
    }
}

#[tool_handler]
impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }
}

/// Serves on a thread with a runtime, as another process would.
fn serve() -> SocketAddr {
    let (sender, address) = std::sync::mpsc::channel();
    thread::spawn(move || {
        Runtime::new().unwrap().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let mcp = StreamableHttpService::<_, LocalSessionManager>::new(
                || Ok(Tools),
                Default::default(),
                Default::default(),
            );
            let router = Router::new().route_service("/mcp", mcp);
            let listener = listener.tap_io(|tcp| tcp.set_nodelay(true).unwrap());
            axum::serve(listener, router).await.unwrap();
        });
    });
    address.recv().unwrap()
}

type Session = RunningService<RoleClient, ()>;

async fn rmcp_reqwest(url: &str) -> Session {
    let config = StreamableHttpClientTransportConfig::with_uri(url);
    // The SDK's default opens a connection for each request. This client keeps them, as the other one does.
    let client = reqwest::Client::new();
    ().serve(StreamableHttpClientTransport::with_client(client, config))
        .await
        .unwrap()
}

async fn tower_layers(url: &str, origin: Origin, user: Identity) -> Session {
    let config = StreamableHttpClientTransportConfig::with_uri(url);
    let stack = ServiceBuilder::new()
        .layer(IdentityLayer::new(user).follow_requests())
        .layer(AuthLayer::new(
            origin,
            UpstreamInject::new("github").unwrap(),
        ))
        .service(https_client::<Full<Bytes>>().unwrap());
    let client = TowerHttpClient::new(stack);
    ().serve(StreamableHttpClientTransport::with_client(client, config))
        .await
        .unwrap()
}

fn main() {
    let address = serve();
    let url = format!("http://{address}/mcp");
    let origin = Origin::try_from(format!("http://{address}")).unwrap();
    let github = UpstreamToken::new(AccessToken::new("gho_16C7e42F292c").unwrap());
    let user = Identity::builder("user-1").upstream("github", github);
    let user = user.build().unwrap();
    let ping = CallToolRequestParams::new("ping");

    let runtime = Runtime::new().unwrap();
    let of_sdk = runtime.block_on(rmcp_reqwest(&url));
    let of_crate = runtime.block_on(tower_layers(&url, origin, user.clone()));

    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("mcp_client");
    group.sampling_mode(SamplingMode::Flat);
    group.measurement_time(Duration::from_secs(10));
    group.bench_function("rmcp_reqwest", |bencher| {
        bencher.iter(|| {
            let answer = runtime.block_on(of_sdk.call_tool(ping.clone()));
            black_box(answer.unwrap())
        });
    });
    group.bench_function("tower_layers", |bencher| {
        bencher.iter(|| {
            let answer = runtime.block_on(of_crate.call_tool_as(user.clone(), ping.clone()));
            black_box(answer.unwrap())
        });
    });
    group.finish();
    criterion.final_summary();
}
