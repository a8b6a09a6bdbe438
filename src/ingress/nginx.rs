//! The routes as nginx reads them.
//!
//! Paths are relative to the folder that nginx is started in, so the text is the same wherever that is. It needs nginx 1.19.5.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::num::NonZeroU16;

use super::{Certificate, Endpoint, Plan, Route, ServiceKey, Subnet, Web};
use crate::model::ServerPattern;

/// Where the sockets are that lead to containers.
pub const UPSTREAM_DIR: &str = "up";
/// How long a worker of an older configuration may go on with what it has under way.
const SHUTDOWN_TIMEOUT: &str = "1h";
/// How soon a client may come back when no container is ready.
const RETRY_AFTER_S: u32 = 5;
/// Connections to each upstream that a worker keeps for further requests.
const KEPT_CONNECTIONS: u32 = 32;
/// The longest server name and what nginx adds to it, rounded to a power of two.
const NAMES_BUCKET_BYTES: u32 = 512;

/// How a listener is told to speak HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http2 {
    /// By a parameter of `listen`: before nginx 1.25.1.
    Parameter,
    /// By a directive of its own.
    Directive,
}

/// What the host and its operator decide.
#[derive(Debug, Clone)]
pub struct Layout<'a> {
    pub certificates: &'a [Certificate],
    pub http2: Http2,
    /// Whether the host has IPv6.
    pub ipv6: bool,
    /// Where the balancers are that stand in front, if some do: they say with the PROXY protocol who the client is.
    pub proxy_from: &'a [Subnet],
    /// Who runs the workers, where root starts them: a system account.
    pub user: Option<&'a str>,
    pub connections_max: u32,
}

/// The text, and the HTTPS names that it leaves out since no certificate covers them.
pub fn configuration(plan: &Plan, layout: &Layout<'_>) -> (String, Vec<(ServiceKey, Option<ServerPattern>)>) {
    let upstreams = Upstreams::of(plan);
    let mut text = Text::default();
    text.line("# Made by peerd from service files and from what is attached. Whatever is changed here is lost.");
    if let Some(user) = layout.user {
        text.line(format_args!("user {user};"));
    }
    text.line("daemon off;");
    text.line("worker_processes auto;");
    text.line(format_args!("worker_shutdown_timeout {SHUTDOWN_TIMEOUT};"));
    text.line("pid nginx.pid;");
    text.line("error_log stderr warn;");
    text.block("events", |text| text.line(format_args!("worker_connections {};", layout.connections_max)));
    let mut uncovered = Vec::new();
    text.block("http", |text| {
        if !layout.proxy_from.is_empty() {
            balancers(text, layout.proxy_from);
        }
        general(text, layout, plan.routes.len());
        if plan.routes.is_empty() {
            // Each server sets it, and the log names it: without a server it has to be there all the same.
            text.block("map $host $peerd_service", |text| text.line("default '';"));
        }
        for (name, upstream) in &upstreams.0 {
            upstream.write(text, name);
        }
        for ((port, web), routes) in by_port(&plan.routes) {
            Listener { layout, port, web }.write(text, &routes, &upstreams, &mut uncovered);
        }
    });
    (text.0, uncovered)
}

/// Who connects is a balancer, or is not: then what he says of himself counts for nothing.
fn balancers(text: &mut Text, from: &[Subnet]) {
    text.block("geo $peerd_balancer", |text| {
        text.line("default 0;");
        from.iter().for_each(|subnet| text.line(format_args!("{subnet} 1;")));
    });
    text.block("map $peerd_balancer $peerd_client", |text| {
        text.line("default $remote_addr;");
        text.line("1 $proxy_protocol_addr;");
    });
}

