//! What a service file may say, what it may not, and what it is told then.

mod bounds;
mod laws;
mod refusals;
mod schema;

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use super::service::{DNS_BEHAVIOURS, LOAD_BALANCINGS};
use super::*;
use crate::model::{DatabaseDef, DnsBehaviour, LoadBalancing, PortDef, ServerPattern, ServiceDef};

fn label(text: &str) -> Label {
    text.parse().expect("a label")
}

/// Reads `text` as a file of application ap-1.
fn read(text: &str) -> Result<Parsed, Problems> {
    parse(text.as_bytes(), &Options { app: Some(label("ap-1")) })
}

fn good(text: &str) -> AppDef {
    let parsed = read(text).unwrap_or_else(|problems| panic!("{text}\n{}", told(problems.iter())));
    assert_eq!(parsed.warnings, [], "{text}");
    parsed.def
}

/// The problems as a person reads them.
fn told<'p>(problems: impl Iterator<Item = &'p Problem>) -> String {
    problems.map(|problem| problem.in_file("service.yml") + "\n").collect()
}

/// The ports of the one service of a file that has this list of them.
fn ports(list: &str) -> Vec<String> {
    let def = good(&format!("services: {{ web: {{ ports: {list} }} }}"));
    def.services["web"].ports.iter().map(PortDef::to_string).collect()
}

#[test]
fn the_example_of_the_reference_says_what_it_seems_to_say() {
    let def = good(
        r#"
application: { id: ap-1, name: Back Office, namespace: backoffice-workers }
services:
  web:
    ports: ["3000:80:443", "4000::8443", "5000", { container: 3001, http: 8080, tcp: 25, udp: 111, name: admin }]
    traffic_matches: ["app.your_domain.com", "*.anotherdomain.com"]
    dns_behaviour: versioned        # versioned | non-versioned
    load_balancing: roundrobin      # roundrobin | sticky | closest
databases:
  mysql: { primary: default, servers: { default: { port: 3306 }, leopard: { port: 3306 } } }
  mongodb: { port: 27017 }
"#,
    );
    assert_eq!((def.id.as_str(), def.title.as_deref()), ("ap-1", Some("Back Office")));
    assert_eq!(def.namespace.as_str(), "backoffice-workers");
    let web = &def.services["web"];
    let ports: Vec<String> = web.ports.iter().map(ToString::to_string).collect();
    let mapped = "{ container: 3001, http: 8080, tcp: 25, udp: 111, name: admin }";
    assert_eq!(ports, ["3000:80:443", mapped, "4000::8443", "5000"]);
    let names: Vec<&str> = web.traffic_matches.iter().map(ServerPattern::as_str).collect();
    assert_eq!(names, ["*.anotherdomain.com", "app.your_domain.com"]);
    assert_eq!(web.dns_behaviour, DnsBehaviour::Versioned);
    assert_eq!(web.load_balancing, LoadBalancing::RoundRobin);
    let mysql = &def.databases["mysql"];
    assert_eq!((mysql.primary.as_str(), mysql.servers.len()), ("default", 2));
    let mongodb = &def.databases["mongodb"];
    assert_eq!((mongodb.primary.as_str(), mongodb.servers["default"].get()), ("default", 27017));
    assert!(def.is_sound());
}

#[test]
fn a_plain_map_of_services_is_a_file_of_the_application_that_is_named_beside_it() {
    let text = "services:\n  web:\n    ports:\n    - container: 3000\n";
    assert_eq!(good(text).id.as_str(), "ap-1");
    assert_eq!(good(text).namespace.as_str(), "ap-1", "the namespace is the application's id unless given");
    let problems = parse(text.as_bytes(), &Options::default()).expect_err("of no application");
    assert_eq!((problems.first().at, problems.first().what.as_str()), (Mark::START, "no application"));
    let given = "application: { namespace: front, name: Shop }\nservices: { web: }";
    assert_eq!(good(given).namespace.as_str(), "front");
}

#[test]
fn an_application_called_like_a_public_suffix_needs_a_namespace_of_its_own() {
    let shop = Options { app: Some(label("shop")) };
    let plain = parse(b"services: { web: }", &shop).expect_err("hides example.shop");
    assert!(plain.first().what.contains("the public suffix shop"), "{plain:?}");
    let given = parse(b"application: { namespace: my-shop }\nservices: { web: }", &shop).expect("a file");
    assert_eq!((given.def.id.as_str(), given.def.namespace.as_str()), ("shop", "my-shop"));
}

#[test]
fn a_service_without_directives_has_the_defaults() {
    for text in ["services: { api: }", "services: { api: {} }", "services:\n  api: ~\n", "services:\n  api:\n"] {
        assert_eq!(good(text).services["api"], ServiceDef::default(), "{text}");
    }
    let text = "services: { api: { ports: [], dns_behaviour: non-versioned, load_balancing: closest } }";
    let api = &good(text).services["api"];
    assert_eq!((api.dns_behaviour, api.load_balancing), (DnsBehaviour::NonVersioned, LoadBalancing::Closest));
}

#[test]
fn a_port_may_be_written_in_each_of_these_ways() {
    for (list, meant) in [
        ("[3000]", "3000"),
        ("['3000']", "3000"),
        ("[\"3000\"]", "3000"),
        ("[3000:80]", "3000:80"),
        ("['3000:80:']", "3000:80"),
        ("[3000:80:443]", "3000:80:443"),
        ("[4000::8443]", "4000::8443"),
        ("[1:65535]", "1:65535"),
        ("[{ container: 3000 }]", "3000"),
        ("[{ container: '3000', http: \"80\" }]", "3000:80"),
        ("[{ container: 3000, https: 443 }]", "3000::443"),
        ("[{ container: 3000, tcp: 25, udp: 25 }]", "{ container: 3000, tcp: 25, udp: 25 }"),
        ("[{ container: 3000, name: Admin }]", "{ container: 3000, name: admin }"),
    ] {
        assert_eq!(ports(list), [meant], "{list}");
    }
}

