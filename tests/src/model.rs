//! ZooKeeper's data model, written down a second time and as plainly as possible.
//!
//! It replays what was committed, one request after the other, and says what each should have been
//! told. It shares nothing with the product but the types of the wire.

use std::collections::{BTreeMap, BTreeSet};

use pigeonhole_core::base::error::ErrorCode;
use pigeonhole_core::base::id::{SessionId, Zxid};
use pigeonhole_core::op::{CreateMode, Stat, permission};

use crate::history::{Answer, Ask, Part};
use crate::people::{self, Entry, People};

#[derive(Clone)]
pub struct Model {
    nodes: BTreeMap<String, Node>,
}

#[derive(Clone, Debug)]
struct Node {
    data: Option<Vec<u8>>,
    czxid: Zxid,
    mzxid: Zxid,
    pzxid: Zxid,
    ctime_ms: i64,
    mtime_ms: i64,
    version: i32,
    aversion: i32,
    acl: Vec<Entry>,
    /// Children ever created: sequence numbers count them.
    creations: i32,
    children: BTreeSet<String>,
    owner: SessionId,
}

/// On whose behalf, and when, something is done.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    pub session: SessionId,
    pub people: People,
    pub zxid: Zxid,
    pub time_ms: i64,
}

impl Model {
    /// What a new ensemble holds.
    pub fn new() -> Self {
        let mut model = Self { nodes: BTreeMap::new() };
        model.nodes.insert("/".to_owned(), Node::default());
        for path in ["/zookeeper", "/zookeeper/config", "/zookeeper/nwr", "/zookeeper/quota"] {
            model.nodes.insert(path.to_owned(), Node::default());
            let (parent, name) = split(path);
            let parent = model.nodes.get_mut(parent).expect("it was made before");
            parent.children.insert(name.to_owned());
        }
        model
    }

    /// Carries out a write; nothing changes if it is refused.
    pub fn write(&mut self, ask: &Ask, context: Context) -> Result<Answer, i32> {
        match ask {
            Ask::Multi(asks) => Ok(Answer::Multi(self.multi(asks, context))),
            _ => self.one(ask, context).map_err(ErrorCode::wire),
        }
    }

    /// Answers a read of one session, whose client has proven to be these people.
    pub fn read(&self, ask: &Ask, session: SessionId, people: People) -> Result<Answer, i32> {
        match ask {
            Ask::Ephemerals { prefix } => {
                let mine = self.ephemerals_of(session).into_iter();
                let mine = mine.filter(|path| path.starts_with(prefix.as_str()));
                Ok(Answer::Paths(mine.map(str::to_owned).collect()))
            }
            Ask::MultiRead(asks) => {
                let parts = asks.iter().map(|ask| match self.read_one(ask, people) {
                    Ok(Answer::Data { data, stat }) => Part::Data { data, stat },
                    Ok(Answer::Children { children, .. }) => Part::Children(children),
                    Ok(other) => unreachable!("a multiRead has no {other:?}"),
                    Err(code) => Part::Error(code.wire()),
                });
                Ok(Answer::Multi(parts.collect()))
            }
            Ask::Sync { path } => Ok(Answer::Path(path.clone())),
            one => self.read_one(one, people).map_err(ErrorCode::wire),
        }
    }

    fn read_one(&self, ask: &Ask, people: People) -> Result<Answer, ErrorCode> {
        let find = |path: &str, permissions| {
            let node = self.nodes.get(path).ok_or(ErrorCode::NoNode)?;
            node.permit(people, permissions).map(|()| node)
        };
        Ok(match ask {
            Ask::Get { path, .. } => {
                let node = find(path, permission::READ)?;
                Answer::Data { data: node.data.clone(), stat: node.stat() }
            }
            Ask::Exists { path, .. } => Answer::Stat(find(path, permission::READ)?.stat()),
            Ask::Children { path, .. } => {
                let node = find(path, permission::READ)?;
                let children = node.children.iter().cloned().collect();
                Answer::Children { children, stat: node.stat() }
            }
            Ask::GetAcl { path } => {
                let node = find(path, permission::READ | permission::ADMIN)?;
                let is_admin = node.permit(people, permission::ADMIN).is_ok();
                let entry = |it: &Entry| {
                    let who = it.principal;
                    let id = if is_admin { who.id() } else { who.masked_id() };
                    (it.permissions, who.scheme().to_owned(), id.to_owned())
                };
                Answer::Acl { entries: node.acl.iter().map(entry).collect(), stat: node.stat() }
            }
            Ask::CountBelow { path } => {
                find(path, permission::READ)?;
                let prefix = if path == "/" { "/".to_owned() } else { format!("{path}/") };
                let below = self.nodes.keys().filter(|it| it.starts_with(&prefix) && *it != "/");
                Answer::Number(i32::try_from(below.count()).expect("few znodes"))
            }
            _ => return Err(ErrorCode::Unimplemented),
        })
    }

