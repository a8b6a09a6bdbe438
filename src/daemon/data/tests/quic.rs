//! QUIC, frames and junk on the same ports.

use std::sync::atomic::{AtomicBool, Ordering};

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime};

use super::*;
use crate::sys::clock;

const QUIC_PACKETS: u64 = 10_000;

fn endpoint(socket: Arc<QuicSocket>, server: Option<ServerConfig>) -> Endpoint {
    let mut config = EndpointConfig::default();
    config.grease_quic_bit(false);
    Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime)).expect("an endpoint")
}

fn tls() -> (ServerConfig, ClientConfig) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let made = rcgen::generate_simple_self_signed(vec!["node".to_owned()]).expect("a certificate");
    let certificate = made.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let server = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("it fits the certificate");
    let server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).expect("TLS 1.3")));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    (server, ClientConfig::with_root_certificates(Arc::new(roots)).expect("roots"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_quic_packets_cross_the_shared_port_and_none_is_taken_for_anything_else() {
    let [a, b] = two_planes().await;
    let (server_config, client_config) = tls();
    let server = endpoint(b.quic.clone(), Some(server_config));
    let mut client = endpoint(a.quic.clone(), None);
    client.set_default_client_config(client_config);

    let serving = tokio::spawn(async move {
        let connection = server.accept().await.expect("open").await.expect("a handshake");
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            let bytes = recv.read_to_end(1 << 20).await.expect("whole");
            send.write_all(blake3::hash(&bytes).as_bytes()).await.expect("open");
            send.finish().expect("open");
        }
    });

    // Junk from a stranger, of every kind but QUIC, until QUIC has done its part.
    let done = Arc::new(AtomicBool::new(false));
    let (junk_done, targets) = (done.clone(), [a.at, b.at]);
    let junk = tokio::spawn(async move {
        let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
        let (mut unknown, mut frames) = (0u64, 0u64);
        while !junk_done.load(Ordering::Relaxed) {
            for target in targets {
                socket.send_to(&[0x07; 40], target).await.expect("sent");
                socket.send_to(&[0x08; 60], target).await.expect("sent");
            }
            (unknown, frames) = (unknown + 1, frames + 1);
            tokio::task::yield_now().await;
        }
        (unknown, frames)
    });

    let connection = client.connect(b.at, "node").expect("configured").await.expect("a handshake");
    let mut packets = 0u32;
    let begun = clock::now();
    while connection.stats().udp_tx.datagrams + connection.stats().udp_rx.datagrams < QUIC_PACKETS {
        assert!(begun.elapsed() < Duration::from_secs(60), "too slow");
        // Frames between the same two sockets, so that the kernel may join them with QUIC's.
        for _ in 0..20 {
            a.container.send(&between(1, 2, &packets.to_be_bytes())).await;
            assert_eq!(b.container.recv().await, between(1, 2, &packets.to_be_bytes()));
            packets += 1;
        }
        let bytes = vec![packets as u8; 200_000];
        let (mut send, mut recv) = connection.open_bi().await.expect("open");
        send.write_all(&bytes).await.expect("open");
        send.finish().expect("open");
        let digest = recv.read_to_end(32).await.expect("whole");
        assert_eq!(digest, blake3::hash(&bytes).as_bytes());
    }
    done.store(true, Ordering::Relaxed);
    let (unknown, frames) = junk.await.expect("no panic");
    connection.close(0u32.into(), b"");
    client.wait_idle().await;
    serving.await.expect("no panic");

    for plane in [&a, &b] {
        let drops = plane.data.stats().await.expect("running").drops;
        let others: u64 = drops
            .iter()
            .filter(|(reason, _)| {
                !matches!(reason, DropReason::UnknownDatagram | DropReason::UnknownVersion | DropReason::QuicQueueFull)
            })
            .map(|(_, count)| count)
            .sum();
        assert_eq!(others, 0, "{drops:?}");
        // Junk may be lost before it is seen; what is seen is seen as what it is.
        assert!(drops[&DropReason::UnknownDatagram] <= unknown && drops[&DropReason::UnknownDatagram] > 0);
        assert!(drops[&DropReason::UnknownVersion] <= frames && drops[&DropReason::UnknownVersion] > 0);
    }
}
