//! Names of hosts.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::vec::IntoIter;

use tokio::sync::oneshot;

/// The addresses of a host, by the operating system's resolver, on a thread of its own. Tokio panics where there is none
/// to be had.
pub(super) async fn resolve(host: &str, port: u16) -> io::Result<IntoIter<SocketAddr>> {
    let ((to, addresses), host) = (oneshot::channel(), host.to_owned());
    let resolve = move || drop(to.send((host, port).to_socket_addrs())); // who asked may have gone
    std::thread::Builder::new().name("idempotency-dns".into()).spawn(resolve)?;
    addresses.await.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}
