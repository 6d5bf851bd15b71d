//! A relay's parts, from its folder and its configuration: what `api`'s gateway is made of.

use std::fs::File;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use api::gateway::{
    EnrolRefused, Enrolment, GatewayBooks, GatewayLimits, GatewayRules, PeerCertificate, Spending,
};
use async_trait::async_trait;
use bytes::Bytes;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info};

use super::edges::Edges;
use super::files::{self, Eyes};
use super::folder::{RelayFolder, RelayKeys};
use super::registrar::{Admission, Registrar, Turned, broken};
use super::tls;
use crate::config::GatewaySettings;

/// How often the relay's own certificate is looked at, and what edges spent is written down.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// `spending.json`, in bytes: 30,000 edges that spent anything in a month, at 124 bytes each with the
/// longest name. A longer one is not read, and that is said.
const SPENDING_BYTES_MAX: u64 = 4 << 20;

/// Everything of a relay but its listener.
#[derive(Debug)]
pub struct Gatehouse {
    pub rules: GatewayRules,
    pub edges: Arc<Edges>,
    pub enrolment: Arc<dyn Enrolment>,
    pub keeper: Keeper,
    /// `None` where something in front ends TLS.
    pub tls: Option<watch::Receiver<Arc<ServerConfig>>>,
}

/// What has to be kept while the relay runs.
#[derive(Clone, Debug)]
pub struct Keeper {
    relay_id: String,
    folder: RelayFolder,
    tls: Option<watch::Sender<Arc<ServerConfig>>>,
    in_force: Arc<Mutex<InForce>>,
    _lock: Arc<File>,
}

/// What its TLS goes by.
#[derive(Debug, PartialEq, Eq)]
struct InForce {
    chain: Vec<CertificateDer<'static>>,
    /// That edges' certificates may be signed by.
    authorities: Vec<CertificateDer<'static>>,
}

impl Gatehouse {
    /// # Errors
    /// The folder is not there or at fault.
    pub fn open(
        settings: &GatewaySettings,
        grace: Duration,
        now: SystemTime,
    ) -> anyhow::Result<Self> {
        let folder = RelayFolder::new(&settings.dir);
        let lock = folder.lock()?;
        let keys = folder.open(&settings.relay_id, now)?;
        let edges = Edges::open(&folder.edges())
            .with_context(|| format!("cannot list {}", folder.edges().display()))?;
        let edges = Arc::new(edges);
        let (sender, tls) = if settings.has_tls {
            let (sender, receiver) = watch::channel(tls_of(&keys)?);
            (Some(sender), Some(receiver))
        } else {
            (None, None)
        };
        let registrar = Registrar::new(&settings.relay_id, folder.clone(), Arc::clone(&edges));
        let trust = settings.relay_id.to_ascii_lowercase();
        let limits = GatewayLimits {
            requests_max: settings.requests_max,
            connections_max: settings.connections_max,
            connections_per_edge_max: settings.connections_per_edge_max,
            opens_per_s: settings.opens_per_s_max,
            shutdown_grace: grace,
            ..GatewayLimits::default()
        };
        let keeper = Keeper {
            relay_id: settings.relay_id.clone(),
            folder,
            tls: sender,
            in_force: Arc::new(Mutex::new(InForce {
                chain: keys.server.chain,
                authorities: keys.authorities,
            })),
            _lock: Arc::new(lock),
        };
        Ok(Self {
            rules: GatewayRules {
                kems: settings.kems.clone(),
                ciphers: settings.ciphers,
                shapes: settings.shapes.clone(),
                shape: settings.default_shape,
                requires_certificate: settings.requires_certificate,
                limits,
                ..GatewayRules::new(&settings.relay_id, keys.identity, trust)
            },
            edges,
            enrolment: Arc::new(Desk(Arc::new((registrar, keeper.clone())))),
            keeper,
            tls,
        })
    }
}

fn tls_of(keys: &RelayKeys) -> anyhow::Result<Arc<ServerConfig>> {
    let authorities = tls::roots(&keys.authorities)?;
    let config = tls::server(keys.server.chain.clone(), &keys.server.key, authorities)?;
    Ok(Arc::new(config))
}

