//! *Break it*: for each rung one change of its source, and what it does to the rung.
//!
//! The change is made in a copy of the workspace below the target directory, built there, and looked at. The
//! pages record both, so that a change that no longer applies, or no longer breaks anything, is drift.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use echo_contract::Verdict;
use similar::TextDiff;

use crate::checkout::{Checkout, Profile, Program};
use crate::failure::{Context, Result, failed};
use crate::server::{Launch, Target, require_strace};
use crate::trace;
use crate::{claims, counts};

/// One change and where to look.
struct Break {
    /// What a page calls it: the program's name, or that and a word more where there are several.
    name: &'static str,
    program: &'static str,
    /// What the change is, as a sentence.
    deed: &'static str,
    /// Text of the source, found in it exactly once.
    from: &'static str,
    /// What stands there instead.
    to: &'static str,
    look: Look,
}

/// Where the change shows.
enum Look {
    /// In what `ladder compare` says.
    Compare,
    /// In the trace of an empty datagram.
    EmptyDatagram,
    /// In the requirement of this name, which `ladder check` then says fails.
    Contract(&'static str),
}

const BREAKS: &[Break] = &[
    Break {
        name: "echo-blocking",
        program: "echo-blocking",
        deed: "Make the socket non-blocking, and wait nowhere: the loop asks, and asks, and asks.",
        from: "socket.set_write_timeout(Some(LOOK_UP))?;",
        to: "socket.set_nonblocking(true)?;",
        look: Look::Compare,
    },
    Break {
        name: "echo-select",
        program: "echo-select",
        deed: "Ask for writability always, as if it could do no harm: a socket is nearly always writable.",
        from: "if !queue.is_empty() {\n            writable.insert",
        to: "{\n            writable.insert",
        look: Look::Compare,
    },
    Break {
        name: "echo-poll",
        program: "echo-poll",
        deed: "Handle one datagram for each wait.",
        from: "let mut budget = service.budget();",
        to: "let mut budget = 1;",
        look: Look::Compare,
    },
    Break {
        name: "echo-epoll-level",
        program: "echo-epoll-level",
        deed: "Tell the kernel before every wait, not only of a change.",
        from: "if interest != registered {",
        to: "{",
        look: Look::Compare,
    },
    Break {
        name: "echo-epoll-edge",
        program: "echo-epoll-edge",
        deed: "Forget what is left over when the budget ends, and wait for an edge.",
        from: "let left_over = readable && queue.has_room();",
        to: "let left_over = false;",
        look: Look::Compare,
    },
    Break {
        name: "echo-mio-level",
        program: "echo-mio-level",
        deed: "Take mio for level-triggered: do not ask anew after a read.",
        from: "Rearm::Read => receive(socket, queue, service, &mut budget, &mut look_again)?,",
        to: "Rearm::Read => receive(socket, queue, service, &mut budget, &mut |_| Ok(()))?,",
        look: Look::Compare,
    },
    Break {
        name: "echo-mio-edge",
        program: "echo-mio-edge",
        deed: "Take an event for used up as soon as something was read.",
        from: "readable &= received != Pause::WouldBlock;",
        to: "readable = false;",
        look: Look::Compare,
    },
    Break {
        name: "echo-mini",
        program: "echo-mini",
        deed: "Yield after every drain, not only when the budget ends: be polled again at once, and find nothing.",
        from: "if received == Pause::BudgetSpent {\n",
        to: "{\n",
        look: Look::Compare,
    },
    Break {
        name: "echo-tokio",
        program: "echo-tokio",
        deed: "Return `Pending` when the budget ends, without asking to be polled again.",
        from: "                cx.waker().wake_by_ref();\n",
        to: "",
        look: Look::Compare,
    },
    Break {
        name: "echo-tokio-mpsc",
        program: "echo-tokio-mpsc",
        deed: "Yield where the reader has to wait: it is polled again at once, and finds nothing.",
        from: "                socket.readable().await?;\n",
        to: "                yield_now().await;\n",
        look: Look::Compare,
    },
    Break {
        name: "echo-tokio-framed",
        program: "echo-tokio-framed",
        deed: "Decode as the stock `BytesCodec` does: nothing in the buffer, no frame.",
        from: "self.taken = !self.taken;\n        if !self.taken {",
        to: "if datagram.is_empty() {",
        look: Look::EmptyDatagram,
    },
    Break {
        name: "echo-tokio-framed-sink",
        program: "echo-tokio-framed",
        deed: "Keep the sink after an error: the datagram that failed stays in it, and is sent again before each \
               later one.",
        from: "                sink = UdpFramed::new(Rc::clone(&socket), DatagramCodec::default());\n            }\n            match",
        to: "            }\n            match",
        look: Look::Contract("send-errors"),
    },
    Break {
        name: "echo-tokio-framed-forward",
        program: "echo-tokio-framed",
        deed: "Write `forward` instead of two loops and a channel. It takes an item from the stream only when the \
               sink has taken the one before, and it ends at the first error: one datagram that cannot be sent \
               ends the service.",
        from: FORWARD_FROM,
        to: FORWARD_TO,
        look: Look::Contract("send-errors"),
    },
];

const FORWARD_FROM: &str = r#"    let writer = unconstrained(flush(socket, queued, Rc::clone(shared), blocked));
    let reader = stop.clone().run_until_cancelled_owned(reader).marked("reader");
    // A reader without a writer has nothing to do.
    let end = stop.clone().drop_guard();
    let writer = writer.inspect(|_| drop(end)).marked("writer");
    let echo = async {
        mark("ready");
        let (received, flushed) = tokio::join!(spawn_local(reader), spawn_local(writer));
        received?.unwrap_or(Ok(())).and(flushed?)
    };
"#;

const FORWARD_TO: &str = r#"    drop((reader, queued, blocked));
    let (sink, stream) = UdpFramed::new(socket, DatagramCodec::default()).split();
    let admitted = futures::TryStreamExt::try_filter_map(stream, |(payload, peer)| {
        let admitted = shared.service().admit(Ok((payload.len(), peer)));
        std::future::ready(admitted.map(|admitted| admitted.map(|_| (payload, peer))))
    });
    let counting = sink.with(|(payload, peer): Datagram| {
        shared.service().sent(payload.len());
        std::future::ready(io::Result::Ok((payload, peer)))
    });
    let echo = async {
        mark("ready");
        admitted.forward(counting).await
    };
"#;

/// How long an echo of a broken server is waited for, once the server is back in its wait.
const SOON: Duration = Duration::from_secs(1);

/// The recorded block: the deed, the change, and what shows it.
pub fn record(checkout: &Checkout, name: &str, fenced: impl Fn(&str, &str) -> String) -> Result<String> {
    let Some(breakage) = BREAKS.iter().find(|one| one.name == name) else {
        return failed(format!(
            "no change is known that breaks {name}: add one to crates/ladder/src/breaks.rs"
        ));
    };
    let program = checkout.program(breakage.program)?;
    let (old, new) = changed(checkout, program, breakage)?;
    require_strace()?;
    let binary = build(checkout, program, &new)?;
    let launch = Launch { binary: Some(binary), traced: true, ..Launch::default() };
    let target = Target::Own(program.clone());
    let shown = match breakage.look {
        Look::Compare => {
            let mut said = String::new();
            match counts::measure_one(checkout, checkout.profile, &target, &launch, SOON) {
                Ok(row) => said.extend(claims::broken(&row).iter().map(|claim| format!("ladder: {claim}\n"))),
                Err(failure) => said.push_str(&format!("ladder: {failure}\n")),
            }
            if said.is_empty() {
                return failed(format!(
                    "the change of {name} in crates/ladder/src/breaks.rs breaks nothing any more"
                ));
            }
            format!("$ cargo ladder compare {name}\n{said}")
        }
        Look::EmptyDatagram => trace::empty_datagram(checkout, checkout.profile, &target, &launch, SOON)?,
        Look::Contract(requirement) => ask(checkout, program, &launch, requirement)?,
    };
    Ok(format!(
        "{}\n\n{}\n{}",
        breakage.deed,
        fenced("diff", &difference(&old, &new)),
        fenced("text", &shown)
    ))
}

/// What `ladder check` says of a requirement that a changed program fails. The evidence is left out: it tells of
/// random payloads.
fn ask(checkout: &Checkout, program: &Program, launch: &Launch, requirement: &str) -> Result<String> {
    let find = |name: &str| echo_contract::requirements().iter().find(|one| one.name == name);
    let (Some(asked), Some(control)) = (find(requirement), find("greeting")) else {
        return failed(format!(
            "the contract has no requirement {requirement:?}, or none named \"greeting\""
        ));
    };
    // The contract knows a rung by the name of its file.
    let binary = checkout.broken_workspace().join(&program.name);
    let built = launch.binary.as_deref().unwrap_or(&binary);
    fs::copy(built, &binary).context(|| format!("copy {} to {}", built.display(), binary.display()))?;
    let target = echo_contract::Target::rung(&binary).or_else(failed)?;
    let options = echo_contract::Options::default();
    // A program that fails everything would prove nothing.
    if let Verdict::Fails { evidence } = echo_contract::check_one(control, &target, &options).verdict {
        return failed(format!("the changed {} does not even greet: {evidence}", program.name));
    }
    if let Verdict::Holds = echo_contract::check_one(asked, &target, &options).verdict {
        return failed(format!("{requirement} holds, whatever crates/ladder/src/breaks.rs changes"));
    }
    Ok(format!(
        "$ cargo ladder check {} --only {requirement}\n{:<4} FAILS  {}\n",
        program.name, asked.id, asked.sentence
    ))
}

/// The source before and after the change.
fn changed(checkout: &Checkout, program: &Program, breakage: &Break) -> Result<(String, String)> {
    let path = checkout.root.join(&program.source);
    let old = fs::read_to_string(&path).context(|| format!("read {}", program.source))?;
    match old.matches(breakage.from).count() {
        1 => {}
        count => {
            return failed(format!(
                "{} holds {count} times, not once, what crates/ladder/src/breaks.rs changes in it: {:?}",
                program.source, breakage.from
            ));
        }
    }
    let new = old.replacen(breakage.from, breakage.to, 1);
    Ok((old, new))
}

/// The changed lines with one around them, without line numbers, which would drift with every other change.
fn difference(old: &str, new: &str) -> String {
    let unified = TextDiff::from_lines(old, new).unified_diff().context_radius(1).to_string();
    let lines = unified.lines().filter(|line| !line.starts_with("@@"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Builds the changed source in a copy of the workspace. It shares the target directory, so that only the
/// project's own crates are compiled again.
fn build(checkout: &Checkout, program: &Program, source: &str) -> Result<PathBuf> {
    let copy = checkout.broken_workspace();
    for file in ["Cargo.toml", "Cargo.lock"] {
        let text = fs::read_to_string(checkout.root.join(file)).context(|| format!("read {file}"))?;
        // cargo names what it builds by a package's name, version and place in the workspace. With the version of
        // the checkout's the copy's crates would take their place, and break what was linked with those.
        let text = if file == "Cargo.toml" { another_version(&text)? } else { text };
        write_if_changed(&copy.join(file), text.as_bytes())?;
    }
    mirror(&checkout.root.join("crates"), &copy.join("crates"))?;
    let name = format!("broken-{}", program.name);
    let path = copy.join(&program.source).with_file_name(format!("{name}.rs"));
    // Its file has a name of its own, and the program goes by the rung's all the same.
    let source = source.replace(r#"env!("CARGO_BIN_NAME")"#, &format!("{:?}", program.name));
    write_if_changed(&path, source.as_bytes())?;
    let mut command: Command = checkout.cargo_build(Profile::Dev);
    // Its warnings are about the change, which is wrong on purpose.
    command.current_dir(&copy).args(["--bin", &name]).stderr(Stdio::piped());
    let output = command.output().context(|| "start cargo (is it on PATH?)".into())?;
    // Only this one: the next change of the same layer has its own.
    fs::remove_file(&path).context(|| format!("remove {}", path.display()))?;
    if !output.status.success() {
        return failed(format!(
            "cargo could not build {name}: mend the change in crates/ladder/src/breaks.rs\n{}",
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(checkout.binary(&name, Profile::Dev))
}

/// The workspace's manifest with another version of its packages.
fn another_version(manifest: &str) -> Result<String> {
    let version = concat!("\nversion = \"", env!("CARGO_PKG_VERSION"), "\"");
    if manifest.matches(version).count() != 1 {
        return failed(format!("Cargo.toml does not hold {:?} exactly once", version.trim_start()));
    }
    Ok(manifest.replacen(version, concat!("\nversion = \"", env!("CARGO_PKG_VERSION"), "-broken\""), 1))
}

/// Makes `to` a copy of `from`, and touches only what differs, so that cargo compiles only that.
fn mirror(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).context(|| format!("make {}", to.display()))?;
    let mut kept = BTreeSet::new();
    let entries = fs::read_dir(from).context(|| format!("read {}", from.display()))?;
    for path in entries.filter_map(|entry| entry.ok()).map(|entry| entry.path()) {
        let Some(name) = path.file_name().map(|name| name.to_os_string()) else { continue };
        // A crate that was built by itself has a target directory of its own.
        if name == "target" {
            continue;
        }
        let there = to.join(&name);
        if path.is_dir() {
            mirror(&path, &there)?;
        } else {
            let bytes = fs::read(&path).context(|| format!("read {}", path.display()))?;
            write_if_changed(&there, &bytes)?;
        }
        kept.insert(name);
    }
    for entry in fs::read_dir(to).context(|| format!("read {}", to.display()))?.filter_map(|entry| entry.ok())
    {
        if !kept.contains(&entry.file_name()) {
            let gone = entry.path();
            let removed = if gone.is_dir() { fs::remove_dir_all(&gone) } else { fs::remove_file(&gone) };
            removed.context(|| format!("remove {}", gone.display()))?;
        }
    }
    Ok(())
}

fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).context(|| format!("make {}", folder.display()))?;
    }
    fs::write(path, bytes).context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_applies_to_its_source_once() {
        let checkout = Checkout::find().expect("the checkout around the tests");
        for breakage in BREAKS {
            let program = checkout.program(breakage.program).expect("a program");
            let (old, new) =
                changed(&checkout, program, breakage).unwrap_or_else(|failure| panic!("{failure}"));
            let shown = difference(&old, &new);
            assert!(shown.lines().any(|line| line.starts_with('-')), "{}: {shown}", breakage.program);
            assert!(!shown.contains("@@"), "{}: {shown}", breakage.program);
        }
    }
}
