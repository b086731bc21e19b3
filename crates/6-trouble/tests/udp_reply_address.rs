//! What the page of udp-reply-address claims. The clients count.

use harness::Launch;
use harness::demo::{Running, survives_without_an_audience};
use serde_json::Value;

const REPLY: &str = env!("CARGO_BIN_EXE_udp-reply-address");

fn summary(args: &[&str]) -> Value {
    Running::start(REPLY, &[args, &["--json"]].concat()).end().summary()
}

/// Of each client: which address it asked, whether it is connected, how many answers came, and from where.
fn clients(summary: &Value) -> Vec<(&str, bool, u64, Option<&str>)> {
    let clients = summary["clients"].as_array().expect("clients");
    let client = |client: &'_ Value| client["answers"].as_u64().zip(client["connected"].as_bool());
    clients
        .iter()
        .map(|one| {
            let (answers, connected) = client(one).unwrap_or_else(|| panic!("a client: {one}"));
            (one["asked"].as_str().expect("asked"), connected, answers, one["answered_from"].as_str())
        })
        .collect()
}

#[test]
fn the_plain_answer_leaves_from_the_wrong_address_and_a_connected_client_gets_nothing() {
    let summary = summary(&[]);
    assert_eq!(
        clients(&summary),
        [
            ("127.0.0.1", true, 10, Some("127.0.0.1")),
            ("127.0.0.2", true, 0, None),
            ("127.0.0.2", false, 10, Some("127.0.0.1")),
        ]
    );
}

#[test]
fn each_cure_answers_from_the_address_that_was_asked() {
    for cure in ["pktinfo", "pktinfo-tokio", "sockets"] {
        let summary = summary(&["--cure", cure]);
        assert_eq!(
            clients(&summary),
            [
                ("127.0.0.1", true, 10, Some("127.0.0.1")),
                ("127.0.0.2", true, 10, Some("127.0.0.2")),
                ("127.0.0.2", false, 10, Some("127.0.0.2")),
            ],
            "{cure}"
        );
    }
}

#[test]
fn the_cure_is_a_recvmsg_and_a_sendmsg_where_the_fault_is_a_recvfrom_and_a_sendto() {
    let calls = "recvfrom,sendto,recvmsg,sendmsg";
    let Some(fault) = Running::traced(calls, REPLY, &["--questions", "1"]) else { return };
    assert_eq!(fault.end().trace.count("recvmsg"), 0);
    let Some(cured) = Running::traced(calls, REPLY, &["--questions", "1", "--cure", "pktinfo"]) else {
        return;
    };
    let trace = cured.end().trace;
    assert_eq!((trace.count("recvmsg"), trace.count("sendmsg")), (3, 3));
    let named = trace.calls(|call| call.starts_with("sendmsg(") && call.contains("IP_PKTINFO"));
    assert_eq!(named.len(), 3, "each answer names its source: {:?}", trace.calls(|_| true));
}

#[test]
fn the_kernel_counts_each_lost_answer_as_one_for_a_port_that_nobody_has() {
    let script = "ip link set lo up && \"$@\" && nstat -asz UdpNoPorts";
    let unshare = ["--user", "--map-root-user", "--net", "--", "sh", "-c", script, "sh", REPLY];
    for (args, lost) in [(&[][..], 10), (&["--cure", "pktinfo"], 0)] {
        let ended = match Launch::new("unshare").args(unshare).args(args).run() {
            Ok(ended) if ended.code() == Some(0) => ended,
            Ok(ended) => return eprintln!("skipped: {}", ended.stderr.trim()),
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let counted = ended.stdout.lines().find_map(|line| line.strip_prefix("UdpNoPorts"));
        let counted = counted.and_then(|line| line.split_whitespace().next()?.parse().ok());
        assert_eq!(counted, Some(lost), "{args:?}: {}", ended.stdout);
    }
}

#[test]
fn what_cannot_be_done_is_refused() {
    Running::start(REPLY, &["--questions", "0"]).end().refused(2, "from 1 to");
    Running::start(REPLY, &["--cure", "hope"]).end().refused(2, "hope");
}

#[test]
fn nobody_need_listen() {
    survives_without_an_audience(REPLY, &[]);
    survives_without_an_audience(REPLY, &["--cure", "pktinfo", "--json"]);
}
