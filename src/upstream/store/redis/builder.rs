use std::{fmt, sync::Arc, time::Duration};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::{
    error::{BuildError, Faults},
    secret::Secret,
};

use super::{
    Inner, RedisStore,
    address::{Access, Address, is_encrypted},
    milliseconds,
    server::Server,
};
use crate::upstream::store::sealing_key::SealingKey;

const RESPONSE_LIMIT: Duration = Duration::from_millis(500);
const TIME_TO_LIVE: Duration = Duration::from_secs(30 * 24 * 3600);
const PREFIX: &str = "tower-identity:";

/// Builds a [`RedisStore`].
///
/// Needs the feature `redis`.
#[derive(Clone)]
#[must_use = "nothing is checked before `build`"]
pub struct RedisStoreBuilder {
    place: Place,
    access: Access,
    keys: Vec<SealingKey>,
    prefix: String,
    time_to_live: Duration,
    response_limit: Duration,
    replicas: u32,
}

/// Where Redis is, in URLs.
#[derive(Clone)]
pub(super) enum Place {
    Server(String),
    Sentinels(Vec<String>, String),
    Cluster(Vec<String>),
}

impl RedisStoreBuilder {
    pub(super) fn new(place: Place, key: SealingKey) -> Self {
        Self {
            place,
            access: Access::default(),
            keys: vec![key],
            prefix: PREFIX.to_owned(),
            time_to_live: TIME_TO_LIVE,
            response_limit: RESPONSE_LIMIT,
            replicas: 0,
        }
    }

    /// Adds a key that opens values, and seals none.
    ///
    /// To rotate keys, first add the new key to all replicas with this method. Then make it the sealing key, and the old
    /// one an older key. Remove the old key when each session was refreshed or has ended.
    pub fn older_key(mut self, key: SealingKey) -> Self {
        self.keys.push(key);
        self
    }

    /// Sets the prefix of the keys in Redis. By default `tower-identity:`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets how long a session is kept after its last login or refresh. By default 30 days.
    pub fn time_to_live(mut self, time_to_live: Duration) -> Self {
        self.time_to_live = time_to_live;
        self
    }

    /// Sets the time limit of a call, including the connection and a second try. By default 500 ms.
    pub fn response_limit(mut self, response_limit: Duration) -> Self {
        self.response_limit = response_limit;
        self
    }

    /// Sets how many replicas of Redis must confirm a write (`WAIT`). By default none.
    ///
    /// A failover to a replica that confirmed then loses neither claims nor stored tokens. While fewer replicas are
    /// reachable, no tokens are refreshed, and logins and logouts fail with
    /// [`Unavailable`](crate::AuthErrorKind::Unavailable).
    ///
    /// Set it to the number of all replicas that can become the primary. For example, set it to 2 if Sentinel watches a
    /// primary with two replicas. With 1, Sentinel may promote the replica that has not confirmed: the old primary goes
    /// on for a moment, and the other replica confirms writes that are then lost. A user whose refresh falls into that
    /// moment must log in again.
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// Sets the user and the password of the Redis servers. By default they are those in the URL, and with
    /// [`sentinel`](RedisStore::sentinel) there are none.
    ///
    /// A server that has only a password (`requirepass`) takes it from the user `default`. Redis 5 has no users: leave
    /// the name empty.
    pub fn credentials(mut self, user: impl Into<String>, password: Secret) -> Self {
        self.access.credentials = Some((user.into(), password));
        self
    }

