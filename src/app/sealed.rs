//! The sealed path's files and connections: who a relay is, whom it lets in, and how an edge comes to
//! be one.
//!
//! ```text
//! relay   folder ─► authority, identity ─► tls           edge   member ─► tls ─► relay::client
//!         token ─► registrar ─► edges                           join, renewal ─► member
//! ```
//! Keys leave this module as types that do not print, and go into files of mode 0600 alone.

mod authority;
mod chronicle;
mod ed25519;
mod edge_file;
mod edges;
mod files;
mod folder;
mod gatehouse;
mod hardening;
mod join;
mod member;
mod registrar;
mod tls;
mod token;
mod uplink;

pub use chronicle::{Changes, Chronicle, unaudited};
pub use edges::{EdgeState, Edges, list as list_edges};
pub use files::{Eyes, make_folder, make_new_file, put_file, put_new, read_if_there};
pub use folder::RelayFolder;
pub use gatehouse::{Gatehouse, Keeper};
pub use hardening::{has_aes, keep_memory_private, warn_without_aes};
pub use join::join;
pub use member::{Member, MemberFolder, relay_url};
pub use token::{JoinToken, TOKEN_LIFE};
pub use uplink::Uplink;

/// Where a relay's manifest is, after its address.
pub const MANIFEST_PATH: &str = "/relay/v1/manifest";

/// What may be told of the certificate that a relay shows.
///
/// # Errors
/// It cannot be read.
pub fn server_facts(keys: &folder::RelayKeys) -> anyhow::Result<authority::Facts> {
    authority::Facts::read(&keys.server.chain[0])
}
