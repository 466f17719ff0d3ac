//! A port for a server that is started, killed and started again.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

/// A port of 127.0.0.1 that nobody else is given while this lives: the kernel takes none that is bound
/// for an outgoing connection. A server that reuses addresses can listen on it, again and again.
#[derive(Debug)]
pub struct Port {
    /// Its number.
    pub number: u16,
    _bound: Socket,
}

impl Port {
    /// Takes a free one.
    ///
    /// # Errors
    /// There is none.
    pub fn take() -> Result<Self> {
        let bound =
            Socket::new(Domain::IPV4, Type::STREAM, None).context("failed to make a socket")?;
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        bound.bind(&any.into()).context("failed to find a port")?;
        // Only now: who had set it before could be given a port that another one holds.
        let shared = bound.set_reuse_address(true);
        shared.context("failed to share a port")?;
        let address = bound.local_addr().context("failed to read a port")?;
        let address = address.as_socket_ipv4().context("no port of IPv4")?;
        Ok(Self {
            number: address.port(),
            _bound: bound,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_server_listens_on_it_again_and_again() {
        let port = Port::take().unwrap();
        for _ in 0..3 {
            let server = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number)).unwrap();
            let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            let (answer, _) = server.accept().unwrap();
            drop((answer, client));
        }
    }
}
