//! Listeners, and what stands behind them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixStream};

use super::*;

fn unix(path: &Path) -> Listen {
    Listen::Unix { path: path.to_owned(), mode: 0o600 }
}

fn front(listen: &Listen, to: &[u8]) -> Front {
    let to = to.iter().map(|last| container(*last)).collect();
    Front { listen: listen.clone(), network: network(), to, spare: Vec::new(), kept: Vec::new() }
}

async fn set(handle: &GatewayHandle, fronts: Vec<Front>) -> Fronts {
    handle.set_fronts(fronts);
    handle.fronts().await
}

async fn greeting(path: &Path) -> io::Result<u8> {
    let mut stream = UnixStream::connect(path).await?;
    tokio::time::timeout(DEADLINE, stream.read_u8()).await.expect("in time")
}

/// How a front is once its connections have ended.
async fn ended(handle: &GatewayHandle, listen: &Listen) -> FrontStatus {
    let begin = clock::now();
    loop {
        let status = handle.fronts().await.remove(listen).expect("a front");
        if status.connections == 0 {
            return status;
        }
        assert!(begin.elapsed() < DEADLINE, "{status:?}");
    }
}

/// A port that nothing has.
async fn unused_port() -> SocketAddr {
    TcpListener::bind("[::1]:0").await.expect("binds").local_addr().expect("bound")
}

