//! What is printed, and what happens when it cannot be.

use harness::strace::Call;
use harness::{Output, only, require_strace};

use crate::Subject;
use crate::verdict::{Context, Unmet, ensure, fails};

/// The summary as text and as JSON: last on stdout, with the numbers of what happened.
pub(super) fn summary(subject: &Subject) -> Result<(), Unmet> {
    for json in [false, true] {
        let launch = subject.launch_bare().args(["--max-size", "1000"]);
        let server = if json { launch.args(["--json"]) } else { launch }.start()?;
        let mut client = server.client()?;
        let refused = server.client_on_port(2003)?;
        for length in [0, 1, 200] {
            client.echo(&vec![7; length])?;
        }
        refused.send(&[9; 300])?;
        refused.send(&[9; 300])?;
        client.send(&[8; 1001])?;
        client.echo(&[7; 1000])?;
        let name = subject.rung()?.name;
        let ended = server.terminate()?;
        ended.expect_code(0)?;
        if !json {
            let mut lines = ended.stdout.lines();
            ensure(
                lines.next().is_some_and(|line| line.starts_with(&format!("{name}: listening on "))),
                || format!("stdout does not begin with the greeting: {:?}", ended.stdout),
            )?;
            let text: Vec<&str> = lines.collect();
            for (field, count) in [
                ("received", "7"),
                ("sent", "4"),
                ("refused", "2"),
                ("truncated", "1"),
                ("queue_dropped", "0"),
                ("queue_peak", ""),
                ("send_errors", "0"),
                ("receive_errors", "0"),
                ("kernel_dropped", "0"),
            ] {
                // The field's name, with a blank or an underscore in it, and its count as a word of its own.
                let found = text.iter().any(|line| {
                    line.replace(' ', "_").contains(field)
                        && (count.is_empty()
                            || line.split(|c: char| !c.is_ascii_digit()).any(|word| word == count))
                });
                ensure(found, || {
                    format!("the summary has no line with `{field}` and {count}: {:?}", ended.stdout)
                })?;
            }
            continue;
        }
        let summary = ended.summary()?;
        summary.expect(7, 4)?;
        ensure(summary.bytes_sent == 1201, || format!("`bytes_sent` is not 1201: {summary:?}"))?;
        ensure(summary.truncated == 1 && summary.queue_dropped == 0, || {
            format!("`truncated` and `queue_dropped` are not 1 and 0: {summary:?}")
        })?;
        let refused = crate::summary::nonzero(&summary.refused);
        ensure(refused.len() == 1 && refused.get("project_port") == Some(&2), || {
            format!("`refused` is not {{\"project_port\": 2}}: {summary:?}")
        })?;
        ensure((1..=8).contains(&summary.queue_peak), || {
            format!("`queue_peak` is not between 1 and the capacity of 8: {summary:?}")
        })?;
    }
    Ok(())
}

/// No output per datagram, refused ones included; `-v` is for stderr; payloads never reach a log.
pub(super) fn quiet(subject: &Subject) -> Result<(), Unmet> {
    const HOSTILE: &[u8] = b"\x1b[31mred\x07\nSECRET\x1b[0m";
    for verbose in [false, true] {
        let launch = subject.launch();
        let server = if verbose { launch.args(["-v"]) } else { launch }.start()?;
        let mut client = server.client()?;
        let refused = server.client_on_port(2004)?;
        for _ in 0..50 {
            client.echo(HOSTILE)?;
            refused.send(HOSTILE)?;
        }
        client.echo(b"the last one")?;
        let ended = server.terminate()?;
        // That is: nothing else is on stdout.
        ended.summary()?.expect(101, 51)?;
        let lines = ended.stderr.lines().count();
        if verbose {
            for event in ["recv", "queue", "sent", "wait"] {
                ensure(ended.stderr.contains(event), || {
                    format!("-v shows no `{event}` on stderr: {:?}", first_lines(&ended.stderr))
                })?;
            }
            ensure(lines >= 101, || format!("-v printed {lines} lines for 101 datagrams"))?;
        } else {
            ensure(lines <= 1, || {
                format!("stderr has {lines} lines without -v: {:?}", first_lines(&ended.stderr))
            })?;
        }
        ensure(!ended.stderr.contains('\x1b') && !ended.stderr.contains("SECRET"), || {
            format!("bytes of a payload are on stderr: {:?}", first_lines(&ended.stderr))
        })?;
    }
    Ok(())
}

