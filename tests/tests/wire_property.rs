//! Properties of the client wire: what is written is read back, no bytes make a parser panic, and a
//! stream means the same however it was cut.

use pigeonhole_core::base::error::ErrorCode;
use pigeonhole_core::base::id::{SessionId, Zxid};
use pigeonhole_core::op::{
    Acl, AddWatchMode, ConnectRequest, CreateMode, OpCode, Request, SetWatches, WatcherType,
};
use pigeonhole_core::wire::frame::{Deframer, FrameError};
use pigeonhole_core::wire::request::RequestError;
use pigeonhole_core::wire::{client, request};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::{option, prop_assert, prop_assert_eq, proptest};

const FRAME_BYTES_MAX: usize = 1 << 16;

/// Strings live as long as the test run, so that requests may borrow them.
fn leak_text(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

fn path() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        1 => Just("/"),
        9 => "(/[a-zé][-a-z.0-9é ]{0,12}){1,5}".prop_map(leak_text)
    ]
}

fn text() -> impl Strategy<Value = &'static str> {
    "\\PC{0,12}".prop_map(leak_text)
}

fn data() -> impl Strategy<Value = &'static [u8]> {
    vec(any::<u8>(), 0..64).prop_map(|bytes| &*Box::leak(bytes.into_boxed_slice()))
}

fn zxid() -> impl Strategy<Value = Zxid> {
    (0..u64::MAX / 2).prop_map(Zxid)
}

fn acl() -> impl Strategy<Value = Vec<Acl<'static>>> {
    let entry = (any::<u32>(), text(), text()).prop_map(|(permissions, scheme, id)| Acl {
        permissions,
        scheme,
        id,
    });
    vec(entry, 0..4)
}

fn create() -> impl Strategy<Value = Request<'static>> {
    let numbered_path = prop_oneof![path(), "(/[a-z]{1,9}){0,3}/[.]{0,2}".prop_map(leak_text)];
    let plain = select(vec![CreateMode::Persistent, CreateMode::Ephemeral]);
    let numbered = select(vec![CreateMode::PersistentSequential, CreateMode::EphemeralSequential]);
    let named = prop_oneof![(path(), plain), (numbered_path, numbered)];
    (named, option::of(data()), acl(), any::<bool>()).prop_map(
        |((path, mode), data, acl, with_stat)| Request::Create { path, data, acl, mode, with_stat },
    )
}

fn change() -> impl Strategy<Value = Request<'static>> {
    let below_root = path().prop_filter("the root is not deleted", |path| *path != "/");
    prop_oneof![
        create(),
        (below_root, any::<i32>()).prop_map(|(path, version)| Request::Delete { path, version }),
        (path(), option::of(data()), any::<i32>())
            .prop_map(|(path, data, version)| { Request::SetData { path, data, version } }),
    ]
}

fn multi() -> impl Strategy<Value = Request<'static>> {
    let check = (path(), any::<i32>()).prop_map(|(path, version)| Request::Check { path, version });
    let get_data = path().prop_map(|path| Request::GetData { path, watch: false });
    let get_children =
        path().prop_map(|path| Request::GetChildren { path, watch: false, with_stat: false });
    prop_oneof![
        vec(prop_oneof![change(), check], 0..6).prop_map(Request::Multi),
        vec(prop_oneof![get_data, get_children], 0..6).prop_map(Request::MultiRead),
    ]
}

fn read() -> impl Strategy<Value = Request<'static>> {
    prop_oneof![
        (path(), any::<bool>()).prop_map(|(path, watch)| Request::Exists { path, watch }),
        (path(), any::<bool>()).prop_map(|(path, watch)| Request::GetData { path, watch }),
        (path(), any::<bool>(), any::<bool>()).prop_map(|(path, watch, with_stat)| {
            Request::GetChildren { path, watch, with_stat }
        }),
        path().prop_map(|path| Request::GetAcl { path }),
        text().prop_map(|path| Request::Sync { path }),
        text()
            .prop_filter("blanks around it may mean nothing", |prefix| prefix.trim() == *prefix)
            .prop_map(|prefix| Request::GetEphemerals { prefix }),
        path().prop_map(|path| Request::GetAllChildrenNumber { path }),
        Just(Request::WhoAmI),
        Just(Request::Ping),
    ]
}

