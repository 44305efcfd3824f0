//! What a client proves counts for what it asks afterwards, however long the rest has to wait.

mod nodes;

use nodes::{Ensemble, Handle, Heard, brief, plain};
use pigeonhole_core::op::{Acl, CreateMode, Request, permission};

const BOB: Request<'static> = Request::Auth { scheme: "digest", credential: Some(b"bob:secret") };
const NO_AUTH: i32 = -102;

/// Nodes, cores and shards.
fn shapes() -> [Ensemble; 3] {
    [Ensemble::new(1, 1, 8, 1), Ensemble::new(1, 3, 8, 1), Ensemble::new(3, 2, 8, 1)]
}

fn set(path: &str) -> Request<'_> {
    Request::SetData { path, data: Some(b"new"), version: -1 }
}

fn get(path: &str, watch: bool) -> Request<'_> {
    Request::GetData { path, watch }
}

/// Requests one behind the other, and all that is heard of them but the answer to addAuth, which
/// comes first.
fn told(ensemble: &mut Ensemble, handle: Handle, requests: &[Request<'_>]) -> Vec<Heard> {
    for (xid, request) in (1..).zip(requests) {
        let xid = if matches!(request, Request::Auth { .. }) { -4 } else { xid };
        ensemble.ask(handle, xid, request);
    }
    ensemble.advance(10);
    let mut heard = ensemble.heard(handle);
    heard.retain(|it| it.xid() != Some(-4));
    heard
}

#[test]
fn what_waits_is_judged_without_later_credentials() {
    for mut ensemble in shapes() {
        let bob = ensemble.connect(0, 0);
        ensemble.get(bob, &BOB);
        let acl = vec![Acl { permissions: permission::ALL, scheme: "auth", id: "" }];
        let names: Vec<String> = (0..8).map(|number| format!("/secret-{number}")).collect();
        for path in &names {
            let (data, mode) = (Some(b"".as_slice()), CreateMode::Persistent);
            let acl = acl.clone();
            ensemble.get(bob, &Request::Create { path, data, acl, mode, with_stat: false });
        }
        ensemble.get(bob, &plain("/open"));
        // The write is under way when the rest arrives.
        let other = ensemble.connect(0, 0);
        let mut requests = vec![set("/open")];
        for path in &names {
            requests.extend([get(path, false), set(path)]);
        }
        requests.extend([
            Request::MultiRead(names.iter().map(|path| get(path, false)).collect()),
            Request::WhoAmI,
            BOB,
            Request::WhoAmI,
        ]);
        for path in &names {
            requests.extend([get(path, false), set(path)]);
        }
        let heard = told(&mut ensemble, other, &requests);
        let errors: Vec<i32> = heard
            .iter()
            .map(|it| match it {
                Heard::Reply { error, .. } => *error,
                Heard::Event { .. } => panic!("nobody watches"),
            })
            .collect();
        let expected = [vec![0], vec![NO_AUTH; 16], vec![0; 3], vec![0; 16]].concat();
        assert_eq!(errors, expected);
        let body = |at: usize| match &heard[at] {
            Heard::Reply { body, .. } => body,
            Heard::Event { .. } => panic!("nobody watches"),
        };
        let denied = body(17).windows(4).filter(|it| **it == NO_AUTH.to_be_bytes()).count();
        assert!(denied >= 8, "each read of many is denied");
        let knows_bob = |at: usize| body(at).windows(3).any(|it| it == b"bob");
        assert_eq!((knows_bob(18), knows_bob(19)), (false, true));
    }
}

/// A watch that was asked for before, and left after, hears what its connection may hear by then.
#[test]
fn a_watch_that_waits_is_left_with_later_credentials() {
    for mut ensemble in shapes() {
        let bob = ensemble.connect(0, 0);
        ensemble.get(bob, &BOB);
        let names: Vec<String> = (0..8).map(|number| format!("/watched-{number}")).collect();
        for path in &names {
            ensemble.get(bob, &plain(path));
        }
        ensemble.get(bob, &plain("/open"));
        let other = ensemble.connect(0, 0);
        let mut requests = vec![set("/open")];
        requests.extend(names.iter().map(|path| get(path, true)));
        requests.push(BOB);
        let heard = told(&mut ensemble, other, &requests);
        assert_eq!(heard.len(), 9);
        for path in &names {
            let acl = vec![Acl { permissions: permission::ALL, scheme: "auth", id: "" }];
            ensemble.get(bob, &Request::SetAcl { path, acl, version: -1 });
            ensemble.get(bob, &set(path));
            let heard = brief(&ensemble.heard(other));
            assert_eq!(heard, [format!("NodeDataChanged {path}")]);
        }
    }
}
