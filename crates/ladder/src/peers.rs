//! Short servers in C for `ladder bench`, each of one technique: what a rung costs beside its peer is what Rust, the queue and
//! the contract cost. They are built here, when there is a compiler.

use std::fs;
use std::process::Command;

use crate::checkout::Checkout;
use crate::failure::{Context, Result, failed, note};
use crate::server::Target;

/// Where their sources lie, in a checkout.
const SOURCES: &str = "crates/5-batching/peers";

/// Builds all of them; none, and a sentence, where no compiler is.
pub fn targets(checkout: &Checkout) -> Result<Vec<Target>> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    if Command::new(&compiler).arg("--version").output().is_err() {
        note(&format!(
            "ladder: the C peers are left out: there is no compiler {compiler}: install gcc or clang"
        ));
        return Ok(Vec::new());
    }
    let folder = checkout.root.join(SOURCES);
    let built = checkout.target.join("peers");
    fs::create_dir_all(&built).context(|| format!("make the folder {}", built.display()))?;
    let entries = fs::read_dir(&folder).context(|| format!("read {}", folder.display()))?;
    let mut sources: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    sources.retain(|source| source.extension().is_some_and(|extension| extension == "c"));
    sources.sort();
    let mut targets = Vec::new();
    for source in sources {
        let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let binary = built.join(&name);
        let said = Command::new(&compiler)
            .args(["-O2", "-Wall", "-o"])
            .args([&binary, &source])
            .output()
            .context(|| format!("start {compiler}"))?;
        if !said.status.success() {
            let why = String::from_utf8_lossy(&said.stderr).into_owned();
            return failed(format!("{compiler} does not compile {}: {why}", source.display()));
        }
        let command = [&binary.display().to_string(), "{host}", "{port}"].map(str::to_string).to_vec();
        targets.push(Target::foreign(&name, command)?);
    }
    Ok(targets)
}
