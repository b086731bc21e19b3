//! Bursts, overload, slow links, and the end under all of them.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::strace::Call;
use harness::{Client, Launch, Process, cores, on_core, proc, require_strace};
use nix::sys::signal::Signal;

use super::errors::{blocked_by_injection, expect_policy, require_sends_by_call};
use crate::server::{self, Server, deadline, eventually};
use crate::target::Origin;
use crate::verdict::{Context, Unmet, ensure, fails, not_asked};
use crate::{Subject, Trigger};

/// Bursts that are complete before the server sees the first of them, with queues and budgets of all
/// proportions: nothing is stuck, and the order holds.
pub(super) fn bursts(subject: &Subject) -> Result<(), Unmet> {
    let settings: &[&[&str]] = match subject.target.0 {
        Origin::Foreign { .. } => &[&[]],
        Origin::Rung { .. } => &[
            &[],
            &["--queue", "1", "--budget", "1"],
            &["--queue", "64", "--budget", "1"],
            &["--queue", "1", "--budget", "64"],
            &["--queue", "3", "--budget", "2"],
            &["--queue", "2", "--budget", "1000000"],
        ],
    };
    for flags in settings {
        let mut server = subject.launch().args(*flags).start()?;
        let told = format!("burst of 64, flags {flags:?}");
        let mut clients = [server.client()?, server.client()?, server.client()?];
        for round in 0..4_u8 {
            server.freeze()?;
            for number in 0..64_u8 {
                clients[usize::from(number) % 3].send(&[round, number])?;
            }
            server.thaw()?;
            for number in 0..64_u8 {
                clients[usize::from(number) % 3].expect(&[round, number]).context(&told)?;
            }
        }
        for client in &mut clients {
            client.expect_nothing()?;
        }
        if matches!(subject.target.0, Origin::Rung { .. }) {
            server.stop().context(&told)?.expect(256, 256)?;
        } else {
            server.still_serves()?;
        }
    }
    Ok(())
}

/// Datagrams that arrive at every moment between a wait and the end of its drain.
pub(super) fn no_lost_wake(subject: &Subject) -> Result<(), Unmet> {
    const ROUNDS: u32 = 10_000;
    let mut random = subject.random();
    let server = subject.launch().start()?;
    let mut client = server.client()?;
    for round in 0..ROUNDS {
        let second = random.bool();
        client.send(&round.to_be_bytes())?;
        if second {
            // The first one has woken the server by now, more or less: somewhere in here is its drain.
            for _ in 0..random.u32(0..2000) {
                std::hint::spin_loop();
            }
            client.send(&[1])?;
        }
        let told = format!("stuck in round {round}");
        client.expect(&round.to_be_bytes()).context(&told)?;
        if second {
            client.expect(&[1]).context(&told)?;
        }
    }
    client.expect_nothing()?;
    if subject.target.entry().is_some() {
        let summary = server.stop()?;
        ensure(summary.received == summary.sent, || format!("`received` is not `sent`: {summary:?}"))?;
    }
    Ok(())
}

/// With nothing to do it does nothing: an interest in writing with an empty queue would spin.
pub(super) fn idle(subject: &Subject) -> Result<(), Unmet> {
    let server = subject.launch().start()?;
    let mut client = server.client()?;
    for number in 0..100_u8 {
        client.echo(&[number])?;
    }
    eventually("the server waits", || (proc::state(server.id()) == Some('S')).then_some(()))?;
    let before = proc::cpu(&server.pids());
    client.expect_silence(Duration::from_millis(600))?;
    // A loop with a wait that always returns takes all that a busy machine leaves it.
    let used = proc::cpu(&server.pids()).saturating_sub(before);
    ensure(used < Duration::from_millis(10), || {
        format!("an idle server used {used:?} of processor time in 600 ms")
    })
}

/// A crowd that sends for as long as it lives, and counts.
struct Flood {
    stop: AtomicBool,
    sent: AtomicU64,
}

impl Flood {
    fn new() -> Self {
        Self { stop: AtomicBool::new(false), sent: AtomicU64::new(0) }
    }

