//! What the parts of a file say together: their names and their ports do not collide.

use std::collections::BTreeMap;

use super::ports::Places;
use super::problem::{Mark, Report, shown};
use crate::model::{AppDef, DatabaseDef, Label};
use crate::services::claims::{Ledger, claims};

/// Services, databases and their servers are names of one kind: `mysql`, `mysql-leopard`.
pub fn names_differ(
    databases: &BTreeMap<Label, DatabaseDef>,
    services: BTreeMap<Label, Mark>,
    bases: BTreeMap<Label, Mark>,
    report: &mut Report,
) {
    let mut taken: BTreeMap<String, (String, Mark)> = BTreeMap::new();
    let own = |kind: &'static str| move |(name, at)| (Label::to_string(&name), format!("{kind} {name}"), at);
    let servers = databases.iter().flat_map(|(kind, database)| {
        let at = bases[kind];
        database.servers.keys().map(move |server| {
            let name = format!("{kind}-{server}");
            (name, format!("server {server} of database {kind}"), at)
        })
    });
    let all =
        (services.into_iter().map(own("service"))).chain(bases.clone().into_iter().map(own("database"))).chain(servers);
    for (name, whose, at) in all {
        if let Err(error) = name.parse::<Label>() {
            let what = format!("{whose} is called {}, which is no name", shown(&name));
            report.error(at, what, error, "shorten the server's name");
        } else if let Some((other, first)) = taken.get(&name) {
            let (at, other_line) = if *first > at { (*first, at.line) } else { (at, first.line) };
            let why = format!("in DNS both are {name}, {whose} and {other}; the first stands on line {other_line}");
            report.error(at, format!("{other} and {whose} have one name"), why, "rename one of the two");
        } else {
            taken.insert(name, (whose, at));
        }
    }
}

/// The ports of nodes that its services claim do not exclude each other.
pub fn claims_agree(def: &AppDef, places: &Places, report: &mut Report) {
    let mut ledger: Ledger<'_, Mark> = Ledger::default();
    let mut all: Vec<_> =
        claims(def).map(|claim| (places[&(claim.service.clone(), claim.container, claim.front)], claim)).collect();
    all.sort_by_key(|(at, _)| *at);
    for (at, claim) in all {
        if let Err(dispute) = ledger.enter(claim, at) {
            let why = format!("the first stands on line {}", dispute.place.line);
            report.error(at, &dispute, why, dispute.kind.hint());
        }
    }
}
