//! What the node does for each request.

mod adopt;
mod apply;
mod attach;
mod cluster;
mod deploy;
mod detach;
mod dial;
mod drain;
mod events;
mod failures;
mod health;
mod ingress;
mod leave;
mod look;
mod names;
mod ready;
mod services;
mod wait;

use serde::Serialize;

use super::control::{Progress, Requester};
use super::gateway::Opened;
use super::node::Node;
use crate::control::{Failure, Request, Warning};

pub use adopt::adopt;
pub(super) use attach::blocking;
pub(super) use detach::unpublish;
pub use detach::{heed, sweep};
pub(super) use failures::operation as operation_failure;
pub use failures::{status_of_io, status_of_socket, status_of_store, with_causes};
pub(super) use look::INNER_MTU_BYTES;
pub use ready::make_ready;

/// An answer that is ready to be sent.
pub struct Answer {
    pub data: serde_json::Value,
    pub warnings: Vec<Warning>,
    pub then: Then,
}

/// What follows once an answer is told.
pub enum Then {
    Nothing,
    /// The node stops.
    Stop,
    /// The conversation goes on as this stream.
    Join(Opened),
}

impl Answer {
    fn of(data: impl Serialize) -> Self {
        Self {
            data: serde_json::to_value(data).expect("answers have string keys only"),
            warnings: Vec::new(),
            then: Then::Nothing,
        }
    }

    /// Done, and there is nothing to tell.
    fn nothing() -> Self {
        Self::of(serde_json::json!({}))
    }

    fn and_stop(self) -> Self {
        Self { then: Then::Stop, ..self }
    }

    fn warn(mut self, code: &str, message: impl Into<String>) -> Self {
        self.warnings.push(Warning { code: code.to_owned(), message: message.into() });
        self
    }
}

/// Does what was asked for.
pub async fn carry_out(
    node: &Node,
    requester: Requester,
    request: Request,
    progress: &Progress,
) -> Result<Answer, Failure> {
    match request {
        Request::Init { name } => cluster::init(node, name).await,
        Request::Invite { networks, ttl_s, uses, signer } => cluster::invite(node, networks, ttl_s, uses, signer).await,
        Request::Join { token } => cluster::join(node, token, progress).await,
        Request::Leave { release, drain_s } => leave::leave(node, release, drain_s, progress).await,
        Request::NetworkCreate { name, internal } => cluster::network_create(node, name, internal).await,
        Request::NetworkGrant { network, node: grantee, owner } => {
            cluster::grant(node, &network, &grantee, owner).await
        }
        Request::NetworkUngrant { network, node: grantee } => cluster::ungrant(node, &network, &grantee).await,
        Request::NodeExpel { node: other } => cluster::expel(node, &other).await,
        Request::Attach(request) => attach::attach(node, requester, *request).await,
        Request::Detach { target, drain_s } => detach::detach(node, &target, drain_s, progress).await,
        Request::Dial { network, name, port } => dial::dial(node, network.as_deref(), &name, port, progress).await,
        Request::Deploy { app, version, network } => deploy::deploy(node, &app, version, network.as_deref()).await,
        Request::IngressStatus => Ok(ingress::status(node).await),
        Request::IngressRoutes => Ok(ingress::routes(node)),
        Request::IngressEnable { proxy_from } => ingress::enable(node, proxy_from.as_deref()).await,
        Request::IngressDisable => ingress::disable(node).await,
        Request::IngressCertLs => Ok(ingress::certificates(node).await),
        Request::IngressCertAdd { chain, key } => ingress::add_certificate(node, chain, key).await,
        Request::IngressCertDev { names } => ingress::issue_certificate(node, &names).await,
        Request::IngressCertRm { name } => ingress::remove_certificate(node, &name).await,
        Request::IngressCertCa => ingress::authority(node).await,
        Request::NetworkLs => Ok(look::networks(node)),
        Request::NetworkInspect { network } => look::network(node, network.as_deref()).await,
        Request::NodeLs => look::nodes(node).await,
        Request::ContainerLs { network } => look::containers(node, network.as_deref()),
        Request::ContainerInspect { id } => look::container(node, &id).await,
        Request::DnsQuery { name, kind, caller } => names::query(node, &name, &kind, &caller).await,
        Request::DnsExplain { name, caller } => names::explain(node, &name, &caller),
        Request::DomainNames { app, network } => look::domain_names(node, app.as_deref(), network.as_deref()),
        Request::Apply { network, app, text, dry_run } => {
            apply::apply(node, network.as_deref(), app.as_deref(), &text, dry_run).await
        }
        Request::ServiceRm { network, app, dry_run } => apply::remove(node, network.as_deref(), &app, dry_run).await,
        Request::ServiceLs { network, app } => services::list(node, network.as_deref(), app.as_deref()),
        Request::ServiceInspect { service, network, app } => {
            services::inspect(node, &service, network.as_deref(), app.as_deref())
        }
        Request::Status => look::status(node).await,
        Request::Drops => look::drops(node).await,
        Request::Wait { awaited, timeout_s } => wait::wait(node, awaited, timeout_s, progress).await,
        Request::Events { count } => events::events(node, count, progress).await,
    }
}
