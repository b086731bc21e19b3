//! What a long recording costs the timeline. Alone in its file: it counts what its children have used.

use std::fmt::Write;
use std::fs;
use std::time::Duration;

use harness::Launch;
use harness::demo::must;
use nix::sys::resource::{UsageWho, getrusage};

/// A recording of so many calls, no two datagrams of which are equal.
fn recording(events: usize) -> String {
    let mut text = String::new();
    for number in 0..events / 4 {
        let peer = format!(
            "{{sa_family=AF_INET, sin_port=htons({}), sin_addr=inet_addr(\"127.0.0.1\")}}",
            40_000 + number % 100
        );
        writeln!(
            text,
            "500 epoll_wait(4, [{{events=EPOLLIN, data={{u32=0, u64=0}}}}], 2, -1) = 1\n\
             500 recvfrom(3, \"{number}\", 64, 0, {peer}, [128 => 16]) = 5\n\
             500 recvfrom(3, 0x7f0, 64, 0, 0x7ffe, [128]) = -1 EAGAIN (Resource temporarily unavailable)\n\
             500 sendto(3, \"{number}\", 5, 0, {peer}, 16) = 5"
        )
        .expect("a String takes everything");
    }
    text
}

#[test]
fn a_hundred_thousand_events_are_folded_and_twice_as_many_cost_twice_as_much() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut used = Vec::new();
    for events in [50_000, 100_000] {
        let (from, svg) = (folder.path().join("recording"), folder.path().join("picture.svg"));
        fs::write(&from, recording(events)).expect("the recording");
        let (from, svg) = (from.to_str().expect("UTF-8"), svg.to_str().expect("UTF-8"));
        let before = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the children's usage");
        let tool = Launch::new(env!("CARGO_BIN_EXE_ladder")).in_folder(env!("CARGO_MANIFEST_DIR"));
        let tool = tool.args(["timeline", "--from", from, "--svg", svg]).patience(Duration::from_secs(400));
        must(must(tool.run()).expect_code(0));
        let after = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the children's usage");
        let seconds = |usage: &nix::sys::resource::Usage| {
            let (user, system) = (usage.user_time(), usage.system_time());
            (user.tv_sec() + system.tv_sec()) as f64 + (user.tv_usec() + system.tv_usec()) as f64 / 1e6
        };
        // The largest of all children: the second recording takes more than the first.
        used.push((seconds(&after) - seconds(&before), after.max_rss() as f64));
        let picture = fs::read_to_string(svg).expect("the picture");
        assert!(picture.len() < 8_000, "{} bytes", picture.len());
        assert!(picture.contains(&format!("the 4 rows above, {} times more", events / 4 - 1)), "{picture}");
    }
    let [(few_seconds, few_bytes), (many_seconds, many_bytes)] = used[..] else { panic!("{used:?}") };
    assert!(many_seconds <= 2.5 * few_seconds, "CPU: {used:?}");
    assert!(many_bytes <= 2.5 * few_bytes, "memory: {used:?}");
}
