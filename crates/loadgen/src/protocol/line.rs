//! TCP lines: each arrival connects and reads until the end of file. The connect is inside the latency.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Context, Protocol, Route};
use crate::clock::Monotonic;
use crate::record::{Ending, Failure};

/// One place for a connection at a time.
#[derive(Debug)]
pub struct Line {
    route: Arc<Route>,
    body: Bytes,
    buffer: Vec<u8>,
}

impl Line {
    /// Connects by `route`, sends `body` if there is any, and reads to the end.
    pub fn new(route: Arc<Route>, body: Bytes) -> Self {
        Self { route, body, buffer: vec![0; 16 * 1024] }
    }

    async fn attempt(&mut self, context: &Context<'_>) -> Result<Ending, Failure> {
        let start = Monotonic.now();
        // The connection is part of what the request asks of the server: the uncorrected latency begins here.
        context.connected(start, None);
        let mut stream = self.route.connect(context.job.index).await?;
        context.connected(start, Some(Monotonic.now() - start));
        if !self.body.is_empty() {
            stream.write_all(&self.body).await?;
        }
        let mut length = 0;
        loop {
            match stream.read(&mut self.buffer).await? {
                0 if length == 0 => return Err(Failure::new("empty reply", "it closed without a byte")),
                0 => return Ok(Ending::Ok),
                n => {
                    context.read(n as u64);
                    if length == 0 {
                        context.first_byte();
                    }
                    length += n;
                }
            }
        }
    }
}

impl Protocol for Line {
    async fn fire(&mut self, context: &Context<'_>) -> Ending {
        self.attempt(context).await.unwrap_or_else(|failure| context.failed(failure))
    }

    fn abandon(&mut self) {}

    async fn idle(&mut self) {
        std::future::pending().await
    }
}
