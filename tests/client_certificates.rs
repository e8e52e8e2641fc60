//! The HTTPS client presents a certificate that may be replaced while it runs (mutual TLS).

mod support;

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Full, channel::Channel};
use support::{
    authority::Authority,
    log::Log,
    mutual_tls::{MutualTlsServer, thumbprint_of_pem},
};
use tempfile::TempDir;
use tokio::{net::TcpStream, time::sleep};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, NamedGroup, RootCertStore,
        client::{
            ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
            Tls13ClientSessionValue,
        },
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
        version::{TLS12, TLS13},
    },
};
use tower::ServiceExt;
use tower_identity::{
    BuildError, DefaultClock, ManualClock, Secret,
    client::hyper::{CertificateSource, HttpsClient},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The last day of 2039.
const NOW: Duration = Duration::from_secs(2_208_988_800 - 24 * 60 * 60);

/// A clock, and the files of a certificate whose content can be replaced.
struct Setup {
    authority: Authority,
    server: MutualTlsServer,
    clock: Arc<ManualClock>,
    folder: TempDir,
    _default: DefaultClock,
}

impl Setup {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH + NOW));
        let authority = Authority::new();
        Self {
            server: MutualTlsServer::start(&authority).await,
            authority,
            _default: DefaultClock::set(clock.clone()),
            clock,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn certificate(&self) -> PathBuf {
        self.folder.path().join("tls.crt")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("tls.key")
    }

    fn write(&self, pair: &(String, String)) {
        replace(&self.certificate(), &pair.0);
        replace(&self.key(), &pair.1);
    }

    fn source(&self) -> Result<CertificateSource, BuildError> {
        CertificateSource::files(self.certificate(), self.key())
    }

    fn client(&self, certificate: CertificateSource) -> HttpsClient<Full<Bytes>> {
        HttpsClient::builder()
            .authorities(&self.authority.certificate)
            .client_certificate(certificate)
            .build()
            .unwrap()
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.authority.certificate.as_bytes());
        roots.add(root.unwrap()).unwrap();
        roots
    }

    /// The thumbprint of the certificate that the client presents now, and the number of its connection.
    async fn presented(&self, client: &HttpsClient<Full<Bytes>>) -> (String, usize) {
        let said = get(client, &self.server.uri("/")).await;
        let (thumbprint, connection) = said.split_once(' ').unwrap();
        (thumbprint.to_owned(), connection.parse().unwrap())
    }

    /// Sends requests until this certificate is presented.
    async fn presents(&self, client: &HttpsClient<Full<Bytes>>, pair: &(String, String)) {
        let expected = thumbprint_of_pem(&pair.0);
        for _ in 0..1000 {
            self.clock.advance(Duration::from_secs(2));
            if self.presented(client).await.0 == expected {
                return;
            }
            sleep(Duration::from_millis(2)).await;
        }
        panic!("the new certificate is not presented");
    }

    /// Sends requests until the log has this text.
    async fn logs(&self, client: &HttpsClient<Full<Bytes>>, log: &Log, text: &str) {
        for _ in 0..1000 {
            self.clock.advance(Duration::from_secs(2));
            self.presented(client).await;
            if log.text().contains(text) {
                return;
            }
            sleep(Duration::from_millis(2)).await;
        }
        panic!("{text:?} is not in {}", log.text());
    }
}

/// As a whole, as the documentation asks for.
fn replace(path: &std::path::Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(new, path).unwrap();
}

