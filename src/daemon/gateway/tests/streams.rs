//! Streams that are dialled and joined.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;

/// Joins a stream with a socket, and gives the other end.
fn join(opened: Opened) -> UnixStream {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    opened.join(theirs.into());
    ours.set_nonblocking(true).expect("can be set");
    UnixStream::from_std(ours).expect("a stream")
}

async fn greeted(stream: &mut UnixStream) -> u8 {
    tokio::time::timeout(DEADLINE, stream.read_u8()).await.expect("in time").expect("a greeting")
}

#[tokio::test]
async fn bytes_go_through_unaltered_and_each_direction_closes_for_itself() {
    let (handle, containers) = gateway(&[(1, Does::Echo)]).await;
    let mut stream = join(handle.dial(network(), container(1)).await.expect("opens"));
    assert_eq!(greeted(&mut stream).await, 1);
    let bytes: Vec<u8> = (0..3_000_000).map(|at| (at * 7 + at / 251) as u8).collect();
    let (mut read, mut write) = stream.split();
    let sending = async {
        write.write_all(&bytes).await.expect("writes");
        write.shutdown().await.expect("closes");
    };
    let mut back = Vec::new();
    let both = async { tokio::join!(sending, read.read_to_end(&mut back)) };
    tokio::time::timeout(DEADLINE, both).await.expect("in time").1.expect("reads");
    assert!(back == bytes, "{} bytes came back", back.len());
    let stats = until(&handle, "the stream ends", |stats| stats.streams == 0).await;
    assert_eq!((stats.opened, stats.bytes_in, stats.bytes_out), (1, 3_000_000, 3_000_001));
    assert_eq!((stats.refused, stats.reset, stats.timed_out, stats.buffer_bytes), (0, 0, 0, 0));
    containers.emptied().await;
}

#[tokio::test]
async fn who_cannot_be_reached_is_said_and_why() {
    let (handle, _containers) = gateway(&[(1, Does::Refuse)]).await;
    assert_eq!(handle.dial(network(), container(1)).await.err(), Some(DialError::Refused));
    let nowhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 80);
    assert_eq!(handle.dial(network(), nowhere).await.err(), Some(DialError::Unreachable));
    let other = "pn-99999999-2222-4333-8444-555555555555".parse().expect("an id");
    assert_eq!(handle.dial(other, container(1)).await.err(), Some(DialError::NoGateway));
    let begin = clock::now();
    assert_eq!(handle.dial(network(), container(9)).await.err(), Some(DialError::TimedOut));
    assert!((9..15).contains(&begin.elapsed().as_secs()));
    let stats = until(&handle, "no stream is left", |stats| stats.streams == 0).await;
    assert_eq!((stats.opened, stats.refused, stats.timed_out), (0, 2, 1));
}

#[tokio::test]
async fn an_opened_stream_that_nobody_takes_is_reset() {
    let (handle, containers) = gateway(&[(1, Does::Sleep)]).await;
    drop(handle.dial(network(), container(1)).await.expect("opens"));
    until(&handle, "it is gone", |stats| stats.streams == 0).await;
    // Nor does one stay whose caller has left before it opened.
    let dialling = handle.dial(network(), container(1));
    drop(tokio::time::timeout(Duration::ZERO, dialling).await);
    until(&handle, "both are gone", |stats| stats.streams == 0 && stats.opened <= 2).await;
    containers.emptied().await;
}

#[tokio::test]
async fn a_reset_by_the_container_ends_the_socket_and_one_by_the_client_the_container() {
    let (handle, _containers) = gateway(&[(1, Does::Reset), (2, Does::Flood)]).await;
    let mut stream = join(handle.dial(network(), container(1)).await.expect("opens"));
    stream.write_all(b"go").await.expect("writes");
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("in time");
    assert!(read.is_err() || bytes.is_empty());
    until(&handle, "the reset is counted", |stats| stats.streams == 0 && stats.reset == 1).await;

    // A client that leaves while the container still writes.
    let mut stream = join(handle.dial(network(), container(2)).await.expect("opens"));
    stream.read_u8().await.expect("something");
    drop(stream);
    until(&handle, "the stream is gone", |stats| stats.streams == 0).await;
}

