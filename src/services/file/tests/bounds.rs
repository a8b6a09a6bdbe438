//! What a file cannot make of its length: depth, copies, time, a record too large.

use super::*;

fn refused_for(text: &str) -> String {
    let Err(problems) = read(text) else { panic!("it is taken: {:?}", &text[..text.len().min(40)]) };
    assert_eq!(problems.iter().len(), 1, "{problems:?}");
    problems.first().what.clone()
}

#[test]
fn a_file_that_is_too_long_is_not_looked_at() {
    let long = format!("services: {{ web: }} #{}", "-".repeat(FILE_LEN_MAX));
    assert_eq!(refused_for(&long), format!("the file has {} bytes", long.len()));
}

#[test]
fn deep_nesting_is_refused_in_every_form() {
    let deep = "the file is nested too deeply";
    assert_eq!(refused_for(&"[".repeat(200)), deep);
    assert_eq!(refused_for(&"[".repeat(60_000)), deep);
    assert_eq!(refused_for(&"{a: ".repeat(200)), deep);
    assert_eq!(refused_for(&"- ".repeat(30_000)), deep);
    assert_eq!(refused_for(&"? ".repeat(200)), deep);
    let block: String = (0..300).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert_eq!(refused_for(&block), deep);
}

/// Ten lines that would come to 10^9 nodes.
#[test]
fn aliases_of_aliases_are_refused_before_they_are_made() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        text += &format!("a{level}: &a{level} [{below}]\n");
    }
    assert_eq!(refused_for(&text), "the file's aliases repeat too much");
    let long = format!("a: &a \"{}\"\nb: [{}]", "x".repeat(60_000), "*a, ".repeat(1000));
    assert_eq!(refused_for(&long), "the file's aliases repeat too much");
}

#[test]
fn a_definition_that_fits_in_no_record_is_refused() {
    let services: String = (0..5000).map(|number| format!("  s{number:04}:\n")).collect();
    let text = format!("services:\n{services}");
    assert!(text.len() < FILE_LEN_MAX);
    assert!(refused_for(&text).starts_with("the definition comes to "));
    let fewer: String = (0..2000).map(|number| format!("  s{number:04}:\n")).collect();
    good(&format!("services:\n{fewer}"));
}

#[test]
fn a_file_of_mistakes_gets_a_list_that_ends() {
    let ports = "0, ".repeat(20_000);
    let problems = read(&format!("services: {{ web: {{ ports: [{ports}] }} }}")).expect_err("all wrong");
    assert_eq!(problems.iter().len(), 20);
}

/// Each is as long as a file may be, and of a kind for which a careless reader takes time that grows with the square.
#[test]
#[allow(clippy::disallowed_methods, reason = "it measures")]
fn no_file_takes_long() {
    let most = FILE_LEN_MAX - 100;
    let ports: String = (1..=65535)
        .map(|port| format!("{port}:80,"))
        .take_while({
            let mut len = 0;
            move |item| {
                len += item.len();
                len < most
            }
        })
        .collect();
    let names: String = (0..most / 10).map(|number| format!("a{number:05}.b, ")).collect();
    let texts = [
        format!("services: {{ web: {{ ports: [{ports}] }} }}"),
        format!("services: {{ web: {{ ports: ['1:80'], traffic_matches: [{names}] }} }}"),
        "a: b\n".repeat(most / 5),
        "? a\n".repeat(most / 4),
        "- ".repeat(most / 2),
        "[a, ".repeat(most / 4),
        "\"a\": ".repeat(most / 5),
        "a ".repeat(most / 2),
        "a\n".repeat(most / 2),
        "\n".repeat(most),
        " ".repeat(most),
        "&a ".repeat(most / 3),
        "# \n".repeat(most / 3),
        format!("a: \"{}", "\\n".repeat(most / 2)),
        format!("a: |\n{}", " \n".repeat(most / 2)),
        format!("{{ {} }}", "a, ".repeat(most / 3)),
        format!("[{}]", "a: b, ".repeat(most / 6)),
        format!("%TAG !{}", "a".repeat(most)),
        "---\n".repeat(most / 4),
    ];
    let mut slowest = (std::time::Duration::ZERO, String::new());
    for text in texts {
        let began = std::time::Instant::now();
        let _ = read(&text);
        slowest = slowest.max((began.elapsed(), text.chars().take(30).collect()));
    }
    println!("the slowest took {:?}: {:?}", slowest.0, slowest.1);
    // Unoptimised, on a machine that does other things: a square of the length would be minutes.
    assert!(slowest.0 < std::time::Duration::from_secs(5), "{slowest:?}");
}
