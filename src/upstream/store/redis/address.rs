use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo,
    ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, TlsMode,
    aio::MultiplexedConnection,
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
    sentinel::{SentinelClientBuilder, SentinelServerType},
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};

use crate::secret::Secret;

use super::fault::Fault;

/// How long a node of a cluster is waited for that does not answer. The client waits for each of them when it connects.
const NODE_LIMIT: Duration = Duration::from_secs(1);

/// The address of Redis, and how to find it anew.
pub(super) enum Address {
    Server(Client, Login),
    Sentinels(Sentinels),
    Cluster(Cluster),
}

pub(super) struct Cluster {
    client: ClusterClient,
    /// The same nodes one by one, with the login.
    nodes: Vec<(Client, Login)>,
}

#[derive(Clone)]
pub(super) enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// The login that a client sends to a server first.
#[derive(Clone, Default)]
pub(super) struct Login {
    user: Option<String>,
    password: Option<Secret>,
    database: i64,
}

pub(super) struct Sentinels {
    sentinels: Vec<ConnectionInfo>,
    primary: String,
    login: Login,
    certificates: Option<TlsCertificates>,
}

/// The credentials and certificates of a Redis client.
#[derive(Clone, Default)]
pub(super) struct Access {
    pub(super) credentials: Option<(String, Secret)>,
    pub(super) ca_certificates: Option<Vec<u8>>,
    pub(super) client_certificate: Option<(Vec<u8>, Secret)>,
}

impl Address {
    pub(super) fn server(info: ConnectionInfo, access: &Access) -> Result<Self, RedisError> {
        let (client, login) = one_server(info, access)?;
        Ok(Self::Server(client, login))
    }

    pub(super) fn sentinels(
        sentinels: Vec<ConnectionInfo>,
        primary: String,
        access: &Access,
    ) -> Result<Self, RedisError> {
        let mut login = Login::default().with(access);
        if let Some(first) = sentinels.first() {
            login.database = first.redis_settings().db();
        }
        let sentinels = Sentinels {
            sentinels,
            primary,
            login,
            certificates: access.certificates(),
        };
        for sentinel in &sentinels.sentinels {
            sentinels.ask_by(sentinel)?.build()?;
        }
        Ok(Self::Sentinels(sentinels))
    }

    pub(super) fn cluster(
        nodes: Vec<ConnectionInfo>,
        limit: Duration,
        access: &Access,
    ) -> Result<Self, RedisError> {
        let one_by_one = nodes.iter().cloned();
        let one_by_one: RedisResult<_> = one_by_one.map(|node| one_server(node, access)).collect();
        // A call has one limit in all, which is not of the client's making.
        let mut cluster = ClusterClientBuilder::new(nodes)
            .connection_timeout(limit.min(NODE_LIMIT))
            .response_timeout(limit)
            .overall_response_timeout(None)
            .use_protocol(ProtocolVersion::RESP2)
            .retries(4)
            .min_retry_wait(10)
            .max_retry_wait(100);
        if let Some((user, password)) = &access.credentials {
            cluster = cluster.password(password.expose());
            if !user.is_empty() {
                cluster = cluster.username(user);
            }
        }
        if let Some(certificates) = access.certificates() {
            cluster = cluster.certs(certificates);
        }
        Ok(Self::Cluster(Cluster {
            client: cluster.build()?,
            nodes: one_by_one?,
        }))
    }

    pub(super) async fn connect(&self) -> Result<Connection, Fault> {
        if self.is_encrypted() && CryptoProvider::get_default().is_none() {
            // The client of the crate asks for it, and panics where it is ambiguous.
            let _ = aws_lc_rs::default_provider().install_default();
        }
        match self {
            Self::Server(client, login) => login.connected(client).await.map(Connection::Server),
            Self::Sentinels(sentinels) => sentinels.connect().await.map(Connection::Server),
            Self::Cluster(cluster) => cluster.connect().await.map(Connection::Cluster),
        }
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    fn is_encrypted(&self) -> bool {
        match self {
            Self::Server(client, _) => is_encrypted(client.get_connection_info()),
            Self::Sentinels(sentinels) => sentinels.sentinels.iter().any(is_encrypted),
            // It does not tell. To say so of one that is not does no harm.
            Self::Cluster(_) => true,
        }
    }
}

pub(super) fn is_encrypted(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
}

impl Cluster {
    async fn connect(&self) -> Result<ClusterConnection, Fault> {
        match self.client.get_async_connection().await {
            Ok(connected) => Ok(connected),
            Err(error) => Err(self.why(Fault::of_connecting(&error)).await),
        }
    }

