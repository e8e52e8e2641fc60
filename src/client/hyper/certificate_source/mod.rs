mod pem;
mod validity;

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use rustls::{SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey};
use tokio::{runtime::Handle, sync::OwnedMutexGuard, task::spawn_blocking, time::timeout};

use crate::{
    clock::{Clock, DefaultClock},
    error::{BuildError, Faults},
    secret::Secret,
};

use pem::{Checked, Fault, Part};

/// How long the files' content is taken for the current one.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long a request waits for the files, if the certificate has expired.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The pauses before files that may be half-written are read again.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(100)];

/// The same fault is logged once in this time.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Supplies the certificate that a client presents to servers (mutual TLS), from files that may be replaced while the
/// application runs, or from memory.
///
/// Needs the feature `hyper`.
///
/// [`HttpsClientBuilder::client_certificate`](super::HttpsClientBuilder::client_certificate) gives it to the crate's own
/// client. [`resolver`](Self::resolver) is for other clients over rustls, for example reqwest. A clone shares its state.
///
/// ```no_run
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower_identity::client::hyper::{CertificateSource, HttpsClient};
///
/// // cert-manager replaces both files before the certificate expires.
/// let certificate = CertificateSource::files(
///     "/var/run/tls/tls.crt",
///     "/var/run/tls/tls.key",
/// )?;
/// let client = HttpsClient::<Full<Bytes>>::builder()
///     .client_certificate(certificate)
///     .build()?;
/// # Ok::<(), tower_identity::BuildError>(())
/// ```
///
/// # Rotation
///
/// While the client sends requests, the files are read again if the last look at them was more than a second ago. This
/// happens in the background, so that no request waits for the file system. A request waits (for at most 5 s) only if the
/// certificate has expired since.
///
/// When there is another certificate, new requests are sent over new connections, which present it. Requests that are
/// running keep their connections.
///
/// The program that writes the files should replace each one as a whole (by a `rename`, or as Kubernetes does with the
/// files of a secret). Where the new certificate is there before its key, the old pair is presented until the next look.
///
/// # When the files are bad
///
/// A pair is refused if a file is missing, empty, unreadable, half-written or larger than 64 KiB, if the key does not fit
/// the certificate, or if the certificate has expired. In the constructor this is a [`BuildError`]. Later the last good
/// certificate is presented, and an event on the level `WARN` names the file, at most once a minute for the same fault.
///
/// # Certificate-bound tokens
///
/// A token that is bound to the certificate (RFC 8705 §3) is good only over connections that present the same one. So give
/// one source to the client of the token endpoint, to the [endpoint](crate::oauth::TokenEndpointBuilder::client_certificate)
/// and to the client of the backend. A new certificate then means new tokens.
///
/// # Security
///
/// The certificate is presented to each server that asks for one, and tells it who the client is. If other servers must
/// not learn this, use the client for one backend alone.
///
/// The private key is read into memory that is wiped after use. The TLS library keeps its own copy. Neither `Debug` nor
/// an error or an event shows it.
#[derive(Clone)]
pub struct CertificateSource {
    inner: Arc<Inner>,
}