    /// Deletes a znode because its session is over.
    pub fn purge(&mut self, path: &str, zxid: Zxid) {
        let node = self.nodes.get(path).expect("an ephemeral is there until it goes");
        assert!(node.owner != SessionId(0), "only ephemerals go with a session: {path}");
        self.remove(path, zxid);
    }

    pub fn owner(&self, path: &str) -> Option<SessionId> {
        self.nodes.get(path).map(|node| node.owner)
    }

    pub fn data(&self, path: &str) -> Option<&[u8]> {
        self.nodes.get(path).and_then(|node| node.data.as_deref())
    }

    pub fn ephemerals_of(&self, session: SessionId) -> Vec<&str> {
        let mine = self.nodes.iter().filter(|(_, node)| node.owner == session);
        mine.map(|(path, _)| path.as_str()).collect()
    }

    fn multi(&mut self, asks: &[Ask], context: Context) -> Vec<Part> {
        let mut trial = self.clone();
        let mut parts = Vec::new();
        for (index, ask) in asks.iter().enumerate() {
            match trial.one(ask, context) {
                Ok(Answer::Created { path, stat }) => {
                    parts.push(Part::Created { path, stat: Some(stat) });
                }
                Ok(Answer::Stat(stat)) => parts.push(Part::Set(stat)),
                Ok(_) if matches!(ask, Ask::Check { .. }) => parts.push(Part::Checked),
                Ok(_) => parts.push(Part::Deleted),
                Err(code) => return failed(index, asks.len(), code),
            }
        }
        *self = trial;
        parts
    }

    fn one(&mut self, ask: &Ask, context: Context) -> Result<Answer, ErrorCode> {
        match ask {
            Ask::Create { path, data, mode } => self.create(path, data.as_deref(), *mode, context),
            Ask::Set { path, data, version } => {
                let node = self.nodes.get_mut(path).ok_or(ErrorCode::NoNode)?;
                node.permit(context.people, permission::WRITE)?;
                check_version(node.version, *version)?;
                node.data.clone_from(data);
                node.version += 1;
                node.mzxid = context.zxid;
                node.mtime_ms = context.time_ms;
                Ok(Answer::Stat(node.stat()))
            }
            Ask::Delete { path, version } => {
                let (parent, _) = split(path);
                let parent = self.nodes.get(parent).ok_or(ErrorCode::NoNode)?;
                parent.permit(context.people, permission::DELETE)?;
                let node = self.nodes.get(path).ok_or(ErrorCode::NoNode)?;
                check_version(node.version, *version)?;
                if !node.children.is_empty() {
                    return Err(ErrorCode::NotEmpty);
                }
                self.remove(path, context.zxid);
                Ok(Answer::Nothing)
            }
            Ask::Check { path, version } => {
                let node = self.nodes.get(path).ok_or(ErrorCode::NoNode)?;
                node.permit(context.people, permission::READ)?;
                check_version(node.version, *version)?;
                Ok(Answer::Nothing)
            }
            Ask::SetAcl { path, list, version } => {
                let acl = list.stored(context.people).ok_or(ErrorCode::InvalidAcl)?;
                let node = self.nodes.get_mut(path).ok_or(ErrorCode::NoNode)?;
                node.permit(context.people, permission::ADMIN)?;
                check_version(node.aversion, *version)?;
                node.acl = acl;
                node.aversion += 1;
                Ok(Answer::Stat(node.stat()))
            }
            _ => unreachable!("reads are answered by read"),
        }
    }