#[tokio::test]
async fn connections_go_to_the_containers_in_turn_and_past_those_that_refuse() {
    let (handle, _containers) = gateway(&[(1, Does::Echo), (2, Does::Echo), (3, Does::Refuse)]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("web");
    let listen = unix(&path);
    let status = set(&handle, vec![front(&listen, &[1, 2])]).await;
    assert_eq!(status[&listen], FrontStatus::default());
    assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
    let mut greetings = Vec::new();
    for _ in 0..6 {
        greetings.push(greeting(&path).await.expect("a container"));
    }
    assert!(greetings == [1, 2, 1, 2, 1, 2] || greetings == [2, 1, 2, 1, 2, 1], "{greetings:?}");
    set(&handle, vec![front(&listen, &[1, 3])]).await;
    for _ in 0..4 {
        assert_eq!(greeting(&path).await.expect("a container"), 1);
    }
    set(&handle, vec![front(&listen, &[3])]).await;
    assert!(greeting(&path).await.is_err());
    set(&handle, vec![front(&listen, &[])]).await;
    assert!(greeting(&path).await.is_err());
    let status = handle.fronts().await.remove(&listen).expect("a front");
    assert_eq!((status.connections_ever, status.refused, status.bytes_out), (10, 2, 10));
}

#[tokio::test]
async fn a_connection_that_a_container_does_not_take_is_a_spare_ones_and_such_a_container_is_asked_last_for_a_while() {
    let (handle, _containers) = gateway(&[(1, Does::Refuse), (2, Does::Echo), (3, Does::Echo)]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("web");
    let listen = unix(&path);
    let spared = |to: &[u8], spare: &[u8]| {
        let spare = spare.iter().map(|last| container(*last)).collect();
        vec![Front { spare, ..front(&listen, to) }]
    };
    set(&handle, spared(&[2], &[1, 3])).await;
    for _ in 0..4 {
        assert_eq!(greeting(&path).await.expect("a container"), 2, "its own comes first");
    }
    set(&handle, spared(&[1], &[2, 3])).await;
    let mut greetings = Vec::new();
    for _ in 0..6 {
        greetings.push(greeting(&path).await.expect("a container"));
    }
    assert!(greetings == [2, 3, 2, 3, 2, 3] || greetings == [3, 2, 3, 2, 3, 2], "{greetings:?}");
    let refused = handle.stats().await[&network()].refused;
    assert!((1..6).contains(&refused), "asked {refused} times");
    set(&handle, spared(&[1], &[])).await;
    assert!(greeting(&path).await.is_err());
    assert!(handle.stats().await[&network()].refused > refused, "one that is alone is asked all the same");
}

#[tokio::test]
async fn a_change_touches_no_connection_and_a_front_that_goes_leaves_them() {
    let (handle, _containers) = gateway(&[(1, Does::Echo), (2, Does::Echo)]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("web");
    let listen = unix(&path);
    set(&handle, vec![front(&listen, &[1])]).await;
    let mut stream = UnixStream::connect(&path).await.expect("connects");
    assert_eq!(stream.read_u8().await.expect("a greeting"), 1);
    set(&handle, vec![front(&listen, &[2])]).await;
    assert_eq!(greeting(&path).await.expect("a container"), 2);
    assert!(set(&handle, vec![]).await.is_empty());
    assert!(!path.exists(), "its file goes with it");
    stream.write_all(b"still").await.expect("writes");
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.expect("reads");
    assert_eq!(&heard, b"still");
}

#[tokio::test]
async fn a_host_port_takes_both_families_and_a_refusal_is_a_reset() {
    let (handle, _containers) = gateway(&[(1, Does::Echo), (2, Does::Refuse)]).await;
    let port = unused_port().await.port();
    let listen = Listen::Tcp(SocketAddr::from(([0u16; 8], port)));
    assert_eq!(set(&handle, vec![front(&listen, &[1])]).await[&listen].error, None);
    for host in ["127.0.0.1", "::1"] {
        let mut stream = TcpStream::connect((host, port)).await.expect("connects");
        assert_eq!(stream.read_u8().await.expect("a greeting"), 1);
        stream.write_all(b"over TCP").await.expect("writes");
        stream.shutdown().await.expect("closes");
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.expect("reads");
        assert_eq!(heard, b"over TCP");
    }
    set(&handle, vec![front(&listen, &[2])]).await;
    // It may come before it is known that there is a connection.
    let read = async { TcpStream::connect(("127.0.0.1", port)).await?.read_u8().await };
    assert!(read.await.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));
    let status = ended(&handle, &listen).await;
    assert_eq!((status.connections_ever, status.refused), (2, 1));
    assert_eq!((status.bytes_in, status.bytes_out), (16, 18));
}

#[tokio::test]
async fn why_nothing_is_listened_on_is_said_and_tried_again() {
    let (handle, _containers) = gateway(&[(1, Does::Echo)]).await;
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = Listen::Tcp(taken.local_addr().expect("bound"));
    let folder = tempfile::tempdir().expect("a folder");
    let missing = unix(&folder.path().join("missing/web"));
    let file = folder.path().join("file");
    std::fs::write(&file, "not a socket").expect("writes");
    // One that a dead process has left, and one on which somebody listens.
    let left = folder.path().join("left");
    drop(std::os::unix::net::UnixListener::bind(&left).expect("binds"));
    let alive = folder.path().join("alive");
    let _alive = std::os::unix::net::UnixListener::bind(&alive).expect("binds");
    let listens = [port.clone(), missing.clone(), unix(&file), unix(&left), unix(&alive)];
    let fronts: Vec<Front> = listens.iter().map(|listen| front(listen, &[1])).collect();
    let status = set(&handle, fronts.clone()).await;
    let errors: Vec<bool> = listens.iter().map(|listen| status[listen].error.is_some()).collect();
    assert_eq!(errors, [true, true, true, false, true], "{status:?}");
    assert_eq!(std::fs::read(&file).expect("the file is still there"), b"not a socket");
    assert_eq!(greeting(&left).await.expect("a container"), 1);
    drop(taken);
    std::fs::create_dir(folder.path().join("missing")).expect("a folder");
    let status = set(&handle, fronts).await;
    assert_eq!((&status[&port].error, &status[&missing].error), (&None, &None));
}

#[tokio::test]
async fn datagrams_go_to_a_container_and_its_answers_to_their_client() {
    let (handle, _containers) = gateway(&[]).await;
    let port = unused_port().await.port();
    let listen = Listen::Udp(SocketAddr::from(([127, 0, 0, 1], port)));
    assert_eq!(set(&handle, vec![front(&listen, &[1, 2])]).await[&listen].error, None);
    let mut clients = Vec::new();
    for _ in 0..3 {
        let client = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
        client.connect(("127.0.0.1", port)).await.expect("connects");
        clients.push(client);
    }
    for (number, client) in clients.iter().enumerate() {
        for len in [0, 1, usize::from(MTU) - UDP_HEADERS_LEN] {
            client.send(&vec![number as u8; len]).await.expect("sends");
            let mut bytes = [0; 2000];
            let heard = tokio::time::timeout(DEADLINE, client.recv(&mut bytes)).await.expect("in time");
            assert_eq!((heard.expect("an answer"), &bytes[..len]), (len, &vec![number as u8; len][..]));
        }
    }
    clients[0].send(&vec![0; usize::from(MTU) - UDP_HEADERS_LEN + 1]).await.expect("sends");
    let begin = clock::now();
    loop {
        let status = handle.fronts().await.remove(&listen).expect("a front");
        if status.dropped == 1 {
            assert_eq!((status.connections, status.connections_ever, status.refused), (3, 3, 0));
            break;
        }
        assert!(begin.elapsed() < DEADLINE, "{status:?}");
    }
    assert_eq!(handle.stats().await[&network()].sessions, 3);
}

#[tokio::test]
async fn a_session_of_datagrams_ends_with_its_container_and_goes_on_while_that_drains() {
    let (handle, _containers) = gateway(&[]).await;
    let port = unused_port().await.port();
    let listen = Listen::Udp(SocketAddr::from(([127, 0, 0, 1], port)));
    set(&handle, vec![front(&listen, &[1])]).await;
    let client = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
    client.connect(("127.0.0.1", port)).await.expect("connects");
    let echo = async || {
        client.send(b"hello").await.expect("sends");
        let mut bytes = [0; 10];
        let heard = tokio::time::timeout(DEADLINE, client.recv(&mut bytes)).await.expect("in time");
        assert_eq!(&bytes[..heard.expect("an answer")], b"hello");
    };
    let status = async |fronts| {
        let status = set(&handle, fronts).await.remove(&listen).expect("a front");
        (status.connections, status.connections_ever)
    };
    echo().await;
    let drains = Front { kept: vec![container(1)], ..front(&listen, &[2]) };
    assert_eq!(status(vec![drains]).await, (1, 1));
    echo().await;
    assert_eq!(status(vec![front(&listen, &[2])]).await, (0, 1), "the container is gone");
    echo().await;
    assert_eq!(status(vec![front(&listen, &[2])]).await, (1, 2), "with its successor");
    assert_eq!(handle.stats().await[&network()].sessions, 1);
}

#[tokio::test]
async fn without_a_gateway_a_front_refuses() {
    let handle = GatewayHandle::spawn().expect("starts");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("web");
    set(&handle, vec![front(&unix(&path), &[1])]).await;
    assert!(greeting(&path).await.is_err());
    assert_eq!(handle.fronts().await[&unix(&path)].refused, 1);
}
