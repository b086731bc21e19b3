//! What every jokes server must do and no act teaches.
//!
//! Each act is a server that sends one random joke to whoever connects. It reads its [`Flags`], opens a
//! [`Server`], accepts [`Connection`]s from a [`Listener`], and tells each of them a [`Joke`] in its own way:
//!
//! | in the act | what stands behind it |
//! |---|---|
//! | [`Flags::parse`] | reads the command line; wrong usage ends the program with status 2 |
//! | [`Server::open`] | indexes the jokes, binds the listener, takes SIGINT and SIGTERM; a failure ends it with status 1 |
//! | [`Server::run`] | the runtime, the first line on stdout, the wait for a signal, the grace period, the summary, the exit code |
//! | [`Listener::accept`] | the next connection and its joke; pauses when descriptors run out |
//! | [`Joke::lines`] | the joke's lines, read from the file: each may block |
//! | [`Connection`] | the connection, to be written to; a write that makes no progress for `--idle-limit` fails |
//! | [`catch_refused_thread`] | makes an error of the panic with which tokio's pool answers when it gets no thread |
//! | [`Connection::close`] | closes without losing what was sent, and counts |
//!
//! An act on another runtime takes [`Server::run_with`], and an [`Acceptor`] and [`Record`]s in place of the listener
//! and its connections.
#![forbid(unsafe_code)]

mod flags;
mod jokes;
mod server;
mod summary;

pub use flags::{BUNDLED, Flags, parse_address, parse_number, parse_positive_duration};
pub use jokes::{Joke, Jokes, LONGEST_LINE, Reader, Section, file_shrank};
pub use server::{Acceptor, Connection, GRACE_PERIOD, Listener, Record, Server, catch_refused_thread};
pub use summary::{Summary, by_kind};
