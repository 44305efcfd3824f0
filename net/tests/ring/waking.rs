//! Sleeping, waking, and the end of a ring.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use pigeonhole::os;
use pigeonhole::ring::{Completion, LogBuffers, Ring, SyncPrimitive, Token, WAKER_VALUE};

use super::{LISTENER, LOG, default_ring, scratch_file, wait_for};

#[test]
fn one_ring_wakes_another_that_sleeps() {
    let (send_target, target) = mpsc::channel();
    let sleeper = thread::spawn(move || {
        let mut ring = default_ring();
        send_target.send(ring.wake_target().unwrap()).unwrap();
        let mut values = Vec::new();
        while values.len() < 100 {
            match wait_for(&mut ring) {
                Completion::Woken { value } => values.push(value),
                other => panic!("{other:?}"),
            }
        }
        values
    });
    let target = target.recv().unwrap();
    let mut ring = default_ring();
    for value in 0..100 {
        ring.wake(&target, u32::MAX - value);
        ring.submit_and_wait(Some(Duration::ZERO)).unwrap();
    }
    let values = sleeper.join().unwrap();
    assert_eq!(values, (0..100).map(|value| u32::MAX - value).collect::<Vec<_>>());
}

#[test]
fn any_thread_wakes_a_ring_that_sleeps() {
    let mut ring = default_ring();
    let waker = ring.waker().unwrap();
    for _ in 0..3 {
        let waker = waker.clone();
        let thread = thread::spawn(move || waker.wake().unwrap());
        match wait_for(&mut ring) {
            Completion::Woken { value: WAKER_VALUE } => {}
            other => panic!("{other:?}"),
        }
        thread.join().unwrap();
    }
    // What is sent to a ring that is awake is not lost either.
    waker.wake().unwrap();
    match wait_for(&mut ring) {
        Completion::Woken { value: WAKER_VALUE } => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn waiting_lasts_as_long_as_asked_and_costs_no_processor_time() {
    let mut ring = default_ring();
    ring.waker().unwrap();
    ring.submit_and_wait(Some(Duration::ZERO)).unwrap();
    let timeout = Duration::from_millis(200);
    let (start, used) = (Instant::now(), os::thread_processor_time().unwrap());
    ring.submit_and_wait(Some(timeout)).unwrap();
    let (elapsed, used) = (start.elapsed(), os::thread_processor_time().unwrap() - used);
    assert!(ring.next_completion().is_none());
    assert!(elapsed >= timeout && elapsed < 3 * timeout, "{elapsed:?}");
    assert!(used < Duration::from_millis(10), "{used:?}");
}

#[test]
fn lingering_ends_with_the_first_news_and_is_sleep_after_a_while() {
    let mut ring = default_ring();
    let waker = ring.waker().unwrap();
    ring.submit_and_wait(Some(Duration::ZERO)).unwrap();
    let timeout = Duration::from_millis(200);
    let (start, used) = (Instant::now(), os::thread_processor_time().unwrap());
    ring.submit_and_linger(Some(timeout), Duration::from_millis(1)).unwrap();
    let (elapsed, used) = (start.elapsed(), os::thread_processor_time().unwrap() - used);
    assert!(ring.next_completion().is_none());
    assert!(elapsed >= timeout && elapsed < 3 * timeout, "{elapsed:?}");
    assert!(used < Duration::from_millis(15), "{used:?}");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    ring.send(server.as_fd(), Token::default(), vec![1; 10]);
    let reader = thread::spawn(move || {
        client.read_exact(&mut [0; 10]).unwrap();
        waker.wake().unwrap();
    });
    let long = Duration::from_secs(10);
    ring.submit_and_linger(Some(long), long).unwrap();
    // That the bytes have left is no news: it has waited for what comes of them.
    assert!(matches!(ring.next_completion(), Some(Completion::Sent { .. })));
    assert!(matches!(ring.next_completion(), Some(Completion::Woken { value: WAKER_VALUE })));
    reader.join().unwrap();
}

/// Everything that can be in flight at once, none of it about to finish.
fn busy_ring(listener: &OwnedFd) -> (Ring, Vec<TcpStream>, Vec<OwnedFd>) {
    let mut ring = default_ring();
    ring.waker().unwrap();
    ring.accept(listener.as_fd(), LISTENER);
    let address = os::local_address(listener).unwrap();
    let clients: Vec<_> = (0..10).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut servers = Vec::new();
    while servers.len() < clients.len() {
        match wait_for(&mut ring) {
            Completion::Accepted { stream, .. } => servers.push(stream),
            other => panic!("{other:?}"),
        }
    }
    for server in &servers {
        ring.receive(server.as_fd(), Token::default());
        ring.send(server.as_fd(), Token::default(), vec![1; 32 << 20]);
    }
    ring.submit_and_wait(Some(Duration::ZERO)).unwrap();
    let (path, file) = scratch_file(&format!("{:?}", thread::current().id()), 8192);
    for buffer in LogBuffers::allocate(2, 4096).unwrap() {
        let offset = u64::from(buffer.id) * 4096;
        ring.write_log(file.as_fd(), LOG, buffer, offset, 4096, SyncPrimitive::WriteThenSync);
    }
    std::fs::remove_file(path).unwrap();
    servers.push(file.into());
    assert_eq!(ring.in_flight(), 1 + 1 + 10 + 10 + 2);
    (ring, clients, servers)
}

#[test]
fn shutting_down_and_dropping_end_what_is_in_flight() {
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = os::listen(any, os::ListenOptions::default()).unwrap();
    let (ring, clients, servers) = busy_ring(&listener);
    let start = Instant::now();
    ring.shutdown(Duration::from_secs(5)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(4));
    drop((clients, servers));

    let (ring, mut clients, servers) = busy_ring(&listener);
    drop(ring);
    drop(servers);
    // The ring held on to the connections; now that it is gone, the peers see them end.
    for client in &mut clients {
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert!(received.len() < 32 << 20);
    }
}
