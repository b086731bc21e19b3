//! `receive` and `flush` are written out in every rung, so that each file can be read alone. Where two of them take
//! the same and ask the same of the socket, they are the same to the byte: what differs between two rungs is the
//! lesson, and nothing else does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The rungs of which the pages say it.
const RECEIVE: [&str; 5] =
    ["echo-select", "echo-poll", "echo-epoll-level", "echo-epoll-edge", "echo-mio-edge"];
/// The same for `flush`.
const FLUSH: [&str; 6] =
    ["echo-select", "echo-poll", "echo-epoll-level", "echo-epoll-edge", "echo-mio-level", "echo-mio-edge"];

/// The source of a rung.
fn source(rung: &echo_contract::Rung) -> String {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = crates.join(rung.layer).join("src/bin").join(rung.name).with_extension("rs");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// The function `name`, from its `fn` to its closing brace, `async` included.
fn function<'a>(source: &'a str, name: &str) -> Option<&'a str> {
    let at = source.find(&format!("fn {name}("))?;
    let start = source[..at].rfind('\n')? + 1;
    let end = start + source[start..].find("\n}\n")? + "\n}\n".len();
    Some(&source[start..end])
}

/// What a function takes and returns, and what it asks of the socket.
fn task(function: &str) -> (String, BTreeSet<String>) {
    let signature = function.split_once(" {\n").map_or(function, |(signature, _)| signature);
    let asked = function
        .split("socket.")
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>());
    (signature.to_string(), asked.collect())
}

/// Rungs whose function `name` has the same task: all of them have the same text.
fn groups(name: &str) -> Vec<BTreeSet<&'static str>> {
    let mut groups: BTreeMap<_, Vec<(&str, String)>> = BTreeMap::new();
    for rung in echo_contract::RUNGS {
        let source = source(rung);
        let Some(text) = function(&source, name) else { continue };
        groups.entry(task(text)).or_default().push((rung.name, text.to_string()));
    }
    for group in groups.values() {
        let (first, expected) = &group[0];
        for (other, text) in &group[1..] {
            let differs = expected.lines().zip(text.lines()).find(|(one, other)| one != other);
            assert_eq!(
                expected, text,
                "`{name}` of {first} and {other} do the same and are not the same: {differs:?}"
            );
        }
    }
    groups.into_values().map(|group| group.into_iter().map(|(rung, _)| rung).collect()).collect()
}

#[test]
fn receive_is_the_same_to_the_byte() {
    let groups = groups("receive");
    let expected = BTreeSet::from(RECEIVE);
    assert!(groups.iter().any(|group| group.is_superset(&expected)), "{groups:?}");
}

#[test]
fn flush_is_the_same_to_the_byte() {
    let groups = groups("flush");
    let expected = BTreeSet::from(FLUSH);
    assert!(groups.iter().any(|group| group.is_superset(&expected)), "{groups:?}");
}
