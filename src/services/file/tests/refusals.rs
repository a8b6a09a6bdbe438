//! Each wrong file with the place and the words that it is answered with.

use super::*;

/// Each text and its problems, as `LINE:COLUMN: WHAT`.
fn refused(table: &[(&str, &[&str])]) {
    for (text, expected) in table {
        let problems = read(text).expect_err(text);
        let found: Vec<String> = problems.iter().map(|problem| format!("{}: {}", problem.at, problem.what)).collect();
        assert_eq!(found, *expected, "{text}");
        for problem in problems.iter() {
            assert!(!problem.why.is_empty() && !problem.hint.is_empty(), "{problem:?}");
        }
    }
}

/// The same with the list of ports of a service; the column is counted from the list's bracket, which is 1.
fn ports_refused(table: &[(&str, &[&str])]) {
    for (list, expected) in table {
        let before = "services: { web: { ports: ";
        let problems = read(&format!("{before}{list} }} }}")).expect_err(list);
        let found: Vec<String> =
            problems.iter().map(|p| format!("{}: {}", p.at.column - before.len(), p.what)).collect();
        assert_eq!(found, *expected, "{list}");
    }
}

#[test]
fn a_port_that_is_none() {
    ports_refused(&[
        ("[0]", &["2: port 0 does not exist"]),
        ("['3000:0']", &["8: port 0 does not exist"]),
        ("['3000:80:65536']", &["11: port 65536 does not exist"]),
        ("[123456789012345678901234567890]", &["2: port 12345678901234567890... does not exist"]),
        ("['']", &[r#"2: no container port in """#]),
        ("[':80:443']", &[r#"2: no container port in ":80:443""#]),
        ("['::']", &[r#"2: no container port in "::""#]),
        ("['3000:80:443:8080']", &[r#"15: a fourth field in "3000:80:443:8080""#]),
        ("[3000:80:443:]", &["2: YAML takes this for a mapping"]),
        ("['3000:80:443:']", &[r#"15: a fourth field in "3000:80:443:""#]),
        ("[-1]", &[r#"2: "-1" is no port number"#]),
        ("[+80]", &[r#"2: "+80" is no port number"#]),
        ("[0x50]", &[r#"2: "0x50" is no port number"#]),
        ("[0o17]", &[r#"2: "0o17" is no port number"#]),
        ("[0080]", &[r#"2: "0080" is no port number"#]),
        ("[8_080]", &[r#"2: "8_080" is no port number"#]),
        ("[8e1]", &[r#"2: "8e1" is no port number"#]),
        ("[80.0]", &[r#"2: "80.0" is no port number"#]),
        ("[' 80']", &[r#"3: " 80" is no port number"#]),
        ("['80 : 80']", &[r#"3: "80 " is no port number"#]),
        ("[http]", &[r#"2: "http" is no port number"#]),
        ("['53/udp']", &[r#"3: "53/udp" is no port number"#]),
        ("['8080-8090:80']", &[r#"3: "8080-8090" is no port number"#]),
        ("['127.0.0.1:80:80']", &[r#"3: "127.0.0.1" is no port number"#]),
        ("[~]", &["2: nothing instead of a port"]),
        ("[off]", &[r#"2: "off" is no port number"#]),
        ("[[80]]", &["2: a list instead of a port"]),
        ("80", &["1: a text instead of a list"]),
        ("~", &["1: nothing instead of a list"]),
        ("{ a: b }", &["1: a mapping instead of a list"]),
    ]);
}

/// `3000:80:` without quotes is the key `3000:80`.
#[test]
fn a_port_that_yaml_takes_for_a_mapping() {
    for item in ["3000:80:", "4000::", "3000: 80", "3000:"] {
        let problems = read(&format!("services:\n  web:\n    ports:\n    - {item}\n")).expect_err(item);
        assert_eq!(problems.iter().len(), 1, "{item}");
        assert_eq!(problems.first().at, Mark { line: 4, column: 7 }, "{item}");
        assert!(problems.first().hint.contains("quotes"), "{item}");
    }
}

#[test]
fn a_port_as_a_mapping() {
    ports_refused(&[
        ("[{ http: 80 }]", &["2: a port without `container`"]),
        ("[{}]", &["2: a port without `container`"]),
        ("[{ container: ~ }]", &["15: container has no value"]),
        ("[{ container: 3000, http: }]", &["25: http has no value"]),
        ("[{ container: 3000, tcp: [25] }]", &["26: a list instead of a word"]),
        ("[{ container: 3000, htp: 80 }]", &[r#"21: unknown key "htp" in a port, did you mean http?"#]),
        ("[{ container: 3000, image: a }]", &[r#"21: unknown key "image" in a port"#]),
        ("[{ container: 3000, container: 3001 }]", &["21: a second container in a port"]),
        ("[{ container: 3000, name: a.b }]", &[r#"27: the name of a port cannot be "a.b""#]),
        ("[{ container: 3000, name: a--b }]", &["27: a port cannot be called a--b"]),
        ("[{ container: 3000, name: '80' }]", &["27: a port cannot be called 80"]),
        ("[{ container: 3000, name: abcdefghijklmnop }]", &["27: a port cannot be called abcdefghijklmnop"]),
        ("[{ container: 1, name: a }, { container: 2, name: a }]", &["51: container ports 1 and 2 are both called a"]),
        (
            "[{ container: 1, name: a }, { container: 1, name: b }]",
            &["51: container port 1 is called b here and a on line 1"],
        ),
        ("['3000:80', '3000:81']", &["19: container port 3000 has http 81 here and 80 on line 1"]),
    ]);
}

#[test]
fn ports_of_a_node_that_cannot_be_had_together() {
    let both = |a: &str, b: &str| format!("services:\n  api: {{ {a} }}\n  web: {{ {b} }}");
    for (a, b, at, what) in [
        ("ports: ['1:80']", "ports: ['1::80']", "3:22", "port 80 is https of service web and http of service api"),
        (
            "ports: ['1:80']",
            "ports: ['1:80']",
            "3:21",
            "http port 80 has no traffic_matches in service web nor in service api",
        ),
        (
            "ports: ['1:80'], traffic_matches: [a.com, b.com]",
            "ports: ['1:80'], traffic_matches: [B.com]",
            "3:21",
            "b.com on http port 80 is of service web and of service api",
        ),
        (
            "ports: [{ container: 1, tcp: 25 }]",
            "ports: [{ container: 1, tcp: 25 }]",
            "3:39",
            "tcp port 25 leads to service web and to service api",
        ),
        (
            "ports: [{ container: 1, udp: 53 }]",
            "ports: [{ container: 1, udp: 53 }]",
            "3:39",
            "udp port 53 leads to service web and to service api",
        ),
        (
            "ports: ['1:80'], traffic_matches: [a.com]",
            "ports: [{ container: 1, tcp: 80 }]",
            "3:39",
            "port 80 is tcp of service web and http of service api",
        ),
    ] {
        let problems = read(&both(a, b)).expect_err(b);
        let found: Vec<_> = problems.iter().map(|problem| (problem.at.to_string(), problem.what.as_str())).collect();
        assert_eq!(found, [(at.to_owned(), what)]);
        assert!(problems.first().why.contains("line 2"), "{problems:?}");
    }
    ports_refused(&[
        ("['3000:80:80']", &["11: port 80 is http and https of service web"]),
        ("['3000:80', '4000:80']", &["19: http port 80 of service web leads to its container ports 3000 and 4000"]),
        ("[{ container: 1, http: 80, tcp: 80 }]", &["33: port 80 is http and tcp of service web"]),
    ]);
}

#[test]
fn server_names() {
    let list = |names: &str| format!("services: {{ web: {{ ports: ['1:80'], traffic_matches: {names} }} }}");
    for (names, what) in [
        ("[a.com, A.com]", "a.com is here twice"),
        ("['*']", r#""*" is no server name"#),
        ("['a.*.com']", r#""a.*.com" is no server name"#),
        ("['a b']", r#""a b" is no server name"#),
        ("[\"a;}\\nserver {\"]", r#""a;}\nserver {" is no server name"#),
        ("[$host]", r#""$host" is no server name"#),
        ("['~^www']", r#""~^www" is no server name"#),
        ("[bücher.de]", r#""bücher.de" is no server name"#),
        ("['']", r#""" is no server name"#),
        ("[~]", "a server name has no value"),
        ("a.com", "a text instead of a list"),
    ] {
        let problems = read(&list(names)).expect_err(names);
        assert_eq!(problems.iter().map(|problem| problem.what.as_str()).collect::<Vec<_>>(), [what], "{names}");
    }
    let unquoted = read(&list("[*.a.com]")).expect_err("an alias");
    assert_eq!(unquoted.first().what, "an alias of nothing");
    assert!(unquoted.first().hint.contains("quotes"));
}

#[test]
fn keys_and_values_that_nobody_knows() {
    refused(&[
        ("service: { web: }", &[r#"1:1: unknown key "service" in the file, did you mean services?"#]),
        ("services: { web: { port: [80] } }", &[r#"1:20: unknown key "port" in service web, did you mean ports?"#]),
        (
            "services:\n  web:\n    dns_behavior: versioned",
            &[r#"3:5: unknown key "dns_behavior" in service web, did you mean dns_behaviour?"#],
        ),
        ("services:\n  web:\n    git_url: a", &[r#"3:5: unknown key "git_url" in service web"#]),
        (
            "services: { web: { dns_behaviour: nonversioned } }",
            &[r#"1:35: unknown dns_behaviour "nonversioned", did you mean non-versioned?"#],
        ),
        (
            "services: { web: { load_balancing: Sticky } }",
            &[r#"1:36: unknown load_balancing "Sticky", did you mean sticky?"#],
        ),
        ("services: { web: { load_balancing: random } }", &[r#"1:36: unknown load_balancing "random""#]),
        ("services: { web: { load_balancing: } }", &["1:34: load_balancing has no value"]),
        ("services: { web: { load_balancing: [sticky] } }", &["1:36: a list instead of a word"]),
        ("application: { title: a }\nservices:", &[r#"1:16: unknown key "title" in application"#]),
        (
            "databases: { mysql: { server: } }",
            &[r#"1:23: unknown key "server" in database mysql, did you mean servers?"#],
        ),
        ("services:\n  a: &a { ports: [80] }\n  b: { <<: *a }", &[r#"3:8: unknown key "<<" in service b"#]),
    ]);
}

#[test]
fn what_is_there_twice() {
    refused(&[
        ("services: { a: }\nservices: { b: }", &["2:1: a second services in the file"]),
        ("services:\n  web:\n  api:\n  web:", &["4:3: a second service web"]),
        ("services:\n  web:\n  WEB:", &["3:3: a second service web"]),
        ("services: { web: { ports: [80], ports: [81] } }", &["1:33: a second ports in service web"]),
        ("databases: { mysql: , mysql: }", &["1:23: a second database mysql"]),
        ("databases: { mysql: { servers: { a: , a: } } }", &["1:39: a second server a"]),
    ]);
}

#[test]
fn names_that_are_none_or_taken() {
    refused(&[
        ("services: { a_b: }", &[r#"1:13: the name of a service cannot be "a_b""#]),
        ("services: { -: }", &[r#"1:13: the name of a service cannot be "-""#]),
        ("services: { '': }", &[r#"1:13: the name of a service cannot be """#]),
        ("services: { 80: }", &["1:13: the service 80"]),
        ("services: { ~: }", &["1:13: the name of a service has no value"]),
        ("services: { off: }", &["1:13: the name of a service is off, without quotes"]),
        ("services: { Yes: }", &["1:13: the name of a service is Yes, without quotes"]),
        ("services: { null: }", &["1:13: the name of a service has no value"]),
        ("services: { \"a\\nb\": }", &[r#"1:13: the name of a service cannot be "a\nb""#]),
        ("services: { [a]: }", &["1:13: a list as a key"]),
        ("services: { {a: b}: }", &["1:13: a mapping as a key"]),
        ("services: [web]", &["1:11: a list instead of a mapping"]),
        ("services: web", &["1:11: a text instead of a mapping"]),
        ("services: { web: 80 }", &["1:18: a text instead of a mapping"]),
        ("services: { mysql: }\ndatabases: { mysql: }", &["2:14: service mysql and database mysql have one name"]),
        ("databases: { mysql: }\nservices: { mysql: }", &["2:13: service mysql and database mysql have one name"]),
        (
            "services:\n  mysql-default:\ndatabases:\n  mysql:",
            &["4:3: service mysql-default and server default of database mysql have one name"],
        ),
        (
            "databases:\n  mysql:\n  mysql-default: { port: 1 }",
            &["3:3: database mysql-default and server default of database mysql have one name"],
        ),
        (
            "databases:\n  a: { servers: { b-c: { port: 1 } } }\n  a-b: { servers: { c: { port: 1 } } }",
            &["3:3: server b-c of database a and server c of database a-b have one name"],
        ),
        (
            "databases: { mysql: { servers: { abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghij: } } }",
            &[concat!(
                "1:14: server abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghij of database mysql is called ",
                "\"mysql-abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcd\"..., which is no name"
            )],
        ),
    ]);
}

#[test]
fn databases() {
    refused(&[
        ("databases: { foo: }", &["1:14: no port in database foo"]),
        ("databases: { mysq: }", &["1:14: no port in database mysq, did you mean mysql?"]),
        ("databases: { foo: { servers: { a: } } }", &["1:32: no port in database foo"]),
        ("databases: { mysql: 3306 }", &["1:21: a text instead of a mapping"]),
        ("databases: { mysql: { port: 0 } }", &["1:29: port 0 does not exist"]),
        ("databases: { mysql: { port: 3306:80 } }", &[r#"1:29: "3306:80" is no port number"#]),
        ("databases: { mysql: { port: 1, servers: { a: } } }", &["1:29: port beside servers in database mysql"]),
        ("databases: { mysql: { primary: a } }", &["1:32: primary without servers in database mysql"]),
        ("databases: { mysql: { servers: {} } }", &["1:32: no servers in database mysql"]),
        ("databases: { mysql: { servers: { a: , b: } } }", &["1:14: no primary in database mysql"]),
        ("databases: { mysql: { primary: c, servers: { a: , b: } } }", &["1:32: no server is called c"]),
        ("databases: { mysql: { servers: [a] } }", &["1:32: a list instead of a mapping"]),
    ]);
}

#[test]
fn applications() {
    refused(&[
        ("application: { id: ap-2 }\nservices: { a: }", &["1:20: this file is of application ap-2"]),
        ("application: ap-1\nservices: { a: }", &["1:14: a text instead of a mapping"]),
        ("application: { id: }\nservices: { a: }", &["1:18: the application's id has no value"]),
        ("application: { namespace: com }\nservices: { a: }", &["1:27: the namespace is the public suffix com"]),
        ("application: { namespace: a.b }\nservices: { a: }", &[r#"1:27: the namespace cannot be "a.b""#]),
        ("application: { name: '' }\nservices: { a: }", &["1:22: the application's name is empty or too long"]),
        ("application: { name: \"a\\nb\" }\nservices: { a: }", &["1:22: the application's name is empty or too long"]),
        ("application: { name: a }", &["1:1: no services here"]),
    ]);
}

#[test]
fn yaml_that_is_no_service_file() {
    refused(&[
        ("", &["1:1: the file is empty"]),
        ("# nothing\n", &["1:1: the file is empty"]),
        ("~", &["1:1: no services here"]),
        ("- services", &["1:1: a list instead of a mapping"]),
        ("services", &["1:1: a text instead of a mapping"]),
        ("services: { a: }\n---\nservices: { b: }", &["2:1: a second document"]),
        ("services: !!map { a: }", &[r#"1:11: the tag "tag:yaml.org,2002:!map""#]),
        (
            "services: { web: { ports: [!!python/object 80] } }",
            &[r#"1:28: the tag "tag:yaml.org,2002:!python/object""#],
        ),
        ("services:\n  web: !include a.yml", &[r#"2:8: the tag "!include""#]),
        ("services: &a { web: *a }", &["1:21: an alias of what it stands in"]),
        ("services: { web: *b }", &["1:18: an alias of nothing"]),
    ]);
    for text in
        ["services:\n\tweb:", "services: {", "services: [}", "a: b: c", "services: \"", "a\nb: c", "%FOO", "- a\nb: c"]
    {
        let problems = read(text).expect_err(text);
        assert!(!problems.first().why.is_empty() && !problems.first().hint.is_empty());
    }
    assert_eq!(read("services:\n\tweb:").expect_err("a tab").first().hint, "indent with spaces");
}

/// What a person sees who has made many mistakes.
#[test]
fn all_that_is_wrong_is_told_at_once_in_the_order_of_the_file() {
    let problems = read(
        r#"application: { id: ap-1, namespace: shop }
services:
  web:
    ports: ["3000:80:443", "4000:443", ":80", 70000]
    traffic_matches: ["app.example.com", "*.example.*"]
    dns_behavior: versioned
  mysql:
    load_balancing: stiky
databases:
  mysql: { primary: leopart, servers: { default: , leopard: { port: 3306 } } }
"#,
    )
    .expect_err("all is wrong");
    insta::assert_snapshot!(told(problems.iter()));
}
