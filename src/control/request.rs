//! The requests: one for each verb that needs the node.

use serde::{Deserialize, Serialize};

use super::ReadyWhen;

/// What a caller asks of its node. Names and ids are as the person typed them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    Init {
        name: Option<String>,
    },
    Invite {
        networks: Vec<String>,
        ttl_s: u64,
        uses: u32,
        signer: bool,
    },
    Join {
        token: String,
    },
    /// The containers drain for so long before.
    Leave {
        release: bool,
        drain_s: Option<u64>,
    },
    NetworkCreate {
        name: Option<String>,
        internal: bool,
    },
    NetworkLs,
    NetworkInspect {
        network: Option<String>,
    },
    NetworkGrant {
        network: String,
        node: String,
        owner: bool,
    },
    NetworkUngrant {
        network: String,
        node: String,
    },
    NodeLs,
    NodeExpel {
        node: String,
    },
    Attach(Box<Attach>),
    /// It is out of the names for so long before.
    Detach {
        target: String,
        drain_s: Option<u64>,
    },
    Deploy {
        app: String,
        version: String,
        network: Option<String>,
    },
    /// Opens a stream to a container's port. Once that is answered the conversation is the stream.
    Dial {
        network: Option<String>,
        name: String,
        port: u16,
    },
    ContainerLs {
        network: Option<String>,
    },
    ContainerInspect {
        id: String,
    },
    DnsQuery {
        name: String,
        kind: String,
        caller: String,
    },
    DnsExplain {
        name: String,
        caller: String,
    },
    DomainNames {
        app: Option<String>,
        network: Option<String>,
    },
    Apply {
        network: Option<String>,
        app: Option<String>,
        text: String,
        dry_run: bool,
    },
    /// Takes back what a service file said of an application.
    ServiceRm {
        network: Option<String>,
        app: String,
        dry_run: bool,
    },
    ServiceLs {
        network: Option<String>,
        app: Option<String>,
    },
    ServiceInspect {
        service: String,
        network: Option<String>,
        app: Option<String>,
    },
    IngressStatus,
    IngressRoutes,
    IngressEnable {
        /// Where balancers are that speak the PROXY protocol; where they were settled to be if it is not said.
        proxy_from: Option<Vec<String>>,
    },
    IngressDisable,
    IngressCertLs,
    IngressCertAdd {
        chain: String,
        key: PrivateKey,
    },
    /// Made by the node's development authority.
    IngressCertDev {
        names: Vec<String>,
    },
    IngressCertRm {
        name: String,
    },
    /// Makes the development authority if there is none.
    IngressCertCa,
    Status,
    Drops,
    Wait {
        awaited: Awaited,
        timeout_s: u64,
    },
    Events {
        count: Option<u64>,
    },
}

impl Request {
    /// Whether it changes something, so that whoever may only look must not say it.
    pub fn changes(&self) -> bool {
        !matches!(
            self,
            Self::NetworkLs
                | Self::NetworkInspect { .. }
                | Self::NodeLs
                | Self::ContainerLs { .. }
                | Self::ContainerInspect { .. }
                | Self::DnsQuery { .. }
                | Self::DnsExplain { .. }
                | Self::DomainNames { .. }
                | Self::Apply { dry_run: true, .. }
                | Self::ServiceRm { dry_run: true, .. }
                | Self::ServiceLs { .. }
                | Self::ServiceInspect { .. }
                | Self::IngressStatus
                | Self::IngressRoutes
                | Self::IngressCertLs
                | Self::Status
                | Self::Drops
                | Self::Wait { .. }
                | Self::Events { .. }
        )
    }
}

/// A private key as PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PrivateKey(pub String);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// What `wait` waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Awaited {
    /// Every node of the cluster is connected to this one and holds the same records.
    Converged,
    /// This node may host containers of the network: it holds its records and its secret.
    Network(String),
    /// This node knows the container, and it is ready.
    Container(String),
    /// A container that is ready serves it, on a node that is heard. Named as [`Request::ServiceInspect`] does.
    Service { service: String, network: Option<String>, app: Option<String> },
}

impl std::fmt::Display for Awaited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let short = |name: &str| name.chars().take(120).collect::<String>();
        match self {
            Self::Converged => f.write_str("a converged cluster"),
            Self::Network(name) => write!(f, "network {}", short(name)),
            Self::Container(id) => write!(f, "container {}", short(id)),
            Self::Service { service, .. } => write!(f, "service {}", short(service)),
        }
    }
}

/// The network namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// An absolute path, as `/run/netns/NAME`.
    Netns(String),
    /// A process whose namespace it is.
    Pid(u32),
}

/// Puts a container on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    pub target: Target,
    /// May be left out when the node holds one network.
    pub network: Option<String>,
    pub app: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub number: Option<u32>,
    pub version: Option<String>,
    pub service: Option<String>,
    /// The server's name, if it is a database: the service is the database's type then.
    pub server: Option<String>,
    /// What must succeed before names lead to it; without it they do at once.
    pub ready_when: Option<ReadyWhen>,
    pub ifname: String,
}