    /// Sends until told to stop, or until the server's port is closed.
    fn run(&self, server: std::net::SocketAddr) -> Result<(), Unmet> {
        let client = Client::of(server)?;
        while !self.stop.load(Ordering::Relaxed) {
            for _ in 0..64 {
                client.send(&[0x55; 32])?;
            }
            self.sent.fetch_add(64, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Runs `during` while a flood comes down on the server. Returns how many datagrams that was.
fn flooded<T>(server: &mut Server, during: impl FnOnce(&mut Server) -> T) -> Result<(T, u64), Unmet> {
    let flood = Flood::new();
    let address = server.address;
    let (result, outcome) = thread::scope(|scope| {
        let handle = scope.spawn(|| flood.run(address));
        // Should it not come, that shows in its outcome.
        let _ = eventually("the flood begins", || (flood.sent.load(Ordering::Relaxed) > 0).then_some(()));
        let result = during(server);
        flood.stop.store(true, Ordering::Relaxed);
        (result, handle.join())
    });
    match outcome {
        Ok(outcome) => outcome?,
        Err(_) => return fails("the flood itself panicked"),
    }
    Ok((result, flood.sent.load(Ordering::Relaxed)))
}

/// How many datagrams are echoed in `time` with 64 under way.
fn closed_loop(server: &Server, time: Duration) -> Result<u64, Unmet> {
    let mut client = server.client()?;
    let start = Instant::now();
    let mut echoed = 0;
    for _ in 0..64 {
        client.send(&[0x33; 32])?;
    }
    while start.elapsed() < time {
        client.receive()?;
        client.send(&[0x33; 32])?;
        echoed += 1;
    }
    for _ in 0..64 {
        client.receive()?;
        echoed += 1;
    }
    Ok(echoed)
}

/// Far more than it can do: it does what it can, and every datagram is accounted for.
pub(super) fn overload(subject: &Subject) -> Result<(), Unmet> {
    let time = Duration::from_secs(if subject.options.long { 60 } else { 5 });
    let mut server = subject.launch().start()?;
    let calm = Duration::from_millis(500);
    let mut total = closed_loop(&server, calm)?;
    let usual = total as f64 / calm.as_secs_f64();
    let resident = |server: &Server| proc::status(server.id())?.vmrss;
    let before = resident(&server);
    // The receive buffer overflows for certain while the server is stopped.
    let burst = server.client()?;
    server.freeze()?;
    for _ in 0..5000 {
        burst.send(&[0x77; 32])?;
    }
    total += 5000;
    server.thaw()?;
    let ((), flood) = flooded(&mut server, |server| {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline && !server.has_exited() {
            thread::park_timeout(Duration::from_millis(20));
        }
    })?;
    total += flood;
    let mut client = server.client()?;
    total += client.settle()?.0;
    if subject.rung().is_ok_and(|rung| rung.shares_its_address) {
        // That this client's socket has been read to the end says nothing of the others.
        server.await_quiet()?;
    }
    server.still_serves()?;
    total += 1;
    let grown = resident(&server).zip(before).map(|(after, before)| after.saturating_sub(before));
    let summary = server.stop()?;
    ensure(summary.kernel_dropped > 0, || format!("`kernel_dropped` is 0 after an overload: {summary:?}"))?;
    ensure(total == summary.received + summary.kernel_dropped, || {
        format!("{total} datagrams were sent, and `received` + `kernel_dropped` is {}: {summary:?}", {
            summary.received + summary.kernel_dropped
        })
    })?;
    ensure(summary.queue_peak <= 8, || format!("the queue of 8 grew beyond: {summary:?}"))?;
    if subject.options.long {
        let goodput = summary.sent as f64 / summary.seconds;
        ensure(goodput >= 0.8 * usual, || {
            format!("{goodput:.0} echoes a second under overload, {usual:.0} without: {summary:?}")
        })?;
        ensure(grown.is_some_and(|kib| kib <= 8192), || format!("it grew by {grown:?} KiB"))?;
    }
    Ok(())
}

/// A small receive buffer holds little of what arrives while the server is stopped; the kernel's own holds all.
pub(super) fn receive_buffer(subject: &Subject) -> Result<(), Unmet> {
    const BURST: u64 = 100;
    let mut dropped = Vec::new();
    // A short datagram is charged with 832 bytes or so: 8192 hold some twenty, the default of 212,992 all.
    for flags in [&["--receive-buffer", "4096"][..], &[]] {
        let mut server = subject.launch().args(flags).start()?;
        let mut client = server.client()?;
        // It serves: whatever it sends to itself at the start has come and gone.
        client.echo(b"hello")?;
        server.freeze()?;
        for _ in 0..BURST {
            client.send(&[0x33; 32])?;
        }
        server.thaw()?;
        // What stands before this in the buffer has been read when it is answered.
        let (probes, _) = server.client()?.settle()?;
        let sent = 1 + BURST + probes;
        let summary = server.stop()?;
        ensure(summary.received + summary.kernel_dropped == sent, || {
            format!("{sent} were sent, not `received` + `kernel_dropped`: {summary:?}")
        })?;
        dropped.push(summary.kernel_dropped);
    }
    ensure(dropped[0] >= BURST / 2 && dropped[1] == 0, || {
        format!(
            "of {BURST} the kernel dropped {} with --receive-buffer 4096, and {} without",
            dropped[0], dropped[1]
        )
    })
}

/// A signal gets through a flood.
pub(super) fn signal_in_flood(subject: &Subject) -> Result<(), Unmet> {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = subject.launch().start()?;
        let (took, _) = flooded(&mut server, |server| {
            let start = Instant::now();
            server.signal(signal)?;
            server.wait()?;
            harness::Result::Ok(start.elapsed())
        })?;
        let took = took.context(format!("{signal} in a flood"))?;
        server.finish()?.summary()?;
        if subject.options.long {
            ensure(took < Duration::from_millis(1100), || format!("{signal} in a flood took {took:?}"))?;
        }
    }
    Ok(())
}

/// The end while datagrams are under way: each is accounted for, and each echo that is counted arrives.
pub(super) fn end_under_load(subject: &Subject) -> Result<(), Unmet> {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = subject.launch().start()?;
        let mut client = server.client()?;
        let mut sent = 0_u64;
        let mut replies = 0;
        for round in 0..200_u32 {
            for _ in 0..4 {
                client.send(&sent.to_be_bytes())?;
                sent += 1;
            }
            if round == 150 {
                server.signal(signal)?;
                break;
            }
            for _ in 0..4 {
                client.receive()?;
                replies += 1;
            }
        }
        // What comes after the signal is either read or not.
        for _ in 0..20 {
            client.send(&sent.to_be_bytes())?;
            sent += 1;
        }
        let start = Instant::now();
        server.wait()?;
        let took = start.elapsed();
        let summary = server.finish()?.summary()?;
        replies += client.arrived()?.len() as u64;
        ensure(summary.sent == replies, || format!("{replies} echoes arrived, not `sent`: {summary:?}"))?;
        ensure(summary.received <= sent, || format!("{sent} were sent, and more received: {summary:?}"))?;
        ensure(summary.queue_dropped == 0, || {
            format!("nothing blocked, yet queued datagrams were dropped: {summary:?}")
        })?;
        if subject.options.long {
            ensure(took < Duration::from_millis(1100), || format!("the end took {took:?}"))?;
        }
    }
    // Nothing under way: at once, and with nothing but the summary. A signal just before the wait counts too.
    for _ in 0..20 {
        subject.launch().start()?.stop()?.expect(0, 0)?;
    }
    Ok(())
}

/// A network namespace for the server at the far end of a link on which sends block.
struct SlowLink {
    /// Its namespace goes with it.
    holder: Process,
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        // The far end goes with the near one, at once; the namespace would take its time.
        let _ = Launch::new("ip").args(["link", "delete", "va"]).run();
    }
}

impl SlowLink {
    /// The client's end is in this namespace, which has to be a private one.
    fn new(rate: &str) -> Result<Self, Unmet> {
        let link = Self { holder: Launch::new("unshare").args(["--net", "--", "sleep", "600"]).start()? };
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let pid = link.pid();
        eventually("a second network namespace", || {
            (namespace(&pid).is_some() && namespace(&pid) != namespace("self")).then_some(())
        })?;
        let script = format!(
            "ip link add va type veth peer name vb netns {pid} &&
             ip addr add 10.0.0.1/24 dev va && ip link set va up &&
             nsenter -t {pid} -n sh -c '
                ip addr add 10.0.0.2/24 dev vb && ip link set vb up && ip link set lo up &&
                tc qdisc add dev vb root tbf rate {rate} burst 3000 limit 1000000'"
        );
        // `limit` exceeds the send buffer: otherwise the link would drop instead of blocking.
        let made = Launch::new("sh").args(["-c", &script]).run()?;
        if made.code() != Some(0) {
            return not_asked(format!(
                "no slow link can be made here (it takes ip and tc, package iproute2, and the kernel's sch_tbf): {}",
                made.stderr.trim()
            ));
        }
        Ok(link)
    }

