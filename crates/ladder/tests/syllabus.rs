//! The manifest of a layer is its syllabus: nothing below a layer is built with what the layer brings.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

/// What each layer brings, by the number of its folder.
const BROUGHT: [(u32, &[&str]); 4] =
    [(2, &["mio"]), (3, &["futures"]), (4, &["tokio", "tokio-util"]), (5, &["io-uring"])];

/// On what every layer stands, and what tests all of them: they are built with nothing that a layer brings. What
/// others take of trace-marks is asked through them; its own tests are about futures.
const BELOW_ALL: [&str; 4] = ["datagram-queue", "echo-service", "harness", "echo-contract"];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .cargo_path(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .other_options(["--locked".to_owned()])
        .exec()
        .expect("cargo metadata describes the workspace")
}

/// The number of a layer's folder, 0 for what lies below all layers, `None` for what may use anything.
fn layer(package: &Package) -> Option<u32> {
    if BELOW_ALL.contains(&package.name.as_str()) {
        return Some(0);
    }
    let (number, _) = package.manifest_path.parent()?.file_name()?.split_once('-')?;
    number.parse().ok()
}

/// The names of all packages that are compiled to build `package` and its tests.
fn built_with(metadata: &Metadata, package: &Package) -> BTreeSet<String> {
    let nodes = &metadata.resolve.as_ref().expect("the dependencies are resolved").nodes;
    let nodes: BTreeMap<&PackageId, _> = nodes.iter().map(|node| (&node.id, node)).collect();
    let mut found = BTreeSet::new();
    let mut open = vec![&package.id];
    while let Some(id) = open.pop() {
        for dependency in &nodes[id].deps {
            // Only the package itself is built with its tests.
            let wanted = |kind| *id == package.id || kind != DependencyKind::Development;
            if dependency.dep_kinds.iter().any(|info| wanted(info.kind)) && found.insert(&dependency.pkg) {
                open.push(&dependency.pkg);
            }
        }
    }
    found.iter().map(|id| metadata[id].name.to_string()).collect()
}

#[test]
fn nothing_below_a_layer_is_built_with_what_it_brings() {
    let metadata = metadata();
    let packages = metadata.workspace_packages();
    let mut layers = BTreeSet::new();
    for package in packages {
        let Some(number) = layer(package) else { continue };
        let built_with = built_with(&metadata, package);
        for (brings, names) in BROUGHT {
            for name in names {
                let used = built_with.contains(*name);
                assert!(
                    !used || number >= brings,
                    "{} is built with {name}, which layer {brings} brings; look who needs it: cargo tree -p {} -e all -i {name}",
                    package.name,
                    package.name
                );
                // Else a name that is misspelt here would hold for ever.
                assert!(
                    used || number != brings,
                    "{} does not use {name}, which it is to bring",
                    package.name
                );
            }
        }
        layers.insert(number);
    }
    assert!(layers.is_superset(&BTreeSet::from([0, 1, 2, 3, 4, 5, 6])), "layers that were asked: {layers:?}");
}