impl Keeper {
    /// Reads the certificate, which a replaced file or the calendar may have changed, and the authorities,
    /// and goes by them from the next connection on. Blocks while files are read.
    ///
    /// # Errors
    /// It is at fault; then the one before stays.
    pub fn renew(&self, now: SystemTime) -> anyhow::Result<()> {
        let Some(tls) = &self.tls else {
            return Ok(());
        };
        // Read and put in force by one at a time, so that the youngest files are what stands in the end.
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = self.folder.open(&self.relay_id, now)?;
        let config = tls_of(&keys);
        let read = InForce {
            chain: keys.server.chain,
            authorities: keys.authorities,
        };
        if *in_force == read {
            return Ok(());
        }
        tls.send_replace(config?);
        if in_force.chain != read.chain {
            info!("the relay shows another certificate from now on");
        }
        if in_force.authorities != read.authorities {
            info!("edges' certificates may be signed by other authorities from now on");
        }
        *in_force = read;
        Ok(())
    }

    /// What edges spent, as it was kept. Blocks while a file is read.
    pub fn restore(&self, books: &GatewayBooks) {
        let path = self.folder.path().join("spending.json");
        let kept = files::read_if_there_up_to(&path, SPENDING_BYTES_MAX).map(|text| {
            text.map_or(Ok(Vec::new()), |text| {
                serde_json::from_str::<Vec<Spending>>(&text)
            })
        });
        match kept {
            Ok(Ok(kept)) => books.restore(kept),
            Ok(Err(_)) | Err(_) => {
                error!(
                    "spending.json cannot be read; what edges spent this month counts from nothing"
                );
            }
        }
    }

    /// Writes what edges spent. Blocks while the file is written.
    pub fn write_spending(&self, books: &GatewayBooks) {
        let spending = books.spending();
        if spending.is_empty() {
            return;
        }
        let written = serde_json::to_vec(&spending)
            .map_err(std::io::Error::from)
            .and_then(|text| {
                let path = self.folder.path().join("spending.json");
                files::put(&path, &text, Eyes::Own)
            });
        if let Err(error) = written {
            error!(%error, "what edges spent was not written");
        }
    }

    /// Does both again and again. A driver; never ends by itself.
    pub async fn keep(self, books: Arc<GatewayBooks>) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut has_failed = false;
        loop {
            ticks.tick().await;
            let (keeper, books) = (self.clone(), Arc::clone(&books));
            let looked = tokio::task::spawn_blocking(move || {
                keeper.write_spending(&books);
                keeper.renew(SystemTime::now())
            });
            match looked.await {
                Ok(Ok(())) => has_failed = false,
                Ok(Err(fault)) if !has_failed => {
                    has_failed = true;
                    error!(
                        fault = format!("{fault:#}"),
                        "the relay's certificate stays as it is"
                    );
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }
}

/// The registrar behind the gateway's door, and whose TLS has to trust what it signs.
#[derive(Clone, Debug)]
struct Desk(Arc<(Registrar, Keeper)>);

#[async_trait]
impl Enrolment for Desk {
    async fn join(&self, asked: Bytes, _from: IpAddr) -> Result<Bytes, EnrolRefused> {
        self.ask(move |registrar, now| registrar.join(&asked, now))
            .await
    }

    async fn renew(&self, asked: Bytes, shown: &PeerCertificate) -> Result<Bytes, EnrolRefused> {
        let edge_id = shown.edge_id.clone();
        self.ask(move |registrar, now| registrar.renew(&edge_id, &asked, now))
            .await
    }
}

impl Desk {
    /// On a thread that may wait for the disk, and to its end even where nobody waits for it. What is
    /// signed with is in the files, so that is trusted first: a certificate of an authority that was put
    /// there a moment ago would open no connection otherwise.
    async fn ask(
        &self,
        what: impl FnOnce(&Registrar, SystemTime) -> Result<Admission, Turned> + Send + 'static,
    ) -> Result<Bytes, EnrolRefused> {
        let desk = Arc::clone(&self.0);
        let asked = tokio::task::spawn_blocking(move || {
            let (registrar, keeper) = &*desk;
            let now = SystemTime::now();
            keeper.renew(now).map_err(|fault| broken(&fault))?;
            what(registrar, now)
        });
        let asked = asked.await;
        let admission =
            asked
                .map_err(|_| EnrolRefused::Failed)?
                .map_err(|turned| match turned {
                    Turned::Malformed => EnrolRefused::Malformed,
                    Turned::Uninvited => EnrolRefused::Token,
                    Turned::Stranger => EnrolRefused::Unknown,
                    Turned::Broken => EnrolRefused::Failed,
                })?;
        let body = serde_json::to_vec(&admission).map_err(|_| EnrolRefused::Failed)?;
        Ok(Bytes::from(body))
    }
}

#[cfg(test)]
mod tests;
