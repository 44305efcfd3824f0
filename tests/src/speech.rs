//! Between a simulated client's own words and ZooKeeper's wire.

use pigeonhole_core::base::error::ErrorCode;
use pigeonhole_core::op::{Acl, AddWatchMode, CreateMode, EventType, Request, Stat, permission};
use pigeonhole_core::wire::client::{self as wire, MultiResult, ReplyHeader};

use crate::history::{Answer, Ask, Part, WatchOn};

pub fn put_ask(out: &mut Vec<u8>, xid: i32, ask: &Ask) {
    wire::put_request(out, xid, &request(ask));
}

/// What a reply says of its request.
pub fn read_answer(ask: &Ask, header: &ReplyHeader, body: &[u8]) -> Result<Answer, i32> {
    let understood = "a server answers in ZooKeeper's words";
    if header.error != 0 {
        return Err(header.error);
    }
    Ok(match ask {
        Ask::Create { .. } => {
            let (path, stat) = wire::parse_create2(body).expect(understood);
            Answer::Created { path: path.to_owned(), stat }
        }
        Ask::Set { .. } | Ask::SetAcl { .. } | Ask::Exists { .. } => {
            Answer::Stat(wire::parse_stat(body).expect(understood))
        }
        Ask::Get { .. } => {
            let (data, stat) = wire::parse_get_data(body).expect(understood);
            Answer::Data { data: data.map(<[u8]>::to_vec), stat }
        }
        Ask::Children { .. } => {
            let (names, stat) = wire::parse_children2(body).expect(understood);
            Answer::Children { children: sorted(names), stat }
        }
        Ask::Sync { .. } => Answer::Path(wire::parse_path(body).expect(understood).to_owned()),
        Ask::GetAcl { .. } => {
            let (entries, stat) = wire::parse_acl(body).expect(understood);
            let entry = |it: &Acl<'_>| (it.permissions, it.scheme.to_owned(), it.id.to_owned());
            Answer::Acl { entries: entries.iter().map(entry).collect(), stat }
        }
        Ask::CountBelow { .. } => Answer::Number(wire::parse_number(body).expect(understood)),
        Ask::Ephemerals { .. } => {
            Answer::Paths(sorted(wire::parse_strings(body).expect(understood)))
        }
        Ask::Multi(_) | Ask::MultiRead(_) => {
            let parts: Vec<Part> =
                wire::parse_multi(body).expect(understood).into_iter().map(part).collect();
            Answer::Multi(parts)
        }
        Ask::Delete { .. }
        | Ask::Check { .. }
        | Ask::AddWatch { .. }
        | Ask::RemoveWatches { .. }
        | Ask::CheckWatches { .. }
        | Ask::Close => Answer::Nothing,
    })
}

/// The watch that a read leaves behind; exists leaves one on what is not there, too.
pub fn watch_left<'a>(ask: &'a Ask, result: &Result<Answer, i32>) -> Option<(WatchOn, &'a str)> {
    let found = result.is_ok();
    let missing = *result == Err(ErrorCode::NoNode.wire());
    match ask {
        Ask::Get { path, watch: true } if found => Some((WatchOn::Data, path)),
        Ask::Exists { path, watch: true } if found => Some((WatchOn::Data, path)),
        Ask::Exists { path, watch: true } if missing => Some((WatchOn::Exist, path)),
        Ask::Children { path, watch: true } if found => Some((WatchOn::Child, path)),
        _ => None,
    }
}

/// The stat of the znode that a read is about.
pub fn stat_of(result: &Result<Answer, i32>) -> Option<Stat> {
    match result {
        Ok(Answer::Stat(stat) | Answer::Data { stat, .. } | Answer::Children { stat, .. }) => {
            Some(*stat)
        }
        _ => None,
    }
}

/// Which watches an event consumes.
pub fn fires(kind: EventType) -> &'static [WatchOn] {
    match kind {
        EventType::NodeCreated => &[WatchOn::Exist],
        EventType::NodeDeleted => &[WatchOn::Data, WatchOn::Exist, WatchOn::Child],
        EventType::NodeDataChanged => &[WatchOn::Data, WatchOn::Exist],
        EventType::NodeChildrenChanged => &[WatchOn::Child],
    }
}

