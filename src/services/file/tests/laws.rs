//! What holds for all bytes and for all definitions.

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::services::diff;

/// A definition as a file that a person could have written.
fn rendered(def: &AppDef) -> String {
    let mut text = format!("application:\n  id: {:?}\n  namespace: {:?}\n", def.id, def.namespace);
    if let Some(title) = &def.title {
        text += &format!("  name: {title:?}\n");
    }
    text += "services:\n";
    for (name, service) in &def.services {
        text += &format!("  {name:?}:\n    dns_behaviour: {}\n", service.dns_behaviour);
        text += &format!("    load_balancing: {}\n    ports:\n", service.load_balancing);
        text.truncate(text.len() - if service.ports.is_empty() { "    ports:\n".len() } else { 0 });
        for port in &service.ports {
            text += &format!("    - {port}\n");
        }
        if !service.traffic_matches.is_empty() {
            text += &format!("    traffic_matches: {:?}\n", service.traffic_matches);
        }
    }
    text += "databases:\n";
    for (kind, database) in &def.databases {
        text += &format!("  {kind:?}:\n    primary: {:?}\n    servers:\n", database.primary);
        for (server, port) in &database.servers {
            text += &format!("      {server:?}: {{ port: {port} }}\n");
        }
    }
    text
}

fn name() -> impl Strategy<Value = Label> {
    "[a-z][a-z0-9]{0,8}x".prop_map(|text| label(&text))
}

fn port() -> impl Strategy<Value = NonZeroU16> {
    (1..=u16::MAX).prop_map(|port| NonZeroU16::new(port).expect("not 0"))
}

prop_compose! {
    fn port_def()(
        container in port(), http in proptest::option::of(port()), udp in proptest::option::of(port()),
        name in proptest::option::of(name()),
    ) -> PortDef {
        PortDef { container, http, https: None, tcp: None, udp, name }
    }
}

prop_compose! {
    fn service_def()(
        ports in vec(port_def(), 0..3), names in btree_set("[a-z]{1,5}\\.example", 0..3),
        versioned: bool, balancing in 0..3usize,
    ) -> ServiceDef {
        ServiceDef {
            ports,
            traffic_matches: names.iter().map(|name| name.parse().expect("a server name")).collect(),
            dns_behaviour: DNS_BEHAVIOURS[usize::from(versioned)].1,
            load_balancing: LOAD_BALANCINGS[balancing].1,
        }
    }
}

prop_compose! {
    /// With nothing in it that one file cannot have, but for ports of nodes that exclude each other.
    fn app_def()(
        services in btree_map(name(), service_def(), 1..4),
        databases in btree_map("[a-z]{3,8}y".prop_map(|text| label(&text)), btree_map(name(), port(), 1..3), 0..3),
        title in proptest::option::of("[ -~]{1,20}"), namespace in name(),
    ) -> AppDef {
        let database = |servers: BTreeMap<Label, NonZeroU16>| {
            DatabaseDef { primary: servers.keys().next().expect("one at least").clone(), servers }
        };
        let mut def = AppDef { title, namespace, ..AppDef::new(label("ap-1")) };
        def.databases = databases.into_iter().map(|(kind, servers)| (kind, database(servers))).collect();
        def.services = services;
        def
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes, &Options::default());
    }

    #[test]
    fn any_text_that_looks_like_yaml_is_read_without_a_panic(
        pieces in vec(
            prop_oneof![
                Just("services: "), Just("databases: "), Just("application: "), Just("web: "), Just("ports: "),
                Just("- "), Just("["), Just("]"), Just("{"), Just("}"), Just(", "), Just(": "), Just("\n"), Just("\n  "),
                Just("\n    "), Just("\""), Just("'"), Just("&a "), Just("*a "), Just("!t "), Just("|\n"), Just("? "),
                Just("3000:80"), Just("::"), Just("#"), Just("---\n"), Just("...\n"), Just("\t"), Just("~"), Just("%YAML"),
            ],
            0..40,
        )
    ) {
        if let Err(problems) = read(&pieces.concat()) {
            prop_assert!(problems.iter().is_sorted_by_key(|problem| problem.at));
        }
    }

    #[test]
    fn a_good_file_with_a_byte_changed_is_read_without_a_panic(at in 0usize..200, to in any::<u8>()) {
        let mut bytes = b"application: { id: ap-1 }\nservices:\n  web: { ports: ['3000:80', { container: 1, udp: 2 }] }\n\
            databases:\n  mysql: { primary: a, servers: { a: , b: { port: 3306 } } }\n".to_vec();
        let len = bytes.len();
        bytes[at % len] = to;
        if let Ok(parsed) = parse(&bytes, &Options::default()) {
            prop_assert!(parsed.def.is_sound());
        }
    }

    #[test]
    fn a_definition_written_as_a_file_is_read_as_the_same_definition(def in app_def()) {
        // The definitions are made without regard to each other; a file with ports that exclude each other is refused.
        match read(&rendered(&def)) {
            Ok(parsed) => {
                let mut def = def;
                for service in def.services.values_mut() {
                    service.ports.sort();
                }
                prop_assert_eq!(parsed.def, def);
            }
            Err(problems) => {
                let of_ports = |what: &str| {
                    ["port", "are both called", "cannot be called", "public suffix"].iter().any(|word| what.contains(word))
                };
                prop_assert!(problems.iter().all(|problem| of_ports(&problem.what)), "{}", told(problems.iter()));
            }
        }
    }

    #[test]
    fn there_is_a_difference_exactly_between_what_differs(one in app_def(), two in app_def()) {
        prop_assert!(diff(Some(&one), Some(&one)).is_empty());
        prop_assert_eq!(diff(Some(&one), Some(&two)).is_empty(), one == two);
        prop_assert!(!diff(None, Some(&one)).is_empty() && !diff(Some(&one), None).is_empty());
    }
}
