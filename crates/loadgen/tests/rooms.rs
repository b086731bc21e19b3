//! The files of loadgen import downwards: no two of them need each other, be it through a third.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Which room imports which. A room is a file of `src`, or a directory of it.
type Rooms = BTreeMap<String, BTreeSet<String>>;

/// The rooms that `text` names after `crate::`, its tests left out: those may look at what they like.
fn imports(text: &str) -> BTreeSet<String> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(first_name(rest));
            continue;
        };
        // The names at the outer level of the braces.
        let mut depth = 0;
        let mut name = String::new();
        for letter in list.chars() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    found.insert(first_name(name.trim()));
                    name.clear();
                }
                other => name.push(other),
            }
        }
        found.insert(first_name(name.trim()));
    }
    found
}

fn first_name(path: &str) -> String {
    path.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

/// The rooms of a directory of sources.
fn rooms(directory: &Path) -> Rooms {
    let mut rooms = Rooms::new();
    for entry in fs::read_dir(directory).expect("the sources are there").flatten() {
        let path = entry.path();
        let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        // What only names the others.
        if ["lib", "main"].contains(&&*name) {
            continue;
        }
        let files = match fs::read_dir(&path) {
            Ok(files) => files.flatten().map(|file| file.path()).collect(),
            Err(_) => vec![path],
        };
        for file in files {
            let text = fs::read_to_string(&file).expect("a source is text");
            rooms.entry(name.clone()).or_default().extend(imports(&text));
        }
    }
    let names: BTreeSet<String> = rooms.keys().cloned().collect();
    for (name, wants) in &mut rooms {
        wants.retain(|want| want != name && names.contains(want));
    }
    rooms
}

/// Takes away, again and again, the rooms that need no other; what is left stands in circles, or above one.
fn circles(mut rooms: Rooms) -> Rooms {
    loop {
        let free: BTreeSet<String> =
            rooms.iter().filter(|(_, wants)| wants.is_empty()).map(|(name, _)| name.clone()).collect();
        if free.is_empty() {
            return rooms;
        }
        rooms.retain(|name, _| !free.contains(name));
        for wants in rooms.values_mut() {
            wants.retain(|want| !free.contains(want));
        }
    }
}

#[test]
fn no_room_needs_one_that_needs_it() {
    let rooms = rooms(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(rooms["cli"].contains("run") && rooms["live"].contains("spec"), "imports are read: {rooms:?}");
    let circles = circles(rooms);
    assert!(circles.is_empty(), "these import each other in a circle, or stand above one: {circles:#?}");
}

/// The subcommands and the outputs are on top: each is known to the command line alone, but for the report, which every
/// result goes to.
#[test]
fn no_subcommand_imports_another() {
    let rooms = rooms(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    for (name, wants) in rooms.iter().filter(|(name, _)| *name != "cli") {
        for command in ["cli", "run", "search_command", "compare", "serve", "audit"] {
            assert!(!wants.contains(command), "{name} imports {command}");
        }
    }
    for below in ["record", "search", "slo", "live", "schedule", "result", "serve"] {
        assert!(!rooms[below].contains("report"), "{below} imports the report");
    }
}

#[test]
fn a_circle_is_found() {
    let text = "use crate::{low, side::{Thing, Other}};\nuse crate::top;\n// crate::comment\n#[cfg(test)]\nmod tests { use crate::tested; }";
    assert_eq!(imports(text), ["low", "side", "top"].map(str::to_owned).into());
    let room =
        |name: &str, wants: &[&str]| (name.to_owned(), wants.iter().map(|want| want.to_string()).collect());
    let three = Rooms::from([room("a", &["b"]), room("b", &["c"]), room("c", &["a"]), room("low", &[])]);
    assert_eq!(circles(three).len(), 3);
    assert!(circles(Rooms::from([room("a", &["b"]), room("b", &[])])).is_empty());
}
