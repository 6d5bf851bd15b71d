//! A relay's parts, from its folder and its configuration: what `api`'s gateway is made of.

use std::net::IpAddr;
use std::sync::Arc;
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
use super::registrar::{Admission, Registrar, Turned};
use super::tls;
use crate::config::GatewaySettings;

/// How often the relay's own certificate is looked at, and what edges spent is written down.
const LOOK_EVERY: Duration = Duration::from_secs(10);

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
    shown: watch::Sender<Vec<CertificateDer<'static>>>,
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
        let shown = watch::Sender::new(keys.server.chain);
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
            enrolment: Arc::new(Desk(Arc::new(registrar))),
            keeper: Keeper {
                relay_id: settings.relay_id.clone(),
                folder,
                tls: sender,
                shown,
            },
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
    /// Reads the certificate, which a replaced file or the calendar may have changed, and shows it from
    /// the next connection on. Blocks while files are read.
    ///
    /// # Errors
    /// It is at fault; then the one before stays.
    pub fn renew(&self, now: SystemTime) -> anyhow::Result<()> {
        let Some(tls) = &self.tls else {
            return Ok(());
        };
        let keys = self.folder.open(&self.relay_id, now)?;
        if *self.shown.borrow() == keys.server.chain {
            return Ok(());
        }
        tls.send_replace(tls_of(&keys)?);
        self.shown.send_replace(keys.server.chain);
        info!("the relay shows another certificate from now on");
        Ok(())
    }

    /// What edges spent, as it was kept. Blocks while a file is read.
    pub fn restore(&self, books: &GatewayBooks) {
        let path = self.folder.path().join("spending.json");
        let kept = files::read_if_there(&path).map(|text| {
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

/// The registrar behind the gateway's door.
#[derive(Clone, Debug)]
struct Desk(Arc<Registrar>);

#[async_trait]
impl Enrolment for Desk {
    async fn join(&self, asked: Bytes, _from: IpAddr) -> Result<Bytes, EnrolRefused> {
        self.ask(move |registrar| registrar.join(&asked, SystemTime::now()))
            .await
    }

    async fn renew(&self, asked: Bytes, shown: &PeerCertificate) -> Result<Bytes, EnrolRefused> {
        let edge_id = shown.edge_id.clone();
        self.ask(move |registrar| registrar.renew(&edge_id, &asked, SystemTime::now()))
            .await
    }
}

impl Desk {
    /// On a thread that may wait for the disk, and to its end even where nobody waits for it.
    async fn ask(
        &self,
        what: impl FnOnce(&Registrar) -> Result<Admission, Turned> + Send + 'static,
    ) -> Result<Bytes, EnrolRefused> {
        let registrar = Arc::clone(&self.0);
        let asked = tokio::task::spawn_blocking(move || what(&registrar)).await;
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
