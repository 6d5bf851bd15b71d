//! The processes of a benchmark: the fake upstream, hedge before it, and nginx before it where it is
//! installed. All of them end when the fleet is dropped.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::client::Target;

/// How long a process may take until its port answers.
const START_MAX: Duration = Duration::from_secs(30);
/// The model every reply comes from, as the upstream names it.
const MODEL: &str = "bench";
/// Whatever model a node has on its machine.
const LOCAL_MODEL: &str = "local";

#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error("{program} cannot be started")]
    NotStarted {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{name} did not answer within {START_MAX:?}; its output is in {log}")]
    NotReady { name: &'static str, log: String },
    #[error("the folder for the processes' files cannot be written")]
    Folder(#[source] io::Error),
}

/// Running processes and the addresses to ask.
#[derive(Debug)]
pub struct Fleet {
    pub targets: Vec<Target>,
    children: Vec<Child>,
    /// Configuration and output of the processes; gone with the fleet.
    folder: TempDir,
}

impl Fleet {
    /// Starts the upstream and `hedge`, and nginx when there is one.
    ///
    /// # Errors
    /// A program cannot be started or does not answer.
    pub fn start(upstream: &Path, hedge: &Path, nginx: Option<&Path>) -> Result<Self, FleetError> {
        let mut fleet = Self {
            targets: Vec::new(),
            children: Vec::new(),
            folder: tempfile::tempdir().map_err(FleetError::Folder)?,
        };
        let direct = free_address().map_err(FleetError::Folder)?;
        let mut command = Command::new(upstream);
        command.args(["--forget", "--listen", &direct.to_string()]);
        fleet.launch("direct", MODEL, direct, command)?;

        let address = free_address().map_err(FleetError::Folder)?;
        let config = fleet.write("hedge.toml", &hedge_config(address, direct))?;
        let mut command = Command::new(hedge);
        command.args(["serve", "--config"]).arg(config);
        fleet.launch("hedge", &format!("fake/{MODEL}"), address, command)?;

        if let Some(nginx) = nginx {
            let address = free_address().map_err(FleetError::Folder)?;
            let config = fleet.write("nginx.conf", &nginx_config(address, direct))?;
            let mut command = Command::new(nginx);
            command.arg("-p").arg(fleet.folder.path());
            command.arg("-c").arg(config).args(["-e", "stderr"]);
            fleet.launch("nginx", MODEL, address, command)?;
        }
        Ok(fleet)
    }

    /// Starts `hedge` alone, with its local model: the bundled one, or the file `model`. Returns also
    /// where it shows its metrics.
    ///
    /// # Errors
    /// As for [`Fleet::start`].
    pub fn with_model(
        hedge: &Path,
        model: Option<&Path>,
        slots: u32,
    ) -> Result<(Self, SocketAddr), FleetError> {
        let mut fleet = Self {
            targets: Vec::new(),
            children: Vec::new(),
            folder: tempfile::tempdir().map_err(FleetError::Folder)?,
        };
        let address = free_address().map_err(FleetError::Folder)?;
        let admin = free_address().map_err(FleetError::Folder)?;
        let config = local_config(address, admin, model, slots);
        let config = fleet.write("hedge.toml", &config)?;
        let mut command = Command::new(hedge);
        command.args(["serve", "--config"]).arg(config);
        command.env("XDG_DATA_HOME", fleet.folder.path());
        fleet.launch("hedge", LOCAL_MODEL, address, command)?;
        Ok((fleet, admin))
    }

    /// Starts `hedge` before these upstreams, in order, with no model of its own. It answers under the
    /// name `auto`: the first upstream, and the others where it fails. Its log has a line of JSON for each
    /// exchange, see [`Fleet::into_log`].
    ///
    /// # Errors
    /// As for [`Fleet::start`].
    pub fn before(hedge: &Path, upstreams: &[SocketAddr]) -> Result<Self, FleetError> {
        let mut fleet = Self {
            targets: Vec::new(),
            children: Vec::new(),
            folder: tempfile::tempdir().map_err(FleetError::Folder)?,
        };
        let address = free_address().map_err(FleetError::Folder)?;
        let names: Vec<String> = (0..upstreams.len()).map(|at| format!("u{at}")).collect();
        let candidates = format!("{names:?}");
        let routes = format!("default = \"all\"\n[outcomes.all]\ncandidates = {candidates}\n");
        let routes = fleet.write("routes.toml", &routes)?;
        let mut config = hedge_settings(address, "format = \"json\"\nlevel = \"info\"");
        config.push_str(&format!("\n[routes]\nfile = {routes:?}\n"));
        for (name, upstream) in names.iter().zip(upstreams) {
            config.push_str(&upstream_settings(name, *upstream));
            config.push_str(&price_settings(name));
        }
        let config = fleet.write("hedge.toml", &config)?;
        let mut command = Command::new(hedge);
        command.args(["serve", "--config"]).arg(config);
        fleet.launch("hedge", "auto", address, command)?;
        Ok(fleet)
    }

    /// Ends all processes in order, and gives what `name` wrote from its start to its end.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn into_log(mut self, name: &str) -> io::Result<String> {
        self.children.iter_mut().for_each(end);
        self.children.clear();
        fs::read_to_string(self.folder.path().join(format!("{name}.log")))
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, FleetError> {
        let path = self.folder.path().join(name);
        fs::write(&path, text).map_err(FleetError::Folder)?;
        Ok(path)
    }

    /// Starts one process and waits for its port.
    fn launch(
        &mut self,
        name: &'static str,
        model: &str,
        addr: SocketAddr,
        mut command: Command,
    ) -> Result<(), FleetError> {
        let log = self.folder.path().join(format!("{name}.log"));
        let output = fs::File::create(&log).map_err(FleetError::Folder)?;
        let not_started = |source| FleetError::NotStarted {
            program: PathBuf::from(name),
            source,
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(not_started)?)
            .stderr(output)
            .spawn()
            .map_err(|source| FleetError::NotStarted {
                program: command.get_program().into(),
                source,
            })?;
        self.targets.push(Target {
            name: name.to_owned(),
            addr,
            model: model.to_owned(),
            pid: Some(child.id()),
            key: None,
        });
        self.children.push(child);
        let begun = Instant::now();
        while TcpStream::connect(addr).is_err() {
            let has_ended = self
                .children
                .last_mut()
                .is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))));
            if has_ended || begun.elapsed() > START_MAX {
                let log = fs::read_to_string(&log).unwrap_or_default();
                return Err(FleetError::NotReady { name, log });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in &mut self.children {
            end(child);
        }
    }
}

