//! Answers for people: plain tables, readable without colour.

use std::fmt::Write as _;
use std::io::IsTerminal;

use peerd::control::{
    Applied, ChangeRow, ContainerDetail, ContainerRow, DnsAnswer, DnsExplanation, DnsRecord, DropRow, EventRow,
    NetworkDetail, NetworkRow, NodeRow, ServiceDetail, ServiceRow, Status,
};

use crate::cli::Color;

/// Writes colours, or leaves them out.
#[derive(Debug, Clone, Copy)]
pub struct Paint(bool);

impl Paint {
    /// Colours as the person asked for; `auto` means on a terminal, unless NO_COLOR is set (no-color.org).
    pub fn new(color: Color) -> Self {
        Self(match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        })
    }

    /// Whether there are colours.
    pub fn is_on(self) -> bool {
        self.0
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.wrap("31", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// White on black, whatever the terminal's own colours are.
    pub fn white_on_black(self, text: &str) -> String {
        self.wrap("97;40", text)
    }
}

/// Text that came from another node, with nothing in it that a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Columns aligned to their widest cell; the last one is left as it is.
pub fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = rows.into_iter().map(|row| row.map(|cell| printable(&cell))).collect();
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).chain([head[i].len()]).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for row in std::iter::once(&head.map(str::to_owned)).chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}   ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

pub fn networks(rows: &[NetworkRow]) -> String {
    table(
        ["NAME", "ID", "VNI", "CONTAINERS", "GRANTED"],
        rows.iter().map(|row| {
            let vni = format!("{}{}", row.vni, if row.internal { " (internal)" } else { "" });
            [or_dash(row.name.as_deref()), row.id.clone(), vni, row.containers.to_string(), row.granted.join(" ")]
        }),
    )
}

pub fn network(detail: &NetworkDetail) -> String {
    let mut out = String::new();
    let generation = detail.generation.map_or_else(|| "none yet".to_owned(), |g| g.to_string());
    for (key, value) in [
        ("name", or_dash(detail.row.name.as_deref())),
        ("id", detail.row.id.clone()),
        ("vni", detail.row.vni.to_string()),
        ("internal", if detail.row.internal { "yes" } else { "no" }.to_owned()),
        ("creator", detail.creator.clone()),
        ("secret", format!("generation {generation}, {}", if detail.secret_held { "held" } else { "not held yet" })),
        ("addresses", format!("{} of {} in use", detail.addresses_used, peerd::model::CONTAINER_COUNT_MAX)),
    ] {
        let _ = writeln!(out, "{key:<11} {value}");
    }
    out.push('\n');
    out.push_str(&table(
        ["NODE", "ROLE", "ADDRESSES"],
        detail
            .grants
            .iter()
            .map(|g| [g.name.clone().unwrap_or_else(|| g.node.clone()), g.role.clone(), g.addresses.to_string()]),
    ));
    if !detail.apps.is_empty() {
        out.push('\n');
        let kinds = detail.apps.iter().flat_map(|(app, kinds)| kinds.iter().map(move |(kind, n)| (app, kind, n)));
        out.push_str(&table(
            ["APP", "TYPE", "CONTAINERS"],
            kinds.map(|(app, kind, n)| [app.clone(), kind.clone(), n.to_string()]),
        ));
    }
    out
}

pub fn nodes(rows: &[NodeRow]) -> String {
    table(
        ["NAME", "ID", "STATE", "SIGNER", "ENDPOINTS"],
        rows.iter().map(|row| {
            let signer = row.signer.map_or_else(|| "-".to_owned(), |n| n.to_string());
            [row.name.clone(), row.id.chars().take(12).collect(), row.state.clone(), signer, row.endpoints.join(" ")]
        }),
    )
}

pub fn containers(rows: &[ContainerRow]) -> String {
    table(
        ["ID", "NETWORK", "ADDRESS", "NAME", "NODE", "VERSION", "STATE"],
        rows.iter().map(|row| {
            let name = format!("{}.{}.{}", row.number, row.kind, row.app);
            let version = or_dash(row.version.as_deref());
            [
                row.id.clone(),
                row.network.clone(),
                row.address.clone(),
                name,
                row.node.clone(),
                version,
                row.state.clone(),
            ]
        }),
    )
}