    /// Trusts these certificates of CAs (PEM) instead of the system's. It needs a `rediss://` URL.
    pub fn ca_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.access.ca_certificates = Some(pem.into());
        self
    }

    /// Authenticates with a client certificate. It needs a `rediss://` URL.
    ///
    /// `chain` is the certificate and those that lead to its CA, and `key` its private key (PKCS#8, PKCS#1 or SEC1).
    /// Both are PEM. To rotate them, build another store.
    pub fn client_certificate(mut self, chain: impl Into<Vec<u8>>, key: Secret) -> Self {
        self.access.client_certificate = Some((chain.into(), key));
        self
    }

    /// Creates the store. It connects at its first use, so that it needs neither a runtime nor Redis yet.
    ///
    /// # Errors
    ///
    /// [`BuildError`], when one of these settings is wrong:
    ///
    /// - `url`, `sentinels[0]` or `nodes[0]` is not a URL of Redis, or switches off the checks of TLS with `#insecure`.
    ///   There is no sentinel or node, or they differ in what must be the same.
    /// - `primary` is empty.
    /// - `ca_certificates` or `client_certificate` is not PEM with certificates and a key, or there is one without
    ///   `rediss://`.
    /// - `prefix` has `{}`, which a cluster takes for an empty hash tag.
    /// - `time_to_live` or `response_limit` is below a millisecond.
    pub fn build(self) -> Result<RedisStore, BuildError> {
        let mut faults = Faults::new("RedisStore");
        let address = self.address(&mut faults);
        for (setting, time) in [
            ("time_to_live", self.time_to_live),
            ("response_limit", self.response_limit),
        ] {
            if milliseconds(time) == 0 {
                faults.add(
                    setting,
                    "is below a millisecond, so nothing could be kept or answered",
                );
            }
        }
        if self.prefix.contains("{}") {
            faults.add(
                "prefix",
                "has `{}`, so that a cluster would not keep the keys of a user together, leave it out",
            );
        }
        let address = faults.or(address)?;
        Ok(RedisStore {
            inner: Arc::new(Inner {
                server: Server::new(address, self.response_limit, self.replicas),
                keys: self.keys,
                prefix: self.prefix,
                time_to_live: self.time_to_live,
            }),
        })
    }

    fn address(&self, faults: &mut Faults) -> Option<Address> {
        let (setting, urls): (_, &[String]) = match &self.place {
            Place::Server(url) => ("url", std::slice::from_ref(url)),
            Place::Sentinels(urls, _) => ("sentinels", urls),
            Place::Cluster(urls) => ("nodes", urls),
        };
        let infos = parse_all(setting, urls, faults);
        let are_encrypted = infos.iter().all(is_encrypted);
        let are_certificates_good = self.check_certificates(are_encrypted, faults);
        if let Place::Sentinels(_, primary) = &self.place
            && primary.is_empty()
        {
            faults.add("primary", "is empty, name the primary as the sentinels do");
        }
        if infos.len() != urls.len() || urls.is_empty() || !are_certificates_good {
            return None;
        }
        let address = match &self.place {
            Place::Server(_) => Address::server(infos.into_iter().next()?, &self.access),
            Place::Sentinels(_, name) => Address::sentinels(infos, name.clone(), &self.access),
            Place::Cluster(_) => Address::cluster(infos, self.response_limit, &self.access),
        };
        // The error may quote what is secret.
        let differ = "have to be of one kind: with the same user, password, database and scheme";
        faults.take(setting, address.map_err(|_| differ))
    }

    fn check_certificates(&self, are_encrypted: bool, faults: &mut Faults) -> bool {
        const NEEDS_TLS: &str = "is of use only with URLs that start with `rediss://`";
        let has_certificates = |pem: &[u8]| {
            let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            read.is_ok_and(|certificates| !certificates.is_empty())
        };
        let mut wrong = Vec::new();
        if let Some(pem) = &self.access.ca_certificates {
            if !are_encrypted {
                wrong.push(("ca_certificates", NEEDS_TLS));
            }
            if !has_certificates(pem) {
                wrong.push(("ca_certificates", "has no certificate in PEM"));
            }
        }
        if let Some((chain, key)) = &self.access.client_certificate {
            if !are_encrypted {
                wrong.push(("client_certificate", NEEDS_TLS));
            }
            let has_key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).is_ok();
            if !(has_certificates(chain) && has_key) {
                let fault = "has no certificate or no private key in PEM";
                wrong.push(("client_certificate", fault));
            }
        }
        for (setting, fault) in &wrong {
            faults.add(*setting, *fault);
        }
        wrong.is_empty()
    }
}

fn parse_all(setting: &'static str, urls: &[String], faults: &mut Faults) -> Vec<ConnectionInfo> {
    if urls.is_empty() {
        faults.add(setting, "is empty, give at least one URL");
    }
    let mut infos = Vec::new();
    for (index, url) in urls.iter().enumerate() {
        let name = match setting {
            "url" => setting.to_owned(),
            _ => format!("{setting}[{index}]"),
        };
        match url.as_str().into_connection_info() {
            Ok(info) if is_insecure(&info) => faults.add(
                name,
                "has `#insecure`, which is not supported, set the CA with `ca_certificates` instead",
            ),
            Ok(info) => infos.push(info),
            // The error may quote the URL, which may hold a password.
            Err(_) => faults.add(name, "is not a URL such as `redis://127.0.0.1:6379/0`"),
        }
    }
    infos
}

fn is_insecure(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. })
}

impl fmt::Debug for RedisStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStoreBuilder")
            .field("keys", &self.keys.len())
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
