//! A Postgres for tests: Debian's own package, in a temporary folder, on a free port, gone with the test.
//!
//! It runs under a shell that waits on its standard input, which this process holds open: however this
//! process ends, the server ends too. It does not run as root, so where this process does it runs as the
//! user that the package makes.

use std::fs::Permissions;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;

/// Where Debian and Ubuntu put the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Whom the package makes.
const USER: &str = "postgres";

/// In its folder.
const CERTIFICATE: &str = "server.pem";
const KEY: &str = "server.key";

/// Longer than a start takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Of the database's superuser. It stands in no log.
pub const POSTGRES_PASSWORD: &str = "open-sesame-of-postgres";

/// Ends the server when standard input ends, and waits for it. Without a word before, nobody is left who
/// would want its files.
const KEEPER: &str = r#"
    "$@" >>"$LOG" 2>&1 &
    server=$!
    read -r word || word=
    kill -QUIT "$server" 2>/dev/null
    wait "$server"
    [ -n "$word" ] || { cd /; rm -rf "$FOLDER"; }
"#;

/// A server under test. Dropping it ends it.
#[derive(Debug)]
pub struct PostgresServer {
    programs: PathBuf,
    folder: TempDir,
    port: u16,
    keeper: Option<Child>,
}

impl PostgresServer {
    /// Starts one. `None` where none is installed, which is said on standard error.
    ///
    /// # Errors
    /// It is installed and does not start.
    pub fn start() -> anyhow::Result<Option<Self>> {
        let Some(programs) = programs() else {
            note(
                "skipped: there is no Postgres in /usr/lib/postgresql (Debian's package postgresql)",
            );
            return Ok(None);
        };
        let folder = tempfile::Builder::new()
            .prefix("hedge-postgres-")
            .tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let mut server = Self {
            programs,
            folder,
            port,
            keeper: None,
        };
        let password = server.path("password");
        std::fs::write(&password, POSTGRES_PASSWORD)?;
        own(server.folder.path())?;
        let mut init = server.program("initdb");
        init.args([
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
            "--username=hedge",
        ])
        .args(["--auth=scram-sha-256", "--pwfile"])
        .arg(&password)
        .arg("--pgdata")
        .arg(server.path("data"));
        succeeded("initdb", &init.output()?)?;
        server.resume()?;
        Ok(Some(server))
    }

    /// Starts it again over the same files, and it speaks TLS with whoever wishes, with a certificate and its
    /// key in PEM.
    ///
    /// # Errors
    /// It does not start.
    pub fn encrypt(&mut self, certificate: &str, key: &str) -> anyhow::Result<()> {
        self.stop();
        for (name, pem) in [(CERTIFICATE, certificate), (KEY, key)] {
            let path = self.path(name);
            std::fs::write(&path, pem)?;
            // It takes no key that others may read.
            std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            own(&path)?;
        }
        self.resume()
    }

    /// Ends it as a crash does, and waits until it is gone.
    pub fn stop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            if let Some(mut stdin) = keeper.stdin.take() {
                drop(stdin.write_all(b"stop\n"));
            }
            drop(keeper.wait());
        }
    }

    /// Starts it again over the same files, on the same port.
    ///
    /// # Errors
    /// It does not start.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        let mut command = as_user("sh");
        command
            .args(["-c", KEEPER, "keeper"])
            .arg(self.programs.join("postgres"));
        command
            .arg("-D")
            .arg(self.path("data"))
            .arg("-k")
            .arg(self.folder.path());
        for setting in [
            &format!("port={}", self.port),
            "listen_addresses=127.0.0.1",
            "max_connections=200",
            // A crash of the process loses nothing by it; one of the machine would.
            "fsync=off",
        ] {
            command.args(["-c", setting]);
        }
        let (certificate, key) = (self.path(CERTIFICATE), self.path(KEY));
        if certificate.exists() {
            command
                .args(["-c", "ssl=on"])
                .args(["-c", &format!("ssl_cert_file={}", certificate.display())])
                .args(["-c", &format!("ssl_key_file={}", key.display())]);
        }
        command
            .env("LOG", self.path("log"))
            .env("FOLDER", self.folder.path())
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.keeper = Some(command.spawn()?);
        let begin = Instant::now();
        while self.query("postgres", "SELECT 1").is_err() {
            if begin.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
                bail!("Postgres did not start:\n{log}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Sends it a signal, as `-STOP`: a server that hangs.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let pids = std::fs::read_to_string(self.path("data/postmaster.pid"))?;
        let pid = pids.lines().next().context("it has no pid")?;
        // Its children do the work.
        let children = Command::new("pgrep").args(["-P", pid]).output()?;
        let children = String::from_utf8_lossy(&children.stdout).into_owned();
        let pids = std::iter::once(pid).chain(children.split_whitespace());
        let sent = Command::new("kill").arg(name).args(pids).output()?;
        succeeded("kill", &sent)
    }

    /// A database of this name, empty. Gives its URL.
    ///
    /// # Errors
    /// There is one already, or the server does not run.
    pub fn database(&self, name: &str) -> anyhow::Result<String> {
        self.query("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(self.url(name))
    }

    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let port = self.port;
        format!("postgres://hedge:{POSTGRES_PASSWORD}@127.0.0.1:{port}/{database}")
    }

    /// What `psql` prints: a row a line, columns between bars.
    ///
    /// # Errors
    /// It does not run, or the statement is refused.
    pub fn query(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .arg(self.url(database))
            .env("PGCONNECT_TIMEOUT", "30");
        let done = psql.output()?;
        succeeded("psql", &done)?;
        Ok(String::from_utf8(done.stdout)?.trim_end().to_owned())
    }

    /// Whether it answers at its port.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn program(&self, name: &str) -> Command {
        let mut command = as_user(self.programs.join(name));
        command.current_dir(self.folder.path());
        command
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // It may hang.
        drop(self.signal("-CONT"));
        self.stop();
    }
}

/// The programs of the latest version there is.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir(VERSIONS).ok()?;
    let found = versions.filter_map(|entry| {
        let path = entry.ok()?.path();
        let version: u32 = path.file_name()?.to_str()?.parse().ok()?;
        let programs = path.join("bin");
        let is_whole = ["initdb", "postgres", "psql"]
            .iter()
            .all(|name| programs.join(name).is_file());
        is_whole.then_some((version, programs))
    });
    found.max().map(|(_, programs)| programs)
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0)
}

/// Gives a file, or a folder with all in it, to the user that Postgres runs as.
fn own(path: &Path) -> anyhow::Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut own = Command::new("chown");
    own.arg("-R").arg(format!("{USER}:")).arg(path);
    succeeded("chown", &own.output()?)
}

fn as_user(program: impl AsRef<Path>) -> Command {
    let program = program.as_ref();
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", USER, "--regid", USER, "--clear-groups"])
        .arg(program);
    command
}

fn succeeded(what: &str, done: &Output) -> anyhow::Result<()> {
    if !done.status.success() {
        bail!("{what}: {}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "a test says why it is skipped")]
fn note(text: &str) {
    eprintln!("{text}");
}
