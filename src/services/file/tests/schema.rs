//! The published JSON schema says what the parser does.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::string::string_regex;
use serde_json::Value as Json;

use super::*;

fn schema() -> Json {
    serde_json::from_str(include_str!("../../../../docs/service-file.schema.json")).expect("the schema is JSON")
}

/// The part of the schema that describes a mapping of this kind.
fn part<'s>(schema: &'s Json, kind: &str) -> &'s Json {
    match kind {
        "file" => schema,
        "port" => &schema["$defs"]["port"]["anyOf"][2],
        _ => &schema["$defs"][kind],
    }
}

#[test]
fn it_has_the_keys_of_every_mapping_and_no_others() {
    let schema = schema();
    for (kind, keys) in KEYS {
        let part = part(&schema, kind);
        assert_eq!(part["additionalProperties"], false, "{kind}");
        let properties = part["properties"].as_object().expect(kind);
        let said: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
        assert_eq!(said, keys.iter().copied().collect(), "{kind}");
    }
    let mappings = schema["$defs"].as_object().expect("parts").values().filter(|part| part["properties"].is_object());
    assert_eq!(mappings.count() + 2, KEYS.len(), "the file and the port stand elsewhere");
}

#[test]
fn it_has_the_values_of_the_directives_the_default_first() {
    let service = &schema()["$defs"]["service"]["properties"];
    let values = |key: &str| serde_json::from_value::<Vec<String>>(service[key]["enum"].clone()).expect(key);
    assert_eq!(values("dns_behaviour"), DNS_BEHAVIOURS.map(|(word, _)| word));
    assert_eq!(values("load_balancing"), LOAD_BALANCINGS.map(|(word, _)| word));
    assert_eq!(service["dns_behaviour"]["default"], DnsBehaviour::default().to_string());
    assert_eq!(service["load_balancing"]["default"], LoadBalancing::default().to_string());
    assert_eq!(schema()["$defs"]["application"]["properties"]["name"]["maxLength"], TITLE_CHARS_MAX);
}

fn of_pattern(pattern: &Json) -> impl Strategy<Value = String> + use<> {
    let pattern = pattern.as_str().expect("a pattern").trim_start_matches('^').trim_end_matches('$').to_owned();
    string_regex(&pattern).expect("a pattern")
}

proptest! {
    #[test]
    fn every_port_of_its_short_form_is_taken_unless_a_number_is_too_large_or_there_twice(
        port in of_pattern(&schema()["$defs"]["port"]["anyOf"][1]["pattern"])
    ) {
        if let Err(problems) = read(&format!("services: {{ web: {{ ports: ['{port}'] }} }}")) {
            let excused = |what: &str| what.contains("does not exist") || what.contains("is http and https of");
            prop_assert!(problems.iter().all(|problem| excused(&problem.what)), "{}", told(problems.iter()));
        }
    }

    #[test]
    fn every_name_of_its_form_is_taken_unless_it_is_a_number(
        name in of_pattern(&schema()["$defs"]["label"]["pattern"])
    ) {
        match read(&format!("services: {{ '{name}': }}")) {
            Ok(parsed) => prop_assert!(parsed.def.services.contains_key(name.to_ascii_lowercase().as_str())),
            Err(_) => prop_assert!(label(&name).is_number()),
        }
    }

    #[test]
    fn every_server_name_of_its_form_is_taken_unless_a_part_begins_or_ends_with_a_hyphen(
        name in of_pattern(&schema()["$defs"]["service"]["properties"]["traffic_matches"]["items"]["pattern"])
    ) {
        prop_assume!(name.len() <= 253);
        let taken = read(&format!("services: {{ web: {{ ports: ['1:80'], traffic_matches: ['{name}'] }} }}")).is_ok();
        let hyphens = name.split('.').any(|part| part.starts_with('-') || part.ends_with('-'));
        prop_assert_eq!(taken, !hyphens, "{}", name);
    }
}
