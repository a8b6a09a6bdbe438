//! `ingress`: the way in from outside.

use std::fmt::Write as _;
use std::path::Path;

use peerd::control::{
    Authority, CertificateRow, ExitStatus, Failure, IngressRoute, IngressStatus, PrivateKey, Request,
};

use super::Session;
use crate::cli::{Cert, Ingress};
use crate::render::table;

/// A chain and its key fit into a request with this, and no certificate is as long.
const FILE_LEN_MAX: u64 = 60 << 10;
/// In the place of where balancers are.
const NOWHERE: &str = "none";

pub fn ingress(session: &Session, ingress: Ingress) -> Result<(), Failure> {
    let nothing = |_: &serde_json::Value| String::new();
    match ingress {
        Ingress::Status => {
            session.show("ingress.status", &Request::IngressStatus, |status: &IngressStatus| status_text(status))
        }
        Ingress::Routes => {
            session.show("ingress.routes", &Request::IngressRoutes, |routes: &Vec<IngressRoute>| routes_text(routes))
        }
        Ingress::Enable { proxy_protocol } => {
            let nowhere = |from: &[String]| matches!(from, [one] if one == NOWHERE);
            let proxy_from = proxy_protocol.map(|from| if nowhere(&from) { Vec::new() } else { from });
            session.show("ingress.enable", &Request::IngressEnable { proxy_from }, nothing)
        }
        Ingress::Disable => session.show("ingress.disable", &Request::IngressDisable, nothing),
        Ingress::Cert(Cert::Ls) => {
            session.show("ingress.cert.ls", &Request::IngressCertLs, |rows: &Vec<CertificateRow>| {
                rows.iter().map(names).collect()
            })
        }
        Ingress::Cert(Cert::Add { cert, key }) => {
            let request = Request::IngressCertAdd { chain: read(&cert)?, key: PrivateKey(read(&key)?) };
            session.show("ingress.cert.add", &request, names)
        }
        Ingress::Cert(Cert::Dev { names: wanted }) => {
            session.show("ingress.cert.dev", &Request::IngressCertDev { names: wanted }, |row: &CertificateRow| {
                session.narrate("who is to trust it takes the authority's certificate: peerctl ingress cert ca");
                names(row)
            })
        }
        Ingress::Cert(Cert::Rm { name }) => session.show("ingress.cert.rm", &Request::IngressCertRm { name }, nothing),
        Ingress::Cert(Cert::Ca) => {
            session.show("ingress.cert.ca", &Request::IngressCertCa, |authority: &Authority| authority.pem.clone())
        }
    }
}

fn names(row: &CertificateRow) -> String {
    row.names.join(" ") + "\n"
}

fn read(path: &Path) -> Result<String, Failure> {
    let refuse = |status, why: &dyn std::fmt::Display| {
        let what = format!("cannot read {}", path.display());
        Failure::new(status, what, why, "give a PEM file: it begins with -----BEGIN")
    };
    let len = std::fs::metadata(path).map_err(|error| refuse(ExitStatus::NotFound, &error))?.len();
    if len > FILE_LEN_MAX {
        return Err(refuse(ExitStatus::InvalidFile, &format_args!("it is longer than {FILE_LEN_MAX} bytes")));
    }
    std::fs::read_to_string(path).map_err(|error| refuse(ExitStatus::InvalidFile, &error))
}

fn status_text(status: &IngressStatus) -> String {
    let mut out = String::new();
    let role = match (status.enabled, status.running_s, &status.fault) {
        (false, ..) => "not enabled".to_owned(),
        (true, Some(s), None) => format!("serving for {s} s"),
        (true, Some(_), Some(fault)) => format!("serving what it had: {fault}"),
        (true, None, fault) => format!("not serving: {}", fault.as_deref().unwrap_or("nginx is being started")),
    };
    let reloads = match status.last_reload_ms {
        Some(ms) => format!("{}, the last took {ms} ms", status.reloads),
        None => status.reloads.to_string(),
    };
    let client = match status.proxy_from.as_slice() {
        [] => "whoever connects".to_owned(),
        from => format!("by the PROXY protocol, from {}", from.join(", ")),
    };
    for (key, value) in [
        (
            "nginx",
            format!("{role}{}", status.nginx_version.as_ref().map_or_else(String::new, |v| format!(" (nginx {v})"))),
        ),
        ("routes", status.routes.to_string()),
        ("reloads", reloads),
        ("certificates", status.certificates.to_string()),
        ("client", client),
    ] {
        let _ = writeln!(out, "{key:<13} {value}");
    }
    if !status.gateways.is_empty() {
        out.push('\n');
        out += &table(
            ["GATEWAY", "STREAMS", "OPENED", "REFUSED", "TIMED OUT", "RESET", "RX BYTES", "TX BYTES"],
            status.gateways.iter().map(|row| {
                let numbers =
                    [row.streams, row.opened, row.refused, row.timed_out, row.reset, row.rx_bytes, row.tx_bytes];
                let [a, b, c, d, e, f, g] = numbers.map(|n| n.to_string());
                [row.network.clone(), a, b, c, d, e, f, g]
            }),
        );
    }
    for problem in &status.problems {
        let _ = write!(out, "\nleft out: {problem}");
    }
    if !status.problems.is_empty() {
        out.push('\n');
    }
    out
}

fn routes_text(routes: &[IngressRoute]) -> String {
    table(
        ["LISTEN", "FOR", "SERVICE", "REQUESTS", "ERRORS", "TO"],
        routes.iter().map(|route| {
            let names = if route.names.is_empty() { "all others".to_owned() } else { route.names.join(" ") };
            let names = if ["http", "https"].contains(&route.protocol.as_str()) { names } else { "-".to_owned() };
            let to = match (&route.error, route.to.is_empty()) {
                (Some(error), _) => format!("not listened on: {error}"),
                (None, true) => "no container is ready".to_owned(),
                (None, false) => route.to.join(" "),
            };
            [
                format!("{} {}", route.protocol, route.listen),
                names,
                format!("{}/{}/{}", route.network, route.app, route.service),
                route.requests.to_string(),
                route.errors.to_string(),
                to,
            ]
        }),
    )
}