fn general(text: &mut Text, layout: &Layout<'_>, routes: usize) {
    for folder in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        text.line(format_args!("{folder}_temp_path temp/{folder};"));
    }
    text.line("server_tokens off;");
    text.line("default_type application/octet-stream;");
    let client = if layout.proxy_from.is_empty() { "$remote_addr" } else { "$peerd_client" };
    let fields = [
        ("time", "$time_iso8601"),
        ("client", client),
        ("host", "$host"),
        ("request", "$request"),
        ("service", "$peerd_service"),
        ("agent", "$http_user_agent"),
    ];
    let quoted: Vec<_> = fields.iter().map(|(key, value)| format!("\"{key}\":\"{value}\"")).collect();
    let numbers =
        "\"status\":$status,\"sent_bytes\":$bytes_sent,\"received_bytes\":$request_length,\"seconds\":$request_time";
    text.line(format_args!("log_format peerd escape=json '{{{},{numbers}}}';", quoted.join(",")));
    text.line("access_log logs/access.log peerd buffer=64k flush=1s;");
    text.line(format_args!("server_names_hash_bucket_size {NAMES_BUCKET_BYTES};"));
    text.line(format_args!("server_names_hash_max_size {};", (4 * routes).next_power_of_two().max(1024)));
    text.line("variables_hash_max_size 2048;");
    // A request that is refused before its server is found is of no service.
    text.line("uninitialized_variable_warn off;");
    // What a client may send, and how slowly, is for the application to decide.
    text.line("client_max_body_size 0;");
    text.line("proxy_http_version 1.1;");
    text.line("proxy_request_buffering off;");
    text.line("proxy_max_temp_file_size 0;");
    text.line("proxy_connect_timeout 10s;");
    for timeout in ["proxy_read_timeout", "proxy_send_timeout", "grpc_read_timeout", "grpc_send_timeout"] {
        text.line(format_args!("{timeout} 1h;"));
    }
    let forwarded = if layout.proxy_from.is_empty() { "$proxy_add_x_forwarded_for" } else { client };
    let headers = [
        ("Host", "$http_host"),
        ("X-Real-IP", client),
        ("X-Forwarded-For", forwarded),
        ("X-Forwarded-Host", "$http_host"),
        ("X-Forwarded-Port", "$server_port"),
        ("X-Forwarded-Proto", "$scheme"),
    ];
    for (name, value) in headers {
        text.line(format_args!("proxy_set_header {name} {value};"));
        text.line(format_args!("grpc_set_header {name} {value};"));
    }
    text.line("proxy_set_header Upgrade $http_upgrade;");
    text.line("proxy_set_header Connection $peerd_connection;");
    // WebSockets; any other connection to a container is kept for the next request.
    text.block("map $http_upgrade $peerd_connection", |text| {
        text.line("default upgrade;");
        text.line("'' '';");
    });
    text.block("map $http_content_type $peerd_grpc", |text| {
        text.line("default 0;");
        // With a subtype behind `+` or a parameter behind `;`. gRPC-Web is another protocol, for HTTP/1.1 too.
        text.line(r#""~^application/grpc($|[+;])" 1;"#);
    });
    text.line("ssl_protocols TLSv1.2 TLSv1.3;");
    text.line("ssl_session_cache shared:peerd:10m;");
    text.line("ssl_session_tickets off;");
}

/// Routes of one port, all of them HTTP or all HTTPS.
fn by_port(routes: &[Route]) -> BTreeMap<(NonZeroU16, Web), Vec<&Route>> {
    let mut ports: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for route in routes {
        ports.entry((route.port, route.web)).or_default().push(route);
    }
    ports
}

/// The containers behind routes, each list once, under a name that follows from it.
struct Upstreams(BTreeMap<String, Upstream>);

struct Upstream {
    to: Vec<Endpoint>,
    /// Whether gRPC comes by it as well.
    grpc: bool,
}

impl Upstreams {
    fn of(plan: &Plan) -> Self {
        let mut all = BTreeMap::new();
        for route in plan.routes.iter().filter(|route| !route.chosen.is_empty()) {
            let upstream = || Upstream { to: route.chosen.clone(), grpc: false };
            all.entry(Self::name(route)).or_insert_with(upstream).grpc |= route.web == Web::Https;
        }
        Self(all)
    }

    /// Of a service's port: the same in every configuration.
    fn name(route: &Route) -> String {
        let port = route.chosen.first().map_or(0, |endpoint| endpoint.at.port());
        let hash = blake3::hash(route.service.to_string().as_bytes());
        format!("s{}-{port}", &hash.to_hex()[..24])
    }
}

impl Upstream {
    fn write(&self, text: &mut Text, name: &str) {
        // A kept connection speaks HTTP/1.1 or HTTP/2, never both.
        for suffix in ["", "-grpc"].into_iter().take(1 + usize::from(self.grpc)) {
            text.block(format_args!("upstream {name}{suffix}"), |text| {
                for endpoint in &self.to {
                    text.line(format_args!(
                        "server unix:{UPSTREAM_DIR}/{} max_fails=1 fail_timeout=2s;",
                        endpoint.file_name()
                    ));
                }
                text.line(format_args!("keepalive {KEPT_CONNECTIONS};"));
            });
        }
    }
}

/// A port.
struct Listener<'a> {
    layout: &'a Layout<'a>,
    port: NonZeroU16,
    web: Web,
}

/// What a server block does with requests.
#[derive(Clone, Copy)]
enum Server<'a> {
    Route(&'a Route),
    /// No service has the name.
    Unmatched,
}