struct Inner {
    files: Option<Files>,
    clock: Arc<dyn Clock>,
    /// Times are counted from here.
    since: Instant,
    /// When the files were read, in milliseconds.
    looked_at: AtomicU64,
    /// Held by whoever reads the files, also where the file system hangs.
    reading: Arc<tokio::sync::Mutex<()>>,
    current: RwLock<Current>,
    /// The number of the current certificate.
    number: AtomicU64,
    told: Mutex<Option<(Fault, Instant)>>,
    hasher: RandomState,
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// The certificate that is presented.
#[derive(Clone)]
pub(super) struct Current {
    pub(super) number: u64,
    pub(super) certified_key: Arc<CertifiedKey>,
    expires_at: SystemTime,
    /// A hash of what the files had.
    contents: u64,
    #[cfg(feature = "token-exchange")]
    thumbprint: [u8; 32],
}

impl CertificateSource {
    /// Reads the certificate, with those of its issuers after it, and its private key from these files, which are in PEM.
    /// Both may be in one file.
    ///
    /// # Errors
    ///
    /// [`BuildError`] with the setting `certificate` or `key`, if the [pair is bad](Self#when-the-files-are-bad).
    pub fn files(
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<Self, BuildError> {
        let files = Files {
            certificate: certificate.into(),
            key: key.into(),
        };
        let clock = DefaultClock::get();
        let hasher = RandomState::new();
        let read = files.read(None, &hasher, clock.now(), &PAUSES);
        Self::new(read, Some(files), clock, hasher)
    }

    /// Takes the certificate, with those of its issuers after it, and its private key from memory. Both are in PEM.
    ///
    /// ```
    /// use tower_identity::{BuildError, Secret, client::hyper::CertificateSource};
    ///
    /// fn of_a_vault(chain: &str, key: &Secret) -> Result<CertificateSource, BuildError> {
    ///     CertificateSource::pem(chain, key)
    /// }
    /// # let key = Secret::new("no key").unwrap();
    /// # assert_eq!(of_a_vault("", &key).unwrap_err().type_name(), "CertificateSource");
    /// ```
    ///
    /// # Errors
    ///
    /// As [`files`](Self::files).
    pub fn pem(certificates: impl AsRef<[u8]>, key: &Secret) -> Result<Self, BuildError> {
        let clock = DefaultClock::get();
        let checked = pem::check(certificates.as_ref(), key.expose().as_bytes(), clock.now());
        let read = checked.map(|checked| Some(Current::new(checked, 0)));
        Self::new(read, None, clock, RandomState::new())
    }

    fn new(
        read: Result<Option<Current>, Fault>,
        files: Option<Files>,
        clock: Arc<dyn Clock>,
        hasher: RandomState,
    ) -> Result<Self, BuildError> {
        let mut faults = Faults::new("CertificateSource");
        let read = read.map_err(|fault| faults.add(fault.part.name(), fault.message));
        let current = faults.or(read.ok().flatten())?;
        Ok(Self {
            inner: Arc::new(Inner {
                files,
                since: clock.monotonic(),
                clock,
                looked_at: AtomicU64::new(0),
                reading: Arc::default(),
                current: RwLock::new(current),
                number: AtomicU64::new(0),
                told: Mutex::default(),
                hasher,
            }),
        })
    }

    /// Returns the resolver by which rustls asks for the certificate, for clients that are built without this crate.
    ///
    /// The files are looked at again for a new connection, at most once a second, on the thread that connects.
    ///
    /// # Older certificates
    ///
    /// The client may keep connections that presented an older certificate. To the server, a session that is resumed has
    /// the certificate that it began with. So switch resumption off:
    ///
    /// ```
    /// use tokio_rustls::rustls::{
    ///     ClientConfig, RootCertStore, client::Resumption,
    /// };
    /// use tower_identity::client::hyper::CertificateSource;
    ///
    /// fn tls(
    ///     roots: RootCertStore,
    ///     certificate: &CertificateSource,
    /// ) -> ClientConfig {
    ///     let mut tls = ClientConfig::builder()
    ///         .with_root_certificates(roots)
    ///         .with_client_cert_resolver(certificate.resolver());
    ///     tls.resumption = Resumption::disabled();
    ///     tls
    /// }
    /// ```
    ///
    /// [`HttpsClient`](super::HttpsClient) does all of this by itself.
    ///
    /// # Versions of rustls
    ///
    /// The trait is one of rustls 0.23. A release of this crate that moves to another version of rustls changes it.
    pub fn resolver(&self) -> Arc<dyn ResolvesClientCert> {
        Arc::new(LookingResolver(self.clone()))
    }

    /// Lets the files be read again if it is time. `true`, if that should be waited for.
    pub(super) fn look(&self) -> bool {
        if !self.inner.is_due() {
            return false;
        }
        let Ok(runtime) = Handle::try_current() else {
            return true;
        };
        if self.inner.has_expired() {
            return true;
        }
        if let Ok(guard) = self.inner.reading.clone().try_lock_owned() {
            runtime.spawn(Arc::clone(&self.inner).read_again(guard));
        }
        false
    }

    /// Waits until the files have been read again.
    pub(super) async fn looked(&self) {
        let looked = async {
            let guard = self.inner.reading.clone().lock_owned().await;
            Arc::clone(&self.inner).read_again(guard).await;
        };
        if timeout(TIME_LIMIT, looked).await.is_err() {
            tracing::warn!("the files of a client certificate could not be read in time");
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.inner.number.load(Ordering::Acquire)
    }

    pub(super) fn current(&self) -> Current {
        let current = self.inner.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The SHA-256 thumbprint of the certificate that is presented now.
    #[cfg(feature = "token-exchange")]
    pub(crate) fn thumbprint(&self) -> [u8; 32] {
        let current = self.inner.current.read();
        current.unwrap_or_else(PoisonError::into_inner).thumbprint
    }
}

impl fmt::Debug for CertificateSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.inner.files {
            Some(_) => "CertificateSource(files)",
            None => "CertificateSource(memory)",
        })
    }
}

impl Inner {
    fn is_due(&self) -> bool {
        let looked_at = Duration::from_millis(self.looked_at.load(Ordering::Relaxed));
        self.files.is_some() && self.elapsed().saturating_sub(looked_at) > LOOK_AGAIN_AFTER
    }

    fn elapsed(&self) -> Duration {
        self.clock.monotonic().saturating_duration_since(self.since)
    }

    fn has_expired(&self) -> bool {
        let current = self.current.read();
        let current = current.unwrap_or_else(PoisonError::into_inner);
        self.clock.now() >= current.expires_at
    }

