//! marked-accept: a TCP echo as it is found everywhere, a loop that accepts and a task for each connection, and what it
//! takes to see its polls and wakes: `.marked(...)` on two futures.
//!
//! Run:      TRACE_MARKS=1 strace -f -o recording target/debug/examples/marked-accept 127.0.0.1:2000 0
//! Poke:     nc 127.0.0.1 2000
//! Draw:     cargo ladder timeline --from recording
//! Expect:   wait, wake accept, poll accept, accept4, pending; poll of the connection, which is pending; its wake, and its poll

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use trace_marks::{Markable, mark};

/// The address to listen on, and how many worker threads to have; none: one thread for everything.
fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:2000".into());
    let workers = args.next().map_or(Ok(0), |workers| workers.parse()).map_err(io::Error::other)?;
    let runtime = match workers {
        0 => Builder::new_current_thread().enable_io().build()?,
        _ => Builder::new_multi_thread().worker_threads(workers).enable_io().build()?,
    };
    runtime.block_on(accept(&address).marked("accept"))
}

async fn accept(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    println!("marked-accept: listening on {}", listener.local_addr()?);
    mark("ready");
    for number in 1.. {
        let (connection, _) = listener.accept().await?;
        tokio::spawn(echo(connection).marked(format!("connection-{number}")));
    }
    Ok(())
}

async fn echo(mut connection: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 1024];
    loop {
        match connection.read(&mut buffer).await? {
            0 => return Ok(()),
            length => connection.write_all(&buffer[..length]).await?,
        }
    }
}
