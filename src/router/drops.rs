//! Why packets go nowhere: a reason, a name, an explanation, a counter.

/// Makes the reasons from one table: `Reason: "its stable name" = "what it means";`.
macro_rules! drop_reasons {
    ($($reason:ident: $name:literal = $explanation:literal;)+) => {
        /// Why a packet was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $(#[doc = $explanation] $reason,)+
        }

        impl DropReason {
            /// All reasons, in the order in which they are shown.
            pub const ALL: &[Self] = &[$(Self::$reason),+];

            /// The stable name, as `peerctl drops` and the metrics show it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)+
                }
            }

            /// What it means, and where there is something to do, what.
            pub fn explanation(self) -> &'static str {
                match self {
                    $(Self::$reason => $explanation,)+
                }
            }
        }
    };
}

drop_reasons! {
    // From a device.
    NotIpv4: "not-ipv4" = "a container sent something other than IPv4; the private network carries IPv4 only";
    MalformedPacket: "malformed-packet" = "a container sent an IPv4 packet whose lengths do not fit";
    SpoofedSource: "spoofed-source" = "a container sent from an address that is not its own";
    Multicast: "multicast" =
        "a container sent to a multicast or broadcast address; there is none on a private network";
    OutsideDestination: "outside-destination" =
        "a container sent through its private interface to an address outside of the private network";
    UnknownDestination: "unknown-destination" =
        "nobody holds the destination address; the sender got an ICMP host unreachable";
    NodeDown: "node-down" =
        "the destination's node is down; the sender got an ICMP host unreachable: peerctl node ls";
    NoService: "no-service" = "the resolver's address was used for something other than DNS";
    UnknownAttachment: "unknown-attachment" = "a packet came from or for a container that has just been detached";
    UnsupportedOffload: "unsupported-offload" =
        "the kernel left work in a packet that was never offered, or that does not fit the packet";
    PacketTooBig: "packet-too-big" =
        "a packet is longer than the tunnel's MTU; the sender got an ICMP fragmentation needed";
    NoNetworkKey: "no-network-key" = "this node does not hold the network's secret yet; it asks the nodes that do";
    NoEndpoint: "no-endpoint" = "no address of the destination's node is known yet";
    HandshakeQueueFull: "handshake-queue-full" = "more packets than are held wait for a tunnel to open";
    HandshakeTimeout: "handshake-timeout" =
        "a packet waited for a tunnel that did not open; is the other node's UDP port reachable?";
    TunnelsFull: "tunnels-full" = "the node has as many tunnels as it may have, all of them in use";
    StandingQueue: "standing-queue" =
        "a flow sent faster than it could be encrypted for a while; losing a packet tells its sender to slow down";
    // From the wire.
    UnknownDatagram: "unknown-datagram" = "something that is neither QUIC nor a frame came to the port";
    WireguardClient: "wireguard-client" = "a stock WireGuard client called; this node serves none";
    MisplacedQuic: "misplaced-quic" = "a QUIC packet stood where only frames may";
    MalformedFrame: "malformed-frame" = "a frame's header cannot be read";
    UnknownVersion: "unknown-version" = "a frame of a version that this node does not speak; upgrade it";
    UnknownFrameType: "unknown-frame-type" = "a frame of a type that this node does not know; upgrade it";
    MalformedMessage: "malformed-message" = "a frame does not hold a WireGuard message of a right length";
    MessageTooLong: "message-too-long" = "a frame is longer than any packet";
    UnknownGeneration: "unknown-generation" =
        "a frame of a network or a secret's generation that this node does not hold";
    UnknownInitiationDestination: "unknown-initiation-destination" =
        "a handshake for an address that no container of this node has";
    BadMac: "bad-mac" =
        "a handshake message made without the container's current public key; normal for a moment after a key change";
    HandshakeUnderLoad: "handshake-under-load" = "a handshake was answered with a cookie because there are too many";
    HandshakeFlood: "handshake-flood" = "an address that is no member's sent more than 20 handshakes in a second";
    TooManyHandshakes: "too-many-handshakes" =
        "a peer asked again and again for a new session beside a live one, which more of them would end";
    BadHandshake: "bad-handshake" =
        "a handshake message did not decrypt, came twice, or answers nothing; a wrong network secret shows here";
    UnknownPeer: "unknown-peer" = "a handshake by a key that no container of the network has";
    InitiationQueueFull: "initiation-queue-full" =
        "more handshakes by unknown keys than are held wait for their records";
    UnknownTunnel: "unknown-tunnel" =
        "a message for a tunnel that is closed or never was; normal for a moment after a restart";
    ForeignVni: "foreign-vni" = "the VNI or generation in a frame's header is not its tunnel's: somebody rewrote it";
    ReplayedOrForged: "replayed-or-forged" = "a message came twice, too late, or was not made with the tunnel's keys";
    MalformedInner: "malformed-inner" = "a peer's decrypted packet is not a whole IPv4 packet";
    SpoofedInnerSource: "spoofed-inner-source" = "a peer sent from an address that is not its container's";
    ForeignInnerDestination: "foreign-inner-destination" = "a peer sent to an address that is not this container's";
    NoPartialChecksum: "no-partial-checksum" =
        "a frame says that its packet's checksum is left to be completed, and the packet does not: somebody rewrote the frame";
    TunnelPanicked: "tunnel-panicked" = "a tunnel failed inside and was closed; please report it";
    // At the resolver.
    NotAQuery: "not-a-query" =
        "something other than a DNS query came to the resolver: less than a header, or a response";
    QuestionRefused: "question-refused" =
        "a container asked for more names outside, at once or in a second, than one may; it got REFUSED or SERVFAIL";
    TooManyStreams: "too-many-streams" =
        "a container opened a DNS stream beyond what it may have: its longest idle one was ended, or the new one refused";
    // Within the node.
    OutboxFull: "outbox-full" = "one packet made more output than a turn can hold";
    DeviceBusy: "device-busy" = "a container's interface did not take a packet: it is down, or its queue is full";
    SocketBusy: "socket-busy" =
        "the UDP socket did not take a datagram: its send buffer is full, or the network refused it";
    DatagramTooLong: "datagram-too-long" = "a datagram is longer than the path to the node takes";
    QuicQueueFull: "quic-queue-full" = "QUIC packets came faster than the control plane took them";
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A counter for each reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl Drops {
    /// Counts one packet.
    pub fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts `packets` packets.
    pub fn add(&mut self, reason: DropReason, packets: u64) {
        self.0[reason as usize] += packets;
    }

    /// How many packets were dropped for this reason.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// All counters, those at zero included.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|reason| (*reason, self.of(*reason)))
    }

    /// All dropped packets.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_its_own_kebab_name() {
        let mut names = std::collections::BTreeSet::new();
        for (index, reason) in DropReason::ALL.iter().copied().enumerate() {
            assert_eq!(reason as usize, index);
            assert!(reason.name().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            assert!(names.insert(reason.name()), "{} twice", reason.name());
            assert!(!reason.explanation().is_empty());
        }
        let mut drops = Drops::default();
        drops.add(DropReason::QuicQueueFull, 3);
        drops.count(DropReason::NotIpv4);
        assert_eq!((drops.of(DropReason::QuicQueueFull), drops.of(DropReason::BadMac), drops.total()), (3, 0, 4));
    }
}
