//! Who is asked: every rung there is, and foreign servers as far as it shows on the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use echo_contract::{Options, RUNGS, Target, Verdict, check, enter_private_network, find};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    enter_private_network();
    let arguments = Arguments::from_args();
    let trials = vec![
        Trial::test("every echo server of a layer has an entry", every_server_has_an_entry),
        Trial::test("every layer with echo servers asks the contract", every_layer_asks),
        Trial::test("policies are named as on the command line", policies_are_known),
        Trial::test("a foreign server that keeps the contract holds what shows", a_good_foreign_server),
        Trial::test("a foreign server that loops is found", a_foreign_server_that_loops),
        Trial::test("a foreign server that does not start is told so", a_foreign_server_that_does_not_start),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The echo servers in the source tree: name to the folder of its layer.
fn servers() -> Result<BTreeMap<String, String>, Failed> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the crate has no parent folder")?;
    let mut servers = BTreeMap::new();
    for layer in fs::read_dir(crates)? {
        let layer = layer?;
        let name = layer.file_name().to_string_lossy().into_owned();
        // Layers are the folders that are numbered.
        if !name.starts_with(|first: char| first.is_ascii_digit()) {
            continue;
        }
        for source in fs::read_dir(layer.path().join("src/bin"))? {
            let source = source?.file_name().to_string_lossy().into_owned();
            // A source, and not the change that breaks it, which lies beside it.
            let program = source.strip_suffix(".rs").filter(|program| program.starts_with("echo-"));
            servers.extend(program.map(|program| (program.to_owned(), name.clone())));
        }
    }
    if servers.is_empty() { Err("no echo server was found: this test is blind".into()) } else { Ok(servers) }
}

fn every_server_has_an_entry() -> Result<(), Failed> {
    for (name, layer) in servers()? {
        let entry = find(&name).ok_or_else(|| {
            format!("{name} has no entry in crates/echo-contract/src/rungs.rs: what may be asked of it?")
        })?;
        if entry.layer != layer {
            return Err(format!("{name} is in {layer}, and its entry says {}", entry.layer).into());
        }
    }
    Ok(())
}

fn every_layer_asks() -> Result<(), Failed> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the crate has no parent folder")?;
    for (name, layer) in servers()? {
        let test = crates.join(&layer).join("tests/contract.rs");
        let asked = fs::read_to_string(&test).unwrap_or_default();
        if !asked.contains(&format!("CARGO_BIN_EXE_{name}\"")) {
            return Err(format!("{} does not hold {name} against the contract", test.display()).into());
        }
    }
    Ok(())
}

fn policies_are_known() -> Result<(), Failed> {
    let known = BTreeSet::from(["backpressure", "drop-newest", "drop-oldest"]);
    let names: BTreeSet<_> = RUNGS.iter().map(|rung| rung.name).collect();
    if names.len() != RUNGS.len() {
        return Err("a rung is in the table twice".into());
    }
    match RUNGS.iter().find(|rung| !rung.policies.iter().all(|policy| known.contains(policy))) {
        None => Ok(()),
        Some(rung) => Err(format!("{} has a policy that is none: {:?}", rung.name, rung.policies).into()),
    }
}

/// The rows of a foreign server: name of the requirement to verdict, and whether all hold.
fn rows(command: &[&str], only: Option<&str>) -> Result<(BTreeMap<&'static str, Verdict>, bool), Failed> {
    let target = Target::foreign(command.iter().map(|word| (*word).to_owned()).collect())?;
    let options = Options { only: only.map(str::to_owned), ..Options::default() };
    let mut rows = BTreeMap::new();
    let all_hold = check(&target, &options, |row| {
        rows.insert(row.requirement.name, row.verdict.clone());
    });
    Ok((rows, all_hold))
}

const DOUBLE: &str = env!("CARGO_BIN_EXE_echo-double");

fn a_good_foreign_server() -> Result<(), Failed> {
    let (rows, all_hold) = rows(&[DOUBLE, "{host}:{port}"], None)?;
    let asked = [
        "idle",
        "sizes",
        "order",
        "refusals",
        "stop-and-continue",
        "vanished-clients",
        "no-lost-wake",
        "bursts",
    ];
    match asked.iter().find(|name| rows.get(**name) != Some(&Verdict::Holds)) {
        Some(name) => Err(format!("{name}: {:?}", rows.get(name)).into()),
        None if !all_hold => Err(format!("something fails: {rows:?}").into()),
        // Its summary and its flags are its own business.
        None if !matches!(rows.get("summary"), Some(Verdict::NotAsked { .. })) => {
            Err("`summary` was asked".into())
        }
        None => Ok(()),
    }
}

fn a_foreign_server_that_loops() -> Result<(), Failed> {
    let (rows, all_hold) = rows(&[DOUBLE, "--unguarded", "{addr}"], Some("no-loops"))?;
    match rows.get("no-loops") {
        Some(Verdict::Fails { evidence }) if evidence.contains("hops") && !all_hold => Ok(()),
        // No private network here: the layers' tests say so.
        Some(Verdict::NotAsked { .. }) => Ok(()),
        other => Err(format!("no-loops: {other:?}").into()),
    }
}

fn a_foreign_server_that_does_not_start() -> Result<(), Failed> {
    for command in [&["/nowhere/server", "{addr}"][..], &[DOUBLE, "--frobnicate", "{addr}"]] {
        let (rows, all_hold) = rows(command, Some("sizes"))?;
        match rows.get("sizes") {
            Some(Verdict::Fails { evidence }) if evidence.contains(command[0]) && !all_hold => {}
            other => return Err(format!("sizes of {command:?}: {other:?}").into()),
        }
    }
    Ok(())
}
