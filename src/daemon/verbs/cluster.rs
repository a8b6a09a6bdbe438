//! The cluster: starting it, inviting, joining, networks and grants.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Answer;
use super::failures::{label, operation};
use crate::control::{ExitStatus, Failure, Invited, Joined, NetworkCreated};
use crate::daemon::control::Progress;
use crate::daemon::node::Node;
use crate::gossip::{Done, InviteSpec, JoinStep, OperationError, Token};
use crate::membership::{Node as Member, Role};
use crate::sys::clock;

/// How long `join` may take before the person hears that it failed.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest life of an invite.
const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// The most nodes that one invite admits.
const USES_MAX: u32 = 1000;

fn unexpected(what: &str) -> Failure {
    Failure::new(ExitStatus::Failure, what, "the node answered something else", "the daemon's log tells more")
}

pub async fn init(node: &Node, name: Option<String>) -> Result<Answer, Failure> {
    let what = "cannot start a cluster";
    let name = name.map(|name| label("a node's name", &name)).transpose()?;
    let done = node.operate(|gossip| gossip.init(name, clock::now()), None).await?;
    match done.map_err(|error| operation(what, &error, &node.membership()))? {
        Done::Initialised(cluster) => Ok(Answer::of(Joined {
            cluster: cluster.to_string(),
            node: node.id.to_string(),
            name: node.node_name(&node.membership(), node.id),
            networks: Vec::new(),
            root_key: Some(node.state_dir.join("root.key").display().to_string()),
        })
        .warn("root-key-online", "the root key lies on this node; move it to a safe place offline")),
        _ => Err(unexpected(what)),
    }
}

pub async fn invite(
    node: &Node,
    networks: Vec<String>,
    ttl_s: u64,
    uses: u32,
    signer: bool,
) -> Result<Answer, Failure> {
    let what = "cannot make an invite";
    let ttl = Duration::from_secs(ttl_s);
    if ttl.is_zero() || ttl > TTL_MAX {
        let why = "it would be good for less than a second or more than 30 days";
        return Err(Failure::new(ExitStatus::Usage, what, why, "--ttl 1h"));
    }
    if !(1..=USES_MAX).contains(&uses) {
        let why = format!("it would be good for {uses} nodes");
        return Err(Failure::new(ExitStatus::Usage, what, why, format_args!("--uses 1, at most {USES_MAX}")));
    }
    let granted: Vec<_> = networks.iter().map(|text| node.network(Some(text))).collect::<Result<_, _>>()?;
    let networks: Vec<String> = granted.iter().map(|network| network.display_name().to_owned()).collect();
    let spec = InviteSpec { networks: granted.iter().map(|network| network.id.clone()).collect(), ttl, uses, signer };
    let done = node.operate(move |gossip| gossip.invite(spec, clock::now()), None).await?;
    match done.map_err(|error| operation(what, &error, &node.membership()))? {
        Done::Invited(invited) => Ok(Answer::of(Invited {
            token: invited.token.to_string(),
            expires_in_s: invited.expires_unix_s.saturating_sub(clock::unix_s()),
            uses,
            networks,
        })),
        _ => Err(unexpected(what)),
    }
}

pub async fn join(node: &Node, token: String, progress: &Progress) -> Result<Answer, Failure> {
    let what = "cannot join";
    let token: Token = token.parse().map_err(|error: crate::gossip::TokenError| {
        Failure::new(ExitStatus::InvalidFile, what, error, "give the whole line that peerctl invite printed")
    })?;
    let (steps, mut reached) = mpsc::channel(8);
    let operation_done = node.operate(move |gossip| gossip.join(token, clock::now()), Some(steps));
    let tell = async {
        while let Some(step) = reached.recv().await {
            let text = match step {
                JoinStep::Dialled => "dialled: the signer holds the key that the token names",
                JoinStep::Authenticated => "authenticated: this node is certified",
                JoinStep::Synced => "synced: the cluster's records are here",
            };
            progress.step(text).await;
        }
    };
    let (done, ()) =
        tokio::time::timeout(JOIN_TIMEOUT, async { tokio::join!(operation_done, tell) }).await.map_err(|_| {
            let why = format!("it took longer than {} s", JOIN_TIMEOUT.as_secs());
            Failure::new(ExitStatus::Timeout, what, why, "does UDP reach the signer's port? peerctl status")
        })?;
    match done?.map_err(|error: OperationError| operation(what, &error, &node.membership()))? {
        Done::Joined(cluster) => {
            let membership = node.membership();
            let networks = membership.networks().map(|network| network.id.to_string()).collect();
            let name = node.node_name(&membership, node.id);
            Ok(Answer::of(Joined {
                cluster: cluster.to_string(),
                node: node.id.to_string(),
                name,
                networks,
                root_key: None,
            }))
        }
        _ => Err(unexpected(what)),
    }
}

