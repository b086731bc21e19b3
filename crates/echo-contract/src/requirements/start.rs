//! From the command line to the first wait.

use crate::Subject;
use crate::server::Output;
use crate::verdict::{Unmet, ensure};

/// Exactly the line of the contract, for each kind of address, with or without other flags.
pub(super) fn greeting(subject: &Subject) -> Result<(), Unmet> {
    let name = subject.rung()?.name;
    for (address, flags) in [
        ("127.0.0.1:0", &[][..]),
        ("127.0.0.1:0", &["--json"]),
        ("127.0.0.1:0", &["--verbose", "--marks"]),
        ("127.0.0.7:0", &["-v"]),
        ("[::1]:0", &[]),
    ] {
        // Both in one pipe: whatever stands before the greeting would be the first line.
        let server = subject.launch_bare().on(address).args(flags).stderr(Output::Merged).start()?;
        let bound = server.address;
        ensure(bound.port() != 0, || format!("it does not say which port it has: {bound}"))?;
        ensure(bound.ip().to_string() == address.trim_end_matches(":0").trim_matches(['[', ']']), || {
            format!("asked for {address}, it says {bound}")
        })?;
        server.client()?.echo(b"hello")?;
        let ended = server.terminate()?;
        ended.expect_status(0)?;
        let expected = format!("{name}: listening on {bound}  (try: nc -u {} {})", bound.ip(), bound.port());
        let first = ended.stdout.lines().next().unwrap_or_default();
        ensure(first == expected, || format!("the first line is {first:?}, not {expected:?}"))?;
    }
    Ok(())
}
