//! What tokio-runtime-join and tokio-runtime-spawn share: two TCP listeners that share a ledger, and the
//! measure of their overlap. Whether they run in one task or in two is what the demos show.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read};
use std::net::{self, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use echo_service::demo::{self, Demo};
use echo_service::{LAST_CALL, Signals, parse_count, parse_duration};
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{MutexGuard, watch};
use tokio::task::yield_now;
use trace_marks::{mark, mark_of};

/// How many slices of work a connection costs.
const SLICES: u64 = 4;

/// How long an entry in the ledger takes, as if it went to a disk.
const ENTRY: Duration = Duration::from_millis(10);

/// How long `--poke --blocking` waits for a listener of which it is not sure that it answers.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
struct Flags {
    /// Two IP:PORT to listen on; port 0 lets the kernel choose
    #[arg(value_name = "ADDR", num_args = 2, value_parser = demo::parse_loopback,
          default_values = ["127.0.0.1:8080", "127.0.0.1:8081"])]
    addresses: Vec<SocketAddr>,

    /// Make a mistake: the first listener accepts with std's blocking call
    #[arg(long)]
    blocking: bool,

    /// Make another: take the ledger by trying again and again
    #[arg(long)]
    spin: bool,

    /// How long a connection computes without a pause: 20ms, 1s, at most 1day; it does so four times
    #[arg(long, value_name = "DURATION", default_value = "20ms", value_parser = parse_duration)]
    slice: Duration,

    /// Poke itself: N connections to each listener, 1 to 1000000, then end
    #[arg(long, value_name = "N", value_parser = parse_count::<1_000_000>)]
    poke: Option<usize>,
}

/// What a listener has counted; it returns this when it ends.
#[derive(Clone, Debug, Serialize)]
pub struct Tally {
    address: SocketAddr,
    connections: u64,
    /// The task's number; `null` in the future that `block_on` polls, which is no task.
    task: Option<String>,
    threads: BTreeSet<String>,
    slices: u64,
    /// Slices begun while the neighbour had a connection open, too.
    concurrent: u64,
    /// Slices in which the neighbour computed at the same instant.
    parallel: u64,
    /// How often the ledger's lock was asked for.
    lock_attempts: u64,
}

/// What happened, as text and as JSON.
#[derive(Serialize)]
struct Summary {
    program: &'static str,
    seconds: f64,
    /// What each listener returned; `null` for one that was still blocked a second after the end.
    listeners: [Option<Tally>; 2],
    /// Entries that both made in the ledger they share.
    ledger: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |count: u64| if count > 0 { "yes" } else { "no" };
        for (index, tally) in self.listeners.iter().enumerate() {
            match tally {
                Some(tally) => writeln!(
                    f,
                    "listener {index}: {} connections; beside the neighbour: {}; at the same instant: {}",
                    tally.connections,
                    yes(tally.concurrent),
                    yes(tally.parallel)
                )?,
                None => writeln!(f, "listener {index}: still blocked, it has returned nothing")?,
            }
        }
        write!(f, "{}: {} entries in the ledger", self.program, self.ledger)
    }
}

/// Two listeners, and everything they share.
pub struct Listeners {
    listeners: Mutex<Vec<net::TcpListener>>,
    poke: Option<usize>,
    shared: Arc<Shared>,
    signals: Mutex<Option<Signals>>,
}

struct Shared {
    demo: Demo,
    addresses: Vec<SocketAddr>,
    blocking: bool,
    spin: bool,
    slice: Duration,
    /// Entries: which listener, which of its connections. tokio's lock, since it is held across an `.await`.
    ledger: tokio::sync::Mutex<Vec<(usize, u64)>>,
    /// How long the ledger is, for who cannot wait for it.
    entries: AtomicUsize,
    /// By listener: whether it has a connection open.
    open: [AtomicBool; 2],
    /// By listener: whether it computes at this instant.
    computing: [AtomicBool; 2],
    /// Names of the threads, numbered as they come.
    threads: Mutex<Vec<thread::ThreadId>>,
    /// What the listeners have returned so far.
    returned: Mutex<[Option<Tally>; 2]>,
    stop: watch::Sender<bool>,
    finished: Once,
}

