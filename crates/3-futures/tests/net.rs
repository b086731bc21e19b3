//! The reactor and the sockets: which system events make which wakes, and that none is lost.

mod util;

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use futures::future::{join, join_all, select};
use futures::io::{AsyncReadExt, AsyncWriteExt};
use mini_runtime::net::{TcpListener, TcpStream, UdpSocket};
use mini_runtime::reactor::{Interest, Registration};
use mini_runtime::{Runtime, Step, sleep, spawn, spawn_named, timeout, yield_now};
use util::{Log, within_deadline};

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[test]
fn one_datagram_one_wake_two_polls() {
    within_deadline(|| {
        let log = Log::default();
        let runtime = log.runtime();
        let heard = runtime.block_on(async {
            let socket = UdpSocket::bind(any()).unwrap();
            let address = socket.local_addr().unwrap();
            let reader = spawn_named("reader", async move {
                let mut buffer = [0; 16];
                let (length, _) = socket.recv_from(&mut buffer).await.unwrap();
                buffer[..length].to_vec()
            });
            let sender = StdSocket::bind(any()).unwrap();
            // The reader waits by now.
            yield_now().await;
            yield_now().await;
            assert_eq!((log.count(Step::Poll("reader")), log.count(Step::Wake("reader"))), (1, 0));
            sender.send_to(b"", address).unwrap();
            reader.await
        });
        assert_eq!(heard.unwrap(), b"", "an empty datagram is a datagram");
        assert_eq!(log.count(Step::Wake("reader")), 1);
        assert_eq!(log.count(Step::Poll("reader")), 2);
    });
}

