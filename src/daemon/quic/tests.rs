use std::net::{SocketAddr, UdpSocket};

use ed25519_dalek::SigningKey;
use quinn::Runtime;
use tokio::sync::mpsc;

use super::*;
use crate::gossip::MESSAGE_LEN_MAX;
use crate::model::NodeId;

struct Side {
    endpoint: Endpoint,
    node: NodeId,
    address: SocketAddr,
}

fn side(seed: u8) -> Side {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    let socket = quinn::TokioRuntime.wrap_udp_socket(socket).expect("a socket");
    let endpoint = Endpoint::new(&key, socket).expect("an endpoint");
    Side { endpoint, node: NodeId(key.verifying_key().to_bytes()), address }
}

/// Dials from `a` to `b` while `b` accepts.
async fn link(a: &Side, b: &Side) -> (Link, Link) {
    let (done, mut accepted) = mpsc::channel(1);
    let accept = async {
        loop {
            tokio::select! {
                open = b.endpoint.accept(&done) => assert!(open.is_some(), "the endpoint is open"),
                Some(link) = accepted.recv() => return link,
            }
        }
    };
    let (dialled, accepted) = tokio::join!(a.endpoint.dial(b.node, b.address), accept);
    (dialled.expect("dialled"), accepted)
}

/// As [`link`], and the dialling side is a member.
async fn member_link(a: &Side, b: &Side) -> (Link, Link) {
    let (dialled, accepted) = link(a, b).await;
    accepted.admit();
    (dialled, accepted)
}

#[tokio::test]
async fn both_ends_know_whom_they_talk_to_and_share_an_exporter_secret() {
    let (a, b) = (side(1), side(2));
    let (dialled, accepted) = link(&a, &b).await;
    assert_eq!((dialled.peer(), accepted.peer()), (b.node, a.node));
    assert_eq!((dialled.is_dialled(), accepted.is_dialled()), (true, false));
    assert_eq!(dialled.exporter(), accepted.exporter());
    let (again, _) = link(&a, &b).await;
    assert_ne!(again.exporter(), dialled.exporter());
}

#[tokio::test]
async fn a_push_and_an_exchange_arrive_whole() {
    let (a, b) = (side(1), side(2));
    let (dialled, accepted) = member_link(&a, &b).await;
    let message = vec![7; MESSAGE_LEN_MAX];
    let (pushed, heard) =
        tokio::join!(dialled.push(&message), async { accepted.accept_push().await?.read(MESSAGE_LEN_MAX).await });
    pushed.expect("pushed");
    assert_eq!(heard.expect("heard"), message);
    let answer = async {
        let (reply, request) = accepted.accept_exchange().await?;
        let request = request.read(16).await?;
        reply.reply(&[&request[..], b" yes"].concat()).await
    };
    let (reply, answered) = tokio::join!(dialled.exchange(b"well?"), answer);
    answered.expect("answered");
    assert_eq!(reply.expect("a reply"), b"well? yes");
}

#[tokio::test]
async fn a_node_with_another_key_than_expected_is_refused() {
    let (a, b, other) = (side(1), side(2), side(3));
    let (done, _accepted) = mpsc::channel(1);
    let accept = async { while b.endpoint.accept(&done).await.is_some() {} };
    let refused = tokio::select! {
        dialled = a.endpoint.dial(other.node, b.address) => dialled.is_err(),
        () = accept => false,
    };
    assert!(refused);
}

#[tokio::test]
async fn a_message_longer_than_allowed_is_refused_and_the_link_stays() {
    let (a, b) = (side(1), side(2));
    let (dialled, accepted) = member_link(&a, &b).await;
    let (_, heard) = tokio::join!(dialled.push(&[7; 5000]), async { accepted.accept_push().await?.read(4096).await });
    assert!(heard.is_err());
    let (pushed, heard) =
        tokio::join!(dialled.push(b"short"), async { accepted.accept_push().await?.read(4096).await });
    pushed.expect("pushed");
    assert_eq!(heard.expect("heard"), b"short");
}

#[tokio::test]
async fn a_stranger_has_one_thing_to_say_and_pushes_nothing() {
    let (a, b) = (side(1), side(2));
    let (dialled, accepted) = link(&a, &b).await;
    let answer = async {
        let (reply, request) = accepted.accept_exchange().await?;
        let request = request.read(4096).await?;
        reply.reply(&request).await
    };
    let push = async {
        let _ = dialled.push(b"noise").await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        heard = accepted.accept_push() => panic!("a stranger's push is heard: {}", heard.is_ok()),
        () = push => unreachable!("it waits for ever"),
        (reply, answered) = async { tokio::join!(dialled.exchange(b"hello"), answer) } => {
            answered.expect("answered");
            assert_eq!(reply.expect("a reply"), b"hello");
        }
    }
    // As a member it may.
    accepted.admit();
    let (pushed, heard) =
        tokio::join!(dialled.push(b"short"), async { accepted.accept_push().await?.read(4096).await });
    pushed.expect("pushed");
    assert_eq!(heard.expect("heard"), b"short");
}