pub fn container(detail: &ContainerDetail) -> String {
    let row = &detail.row;
    let mut lines = vec![
        ("id", row.id.clone()),
        ("name", detail.hostname.clone()),
        ("address", row.address.clone()),
        ("network", format!("{} {}", row.network, detail.network_id)),
        ("node", row.node.clone()),
        (
            "service",
            row.server.as_ref().map_or_else(|| row.service.clone(), |server| format!("{}-{server}", row.service)),
        ),
        ("version", or_dash(row.version.as_deref())),
        ("state", row.state.clone()),
        ("key", row.public_key.clone()),
    ];
    if let Some(local) = &detail.local {
        lines.extend([
            ("interface", format!("{}, MTU {} bytes", local.ifname, local.mtu_bytes)),
            ("namespace", local.netns.clone()),
            ("received", format!("{} packets, {} bytes", local.rx_packets, local.rx_bytes)),
            ("sent", format!("{} packets, {} bytes", local.tx_packets, local.tx_bytes)),
        ]);
        lines.extend(local.waits_for.iter().map(|when| ("waits for", when.clone())));
        lines.extend(local.not_ready.iter().map(|reason| ("not ready", reason.clone())));
        lines.extend(local.detached_in_s.iter().map(|left_s| ("draining", format!("{left_s} s left"))));
    }
    lines.iter().map(|(key, value)| format!("{key:<11} {}\n", printable(value))).collect()
}

/// A line for each difference, the sign in front.
pub fn changes(applied: &Applied) -> String {
    let sign = |op: &str| match op {
        "add" => '+',
        "remove" => '-',
        _ => '~',
    };
    let line = |ChangeRow { op, subject, detail }: &ChangeRow| {
        let detail = detail.as_ref().map_or_else(String::new, |detail| format!(": {detail}"));
        printable(&format!("{} {subject}{detail}", sign(op))) + "\n"
    };
    applied.changes.iter().map(line).collect()
}

pub fn services(rows: &[ServiceRow]) -> String {
    table(
        ["SERVICE", "APP", "NAMESPACE", "NETWORK", "KIND", "READY", "DNS", "PORTS"],
        rows.iter().map(|row| {
            let directives = match row.kind.as_str() {
                "database" => "-".to_owned(),
                _ => format!("{}, {}", row.dns_behaviour, row.load_balancing),
            };
            [
                row.name.clone(),
                row.app.clone(),
                or_dash(row.namespace.as_deref()),
                row.network.clone(),
                row.kind.clone(),
                format!("{}/{}", row.ready, row.containers),
                directives,
                or_dash(Some(row.ports.join(" ").as_str()).filter(|ports| !ports.is_empty())),
            ]
        }),
    )
}

pub fn service(detail: &ServiceDetail) -> String {
    let row = &detail.row;
    let defined = if row.defined { "by a service file" } else { "by its containers only" };
    let mut lines = vec![
        (row.kind.as_str(), row.name.clone()),
        ("application", row.app.clone()),
        ("network", row.network.clone()),
        ("declared", defined.to_owned()),
    ];
    if row.kind == "service" {
        lines.push(("dns", format!("{}, {}", row.dns_behaviour, row.load_balancing)));
    }
    lines.extend(row.ports.iter().map(|port| ("port", port.clone())));
    lines.extend(row.traffic_matches.iter().map(|name| ("match", name.clone())));
    lines.extend(detail.names.iter().map(|name| ("name", format!("{name} within {}", row.app))));
    lines.extend(detail.names_elsewhere.iter().map(|name| ("name", name.clone())));
    lines.extend(detail.loopback.iter().map(|address| ("loopback", format!("{address} on this node"))));
    let mut out: String = lines.iter().map(|(key, value)| format!("{key:<11} {}\n", printable(value))).collect();
    if !detail.containers_serving.is_empty() {
        let _ = write!(out, "\n{}", containers(&detail.containers_serving));
    }
    out
}

/// The records as a zone file has them.
pub fn records(answer: &DnsAnswer) -> String {
    let line = |record: &DnsRecord| {
        let DnsRecord { name, ttl_s, kind, data } = record;
        format!("{}\n", printable(&format!("{name} {ttl_s} IN {kind} {data}")))
    };
    answer.answers.iter().map(line).collect()
}

