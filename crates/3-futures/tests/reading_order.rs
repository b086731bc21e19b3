//! The order in which the README says to read the files is the order in which they import each other.

use std::fs;
use std::path::Path;

#[test]
fn a_file_uses_only_those_above_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read =
        |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let readme = read("README.md");
    let order: Vec<&str> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once(".rs`").map(|(file, _)| file))
        .collect();
    let mut files: Vec<String> = fs::read_dir(root.join("src"))
        .expect("src is a folder")
        .filter_map(|entry| entry.ok()?.path().file_name()?.to_str()?.strip_suffix(".rs").map(str::to_owned))
        .filter(|file| file != "lib")
        .collect();
    files.sort();
    let mut listed = order.clone();
    listed.sort();
    assert_eq!(listed, files, "the README's table has a row for each file");
    for (place, file) in order.iter().enumerate() {
        // The documentation of a file may point ahead, and its tests may use what they like.
        let code = read(&format!("src/{file}.rs"));
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        for used in code.split("crate::").skip(1) {
            let used = used
                .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
                .next()
                .unwrap_or_default();
            assert!(order[..place].contains(&used), "{file}.rs uses {used}, which does not stand above it");
        }
    }
}
