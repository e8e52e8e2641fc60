use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redis::{
    Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ServerErrorKind,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::timeout;

use crate::error::{AuthError, AuthErrorKind};

use super::milliseconds;

/// Redis, and how it is asked: over one connection, and within a time.
pub(super) struct Server {
    client: Client,
    connection: Mutex<Option<Connection>>,
    response_limit: Duration,
    replicas: u32,
}

#[derive(Clone)]
struct Connection {
    manager: ConnectionManager,
    mark: Arc<()>,
}

impl Server {
    pub(super) fn new(client: Client, response_limit: Duration, replicas: u32) -> Self {
        Self {
            client,
            connection: Mutex::new(None),
            response_limit,
            replicas,
        }
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
        let (answer, confirmed): (T, u32) =
            self.within_limit(Question::Pipeline(&pipeline)).await?;
        if confirmed < self.replicas {
            return Err(AuthError::new(
                AuthErrorKind::Unavailable,
                "too few replicas of the token store confirmed a write, so it does not count; check their connection to \
                 the primary",
            ));
        }
        Ok(answer)
    }

    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, AuthError> {
        self.within_limit(Question::Command(command)).await
    }

    /// Asks, and once more if the connection was broken: all that is asked here may be asked twice.
    async fn within_limit<T: FromRedisValue>(
        &self,
        question: Question<'_>,
    ) -> Result<T, AuthError> {
        let connection = self.connection()?;
        let asking = async {
            match question.ask(connection.manager.clone()).await {
                Err(error) if error.is_connection_dropped() => {
                    question.ask(connection.manager.clone()).await
                }
                answer => answer,
            }
        };
        match timeout(self.response_limit, asking).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if is_replica(&error) {
                    self.forget(&connection);
                }
                Err(unavailable("failed").with_source(error))
            }
            Err(_) => {
                self.forget(&connection);
                Err(unavailable("did not answer in time"))
            }
        }
    }

    fn connection(&self) -> Result<Connection, AuthError> {
        let mut current = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = &*current {
            return Ok(connection.clone());
        }
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(self.response_limit))
            .set_response_timeout(None);
        let manager = ConnectionManager::new_lazy_with_config(self.client.clone(), config)
            .map_err(|error| unavailable("cannot be connected to").with_source(error))?;
        let connection = Connection {
            manager,
            mark: Arc::new(()),
        };
        Ok(current.insert(connection).clone())
    }

    /// Lets the next call make a new connection, unless another call has done so already.
    fn forget(&self, connection: &Connection) {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take_if(|current| Arc::ptr_eq(&current.mark, &connection.mark));
    }
}

enum Question<'a> {
    Command(&'a Cmd),
    Pipeline(&'a Pipeline),
}

impl Question<'_> {
    async fn ask<T: FromRedisValue>(&self, mut manager: ConnectionManager) -> RedisResult<T> {
        match self {
            Self::Command(command) => command.query_async(&mut manager).await,
            Self::Pipeline(pipeline) => pipeline.query_async(&mut manager).await,
        }
    }
}

/// After a fail-over the connection may still lead to what was the primary.
fn is_replica(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

#[cold]
fn unavailable(what: &str) -> AuthError {
    AuthError::new(
        AuthErrorKind::Unavailable,
        format!("the token store {what}; check that Redis runs and can be reached"),
    )
}