fn first_lines(text: &str) -> String {
    text.lines().take(12).collect::<Vec<_>>().join("\n")
}

/// Outputs that cannot be written, or stop being read.
pub(super) fn no_audience(subject: &Subject) -> Result<(), Unmet> {
    use Output::{Captured, Closed, FirstLine, Full};
    for (stdout, stderr, flags) in [
        (Closed, Captured, &["--json"][..]),
        (Full, Captured, &["--json"]),
        (FirstLine, Captured, &[]),
        (Captured, Closed, &["-v", "--json"]),
        (Captured, Full, &["-v", "--json"]),
        (Captured, FirstLine, &["-v", "--json"]),
        (Closed, Closed, &["-v"]),
    ] {
        let how = format!("stdout: {stdout:?}, stderr: {stderr:?}, flags: {flags:?}");
        let mut server =
            subject.launch_bare().args(flags).stdout(stdout).stderr(stderr).start().context(&how)?;
        let mut client = server.client()?;
        for number in 0..20_u8 {
            client.echo(&[number]).context(&how)?;
        }
        server.still_serves().context(&how)?;
        let ended = server.terminate().context(&how)?;
        ended.expect_code(0).context(&how)?;
        if stdout == Captured {
            ended.summary().context(&how)?.expect(21, 21)?;
        }
    }
    Ok(())
}

/// Marks show in strace and nowhere else.
pub(super) fn marks(subject: &Subject) -> Result<(), Unmet> {
    require_strace()?;
    for marked in [true, false] {
        let calls = only(&["write", "sendto", "sendmsg", "sendmmsg", "recvfrom", "recvmsg", "recvmmsg"]);
        let launch = subject.launch().traced(["-s".to_owned(), "64".to_owned()].into_iter().chain(calls));
        let server = if marked { launch.args(["--marks"]) } else { launch }.start()?;
        server.client()?.echo(b"mark this")?;
        let ended = server.terminate()?;
        ended.summary()?.expect(1, 1)?;
        ensure(ended.stderr.is_empty(), || format!("stderr is not empty: {:?}", ended.stderr))?;
        let calls: Vec<&Call> = ended.calls().collect();
        let mark = |text: &str| calls.iter().position(|call| call.mark() == Some(text));
        if !marked {
            let failed = calls.iter().find(|call| call.mark().is_some());
            ensure(failed.is_none(), || format!("there is a mark without --marks: {failed:?}"))?;
            continue;
        }
        let carries = |call: &Call, text: &str| call.args.iter().any(|arg| arg.contains(text));
        // What a ring sends shows in no call, so it has to say so.
        let by_ring = !subject.rung()?.transfer.sends_by_call();
        let sent = match by_ring {
            true => mark("done send 9"),
            false => calls.iter().position(|call| carries(call, "\"mark this\"") && call.sends()),
        };
        let greeted = calls.iter().position(|call| carries(call, "listening on"));
        let shown = || calls.iter().map(|call| format!("{call}\n")).collect::<String>();
        let (Some(greeted), Some(ready), Some(sent), Some(shutdown)) =
            (greeted, mark("ready"), sent, mark("shutdown"))
        else {
            return fails(format!(
                "the greeting, the mark `ready`, the echo and the mark `shutdown` are not all there:\n{}",
                shown()
            ));
        };
        ensure(greeted < ready && ready < sent && sent < shutdown, || {
            format!("the order is not greeting, `ready`, echo, `shutdown`:\n{}", shown())
        })?;
    }
    Ok(())
}
