//! Whatever a kernel can do or not, at either end: the same packets arrive.

use super::*;
use crate::packet::{Gso, OFFLOAD_HEADER_LEN, Offload, Superpacket};

const SEGMENTS: usize = 40;
const SEGMENT_BYTES: u16 = 1_000;

/// A TCP superpacket from container 1 to container 2, as a kernel hands it out.
fn superpacket() -> (Offload, Vec<u8>) {
    let total = 40 + SEGMENTS * usize::from(SEGMENT_BYTES) - 300;
    let mut bytes = vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0];
    bytes[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    bytes.extend_from_slice(&[10, 240, 0, 1, 10, 240, 0, 2]);
    bytes.extend_from_slice(&[0x10, 0, 0x20, 0, 0xff, 0xff, 0xf0, 0, 0, 0, 0, 1, 0x50, 0x18, 0x10, 0, 0, 0, 0, 0]);
    bytes.extend((40..total).map(|i| (i % 251) as u8));
    let gso = Gso::Tcp { segment_bytes: SEGMENT_BYTES, ecn: false };
    (Offload { gso, checksum: Some((20, 16)), headers_len: 40 }, bytes)
}

fn cut(offload: Offload, mut bytes: Vec<u8>) -> Vec<Vec<u8>> {
    let mut packet = Superpacket::new(offload, &mut bytes);
    let mut segments = packet.segments().expect("what a kernel makes can be cut");
    let mut all = Vec::new();
    while let Some(segment) = segments.next() {
        all.push(segment.to_vec());
    }
    all
}

impl Plane {
    async fn send_superpacket(&self, kernel: Kernel) {
        let (offload, bytes) = superpacket();
        if kernel.vnet_hdr {
            return self.container.send(&[&offload.encode()[..], &bytes].concat()).await;
        }
        for segment in cut(offload, bytes) {
            self.container.send(&segment).await;
        }
    }

    async fn recv_segments(&self, kernel: Kernel) -> (usize, Vec<Vec<u8>>) {
        let (mut writes, mut segments) = (0, Vec::new());
        while segments.len() < SEGMENTS {
            let bytes = self.container.recv().await;
            writes += 1;
            if kernel.vnet_hdr {
                let (header, packet) = bytes.split_first_chunk::<OFFLOAD_HEADER_LEN>().expect("a header");
                segments.extend(cut(Offload::decode(header), packet.to_vec()));
            } else {
                segments.push(bytes);
            }
        }
        (writes, segments)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_and_without_each_offload_at_either_end_the_same_segments_arrive() {
    let kinds = [(true, true), (true, false), (false, true), (false, false)];
    let kernels = kinds.map(|(udp_offload, vnet_hdr)| Kernel { udp_offload, vnet_hdr });
    let expected = {
        let (offload, bytes) = superpacket();
        cut(offload, bytes)
    };
    for from in kernels {
        for to in kernels {
            let [a, b] = two_planes_on([from, to]).await;
            for _ in 0..2 {
                a.send_superpacket(from).await;
                let (writes, segments) = b.recv_segments(to).await;
                assert!(segments == expected, "from {from:?} to {to:?}");
                assert!(to.vnet_hdr || writes == SEGMENTS);
            }
            for plane in [&a, &b] {
                let stats = plane.data.stats().await.expect("running");
                assert_eq!(stats.drops.values().sum::<u64>(), 0, "from {from:?} to {to:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_reaches_a_device_in_few_writes() {
    let kernel = Kernel { udp_offload: true, vnet_hdr: true };
    let [a, b] = two_planes_on([kernel; 2]).await;
    // The first waits for the tunnel, and so comes as it may.
    a.send_superpacket(kernel).await;
    b.recv_segments(kernel).await;
    a.send_superpacket(kernel).await;
    let (writes, _) = b.recv_segments(kernel).await;
    assert!(writes <= 4, "{writes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_devices_offloads_are_counted() {
    let [a, b] = two_planes_on([true, false].map(|vnet_hdr| Kernel { udp_offload: true, vnet_hdr })).await;
    let mut all = Vec::new();
    for plane in [a, b] {
        all.push(plane.data.stats().await.expect("running").devices.to_string());
    }
    assert_eq!(all, ["1 with TCP and UDP superpackets", "1 without superpackets"]);
    assert_eq!(DeviceOffloads::default().to_string(), "none");
}