/// Asks first: nginx's workers end with their master only when it ends in order.
fn end(child: &mut Child) {
    let asked = Command::new("kill").arg(child.id().to_string()).status();
    let begun = Instant::now();
    while asked.is_ok() && begun.elapsed() < Duration::from_secs(5) {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // It may have ended meanwhile; either way nothing is left to do.
    drop(child.kill());
    drop(child.wait());
}

/// Another process may take the port before its user does; the user then fails to start and says so.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// The bare proxy path: no local model, no flood guard in the way, no log line a request.
fn hedge_config(listen: SocketAddr, upstream: SocketAddr) -> String {
    hedge_settings(listen, "level = \"warn\"") + &upstream_settings("fake", upstream)
}

fn upstream_settings(name: &str, upstream: SocketAddr) -> String {
    format!(
        r#"
[[upstreams]]
name = "{name}"
base_url = "http://{upstream}/v1"
models = ["{MODEL}"]
"#
    )
}

fn price_settings(upstream: &str) -> String {
    format!(
        r#"
[[prices]]
upstream = "{upstream}"
models = ["{MODEL}"]
input = 1.0
output = 1.0
"#
    )
}

fn hedge_settings(listen: SocketAddr, log: &str) -> String {
    format!(
        r#"listen = "{listen}"

[local]
enabled = false

[ingress]
requests_per_second_max = 1_000_000
requests_burst_max = 1_000_000

[limits]
exchanges_max = 2048

[shutdown]
grace_s = 1

[log]
{log}
"#
    )
}

/// The local model, and no flood guard in the way.
fn local_config(listen: SocketAddr, admin: SocketAddr, model: Option<&Path>, slots: u32) -> String {
    let model = model.map_or_else(String::new, |model| format!("model = {model:?}\n"));
    format!(
        r#"listen = "{listen}"

[admin]
listen = "{admin}"

[local]
slots_max = {slots}
{model}
[ingress]
requests_per_second_max = 1_000_000
requests_burst_max = 1_000_000

[shutdown]
grace_s = 1

[log]
level = "warn"
"#
    )
}

/// As many workers as hedge has network threads, connections kept to the upstream, replies passed on
/// as they come.
fn nginx_config(listen: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "daemon off;
pid nginx.pid;
worker_processes 2;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  keepalive_requests 10000000;
  upstream fake {{ server {upstream}; keepalive 512; keepalive_requests 10000000; }}
  server {{
    listen {listen} backlog=4096;
    tcp_nodelay on;
    location / {{
      proxy_pass http://fake;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_buffering off;
      client_max_body_size 16m;
    }}
  }}
}}
"
    )
}