fn watch() -> impl Strategy<Value = Request<'static>> {
    let kind = || {
        select(vec![
            WatcherType::Children,
            WatcherType::Data,
            WatcherType::Any,
            WatcherType::Persistent,
            WatcherType::PersistentRecursive,
        ])
    };
    let mode = select(vec![AddWatchMode::Persistent, AddWatchMode::PersistentRecursive]);
    let paths = || vec(path(), 0..4);
    let set = (zxid(), paths(), paths(), paths(), paths(), paths());
    prop_oneof![
        (path(), mode).prop_map(|(path, mode)| Request::AddWatch { path, mode }),
        (path(), kind()).prop_map(|(path, kind)| Request::CheckWatches { path, kind }),
        (path(), kind()).prop_map(|(path, kind)| Request::RemoveWatches { path, kind }),
        set.prop_map(|(relative_zxid, data, exist, child, persistent, persistent_recursive)| {
            Request::SetWatches(SetWatches {
                relative_zxid,
                data,
                exist,
                child,
                persistent,
                persistent_recursive,
            })
        }),
    ]
}

fn any_request() -> impl Strategy<Value = Request<'static>> {
    prop_oneof![
        change(),
        (path(), acl(), any::<i32>()).prop_map(|(path, acl, version)| Request::SetAcl {
            path,
            acl,
            version
        }),
        multi(),
        read(),
        watch(),
        (text(), option::of(data()))
            .prop_map(|(scheme, credential)| Request::Auth { scheme, credential }),
        Just(Request::CloseSession),
    ]
}

/// Cuts `stream` after each of `lengths`, again and again.
fn chunks<'a>(stream: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = stream;
    let mut chunks = Vec::new();
    for &length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (head, tail) = rest.split_at(length.clamp(1, rest.len()));
        chunks.push(head);
        rest = tail;
    }
    chunks
}

/// Feeds `chunks`, taking at most `per_turn` frames from each before the rest is carried over.
fn deframe(chunks: &[&[u8]], per_turn: usize) -> Vec<Result<Vec<u8>, FrameError>> {
    let mut deframer = Deframer::for_replies(FRAME_BYTES_MAX);
    let mut outcomes = Vec::new();
    let mut turn = |chunk: &[u8]| {
        let mut taken = Vec::new();
        let mut frames = deframer.split(chunk);
        while taken.len() < per_turn
            && let Some(frame) = frames.next()
        {
            taken.push(frame);
        }
        drop(frames);
        // All frames of a turn are still there when the last one was cut.
        let count = taken.len();
        outcomes.extend(taken.into_iter().map(|frame| frame.map(<[u8]>::to_vec)));
        deframer.on_turn_end();
        count > 0
    };
    for chunk in chunks {
        turn(chunk);
    }
    while turn(&[]) {}
    outcomes
}

/// Calls every parser of both halves.
fn parse_everything(bytes: &[u8]) {
    let _ = request::parse_connect(bytes);
    let _ = request::parse_header(bytes);
    for op_code in -12..120 {
        let _ = request::parse_request(op_code, bytes);
    }
    let _ = client::parse_header(bytes);
    let _ = client::parse_connect(bytes);
    let _ = client::parse_path(bytes);
    let _ = client::parse_create2(bytes);
    let _ = client::parse_stat(bytes);
    let _ = client::parse_get_data(bytes);
    let _ = client::parse_strings(bytes);
    let _ = client::parse_children2(bytes);
    let _ = client::parse_acl(bytes);
    let _ = client::parse_number(bytes);
    let _ = client::parse_who_am_i(bytes);
    let _ = client::parse_event(bytes);
    let _ = client::parse_multi(bytes);
}