pub fn explanation(told: &DnsExplanation) -> String {
    let steps: String = told.steps.iter().map(|step| format!("  {}\n", printable(step))).collect();
    format!("{}\n{steps}", printable(&told.verdict))
}

pub fn drops(rows: &[DropRow]) -> String {
    let rows: Vec<&DropRow> = rows.iter().filter(|row| row.packets > 0).collect();
    if rows.is_empty() {
        return "no packet was dropped\n".to_owned();
    }
    table(
        ["REASON", "PACKETS", "WHAT IT MEANS"],
        rows.iter().map(|row| [row.reason.clone(), row.packets.to_string(), row.explanation.clone()]),
    )
}

/// One line; the time is UTC.
pub fn event(event: &EventRow) -> String {
    let s = event.time_unix_ms / 1000;
    let (hour, minute, second) = (s / 3600 % 24, s / 60 % 60, s % 60);
    let (subject, message) = (printable(&event.subject), printable(&event.message));
    format!("{hour:02}:{minute:02}:{second:02}Z  {:<18}  {subject}  {message}\n", printable(&event.event))
}

pub fn status(status: &Status, paint: Paint) -> String {
    let mut out = String::new();
    let node = &status.node;
    let _ = writeln!(
        out,
        "{} {} on {}, up {}",
        paint.bold(&printable(&node.name)),
        &node.id.get(..12).unwrap_or(&node.id),
        node.listen,
        humantime::format_duration(std::time::Duration::from_secs(node.uptime_s))
    );
    match &status.cluster {
        Some(cluster) => {
            let _ = writeln!(out, "cluster {}", &cluster.get(..12).unwrap_or(cluster));
        }
        None => out.push_str("in no cluster yet: `peerctl init` starts one, `peerctl join -` enters one\n"),
    }
    if !status.networks.is_empty() {
        let _ = write!(out, "\n{}", networks(&status.networks));
    }
    if !status.peers.is_empty() {
        let rows = status.peers.iter().map(|peer| {
            let rtt = peer.rtt_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2}"));
            let (rx, tx) = (peer.rx_bytes.to_string(), peer.tx_bytes.to_string());
            [peer.name.clone(), peer.state.clone(), or_dash(peer.path.as_deref()), rtt, rx, tx]
        });
        let _ = write!(out, "\n{}", table(["PEER", "STATE", "PATH", "RTT ms", "RX bytes", "TX bytes"], rows));
    }
    if !status.data_plane.is_empty() {
        let facts: Vec<String> = status.data_plane.iter().map(|(key, value)| format!("{key} {value}")).collect();
        let _ = writeln!(out, "\ndata plane: {}", facts.join(", "));
    }
    out.push('\n');
    if status.health.is_empty() {
        let _ = writeln!(out, "health: {}", paint.good("ok"));
    }
    for row in &status.health {
        let severity = if row.severity == "error" { paint.bad("error") } else { paint.bold(&row.severity) };
        let _ = writeln!(
            out,
            "health: {severity}: {}\n  {}",
            printable(&row.message),
            paint.dim(&format!("try: {}", row.hint))
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_no_line_ends_in_spaces() {
        let text = table(["A", "LONGER"], [["wide cell".into(), "x".into()], ["".into(), "".into()]]);
        assert_eq!(text, "A           LONGER\nwide cell   x\n\n");
    }

    #[test]
    fn what_another_node_is_called_cannot_steer_the_terminal() {
        assert!(!table(["A"], [["\x1b[2Jevil".into()]]).contains('\x1b'));
    }

    fn network() -> NetworkRow {
        NetworkRow {
            id: "pn-2b7ff109".into(),
            name: Some("demo".into()),
            vni: 65_536,
            internal: true,
            granted: vec!["a".into(), "b".into()],
            containers: 2,
        }
    }

    #[test]
    fn networks_containers_and_nodes_are_tables() {
        insta::assert_snapshot!(networks(&[network()]));
        let container = |number: u32, version: Option<&str>| ContainerRow {
            id: format!("{number:016x}"),
            network: "demo".into(),
            vni: 65_536,
            node: "a".into(),
            address: format!("10.240.0.{number}"),
            app: "shop".into(),
            kind: "web".into(),
            number,
            version: version.map(Into::into),
            service: "web".into(),
            server: None,
            state: "ready".into(),
            public_key: "mga1NPqzLqgPdv5S8XR3RcTpdVnbsdyAoHjJeAZx9F0=".into(),
        };
        insta::assert_snapshot!(containers(&[container(1, Some("v2")), container(12, None)]));
        let node = |name: &str, state: &str, signer| NodeRow {
            id: "8de1a406b074eafff8af036444b32facd8fca3fef369ab3f4d92537811bd0a23".into(),
            name: name.into(),
            signer,
            state: state.into(),
            endpoints: vec!["192.0.2.1:51790".into(), "[2001:db8::1]:51790".into()],
        };
        insta::assert_snapshot!(nodes(&[node("a", "self", Some(1)), node("node-2", "unreachable", None)]));
    }

    #[test]
    fn services_are_a_table_and_one_is_told_whole() {
        let row = |name: &str, kind: &str, ports: &[&str]| ServiceRow {
            name: name.into(),
            network: "demo".into(),
            app: "shop".into(),
            namespace: Some("front".into()).filter(|_| kind == "service"),
            kind: kind.into(),
            defined: kind == "service",
            ports: ports.iter().map(|&port| port.into()).collect(),
            traffic_matches: vec!["app.example.com".into()],
            dns_behaviour: "versioned".into(),
            load_balancing: "sticky".into(),
            containers: 3,
            ready: 2,
        };
        let web = row("web", "service", &["3000:80:443", "{ container: 53, udp: 53 }"]);
        insta::assert_snapshot!(services(&[
            web.clone(),
            row("mysql-default", "database", &["3306"]),
            row("a", "service", &[])
        ]));
        let names_elsewhere = vec!["web.front".into(), "web.front.svc.private-network.internal".into()];
        let detail = ServiceDetail {
            row: web,
            names: vec!["web".into()],
            names_elsewhere,
            loopback: None,
            containers_serving: vec![],
        };
        insta::assert_snapshot!(service(&detail));
    }

    #[test]
    fn a_difference_is_a_line_that_cannot_steer_the_terminal() {
        let change = |op: &str, detail: Option<&str>| ChangeRow {
            op: op.into(),
            subject: "service web".into(),
            detail: detail.map(Into::into),
        };
        let applied = Applied {
            network: "demo".into(),
            app: "shop".into(),
            namespace: "front".into(),
            dry_run: true,
            changes: vec![
                change("add", None),
                change("change", Some("port 1 -> \x1b[2J")),
                change("remove", Some("port 2")),
            ],
        };
        let told = "+ service web\n~ service web: port 1 -> \u{fffd}[2J\n- service web: port 2\n";
        assert_eq!(changes(&applied), told);
    }

    #[test]
    fn status_says_what_is_wrong_and_what_to_try_without_colours() {
        let status = Status {
            node: peerd::control::NodeSelf {
                id: "8de1a406b074eafff8af036444b32facd8fca3fef369ab3f4d92537811bd0a23".into(),
                name: "a".into(),
                listen: "[::]:51790".into(),
                uptime_s: 3725,
            },
            cluster: Some("96494892739a7e179e05fba54e7df4dea26f77f40c637abce578f4061efd40b3".into()),
            networks: vec![network()],
            peers: vec![peerd::control::PeerRow {
                node: "9954bac11d90".into(),
                name: "b".into(),
                state: "connected".into(),
                path: Some("192.0.2.2:51790".into()),
                rtt_ms: Some(0.42),
                mtu_bytes: 1408,
                rx_bytes: 4096,
                tx_bytes: 1 << 30,
            }],
            data_plane: [("socket buffers".to_owned(), "receive 212992 bytes".to_owned())].into(),
            health: vec![peerd::control::HealthRow {
                code: "peer-unreachable".into(),
                severity: "error".into(),
                subject: None,
                message: "node c is unreachable".into(),
                hint: "does UDP reach its endpoints? peerctl node ls".into(),
            }],
        };
        insta::assert_snapshot!(super::status(&status, Paint(false)));
    }
}
