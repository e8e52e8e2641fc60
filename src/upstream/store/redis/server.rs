use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, Value};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::{clock::AGES, error::AuthError};

use super::{
    address::{Address, Connection},
    fault::{Fault, unreadable},
    milliseconds,
};

/// A connection may take longer than a call, which fails then. The next one uses it.
const CONNECTION_LIMIT: Duration = Duration::from_secs(3);
const FAULTS_WITHOUT_PAUSE: u32 = 3;
const PAUSE: Duration = Duration::from_millis(25);
const MOST_PAUSES: u32 = 4;

/// Redis, and how it is asked: over one connection, and within a time.
pub(super) struct Server {
    address: Arc<Address>,
    link: Mutex<Option<Arc<Link>>>,
    /// How many links in a row were left.
    faults: AtomicU32,
    response_limit: Duration,
    replicas: u32,
}

/// A connection, or the attempt to make one. When it is of no use any more, the address is looked up again for another.
struct Link {
    connected: Shared<BoxFuture<'static, Result<Connection, Fault>>>,
}

impl Server {
    pub(super) fn new(address: Address, response_limit: Duration, replicas: u32) -> Self {
        Self {
            address: Arc::new(address),
            link: Mutex::new(None),
            faults: AtomicU32::new(0),
            response_limit,
            replicas,
        }
    }

    pub(super) fn response_limit(&self) -> Duration {
        self.response_limit
    }

    /// Writes, and waits for the replicas where it is to. On error it may have been written.
    pub(super) async fn write<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, AuthError> {
        if self.replicas == 0 {
            return self.ask(command).await;
        }
        let mut pipeline = redis::pipe();
        pipeline
            .add_command(command.clone())
            .cmd("WAIT")
            .arg(self.replicas)
            .arg(milliseconds(self.response_limit / 2));
        let (answer, link) = self.within_limit(Question::Pipeline(&pipeline)).await?;
        let (answer, confirmed): (T, u32) = read(answer)?;
        if confirmed < self.replicas {
            self.leave(&link);
            return Err(Fault::too_few_replicas().into_error());
        }
        Ok(answer)
    }

    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, AuthError> {
        let (answer, _) = self.within_limit(Question::Command(command)).await?;
        read(answer)
    }

    /// Asks, and once more on another connection if the fault may have been the connection's: all that is asked here may
    /// be asked twice.
    async fn within_limit(&self, question: Question<'_>) -> Result<(Value, Arc<Link>), AuthError> {
        let end = Instant::now() + self.response_limit.min(AGES);
        let mut is_first = true;
        loop {
            let link = self.link();
            let asking = link.ask(&question, self.address.is_cluster());
            let fault = match timeout_at(end, asking).await {
                Ok(Ok(answer)) => {
                    if self.faults.load(Ordering::Relaxed) != 0 {
                        self.faults.store(0, Ordering::Relaxed);
                    }
                    return Ok((answer, link));
                }
                Ok(Err(fault)) => fault,
                Err(_) if link.connected.peek().is_none() => {
                    return Err(Fault::not_connected().into_error());
                }
                Err(_) => {
                    self.leave(&link);
                    return Err(Fault::no_answer().into_error());
                }
            };
            if fault.leaves_connection() {
                self.leave(&link);
            }
            if !(fault.passes() && is_first) {
                return Err(fault.into_error());
            }
            is_first = false;
        }
    }

    fn link(&self) -> Arc<Link> {
        let mut current = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = &*current {
            return link.clone();
        }
        let faults = self.faults.load(Ordering::Relaxed);
        let pauses = faults.saturating_sub(FAULTS_WITHOUT_PAUSE).min(MOST_PAUSES);
        let link = Arc::new(Link::to(self.address.clone(), PAUSE * pauses));
        current.insert(link).clone()
    }

    /// Lets the next call make a new connection, unless another call has done so already.
    fn leave(&self, link: &Arc<Link>) {
        let mut current = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if current
            .take_if(|current| Arc::ptr_eq(current, link))
            .is_some()
        {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Link {
    /// Connects in a task, so that callers that leave do not begin anew.
    fn to(address: Arc<Address>, pause: Duration) -> Self {
        let connected = async move {
            sleep(pause).await;
            let connected = timeout(CONNECTION_LIMIT, address.connect()).await;
            connected.unwrap_or_else(|_| Err(Fault::not_connected()))
        };
        let connected = connected.boxed().shared();
        tokio::spawn(connected.clone());
        Self { connected }
    }

    async fn ask(&self, question: &Question<'_>, is_cluster: bool) -> Result<Value, Fault> {
        let connection = match self.connected.peek() {
            Some(connected) => connected.clone(),
            None => self.connected.clone().await,
        };
        let answer = question.ask(connection?).await;
        answer.map_err(|error| Fault::of_answer(&error, is_cluster))
    }
}

enum Question<'a> {
    Command(&'a Cmd),
    Pipeline(&'a Pipeline),
}

impl Question<'_> {
    async fn ask(&self, connection: Connection) -> RedisResult<Value> {
        match (self, connection) {
            (Self::Command(command), Connection::Server(mut server)) => {
                command.query_async(&mut server).await
            }
            (Self::Command(command), Connection::Cluster(mut cluster)) => {
                command.query_async(&mut cluster).await
            }
            (Self::Pipeline(pipeline), Connection::Server(mut server)) => {
                pipeline.query_async(&mut server).await
            }
            (Self::Pipeline(pipeline), Connection::Cluster(mut cluster)) => {
                pipeline.query_async(&mut cluster).await
            }
        }
    }
}

fn read<T: FromRedisValue>(answer: Value) -> Result<T, AuthError> {
    // Its error would show what was read.
    T::from_redis_value(answer).map_err(|_| unreadable())
}
