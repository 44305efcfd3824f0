//! Bytes that real clients and a real ZooKeeper exchanged, read and written again by this wire.
//!
//! `golden/wire/*.txt` holds one frame a line, without its length: name, direction, hex, meaning.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use pigeonhole_core::base::error::ErrorCode;
use pigeonhole_core::base::id::SessionId;
use pigeonhole_core::op::OpCode;
use pigeonhole_core::wire::client::{self, MultiResult};
use pigeonhole_core::wire::jute::JuteError;
use pigeonhole_core::wire::reply;
use pigeonhole_core::wire::request::{self, RequestError};

struct Line {
    place: String,
    name: String,
    is_request: bool,
    frame: Vec<u8>,
    meaning: String,
}

#[test]
fn every_request_is_understood_and_written_alike() {
    let mut written_alike = 0;
    for lines in files() {
        for (index, line) in lines.iter().enumerate().filter(|(_, line)| line.is_request) {
            if line.name == "connect" {
                assert_connect_written_alike(line);
                continue;
            }
            let (header, body) = request::parse_header(&line.frame).expect(&line.place);
            match request::parse_request(header.op_code, body) {
                Ok(request) => {
                    let mut out = Vec::new();
                    client::put_request(&mut out, header.xid, &request);
                    written_alike += 1;
                    assert_frame(&out, line);
                }
                Err(error) => assert_answered_alike(error, line, &lines[index..]),
            }
        }
    }
    assert!(written_alike > 90, "{written_alike} requests");
}

#[test]
fn every_reply_is_understood_and_written_alike() {
    let mut bodies = 0;
    for line in files().iter().flatten().filter(|line| !line.is_request) {
        let mut out = Vec::new();
        if line.name == "connect" {
            let response = client::parse_connect(&line.frame).expect(&line.place);
            let is_refused = line.meaning.ends_with("refused");
            let refused = reply::ConnectResponse::refused(response.read_only);
            assert_eq!(response == refused, is_refused, "{}", line.place);
            reply::connect(&mut out, &response);
            assert_frame(&out, line);
            continue;
        }
        let (header, body) = client::parse_header(&line.frame).expect(&line.place);
        let code = header.code().unwrap_or_else(|| panic!("{}: {header:?}", line.place));
        if header.xid == reply::XID_EVENT {
            let event = client::parse_event(body).expect(&line.place);
            assert_eq!(line.meaning, format!("{:?} {}", event.kind, event.path));
            reply::event(&mut out, header.zxid, event.kind, event.path);
        } else if code == ErrorCode::Ok {
            let mark = reply::begin(&mut out);
            write_again(&mut out, &line.name, body).expect(&line.place);
            reply::finish(&mut out, mark, header.xid, header.zxid, code);
            bodies += usize::from(!body.is_empty());
        } else {
            assert!(line.meaning.ends_with(&format!("{code:?}")), "{}", line.place);
            reply::header_only(&mut out, header.xid, header.zxid, code);
        }
        assert_frame(&out, line);
    }
    assert!(bodies > 50, "{bodies} replies with a body");
}

#[test]
fn every_operation_is_recorded() {
    let files = files();
    let names = |is_request| -> BTreeSet<&str> {
        let lines = files.iter().flatten().filter(|line| line.is_request == is_request);
        lines.map(|line| line.name.as_str()).collect()
    };
    let (requests, mut replies) = (names(true), names(false));
    assert!(replies.remove("event"));
    assert_eq!(requests, replies);
    let expected = "addWatch auth checkWatches closeSession connect create create2 createContainer \
        createTTL delete exists getACL getAllChildrenNumber getChildren getChildren2 getData \
        getEphemerals multi multiRead ping reconfig removeWatches setACL setData setWatches \
        setWatches2 sync unknown whoAmI";
    assert_eq!(requests, expected.split_whitespace().collect());
}

fn assert_connect_written_alike(line: &Line) {
    let request = request::parse_connect(&line.frame).expect(&line.place);
    assert_eq!(request.read_only.is_some(), line.frame.len() == 45, "{}", line.place);
    let is_new = line.meaning.ends_with("a new session");
    assert_eq!(request.session == SessionId(0), is_new, "{}", line.place);
    let mut out = Vec::new();
    client::put_connect(&mut out, &request);
    assert_frame(&out, line);
}

/// What this server refuses at the edge, ZooKeeper refused with the same reply; containers apart,
/// which ZooKeeper created.
fn assert_answered_alike(error: RequestError, line: &Line, later: &[Line]) {
    let answer = later.iter().find(|other| !other.is_request && other.name == line.name);
    let answer = answer.expect(&line.place);
    let (header, _) = client::parse_header(&answer.frame).expect(&line.place);
    let (_, body) = request::parse_header(&line.frame).expect(&line.place);
    let mut out = Vec::new();
    match error {
        RequestError::Code(code) if line.name == "createContainer" => {
            assert_eq!(code, ErrorCode::Unimplemented);
            return;
        }
        RequestError::MultiOperation { index, count, code }
            if body.starts_with(&OpCode::CreateContainer.wire().to_be_bytes()) =>
        {
            assert_eq!((index, count, code), (0, 1, ErrorCode::Unimplemented));
            return;
        }
        RequestError::Code(code) => reply::header_only(&mut out, header.xid, header.zxid, code),
        RequestError::Final(code) => {
            reply::header_only(&mut out, header.xid, reply::ZXID_NONE, code);
        }
        RequestError::MultiOperation { index, count, code } => {
            let mark = reply::begin(&mut out);
            reply::multi_failed(&mut out, index, count, code);
            reply::finish(&mut out, mark, header.xid, header.zxid, ErrorCode::Ok);
        }
        RequestError::Malformed => panic!("{}: {error:?}", line.place),
    }
    assert_frame(&out, answer);
}

