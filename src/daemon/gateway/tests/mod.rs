//! The gateway thread with real sockets, and containers that stand at the other end of its device.

mod fronts;
mod streams;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::netstack::{Config, Stack};
use crate::packet::{Superpacket, UDP_HEADERS_LEN, UdpView, write_udp};
use crate::sys::clock;
use crate::sys::device_pair::device_pair;
use crate::sys::tun_io::{READ_LEN, TunDevice};

const DEADLINE: Duration = Duration::from_secs(30);
const MTU: u16 = 1408;

fn network() -> NetworkId {
    "pn-11111111-2222-4333-8444-555555555555".parse().expect("an id")
}

fn gateway_address() -> Ipv4Addr {
    Ipv4Addr::new(169, 254, 241, 7)
}

fn container(last: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 240, 0, last), 80)
}

/// What a container does with streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    /// It says the last number of its address, and then whatever it hears.
    Echo,
    /// It takes none.
    Refuse,
    /// It takes them and neither reads nor writes.
    Sleep,
    /// It writes without end and never reads.
    Flood,
    /// It hears something, and ends at once.
    Reset,
}

/// A thread that is a network with containers.
struct Containers {
    stop: Arc<AtomicBool>,
    /// How many streams they have.
    left: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Containers {
    fn spawn(device: OwnedFd, does: &[(u8, Does)]) -> Self {
        let (stop, left) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stops, leaves, does) = (stop.clone(), left.clone(), does.to_vec());
        let thread = std::thread::spawn(move || serve(&stops, &leaves, device, &does));
        Self { stop, left, thread: Some(thread) }
    }

    /// Waits until they have no streams: theirs end some turns after the gateway's.
    async fn emptied(&self) {
        let begin = clock::now();
        while self.left.load(Ordering::Relaxed) > 0 {
            assert!(begin.elapsed() < DEADLINE, "{} streams are left", self.left.load(Ordering::Relaxed));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(stop: &AtomicBool, left: &AtomicUsize, device: OwnedFd, does: &[(u8, Does)]) {
    let device = TunDevice::new(device, true, false).expect("a device");
    let mut buffer: Box<[u8; READ_LEN]> = vec![0; READ_LEN].into_boxed_slice().try_into().expect("that length");
    let mut stacks: Vec<(Does, u8, Stack, std::collections::BTreeSet<_>)> = does
        .iter()
        .map(|(last, does)| {
            let config = Config {
                address: *container(*last).ip(),
                port: 80,
                mtu_bytes: MTU,
                streams_max: 4000,
                recv_buffer_len: 16 << 10,
                send_buffer_len: 16 << 10,
                idle_timeout: Duration::from_secs(3600),
            };
            (*does, *last, Stack::new(config, clock::now(), u64::from(*last)), Default::default())
        })
        .collect();
    while !stop.load(Ordering::Relaxed) {
        let wait = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        let _ = poll(&mut [PollFd::new(&device, PollFlags::IN)], Some(&wait));
        for _ in 0..64 {
            let Ok(Some(packet)) = device.read(&mut buffer) else { break };
            let Ok(view) = packet.view() else { continue };
            if let Some(datagram) = UdpView::parse(&view) {
                let mut reply = vec![0; UDP_HEADERS_LEN + datagram.payload.len()];
                write_udp(&mut reply, datagram.destination, datagram.source, datagram.payload).expect("fits");
                let _ = device.pass(&Superpacket::complete(&mut reply));
            }
            for (does, _, stack, _) in &mut stacks {
                stack.handle_packet(clock::now(), view.packet(), *does != Does::Refuse);
            }
        }
        for (does, last, stack, greeted) in &mut stacks {
            let now = clock::now();
            let ids: Vec<_> = stack.streams().collect();
            for id in ids {
                let Some(mut stream) = stack.stream(id) else { continue };
                match does {
                    Does::Refuse | Does::Sleep => {}
                    Does::Flood => {
                        stream.write(&[7; 16 << 10]);
                    }
                    Does::Reset => {
                        if stream.read(&mut [0; 100]) > 0 {
                            stream.abort();
                        }
                    }
                    Does::Echo => {
                        if !greeted.contains(&id) && stream.write(&[*last]) == 1 {
                            greeted.insert(id);
                        }
                        while stream.room_len() > 0 && stream.unread_len() > 0 {
                            let mut bytes = vec![0; stream.room_len()];
                            let len = stream.read(&mut bytes);
                            stream.write(&bytes[..len]);
                        }
                        if stream.is_read_out() {
                            stream.close();
                        }
                    }
                }
            }
            stack.flush(now);
            while let Some(mut packet) = stack.poll_packet() {
                // As a kernel does, it waits for room.
                while device.pass(&Superpacket::complete(&mut packet)).is_err() && !stop.load(Ordering::Relaxed) {
                    let _ = poll(&mut [PollFd::new(&device, PollFlags::OUT)], Some(&wait));
                }
            }
        }
        left.store(stacks.iter().map(|(_, _, stack, _)| stack.stream_count()).sum(), Ordering::Relaxed);
    }
}

/// A gateway whose network has these containers.
async fn gateway(does: &[(u8, Does)]) -> (GatewayHandle, Containers) {
    let handle = GatewayHandle::spawn().expect("starts");
    let (ours, theirs) = device_pair().expect("a pair");
    handle.add(network(), gateway_address(), MTU, ours).await.expect("a device");
    (handle, Containers::spawn(theirs, does))
}

/// Waits for what the thread will have counted.
async fn until(handle: &GatewayHandle, what: &str, holds: impl Fn(&GatewayStats) -> bool) -> GatewayStats {
    let begin = clock::now();
    loop {
        let stats = handle.stats().await.remove(&network()).expect("a gateway");
        if holds(&stats) {
            return stats;
        }
        assert!(begin.elapsed() < DEADLINE, "{what}: {stats:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn a_device_pair_carries_whole_packets_of_any_length_and_says_when_it_is_full() {
    let (one, other) = device_pair().expect("a pair");
    let (one, other) =
        (TunDevice::new(one, true, false).expect("one"), TunDevice::new(other, true, false).expect("other"));
    let mut packet = vec![9; 65_535];
    let mut sent = 0;
    let error = loop {
        match one.pass(&Superpacket::complete(&mut packet)) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    // What an ordinary user's 425,984 bytes hold.
    assert!(sent >= 5, "{sent} packets of 64 KiB");
    let mut buffer: Box<[u8; READ_LEN]> = vec![0; READ_LEN].into_boxed_slice().try_into().expect("that length");
    for _ in 0..sent {
        assert_eq!(other.read(&mut buffer).expect("alive").expect("a packet").bytes(), packet);
    }
    assert!(other.read(&mut buffer).expect("alive").is_none());
    assert!(one.pass(&Superpacket::complete(&mut packet)).is_ok(), "room again");
}
