//! What went wrong, in three lines for a person.

use std::error::Error;

use crate::control::{ExitStatus, Failure};
use crate::gossip::{JoinError, OperationError};
use crate::membership::Membership;
use crate::model::{Label, LabelError, NodeId};
use crate::sys::netns::NetnsError;
use crate::sys::socket::SocketError;
use crate::sys::store::StoreError;
use crate::sys::tun::TunError;

use ExitStatus::{Conflict, NotFound, Permission, Timeout, Usage};

/// An error with its causes, in one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A word that should be a name and is none.
pub fn no_label(what: &str, text: &str, error: &LabelError) -> Failure {
    let hint = "use letters, digits and '-', as in a host name";
    Failure::new(Usage, format_args!("{:?} cannot be {what}", text.chars().take(80).collect::<String>()), error, hint)
}

/// `text` as a label, for `what`.
pub fn label(what: &str, text: &str) -> Result<Label, Failure> {
    text.parse().map_err(|error| no_label(what, text, &error))
}

/// Why the machine did not do `what`.
pub fn operation(what: impl std::fmt::Display, error: &OperationError, membership: &Membership) -> Failure {
    let name = |id: &NodeId| membership.node(*id).map_or_else(|| id.to_string(), |node| node.name.to_string());
    let network_name = |id: &crate::model::NetworkId| {
        membership.network(id).map_or_else(|| id.to_string(), |network| network.display_name().to_owned())
    };
    let (status, why, hint) = match error {
        OperationError::NoCluster => (
            ExitStatus::Failure,
            error.to_string(),
            "peerctl init starts a cluster, peerctl join - enters one".to_owned(),
        ),
        OperationError::InCluster(_) => (Conflict, error.to_string(), "peerctl status shows it".to_owned()),
        OperationError::Joining | OperationError::Busy => {
            (Conflict, error.to_string(), "wait for it and try again".to_owned())
        }
        OperationError::NotSigner => {
            (Permission, error.to_string(), "peerctl node ls shows the signers; ask there".to_owned())
        }
        OperationError::NotOwner(network) => {
            let why = format!("only owners of network {} do this, and this node is none", network_name(network));
            (Permission, why, "peerctl network inspect shows the owners; ask there".to_owned())
        }
        OperationError::NoNetwork(_) => (NotFound, error.to_string(), "peerctl network ls".to_owned()),
        OperationError::NoNode(_) => (NotFound, error.to_string(), "peerctl node ls".to_owned()),
        OperationError::NoAttachment(_) => (NotFound, error.to_string(), "peerctl container ls".to_owned()),
        OperationError::NotGranted(node, network) => (
            Permission,
            format!("node {} is not granted network {}", name(node), network_name(network)),
            "an owner grants it: peerctl network grant NETWORK NODE".to_owned(),
        ),
        OperationError::NumberTaken { .. } => {
            (Conflict, error.to_string(), "leave --number out for the lowest free one; peerctl container ls".to_owned())
        }
        OperationError::NotAlone { service, holder } => (
            Conflict,
            format!("service {service} has ports of the host, which lead to container {holder} here"),
            format!("attach it on another node, or first: peerctl detach {holder}"),
        ),
        OperationError::NamespaceTaken { .. } => {
            (Conflict, error.to_string(), "application: { id: ID, namespace: ANOTHER }".to_owned())
        }
        OperationError::NoApp(_) => (NotFound, error.to_string(), "peerctl container ls".to_owned()),
        OperationError::NoDefinition(_) => (NotFound, error.to_string(), "peerctl service ls".to_owned()),
        OperationError::Full { network, in_use, resting, total, free_in_s } => {
            let free = free_in_s.map_or_else(String::new, |s| format!(" (the first is free in {s} s)"));
            let why = format!("{in_use} of {total} addresses in use, {resting} resting{free}");
            let hint = format!("peerctl container ls --network {}", network_name(network));
            let what = format!("{what}: network {} is full", network_name(network));
            return Failure::new(Conflict, what, why, hint);
        }
        OperationError::AddressesUnreachable { holders, .. } => {
            let holders: Vec<String> = holders.iter().map(name).collect();
            let why = format!("the free addresses are held by unreachable {}", holders.join(", "));
            (Conflict, why, "peerctl status shows which nodes this one reaches".to_owned())
        }
        OperationError::Itself => (Conflict, error.to_string(), "peerctl leave, on the node that is to go".to_owned()),
        OperationError::Creator(network) => (
            Conflict,
            format!("network {} belongs to its creator", network_name(network)),
            "to have it leave the cluster: peerctl node expel NODE".to_owned(),
        ),
        OperationError::NoRootKey => {
            (Permission, error.to_string(), "run it on the node where peerctl init left root.key".to_owned())
        }
        OperationError::Join(error) => {
            let (status, hint) = join(*error);
            (status, error.to_string(), hint.to_owned())
        }
        OperationError::NotStored => {
            let hint = "make room, or make the state folder writable: the node then goes on by itself".to_owned();
            (ExitStatus::Failure, error.to_string(), hint)
        }
        OperationError::LogFull => {
            let hint = "do it on another node: another owner of the network, or another signer for joins and networks";
            (ExitStatus::Failure, error.to_string(), hint.to_owned())
        }
        OperationError::RootKeyHere => {
            let hint = "move root.key to a safe place offline and restart peerd, then leave".to_owned();
            (Conflict, error.to_string(), hint)
        }
        OperationError::LastSigner => {
            let hint = "make another node a signer first: peerctl invite --signer, where root.key lies".to_owned();
            (Conflict, error.to_string(), hint)
        }
        OperationError::NobodyTold => {
            let hint =
                "try again when peerctl status shows a connected peer, or expel this node from another".to_owned();
            (Timeout, error.to_string(), hint)
        }
        _ => (ExitStatus::Failure, with_causes(error), "the daemon's log tells more".to_owned()),
    };
    Failure::new(status, what, why, hint)
}

