//! A Postgres that several replicas share: where it is, and how one asks it.
//!
//! Everything of hedge's is in the schema `hedge`, named in full, so that it does not matter whose the
//! database is otherwise, and a pooler that gives each transaction another connection is no trouble.

mod schema;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use domain::is_this_machine;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection, query_as, query_scalar};
use tokio::time::timeout;

pub use schema::{MIGRATIONS, bring_forward, version};

/// For a connection, its encryption and its password. Beyond that it counts as down.
pub const CONNECT_MAX: Duration = Duration::from_secs(5);

/// What a URL may say after its `?`. Anything else is refused: it may be a part of a password.
const PARAMETERS: [&str; 8] = [
    "application_name",
    "host",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

/// Where a Postgres is, and who asks. Shows neither password nor user.
#[derive(Clone)]
pub struct PostgresAddress(Arc<PgConnectOptions>);

/// Why a text is no address. It holds nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressFault {
    #[error(
        "must be a URL such as postgres://user:password@host:5432/database, in which `@`, `/` and `?` of a \
         password are written %40, %2F and %3F"
    )]
    NoUrl,
    #[error("must name a database, as in postgres://host/database")]
    NoDatabase,
    #[error(
        "has a parameter that is none of application_name, host, port, sslcert, sslkey, sslmode, \
         sslrootcert and user; a `?` in a password is written %3F"
    )]
    Parameter,
}

/// Why a Postgres cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PostgresFault {
    #[error("Postgres did not answer in time")]
    Late,
    #[error(
        "Postgres has the schema `hedge` of version {version}, and this program knows {known} at most"
    )]
    Newer { version: i64, known: i64 },
    #[error("Postgres takes no writes: it is a standby, or read-only")]
    ReadOnly,
    #[error("the database in Postgres is in {encoding}, and must be in UTF8")]
    Encoding { encoding: String },
    #[error("Postgres cannot be used")]
    Sql(#[from] sqlx::Error),
}

impl FromStr for PostgresAddress {
    type Err = AddressFault;

    fn from_str(text: &str) -> Result<Self, AddressFault> {
        let is_ours = text.starts_with("postgres://") || text.starts_with("postgresql://");
        if !is_ours {
            return Err(AddressFault::NoUrl);
        }
        let parameters = text.split_once('?').map_or("", |(_, rest)| rest);
        let names = parameters.split('&').filter(|field| !field.is_empty());
        let mut names = names.map(|field| field.split('=').next().unwrap_or_default());
        if names.any(|name| !PARAMETERS.contains(&name)) {
            return Err(AddressFault::Parameter);
        }
        // Its error may hold the text.
        let options = PgConnectOptions::from_str(text).map_err(|_| AddressFault::NoUrl)?;
        if options.get_database().is_none_or(str::is_empty) {
            return Err(AddressFault::NoDatabase);
        }
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("hedge"),
        };
        Ok(Self(Arc::new(options.disable_statement_logging())))
    }
}

impl fmt::Debug for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresAddress({self})")
    }
}

/// Host, port and database: what may be shown.
impl fmt::Display for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.0;
        let database = options.get_database().unwrap_or_default();
        match options.get_socket() {
            Some(socket) => write!(f, "{}:{}/{database}", socket.display(), options.get_port()),
            None => write!(
                f,
                "{}:{}/{database}",
                options.get_host(),
                options.get_port()
            ),
        }
    }
}

impl PostgresAddress {
    /// Whether the text of the URL holds a password.
    #[must_use]
    pub fn has_password(text: &str) -> bool {
        let authority = text.split_once("://").map_or("", |(_, rest)| rest);
        let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
        user.contains(':')
    }