#[tokio::test]
async fn over_tcp_a_reset_is_a_reset() {
    let (handle, _containers) = gateway(&[(1, Does::Reset)]).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let connecting = tokio::net::TcpStream::connect(listener.local_addr().expect("bound"));
    let (client, accepted) = tokio::join!(connecting, listener.accept());
    let accepted = accepted.expect("accepts").0.into_std().expect("a socket");
    handle.dial(network(), container(1)).await.expect("opens").join(accepted.into());
    let mut client = client.expect("connects");
    client.write_all(b"go").await.expect("writes");
    let read = tokio::time::timeout(DEADLINE, client.read_u8()).await.expect("in time");
    assert_eq!(read.err().map(|error| error.kind()), Some(io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn who_does_not_read_is_not_read_from_and_nothing_turns_meanwhile() {
    let (handle, _containers) = gateway(&[(1, Does::Flood), (2, Does::Sleep)]).await;
    let unread = join(handle.dial(network(), container(1)).await.expect("opens"));
    let mut unheard = join(handle.dial(network(), container(2)).await.expect("opens"));
    // What all buffers on the way hold is finite.
    let mut written = 0;
    let mut quiet = 0;
    while quiet < 3 {
        match tokio::time::timeout(Duration::from_millis(100), unheard.write(&[1; 65_536])).await {
            Ok(len) => written += len.expect("writes"),
            Err(_) => quiet += 1,
        }
    }
    assert!(written < 4 << 20, "{written} bytes were taken from one whom nobody hears");
    let before = handle.stats().await[&network()];
    assert!(before.bytes_out < 4 << 20, "{before:?}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let after = handle.stats().await[&network()];
    assert_eq!((before.bytes_in, before.bytes_out), (after.bytes_in, after.bytes_out));
    drop((unread, unheard));
    until(&handle, "the unread one is gone", |stats| stats.streams <= 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_at_once_each_get_their_own_bytes() {
    let (handle, containers) = gateway(&[(1, Does::Echo)]).await;
    let mut clients = Vec::new();
    for number in 0..1000u32 {
        let handle = handle.clone();
        clients.push(tokio::spawn(async move {
            let mut stream = join(handle.dial(network(), container(1)).await.expect("opens"));
            assert_eq!(greeted(&mut stream).await, 1);
            for round in 0..3 {
                let said = [number.to_be_bytes(), (round * number).to_be_bytes()].concat();
                stream.write_all(&said).await.expect("writes");
                let mut heard = [0; 8];
                stream.read_exact(&mut heard).await.expect("reads");
                assert_eq!(heard[..], said);
            }
            stream
        }));
    }
    let mut streams = Vec::new();
    for client in clients {
        streams.push(tokio::time::timeout(DEADLINE, client).await.expect("in time").expect("no panic"));
    }
    let stats = handle.stats().await[&network()];
    assert_eq!((stats.streams, stats.opened), (1000, 1000));
    // Beyond the budget a stream has the least that there is.
    assert!(stats.buffer_bytes <= (256 << 20) + 1000 * (64 << 10), "{stats:?}");
    drop(streams);
    until(&handle, "all are gone", |stats| stats.streams == 0).await;
    containers.emptied().await;
}

#[tokio::test]
async fn with_its_network_a_gateway_loses_its_streams() {
    let (handle, containers) = gateway(&[(1, Does::Sleep)]).await;
    let mut stream = join(handle.dial(network(), container(1)).await.expect("opens"));
    let opened = handle.dial(network(), container(1)).await.expect("opens");
    let never = handle.dial(network(), container(9));
    let (never, ()) = tokio::join!(never, async {
        tokio::task::yield_now().await;
        handle.remove(&network()).await;
    });
    assert_eq!(never.err(), Some(DialError::NoGateway));
    assert!(!matches!(tokio::time::timeout(DEADLINE, stream.read(&mut [0; 10])).await.expect("in time"), Ok(1..)));
    let mut late = join(opened);
    assert!(!matches!(tokio::time::timeout(DEADLINE, late.read(&mut [0; 10])).await.expect("in time"), Ok(1..)));
    assert!(handle.stats().await.is_empty());
    containers.emptied().await;
    handle.shutdown().await;
    assert_eq!(handle.dial(network(), container(1)).await.err(), Some(DialError::NoGateway));
}