fn join(error: JoinError) -> (ExitStatus, &'static str) {
    match error {
        JoinError::Unreachable => (Timeout, "does UDP reach the signer's port? the token names its addresses"),
        JoinError::UnknownToken | JoinError::UsedToken | JoinError::ExpiredToken => {
            (Permission, "peerctl invite on a signer makes a new one")
        }
        JoinError::NameTaken => (Conflict, "start the daemon with another --name"),
        JoinError::Expelled => (Permission, "an expelled key stays out: start with an empty --state-dir"),
        JoinError::SignerNotStored => (ExitStatus::Failure, "make room on the signer's disk; the token stays good"),
        JoinError::SignerFull => (ExitStatus::Failure, "peerctl invite on another signer makes a token that is taken"),
        JoinError::NotStored => {
            (ExitStatus::Failure, "make room, or make the state folder writable; the token stays good")
        }
        JoinError::OtherCluster | JoinError::Invalid(_) => (Permission, "check where the token came from"),
    }
}

/// The exit code of a state folder that cannot be used.
pub fn status_of_store(error: &StoreError) -> ExitStatus {
    match error {
        StoreError::Locked { .. } => Conflict,
        StoreError::ForeignOwner { .. } => Permission,
        StoreError::NotAFolder(_) | StoreError::Name(_) => Usage,
        StoreError::Io { source, .. } => status_of_io(source),
        StoreError::Full(_) | StoreError::ReadOnly(_) => ExitStatus::Failure,
    }
}

/// The exit code of a control socket that cannot be had.
pub fn status_of_socket(error: &SocketError) -> ExitStatus {
    match error {
        SocketError::InUse(_) => Conflict,
        SocketError::NotASocket(_) | SocketError::TooLong(_) => Usage,
        SocketError::UnsafeFolder(_) => Permission,
        SocketError::Io { source, .. } => status_of_io(source),
    }
}

/// The exit code of what the system refused.
pub fn status_of_io(error: &std::io::Error) -> ExitStatus {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => Permission,
        std::io::ErrorKind::AddrInUse => Conflict,
        std::io::ErrorKind::NotFound => NotFound,
        std::io::ErrorKind::AddrNotAvailable => Usage,
        _ => ExitStatus::Failure,
    }
}

/// Why a namespace is none.
pub fn netns(what: impl std::fmt::Display, error: &NetnsError) -> Failure {
    let status = match error {
        NetnsError::NoSuchPath(_) | NetnsError::NoSuchProcess(_) | NetnsError::Replaced(_) => NotFound,
        NetnsError::NotANetns(_) => Usage,
        NetnsError::Forbidden { .. } => Permission,
        NetnsError::Io { .. } => ExitStatus::Failure,
    };
    Failure::new(status, what, with_causes(error), error.advice().unwrap_or("ip netns ls lists the named ones"))
}

/// Why there is no TUN.
pub fn tun(what: impl std::fmt::Display, error: &TunError) -> Failure {
    let status = match error {
        TunError::IfnameInvalid(_) | TunError::MtuInvalid(_) => Usage,
        TunError::IfnameTaken(_) | TunError::RouteTaken(_) | TunError::InUse(_) | TunError::NotOurs(_) => Conflict,
        TunError::NoSuchInterface(_) => NotFound,
        TunError::DeviceForbidden(_) | TunError::Forbidden(_) => Permission,
        _ => ExitStatus::Failure,
    };
    Failure::new(status, what, with_causes(error), error.advice().unwrap_or("the daemon's log tells more"))
}