    /// The client says that it cannot connect and not why, so the nodes are asked.
    async fn why(&self, fault: Fault) -> Fault {
        if fault.is_permanent() {
            return fault;
        }
        let nodes = self.nodes.iter();
        let mut asking: FuturesUnordered<_> = nodes
            .map(async |(node, login)| {
                let mut connection = login.connected(node).await?;
                let slots = redis::cmd("CLUSTER").arg("SLOTS").clone();
                let slots = slots.exec_async(&mut connection).await;
                slots.map_err(|error| Fault::of_cluster(&error))
            })
            .collect();
        while let Some(asked) = asking.next().await {
            if let Err(fault) = asked
                && fault.is_permanent()
            {
                return fault;
            }
        }
        fault
    }
}

/// A client that does not log in: the crate would not say why a login failed.
fn one_server(info: ConnectionInfo, access: &Access) -> RedisResult<(Client, Login)> {
    let login = Login::of(&info, access);
    let bare = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP2)
        .set_skip_set_lib_name();
    let info = info.set_redis_settings(bare);
    let client = match access.certificates() {
        Some(certificates) => Client::build_with_tls(info, certificates)?,
        None => Client::open(info)?,
    };
    Ok((client, login))
}

impl Sentinels {
    /// Asks all sentinels at once, so that one that is gone is not waited for.
    async fn connect(&self) -> Result<MultiplexedConnection, Fault> {
        let mut asking: FuturesUnordered<_> = self
            .sentinels
            .iter()
            .map(async |sentinel| {
                let mut client = self.ask_by(sentinel)?.build()?;
                let config = unlimited();
                client.get_async_connection_with_config(&config).await
            })
            .collect();
        let mut fault: Option<Fault> = None;
        while let Some(connected) = asking.next().await {
            match connected {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    let next = Fault::of_connecting(&error);
                    // Wrong settings explain more than a sentinel that is down.
                    if next.is_permanent() || !fault.as_ref().is_some_and(Fault::is_permanent) {
                        fault = Some(next);
                    }
                }
            }
        }
        Err(fault.unwrap_or_else(Fault::not_connected))
    }

    fn ask_by(&self, sentinel: &ConnectionInfo) -> RedisResult<SentinelClientBuilder> {
        let mut client = SentinelClientBuilder::new(
            [sentinel.addr().clone()],
            &self.primary,
            SentinelServerType::Master,
        )?
        .set_client_to_redis_db(self.login.database)
        .set_client_to_redis_protocol(ProtocolVersion::RESP2)
        .set_client_to_sentinel_protocol(ProtocolVersion::RESP2);
        let settings = sentinel.redis_settings();
        if let Some(user) = settings.username() {
            client = client.set_client_to_sentinel_username(user);
        }
        if let Some(password) = settings.password() {
            client = client.set_client_to_sentinel_password(password);
        }
        if let Some(user) = &self.login.user {
            client = client.set_client_to_redis_username(user);
        }
        if let Some(password) = &self.login.password {
            client = client.set_client_to_redis_password(password.expose());
        }
        if is_encrypted(sentinel) {
            client = client.set_client_to_redis_tls_mode(TlsMode::Secure);
            if let Some(certificates) = &self.certificates {
                client = client
                    .set_client_to_sentinel_certificates(certificates.clone())
                    .set_client_to_redis_certificates(certificates.clone());
            }
        }
        Ok(client)
    }
}

impl Login {
    fn of(info: &ConnectionInfo, access: &Access) -> Self {
        let settings = info.redis_settings();
        let login = Self {
            user: settings.username().map(str::to_owned),
            password: settings.password().and_then(|text| Secret::new(text).ok()),
            database: settings.db(),
        };
        login.with(access)
    }

    fn with(mut self, access: &Access) -> Self {
        if let Some((user, password)) = &access.credentials {
            self.user = Some(user.clone()).filter(|user| !user.is_empty());
            self.password = Some(password.clone());
        }
        self
    }

    async fn connected(&self, client: &Client) -> Result<MultiplexedConnection, Fault> {
        let config = unlimited();
        let connected = async {
            let connecting = client.get_multiplexed_async_connection_with_config(&config);
            self.at(connecting.await?).await
        };
        connected
            .await
            .map_err(|error| Fault::of_connecting(&error))
    }

    async fn at(
        &self,
        mut connection: MultiplexedConnection,
    ) -> RedisResult<MultiplexedConnection> {
        let mut login = redis::pipe();
        if let Some(password) = &self.password {
            let login = login.cmd("AUTH");
            if let Some(user) = &self.user {
                login.arg(user);
            }
            login.arg(password.expose());
        }
        if self.database != 0 {
            login.cmd("SELECT").arg(self.database);
        }
        if !login.is_empty() {
            login.exec_async(&mut connection).await?;
        }
        Ok(connection)
    }
}

impl Access {
    fn certificates(&self) -> Option<TlsCertificates> {
        if self.ca_certificates.is_none() && self.client_certificate.is_none() {
            return None;
        }
        Some(TlsCertificates {
            root_cert: self.ca_certificates.clone(),
            client_tls: self
                .client_certificate
                .as_ref()
                .map(|(chain, key)| ClientTlsConfig {
                    client_cert: chain.clone(),
                    client_key: key.expose().as_bytes().to_vec(),
                }),
        })
    }
}

/// Returns the configuration of a connection without limits, because the store applies them.
fn unlimited() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
}
