//! The sizes and places at which queues go wrong.

use std::net::SocketAddr;

use datagram_queue::{DatagramQueue, Fill, Policy};

const LARGEST: usize = 65_507;

fn peer(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn put(queue: &mut DatagramQueue, payload: &[u8], port: u16) -> Fill {
    let filled = queue.fill(|slot| {
        slot[..payload.len()].copy_from_slice(payload);
        Ok(Some((payload.len(), peer(port))))
    });
    filled.expect("the closure does not fail")
}

fn take(queue: &mut DatagramQueue) -> (Vec<u8>, u16) {
    let mut taken = None;
    let sent = queue.drain(|payload, peer| {
        taken = Some((payload.to_vec(), peer.port()));
        Ok(payload.len())
    });
    let taken = taken.expect("the queue is not empty");
    assert_eq!(sent.expect("the closure does not fail"), taken.0.len());
    taken
}

#[test]
fn empty_and_largest_datagrams_keep_their_bytes() {
    let largest: Vec<u8> = (0..LARGEST).map(|i| (i * 7) as u8).collect();
    let mut queue = DatagramQueue::new(3, LARGEST, Policy::Backpressure);
    for (port, payload) in [(1, &[][..]), (2, &largest[..]), (3, &[42][..])] {
        assert_eq!(put(&mut queue, payload, port), Fill::Queued);
    }
    assert_eq!(take(&mut queue), (vec![], 1));
    assert_eq!(take(&mut queue), (largest, 2));
    assert_eq!(take(&mut queue), (vec![42], 3));
    assert!(queue.is_empty());
}

#[test]
fn a_limit_of_no_bytes_admits_empty_datagrams() {
    let mut queue = DatagramQueue::new(1, 0, Policy::Backpressure);
    assert_eq!(put(&mut queue, &[], 1), Fill::Queued);
    assert_eq!(take(&mut queue), (vec![], 1));
}

#[test]
fn order_survives_the_wrap_around() {
    for fill_to in 1..=5_usize {
        let mut queue = DatagramQueue::new(5, 8, Policy::Backpressure);
        let (mut next_in, mut next_out) = (0_u64, 0_u64);
        while next_out < 100 {
            while queue.len() < fill_to {
                assert_eq!(put(&mut queue, &next_in.to_be_bytes(), 1), Fill::Queued);
                next_in += 1;
            }
            assert_eq!(take(&mut queue).0, next_out.to_be_bytes());
            next_out += 1;
        }
    }
}

#[test]
fn a_full_queue_drops_only_behind_a_send_that_would_block() {
    for (policy, kept) in [(Policy::DropNewest, [1, 2]), (Policy::DropOldest, [4, 5])] {
        let mut queue = DatagramQueue::new(2, 8, policy);
        assert_eq!(put(&mut queue, b"1", 1), Fill::Queued);
        assert_eq!(put(&mut queue, b"2", 2), Fill::Queued);
        assert_eq!(put(&mut queue, b"3", 3), Fill::Full, "{policy:?}: no send has been tried");
        let blocked = queue.drain(|_, _| Err(std::io::ErrorKind::WouldBlock.into()));
        assert!(blocked.is_err() && queue.has_room(), "{policy:?}");
        for port in 3..=5 {
            assert_eq!(put(&mut queue, b"more", port), Fill::Dropped, "{policy:?}");
        }
        assert_eq!((queue.len(), queue.peak(), queue.dropped()), (2, 2, 3), "{policy:?}");
        let ports = [take(&mut queue).1, take(&mut queue).1];
        assert_eq!(ports, kept, "{policy:?}");
        assert!(queue.has_room(), "{policy:?}: a send has succeeded since");
    }
}

#[test]
fn backpressure_takes_no_more_than_fits() {
    let mut queue = DatagramQueue::new(1, 8, Policy::Backpressure);
    assert_eq!(put(&mut queue, b"1", 1), Fill::Queued);
    let _ = queue.drain(|_, _| Err(std::io::ErrorKind::WouldBlock.into()));
    assert_eq!(put(&mut queue, b"2", 2), Fill::Full);
    assert_eq!(queue.dropped(), 0);
}

#[test]
fn sizes_that_do_not_fit_are_known_beforehand() {
    assert_eq!(DatagramQueue::bytes_needed(8, LARGEST), Some(9 * (LARGEST + 1)));
    assert_eq!(DatagramQueue::bytes_needed(usize::MAX, 1), None);
    assert_eq!(DatagramQueue::bytes_needed(1, usize::MAX), None);
    assert_eq!(DatagramQueue::bytes_needed(usize::MAX / 2, 3), None);
}
