//! The short names: services as applications call them, and what lists them.
//!
//! `SERVICE` is one of the caller's own application, `SERVICE.NAMESPACE` one of another application of the network. Below
//! a configured suffix and below `svc.private-network.internal` stand the same names. Each may have `_PORT._tcp` before it,
//! for SRV; `_services` lists the services of an application, `_apps` the namespaces of the network.

use std::num::NonZeroU16;
use std::str::FromStr;

use crate::membership::Network;
use crate::model::{Label, LabelError};
use crate::services::{self, Service};

use super::names::Existing;

/// The label before the private zone below which the short names stand as well.
pub(super) const SERVICES_LABEL: &str = "svc";
const LIST_SERVICES: &str = "_services";
const LIST_APPS: &str = "_apps";
const PROTOCOLS: [&str; 2] = ["_tcp", "_udp"];

/// A domain below which a node answers the short names, as `cloud66.local`; at most so many parts.
const SUFFIX_LABELS_MAX: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suffix(Vec<Label>);

/// Why a text is no [`Suffix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SuffixError {
    #[error("the part {0:?} is no name: {1}")]
    Label(String, LabelError),
    #[error("a suffix has 1 to 8 parts")]
    Length,
    #[error("names of the outside world end in it, which nobody could reach any more")]
    Public,
    #[error("private names end in it already")]
    Own,
}

impl Suffix {
    /// The labels below the suffix, if the name is below it or the suffix itself.
    pub(super) fn strip<'l, 'n>(&self, labels: &'l [&'n str]) -> Option<&'l [&'n str]> {
        let (below, end) = labels.split_at_checked(labels.len().checked_sub(self.0.len())?)?;
        let is_same = self.0.iter().zip(end).all(|(own, label)| own.as_str() == *label);
        is_same.then_some(below)
    }

    pub(super) fn label_count(&self) -> u8 {
        u8::try_from(self.0.len()).unwrap_or(u8::MAX)
    }
}

impl FromStr for Suffix {
    type Err = SuffixError;

    fn from_str(text: &str) -> Result<Self, SuffixError> {
        let text = text.trim_matches('.');
        let label =
            |part: &str| part.parse().map_err(|error| SuffixError::Label(part.chars().take(63).collect(), error));
        let labels: Vec<Label> = text.split('.').map(label).collect::<Result<_, _>>()?;
        if labels.len() > SUFFIX_LABELS_MAX {
            return Err(SuffixError::Length);
        }
        if let [only] = labels.as_slice()
            && services::is_public_suffix(only)
        {
            return Err(SuffixError::Public);
        }
        let ends: Vec<&str> = labels.iter().rev().map(Label::as_str).collect();
        if ends == ["internal"] || ends.starts_with(&["internal", "private-network"]) || ends.starts_with(&["arpa"]) {
            return Err(SuffixError::Own);
        }
        Ok(Self(labels))
    }
}

impl std::fmt::Display for Suffix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let labels: Vec<&str> = self.0.iter().map(Label::as_str).collect();
        f.pad(&labels.join("."))
    }
}

/// The application that the last label of a short name means, if that is a namespace.
pub(super) fn namespace<'n>(network: &'n Network, text: &str) -> Option<&'n Label> {
    network.app_of_namespace(text)
}

/// The same where the namespace is the last label of all, so that it stands in the place of a domain of the outside world: one
/// that is such a domain is none.
pub(super) fn bare_namespace<'n>(network: &'n Network, text: &str) -> Option<&'n Label> {
    let app = namespace(network, text)?;
    let label: Label = text.parse().ok()?;
    (!services::is_public_suffix(&label)).then_some(app)
}

/// What the labels before a suffix mean to a caller of application `own`.
pub(super) fn short<'n>(network: &'n Network, own: &str, labels: &[&str]) -> Option<Existing<'n>> {
    match labels {
        [] => return Some(Existing::Ancestor),
        [LIST_APPS] => return Some(Existing::Apps),
        _ => {}
    }
    let within_own = network.app(own).and_then(|app| of_app(network, app, labels));
    within_own.or_else(|| {
        let (last, before) = labels.split_last()?;
        let app = namespace(network, last)?;
        if before.is_empty() { Some(Existing::Ancestor) } else { of_app(network, app, before) }
    })
}

/// The namespaces of a network with whose they are, by name.
pub fn namespaces(network: &Network) -> Vec<(Label, Label)> {
    let held = network.apps().filter_map(|app| Some((network.namespace(app)?.clone(), app.clone())));
    let mut namespaces: Vec<(Label, Label)> = held.collect();
    namespaces.sort_unstable();
    namespaces
}

/// What the labels mean within an application.
pub(super) fn of_app<'n>(network: &'n Network, app: &'n Label, labels: &[&str]) -> Option<Existing<'n>> {
    let find = |name: &str| Service::find(network, app.as_str(), name);
    match *labels {
        [LIST_SERVICES] => Some(Existing::Services(app)),
        [name] => find(name).map(Existing::Service),
        [protocol, name] if is_protocol(protocol) => {
            find(name).filter(|service| service.has_port(&protocol[1..])).map(|_| Existing::Ancestor)
        }
        [port, protocol, name] if is_protocol(protocol) => {
            let service = find(name)?;
            let port: NonZeroU16 = service.port(port.strip_prefix('_')?, &protocol[1..])?;
            Some(Existing::Port(service, port))
        }
        _ => None,
    }
}

/// Whether a label stands between a port and its service.
pub(super) fn is_protocol(label: &str) -> bool {
    PROTOCOLS.contains(&label)
}

/// Whether a name stands below the ports of a service of the application: there nobody but the service says what there is.
pub(super) fn is_of_port(network: &Network, app: &Label, labels: &[&str]) -> bool {
    matches!(labels, [.., protocol, name]
        if is_protocol(protocol) && Service::find(network, app.as_str(), name).is_some())
}
