//! Containers come and go: attach, detach, and what a restart or a vanished namespace asks for.
//!
//! An attach has three steps, each undone if a later one fails: the record (address and number, on disk), the TUN in the
//! container's namespace, the router's part. A detach undoes them in the reverse order and does every step.

use std::path::Path;
use std::time::Duration;

use super::Answer;
use super::failures::{self, label, with_causes};
use super::look::INNER_MTU_BYTES;
use crate::control::{Attach, Attached, ExitStatus, Failure, Target};
use crate::daemon::attachments::Local;
use crate::daemon::data::{Attachment, Device};
use crate::daemon::node::Node;
use crate::dns::Caller;
use crate::gossip::{AttachSpec, Done, OperationError, Space};
use crate::membership::Container;
use crate::model::{AttachmentId, Label, NetworkId, WgSecret};
use crate::sys::netns::{Netns, NetnsError};
use crate::sys::tun::{self, Tun, TunSpec};
use crate::sys::{clock, random, resolv};

/// How often namespaces are looked at to see whether they are still there.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Runs what may block where it holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("sys reports its failures as errors")
}

fn open(target: &Target) -> Result<Netns, NetnsError> {
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
    if request.version.as_ref().is_some_and(|version| version.is_empty() || version.len() > 128) {
        let why = "a version has 1 to 128 bytes";
        return Err(Failure::new(ExitStatus::Usage, "cannot attach a container of this version", why, "--version v2"));
    }
    tun::check_ifname(&request.ifname).map_err(|error| failures::tun("cannot attach the container", &error))?;
    Ok(Checked {
        network: node.network(request.network.as_deref())?.id.clone(),
        app: label("an application", &request.app)?,
        service: label("a service", request.service.as_deref().unwrap_or(&request.kind))?,
        kind,
    })
}