    fn create(
        &mut self,
        prefix: &str,
        data: Option<&[u8]>,
        mode: CreateMode,
        context: Context,
    ) -> Result<Answer, ErrorCode> {
        let (parent_path, _) = split(prefix);
        let parent = self.nodes.get_mut(parent_path).ok_or(ErrorCode::NoNode)?;
        parent.permit(context.people, permission::CREATE)?;
        let path = if mode.is_sequential() {
            format!("{prefix}{:010}", parent.creations)
        } else {
            prefix.to_owned()
        };
        let (_, name) = split(&path);
        if parent.children.contains(name) {
            return Err(ErrorCode::NodeExists);
        }
        if parent.owner != SessionId(0) {
            return Err(ErrorCode::NoChildrenForEphemerals);
        }
        parent.children.insert(name.to_owned());
        parent.creations += 1;
        parent.pzxid = context.zxid;
        let node = Node {
            data: data.map(<[u8]>::to_vec),
            czxid: context.zxid,
            mzxid: context.zxid,
            pzxid: context.zxid,
            ctime_ms: context.time_ms,
            mtime_ms: context.time_ms,
            owner: if mode.is_ephemeral() { context.session } else { SessionId(0) },
            ..Node::default()
        };
        let stat = node.stat();
        self.nodes.insert(path.clone(), node);
        Ok(Answer::Created { path, stat })
    }

    fn remove(&mut self, path: &str, zxid: Zxid) {
        let (parent_path, name) = split(path);
        self.nodes.remove(path);
        let parent = self.nodes.get_mut(parent_path).expect("a znode has a parent");
        parent.children.remove(name);
        parent.pzxid = zxid;
    }
}

impl Default for Model {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Node {
    fn default() -> Self {
        Self {
            data: None,
            czxid: Zxid::ZERO,
            mzxid: Zxid::ZERO,
            pzxid: Zxid::ZERO,
            ctime_ms: 0,
            mtime_ms: 0,
            version: 0,
            aversion: 0,
            acl: people::open(),
            creations: 0,
            children: BTreeSet::new(),
            owner: SessionId(0),
        }
    }
}

impl Node {
    fn permit(&self, people: People, permissions: u32) -> Result<(), ErrorCode> {
        let may = people::permits(&self.acl, people, permissions);
        may.then_some(()).ok_or(ErrorCode::NoAuth)
    }

    fn stat(&self) -> Stat {
        let children = i32::try_from(self.children.len()).expect("few children");
        Stat {
            czxid: self.czxid,
            mzxid: self.mzxid,
            ctime_ms: self.ctime_ms,
            mtime_ms: self.mtime_ms,
            version: self.version,
            // Clients see creations and deletions together.
            cversion: self.creations * 2 - children,
            aversion: self.aversion,
            ephemeral_owner: self.owner,
            data_length: i32::try_from(self.data.as_ref().map_or(0, Vec::len))
                .expect("little data"),
            children_count: children,
            pzxid: self.pzxid,
        }
    }
}

/// All of a failed multi fail: those before with Ok, those behind as never tried.
fn failed(index: usize, count: usize, code: ErrorCode) -> Vec<Part> {
    let part = |at: usize| match at.cmp(&index) {
        std::cmp::Ordering::Less => Part::Error(ErrorCode::Ok.wire()),
        std::cmp::Ordering::Equal => Part::Error(code.wire()),
        std::cmp::Ordering::Greater => Part::Error(ErrorCode::RuntimeInconsistency.wire()),
    };
    (0..count).map(part).collect()
}

fn check_version(is: i32, expected: i32) -> Result<(), ErrorCode> {
    if expected == -1 || expected == is { Ok(()) } else { Err(ErrorCode::BadVersion) }
}

fn split(path: &str) -> (&str, &str) {
    let at = path.rfind('/').expect("a path is absolute");
    if at == 0 { ("/", &path[1..]) } else { (&path[..at], &path[at + 1..]) }
}