    /// Reads the files, unless somebody has done so meanwhile. The guard is held until they are read, also where the caller
    /// no longer waits.
    async fn read_again(self: Arc<Self>, guard: OwnedMutexGuard<()>) {
        if !self.is_due() {
            return;
        }
        let reading = Arc::clone(&self);
        let read = spawn_blocking(move || (reading.read(&PAUSES), guard));
        if let Ok((read, _guard)) = read.await {
            self.apply(read);
        }
    }

    fn read(&self, pauses: &[Duration]) -> Result<Option<Current>, Fault> {
        let Some(files) = &self.files else {
            return Ok(None);
        };
        let contents = {
            let current = self.current.read();
            current.unwrap_or_else(PoisonError::into_inner).contents
        };
        files.read(Some(contents), &self.hasher, self.clock.now(), pauses)
    }

    fn apply(&self, read: Result<Option<Current>, Fault>) {
        let elapsed = u64::try_from(self.elapsed().as_millis());
        self.looked_at
            .store(elapsed.unwrap_or(u64::MAX), Ordering::Relaxed);
        match read {
            Ok(None) => self.is_good_again(),
            Ok(Some(newer)) => {
                self.is_good_again();
                self.replace(newer);
            }
            Err(fault) => self.tell(fault),
        }
    }

    fn replace(&self, mut newer: Current) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        newer.number = current.number + 1;
        self.number.store(newer.number, Ordering::Release);
        let before = std::mem::replace(&mut *current, newer);
        drop(current);
        drop(before);
        tracing::info!(
            "a client certificate was replaced, and new connections present the new one"
        );
    }

    fn is_good_again(&self) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    #[cold]
    fn tell(&self, fault: Fault) {
        let now = self.clock.monotonic();
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let is_told = told.is_some_and(|(before, at)| {
                before == fault && now.saturating_duration_since(at) < TELL_AGAIN_AFTER
            });
            if is_told {
                return;
            }
            *told = Some((fault, now));
        }
        let file = self.files.as_ref().map(|files| files.path(fault.part));
        let (part, fault) = (fault.part.name(), fault.message);
        tracing::warn!(
            part,
            ?file,
            fault,
            "the last client certificate is presented, because the newer one is bad"
        );
    }
}

impl Files {
    fn path(&self, part: Part) -> &Path {
        match part {
            Part::Certificate => &self.certificate,
            Part::Key => &self.key,
        }
    }

    /// Reads the files, and once more after each pause while they look as if they were being written. `None`, if they are
    /// as they were.
    fn read(
        &self,
        known: Option<u64>,
        hasher: &RandomState,
        now: SystemTime,
        pauses: &[Duration],
    ) -> Result<Option<Current>, Fault> {
        let mut outcome = self.read_once(known, hasher, now);
        for pause in pauses {
            match &outcome {
                Err(fault) if fault.may_be_half_written => {}
                _ => break,
            }
            thread::sleep(*pause);
            outcome = self.read_once(known, hasher, now);
        }
        outcome
    }

    fn read_once(
        &self,
        known: Option<u64>,
        hasher: &RandomState,
        now: SystemTime,
    ) -> Result<Option<Current>, Fault> {
        let certificate = pem::read(Part::Certificate, &self.certificate)?;
        let key = pem::read(Part::Key, &self.key)?;
        let contents = hasher.hash_one((&**certificate, &**key));
        if known == Some(contents) {
            return Ok(None);
        }
        let checked = pem::check(&certificate, &key, now)?;
        Ok(Some(Current::new(checked, contents)))
    }
}

impl Current {
    fn new(checked: Checked, contents: u64) -> Self {
        Self {
            number: 0,
            #[cfg(feature = "token-exchange")]
            thumbprint: thumbprint(&checked.certified_key),
            certified_key: checked.certified_key,
            expires_at: checked.expires_at,
            contents,
        }
    }
}

#[cfg(feature = "token-exchange")]
fn thumbprint(certified_key: &CertifiedKey) -> [u8; 32] {
    use sha2::{Digest, Sha256};

    let first = certified_key.cert.first();
    Sha256::digest(first.map_or(&[][..], |first| first)).into()
}

/// Presents one certificate.
#[derive(Debug)]
pub(super) struct FixedResolver(pub(super) Arc<CertifiedKey>);

impl ResolvesClientCert for FixedResolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Presents the current certificate, and looks itself whether there is another.
#[derive(Debug)]
struct LookingResolver(CertificateSource);

impl ResolvesClientCert for LookingResolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let inner = &self.0.inner;
        if inner.is_due()
            && let Ok(_guard) = inner.reading.try_lock()
        {
            inner.apply(inner.read(&[]));
        }
        Some(self.0.current().certified_key)
    }

    fn has_certs(&self) -> bool {
        true
    }
}