/// A short text for traces and stories.
pub fn name(ask: &Ask) -> String {
    match ask {
        Ask::Create { path, mode, .. } => format!("create {path} {mode:?}"),
        Ask::Set { path, version, .. } => format!("set {path} {version}"),
        Ask::Delete { path, version } => format!("delete {path} {version}"),
        Ask::Check { path, version } => format!("check {path} {version}"),
        Ask::Multi(parts) => {
            format!("multi[{}]", parts.iter().map(name).collect::<Vec<_>>().join(", "))
        }
        Ask::Get { path, .. } => format!("get {path}"),
        Ask::Exists { path, .. } => format!("exists {path}"),
        Ask::Children { path, .. } => format!("children {path}"),
        Ask::SetAcl { path, list, version } => format!("setAcl {path} {list:?} {version}"),
        Ask::GetAcl { path } => format!("getAcl {path}"),
        Ask::MultiRead(parts) => {
            format!("multiRead[{}]", parts.iter().map(name).collect::<Vec<_>>().join(", "))
        }
        Ask::CountBelow { path } => format!("count {path}"),
        Ask::Ephemerals { prefix } => format!("ephemerals {prefix}"),
        Ask::AddWatch { path, is_recursive: false } => format!("addWatch {path}"),
        Ask::AddWatch { path, .. } => format!("addWatch {path} and below"),
        Ask::RemoveWatches { path, kind } => format!("removeWatches {path} {kind:?}"),
        Ask::CheckWatches { path, kind } => format!("checkWatches {path} {kind:?}"),
        Ask::Sync { path } => format!("sync {path}"),
        Ask::Close => "close".to_owned(),
    }
}

fn request(ask: &Ask) -> Request<'_> {
    let open = vec![Acl { permissions: permission::ALL, scheme: "world", id: "anyone" }];
    match ask {
        Ask::Create { path, data, mode } => {
            let data = data.as_deref();
            Request::Create { path, data, acl: open, mode: *mode, with_stat: true }
        }
        Ask::Set { path, data, version } => {
            Request::SetData { path, data: data.as_deref(), version: *version }
        }
        Ask::Delete { path, version } => Request::Delete { path, version: *version },
        Ask::Check { path, version } => Request::Check { path, version: *version },
        Ask::Multi(parts) => Request::Multi(parts.iter().map(request).collect()),
        Ask::Get { path, watch } => Request::GetData { path, watch: *watch },
        Ask::Exists { path, watch } => Request::Exists { path, watch: *watch },
        Ask::Children { path, watch } => {
            Request::GetChildren { path, watch: *watch, with_stat: true }
        }
        Ask::SetAcl { path, list, version } => {
            Request::SetAcl { path, acl: list.requested(), version: *version }
        }
        Ask::GetAcl { path } => Request::GetAcl { path },
        Ask::MultiRead(parts) => Request::MultiRead(parts.iter().map(part_of_read).collect()),
        Ask::CountBelow { path } => Request::GetAllChildrenNumber { path },
        Ask::Ephemerals { prefix } => Request::GetEphemerals { prefix },
        Ask::AddWatch { path, is_recursive } => Request::AddWatch {
            path,
            mode: if *is_recursive {
                AddWatchMode::PersistentRecursive
            } else {
                AddWatchMode::Persistent
            },
        },
        Ask::RemoveWatches { path, kind } => Request::RemoveWatches { path, kind: *kind },
        Ask::CheckWatches { path, kind } => Request::CheckWatches { path, kind: *kind },
        Ask::Sync { path } => Request::Sync { path },
        Ask::Close => Request::CloseSession,
    }
}

fn part(result: MultiResult<'_>) -> Part {
    match result {
        MultiResult::Create { path } => Part::Created { path: path.to_owned(), stat: None },
        MultiResult::Create2 { path, stat } => {
            Part::Created { path: path.to_owned(), stat: Some(stat) }
        }
        MultiResult::Delete => Part::Deleted,
        MultiResult::SetData { stat } => Part::Set(stat),
        MultiResult::Check => Part::Checked,
        MultiResult::GetData { data, stat } => Part::Data { data: data.map(<[u8]>::to_vec), stat },
        MultiResult::GetChildren { children } => Part::Children(sorted(children)),
        MultiResult::Error(code) => Part::Error(code),
    }
}

/// The children of a multiRead come without a stat.
fn part_of_read(ask: &Ask) -> Request<'_> {
    match ask {
        Ask::Children { path, watch } => {
            Request::GetChildren { path, watch: *watch, with_stat: false }
        }
        other => request(other),
    }
}

/// The order of names is nobody's promise.
fn sorted(names: Vec<&str>) -> Vec<String> {
    let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    names.sort();
    names
}

/// Whether the names of a mode end in a number.
pub fn is_sequential(mode: CreateMode) -> bool {
    mode.is_sequential()
}
