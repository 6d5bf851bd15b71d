//! What is looked at from outside while a node is soaked.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use http::header::HOST;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Soak;
use crate::drive::{Usage, family};

const IN_FLIGHT: &str = "hedge_exchanges_in_flight ";

/// One look at the node and the engine's process together.
#[derive(Clone, Debug, Serialize)]
pub struct SoakSample {
    pub at_s: f64,
    pub rss_bytes: u64,
    pub descriptors: usize,
    /// Children, which change when one is started again.
    pub children: Vec<u32>,
    /// Exchanges under way, as the node counts them.
    pub in_flight: Option<u64>,
}

impl SoakSample {
    pub(super) fn line(&self) -> String {
        let in_flight = self.in_flight.map_or("-".to_owned(), |n| n.to_string());
        format!(
            "{:7.0} s  {:8.2} MiB  {:4} descriptors  {in_flight} under way",
            self.at_s,
            mib(self.rss_bytes),
            self.descriptors,
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "memory far below 2^53 bytes")]
pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

pub(super) struct Watch {
    pid: u32,
    admin: Option<SocketAddr>,
}

impl Watch {
    pub(super) fn new(soak: &Soak) -> io::Result<Self> {
        let Some(pid) = soak.target.pid else {
            return Err(io::Error::other("the target needs a process id"));
        };
        Ok(Self {
            pid,
            admin: soak.admin,
        })
    }

    /// # Errors
    /// The node has ended.
    pub(super) async fn sample(&self, begun: Instant) -> io::Result<SoakSample> {
        let usage = Usage::of(self.pid)?;
        let all = family(self.pid);
        let count = |pid: &u32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        let in_flight = match self.admin {
            Some(admin) => in_flight(&metrics(admin).await?),
            None => None,
        };
        Ok(SoakSample {
            at_s: begun.elapsed().as_secs_f64(),
            rss_bytes: usage.rss_bytes,
            descriptors: all.iter().map(count).sum(),
            children: all[1..].to_vec(),
            in_flight,
        })
    }
}

fn in_flight(metrics: &str) -> Option<u64> {
    let mut lines = metrics.lines();
    lines.find_map(|line| line.strip_prefix(IN_FLIGHT)?.trim().parse().ok())
}

async fn metrics(admin: SocketAddr) -> io::Result<String> {
    let stream = TcpStream::connect(admin).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let mut drive = JoinSet::new();
    drive.spawn(async move { drop(connection.await) });
    let request = Request::get("/metrics")
        .header(HOST, admin.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let reply = sender.send_request(request).await;
    let body = reply.map_err(io::Error::other)?.into_body().collect().await;
    let bytes = body.map_err(io::Error::other)?.to_bytes();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
