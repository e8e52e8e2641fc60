//! Something that answers every command of a Redis client with the same bytes.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

pub(crate) struct AnyAnswer {
    address: SocketAddr,
    answer: Arc<Mutex<Vec<u8>>>,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl AnyAnswer {
    pub(crate) async fn start(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(answer.into()));
        let connections = Arc::new(AtomicUsize::new(0));
        let accepting = tokio::spawn({
            let (answer, connections) = (answer.clone(), connections.clone());
            async move {
                while let Ok((mut client, _)) = listener.accept().await {
                    connections.fetch_add(1, SeqCst);
                    let answer = answer.clone();
                    tokio::spawn(async move {
                        let mut buffer = [0; 64 * 1024];
                        while let Ok(1..) = client.read(&mut buffer).await {
                            let answer = answer.lock().unwrap().clone();
                            if client.write_all(&answer).await.is_err() {
                                return;
                            }
                        }
                    });
                }
            }
        });
        Self {
            address,
            answer,
            connections,
            accepting,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    pub(crate) fn answer_with(&self, answer: impl Into<Vec<u8>>) {
        *self.answer.lock().unwrap() = answer.into();
    }

    /// How many connections were made so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

impl Drop for AnyAnswer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
