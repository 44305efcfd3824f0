//! The tables of sessions as bytes and back.
//!
//! All numbers are little endian; every list is ascending by its first field, but for
//! the ended sessions, which are in the order of their ends. Ephemerals are in the tree already.
//!
//! | bytes | field                                                                              |
//! |------:|------------------------------------------------------------------------------------|
//! |     1 | format, 1                                                                          |
//! |     4 | homes; each: session 8, password 16, timeout 4, generation 4, closing 1, then      |
//! |       | attachments 2, each: shard 2, zxid 8                                               |
//! |     4 | attached; each: session 8, generation 4, home zxid 8, fenced 1                     |
//! |     4 | tombstones; each: session 8, home zxid 8                                           |
//! |     4 | floors; each: home shard 2, zxid 8                                                 |
//! |     4 | ended; each: session 8                                                             |

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{AttachedSession, ENDED_SESSIONS_KEPT, HomeSession, Malformed, Sessions, Table};
use crate::base::bytes::{Put, Reader, length_u32};
use crate::base::id::{Generation, SessionId, ShardId, Zxid};

/// Writes the tables as they were when it was made, some sessions at a time: there may be hundreds
/// of thousands.
pub struct SessionsEncoder {
    sessions: Sessions,
    section: Section,
    /// The session of this section that was written last.
    last: Option<SessionId>,
}

/// What is to be written next. The length of a list stands at the end of the section before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Format,
    Homes,
    Attached,
    Tombstones,
    Rest,
    Over,
}

impl Sessions {
    /// Shares everything, like a clone.
    pub fn encoder(&self) -> SessionsEncoder {
        SessionsEncoder { sessions: self.clone(), section: Section::Format, last: None }
    }

    /// Appends all of it at once.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let goes_on = self.encoder().step(usize::MAX, out);
        assert!(!goes_on, "nothing is longer than that");
    }

    /// Takes what [`Self::encode`] appended off the front of `reader`. Ephemerals are added later.
    pub fn decode(shard: ShardId, reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut sessions = Self::new(shard);
        if reader.u8()? != FORMAT {
            return Err(Malformed);
        }
        for _ in 0..reader.u32_le()? {
            let session = SessionId(reader.u64_le()?);
            sessions.homes.append(session, HomeSession::decode(reader)?)?;
        }
        for _ in 0..reader.u32_le()? {
            let session = SessionId(reader.u64_le()?);
            let generation = Generation(reader.u32_le()?);
            let mut attached = AttachedSession::new(generation, Zxid(reader.u64_le()?));
            attached.is_fenced = decode_flag(reader)?;
            sessions.attached.append(session, attached)?;
        }
        for _ in 0..reader.u32_le()? {
            let session = SessionId(reader.u64_le()?);
            sessions.tombstones.append(session, Zxid(reader.u64_le()?))?;
        }
        let mut floors = BTreeMap::new();
        for _ in 0..reader.u32_le()? {
            let home = ShardId(reader.u16_le()?);
            floors.insert(home, Zxid(reader.u64_le()?));
        }
        sessions.floors = Arc::new(floors);
        let mut ended = VecDeque::new();
        for _ in 0..reader.u32_le()? {
            ended.push_back(SessionId(reader.u64_le()?));
        }
        if ended.len() > ENDED_SESSIONS_KEPT {
            return Err(Malformed);
        }
        sessions.ended = Arc::new(ended);
        Ok(sessions)
    }
}

impl SessionsEncoder {
    /// Appends about so many bytes, and returns whether there are more.
    pub fn step(&mut self, bytes: usize, out: &mut Vec<u8>) -> bool {
        let until = out.len().saturating_add(bytes);
        let Self { sessions, section, last } = self;
        while *section != Section::Over && out.len() < until {
            let following = match section {
                Section::Format => {
                    out.put_u8(FORMAT);
                    Some((Section::Homes, sessions.homes.len))
                }
                Section::Homes => put(&sessions.homes, last, until, out, HomeSession::encode)
                    .then_some((Section::Attached, sessions.attached.len)),
                Section::Attached => {
                    put(&sessions.attached, last, until, out, AttachedSession::encode)
                        .then_some((Section::Tombstones, sessions.tombstones.len))
                }
                Section::Tombstones => {
                    put(&sessions.tombstones, last, until, out, |zxid, out| out.put_u64_le(zxid.0))
                        .then_some((Section::Rest, sessions.floors.len()))
                }
                Section::Rest => {
                    sessions.encode_rest(out);
                    *section = Section::Over;
                    None
                }
                Section::Over => unreachable!("the loop ends there"),
            };
            if let Some((next, length)) = following {
                (*section, *last) = (next, None);
                out.put_u32_le(length_u32(length));
            }
        }
        *section != Section::Over
    }
}

impl Sessions {
    /// What is bounded: the floors, without their count, and the ended sessions.
    fn encode_rest(&self, out: &mut Vec<u8>) {
        for (home, zxid) in self.floors.iter() {
            out.put_u16_le(home.0);
            out.put_u64_le(zxid.0);
        }
        out.put_u32_le(length_u32(self.ended.len()));
        for session in self.ended.iter() {
            out.put_u64_le(session.0);
        }
    }
}

impl HomeSession {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put(&self.password);
        out.put_u32_le(self.timeout_ms);
        out.put_u32_le(self.generation.0);
        out.put_u8(u8::from(self.is_closing));
        let count = u16::try_from(self.attachments.len());
        out.put_u16_le(count.expect("there are fewer than 65 536 shards"));
        for (shard, zxid) in &self.attachments {
            out.put_u16_le(shard.0);
            out.put_u64_le(zxid.0);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut home = Self::new(reader.array()?, reader.u32_le()?);
        home.generation = Generation(reader.u32_le()?);
        home.is_closing = decode_flag(reader)?;
        for _ in 0..reader.u16_le()? {
            let shard = ShardId(reader.u16_le()?);
            if home.attachments.last().is_some_and(|last| last.0 >= shard) {
                return Err(Malformed);
            }
            home.attachments.push((shard, Zxid(reader.u64_le()?)));
        }
        Ok(home)
    }
}

impl AttachedSession {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32_le(self.generation.0);
        out.put_u64_le(self.home_zxid.0);
        out.put_u8(u8::from(self.is_fenced));
    }
}

/// Goes on with a table behind the session `last`; whether it has come to its end.
fn put<T: Clone>(
    table: &Table<T>,
    last: &mut Option<SessionId>,
    until: usize,
    out: &mut Vec<u8>,
    put_one: impl Fn(&T, &mut Vec<u8>),
) -> bool {
    for (session, value) in table.after(*last) {
        if out.len() >= until {
            return false;
        }
        out.put_u64_le(session.0);
        put_one(value, out);
        *last = Some(session);
    }
    true
}

fn decode_flag(reader: &mut Reader<'_>) -> Result<bool, Malformed> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}

const FORMAT: u8 = 1;