#[test]
fn readiness_is_kept_until_would_block() {
    within_deadline(|| {
        let log = Log::default();
        log.runtime()
            .block_on(async {
                let socket = UdpSocket::bind(any()).unwrap();
                let sender = StdSocket::bind(any()).unwrap();
                for n in 0..3 {
                    sender.send_to(&[n], socket.local_addr().unwrap()).unwrap();
                }
                let mut buffer = [0; 16];
                let error = socket.try_recv_from(&mut buffer).unwrap_err();
                assert_eq!(
                    error.kind(),
                    ErrorKind::WouldBlock,
                    "nothing is known of it, so nothing is tried"
                );
                socket.ready(Interest::READ).await.unwrap();
                let waits = log.steps().len();
                for n in 0..3 {
                    // No further event comes, and none is needed.
                    assert_eq!(socket.recv_from(&mut buffer).await.unwrap().0, 1);
                    assert_eq!(buffer[0], n);
                }
                assert_eq!(log.steps().len(), waits, "three datagrams by one event");
                assert_eq!(socket.try_recv_from(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
            })
            .unwrap();
    });
}

#[test]
fn two_tasks_may_wait_for_one_socket() {
    within_deadline(|| {
        Runtime::new()
            .unwrap()
            .block_on(async {
                let socket = Rc::new(UdpSocket::bind(any()).unwrap());
                let readers: Vec<_> = (0..5)
                    .map(|_| {
                        let socket = Rc::clone(&socket);
                        spawn(async move { socket.recv_from(&mut [0; 16]).await.unwrap().0 })
                    })
                    .collect();
                yield_now().await;
                let sender = StdSocket::bind(any()).unwrap();
                for _ in 0..5 {
                    sender.send_to(b"abc", socket.local_addr().unwrap()).unwrap();
                }
                assert_eq!(join_all(readers).await, [3; 5]);
            })
            .unwrap();
    });
}

/// R22: an event of a descriptor that was closed meanwhile. The wait reports both sockets at once; the task that is polled
/// first drops the other one's socket and opens a new one, which gets the same descriptor.
#[test]
fn a_stale_event_reaches_nobody() {
    within_deadline(|| {
        let log = Log::default();
        log.runtime()
            .block_on(async {
                let sender = StdSocket::bind(any()).unwrap();
                let first = UdpSocket::bind(any()).unwrap();
                let second = UdpSocket::bind(any()).unwrap();
                let (to_first, to_second) = (first.local_addr().unwrap(), second.local_addr().unwrap());
                let victim = Rc::new(Cell::new(Some(second)));
                let reader = {
                    let victim = Rc::clone(&victim);
                    spawn_named("reader", async move {
                        first.ready(Interest::READ).await.unwrap();
                        drop(victim.take());
                        let new = UdpSocket::bind(any()).unwrap();
                        // One look, in which a late event would be seen.
                        yield_now().await;
                        new.try_recv_from(&mut [0; 16]).unwrap_err().kind()
                    })
                };
                yield_now().await;
                sender.send_to(b"1", to_first).unwrap();
                sender.send_to(b"2", to_second).unwrap();
                assert_eq!(reader.await, ErrorKind::WouldBlock);
            })
            .unwrap();
    });
}

/// R22: a wake without an event. The receive finds nothing, and waits on.
#[test]
fn a_spurious_wake_costs_a_poll_and_nothing_else() {
    within_deadline(|| {
        let log = Log::default();
        log.runtime()
            .block_on(async {
                let socket = UdpSocket::bind(any()).unwrap();
                let address = socket.local_addr().unwrap();
                let kept = Arc::new(Mutex::new(None));
                let keep = Arc::clone(&kept);
                let reader = spawn_named("reader", async move {
                    *keep.lock().unwrap() = Some(poll_fn(|cx| Poll::Ready(cx.waker().clone())).await);
                    socket.recv_from(&mut [0; 16]).await.unwrap().0
                });
                yield_now().await;
                yield_now().await;
                for _ in 0..10 {
                    kept.lock().unwrap().as_ref().expect("the reader has been polled").wake_by_ref();
                    yield_now().await;
                }
                StdSocket::bind(any()).unwrap().send_to(b"xyz", address).unwrap();
                assert_eq!(reader.await, 3);
            })
            .unwrap();
        assert_eq!(log.count(Step::Wake("reader")), 11, "ten for nothing, one by the event");
        assert_eq!(log.count(Step::Poll("reader")), 12);
        assert_eq!(log.count(Step::Keep), 1, "the waker that is kept already is not kept again");
    });
}

/// R16: datagrams that arrive before the wait, and one more between the wait and the drain: the observer sends it when the
/// system has reported the socket and the task has not been polled yet. Returns how many rounds it took to get stuck.
fn rounds(rounds: usize, drain: bool) -> Option<usize> {
    let sender = StdSocket::bind(any()).unwrap();
    let armed = Arc::new(Mutex::new(None::<SocketAddr>));
    let observer = {
        let armed = Arc::clone(&armed);
        move |step| {
            if let Step::Event { readable: true, .. } = step
                && let Some(address) = armed.lock().unwrap().take()
            {
                sender.send_to(b"between", address).unwrap();
            }
        }
    };
    let runtime = Runtime::with_observer(observer).unwrap();
    let stuck = runtime.block_on(async {
        let socket = Registration::new(mio::net::UdpSocket::bind(any()).unwrap()).unwrap();
        let address = socket.get().local_addr().unwrap();
        let before = StdSocket::bind(any()).unwrap();
        let mut buffer = [0; 16];
        // Only a mutant is expected to wait in vain.
        let patience = if drain { util::DEADLINE } else { Duration::from_millis(500) };
        for round in 0..rounds {
            *armed.lock().unwrap() = Some(address);
            before.send_to(b"first", address).unwrap();
            before.send_to(b"second", address).unwrap();
            let mut received = 0;
            while received < 3 {
                if timeout(patience, socket.ready(Interest::READ)).await.is_err() {
                    return Some(round);
                }
                if drain {
                    while socket.try_io(Interest::READ, |socket| socket.recv_from(&mut buffer)).is_ok() {
                        received += 1;
                    }
                } else {
                    // The mutant: one receive for an event, and then back to the wait as if it had met would-block.
                    let _ = socket.try_io(Interest::READ, |socket| {
                        received += usize::from(socket.recv_from(&mut buffer).is_ok());
                        Err::<(), _>(ErrorKind::WouldBlock.into())
                    });
                }
            }
        }
        None
    });
    stuck.unwrap()
}

#[test]
fn what_arrives_between_wait_and_drain_is_not_stuck() {
    within_deadline(|| assert_eq!(rounds(10_000, true), None));
}

#[test]
fn the_mutant_without_a_drain_is_stuck() {
    within_deadline(|| {
        assert_eq!(rounds(10_000, false), Some(0), "one receive for an edge leaves a datagram behind")
    });
}

/// Each datagram that the kernel has sent is news of writability. It is heard only while somebody waits for it.
#[test]
fn writability_is_news_only_to_those_who_wait() {
    within_deadline(|| {
        let log = Log::default();
        let heard = || {
            let writable = |step: &&Step| matches!(step, Step::Event { writable: true, .. });
            log.steps().iter().filter(writable).count()
        };
        log.runtime()
            .block_on(async {
                let socket = Registration::new(mio::net::UdpSocket::bind(any()).unwrap()).unwrap();
                let sink = StdSocket::bind(any()).unwrap().local_addr().unwrap();
                let send = || socket.try_io(Interest::WRITE, |socket| socket.send_to(b"x", sink)).unwrap();
                let exchange = async || {
                    for _ in 0..20 {
                        send();
                        yield_now().await;
                    }
                };
                exchange().await;
                assert_eq!(heard(), 0, "nobody waits");
                // As if the send had met would-block.
                let full = |_: &_| Err::<(), _>(ErrorKind::WouldBlock.into());
                socket.try_io(Interest::WRITE, full).unwrap_err();
                socket.ready(Interest::WRITE).await.unwrap();
                assert_eq!(heard(), 1);
                exchange().await;
                assert_eq!(heard(), 1, "nobody waits any more");
            })
            .unwrap();
    });
}

#[test]
fn a_socket_that_is_gone_keeps_no_wakers() {
    struct Nobody;
    impl std::task::Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }
    within_deadline(|| {
        Runtime::new()
            .unwrap()
            .block_on(async {
                let nobody = Arc::new(Nobody);
                let waker = Arc::clone(&nobody).into();
                let socket = Registration::new(mio::net::UdpSocket::bind(any()).unwrap()).unwrap();
                let waiting = socket.poll_ready(&mut std::task::Context::from_waker(&waker), Interest::READ);
                assert!(waiting.is_pending());
                assert_eq!(Arc::strong_count(&nobody), 3, "ours, the waker's, and the reactor's");
                drop(socket);
                assert_eq!(Arc::strong_count(&nobody), 2);
            })
            .unwrap();
    });
}

#[test]
fn tcp_carries_a_mebibyte_both_ways() {
    within_deadline(|| {
        Runtime::new()
            .unwrap()
            .block_on(async {
                let listener = TcpListener::bind(any()).unwrap();
                let address = listener.local_addr().unwrap();
                let server = spawn(async move {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (reader, mut writer) = stream.split();
                    let copied = futures::io::copy(reader, &mut writer).await.unwrap();
                    writer.close().await.unwrap();
                    copied
                });
                let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| n.wrapping_mul(2_654_435_761) as u8).collect();
                let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().split();
                let mut heard = Vec::new();
                let write = async {
                    writer.write_all(&bytes).await.unwrap();
                    writer.close().await.unwrap();
                };
                let ((), length) = join(write, reader.read_to_end(&mut heard)).await;
                assert_eq!(length.unwrap(), bytes.len());
                assert!(heard == bytes, "the bytes came back changed");
                assert_eq!(server.await, 1 << 20);
            })
            .unwrap();
    });
}