async fn get(client: &HttpsClient<Full<Bytes>>, uri: &str) -> String {
    let request = Request::get(uri).body(Full::default()).unwrap();
    let response = client.clone().oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

fn faults(built: Result<CertificateSource, BuildError>) -> Vec<(String, String)> {
    let error = built.unwrap_err();
    assert_eq!(error.type_name(), "CertificateSource");
    let faults = error.invalid_settings().iter();
    faults
        .map(|fault| (fault.setting().to_owned(), fault.message().to_owned()))
        .collect()
}

#[tokio::test]
async fn a_certificate_from_files_or_from_memory_is_presented_to_a_server_that_demands_one() {
    let setup = Setup::new().await;
    let pair = setup.authority.issue("gateway");
    setup.write(&pair);
    let key = Secret::new(&*pair.1).unwrap();
    let both = setup.folder.path().join("both.pem");
    fs::write(&both, format!("{}{}", pair.1, pair.0)).unwrap();
    for source in [
        setup.source(),
        CertificateSource::pem(&pair.0, &key),
        CertificateSource::files(&both, &both),
    ] {
        let client = setup.client(source.unwrap());
        let (presented, _) = setup.presented(&client).await;
        assert_eq!(presented, thumbprint_of_pem(&pair.0));
    }
}

#[tokio::test]
async fn without_a_certificate_such_a_server_is_not_reached() {
    let setup = Setup::new().await;
    let client = HttpsClient::<Full<Bytes>>::builder()
        .authorities(&setup.authority.certificate)
        .build()
        .unwrap();
    let request = Request::get(setup.server.uri("/")).body(Full::default());
    client.oneshot(request.unwrap()).await.unwrap_err();
}

#[tokio::test]
async fn a_replaced_file_takes_effect_without_a_restart_on_new_connections() {
    let setup = Setup::new().await;
    let [first, second, third] = ["gateway"; 3].map(|name| setup.authority.issue(name));
    setup.write(&first);
    let client = setup.client(setup.source().unwrap());
    let (presented, connection) = setup.presented(&client).await;
    assert_eq!(presented, thumbprint_of_pem(&first.0));
    let (_, same) = setup.presented(&client).await;
    assert_eq!(connection, same);

    // Not before a second has passed.
    setup.write(&second);
    let (presented, same) = setup.presented(&client).await;
    assert_eq!((presented, same), (thumbprint_of_pem(&first.0), connection));

    setup.presents(&client, &second).await;
    let (_, second_connection) = setup.presented(&client).await;
    assert_ne!(second_connection, connection);

    // Files that are as they were change nothing.
    for _ in 0..20 {
        setup.clock.advance(Duration::from_secs(2));
        let (_, same) = setup.presented(&client).await;
        assert_eq!(same, second_connection);
        sleep(Duration::from_millis(1)).await;
    }
    setup.write(&third);
    setup.presents(&client, &third).await;
}

#[tokio::test]
async fn each_clone_of_a_client_follows_and_they_share_their_connections() {
    let setup = Setup::new().await;
    let [first, second] = ["gateway"; 2].map(|name| setup.authority.issue(name));
    setup.write(&first);
    let client = setup.client(setup.source().unwrap());
    let clone = client.clone();
    let (_, connection) = setup.presented(&client).await;
    assert_eq!(setup.presented(&clone).await.1, connection);
    setup.write(&second);
    setup.presents(&client, &second).await;
    let (_, connection) = setup.presented(&client).await;
    let expected = (thumbprint_of_pem(&second.0), connection);
    assert_eq!(setup.presented(&clone).await, expected);
    let other = setup.client(setup.source().unwrap());
    assert_ne!(setup.presented(&other).await.1, connection);
}

#[tokio::test]
async fn the_connections_of_a_replaced_certificate_end_even_if_only_clones_of_the_client_are_called()
 {
    let setup = Setup::new().await;
    let [first, second] = ["gateway"; 2].map(|name| setup.authority.issue(name));
    setup.write(&first);
    let client = setup.client(setup.source().unwrap());
    setup.presented(&client).await;
    assert_eq!(setup.server.open_connections(), 1);

    setup.write(&second);
    setup.presents(&client, &second).await;
    let mut waited = 0;
    while setup.server.open_connections() > 1 {
        waited += 1;
        assert!(waited < 1000, "the old connection is kept");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The sessions that a client may resume, and how often it asked for one.
#[derive(Debug)]
struct Sessions {
    kept: ClientSessionMemoryCache,
    asked: AtomicUsize,
    added: AtomicUsize,
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.kept.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept.kx_hint(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.added.fetch_add(1, Relaxed);
        self.kept.set_tls12_session(server, session);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.asked.fetch_add(1, Relaxed);
        self.kept.tls12_session(server)
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.kept.remove_tls12_session(server);
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.added.fetch_add(1, Relaxed);
        self.kept.insert_tls13_ticket(server, ticket);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.asked.fetch_add(1, Relaxed);
        self.kept.take_tls13_ticket(server)
    }
}

#[tokio::test]
async fn resumption_stays_as_it_is_set_and_no_session_of_another_certificate_is_resumed() {
    for version in [&TLS12, &TLS13] {
        let setup = Setup::new().await;
        let [first, second] = ["gateway"; 2].map(|name| setup.authority.issue(name));
        setup.write(&first);
        let sessions = Arc::new(Sessions {
            kept: ClientSessionMemoryCache::new(8),
            asked: AtomicUsize::new(0),
            added: AtomicUsize::new(0),
        });
        let mut tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(setup.roots())
            .with_no_client_auth();
        tls.resumption = Resumption::store(sessions.clone());
        let client = HttpsClient::builder()
            .tls(tls)
            .client_certificate(setup.source().unwrap())
            .build()
            .unwrap();
        setup.presented(&client).await;
        let before = [&sessions.asked, &sessions.added].map(|count| count.load(Relaxed));
        assert!(before.iter().all(|count| *count > 0), "{before:?}");

        setup.write(&second);
        setup.presents(&client, &second).await;
        let after = [&sessions.asked, &sessions.added].map(|count| count.load(Relaxed));
        assert!(after[0] > before[0] && after[1] > before[1], "{after:?}");
    }
}

#[tokio::test]
async fn a_request_that_is_running_keeps_its_connection() {
    let setup = Setup::new().await;
    let [first, second] = ["gateway"; 2].map(|name| setup.authority.issue(name));
    setup.write(&first);
    let source = setup.source().unwrap();
    let client = HttpsClient::<Channel<Bytes>>::builder()
        .authorities(&setup.authority.certificate)
        .client_certificate(source.clone())
        .build()
        .unwrap();
    let (mut sender, body) = Channel::new(1);
    let request = Request::post(setup.server.uri("/echo")).body(body).unwrap();
    let mut response = client.oneshot(request).await.unwrap().into_body();
    sender
        .send_data(Bytes::from_static(b"before"))
        .await
        .unwrap();
    let frame = response.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "before");

    setup.write(&second);
    setup.presents(&setup.client(source), &second).await;

    sender
        .send_data(Bytes::from_static(b"after"))
        .await
        .unwrap();
    drop(sender);
    let rest = response.collect().await.unwrap().to_bytes();
    assert_eq!(rest, "after");
}

#[tokio::test]
async fn all_requests_after_the_certificate_expired_present_the_one_that_replaced_it() {
    let setup = Setup::new().await;
    let [first, second] = [2040, 2050].map(|year| setup.authority.issue_until("gateway", year));
    setup.write(&first);
    let client = setup.client(setup.source().unwrap());
    assert_eq!(
        setup.presented(&client).await.0,
        thumbprint_of_pem(&first.0)
    );

    setup.write(&second);
    setup.clock.advance(2 * DAY);
    let presented = join_all((0..20).map(|_| setup.presented(&client))).await;
    for (presented, _) in presented {
        assert_eq!(presented, thumbprint_of_pem(&second.0));
    }
}

#[tokio::test]
async fn a_bad_pair_of_files_is_told_when_the_source_is_made() {
    let setup = Setup::new().await;
    let good = setup.authority.issue("gateway");
    let other = setup.authority.issue("gateway");
    let expired = setup.authority.issue_until("gateway", 2039);
    let half = |pem: &str| pem[..pem.len() / 2].to_owned();
    let large = "#".repeat(64 * 1024 + 1);
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let encrypted = good.1.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let (text, empty) = ("not PEM".to_owned(), String::new());
    for (certificate, key, setting, fault) in [
        (&empty, &good.1, "certificate", "is empty"),
        (&text, &good.1, "certificate", "no certificate in PEM"),
        (&half(&good.0), &good.1, "certificate", "only a part"),
        (&large, &good.1, "certificate", "64 KiB"),
        (
            &garbage.to_owned(),
            &good.1,
            "certificate",
            "cannot be read",
        ),
        (&good.1, &good.1, "certificate", "no certificate in PEM"),
        (&expired.0, &expired.1, "certificate", "has expired"),
        (&good.0, &empty, "key", "is empty"),
        (&good.0, &text, "key", "no private key in PEM"),
        (&good.0, &half(&good.1), "key", "only a part"),
        (&good.0, &large, "key", "64 KiB"),
        (&good.0, &no_key.to_owned(), "key", "not supported"),
        (&good.0, &encrypted, "key", "decrypted"),
        (&good.0, &other.1, "key", "does not fit"),
    ] {
        setup.write(&(certificate.clone(), key.clone()));
        let mut built = vec![setup.source()];
        if let Ok(key) = Secret::new(&**key) {
            built.push(CertificateSource::pem(certificate, &key));
        }
        for built in built {
            let faults = faults(built);
            assert_eq!(faults.len(), 1);
            assert_eq!(faults[0].0, setting, "{fault}");
            assert!(faults[0].1.contains(fault), "{} {fault}", faults[0].1);
            assert!(!faults[0].1.contains("tls."), "{}", faults[0].1);
        }
    }
    setup.write(&good);
    for (certificate, key, setting) in [
        (
            PathBuf::from("/nowhere/tls.crt"),
            setup.key(),
            "certificate",
        ),
        (PathBuf::new(), setup.key(), "certificate"),
        (
            setup.certificate(),
            PathBuf::from("/nowhere/tls.key"),
            "key",
        ),
    ] {
        let faults = faults(CertificateSource::files(certificate, key));
        assert_eq!(faults[0].0, setting);
        assert!(faults[0].1.contains("does not exist"), "{}", faults[0].1);
    }
    let folder = setup.folder.path();
    let faults = faults(CertificateSource::files(folder, setup.key()));
    assert!(faults[0].1.contains("cannot be read"), "{}", faults[0].1);
}

#[tokio::test]
async fn while_a_replaced_file_is_bad_the_old_certificate_is_presented_and_the_operator_is_told_once()
 {
    let setup = Setup::new().await;
    let [first, second] = ["gateway"; 2].map(|name| setup.authority.issue(name));
    let expired = setup.authority.issue_until("gateway", 2039);
    setup.write(&first);
    let log = Log::default();
    let _guard = log.capture("tower_identity=info");
    let client = setup.client(setup.source().unwrap());
    let half = first.1[..first.1.len() / 2].to_owned();
    for (certificate, key, fault) in [
        (&first.0, &half, "only a part"),
        (&second.0, &first.1, "does not fit"),
        (&expired.0, &expired.1, "has expired"),
    ] {
        setup.write(&(certificate.clone(), key.clone()));
        setup.logs(&client, &log, fault).await;
        let told = log.text().matches(fault).count();
        for _ in 0..10 {
            setup.clock.advance(Duration::from_secs(2));
            let (presented, _) = setup.presented(&client).await;
            assert_eq!(presented, thumbprint_of_pem(&first.0));
        }
        assert_eq!(log.text().matches(fault).count(), told);
    }
    fs::remove_file(setup.key()).unwrap();
    setup.logs(&client, &log, "does not exist").await;
    assert!(!log.text().contains("was replaced"));

    setup.write(&second);
    setup.presents(&client, &second).await;
    assert!(log.text().contains("was replaced"));
    let secret = second.1.lines().nth(1).unwrap();
    assert!(!log.text().contains(secret));
    assert!(log.text().contains(setup.key().to_str().unwrap()));
}

#[tokio::test]
async fn a_file_that_is_written_in_two_parts_is_read_when_it_is_whole() {
    let setup = Setup::new().await;
    let pair = setup.authority.issue("gateway");
    setup.write(&pair);
    let (before, after) = pair.0.split_at(pair.0.len() / 2);
    fs::write(setup.certificate(), before).unwrap();
    let writer = std::thread::spawn({
        let (path, after) = (setup.certificate(), after.to_owned());
        move || {
            std::thread::sleep(Duration::from_millis(5));
            let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(after.as_bytes()).unwrap();
        }
    });
    // The reader waits longer than the writer does, unless the machine is busy: then it says so.
    let built = setup.source();
    writer.join().unwrap();
    if let Err(error) = built {
        assert!(error.to_string().contains("only a part"), "{error}");
    }
    setup.source().unwrap();
}

#[tokio::test]
async fn another_client_over_rustls_presents_the_current_certificate_by_the_resolver() {
    let setup = Setup::new().await;
    let [first, second] = ["gateway"; 2].map(|name| setup.authority.issue(name));
    setup.write(&first);
    let source = setup.source().unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(setup.roots())
        .with_client_cert_resolver(source.resolver());
    let port = setup.server.uri("").rsplit_once(':').unwrap().1.to_owned();
    let connect = async |config: ClientConfig| {
        let tcp = TcpStream::connect(format!("127.0.0.1:{port}")).await;
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let tls = connector.connect(name, tcp.unwrap()).await.unwrap();
        let (mut send, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(tls))
                .await
                .unwrap();
        tokio::spawn(connection);
        let request = Request::get("/").header("host", "localhost");
        let response = send.send_request(request.body(String::new()).unwrap());
        let body = response.await.unwrap().into_body().collect().await.unwrap();
        String::from_utf8(body.to_bytes().to_vec()).unwrap()
    };
    let presented = connect(config.clone()).await;
    assert!(presented.starts_with(&thumbprint_of_pem(&first.0)));
    setup.write(&second);
    setup.clock.advance(Duration::from_secs(2));
    let mut fresh = config;
    fresh.resumption = Resumption::disabled();
    let presented = connect(fresh).await;
    assert!(presented.starts_with(&thumbprint_of_pem(&second.0)));
}

#[tokio::test]
async fn a_wrong_setting_of_the_client_is_named() {
    let authority = Authority::new();
    let tls = || {
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth()
    };
    let builder = HttpsClient::<Full<Bytes>>::builder;
    for (built, fault) in [
        (
            builder().authorities("not PEM").build(),
            "has no certificate",
        ),
        (
            builder()
                .authorities(&authority.certificate)
                .tls(tls())
                .build(),
            "is set beside `tls`",
        ),
    ] {
        let error = built.unwrap_err();
        assert_eq!(error.type_name(), "HttpsClient");
        assert_eq!(error.invalid_settings()[0].setting(), "authorities");
        assert!(error.to_string().contains(fault), "{error}");
    }
    builder().tls(tls()).build().unwrap();
}

#[test]
fn debug_shows_neither_the_key_nor_its_path() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue("gateway");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pair.pem");
    fs::write(&path, format!("{certificate}{key}")).unwrap();
    let source = CertificateSource::files(&path, &path).unwrap();
    assert_eq!(format!("{source:?}"), "CertificateSource(files)");
    assert!(format!("{:?}", source.resolver()).contains("CertificateSource(files)"));
    let source = CertificateSource::pem(&certificate, &Secret::new(key).unwrap()).unwrap();
    assert_eq!(format!("{source:?}"), "CertificateSource(memory)");
    let builder = HttpsClient::<Full<Bytes>>::builder().client_certificate(source);
    assert!(format!("{builder:?}").contains("CertificateSource(memory)"));
}
