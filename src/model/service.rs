//! What an application's service file says: its services, their ports and directives, its databases.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use minicbor::{Decode, Encode};

use super::label::{Label, decode_text};

/// The server of a database that a bare name means if nothing else is said.
pub const DEFAULT_SERVER: &str = "default";

/// The longest server name (RFC 1035 §2.3.4, without the last dot).
const SERVER_NAME_LEN_MAX: usize = 253;

/// An application as its service file defines it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct AppDef {
    /// The APP of `attach --app` and of private names.
    #[n(0)]
    pub id: Label,
    /// For people.
    #[n(1)]
    pub title: Option<String>,
    /// What other applications of the network call it.
    #[n(2)]
    pub namespace: Label,
    #[n(3)]
    pub services: BTreeMap<Label, ServiceDef>,
    #[n(4)]
    pub databases: BTreeMap<Label, DatabaseDef>,
}

/// A service: containers that do the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ServiceDef {
    #[n(0)]
    pub ports: Vec<PortDef>,
    /// For which names nginx sends it traffic; for every name if there are none.
    #[n(1)]
    pub traffic_matches: Vec<ServerPattern>,
    #[n(2)]
    pub dns_behaviour: DnsBehaviour,
    #[n(3)]
    pub load_balancing: LoadBalancing,
}

/// Whose containers a caller gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum DnsBehaviour {
    /// Those of its own version.
    #[default]
    #[n(0)]
    Versioned,
    /// Those of the latest version.
    #[n(1)]
    NonVersioned,
}

/// Which of them it gets, and in what order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum LoadBalancing {
    /// All, another one first each time.
    #[default]
    #[n(0)]
    RoundRobin,
    /// One, the same as long as it is asked for again within a minute.
    #[n(1)]
    Sticky,
    /// Those on the caller's node; all if there are none.
    #[n(2)]
    Closest,
}

/// A port that the containers of a service listen on, and where it is to be reached from outside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(map)]
pub struct PortDef {
    #[n(0)]
    pub container: NonZeroU16,
    /// nginx takes HTTP for it on this port.
    #[n(1)]
    pub http: Option<NonZeroU16>,
    /// nginx takes HTTPS for it on this port.
    #[n(2)]
    pub https: Option<NonZeroU16>,
    /// The port of the node that runs the container, mapped straight to it.
    #[n(3)]
    pub tcp: Option<NonZeroU16>,
    #[n(4)]
    pub udp: Option<NonZeroU16>,
    /// Its name in SRV questions, as `_NAME._tcp.SERVICE`.
    #[n(5)]
    pub name: Option<Label>,
}

/// A database: one or more servers of one type.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DatabaseDef {
    /// The server that the bare name means; always one of `servers`.
    #[n(0)]
    pub primary: Label,
    /// The servers, by name, with the port they listen on.
    #[n(1)]
    pub servers: BTreeMap<Label, NonZeroU16>,
}

impl AppDef {
    /// An application without services, whose namespace is its id.
    pub fn new(id: Label) -> Self {
        Self { title: None, namespace: id.clone(), id, services: BTreeMap::new(), databases: BTreeMap::new() }
    }

    /// Whether the parts fit together, as a service file's do.
    pub fn is_sound(&self) -> bool {
        let names_differ = self.services.keys().all(|name| !self.databases.contains_key(name));
        names_differ && self.databases.values().all(|database| database.servers.contains_key(&database.primary))
    }
}

impl fmt::Display for DnsBehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Versioned => "versioned",
            Self::NonVersioned => "non-versioned",
        })
    }
}

impl fmt::Display for LoadBalancing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::RoundRobin => "roundrobin",
            Self::Sticky => "sticky",
            Self::Closest => "closest",
        })
    }
}

/// The short form if it says all, else the mapping form.
impl fmt::Display for PortDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { container, http, https, tcp, udp, name } = self;
        if let (None, None, None) = (tcp, udp, name) {
            return match (http, https) {
                (None, None) => write!(f, "{container}"),
                (Some(http), None) => write!(f, "{container}:{http}"),
                (None, Some(https)) => write!(f, "{container}::{https}"),
                (Some(http), Some(https)) => write!(f, "{container}:{http}:{https}"),
            };
        }
        write!(f, "{{ container: {container}")?;
        for (key, port) in [("http", http), ("https", https), ("tcp", tcp), ("udp", udp)] {
            if let Some(port) = port {
                write!(f, ", {key}: {port}")?;
            }
        }
        if let Some(name) = name {
            write!(f, ", name: {name}")?;
        }
        f.write_str(" }")
    }
}