    fn pid(&self) -> String {
        self.holder.id().to_string()
    }

    fn start(&self, subject: &Subject, flags: &[&str]) -> Result<(Server, Client), Unmet> {
        self.start_by(subject.launch(), flags)
    }

    fn start_by(&self, launch: server::Launch, flags: &[&str]) -> Result<(Server, Client), Unmet> {
        let pid = self.pid();
        let server = launch
            .on("10.0.0.2:2042")
            .args(["--allow-remote"])
            .args(flags)
            .prefix(["nsenter", "-t", &pid, "-n", "--"])
            .start()?;
        let mut client = Client::at(([10, 0, 0, 1], 0).into(), server.address)?.watching(server.watch());
        // Neighbours are resolved by the first exchange.
        client.echo(b"hello")?;
        Ok((server, client))
    }
}

/// What the kernel says of the server's socket.
struct Buffers {
    /// Bytes it holds for the link, overhead included.
    send: u64,
    /// Bytes that nobody has read.
    receive: u64,
    /// Datagrams that there was no room for.
    dropped: u64,
}

fn buffers(link: &SlowLink) -> Option<Buffers> {
    let table = fs::read_to_string(format!("/proc/{}/net/udp", link.pid())).ok()?;
    // Row: number, local, remote, state, tx_queue:rx_queue, ... drops. 10.0.0.2:2042 is the server's.
    let row = table.lines().find(|row| row.split_whitespace().nth(1) == Some("0200000A:07FA"))?;
    let (send, receive) = row.split_whitespace().nth(4)?.split_once(':')?;
    Some(Buffers {
        send: u64::from_str_radix(send, 16).ok()?,
        receive: u64::from_str_radix(receive, 16).ok()?,
        dropped: row.split_whitespace().last()?.parse().ok()?,
    })
}

/// Sends datagrams of 1000 bytes, numbered, a few at a time, so that the server can read them before its
/// receive buffer overflows. `enough` ends it, given the buffers and how many were sent and came back.
/// Returns how many were sent, and what came back.
fn fill(
    link: &SlowLink,
    client: &mut Client,
    mut enough: impl FnMut(&Buffers, u64, u64) -> bool,
) -> Result<(u64, Vec<Vec<u8>>), Unmet> {
    let (mut sent, mut replies) = (0_u64, Vec::new());
    let start = Instant::now();
    while start.elapsed() < deadline() {
        for _ in 0..32 {
            let mut payload = vec![0; 1000];
            payload[..8].copy_from_slice(&sent.to_be_bytes());
            client.send(&payload)?;
            sent += 1;
        }
        let chunk = Instant::now();
        let state = loop {
            let Some(state) = buffers(link) else { return fails("the server's socket is gone") };
            // A server that does not read for so long may well be blocked.
            if state.receive == 0 || chunk.elapsed() > Duration::from_millis(20) {
                break state;
            }
            thread::park_timeout(Duration::from_millis(1));
        };
        replies.extend(client.arrived()?);
        if enough(&state, sent, replies.len() as u64) {
            return Ok((sent, replies));
        }
    }
    not_asked("the slow link does not block: net.core.wmem_default may be very large here")
}

/// Fills the server's send buffer and its queue, until it sleeps although there is something to
/// read: only its sends can be the reason.
fn block(link: &SlowLink, server: &Server, client: &mut Client) -> Result<(), Unmet> {
    // A datagram that has just arrived has not woken it yet: only what lasts counts.
    let mut looks = 0;
    let blocked = |state: &Buffers, _, _| {
        let unread = state.receive > 0 && proc::state(server.id()) == Some('S');
        looks = if unread { looks + 1 } else { 0 };
        // The default send buffer is some 200 kB, of which such a datagram takes 2304 bytes.
        looks >= 8 && state.send > 150_000
    };
    fill(link, client, blocked).map(drop)
}

/// The policies on a link that really blocks.
pub(super) fn policies_on_a_slow_link(subject: &Subject) -> Result<(), Unmet> {
    let link = SlowLink::new("2mbit")?;
    for policy in subject.rung()?.policies {
        let (server, mut client) = link.start(subject, &["--queue", "64", "--on-full", policy])?;
        // Send buffer, queue and receive buffer hold about 250: with 300 away, and not dropped by the kernel,
        // the queue has dropped some. With backpressure it is the kernel that drops in the end.
        let (sent, mut replies) = fill(&link, &mut client, |state, sent, replies| {
            sent - replies >= 300 + state.dropped || sent - replies >= 1000
        })?;
        let (probes, more) = client.settle()?;
        replies.extend(more);
        let summary = server.stop()?;
        replies.extend(client.arrived()?);
        let numbers: Vec<&[u8]> =
            replies.iter().filter(|one| one.len() == 1000).map(|one| &one[..8]).collect();
        ensure(numbers.is_sorted(), || format!("--on-full {policy}: the replies are out of order"))?;
        ensure(summary.received + summary.kernel_dropped == 1 + sent + probes, || {
            format!("{} were sent, not `received` + `kernel_dropped`: {summary:?}", 1 + sent + probes)
        })?;
        if subject.rung()?.queues {
            ensure(summary.queue_peak == 64, || {
                format!("the queue of 64 was never full on a link that blocks, or grew beyond: {summary:?}")
            })?;
        }
        expect_policy(policy, &summary)?;
    }
    Ok(())
}

/// Order when everything that waits is woken by the same few datagrams: who waits several times may take the second
/// datagram before the first.
pub(super) fn order_of_short_bursts(subject: &Subject) -> Result<(), Unmet> {
    let cores = cores();
    // On one core each: a client that moves between two overtakes itself.
    let [first, .., last] = cores[..] else { return not_asked("it takes two cores") };
    let server = subject.launch().args(["--queue", "64", "--budget", "64"]).on_core(first).start()?;
    let mut client = server.client()?;
    let mut random = subject.random();
    let mut short_bursts = || -> Result<u64, Unmet> {
        let mut sent = 0;
        // Long ones first: somebody may ask for more the more there is.
        for round in 0..4_200 {
            let burst = if round < 200 { 64 } else { random.u8(3..=8) };
            (0..burst).try_for_each(|number| client.send(&[number]))?;
            for number in 0..burst {
                client.expect(&[number]).context(format!("datagram {number} of a burst of {burst}"))?;
            }
            sent += u64::from(burst);
        }
        Ok(sent)
    };
    let sent = on_core(last, &mut short_bursts)??;
    server.stop()?.expect(sent, sent)
}

/// Order, under all that may break it: sends that block, datagrams that cannot be sent and stand among the others,
/// empty ones, and bursts of all lengths.
pub(super) fn order_behind_a_slow_link(subject: &Subject) -> Result<(), Unmet> {
    const DATAGRAMS: usize = 5_000;
    let cores = cores();
    // On one core each: a client that moves between two overtakes itself.
    let [first, .., last] = cores[..] else { return not_asked("it takes two cores") };
    let link = SlowLink::new("40mbit")?;
    let launch = subject.launch().on_core(first);
    // Few datagrams fill the send buffer, so that the sends of most bursts block.
    let (server, mut client) = link.start_by(launch, &["--queue", "64", "--send-buffer", "8192"])?;
    // The server knows no way to this address.
    let made = Launch::new("ip").args(["address", "add", "192.0.2.9/32", "dev", "va"]).run()?;
    made.expect_code(0)?;
    let stranger = Client::at(([192, 0, 2, 9], 0).into(), server.address)?.watching(server.watch());
    let mut random = subject.random();
    let strangers = on_core(last, || in_bursts(&mut client, &stranger, DATAGRAMS, &mut random))??;
    let summary = server.stop()?;
    ensure(summary.kernel_dropped == 0, || format!("the check was too quick for the server: {summary:?}"))?;
    summary.expect(1 + DATAGRAMS as u64 + strangers, 1 + DATAGRAMS as u64)?;
    ensure(summary.send_errors.get("ENETUNREACH") == Some(&strangers), || {
        format!("`send_errors` is not {{\"ENETUNREACH\": {strangers}}}: {summary:?}")
    })
}

/// Echoes so many datagrams of the client, a burst at a time, with one of the stranger's among each. Returns how many
/// of these there were.
fn in_bursts(
    client: &mut Client,
    stranger: &Client,
    datagrams: usize,
    random: &mut fastrand::Rng,
) -> Result<u64, Unmet> {
    let (mut sent, mut strangers) = (0_usize, 0);
    while sent < datagrams {
        let burst = random.usize(1..=60).min(datagrams - sent);
        let among = random.usize(..burst);
        // Every ninth is empty, the others say which they are.
        let payload = |number: usize| match number % 9 {
            0 => Vec::new(),
            _ => [&number.to_be_bytes()[..], &[0; 992]].concat(),
        };
        for number in sent..sent + burst {
            if number == sent + among {
                stranger.send(b"nobody answers me")?;
                strangers += 1;
            }
            client.send(&payload(number))?;
        }
        for number in sent..sent + burst {
            client.expect(&payload(number)).context(format!("datagram {number} of a burst of {burst}"))?;
        }
        sent += burst;
    }
    client.expect_nothing()?;
    Ok(strangers)
}

/// The end while sends block: at most a second of draining, then an honest count; a second signal ends it
/// at once.
pub(super) fn end_on_a_slow_link(subject: &Subject) -> Result<(), Unmet> {
    for (first, _) in SIGNALS {
        // About twelve of the datagrams a second. A new one each time, since it holds on to what it has.
        let link = SlowLink::new("100kbit")?;
        let (server, mut client) = link.start(subject, &["--queue", "64"])?;
        block(&link, &server, &mut client)?;
        // A blocked send that is interrupted may go through when it is tried again. A queue of 64 may not.
        let at_least = u64::from(subject.rung()?.queues);
        end_while_blocked(subject, server, first, at_least)?;
    }
    if !subject.rung()?.queues {
        return Ok(());
    }
    for (first, second) in SIGNALS {
        let link = SlowLink::new("100kbit")?;
        let (server, mut client) = link.start(subject, &["--queue", "64"])?;
        block(&link, &server, &mut client)?;
        end_at_once(server, first, second, |server| proc::state(server.id()) == Some('S'))?;
    }
    Ok(())
}

/// Likewise, with sends that block because strace says so.
pub(super) fn end_while_sends_block(subject: &Subject) -> Result<(), Unmet> {
    require_strace()?;
    require_sends_by_call(subject)?;
    if subject.rung()?.trigger == Trigger::Edge {
        return not_asked("after an injected would-block no edge follows: see the slow link");
    }
    for (first, second) in SIGNALS {
        for twice in [false, true] {
            let mut server = blocked_by_injection(subject)?;
            let client = server.client()?;
            eventually("a send would block", || {
                // Again and again: strace counts the calls of each thread, and spares the first ones of each.
                let _ = client.send(b"not to be echoed");
                shows(&mut server, Call::injected).then_some(())
            })?;
            if twice {
                end_at_once(server, first, second, |server| {
                    // A signal that is read from a descriptor has no handler that returns.
                    !catches(server, first) || shows(server, |call| call.name == "rt_sigreturn")
                })?;
            } else {
                end_while_blocked(subject, server, first, 1)?;
            }
        }
    }
    Ok(())
}

/// Whether the trace so far has such a call.
fn shows(server: &mut Server, wanted: impl Fn(&Call) -> bool) -> bool {
    // If it cannot be read, there is nothing to see.
    let _ = server.pump(Duration::ZERO);
    server.calls_since(0).any(wanted)
}

/// Whether a signal has been sent to it that it has not been given yet.
fn has_pending_signals(server: &Server) -> bool {
    proc::status(server.id()).is_some_and(|status| status.sigpnd | status.shdpnd != 0)
}

/// Whether it has a handler for the signal.
fn catches(server: &Server, signal: Signal) -> bool {
    proc::status(server.id()).is_some_and(|status| status.sigcgt >> (signal as u32 - 1) & 1 == 1)
}

const SIGNALS: [(Signal, Signal); 2] = [(Signal::SIGTERM, Signal::SIGINT), (Signal::SIGINT, Signal::SIGTERM)];

fn end_while_blocked(
    subject: &Subject,
    mut server: Server,
    signal: Signal,
    at_least: u64,
) -> Result<(), Unmet> {
    let start = Instant::now();
    server.signal(signal)?;
    server.wait()?;
    let took = start.elapsed();
    let summary = server.finish()?.summary()?;
    ensure(summary.queue_dropped >= at_least, || {
        format!("{signal} while sends block, and nothing was left in the queue: {summary:?}")
    })?;
    ensure(!subject.options.long || took < Duration::from_millis(1100), || format!("the end took {took:?}"))
}

fn end_at_once(
    mut server: Server,
    first: Signal,
    second: Signal,
    handled: impl Fn(&mut Server) -> bool,
) -> Result<(), Unmet> {
    server.signal(first)?;
    // Of two signals that come before a handler has run, the second is handled first.
    eventually("the first signal is handled", || {
        (server.has_exited() || (!has_pending_signals(&server) && handled(&mut server))).then_some(())
    })?;
    if !server.has_exited() {
        server.signal(second)?;
    }
    server.wait()?;
    let told = format!("{first}, and {second} while it drains, which ends it at once");
    server.finish()?.expect_code(128 + second as i32).context(told)
}