impl Listener<'_> {
    fn write(
        &self,
        text: &mut Text,
        routes: &[&Route],
        upstreams: &Upstreams,
        uncovered: &mut Vec<(ServiceKey, Option<ServerPattern>)>,
    ) {
        let default = routes.iter().find(|route| route.names.is_empty()).copied();
        let named = || routes.iter().filter(|route| !route.names.is_empty());
        let any = self.layout.certificates.first();
        let last = match default {
            Some(route) if self.web == Web::Http || any.is_some() => Server::Route(route),
            Some(route) => {
                uncovered.push((route.service.clone(), None));
                Server::Unmatched
            }
            None => Server::Unmatched,
        };
        self.server(text, (last, true), &[], any, upstreams);
        if self.web == Web::Http {
            return named().for_each(|route| {
                let names: Vec<_> = route.names.iter().collect();
                self.server(text, (Server::Route(route), false), &names, None, upstreams);
            });
        }
        for route in named() {
            let mut by_certificate: BTreeMap<&Certificate, Vec<&ServerPattern>> = BTreeMap::new();
            for name in &route.names {
                match Certificate::best(self.layout.certificates, name) {
                    Some(certificate) => by_certificate.entry(certificate).or_default().push(name),
                    None => uncovered.push((route.service.clone(), Some(name.clone()))),
                }
            }
            for (certificate, names) in by_certificate {
                self.server(text, (Server::Route(route), false), &names, Some(certificate), upstreams);
            }
        }
        let Some(default) = default else { return };
        // Whoever has no traffic_matches is served by every certificate there is, under the names that nobody else has.
        let taken: BTreeSet<_> = named().flat_map(|route| &route.names).collect();
        let mut seen = BTreeSet::new();
        for certificate in self.layout.certificates {
            let free = certificate.names.iter().filter(|name| !taken.contains(name));
            let names: Vec<_> = free.filter(|name| seen.insert(*name)).collect();
            if !names.is_empty() {
                self.server(text, (Server::Route(default), false), &names, Some(certificate), upstreams);
            }
        }
    }

    fn server(
        &self,
        text: &mut Text,
        (server, is_default): (Server<'_>, bool),
        names: &[&ServerPattern],
        certificate: Option<&Certificate>,
        upstreams: &Upstreams,
    ) {
        text.block("server", |text| {
            self.listen(text, is_default);
            match names {
                [] => text.line("server_name _;"),
                names => {
                    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
                    text.line(format_args!("server_name {};", names.join(" ")));
                }
            }
            match (self.web, certificate) {
                (Web::Http, _) => {}
                (Web::Https, Some(Certificate { file, .. })) => {
                    text.line(format_args!("ssl_certificate certificates/{file}.crt;"));
                    text.line(format_args!("ssl_certificate_key certificates/{file}.key;"));
                }
                (Web::Https, None) => text.line("ssl_reject_handshake on;"),
            }
            let service = match server {
                Server::Route(route) => route.service.to_string(),
                Server::Unmatched => String::new(),
            };
            text.line(format_args!("set $peerd_service '{service}';"));
            if !self.layout.proxy_from.is_empty() {
                // The connection is closed without an answer.
                text.block("if ($peerd_balancer = 0)", |text| text.line("return 444;"));
            }
            match server {
                Server::Unmatched => text.line("return 404;"),
                Server::Route(route) if route.chosen.is_empty() => {
                    text.line(format_args!("add_header Retry-After {RETRY_AFTER_S} always;"));
                    text.line("return 503;");
                }
                Server::Route(route) => self.pass(text, &Upstreams::name(route), upstreams),
            }
        });
    }

    fn listen(&self, text: &mut Text, is_default: bool) {
        let Self { layout, port, web } = self;
        let mut parameters = String::new();
        for (wanted, parameter) in [
            (is_default, "default_server"),
            (*web == Web::Https, "ssl"),
            (*web == Web::Https && layout.http2 == Http2::Parameter, "http2"),
            (!layout.proxy_from.is_empty(), "proxy_protocol"),
        ] {
            if wanted {
                parameters.push(' ');
                parameters += parameter;
            }
        }
        text.line(format_args!("listen {port}{parameters};"));
        if layout.ipv6 {
            text.line(format_args!("listen [::]:{port}{parameters};"));
        }
        if *web == Web::Https && layout.http2 == Http2::Directive {
            text.line("http2 on;");
        }
    }

    fn pass(&self, text: &mut Text, upstream: &str, upstreams: &Upstreams) {
        let grpc = self.web == Web::Https && upstreams.0.get(upstream).is_some_and(|upstream| upstream.grpc);
        text.block("location /", |text| {
            if grpc {
                text.line("error_page 418 = @grpc;");
                text.block("if ($peerd_grpc)", |text| text.line("return 418;"));
            }
            text.line(format_args!("proxy_pass http://{upstream};"));
        });
        if grpc {
            text.block("location @grpc", |text| text.line(format_args!("grpc_pass grpc://{upstream}-grpc;")));
        }
    }
}

/// Indented lines.
#[derive(Default)]
struct Text(String, usize);

impl Text {
    fn line(&mut self, line: impl fmt::Display) {
        let indent = 4 * self.1;
        writeln!(self.0, "{:indent$}{line}", "").expect("a String takes every text");
    }

    fn block(&mut self, head: impl fmt::Display, inside: impl FnOnce(&mut Self)) {
        self.line(format_args!("{head} {{"));
        self.1 += 1;
        inside(self);
        self.1 -= 1;
        self.line("}");
    }
}
