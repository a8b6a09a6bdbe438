//! The answers: what `--json` prints under `data`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Something that went well enough, and that somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// A stable word.
    pub code: String,
    pub message: String,
}

/// `init` and `join`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    pub cluster: String,
    pub node: String,
    pub name: String,
    /// The networks that the invite granted.
    pub networks: Vec<String>,
    /// Where `init` put the root key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub root_key: Option<String>,
}

/// `invite`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// A secret: whoever has it may join.
    pub token: String,
    pub expires_in_s: u64,
    pub uses: u32,
    pub networks: Vec<String>,
}

/// `leave`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    pub cluster: String,
    /// The id that the node had; it is used no more.
    pub node: String,
    /// How many containers keep their interface until the next start.
    pub interfaces_kept: usize,
}

/// `network create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkCreated {
    pub id: String,
    pub name: Option<String>,
    pub vni: u32,
}

/// A row of `network ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRow {
    pub id: String,
    pub name: Option<String>,
    pub vni: u32,
    pub internal: bool,
    /// The names of the nodes that may host its containers.
    pub granted: Vec<String>,
    /// How many containers it has, on all nodes.
    pub containers: usize,
}

/// A grant in `network inspect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRow {
    pub node: String,
    pub name: Option<String>,
    /// `host` or `owner`.
    pub role: String,
    /// How many addresses this node may give out.
    pub addresses: u64,
}

/// `network inspect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDetail {
    #[serde(flatten)]
    pub row: NetworkRow,
    pub creator: String,
    /// The newest generation of its secret, and whether this node holds it.
    pub generation: Option<u8>,
    pub secret_held: bool,
    pub addresses_used: usize,
    pub grants: Vec<GrantRow>,
    /// Application, type, how many containers.
    pub apps: BTreeMap<String, BTreeMap<String, usize>>,
}

/// A row of `node ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    pub id: String,
    pub name: String,
    /// Its number, if it is a signer.
    pub signer: Option<u8>,
    /// `self`, `connected`, `suspect` (asked, no answer yet), `down`, `unreachable`: no connection, and no network shared that
    /// would have this node ask on; or `undialled`: no connection, and none that this node wants in a cluster of this size.
    pub state: String,
    pub endpoints: Vec<String>,
}

/// `attach`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    pub id: String,
    pub address: String,
    pub network: String,
    pub app: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub number: u32,
    /// The 5-part name.
    pub hostname: String,
    /// `ready`, or `starting` when something is to make it so.
    pub state: String,
    pub ifname: String,
    pub mtu_bytes: u32,
}

/// `deploy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    pub network: String,
    pub app: String,
    pub version: String,
    /// How many ready containers of this version the node knows.
    pub ready: usize,
}

/// A row of `container ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRow {
    pub id: String,
    pub network: String,
    pub vni: u32,
    pub node: String,
    pub address: String,
    pub app: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub number: u32,
    pub version: Option<String>,
    pub service: String,
    /// The server's name, if it is a database: `service` is the database's type then.
    pub server: Option<String>,
    /// `starting`, `ready`, `draining` or `gone`.
    pub state: String,
    pub public_key: String,
}

/// `container inspect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerDetail {
    #[serde(flatten)]
    pub row: ContainerRow,
    /// The network's id, also where the row shows its name.
    pub network_id: String,
    /// The 5-part name.
    pub hostname: String,
    /// What this node knows of a container that it hosts itself.
    pub local: Option<LocalDetail>,
}

/// A container on the node that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalDetail {
    pub ifname: String,
    pub mtu_bytes: u32,
    /// Where its namespace is.
    pub netns: String,
    /// The process by which it was attached, if it was.
    pub pid: Option<u32>,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    /// What is to make it ready, while it is starting.
    pub waits_for: Option<String>,
    /// Why it was not ready when that was last tried.
    pub not_ready: Option<String>,
    /// When it is detached, while it is draining.
    pub detached_in_s: Option<u64>,
}

/// A record of `dns query`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRecord {
    pub name: String,
    pub ttl_s: u32,
    #[serde(rename = "type")]
    pub kind: String,
    pub data: String,
}

/// `dns query`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsAnswer {
    /// `NOERROR`, `NXDOMAIN`, `SERVFAIL`, `REFUSED`.
    pub status: String,
    /// Whether this node knows it by itself, or has asked an upstream.
    pub authoritative: bool,
    pub answers: Vec<DnsRecord>,
}

/// `dns explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsExplanation {
    pub verdict: String,
    pub steps: Vec<String>,
}

/// `domain-names`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainNames {
    pub names: Vec<String>,
}

/// `apply` and `service rm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub network: String,
    pub app: String,
    pub namespace: String,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// What differs from the definition before; none if a file says what is said already.
    pub changes: Vec<ChangeRow>,
}

