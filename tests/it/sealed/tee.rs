//! A box on the way that keeps all it sees.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What went one way over one connection, each.
type Seen = Arc<Mutex<Vec<Vec<u8>>>>;

pub struct Tee {
    pub address: SocketAddr,
    seen: Seen,
    /// Dropping it closes every connection.
    tasks: JoinSet<()>,
}

impl Tee {
    /// Passes on to `to` whatever comes, both ways.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Seen::default();
        let mut tasks = JoinSet::new();
        let kept = Arc::clone(&seen);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(to).await else {
                    continue;
                };
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                connections.spawn(pass(near_in, far_out, Arc::clone(&kept)));
                connections.spawn(pass(far_in, near_out, Arc::clone(&kept)));
            }
        });
        Self {
            address,
            seen,
            tasks,
        }
    }

    /// All that was seen, and the end of it.
    pub async fn take(&mut self) -> Vec<Vec<u8>> {
        self.tasks.shutdown().await;
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, seen: Seen) {
    let at = {
        let mut seen = seen.lock().unwrap();
        seen.push(Vec::new());
        seen.len() - 1
    };
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count) = from.read(&mut bytes).await {
        seen.lock().unwrap()[at].extend_from_slice(&bytes[..count]);
        if count == 0 || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
