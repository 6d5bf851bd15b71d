//! Which node of a cluster has somebody's keys.

use redis::{Client, ConnectionAddr, RedisError};

/// The node that an error names as the one to ask, reached as `home` is; `None` where it names none.
pub fn moved(home: &Client, error: &RedisError) -> Option<Client> {
    let (host, port) = error.redirect_node()?.0.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let known = home.get_connection_info().clone();
    let addr = match known.addr() {
        ConnectionAddr::TcpTls {
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host: host.to_owned(),
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host.to_owned(), port),
    };
    Client::open(known.set_addr(addr)).ok()
}