    /// Whether what is sent may leave this machine unencrypted, or go to somebody who only says to be
    /// the one meant.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        let host = self.0.get_host();
        let is_near =
            self.0.get_socket().is_some() || host.starts_with('/') || is_this_machine(host);
        let is_checked = matches!(
            self.0.get_ssl_mode(),
            PgSslMode::VerifyCa | PgSslMode::VerifyFull
        );
        !is_near && !is_checked
    }

    /// A connection to read with.
    pub(crate) async fn connect(&self) -> Result<PgConnection, PostgresFault> {
        let connecting = PgConnection::connect_with(&self.0);
        let connected = timeout(CONNECT_MAX, connecting).await;
        Ok(connected.map_err(|_| PostgresFault::Late)??)
    }

    /// A connection to write with, and the schema brought forward.
    pub(crate) async fn open(&self) -> Result<PgConnection, PostgresFault> {
        let opening = async {
            let mut connection = self.connect().await?;
            check(&mut connection).await?;
            bring_forward(&mut connection, &MIGRATIONS).await?;
            Ok(connection)
        };
        let opened = timeout(CONNECT_MAX * 2, opening).await;
        opened.map_err(|_| PostgresFault::Late)?
    }

    /// Asks it how it is, and changes nothing.
    ///
    /// # Errors
    /// It cannot be asked, or no node could use it.
    pub async fn look(&self) -> Result<PostgresLook, PostgresFault> {
        let looking = async {
            let mut connection = self.connect().await?;
            check(&mut connection).await?;
            let (schema, known) = (version(&mut connection).await?, MIGRATIONS.len() as i64);
            if schema > known {
                let version = schema;
                return Err(PostgresFault::Newer { version, known });
            }
            let may_make = query_scalar(
                "SELECT COALESCE(
                    has_schema_privilege(to_regnamespace('hedge')::OID, 'CREATE'),
                    has_database_privilege(current_database(), 'CREATE')
                )",
            );
            Ok(PostgresLook {
                may_make: may_make.fetch_one(&mut connection).await?,
                server: server_version(&mut connection).await?,
                schema: (schema > 0).then_some(schema),
                known,
            })
        };
        let looked = timeout(CONNECT_MAX * 2, looking).await;
        looked.map_err(|_| PostgresFault::Late)?
    }
}

/// How a Postgres is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresLook {
    /// The server's version, as it calls itself.
    pub server: String,
    /// Of the schema `hedge`; `None` where there is none yet.
    pub schema: Option<i64>,
    /// The version that this program brings it to.
    pub known: i64,
    /// Whether who asks may make the schema, or change the one that is there.
    pub may_make: bool,
}

/// Whether it could be written to.
async fn check(connection: &mut PgConnection) -> Result<(), PostgresFault> {
    let (encoding, is_read_only): (String, bool) = query_as(
        "SELECT current_setting('server_encoding'),
            pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'",
    )
    .fetch_one(connection)
    .await?;
    if encoding != "UTF8" {
        return Err(PostgresFault::Encoding { encoding });
    }
    match is_read_only {
        true => Err(PostgresFault::ReadOnly),
        false => Ok(()),
    }
}

/// As it calls itself.
pub(crate) async fn server_version(connection: &mut PgConnection) -> Result<String, PostgresFault> {
    let version = query_scalar("SELECT current_setting('server_version')");
    Ok(version.fetch_one(connection).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_url_with_a_database_and_shows_no_secret() {
        for (text, wanted) in [
            (
                "postgres://hedge:s3cret@db.example:5433/hedge",
                Ok("db.example:5433/hedge"),
            ),
            (
                "postgresql://db.example/hedge?sslmode=verify-full",
                Ok("db.example:5432/hedge"),
            ),
            (
                "postgres://u:s3cret@%2Frun%2Fpg/hedge",
                Ok("/run/pg:5432/hedge"),
            ),
            (
                "postgres://u:s3cret@db.example",
                Err(AddressFault::NoDatabase),
            ),
            (
                "mysql://u:s3cret@db.example/hedge",
                Err(AddressFault::NoUrl),
            ),
            ("host=db.example password=s3cret", Err(AddressFault::NoUrl)),
            (
                "postgres://u:p@db.example:port/hedge",
                Err(AddressFault::NoUrl),
            ),
            (
                "postgres://u:p?s3cret@db.example/hedge",
                Err(AddressFault::Parameter),
            ),
            (
                "postgres://db.example/hedge?pasword=s3cret",
                Err(AddressFault::Parameter),
            ),
            (
                "postgres://db.example/hedge?sslmode=none",
                Err(AddressFault::NoUrl),
            ),
            ("", Err(AddressFault::NoUrl)),
        ] {
            let parsed = text.parse::<PostgresAddress>();
            let shown = format!("{parsed:?}");
            assert!(!shown.contains("s3cret"), "{shown}");
            match wanted {
                Ok(place) => assert_eq!(parsed.unwrap().to_string(), place, "{text}"),
                Err(fault) => assert_eq!(parsed.unwrap_err(), fault, "{text}"),
            }
        }
    }

    #[test]
    fn what_leaves_the_machine_unchecked_is_known() {
        for (text, is_exposed) in [
            ("postgres://localhost/h", false),
            ("postgres://127.0.0.1:5433/h", false),
            ("postgres://127.1.2.3/h", false),
            ("postgres://[::1]/h", false),
            ("postgres://%2Frun%2Fpg/h", false),
            ("postgres://db.example/h?sslmode=verify-full", false),
            ("postgres://db.example/h?sslmode=require", true),
            ("postgres://db.example/h", true),
        ] {
            let address: PostgresAddress = text.parse().unwrap();
            assert_eq!(address.is_exposed(), is_exposed, "{text}");
        }
    }
}