#[test]
fn a_refused_connection_is_an_error_with_its_name() {
    within_deadline(|| {
        let runtime = Runtime::new().unwrap();
        let refused = runtime.block_on(async {
            // Bound and never listening: nobody else can get the port, and nobody answers there.
            let taken = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            taken.bind(&any().into()).unwrap();
            let address = taken.local_addr().unwrap().as_socket().unwrap();
            TcpStream::connect(address).await.map(drop)
        });
        assert_eq!(refused.unwrap().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_connect_waits_until_it_is_decided() {
    within_deadline(|| {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&any().into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        // Nobody accepts, and there is room for few: then the kernel leaves the next ones unanswered.
        let mut waiting = Vec::new();
        while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            waiting.push(stream);
        }
        let undecided = Runtime::new().unwrap().block_on(async {
            timeout(Duration::from_millis(300), TcpStream::connect(address)).await.map(drop)
        });
        assert_eq!(undecided.unwrap(), Err(mini_runtime::Elapsed));
    });
}

#[test]
fn an_end_wakes_the_reader() {
    within_deadline(|| {
        Runtime::new()
            .unwrap()
            .block_on(async {
                let listener = TcpListener::bind(any()).unwrap();
                let address = listener.local_addr().unwrap();
                let (client, (mut server, _)) =
                    join(async { TcpStream::connect(address).await.unwrap() }, async {
                        listener.accept().await.unwrap()
                    })
                    .await;
                let reader = spawn(async move { server.read(&mut [0; 16]).await.unwrap() });
                yield_now().await;
                drop(client);
                assert_eq!(reader.await, 0);
            })
            .unwrap();
    });
}

/// A socket shared by what waits for it and by what has given up waiting: the one that is left gets the datagram.
#[test]
fn a_future_dropped_while_it_waits_takes_nothing_with_it() {
    within_deadline(|| {
        Runtime::new()
            .unwrap()
            .block_on(async {
                let socket = UdpSocket::bind(any()).unwrap();
                let address = socket.local_addr().unwrap();
                let mut buffer = [0; 16];
                for _ in 0..10 {
                    let soon = std::pin::pin!(sleep(Duration::from_millis(1)));
                    drop(select(std::pin::pin!(socket.recv_from(&mut buffer)), soon).await);
                }
                StdSocket::bind(any()).unwrap().send_to(b"kept", address).unwrap();
                assert_eq!(socket.recv_from(&mut buffer).await.unwrap().0, 4);
            })
            .unwrap();
    });
}

#[test]
fn a_receive_that_was_given_up_leaves_one_waker_until_the_next_event() {
    within_deadline(|| {
        let log = Log::default();
        log.runtime()
            .block_on(async {
                let socket = Rc::new(UdpSocket::bind(any()).unwrap());
                let address = socket.local_addr().unwrap();
                let given_up = Rc::clone(&socket);
                spawn_named("quitter", async move {
                    for _ in 0..5 {
                        let mut buffer = [0; 16];
                        let receive = std::pin::pin!(given_up.recv_from(&mut buffer));
                        assert!(futures::poll!(receive).is_pending());
                    }
                    pending::<()>().await
                });
                yield_now().await;
                assert_eq!(log.count(Step::Keep), 1, "five receives of one task, one waker");
                let sender = StdSocket::bind(any()).unwrap();
                for _ in 0..2 {
                    sender.send_to(b"news", address).unwrap();
                    assert_eq!(socket.recv_from(&mut [0; 16]).await.unwrap().0, 4);
                }
            })
            .unwrap();
        assert_eq!(log.count(Step::Wake("quitter")), 1, "by the first event, for nothing");
        assert_eq!(log.count(Step::Poll("quitter")), 2);
    });
}
