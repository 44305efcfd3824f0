//! Data that is null is not empty data: whoever reads it gets what was stored.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod nodes;

use nodes::{Ensemble, Handle, OPEN, brief};
use pigeonhole_core::op::{CreateMode, Request};
use pigeonhole_core::state::tree::Tree;
use pigeonhole_core::wire::client::{self, MultiResult};

/// Nodes, cores and shards.
fn shapes() -> [Ensemble; 3] {
    [Ensemble::new(1, 1, 1, 1), Ensemble::new(1, 3, 8, 1), Ensemble::new(3, 1, 8, 1)]
}

fn create<'a>(path: &'a str, data: Option<&'a [u8]>) -> Request<'a> {
    let (acl, mode) = (vec![OPEN], CreateMode::Persistent);
    Request::Create { path, data, acl, mode, with_stat: false }
}

fn set<'a>(path: &'a str, data: Option<&'a [u8]>) -> Request<'a> {
    Request::SetData { path, data, version: -1 }
}

/// The data and the length that the stat tells.
fn read(ensemble: &mut Ensemble, client: Handle, path: &str) -> (Option<Vec<u8>>, i32) {
    let body = ensemble.get(client, &Request::GetData { path, watch: false });
    let (data, stat) = client::parse_get_data(&body).unwrap();
    (data.map(<[u8]>::to_vec), stat.data_length)
}

#[test]
fn null_and_empty_are_told_apart() {
    for mut ensemble in shapes() {
        let client = ensemble.connect(0, 0);
        let values: [Option<&[u8]>; 5] = [None, Some(b""), None, Some(b"some"), None];
        ensemble.get(client, &create("/null", None));
        ensemble.get(client, &create("/empty", Some(b"")));
        assert_eq!(read(&mut ensemble, client, "/null"), (None, 0));
        assert_eq!(read(&mut ensemble, client, "/empty"), (Some(vec![]), 0));
        for path in ["/null", "/empty", "/", "/zookeeper"] {
            for value in values {
                ensemble.get(client, &Request::GetData { path, watch: true });
                let heard = ensemble.send(client, &[set(path, value)]);
                assert_eq!(brief(&heard), [format!("NodeDataChanged {path}"), "1".to_string()]);
                let length = i32::try_from(value.map_or(0, <[u8]>::len)).unwrap();
                let expected = (value.map(<[u8]>::to_vec), length);
                assert_eq!(read(&mut ensemble, client, path), expected, "{path}");
            }
        }
    }
}

/// The shards that keep copies of a point's data keep null as null.
#[test]
fn a_point_without_data_is_so_in_every_shard() {
    for mut ensemble in shapes() {
        let client = ensemble.connect(0, 0);
        for value in [None, Some(b"".as_slice())] {
            ensemble.get(client, &set("/", value));
            assert!(ensemble.replicas().all(|it| it.state().tree().data(Tree::ROOT) == value));
        }
    }
}

#[test]
fn null_passes_through_transactions() {
    for mut ensemble in shapes() {
        let client = ensemble.connect(0, 0);
        let sequential = CreateMode::PersistentSequential;
        let parts = vec![
            create("/m", None),
            create("/m/empty", Some(b"")),
            set("/m", Some(b"some")),
            set("/m", None),
            Request::Create {
                path: "/m/s-",
                data: None,
                acl: vec![OPEN],
                mode: sequential,
                with_stat: true,
            },
        ];
        ensemble.get(client, &Request::Multi(parts));
        let get = |path| Request::GetData { path, watch: false };
        let reads = vec![get("/m"), get("/m/empty"), get("/m/s-0000000001"), get("/")];
        let body = ensemble.get(client, &Request::MultiRead(reads));
        let results = client::parse_multi(&body).unwrap();
        let data: Vec<Option<&[u8]>> = results
            .iter()
            .map(|result| match result {
                MultiResult::GetData { data, .. } => *data,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(data, [None, Some(b"".as_slice()), None, Some(b"".as_slice())]);
    }
}