/// In YAML 1.1 the first is 180,080 seconds past midnight, the second 3,000 h.
#[test]
fn a_pair_of_numbers_with_a_colon_is_a_pair_of_ports_and_no_time_of_day() {
    assert_eq!(ports("[50:20]"), ["50:20"]);
    assert_eq!(ports("[50:20:59]"), ["50:20:59"]);
}

#[test]
fn entries_of_one_container_port_are_merged() {
    assert_eq!(ports("['3000:80', '3000::443']"), ["3000:80:443"]);
    assert_eq!(ports("[3000, 3000, '3000:80', '3000:80']"), ["3000:80"]);
    assert_eq!(
        ports("['3000:80', { container: 3000, http: 80, udp: 53, name: a }]"),
        ["{ container: 3000, http: 80, udp: 53, name: a }"]
    );
}

#[test]
fn colons_with_nothing_behind_them_open_a_port_in_the_private_network_only_and_are_remarked_upon() {
    for list in ["'4000::'", "'4000:'"] {
        let parsed = read(&format!("services: {{ web: {{ ports: [{list}] }} }}")).expect("a file");
        assert_eq!(parsed.def.services["web"].ports[0].to_string(), "4000");
        assert_eq!(parsed.warnings.len(), 1, "{list}");
        assert_eq!(parsed.warnings[0].at, Mark { line: 1, column: 28 });
        assert!(parsed.warnings[0].what.contains("in the private network only"), "{list}");
    }
}

#[test]
fn what_matches_no_traffic_is_remarked_upon() {
    for (text, what) in [
        ("{ ports: [3000], traffic_matches: [a.com] }", "traffic_matches of service web match nothing"),
        ("{ ports: ['3000:80'], traffic_matches: [] }", "traffic_matches is empty"),
    ] {
        let parsed = read(&format!("services: {{ web: {text} }}")).expect("a file");
        assert_eq!(parsed.warnings.iter().map(|problem| problem.what.as_str()).collect::<Vec<_>>(), [what]);
    }
}

#[test]
fn a_file_that_defines_nothing_is_remarked_upon() {
    for text in ["services:", "services: {}", "databases: ~\nservices:"] {
        let parsed = read(text).expect("a file");
        assert_eq!(parsed.def, AppDef::new(label("ap-1")));
        assert_eq!(parsed.warnings[0].what, "the file defines no service and no database");
    }
}

#[test]
fn services_share_a_port_if_their_server_names_differ_and_one_has_none() {
    let def = good(
        "services:
          web: { ports: ['3000:80:443'], traffic_matches: [a.com, '*.a.com'] }
          api: { ports: ['3000:80:443', '4000:8080'], traffic_matches: [x.a.com] }
          rest: { ports: ['3000:80'] }",
    );
    assert_eq!(def.services.len(), 3);
}

#[test]
fn a_database_of_a_known_type_knows_its_port_and_of_one_server_its_primary() {
    let def = good(
        "databases:
          mysql:
          postgresql: {}
          redis: { servers: { cache: } }
          mongodb: { servers: { default: { port: 1 }, other: } }
          foo: { port: '65535' }",
    );
    let seen: Vec<String> = def.databases.iter().map(|(kind, def)| format!("{kind} {def:?}")).collect();
    let expected = [
        r#"foo DatabaseDef { primary: "default", servers: {"default": 65535} }"#,
        r#"mongodb DatabaseDef { primary: "default", servers: {"default": 1, "other": 27017} }"#,
        r#"mysql DatabaseDef { primary: "default", servers: {"default": 3306} }"#,
        r#"postgresql DatabaseDef { primary: "default", servers: {"default": 5432} }"#,
        r#"redis DatabaseDef { primary: "cache", servers: {"cache": 6379} }"#,
    ];
    assert_eq!(seen, expected);
    assert!(WELL_KNOWN_PORTS.is_sorted());
}

#[test]
fn words_of_yaml_are_names_once_they_are_quoted() {
    let def = good("services: { 'on': , \"null\": , \"no\": , y: }");
    assert_eq!(def.services.keys().map(Label::as_str).collect::<Vec<_>>(), ["no", "null", "on", "y"]);
}

#[test]
fn marks_line_ends_comments_and_document_starts_change_nothing() {
    let plain = good("services:\n  web:\n    ports: [80]\n");
    for text in [
        "\u{feff}services:\n  web:\n    ports: [80]\n",
        "services:\r\n  web:\r\n    ports: [80]\r\n",
        "%YAML 1.2\n---\nservices:\n  web:\n    ports: [80]\n...\n",
        "# a comment\nservices: # more\n  web: {ports: [80]}",
        "{\"services\": {\"web\": {\"ports\": [80]}}}",
        "services:\n  web:\n    ports:\n    - 80",
        "services:\n  web:\n    ports:\n    - |-\n      80\n",
    ] {
        assert_eq!(good(text), plain, "{text:?}");
    }
}

#[test]
fn an_alias_repeats_what_its_anchor_stands_before() {
    let def = good("services: { web: &web { ports: [80], load_balancing: sticky }, api: *web }");
    assert_eq!(def.services["api"], def.services["web"]);
}
