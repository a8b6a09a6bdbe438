//! Which containers stand when their service is taken out of its file.
//!
//! A file does not own containers, so none of them ends with it. Whoever takes a service out is told of those that stay, and
//! by what name, if by any.

use std::collections::BTreeMap;

use crate::membership::Network;
use crate::model::{AppDef, Label};

/// Containers of a service or of a database's server that a definition no longer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// The service, or `TYPE-SERVER` of a database.
    pub name: String,
    pub containers: usize,
    /// Whether its name still leads to them: they declare a service or a database of their own, but no further server of a
    /// database that is defined.
    pub is_named: bool,
}

/// The containers that an application has of what `before` defines and `after` does not, by the name of the service.
pub fn leftovers(network: &Network, before: &AppDef, after: Option<&AppDef>) -> Vec<Leftover> {
    let mut left: BTreeMap<(&Label, Option<&Label>), usize> = BTreeMap::new();
    for container in network.containers().filter(|container| container.app == before.id) {
        let (service, server) = (&container.service, container.server.as_ref());
        if defines(before, service, server) && !after.is_some_and(|after| defines(after, service, server)) {
            *left.entry((service, server)).or_default() += 1;
        }
    }
    let leftover = |((service, server), containers): ((&Label, Option<&Label>), usize)| Leftover {
        name: server.map_or_else(|| service.to_string(), |server| format!("{service}-{server}")),
        containers,
        // What stands under the name now is not what they are.
        is_named: !after.is_some_and(|after| {
            after.databases.contains_key(service) || (server.is_some() && after.services.contains_key(service))
        }),
    };
    left.into_iter().map(leftover).collect()
}

fn defines(def: &AppDef, service: &Label, server: Option<&Label>) -> bool {
    match server {
        None => def.services.contains_key(service),
        Some(server) => def.databases.get(service).is_some_and(|database| database.servers.contains_key(server)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;
    use crate::membership::{Container, testing};
    use crate::model::{NodeId, Vni};
    use crate::services::file::{Options, parse};

    fn def(text: &str) -> AppDef {
        parse(text.as_bytes(), &Options { app: Some("ap-1".parse().expect("a label")) }).expect(text).def
    }

    /// Containers of `web`, `api`, and of two servers of `mysql`; and another application's `web`.
    fn network() -> Network {
        let mut network =
            Network::new("pn-a".parse().expect("an id"), Vni::try_from(7).expect("a VNI"), NodeId([1; 32]));
        let all = [
            ("ap-1", "web", None),
            ("ap-1", "web", None),
            ("ap-1", "api", None),
            ("ap-1", "mysql", Some("default")),
            ("ap-1", "mysql", Some("leopard")),
            ("other", "web", None),
        ];
        for (last, (app, service, server)) in (1..).zip(all) {
            let label = |text: &str| text.parse::<Label>().expect("a label");
            let made = testing::container(Ipv4Addr::new(10, 240, 0, last));
            let (app, service, server) = (label(app), label(service), server.map(label));
            network.insert_container(Arc::new(Container { app, service, server, ..made }));
        }
        network
    }

    const WHOLE: &str = "services: { web: , api: , idle: }\ndatabases: { mysql: { servers: { default: , leopard: } } }";

    /// Name, containers, whether the name leads to them.
    fn left(after: Option<&str>) -> Vec<(String, usize, bool)> {
        let after = after.map(def);
        let found = leftovers(&network(), &def(WHOLE), after.as_ref()).into_iter();
        found.map(|one| (one.name, one.containers, one.is_named)).collect()
    }

    #[test]
    fn what_stays_defined_or_has_no_container_is_not_told() {
        assert_eq!(left(Some(WHOLE)), []);
        let without_idle = WHOLE.replace(", idle:", "");
        assert_eq!(left(Some(&without_idle)), []);
        assert_eq!(leftovers(&network(), &def("services: { idle: }"), None), []);
    }

    #[test]
    fn containers_of_a_service_that_is_taken_out_keep_their_name_and_further_servers_of_a_database_lose_it() {
        let without_api = WHOLE.replace(", api:", "");
        assert_eq!(left(Some(&without_api)), [("api".to_owned(), 1, true)]);
        let without_leopard = WHOLE.replace(", leopard:", "");
        assert_eq!(left(Some(&without_leopard)), [("mysql-leopard".to_owned(), 1, false)]);
        let all = [("api", 1, true), ("mysql-default", 1, true), ("mysql-leopard", 1, true), ("web", 2, true)];
        assert_eq!(left(None), all.map(|(name, count, named)| (name.to_owned(), count, named)));
    }

    #[test]
    fn containers_whose_name_becomes_something_else_lose_it() {
        let as_service = "services: { web: , api: , mysql: }";
        assert_eq!(left(Some(as_service)).len(), 2);
        assert!(left(Some(as_service)).iter().all(|(_, _, is_named)| !is_named));
        let as_database =
            "services: { web: }\ndatabases: { mysql: { servers: { default: , leopard: } }, api: { port: 1 } }";
        assert_eq!(left(Some(as_database)), [("api".to_owned(), 1, false)]);
    }
}
