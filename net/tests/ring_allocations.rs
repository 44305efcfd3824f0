//! In the steady state the ring allocates nothing, neither to receive nor to send.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use pigeonhole::ring::{Completion, Ring, RingConfig, Token};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no counter any more, and none of its allocations matter.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_round_trip_allocates_nothing() {
    let (mut ring, _) = Ring::new(&RingConfig::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    ring.receive(server.as_fd(), Token::default());
    let mut spare = Some(Vec::with_capacity(4096));
    let mut round_trip = || {
        client.write_all(&[9; 100]).unwrap();
        let mut outgoing = spare.take().unwrap();
        while outgoing.len() < 100 {
            ring.submit_and_wait(Some(Duration::from_secs(10))).unwrap();
            while let Some(completion) = ring.next_completion() {
                match completion {
                    Completion::Received { bytes, armed: true, .. } => {
                        outgoing.extend_from_slice(bytes);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        ring.send(server.as_fd(), Token::default(), outgoing);
        while spare.is_none() {
            ring.submit_and_wait(Some(Duration::from_secs(10))).unwrap();
            match ring.next_completion() {
                Some(Completion::Sent { mut buffer, result: Ok(()), .. }) => {
                    buffer.clear();
                    spare = Some(buffer);
                }
                other => panic!("{other:?}"),
            }
        }
        let mut answer = [0; 100];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [9; 100]);
    };
    // The first ones make the slots and lanes.
    (0..10).for_each(|_| round_trip());
    let before = ALLOCATIONS.get();
    assert!(before > 0, "the counter counts");
    (0..20_000).for_each(|_| round_trip());
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