/// Reads the body of the reply to `name` and writes it again.
fn write_again(out: &mut Vec<u8>, name: &str, body: &[u8]) -> Result<(), JuteError> {
    match name {
        "create" | "sync" => reply::string(out, client::parse_path(body)?),
        "create2" | "createContainer" => {
            let (path, stat) = client::parse_create2(body)?;
            reply::string(out, path);
            reply::stat(out, &stat);
        }
        "exists" | "setData" | "setACL" => reply::stat(out, &client::parse_stat(body)?),
        "getData" => {
            let (data, stat) = client::parse_get_data(body)?;
            reply::data(out, data);
            reply::stat(out, &stat);
        }
        "getChildren" | "getEphemerals" => put_strings(out, &client::parse_strings(body)?),
        "getChildren2" => {
            let (children, stat) = client::parse_children2(body)?;
            put_strings(out, &children);
            reply::stat(out, &stat);
        }
        "getACL" => {
            let (acl, stat) = client::parse_acl(body)?;
            let mut vector = reply::begin_vector(out);
            for entry in &acl {
                reply::push_acl(out, &mut vector, entry);
            }
            reply::finish_vector(out, vector);
            reply::stat(out, &stat);
        }
        "getAllChildrenNumber" | "addWatch" => reply::number(out, client::parse_number(body)?),
        "whoAmI" => {
            let mut vector = reply::begin_vector(out);
            for (scheme, user) in client::parse_who_am_i(body)? {
                reply::push_identity(out, &mut vector, scheme, user);
            }
            reply::finish_vector(out, vector);
        }
        "multi" | "multiRead" => {
            for result in client::parse_multi(body)? {
                put_multi_result(out, &result);
            }
            reply::multi_end(out);
        }
        _ => {}
    }
    Ok(())
}

fn put_multi_result(out: &mut Vec<u8>, result: &MultiResult<'_>) {
    match result {
        MultiResult::Create { path } => {
            reply::multi_result(out, OpCode::Create);
            reply::string(out, path);
        }
        MultiResult::Create2 { path, stat } => {
            reply::multi_result(out, OpCode::Create2);
            reply::string(out, path);
            reply::stat(out, stat);
        }
        MultiResult::Delete => reply::multi_result(out, OpCode::Delete),
        MultiResult::SetData { stat } => {
            reply::multi_result(out, OpCode::SetData);
            reply::stat(out, stat);
        }
        MultiResult::Check => reply::multi_result(out, OpCode::Check),
        MultiResult::GetData { data, stat } => {
            reply::multi_result(out, OpCode::GetData);
            reply::data(out, *data);
            reply::stat(out, stat);
        }
        MultiResult::GetChildren { children } => {
            reply::multi_result(out, OpCode::GetChildren);
            put_strings(out, children);
        }
        MultiResult::Error(error) => {
            let code = ErrorCode::from_wire(*error).expect("a code that this server knows");
            reply::multi_error(out, code);
        }
    }
}

fn put_strings(out: &mut Vec<u8>, strings: &[&str]) {
    let mut vector = reply::begin_vector(out);
    for string in strings {
        reply::push_string(out, &mut vector, string);
    }
    reply::finish_vector(out, vector);
}

#[track_caller]
fn assert_frame(written: &[u8], line: &Line) {
    let (length, frame) = written.split_first_chunk::<4>().expect("a frame has a length");
    assert_eq!(u32::from_be_bytes(*length) as usize, frame.len(), "{}", line.place);
    assert_eq!(to_hex(frame), to_hex(&line.frame), "{}", line.place);
}

fn files() -> Vec<Vec<Line>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/wire");
    let read = |name: &str| -> Vec<Line> {
        let text = fs::read_to_string(folder.join(name)).expect("the golden file is there");
        let lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with('#'));
        lines.map(|(number, line)| parse_line(&format!("{name}:{}", number + 1), line)).collect()
    };
    vec![read("java.txt"), read("kazoo.txt"), read("raw.txt")]
}

fn parse_line(place: &str, line: &str) -> Line {
    let columns: Vec<&str> = line.split(" | ").collect();
    let [name, direction, hex, meaning] = columns[..] else {
        panic!("{place}: four columns, not {}", columns.len());
    };
    assert!(matches!(direction, "request" | "reply"), "{place}: {direction}");
    Line {
        place: format!("{place} ({name}, {meaning})"),
        name: name.to_string(),
        is_request: direction == "request",
        frame: from_hex(hex),
        meaning: meaning.to_string(),
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    assert!(rest.is_empty(), "two digits are a byte");
    let pairs = pairs.iter().map(|pair| std::str::from_utf8(pair).expect("hex is ASCII"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hex digits")).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
