//! loadgen-double: load generators that lie, each in one way, so that `loadgen audit` can be seen to catch it.
//!
//! Each sends plain GETs and prints one JSON object: total, mean, p50, p99, max, in seconds.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use echo_service::print_line;
use loadgen::schedule::Rate;
use loadgen::units::Span;

#[derive(Parser)]
#[command(version, about = "Load generators that lie, each in one way")]
struct Flags {
    /// How it lies
    kind: Kind,
    /// http://IP:PORT/
    url: String,
    /// Requests a second
    rate: Rate,
    /// For how long
    duration: Span,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Nothing is wrong with it: the control
    Honest,
    /// One connection; a start that finds it busy is skipped
    Closed,
    /// Ten requests at once, and then none for ten periods
    Bursty,
    /// A request that takes longer than an eighth of the run is in no figure
    DropsTimeouts,
    /// One connection; a request counts from when it gets it
    FromRelease,
}

/// A request is given up when it takes longer than the whole run.
fn get(address: SocketAddr, patience: Duration) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: double\r\nConnection: close\r\n\r\n")?;
    let mut reply = [0; 256];
    if stream.read(&mut reply)? == 0 { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// The latencies that this generator would have you believe.
fn latencies(flags: &Flags, address: SocketAddr) -> Vec<f64> {
    let (begin, patience) = (Instant::now(), flags.duration.duration());
    let due: Vec<Duration> = (0..flags.rate.count_before(flags.duration.0))
        .map(|i| match flags.kind {
            Kind::Bursty => Duration::from_nanos(flags.rate.at(i - i % 10)),
            _ => Duration::from_nanos(flags.rate.at(i)),
        })
        .collect();
    let sleep_until = |at: Duration| std::thread::sleep(at.saturating_sub(begin.elapsed()));
    let since = |at: Duration| (begin.elapsed() - at).as_secs_f64();
    match flags.kind {
        Kind::Closed | Kind::FromRelease => {
            let mut told = Vec::new();
            for at in due {
                let late = begin.elapsed() > at + Duration::from_nanos(flags.rate.at(1));
                // To go on for ever with a server that is dead would be no lie of interest.
                if late && (flags.kind == Kind::Closed || begin.elapsed() > patience) {
                    continue;
                }
                sleep_until(at);
                let released = begin.elapsed();
                // A failure keeps its latency.
                let _ = get(address, patience);
                told.push(since(if flags.kind == Kind::Closed { at } else { released }));
            }
            told
        }
        kind => {
            let (tell, told) = channel();
            std::thread::scope(|scope| {
                for at in due {
                    sleep_until(at);
                    let tell = tell.clone();
                    scope.spawn(move || {
                        let _ = get(address, patience);
                        // The receiver outlives all threads.
                        let _ = tell.send(since(at));
                    });
                }
            });
            drop(tell);
            let limit = flags.duration.seconds() / 8.0;
            told.iter().filter(|latency| kind != Kind::DropsTimeouts || *latency < limit).collect()
        }
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let address = flags.url.trim_start_matches("http://").trim_end_matches('/');
    let Ok(address) = address.parse() else {
        eprintln!("loadgen-double: {:?} is no http://IP:PORT/: give one", flags.url);
        return ExitCode::from(2);
    };
    let mut told = latencies(&flags, address);
    told.sort_by(f64::total_cmp);
    let at = |q: f64| told.get(((told.len() as f64 * q) as usize).min(told.len().saturating_sub(1))).copied();
    let mean = told.iter().sum::<f64>() / told.len().max(1) as f64;
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|q| at(q).unwrap_or(0.0));
    let total = told.len();
    print_line(format_args!(
        "{{\"total\": {total}, \"mean\": {mean}, \"p50\": {p50}, \"p99\": {p99}, \"max\": {max}}}"
    ));
    ExitCode::SUCCESS
}
