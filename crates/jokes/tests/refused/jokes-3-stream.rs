//! The stream of lines as one would write it first, and as the borrow checker refuses it. Not part of any
//! build: `rustc --edition 2024 crates/jokes/tests/refused/jokes-3-stream.rs` shows its error.

use std::io::{self, BufRead};
use std::thread;

/// As in tokio: whoever runs the closure may do so after the caller is gone, so it must own what it uses.
fn spawn_blocking<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::spawn(read)
}

// region: refused
struct StreamOfLines {
    lines: io::Lines<io::BufReader<std::fs::File>>,
}

impl StreamOfLines {
    /// The next line, read on a thread of the pool.
    fn next(&mut self) -> thread::JoinHandle<Option<io::Result<String>>> {
        spawn_blocking(|| self.lines.next())
    }
}
// endregion: refused

fn main() {
    let file = std::fs::File::open("jokes.txt").expect("some jokes");
    let mut stream = StreamOfLines { lines: io::BufReader::new(file).lines() };
    println!("{:?}", stream.next().join());
}
