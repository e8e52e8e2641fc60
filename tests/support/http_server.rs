//! A real HTTP server on loopback that remembers what reached it.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version, header::LOCATION};
use http_body_util::{BodyExt, Empty, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tower::BoxError;
use tower_identity::Origin;

pub(crate) type ServerBody = BoxBody<Bytes, BoxError>;

/// A server for one test. It ends, with all its connections, when it is dropped.
pub(crate) struct HttpServer {
    address: SocketAddr,
    traffic: Arc<Traffic>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Traffic {
    is_forgotten: bool,
    connections: AtomicUsize,
    requests: Mutex<Vec<Received>>,
}

/// The head of a request that reached the server.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
}

impl Received {
    /// All values of a header, so that a second one cannot hide.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let values = self.headers.get_all(name).iter();
        values.map(|value| value.to_str().unwrap()).collect()
    }
}

impl HttpServer {
    /// Answers each request as `handler` does.
    pub(crate) async fn start<F, R>(handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
        R: Future<Output = Response<ServerBody>> + Send + 'static,
    {
        Self::start_over(async |tcp| Ok(tcp), handler).await
    }

    /// As [`start`](Self::start), over what `secure` makes of a connection.
    pub(crate) async fn start_over<A, C, T, F, R>(secure: A, handler: F) -> Self
    where
        A: Fn(TcpStream) -> C + Send + 'static,
        C: Future<Output = io::Result<T>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
        R: Future<Output = Response<ServerBody>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(listener, Traffic::default(), secure, handler)
    }

    /// As [`start`](Self::start), on this listener, and it does not remember the requests: for tests that take long.
    pub(crate) fn start_on<F, R>(listener: TcpListener, handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
        R: Future<Output = Response<ServerBody>> + Send + 'static,
    {
        let traffic = Traffic {
            is_forgotten: true,
            ..Traffic::default()
        };
        Self::serve(listener, traffic, async |tcp| Ok(tcp), handler)
    }

    fn serve<A, C, T, F, R>(listener: TcpListener, traffic: Traffic, secure: A, handler: F) -> Self
    where
        A: Fn(TcpStream) -> C + Send + 'static,
        C: Future<Output = io::Result<T>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
        R: Future<Output = Response<ServerBody>> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let traffic = Arc::new(traffic);
        let accepting = tokio::spawn({
            let traffic = traffic.clone();
            async move {
                let mut connections = JoinSet::new();
                while let Ok((tcp, _)) = listener.accept().await {
                    while connections.try_join_next().is_some() {}
                    traffic.connections.fetch_add(1, Ordering::SeqCst);
                    let secured = secure(tcp);
                    let (traffic, handler) = (traffic.clone(), handler.clone());
                    connections.spawn(async move {
                        let Ok(connection) = secured.await else {
                            return;
                        };
                        let service = service_fn(move |request| {
                            traffic.record(&request);
                            let response = handler(request);
                            async { Ok::<_, Infallible>(response.await) }
                        });
                        // A client that hangs up is no fault of the server.
                        let _ = auto::Builder::new(TokioExecutor::new())
                            .serve_connection(TokioIo::new(connection), service)
                            .await;
                    });
                }
            }
        });
        Self {
            address,
            traffic,
            accepting,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its origin over plain http.
    pub(crate) fn origin(&self) -> Origin {
        Origin::try_from(self.uri("")).unwrap()
    }

    /// A URI of it over plain http.
    pub(crate) fn uri(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What has reached it so far.
    pub(crate) fn requests(&self) -> Vec<Received> {
        self.traffic.requests.lock().unwrap().clone()
    }

    /// How many connections it has accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.traffic.connections.load(Ordering::SeqCst)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Traffic {
    fn record(&self, request: &Request<Incoming>) {
        if self.is_forgotten {
            return;
        }
        self.requests.lock().unwrap().push(Received {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
        });
    }
}

/// A body that the server sends.
pub(crate) fn server_body<B>(body: B) -> ServerBody
where
    B: http_body::Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed()
}

/// 200, without a body.
pub(crate) fn ok() -> Response<ServerBody> {
    Response::new(server_body(Empty::new()))
}

/// 307, which keeps method and body.
pub(crate) fn temporary_redirect(location: &str) -> Response<ServerBody> {
    let mut response = ok();
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let location = location.parse().unwrap();
    response.headers_mut().insert(LOCATION, location);
    response
}
