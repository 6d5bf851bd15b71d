//! Reads out what sealed answers have after their content. A shape that hides lengths goes on after the
//! end, and an edge that left then would tell where it was.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::timeout;
use tracing::debug;

use super::answer::Incoming;
use super::figures::{Counts, count};

/// Answers whose rest is read at once. That of one more is not read, which is counted.
const TAILS_MAX: usize = 256;

/// The longest rest. By the shape `constant`, whose longest rest is three times what came before, it is
/// of an answer of some seven minutes; that of a longer one is cut there.
const TAIL_MAX: Duration = Duration::from_secs(20 * 60);

/// Between two reads of a rest. Cells come every 50 ms there.
const TAIL_IDLE: Duration = Duration::from_secs(10);

/// Where answers are left.
#[derive(Clone)]
pub(super) struct TailDesk {
    sender: Sender<Box<Incoming>>,
    counts: Arc<Counts>,
}

/// Where they are read out.
pub(super) struct Tails(tokio::sync::Mutex<Receiver<Box<Incoming>>>);

pub(super) fn desk(counts: &Arc<Counts>) -> (TailDesk, Tails) {
    let (sender, receiver) = mpsc::channel(TAILS_MAX);
    let desk = TailDesk {
        sender,
        counts: Arc::clone(counts),
    };
    (desk, Tails(tokio::sync::Mutex::new(receiver)))
}

impl TailDesk {
    pub(super) fn leave(&self, incoming: Box<Incoming>) {
        if self.sender.try_send(incoming).is_err() {
            count(&self.counts.tails_left);
            debug!("too many answers to read out: one was left");
        }
    }
}

impl Tails {
    /// For as long as it is polled.
    pub(super) async fn run(&self) {
        let mut left = self.0.lock().await;
        let mut reading = FuturesUnordered::new();
        loop {
            tokio::select! {
                incoming = left.recv(), if reading.len() < TAILS_MAX => match incoming {
                    Some(incoming) => {
                        reading.push(timeout(TAIL_MAX, incoming.read_out(TAIL_IDLE)));
                    }
                    None => return,
                },
                Some(_) = reading.next() => {}
            }
        }
    }
}
