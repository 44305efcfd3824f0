//! Three servers as processes, killed under load: the leader, a follower, all of them at once.
//!
//! Whatever was acknowledged is there afterwards, on every server; so are a session that outlived
//! all of it, and its ephemeral.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;

use pigeonhole_tests::caller::{Caller, Credentials};
use pigeonhole_tests::servers::{Program, Servers};

#[test]
fn what_is_acknowledged_outlives_every_kill_and_so_do_sessions() {
    let mut servers = PROGRAM.ensemble("kills", 3, "pigeonhole.shards=8\n");
    servers.start_all();
    let mut keeper = servers.client(1);
    keeper.create_ephemeral("/kept");
    let session = keeper.credentials();
    let ports = servers.ids().map(|id| servers.port(id)).collect();
    let load = Load { ports, stop: AtomicBool::new(false), acknowledged: Default::default() };
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let load = &load;
            scope.spawn(move || load.write(writer));
        }
        // Whatever stops this test stops them, too.
        let _stop = Stop(&load.stop);
        load.goes_on(&servers);
        for leads in [true, false] {
            let victim = servers.wait_for(|it| it.ids().find(|&id| leads_first(it, id) == leads));
            servers.kill(victim);
            load.goes_on(&servers);
            servers.start(victim);
            servers.wait_until(|it| it.serves(victim));
            load.goes_on(&servers);
        }
        for id in servers.ids() {
            servers.kill(id);
        }
        servers.start_all();
        load.goes_on(&servers);
    });
    for id in servers.ids() {
        let mut client = servers.client(id);
        client.sync();
        for writer in 0..WRITERS {
            let acknowledged = load.of(writer);
            let lost = client.missing(acknowledged.iter().map(|&number| path(writer, number)));
            assert!(lost.is_empty(), "server {id} lacks {lost:?}");
        }
        assert!(client.exists("/kept"), "server {id} has lost a session");
    }
    // Their own sessions may be on their way to the others.
    servers.wait_until(|it| it.ids().all(|id| it.digests(id) == it.digests(1)));
    let mut keeper = servers.wait_for(|it| resume(it, 2, session));
    keeper.end();
    let mut client = servers.client(3);
    client.sync();
    assert!(!client.exists("/kept"), "it was the session's own");
}

/// Writers that go on wherever somebody serves them.
struct Load {
    ports: Vec<u16>,
    stop: AtomicBool,
    /// Of each writer, the numbers of the znodes that it knows to have created.
    acknowledged: [Mutex<Vec<u32>>; WRITERS],
}

struct Stop<'a>(&'a AtomicBool);

impl Load {
    /// Creates one znode after the other, each in some shard.
    fn write(&self, writer: usize) {
        let mut client: Option<Caller> = None;
        let mut next = 0;
        for port in self.ports.iter().cycle().skip(writer) {
            while !self.stop.load(Ordering::Relaxed) {
                let Some(client) = &mut client else { break };
                let number = next;
                next += 1;
                match client.try_create(&path(writer, number)) {
                    Ok(0) => self.of(writer).push(number),
                    Ok(code) => panic!("{}: {code}", path(writer, number)),
                    // Nobody knows what became of it.
                    Err(_) => break,
                }
            }
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            client = Caller::connect(*port).ok();
        }
    }

    fn of(&self, writer: usize) -> MutexGuard<'_, Vec<u32>> {
        self.acknowledged[writer].lock().expect("nobody panics with it")
    }

    /// Every writer has had more acknowledged.
    fn goes_on(&self, servers: &Servers) {
        let counts = || std::array::from_fn::<_, WRITERS, _>(|writer| self.of(writer).len());
        let before = counts();
        servers.wait_until(|_| counts().iter().zip(before).all(|(now, then)| *now >= then + 20));
    }
}

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn path(writer: usize, number: u32) -> String {
    format!("/of-{writer}-{number}")
}

/// Whether a server leads the first shard.
fn leads_first(servers: &Servers, id: u8) -> bool {
    servers.figure(id, "zk_server_state").as_deref() == Some("leader")
}

fn resume(servers: &Servers, id: u8, session: Credentials) -> Option<Caller> {
    Caller::resume(servers.port(id), session).ok()
}

const WRITERS: usize = 4;
const PROGRAM: Program =
    Program { path: env!("CARGO_BIN_EXE_server"), directory: env!("CARGO_TARGET_TMPDIR") };