pub async fn network_create(node: &Node, name: Option<String>, internal: bool) -> Result<Answer, Failure> {
    let what = "cannot create the network";
    let name = name.map(|name| label("a network's name", &name)).transpose()?;
    if let Some(name) = &name {
        if name.as_str() == "svc" || name.as_str().starts_with("pn-") {
            let why = format!("{name} would stand where names need another meaning");
            return Err(Failure::new(
                ExitStatus::Usage,
                what,
                why,
                "choose another name; the id pn-UUID is made for you",
            ));
        }
        if let Some(other) = node.membership().networks().find(|network| network.name.as_ref() == Some(name)) {
            let why = format!("there is a network {name} already: {}", other.id);
            return Err(Failure::new(ExitStatus::Conflict, what, why, "choose another name; peerctl network ls"));
        }
    }
    let made = name.clone();
    let done = node.operate(move |gossip| gossip.create_network(made, internal, clock::now()), None).await?;
    match done.map_err(|error| operation(what, &error, &node.membership()))? {
        Done::NetworkCreated { id, vni } => Ok(Answer::of(NetworkCreated {
            id: id.to_string(),
            name: name.map(|name| name.to_string()),
            vni: vni.get(),
        })),
        _ => Err(unexpected(what)),
    }
}

/// The node that a person means.
fn named(node: &Node, text: &str) -> Result<Arc<Member>, Failure> {
    node.membership().node_by_text(text).cloned().ok_or_else(|| {
        let why = "no node of the cluster has this name or id, or several have";
        Failure::new(ExitStatus::NotFound, format_args!("there is no node {text}"), why, "peerctl node ls")
    })
}

pub async fn grant(node: &Node, network: &str, grantee: &str, owner: bool) -> Result<Answer, Failure> {
    let network = node.network(Some(network))?;
    let grantee = named(node, grantee)?;
    let (id, to, role) = (network.id.clone(), grantee.id, if owner { Role::Owner } else { Role::Host });
    let done = node.operate(move |gossip| gossip.grant(&id, to, role, clock::now()), None).await?;
    let what = format!("cannot grant {} to {}", network.display_name(), grantee.name);
    done.map_err(|error| operation(what, &error, &node.membership()))?;
    Ok(Answer::nothing())
}

pub async fn ungrant(node: &Node, network: &str, grantee: &str) -> Result<Answer, Failure> {
    let network = node.network(Some(network))?;
    let grantee = named(node, grantee)?;
    let (id, from) = (network.id.clone(), grantee.id);
    let done = node.operate(move |gossip| gossip.ungrant(&id, from, clock::now()), None).await?;
    let what = format!("cannot take {} from {}", network.display_name(), grantee.name);
    done.map_err(|error| operation(what, &error, &node.membership()))?;
    Ok(Answer::nothing())
}

pub async fn expel(node: &Node, other: &str) -> Result<Answer, Failure> {
    let other = named(node, other)?;
    let id = other.id;
    let done = node.operate(move |gossip| gossip.expel(id, clock::now()), None).await?;
    done.map_err(|error| operation(format_args!("cannot expel {}", other.name), &error, &node.membership()))?;
    Ok(Answer::nothing())
}
