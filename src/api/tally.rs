//! What the doors count: for `/metrics`, beside what the node itself reports.

use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use http::StatusCode;

use crate::sign_in::Refused;

/// Every status the error table and the handlers use; others count as `other`.
const STATUSES: [u16; 22] = [
    200, 204, 303, 400, 401, 403, 404, 405, 408, 409, 413, 415, 421, 422, 429, 431, 500, 501, 502,
    503, 504, 0,
];

/// What comes of sign-ins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignedIn {
    Done,
    Not(Refused),
}

impl SignedIn {
    const ALL: [Self; 9] = [
        Self::Done,
        Self::Not(Refused::Busy),
        Self::Not(Refused::Away),
        Self::Not(Refused::Unusable),
        Self::Not(Refused::Stale),
        Self::Not(Refused::Denied),
        Self::Not(Refused::Unproven),
        Self::Not(Refused::NoRole),
        Self::Not(Refused::Unkept),
    ];

    fn as_label(self) -> &'static str {
        match self {
            Self::Done => "signed_in",
            Self::Not(refused) => refused.as_label(),
        }
    }
}

/// Counters of all doors together.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    answers: [AtomicU64; STATUSES.len()],
    connections: AtomicI64,
    connections_refused: AtomicU64,
    streams_broken: AtomicU64,
    sign_ins: [AtomicU64; SignedIn::ALL.len()],
}

impl Tally {
    pub fn count_answer(&self, status: StatusCode) {
        let at = STATUSES.iter().position(|known| *known == status.as_u16());
        let at = at.unwrap_or(STATUSES.len() - 1);
        self.answers[at].fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_connection_refused(&self) {
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_stream_broken(&self) {
        self.streams_broken.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_sign_in(&self, came: SignedIn) {
        if let Some(at) = SignedIn::ALL.iter().position(|known| *known == came) {
            self.sign_ins[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a connection until the guard drops.
    pub fn connection(&self) -> Open<'_> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Open(self)
    }

    /// Appends everything in the Prometheus text format.
    pub fn write(&self, out: &mut String) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        out.push_str("# HELP hedge_http_answers_total Answers by HTTP status.\n");
        out.push_str("# TYPE hedge_http_answers_total counter\n");
        for (status, count) in STATUSES.iter().zip(&self.answers) {
            let count = read(count);
            if count > 0 {
                let label = if *status == 0 {
                    "other".to_owned()
                } else {
                    status.to_string()
                };
                write_line(
                    out,
                    format_args!("hedge_http_answers_total{{status=\"{label}\"}} {count}"),
                );
            }
        }
        let connections = self.connections.load(Ordering::Relaxed);
        out.push_str("# HELP hedge_http_connections Open connections.\n");
        out.push_str("# TYPE hedge_http_connections gauge\n");
        write_line(out, format_args!("hedge_http_connections {connections}"));
        out.push_str("# HELP hedge_http_connections_refused_total Connections without a seat.\n");
        out.push_str("# TYPE hedge_http_connections_refused_total counter\n");
        let refused = read(&self.connections_refused);
        write_line(
            out,
            format_args!("hedge_http_connections_refused_total {refused}"),
        );
        out.push_str(
            "# HELP hedge_http_streams_broken_total Streams that ended in an error event.\n",
        );
        out.push_str("# TYPE hedge_http_streams_broken_total counter\n");
        let broken = read(&self.streams_broken);
        write_line(
            out,
            format_args!("hedge_http_streams_broken_total {broken}"),
        );
        out.push_str("# HELP hedge_http_sign_ins_total Sign-ins by what came of them.\n");
        out.push_str("# TYPE hedge_http_sign_ins_total counter\n");
        for (came, count) in SignedIn::ALL.iter().zip(&self.sign_ins) {
            let (label, count) = (came.as_label(), read(count));
            if count > 0 {
                write_line(
                    out,
                    format_args!("hedge_http_sign_ins_total{{result=\"{label}\"}} {count}"),
                );
            }
        }
    }
}

fn write_line(out: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(out, "{line}").expect("writing to a string does not fail");
}

/// One open connection.
#[derive(Debug)]
pub(crate) struct Open<'a>(&'a Tally);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