/// One difference, in `apply` and `service rm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRow {
    /// `add`, `remove` or `change`.
    pub op: String,
    /// What it is about: `service web`.
    pub subject: String,
    /// What about it: `port 3000:80`; none if it is the subject itself.
    pub detail: Option<String>,
}

/// `validate`, which peerctl answers by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validated {
    pub app: String,
    pub namespace: String,
    pub services: usize,
    pub databases: usize,
}

/// A row of `service ls`: a service, or a server of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// `api`, `mysql-leopard`.
    pub name: String,
    pub network: String,
    pub app: String,
    /// What other applications write behind the name; none if another application holds it.
    pub namespace: Option<String>,
    /// `service` or `database`.
    pub kind: String,
    /// Whether a service file says it; else its containers do.
    pub defined: bool,
    /// In the short form where that says all.
    pub ports: Vec<String>,
    pub traffic_matches: Vec<String>,
    pub dns_behaviour: String,
    pub load_balancing: String,
    /// How many containers serve it, and how many of them are to be found in DNS.
    pub containers: usize,
    pub ready: usize,
}

/// `service inspect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceDetail {
    #[serde(flatten)]
    pub row: ServiceRow,
    /// The names by which the application's own containers find it, the shortest first.
    pub names: Vec<String>,
    /// The names by which every container of the network finds it.
    pub names_elsewhere: Vec<String>,
    /// Its own address on loopback of this node, where ports of it that nobody outside gets are listened on.
    #[serde(default)]
    pub loopback: Option<String>,
    pub containers_serving: Vec<ContainerRow>,
}

/// A row of `drops`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRow {
    pub reason: String,
    pub packets: u64,
    pub explanation: String,
}

/// This node, in `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSelf {
    pub id: String,
    pub name: String,
    pub listen: String,
    pub uptime_s: u64,
}

/// Another node, in `status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerRow {
    pub node: String,
    pub name: String,
    /// `connected`, `suspect`, `down`, `unreachable` or `undialled`.
    pub state: String,
    /// The address that its packets go to, if there is one.
    pub path: Option<String>,
    pub rtt_ms: Option<f64>,
    pub mtu_bytes: u32,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}

/// Something in `status` that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthRow {
    /// A stable word.
    pub code: String,
    /// `warning` or `error`; an error makes `--check` fail.
    pub severity: String,
    /// The id of the node, network or container that it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    pub message: String,
    pub hint: String,
}

/// `wait`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waited {
    pub waited_ms: u64,
}

/// An event of `events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRow {
    /// When this node noticed.
    pub time_unix_ms: u64,
    /// A stable word.
    pub event: String,
    /// The id of what it is about; for health its code.
    pub subject: String,
    pub message: String,
}

/// `status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub node: NodeSelf,
    pub cluster: Option<String>,
    pub networks: Vec<NetworkRow>,
    pub peers: Vec<PeerRow>,
    /// What the data plane found on this host: offloads and buffers.
    pub data_plane: BTreeMap<String, String>,
    pub health: Vec<HealthRow>,
}

/// `ingress status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressStatus {
    /// Whether nginx is to run here. Host ports and loopback ports are served either way.
    pub enabled: bool,
    pub proxy_protocol: bool,
    /// Who has to speak it, and is served.
    #[serde(default)]
    pub proxy_from: Vec<String>,
    pub nginx_version: Option<String>,
    /// How long nginx has been running.
    pub running_s: Option<u64>,
    pub reloads: u64,
    pub last_reload_ms: Option<u64>,
    pub routes: usize,
    pub certificates: usize,
    /// What keeps nginx from serving at all, or from serving the newest.
    pub fault: Option<String>,
    /// What is left out, and why.
    pub problems: Vec<String>,
    pub gateways: Vec<GatewayRow>,
}

/// This node's own member of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayRow {
    pub network: String,
    /// Streams and sessions of datagrams at this moment.
    pub streams: u64,
    pub opened: u64,
    pub refused: u64,
    pub timed_out: u64,
    pub reset: u64,
    /// To containers, and from them.
    pub tx_bytes: u64,
    pub rx_bytes: u64,
    pub buffer_bytes: u64,
}

/// `ingress routes`: a port, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressRoute {
    /// ADDRESS:PORT on loopback, else the port of all addresses.
    pub listen: String,
    /// http, https, tcp or udp.
    pub protocol: String,
    /// For which server names; for all others if there are none.
    pub names: Vec<String>,
    pub network: String,
    pub app: String,
    pub service: String,
    /// Who gets what is new.
    pub to: Vec<String>,
    /// Why it is not listened on.
    pub error: Option<String>,
    /// Requests to the service by HTTP and HTTPS, or connections by this port.
    pub requests: u64,
    /// Answers of 500 and above, or connections that no container took.
    pub errors: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}

/// `ingress cert ls` and what makes one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRow {
    pub names: Vec<String>,
}

/// `ingress cert ca`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// Its certificate, for those who are to trust it.
    pub pem: String,
}
