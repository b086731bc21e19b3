//! What the workspace is built from: licences, sources, and the Rust that each dependency needs.
//!
//! A lock file changes with one `cargo update`, and none of the three shows in a green build.

#![forbid(unsafe_code)]

use cargo_metadata::{Metadata, MetadataCommand, Package};
use spdx::{Expression, Licensee, ParseMode};

/// Licences under which the programs may be handed on with their own, MIT or Apache-2.0.
const LICENCES: [&str; 9] = [
    "Apache-2.0",
    "BSD-3-Clause",
    // The list of root certificates in webpki-roots is data, and this is its licence.
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Every package that the lock file names for this machine, ours included.
fn metadata() -> Metadata {
    let host = std::env::var("CARGO_BUILD_TARGET").unwrap_or_else(|_| host());
    MetadataCommand::new()
        .cargo_path(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .other_options(["--locked".to_owned(), "--filter-platform".to_owned(), host])
        .exec()
        .expect("cargo metadata describes the workspace")
}

/// The platform that the compiler builds for by itself.
fn host() -> String {
    let output = std::process::Command::new("rustc").arg("-vV").output().expect("rustc starts");
    let text = String::from_utf8(output.stdout).expect("rustc prints UTF-8");
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("rustc -vV names the host").to_owned()
}

/// Whether one of the alternatives of a licence expression holds only licences of the list.
fn is_permitted(licence: &str) -> bool {
    let permitted: Vec<Licensee> =
        LICENCES.iter().map(|name| Licensee::parse(name).expect("a licence of the list is known")).collect();
    // Old manifests write `MIT/Apache-2.0`.
    Expression::parse_mode(licence, ParseMode::LAX).is_ok_and(|expression| {
        expression.evaluate(|required| permitted.iter().any(|licensee| licensee.satisfies(required)))
    })
}

/// The dependencies of which `is_wrong` holds, as `name version: what is wrong`.
fn wrong(metadata: &Metadata, is_wrong: impl Fn(&Package) -> Option<String>) -> Vec<String> {
    let describe =
        |package: &Package| Some(format!("{} {}: {}", package.name, package.version, is_wrong(package)?));
    metadata.packages.iter().filter_map(describe).collect()
}

#[test]
fn every_licence_is_on_the_list() {
    let wrong = wrong(&metadata(), |package| {
        let licence = package.license.clone().unwrap_or_else(|| "no licence".to_owned());
        (!is_permitted(&licence)).then_some(licence)
    });
    assert!(wrong.is_empty(), "not on the list of licences in this test: {wrong:#?}");
}

#[test]
fn every_dependency_comes_from_the_registry() {
    let wrong = wrong(&metadata(), |package| {
        let source = package.source.as_ref()?;
        (!source.is_crates_io()).then(|| source.to_string())
    });
    assert!(wrong.is_empty(), "a git repository can change or go away: {wrong:#?}");
}

#[test]
fn no_dependency_needs_a_newer_rust_than_ours() {
    let metadata = metadata();
    let ladder =
        metadata.packages.iter().find(|package| package.name == "ladder").expect("ladder is a member");
    let ours = ladder.rust_version.clone().expect("the workspace states its rust-version");
    let wrong = wrong(&metadata, |package| {
        let needed = package.rust_version.as_ref().filter(|needed| **needed > ours)?;
        Some(format!("needs Rust {needed}, and the workspace promises {ours}"))
    });
    assert!(wrong.is_empty(), "raise rust-version, or take an older version: {wrong:#?}");
}

#[test]
fn the_list_can_refuse() {
    for permitted in ["MIT", "MIT/Apache-2.0", "GPL-3.0-only OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
        assert!(is_permitted(permitted), "{permitted}");
    }
    for refused in ["GPL-3.0-only", "MIT AND GPL-3.0-only", "no licence", ""] {
        assert!(!is_permitted(refused), "{refused}");
    }
}