/// A server name that traffic is matched by, in lower case: exact, or `*.` and a name for everything below that name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerPattern(Box<str>);

/// Why a text is no [`ServerPattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerPatternError {
    #[error("a server name cannot be empty")]
    Empty,
    #[error("a server name has at most 253 characters, this one has {0}")]
    TooLong(usize),
    #[error(
        "the part {0:?} of a server name is not 1 to 63 letters, digits, '-' and '_'; a name of other letters is written in its xn-- form"
    )]
    Label(String),
    #[error("'*' stands for the first part as a whole, as in *.example.com")]
    Wildcard,
}

impl ServerPattern {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name below which everything matches, if it is a wildcard.
    pub fn wildcard(&self) -> Option<&str> {
        self.0.strip_prefix("*.")
    }
}

impl FromStr for ServerPattern {
    type Err = ServerPatternError;

    fn from_str(text: &str) -> Result<Self, ServerPatternError> {
        if text.len() > SERVER_NAME_LEN_MAX {
            return Err(ServerPatternError::TooLong(text.len()));
        }
        let name = text.strip_prefix("*.").unwrap_or(text);
        if name.is_empty() {
            return Err(ServerPatternError::Empty);
        }
        for label in name.split('.') {
            let is_sound = (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-');
            if label.contains('*') {
                return Err(ServerPatternError::Wildcard);
            }
            if !is_sound {
                return Err(ServerPatternError::Label(label.chars().take(63).collect()));
            }
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

impl fmt::Display for ServerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ServerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl<C> Encode<C> for ServerPattern {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for ServerPattern {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        decode_text(d, Self::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_is_exact_or_a_whole_first_part() {
        for good in ["app.your_domain.com", "*.anotherdomain.com", "localhost", "xn--bcher-kva.example"] {
            assert_eq!(good.parse::<ServerPattern>().expect(good).as_str(), good);
        }
        let long = "a".repeat(64);
        let bad = [
            "",
            "*",
            "*.",
            "a..b",
            ".a",
            "a.",
            "a.*.b",
            "*a.b",
            "-a.b",
            "a;b",
            "a{b",
            "a b",
            "a\nb",
            "$host",
            "bücher.de",
            "a\0",
            &long,
        ];
        for bad in bad {
            assert!(bad.parse::<ServerPattern>().is_err(), "{bad:?}");
        }
        assert!("A.b".parse::<ServerPattern>().is_ok_and(|pattern| pattern.as_str() == "a.b"));
        assert!(minicbor::decode::<ServerPattern>(&minicbor::to_vec("A.b").expect("encodes")).is_err());
    }

    #[test]
    fn a_definition_is_the_same_on_the_other_side() {
        let label = |text: &str| text.parse::<Label>().expect("a label");
        let port = |n| NonZeroU16::new(n).expect("not 0");
        let mut def = AppDef::new(label("shop"));
        def.title = Some("Back Office".to_owned());
        let ports = vec![PortDef {
            container: port(3000),
            http: Some(port(80)),
            https: None,
            tcp: None,
            udp: None,
            name: Some(label("admin")),
        }];
        let traffic_matches = vec!["*.a.com".parse().expect("a pattern")];
        let service = ServiceDef {
            ports,
            traffic_matches,
            dns_behaviour: DnsBehaviour::NonVersioned,
            load_balancing: LoadBalancing::Closest,
        };
        def.services.insert(label("web"), service);
        let servers = [(label("default"), port(3306)), (label("leopard"), port(3306))].into();
        def.databases.insert(label("mysql"), DatabaseDef { primary: label("default"), servers });
        assert!(def.is_sound());
        let bytes = minicbor::to_vec(&def).expect("encodes");
        assert_eq!(minicbor::decode::<AppDef>(&bytes).expect("decodes"), def);
        def.services.insert(label("mysql"), ServiceDef::default());
        assert!(!def.is_sound(), "a database and a service of one name");
    }
}
