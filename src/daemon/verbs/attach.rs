//! Attach: a container gets its address, its interface and its traffic.
//!
//! Four steps, each undone if a later one fails: the record (address and number, on disk), the note of what is about to be
//! made (on disk too, so that a crash leaves nothing that nobody knows of), the TUN in the container's namespace, the
//! router's part.

use std::path::Path;
use std::sync::Arc;

use super::Answer;
use super::detach::{forget, unplug_device, unpublish};
use super::failures::{self, label, with_causes};
use super::look::INNER_MTU_BYTES;
use crate::control::{Attach, Attached, ExitStatus, Failure, Target};
use crate::daemon::attachments::{ClaimError, Condition, Local};
use crate::daemon::control::Requester;
use crate::daemon::data::{Attachment, Device};
use crate::daemon::node::Node;
use crate::dns::Caller;
use crate::gossip::{AttachSpec, OperationError, Space};
use crate::ingress::holds_host_port;
use crate::membership::body::is_version;
use crate::membership::{Container, State};
use crate::model::{AttachmentId, Label, NetworkId, WgSecret};
use crate::sys::netns::{Netns, NetnsError, Origin};
use crate::sys::probe::User;
use crate::sys::tun::{self, Adopters, Tun, TunError, TunSpec};
use crate::sys::{clock, random, resolv};

/// Runs what may block where it holds up nobody.
pub(in crate::daemon) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("sys reports its failures as errors")
}

pub(super) fn open(target: &Target) -> Result<Netns, NetnsError> {
    match target {
        Target::Netns(path) => Netns::open(Path::new(path)),
        Target::Pid(pid) => Netns::of_pid(*pid),
    }
}

/// A request whose words are all in order.
struct Checked {
    network: NetworkId,
    app: Label,
    kind: Label,
    service: Label,
    server: Option<Label>,
}

fn check(node: &Node, request: &Attach) -> Result<Checked, Failure> {
    let kind = label("a container's type", &request.kind)?;
    if kind.is_number() {
        let why = "in a name it would be taken for a container's number";
        return Err(Failure::new(
            ExitStatus::Usage,
            format_args!("{kind} cannot be a container's type"),
            why,
            "--type web",
        ));
    }
    if request.version.as_ref().is_some_and(|version| !is_version(version)) {
        let why = "a version has 1 to 128 bytes, none of them a control character";
        return Err(Failure::new(ExitStatus::Usage, "cannot attach a container of this version", why, "--version v2"));
    }
    if request.number == Some(0) {
        let what = "cannot attach a container with the number 0";
        return Err(Failure::new(
            ExitStatus::Usage,
            what,
            "numbers begin with 1",
            "leave --number out for the lowest free",
        ));
    }
    tun::check_ifname(&request.ifname).map_err(|error| failures::tun("cannot attach the container", &error))?;
    Ok(Checked {
        network: node.network(request.network.as_deref())?.id.clone(),
        app: label("an application", &request.app)?,
        service: label("a service", request.service.as_deref().unwrap_or(&request.kind))?,
        server: request.server.as_deref().map(|server| label("a database's server", server)).transpose()?,
        kind,
    })
}

pub async fn attach(node: &Node, requester: Requester, request: Attach) -> Result<Answer, Failure> {
    let checked = check(node, &request)?;
    let what = format!("cannot attach a {} of {}", checked.kind, checked.app);
    let target = request.target.clone();
    let netns = blocking(move || open(&target)).await.map_err(|error| failures::netns(&what, &error))?;
    let id = AttachmentId::random(&mut random::Os);
    let _claim = node.attachments.claim_free(netns.anchor().place(), id).map_err(|error| {
        let (why, hint) = match error {
            ClaimError::Held(holder) => (
                format!("its network namespace is attached already, by container {holder}"),
                "one network per namespace: peerctl detach ID first",
            ),
            ClaimError::Busy | ClaimError::Unknown => (
                "something is being attached to its network namespace, or detached, at this moment".to_owned(),
                "wait for that; peerctl container ls",
            ),
        };
        Failure::new(ExitStatus::Conflict, &what, why, hint)
    })?;

    let condition = request.ready_when.map(|when| {
        let user = User { uid: requester.uid, gid: requester.gid };
        Condition { when, user }
    });
    let secret = WgSecret::random(&mut random::Os);
    let alone = leads_straight(node, &checked)?;
    let spec = AttachSpec {
        id,
        network: checked.network.clone(),
        app: checked.app,
        kind: checked.kind,
        number: request.number,
        version: request.version,
        service: checked.service,
        server: checked.server,
        state: if condition.is_some() { State::Starting } else { State::Ready },
        public_key: secret.public(),
        space: Space::Containers,
        alone,
    };
    let done = node.operate(move |gossip| gossip.attach(spec, clock::now()), None).await?;
    if let Err(error) = done {
        if error == OperationError::NotStored {
            // The machine goes on trying to write what it has signed: the record is taken back.
            unpublish(node, id).await;
        }
        return Err(failures::operation(what, &error, &node.membership()));
    }
    let to_be = ToBe { network: checked.network.clone(), id, ifname: request.ifname.clone(), condition };
    match equip(node, to_be, secret, netns).await {
        Ok((container, warning)) => {
            let answer = Answer::of(Attached {
                id: id.to_string(),
                address: container.address.to_string(),
                network: checked.network.to_string(),
                app: container.app.to_string(),
                kind: container.kind.to_string(),
                number: container.number,
                hostname: crate::dns::hostname(&container, &checked.network),
                state: container.state.to_string(),
                ifname: request.ifname,
                mtu_bytes: INNER_MTU_BYTES,
            });
            Ok(match warning {
                Some(message) => answer.warn("resolv-conf", message),
                None => answer,
            })
        }
        Err(failure) => {
            unpublish(node, id).await;
            Err(Failure { what, ..failure })
        }
    }
}