pub async fn attach(node: &Node, request: Attach) -> Result<Answer, Failure> {
    let checked = check(node, &request)?;
    let what = format!("cannot attach a {} of {}", checked.kind, checked.app);
    let target = request.target.clone();
    let netns = blocking(move || open(&target)).await.map_err(|error| failures::netns(&what, &error))?;
    let _claim = node.attachments.claim(netns.id()).map_err(|holder| {
        let holder = holder.map_or_else(|| "somebody else at this moment".to_owned(), |id| format!("container {id}"));
        let why = format!("its network namespace is attached already, by {holder}");
        Failure::new(ExitStatus::Conflict, &what, why, "one network per namespace: peerctl detach ID first")
    })?;

    let id = AttachmentId::random(&mut random::Os);
    let secret = WgSecret::random(&mut random::Os);
    let spec = AttachSpec {
        id,
        network: checked.network.clone(),
        app: checked.app,
        kind: checked.kind,
        number: request.number,
        version: request.version,
        service: checked.service,
        public_key: secret.public(),
        space: Space::Containers,
    };
    let done = node.operate(move |gossip| gossip.attach(spec, clock::now()), None).await?;
    if let Err(error) = done {
        return Err(failures::operation(what, &error, &node.membership()));
    }
    let network = node.network(Some(checked.network.as_str()))?;
    let container = network.containers().find(|container| container.id == id).cloned().ok_or_else(|| {
        let why = "its record is overruled already";
        Failure::new(ExitStatus::Conflict, &what, why, "peerctl status shows what stands against it")
    });
    let attached = match container {
        Ok(container) => plug(node, &checked.network, &container, secret, netns, &request.ifname, Plug::Make).await,
        Err(failure) => Err(failure),
    };
    match attached {
        Ok((container, warning)) => {
            let answer = Answer::of(Attached {
                id: id.to_string(),
                address: container.address.to_string(),
                network: checked.network.to_string(),
                app: container.app.to_string(),
                kind: container.kind.to_string(),
                number: container.number,
                hostname: crate::dns::hostname(&container, &checked.network),
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

/// Whether the container's TUN is to be made, or there from an earlier run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plug {
    Make,
    Adopt,
}

/// Everything after the record: TUN, router, resolv.conf, memory. Undone if it fails.
async fn plug(
    node: &Node,
    network: &NetworkId,
    container: &Container,
    secret: WgSecret,
    netns: Netns,
    ifname: &str,
    plug: Plug,
) -> Result<(Container, Option<String>), Failure> {
    let what = "cannot attach the container";
    let spec = TunSpec { ifname: ifname.to_owned(), address: container.address, mtu_bytes: INNER_MTU_BYTES };
    let (netns, tun) = blocking(move || {
        let tun = match plug {
            Plug::Make => tun::attach_tun(&netns, &spec),
            Plug::Adopt => tun::adopt_tun(&netns, &spec),
        };
        (netns, tun)
    })
    .await;
    let Tun { fd, facts } = tun.map_err(|error| failures::tun(what, &error))?;
    let vni = node.network(Some(network.as_str()))?.vni;
    let caller = Caller {
        network: network.clone(),
        attachment: container.id,
        address: container.address,
        app: container.app.clone(),
        version: container.version.clone(),
    };
    // A namespace without a name has no file of its own; `run` brings one along.
    let (resolv, warning) = match resolv::provide(&netns.path()) {
        Ok(path) => (path, None),
        Err(error) => (None, Some(format!("names are not set up in the container: {}", with_causes(&error)))),
    };
    let local = Local {
        id: container.id,
        network: network.clone(),
        anchor: netns.anchor(),
        ifname: ifname.to_owned(),
        address: container.address,
        mtu_bytes: INNER_MTU_BYTES,
        resolv,
    };
    let attachment =
        Attachment { id: container.id, vni, address: container.address, secret, mtu_bytes: INNER_MTU_BYTES as u16 };
    let device = Device { fd, vnet_hdr: facts.vnet_hdr, uso: facts.offloads.uso };
    let stored = match node.attachments.insert(local.clone(), caller) {
        Ok(()) => node.data.attach(attachment, device).await.map_err(|error| with_causes(&error)),
        Err(error) => Err(with_causes(&error)),
    };
    if let Err(why) = stored {
        node.attachments.remove(container.id);
        unplug_device(&local).await;
        return Err(Failure::new(ExitStatus::Failure, what, why, "the daemon's log tells more"));
    }
    tracing::info!(attachment = %container.id, %network, address = %container.address, ifname, "attached");
    Ok((container.clone(), warning))
}

/// Takes the record out. What stays of it after a failure here goes with the next sweep.
async fn unpublish(node: &Node, id: AttachmentId) {
    match node.operate(move |gossip| gossip.detach(id, clock::now()), None).await {
        Ok(Ok(Done::Detached) | Err(OperationError::NoAttachment(_))) => {}
        Ok(Ok(_)) => unreachable!("a detach ends with Detached"),
        Ok(Err(error)) => tracing::warn!(attachment = %id, %error, "a container's record stays"),
        Err(failure) => tracing::warn!(attachment = %id, error = %failure.why, "a container's record stays"),
    }
}

/// Removes what was put into the container's namespace, if that is still there.
async fn unplug_device(local: &Local) {
    let local = local.clone();
    blocking(move || {
        if let Some(path) = &local.resolv
            && let Err(error) = resolv::withdraw(path)
        {
            tracing::warn!(path = %path.display(), %error, "a resolv.conf of ours stays");
        }
        let Ok(netns) = Netns::reopen(&local.anchor) else { return };
        if let Err(error) = tun::detach_tun(&netns, &local.ifname) {
            tracing::warn!(attachment = %local.id, error = with_causes(&error), "a container's interface stays");
        }
    })
    .await;
}

/// Takes a container off: name first, so that nobody finds what is going, then traffic, then the device.
async fn take_off(node: &Node, local: &Local) {
    unpublish(node, local.id).await;
    if let Some(fd) = node.data.detach(local.id).await {
        blocking(move || {
            // The container may have renamed or moved the device: without persistence it goes with its descriptor.
            let _ = tun::release_tun(std::os::fd::AsFd::as_fd(&fd));
            drop(fd);
        })
        .await;
    }
    unplug_device(local).await;
    node.attachments.remove(local.id);
    tracing::info!(attachment = %local.id, address = %local.address, "detached");
}

pub async fn detach(node: &Node, target: &str) -> Result<Answer, Failure> {
    let local = match target.parse::<AttachmentId>() {
        Ok(id) => node.attachments.find(|local| local.id == id),
        Err(_) if target.contains('/') => {
            let target = Target::Netns(target.to_owned());
            let netns = blocking(move || open(&target)).await;
            let netns = netns.map_err(|error| failures::netns("cannot detach the container", &error))?.id();
            node.attachments.find(|local| local.anchor.id == netns)
        }
        Err(_) => None,
    };
    let Some(local) = local else {
        let what = format!("there is no container {} on this node", target.chars().take(120).collect::<String>());
        let why = "only the node that hosts a container detaches it";
        return Err(Failure::new(ExitStatus::NotFound, what, why, "peerctl container ls shows ids and nodes"));
    };
    take_off(node, &local).await;
    Ok(Answer::nothing())
}

/// Takes up the containers of an earlier run again, each with a new key; lets go those whose namespace is gone.
pub async fn adopt(node: &Node, remembered: Vec<Local>) {
    for local in remembered {
        if let Err(why) = adopt_one(node, &local).await {
            tracing::warn!(attachment = %local.id, error = why, "a container of the last run is not served any more");
            take_off(node, &local).await;
        }
    }
    // A record whose container nobody remembers is an attach that was cut short.
    let published = node.call(|engine| engine.gossip.attachments()).await.unwrap_or_default();
    for (_, container) in published {
        if node.attachments.find(|local| local.id == container.id).is_none() {
            unpublish(node, container.id).await;
        }
    }
}

async fn adopt_one(node: &Node, local: &Local) -> Result<(), String> {
    let anchor = local.anchor.clone();
    let netns = blocking(move || Netns::reopen(&anchor)).await.map_err(|error| with_causes(&error))?;
    let id = local.id;
    let published = node.call(|engine| engine.gossip.attachments()).await.map_err(|failure| failure.why)?;
    let Some((network, container)) = published.into_iter().find(|(_, container)| container.id == id) else {
        return Err("its record is gone".to_owned());
    };
    let secret = WgSecret::random(&mut random::Os);
    let key = secret.public();
    let done = node.operate(move |gossip| gossip.set_container_key(id, key, clock::now()), None).await;
    done.map_err(|failure| failure.why)?.map_err(|error| with_causes(&error))?;
    let plugged = plug(node, &network, &container, secret, netns, &local.ifname, Plug::Adopt).await;
    plugged.map(drop).map_err(|failure| failure.why)
}

/// Lets go containers whose namespace has ended, until the node stops.
///
/// The descriptor of a TUN keeps its namespace from ending, so the kernel never says that a container is gone: the path
/// or process by which it was attached does.
pub async fn detach_gone(node: &Node) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let locals = node.attachments.list();
        let gone = blocking(move || {
            let gone = |local: &Local| {
                matches!(
                    Netns::reopen(&local.anchor),
                    Err(NetnsError::NoSuchPath(_)
                        | NetnsError::NoSuchProcess(_)
                        | NetnsError::Replaced(_)
                        | NetnsError::NotANetns(_))
                )
            };
            locals.into_iter().filter(gone).collect::<Vec<_>>()
        })
        .await;
        for local in gone {
            take_off(node, &local).await;
        }
    }
}
