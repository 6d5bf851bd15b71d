//! Starting a child, and what it says and how it ends.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};
use tracing::{debug, error, info, trace, warn};

/// A longer line of the child's is logged in pieces.
const LINE_BYTES_MAX: usize = 4_096;

/// Starts children; the tests' own are no processes.
pub(super) trait Launch: Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    type Child: Childlike;

    /// # Errors
    /// There is no child.
    fn launch(&mut self) -> io::Result<(Self::Stream, Self::Child)>;
}

/// A running child. Dropping it ends it.
pub(super) trait Childlike: Send + 'static {
    /// Waits for its end, and logs what it says until then. Cancel safe.
    fn ended(&mut self) -> impl Future<Output = Death> + Send;

    /// Ends it without asking.
    fn kill(&mut self);

    /// Its number with the system, if it is a process that runs.
    fn id(&self) -> Option<u32>;
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    Exit(i32),
    Signal(i32),
    /// Killed, and the system does not let go of it: most likely a driver.
    Stuck,
    Unknown(io::ErrorKind),
    NotBorn(io::ErrorKind),
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Death::Exit(code) => write!(f, "exit status {code}"),
            Death::Signal(number) => match signal_name(*number) {
                Some(name) => f.write_str(name),
                None => write!(f, "signal {number}"),
            },
            Death::Stuck => f.write_str("killed, and still not gone"),
            Death::Unknown(kind) => write!(f, "its end is not known: {kind}"),
            Death::NotBorn(kind) => write!(f, "could not be started: {kind}"),
        }
    }
}

impl From<ExitStatus> for Death {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Death::Exit(code),
            (None, Some(signal)) => Death::Signal(signal),
            (None, None) => Death::Unknown(io::ErrorKind::Other),
        }
    }
}

/// The signals a broken program ends by. Their numbers are the same on Linux and macOS, but for
/// `SIGBUS`.
fn signal_name(number: i32) -> Option<&'static str> {
    let bus = if cfg!(target_os = "linux") { 7 } else { 10 };
    Some(match number {
        2 => "SIGINT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        number if number == bus => "SIGBUS",
        _ => return None,
    })
}

/// The program to start as the child: this one, mostly.
#[derive(Clone, Debug)]
pub struct Program {
    pub path: PathBuf,
    pub args: Vec<String>,
    /// All that the child gets of the environment.
    pub environment: Vec<(String, String)>,
}

impl Launch for Program {
    type Stream = UnixStream;
    type Child = Process;

    /// The child gets one end of a socket as its standard input; nothing else is passed on.
    fn launch(&mut self) -> io::Result<(UnixStream, Process)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut child = Command::new(&self.path)
            .arg0("hedge")
            .args(&self.args)
            .env_clear()
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal is for the proxy, which then stops the child in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let said = child.stderr.take();
        let process = Process {
            child,
            said,
            line: Vec::new(),
        };
        Ok((UnixStream::from_std(ours)?, process))
    }
}

/// A child that is a process.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    said: Option<ChildStderr>,
    /// Of its standard error, what is no whole line yet.
    line: Vec<u8>,
}

impl Childlike for Process {
    async fn ended(&mut self) -> Death {
        loop {
            tokio::select! {
                // What it said before its end is logged before its end.
                biased;
                count = read_some(&mut self.said, &mut self.line) => {
                    if count == 0 {
                        self.said = None;
                        log_rest(&mut self.line);
                    }
                    log_lines(&mut self.line);
                }
                status = self.child.wait() => {
                    log_rest(&mut self.line);
                    return match status {
                        Ok(status) => status.into(),
                        Err(error) => Death::Unknown(error.kind()),
                    };
                }
            }
        }
    }

    fn kill(&mut self) {
        // It may be gone already.
        let _ = self.child.start_kill();
    }

    fn id(&self) -> Option<u32> {
        self.child.id()
    }
}

/// For ever when there is nothing to read from. Errors are an end.
async fn read_some(said: &mut Option<ChildStderr>, line: &mut Vec<u8>) -> usize {
    match said {
        Some(said) => said.read_buf(line).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

fn log_lines(text: &mut Vec<u8>) {
    let mut from = 0;
    while let Some(length) = text[from..].iter().position(|byte| *byte == b'\n') {
        log(&text[from..from + length]);
        from += length + 1;
    }
    text.drain(..from);
    if text.len() >= LINE_BYTES_MAX {
        log_rest(text);
    }
}

fn log_rest(text: &mut Vec<u8>) {
    log(text);
    text.clear();
}

/// One line of the child's: its own logging begins with the level, and llama.cpp's last words, which
/// go past that, are worth a warning.
fn log(line: &[u8]) {
    for piece in line.chunks(LINE_BYTES_MAX) {
        let text = printable(piece);
        let text = text.trim();
        match text.split_once(' ').unwrap_or((text, "")) {
            ("", _) => {}
            ("ERROR", said) => error!(said, "engine process"),
            ("WARN", said) => warn!(said, "engine process"),
            ("INFO", said) => info!(said, "engine process"),
            ("DEBUG", said) => debug!(said, "engine process"),
            ("TRACE", said) => trace!(said, "engine process"),
            _ => warn!(said = text, "engine process"),
        }
    }
}

/// Without what would steer a terminal.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.chars().filter(|letter| !letter.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(script: &str) -> Program {
        Program {
            path: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            environment: vec![("ONLY".into(), "this".into())],
        }
    }

    async fn end_of(script: &str) -> Death {
        let (_stream, mut child) = program(script).launch().unwrap();
        child.ended().await
    }

    #[tokio::test]
    async fn an_end_is_named() {
        assert_eq!(end_of("exit 3").await, Death::Exit(3));
        let aborted = end_of("kill -ABRT $$").await;
        assert_eq!(aborted.to_string(), "SIGABRT");
        assert_eq!(end_of("kill -KILL $$").await.to_string(), "SIGKILL");
    }

    #[tokio::test]
    async fn a_child_sees_none_of_our_environment() {
        // The shell sets a few of its own; ours always has a path to the test's folder.
        let script =
            "test \"$ONLY\" = this && test -z \"$CARGO_MANIFEST_DIR\" && test -z \"$HOME\"";
        assert_eq!(end_of(script).await, Death::Exit(0));
    }

    #[tokio::test]
    async fn a_child_that_is_dropped_is_gone() {
        let (mut stream, child) = program("exec sleep 600").launch().unwrap();
        drop(child);
        // Its end of the socket is closed by its end.
        assert_eq!(
            stream.read_u8().await.unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn a_line_cannot_steer_the_terminal() {
        assert_eq!(printable(b"a\x1b[2Jb\xff\r"), "a[2Jb\u{fffd}");
    }

    #[test]
    fn lines_are_cut_where_they_end_or_are_too_long() {
        let mut text = b"one\ntwo\nhalf".to_vec();
        log_lines(&mut text);
        assert_eq!(text, b"half");
        text = vec![b'x'; LINE_BYTES_MAX];
        log_lines(&mut text);
        assert!(text.is_empty());
    }
}