proptest! {
    #[test]
    fn a_request_written_is_read_back(xid in any::<i32>(), request in any_request()) {
        let mut out = Vec::new();
        client::put_request(&mut out, xid, &request);
        let mut deframer = Deframer::for_replies(FRAME_BYTES_MAX);
        let frame = deframer.split(&out).next().expect("a frame").expect("a legal length");
        let (header, body) = request::parse_header(frame).expect("a header");
        prop_assert_eq!((header.xid, header.op_code), (xid, request.op_code().wire()));
        prop_assert_eq!(request::parse_request(header.op_code, body), Ok(request));
        // A record that ends early is refused, and never taken for another request.
        for length in 0..body.len() {
            let shorter = &body[..length];
            prop_assert!(request::parse_request(header.op_code, shorter).is_err(), "{}", length);
        }
    }

    #[test]
    fn a_connect_request_written_is_read_back(
        last_zxid_seen in zxid(),
        numbers in any::<(i32, i32, u64)>(),
        password in data(),
        read_only in option::of(any::<bool>()),
    ) {
        let (protocol_version, timeout_ms, session) = numbers;
        let connect = ConnectRequest {
            protocol_version,
            last_zxid_seen,
            timeout_ms,
            session: SessionId(session),
            password,
            read_only,
        };
        let mut out = Vec::new();
        client::put_connect(&mut out, &connect);
        prop_assert_eq!(request::parse_connect(&out[4..]), Ok(connect));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        parse_everything(&bytes);
    }

    #[test]
    fn a_damaged_request_never_panics(
        request in any_request(),
        damage in vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let mut out = Vec::new();
        client::put_request(&mut out, 1, &request);
        for (place, byte) in damage {
            let at = place.index(out.len());
            out[at] = byte;
        }
        parse_everything(&out[12..]);
    }

    #[test]
    fn a_stream_means_the_same_however_it_is_cut(
        bodies in vec(vec(any::<u8>(), 1..300), 0..12),
        tail in vec(any::<u8>(), 0..9),
        lengths in vec(1_usize..400, 1..8),
        per_turn in 1_usize..6,
    ) {
        let mut stream = Vec::new();
        for body in &bodies {
            stream.extend(u32::try_from(body.len()).expect("short").to_be_bytes());
            stream.extend(body);
        }
        stream.extend(tail);
        let whole = deframe(&[&stream], usize::MAX);
        let expected: Vec<_> = bodies.into_iter().map(Ok).collect();
        prop_assert_eq!(&whole[..expected.len()], &expected[..]);
        prop_assert_eq!(deframe(&chunks(&stream, &lengths), per_turn), whole);
    }
}

/// The answers are those of ZooKeeper 3.8.0 to the same bytes.
#[test]
fn odd_texts_are_taken_as_zookeeper_takes_them() {
    let parse = |op_code: OpCode, text: &'static str, rest: &[u8]| {
        let mut body = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
        body.extend_from_slice(text.as_bytes());
        body.extend_from_slice(rest);
        let parsed = request::parse_request(op_code.wire(), &body);
        parsed.map(|request| format!("{request:?}")).map_err(|error| format!("{error:?}"))
    };
    let refused = |code: ErrorCode| Err(format!("{:?}", RequestError::Code(code)));
    let any_version = (-1_i32).to_be_bytes();
    for (path, code) in [
        ("/", ErrorCode::BadArguments),
        ("a", ErrorCode::BadArguments),
        ("/a\0", ErrorCode::BadArguments),
        ("/a/", ErrorCode::NoNode),
        ("//", ErrorCode::NoNode),
        ("/a\u{7f}", ErrorCode::NoNode),
        ("/no/parent/", ErrorCode::NoNode),
    ] {
        assert_eq!(parse(OpCode::Delete, path, &any_version), refused(code), "delete {path:?}");
    }
    assert_eq!(parse(OpCode::Exists, "/a\0", &[0]), refused(ErrorCode::BadArguments));
    assert_eq!(parse(OpCode::Exists, "/a/", &[0]), refused(ErrorCode::NoNode));
    let all = parse(OpCode::GetEphemerals, "/", &[]);
    assert_eq!(parse(OpCode::GetEphemerals, " / ", &[]), all);
    assert_ne!(parse(OpCode::GetEphemerals, " /a", &[]), parse(OpCode::GetEphemerals, "/a", &[]));
}

/// Java's clients never ask a multiRead for watches, and ZooKeeper leaves none whoever asks.
#[test]
fn a_multi_read_leaves_no_watches() {
    let reads = |watch| {
        let list = Request::GetChildren { path: "/a", watch, with_stat: false };
        Request::MultiRead(vec![Request::GetData { path: "/a", watch }, list])
    };
    let mut frame = Vec::new();
    client::put_request(&mut frame, 1, &reads(true));
    let body = &frame[client::REQUEST_PREFIX_BYTES..];
    assert_eq!(request::parse_request(OpCode::MultiRead.wire(), body), Ok(reads(false)));
}