/// Whether the container's service has a port of the host, which leads straight to it: then a node has one of it at most.
fn leads_straight(node: &Node, checked: &Checked) -> Result<bool, Failure> {
    let Checked { network, app, service, server: None, .. } = checked else { return Ok(false) };
    let network = node.network(Some(network.as_str()))?;
    let def = network.definition(app.as_str()).and_then(|def| def.services.get(service));
    Ok(def.is_some_and(holds_host_port))
}

/// A container that has its record.
struct ToBe {
    network: NetworkId,
    id: AttachmentId,
    ifname: String,
    condition: Option<Condition>,
}

/// Everything after the record; all of it undone if a part fails. A warning says what could not be had beside it.
async fn equip(
    node: &Node,
    to_be: ToBe,
    secret: WgSecret,
    netns: Netns,
) -> Result<(Container, Option<String>), Failure> {
    let ToBe { network, id, ifname, condition } = to_be;
    let container = node.network(Some(network.as_str()))?.containers().find(|container| container.id == id).cloned();
    let container = container.ok_or_else(|| {
        let why = "its record is overruled already";
        Failure::new(ExitStatus::Conflict, WHAT, why, "peerctl status shows what stands against it")
    })?;
    let local = Local {
        id,
        network: network.clone(),
        anchor: netns.anchor(),
        ifname,
        address: container.address,
        mtu_bytes: INNER_MTU_BYTES,
        resolv: resolv::place(&netns.path()),
        ready_when: condition,
        drain: None,
    };
    let (attachments, noted) = (node.attachments.clone(), local.clone());
    blocking(move || attachments.insert(noted)).await.map_err(|error| {
        let hint = error.advice().unwrap_or("the daemon's log tells more");
        Failure::new(ExitStatus::Failure, WHAT, with_causes(&error), hint)
    })?;
    match plug(node, &local, &container, secret, netns, Plug::Make).await {
        Ok(warning) => {
            tracing::info!(attachment = %id, %network, address = %container.address, ifname = local.ifname, "attached");
            node.readiness.announce();
            Ok(((*container).clone(), warning))
        }
        Err(Refused { failure, made_nothing, .. }) => {
            if !made_nothing {
                unplug_device(&local).await;
            }
            forget(node, id).await;
            Err(failure)
        }
    }
}

const WHAT: &str = "cannot attach the container";

/// Whether the container's TUN is to be made, or there from an earlier run.
pub(super) enum Plug {
    Make,
    Adopt(Arc<Adopters>),
}

/// Why a container is not served.
pub(super) struct Refused {
    pub failure: Failure,
    /// Whether the namespace is as it was, so that what is there is not ours to remove.
    made_nothing: bool,
    /// Whether there is no device to adopt any more.
    pub device_gone: bool,
}

/// The TUN, the router's part, and the names. What was made stays when a later part fails: the caller takes it away.
pub(super) async fn plug(
    node: &Node,
    local: &Local,
    container: &Container,
    secret: WgSecret,
    netns: Netns,
    plug: Plug,
) -> Result<Option<String>, Refused> {
    let refused = |failure, made_nothing| Refused { failure, made_nothing, device_gone: false };
    let vni = node.network(Some(local.network.as_str())).map_err(|failure| refused(failure, true))?.vni;
    let spec = TunSpec { ifname: local.ifname.clone(), address: local.address, mtu_bytes: local.mtu_bytes };
    // Only now is there somebody to be told.
    let pid = match netns.anchor().origin {
        Origin::Pid(pid) if matches!(plug, Plug::Make) => Some(pid),
        _ => None,
    };
    let (path, tun) = blocking(move || {
        let tun = match plug {
            Plug::Make => tun::attach_tun(&netns, &spec),
            Plug::Adopt(adopters) => adopters.adopt(&netns, &spec),
        };
        (netns.path(), tun)
    })
    .await;
    let Tun { fd, facts, watch } = tun.map_err(|error| {
        // A refusal leaves the namespace as it was; a helper that died may have left a device.
        let made_nothing = !matches!(error, TunError::Helper(_));
        Refused { failure: failures::tun(WHAT, &error), made_nothing, device_gone: error.is_gone() }
    })?;
    // A namespace without a name has no file of its own; `run` brings one along.
    let provided = blocking(move || resolv::provide(&path).and_then(|_| pid.map_or(Ok(()), resolv::check))).await;
    let warning = provided.err().map(|error| format!("names are not set up in the container: {}", with_causes(&error)));

    let key = secret.public();
    let attachment =
        Attachment { id: local.id, vni, address: local.address, secret, mtu_bytes: local.mtu_bytes as u16 };
    let device = Device { fd, vnet_hdr: facts.vnet_hdr, uso: facts.offloads.uso };
    // Before there is traffic, so that no query of the container goes unanswered.
    node.attachments.answer_to(Caller::of(container, &local.network));
    match node.data.attach(attachment, device).await {
        Ok(()) => {
            node.attachments.note_key(local.id, key);
            node.watches.add(local, watch);
            Ok(warning)
        }
        Err(error) => {
            node.attachments.ignore(local.id);
            let failure = Failure::new(ExitStatus::Failure, WHAT, with_causes(&error), "the daemon's log tells more");
            Err(refused(failure, false))
        }
    }
}