impl Listeners {
    /// Reads the command line of `program`, binds both listeners and takes the signals. Wrong usage ends
    /// the program with status 2, a failure with status 1.
    pub fn open(program: &'static str, about: &'static str) -> Self {
        let (demo, flags) = Demo::parse::<Flags>(program, about);
        let (listeners, addresses) = flags.addresses.iter().map(|address| demo.bind_tcp(*address)).unzip();
        let signals = demo.signals();
        let shared = Shared {
            demo,
            addresses,
            blocking: flags.blocking,
            spin: flags.spin,
            slice: flags.slice,
            ledger: Default::default(),
            entries: AtomicUsize::new(0),
            open: Default::default(),
            computing: Default::default(),
            threads: Default::default(),
            returned: Default::default(),
            stop: watch::Sender::new(false),
            finished: Once::new(),
        };
        Self {
            listeners: Mutex::new(listeners),
            poke: flags.poke,
            shared: Arc::new(shared),
            signals: Mutex::new(Some(signals)),
        }
    }

    /// A runtime with two workers, whatever the machine has. A failure ends the program with status 1.
    pub fn runtime(&self) -> Runtime {
        self.shared.demo.start_runtime(|| Builder::new_multi_thread().worker_threads(2).enable_all().build())
    }

    /// One future for each listener. It serves until the program is to end, and returns what it has counted.
    /// Prints the greeting; a second call finds no listeners left.
    pub fn futures(&self) -> [impl Future<Output = io::Result<Tally>> + Send + 'static; 2] {
        self.begin();
        let mut listeners =
            std::mem::take(&mut *self.listeners.lock().unwrap_or_else(PoisonError::into_inner)).into_iter();
        [0, 1].map(|index| {
            let (listener, shared) = (listeners.next(), Arc::clone(&self.shared));
            async move {
                let listener = listener.ok_or_else(|| io::Error::other("the listeners are taken already"))?;
                shared.serve(index, listener).await
            }
        })
    }

    /// Greets, and starts the threads that end the program: on a signal, or when all pokes are answered.
    /// They are no tasks, because a listener that blocks may take away the thread that would run those.
    fn begin(&self) {
        let shared = &self.shared;
        if let Some(signals) = self.signals.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let shared = Arc::clone(shared);
            self.shared.demo.spawn(move || {
                // Should the pipe fail, the program ends, too.
                let _ = signals.wait();
                shared.stop();
            });
        }
        if let Some(count) = self.poke {
            let shared = Arc::clone(shared);
            self.shared.demo.spawn(move || {
                if let Err(error) = shared.poke(count) {
                    shared.demo.fail_of("cannot poke", &error);
                }
                shared.stop();
            });
        }
        let [first, second] = shared.addresses[..] else { unreachable!("clap wants two") };
        shared.demo.greet(format_args!(
            "listening on {first} and {second}  (try: nc {} {}, and the other)",
            first.ip(),
            first.port()
        ));
    }

    /// Takes what listener `index` has returned. An error ends the program with status 1.
    pub fn returned(&self, index: usize, tally: io::Result<Tally>) {
        match tally {
            Ok(tally) => {
                self.shared.returned.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(tally)
            }
            Err(error) => self.shared.demo.fail_of(format_args!("listener {index} stopped serving"), &error),
        }
    }

    /// Prints the summary.
    pub fn finish(&self) {
        self.shared.finish();
    }
}

