//! SOCKS5 (RFC 1928) by its library: who connects says where to. Names are the network's own, never this host's.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fast_socks5::server::states::CommandRead;
use fast_socks5::server::{Socks5ServerProtocol, SocksServerError};
use fast_socks5::util::target_addr::TargetAddr;
use fast_socks5::{ReplyError, Socks5Command};
use peerd::control::{ExitStatus, Failure};
use tokio::net::TcpStream;

use super::reach::{Gate, join};

/// How long a client may take to say where to.
const SAY_TIMEOUT: Duration = Duration::from_secs(10);

/// Does what a client asks for, if that is a TCP connection.
pub(super) async fn lead(client: TcpStream, gate: &Gate) -> Result<(), String> {
    let said = tokio::time::timeout(SAY_TIMEOUT, async {
        Socks5ServerProtocol::accept_no_auth(client).await?.read_command().await
    });
    let (protocol, command, target) = match said.await {
        Ok(said) => said.map_err(|error: SocksServerError| format!("no SOCKS5 client: {error}"))?,
        Err(_) => return Err("the client did not say where to".to_owned()),
    };
    if !matches!(command, Socks5Command::TCPConnect) {
        refuse(protocol, ReplyError::CommandNotSupported).await;
        return Err("only TCP connections are carried".to_owned());
    }
    let (name, port) = match target {
        TargetAddr::Domain(name, port) => (name, port),
        TargetAddr::Ip(SocketAddr::V4(to)) => (to.ip().to_string(), to.port()),
        TargetAddr::Ip(SocketAddr::V6(_)) => {
            refuse(protocol, ReplyError::AddressTypeNotSupported).await;
            return Err("there is no IPv6 in a network".to_owned());
        }
    };
    match gate.dial(&name, port).await {
        Ok(mut stream) => {
            let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            let mut client = protocol.reply_success(nowhere).await.map_err(|error| error.to_string())?;
            join(&mut client, &mut stream).await;
            Ok(())
        }
        Err(failure) => {
            refuse(protocol, reply(&failure)).await;
            Err(format!("{}: {}", failure.what, failure.why))
        }
    }
}

async fn refuse(protocol: Socks5ServerProtocol<TcpStream, CommandRead>, why: ReplyError) {
    // A client that has left misses the reason.
    let _ = protocol.reply_error(&why).await;
}

fn reply(failure: &Failure) -> ReplyError {
    match failure.status {
        ExitStatus::NotFound => ReplyError::HostUnreachable,
        ExitStatus::Timeout => ReplyError::TtlExpired,
        ExitStatus::Permission => ReplyError::ConnectionNotAllowed,
        ExitStatus::Failure => ReplyError::ConnectionRefused,
        _ => ReplyError::GeneralFailure,
    }
}