impl Shared {
    async fn serve(&self, index: usize, listener: net::TcpListener) -> io::Result<Tally> {
        let mut stop = self.stop.subscribe();
        let mut tally = Tally {
            address: self.addresses[index],
            connections: 0,
            task: tokio::task::try_id().map(|id| id.to_string()),
            threads: BTreeSet::new(),
            slices: 0,
            concurrent: 0,
            parallel: 0,
            lock_attempts: 0,
        };
        // region: accept
        if self.blocking && index == 0 {
            while !*stop.borrow() {
                self.demo.say(format_args!("listener {index}: blocks in accept, {}", self.thread()));
                // Wrong on purpose: until somebody connects, this thread does nothing else.
                let (stream, peer) = listener.accept()?;
                stream.set_nonblocking(true)?;
                self.connection(index, TcpStream::from_std(stream)?, peer, &mut tally).await;
            }
        } else {
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            loop {
                let accepted = tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => break,
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((stream, peer)) => self.connection(index, stream, peer, &mut tally).await,
                    Err(error) => {
                        // Too many open files, say. What is closed meanwhile makes room.
                        self.demo.log(format_args!("listener {index}: the accept failed: {error}"));
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        }
        // endregion: accept
        Ok(tally)
    }

    /// Serves one connection: a line at once, some work in slices, an entry in the ledger, another line.
    async fn connection(&self, index: usize, mut stream: TcpStream, peer: SocketAddr, tally: &mut Tally) {
        self.open[index].store(true, Ordering::SeqCst);
        tally.connections += 1;
        let number = tally.connections;
        let task = tally.task.as_deref().map_or("no task (block_on)".to_owned(), |id| format!("task {id}"));
        let place = format!("listener {index}: connection {number} in {task}, {}", self.thread());
        self.demo.say(&place);
        self.demo.log(format_args!("listener {index}: connection {number} comes from {peer}"));
        // Whoever connected may be gone already; the work is done all the same.
        let _ = stream.write_all(format!("{place}\n").as_bytes()).await;

        let (mut concurrent, mut parallel) = (0, 0);
        for _ in 0..SLICES {
            tally.threads.insert(self.thread());
            concurrent += u64::from(self.open[1 - index].load(Ordering::SeqCst));
            parallel += u64::from(self.compute(index));
            // Between slices the neighbour may have its turn, if it waits for one in this task.
            yield_now().await;
        }
        tally.slices += SLICES;
        tally.concurrent += concurrent;
        tally.parallel += parallel;

        self.enter(index, number, tally).await;
        let last = format!(
            "beside the neighbour in {concurrent} of {SLICES} slices, at the same instant in {parallel}\n"
        );
        // As above.
        let _ = stream.write_all(last.as_bytes()).await;
        self.open[index].store(false, Ordering::SeqCst);
    }

    /// Computes for one slice. Returns whether the neighbour was seen to do so at the same instant.
    fn compute(&self, index: usize) -> bool {
        mark_of("poll", format_args!("listener-{index}"));
        let start = Instant::now();
        let mut parallel = false;
        self.computing[index].store(true, Ordering::SeqCst);
        while start.elapsed() < self.slice {
            parallel |= self.computing[1 - index].load(Ordering::SeqCst);
            std::hint::spin_loop();
        }
        self.computing[index].store(false, Ordering::SeqCst);
        mark_of("pending", format_args!("listener-{index}"));
        parallel
    }

    // region: ledger
    /// Makes an entry in the ledger that both listeners share. It takes a while, and the lock is held.
    async fn enter(&self, index: usize, number: u64, tally: &mut Tally) {
        let mut ledger = match self.spin {
            false => {
                tally.lock_attempts += 1;
                self.ledger.lock().await
            }
            true => self.wrong_spinning_lock(tally).await,
        };
        tokio::time::sleep(ENTRY).await;
        ledger.push((index, number));
        self.entries.store(ledger.len(), Ordering::Relaxed);
    }

    /// Wrong on purpose: asks again and again, and is polled each time, instead of being woken once. Without
    /// the `yield_now` it would be worse: in one task with the holder, it would never end.
    async fn wrong_spinning_lock(&self, tally: &mut Tally) -> MutexGuard<'_, Vec<(usize, u64)>> {
        loop {
            tally.lock_attempts += 1;
            match self.ledger.try_lock() {
                Ok(ledger) => return ledger,
                Err(_) => yield_now().await,
            }
        }
    }
    // endregion: ledger

    /// This thread: `main`, or its number in the order in which threads came by.
    fn thread(&self) -> String {
        let thread = thread::current();
        if thread.name() == Some("main") {
            return "thread main".to_owned();
        }
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let number = threads.iter().position(|id| *id == thread.id()).unwrap_or_else(|| {
            threads.push(thread.id());
            threads.len() - 1
        });
        format!("thread {}", number + 1)
    }

    /// Connects `count` times to both listeners.
    fn poke(&self, count: usize) -> io::Result<()> {
        let read = |mut stream: net::TcpStream| stream.read_to_end(&mut Vec::new());
        let [first, second] = self.addresses[..] else { unreachable!("clap wants two") };
        for _ in 0..count {
            // With --blocking, first the one that does not block: does it answer?
            let (early, late) = if self.blocking { (second, first) } else { (first, second) };
            let mut early = net::TcpStream::connect(early)?;
            early.set_read_timeout(self.blocking.then_some(PATIENCE))?;
            // The line at the start tells that it is being served.
            if early.read(&mut [0]).is_err() {
                self.demo.say(format_args!("poke: listener 1 does not answer while listener 0 blocks"));
            }
            early.set_read_timeout(None)?;
            let late = net::TcpStream::connect(late)?;
            read(late)?;
            read(early)?;
        }
        Ok(())
    }

    /// Tells the listeners to end. Who is still blocked after a second is left behind.
    fn stop(&self) {
        self.stop.send_replace(true);
        thread::sleep(LAST_CALL);
        self.finish();
        std::process::exit(0);
    }

    fn finish(&self) {
        self.finished.call_once(|| {
            let listeners = self.returned.lock().unwrap_or_else(PoisonError::into_inner).clone();
            mark("shutdown");
            self.demo.finish(&Summary {
                program: self.demo.program(),
                seconds: self.demo.seconds(),
                listeners,
                ledger: self.entries.load(Ordering::Relaxed),
            });
        });
    }
}
