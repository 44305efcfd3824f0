//! The first frame of a link: who we say that we are, and whom we talk to.

use std::collections::BTreeMap;

use pigeonhole_core::base::id::{ClusterId, CoreId, DiskId, ServerId};
use pigeonhole_core::base::time::{Duration, Instant};
use pigeonhole_core::peer::codec::{self, Frame};
use pigeonhole_core::peer::hello::{
    Formation, Hello, HelloError, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN,
};

/// This server as its peers know it.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) server: ServerId,
    pub(crate) cores: u8,
    pub(crate) shards: u16,
    pub(crate) cluster: ClusterId,
    pub(crate) disk: DiskId,
    pub(crate) incarnation: u64,
    pub(crate) formation: Formation,
    /// Every member of the ensemble, this one included.
    pub(crate) members: Vec<ServerId>,
}

/// Why a link did not come about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    Hello(HelloError),
    /// The peer is in the list, and it is not its turn to dial.
    NotItsTurn,
    /// Somebody else answers at the peer's address.
    OtherServer {
        found: ServerId,
    },
    /// It is the peer, and has been started with another number of cores.
    OtherCore {
        found: CoreId,
    },
    /// One of both has not heard yet that the cluster is formed.
    OtherFormation,
}

/// Says why links are refused, at most once a minute for each reason and peer.
#[derive(Default)]
pub(crate) struct Complaints {
    said: BTreeMap<String, Instant>,
}

impl Identity {
    /// The frame that a link begins with.
    pub(crate) fn greeting(&self, from_core: CoreId, to: ServerId, to_core: CoreId) -> Vec<u8> {
        let hello = Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION_MAX,
            from: self.server,
            to,
            from_core,
            to_core,
            cores: self.cores,
            formation: self.formation,
            shards: self.shards,
            cluster: self.cluster,
            disk: self.disk,
            incarnation: self.incarnation,
        };
        let mut frame = Vec::new();
        codec::encode_hello(&hello, &mut frame);
        frame
    }

    /// Judges a hello of someone who has dialed here.
    pub(crate) fn judge_dialer(&self, hello: &Hello) -> Result<(), Refusal> {
        self.judge(hello)?;
        // The server with the higher id dials, so that there is one link for each pair of cores.
        if hello.from < self.server { Err(Refusal::NotItsTurn) } else { Ok(()) }
    }

    /// Judges the answer of the peer that was dialed.
    pub(crate) fn judge_dialed(
        &self,
        hello: &Hello,
        peer: ServerId,
        core: CoreId,
    ) -> Result<(), Refusal> {
        self.judge(hello)?;
        if hello.from != peer {
            return Err(Refusal::OtherServer { found: hello.from });
        }
        if hello.from_core == core {
            Ok(())
        } else {
            Err(Refusal::OtherCore { found: hello.from_core })
        }
    }

    /// Judges whether a peer belongs to this ensemble, whatever cluster it has a disk of.
    pub(crate) fn judge_place(&self, hello: &Hello) -> Result<(), Refusal> {
        let refusal = if hello.shards != self.shards {
            HelloError::OtherShardCount { theirs: hello.shards }
        } else if hello.to != self.server {
            HelloError::NotForMe { meant: hello.to }
        } else if hello.from == self.server || !self.members.contains(&hello.from) {
            HelloError::UnknownServer { claimed: hello.from }
        } else {
            return Ok(());
        };
        Err(Refusal::Hello(refusal))
    }

    fn judge(&self, hello: &Hello) -> Result<(), Refusal> {
        if hello.cluster != self.cluster {
            if hello.cluster.0 == 0 {
                // It would be let in by another way, were it not for this.
                self.judge_place(hello)?;
            }
            return Err(Refusal::Hello(HelloError::OtherCluster { theirs: hello.cluster }));
        }
        if hello.formation != self.formation {
            return Err(Refusal::OtherFormation);
        }
        self.judge_place(hello)?;
        if hello.to_core.0 >= self.cores {
            return Err(Refusal::Hello(HelloError::NoSuchCore { wanted: hello.to_core }));
        }
        Ok(())
    }
}

impl Complaints {
    pub(crate) fn refuse(&mut self, who: &str, refusal: Refusal, now: Instant) {
        self.say(format!("refused a link with {who}: {refusal}"), now);
    }

    /// A peer's name has no address, as far as anybody knows.
    pub(crate) fn cannot_find(&mut self, peer: ServerId, now: Instant) {
        let text = format!("server {peer} cannot be dialed: the name in its line has no address");
        self.say(text, now);
    }

    fn say(&mut self, text: String, now: Instant) {
        let due = self.said.get(&text).is_none_or(|said| now.since(*said) >= REPEAT);
        if !due {
            return;
        }
        // Strangers may make up as many reasons as they like.
        if self.said.len() >= COMPLAINTS_MAX {
            self.said.retain(|_, said| now.since(*said) < REPEAT);
        }
        if self.said.len() < COMPLAINTS_MAX {
            tracing::warn!("{text}");
            self.said.insert(text, now);
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hello(HelloError::NotAPeer) => out.write_str("it does not speak as a peer does"),
            Self::Hello(HelloError::Version { theirs: (min, max) }) => write!(
                out,
                "it speaks protocol {min} to {max}, we {PROTOCOL_VERSION_MIN} to \
                 {PROTOCOL_VERSION_MAX}"
            ),
            Self::Hello(HelloError::OtherCluster { theirs }) if theirs.0 == 0 => {
                out.write_str("its data directory is empty, so it may have lost what it promised")
            }
            Self::Hello(HelloError::OtherCluster { theirs }) => {
                write!(out, "it belongs to cluster {theirs}")
            }
            Self::Hello(HelloError::OtherShardCount { theirs }) => {
                write!(out, "its tree has {theirs} shards: check pigeonhole.shards on both")
            }
            Self::Hello(HelloError::NotForMe { meant }) => {
                write!(out, "it wants to talk to server {meant}: check the server.N lines")
            }
            Self::Hello(HelloError::UnknownServer { claimed }) => {
                write!(out, "server {claimed} is not a member here: check the server.N lines")
            }
            Self::Hello(HelloError::NoSuchCore { wanted }) => {
                write!(out, "it wants core {}, which is not here", wanted.0)
            }
            Self::NotItsTurn => out.write_str("the server with the higher id dials"),
            Self::OtherServer { found } => {
                write!(out, "server {found} answers there: check the server.N lines")
            }
            Self::OtherCore { found } => {
                write!(out, "its core {} answers: it has other cores than before", found.0)
            }
            Self::OtherFormation => out.write_str("the cluster is just being formed"),
        }
    }
}

/// The hello at the front of what was received, and how long its frame is; `None` while it is
/// incomplete.
pub(crate) fn read_hello(bytes: &[u8]) -> Result<Option<(Hello, usize)>, Refusal> {
    let not_a_peer = Refusal::Hello(HelloError::NotAPeer);
    let Some(length) = codec::frame_bytes(bytes).map_err(|_| not_a_peer)? else {
        return Ok(None);
    };
    if length > HELLO_FRAME_BYTES_MAX {
        return Err(not_a_peer);
    }
    let Some(frame) = bytes.get(..length) else {
        return Ok(None);
    };
    match codec::decode(frame) {
        Ok(Frame::Hello(body)) => {
            Hello::decode(body).map(|hello| Some((hello, length))).map_err(Refusal::Hello)
        }
        _ => Err(not_a_peer),
    }
}

/// Room for a later version's longer hello; a stranger gets no more memory than this.
const HELLO_FRAME_BYTES_MAX: usize = 4096;
const COMPLAINTS_MAX: usize = 256;
const REPEAT: Duration = Duration::from_ms(60_000);

#[cfg(test)]
mod tests {
    use super::*;

    fn server(id: u8, formation: Formation) -> Identity {
        Identity {
            server: ServerId(id),
            cores: 2,
            shards: 1,
            cluster: ClusterId(7),
            disk: DiskId(id.into()),
            incarnation: 1,
            formation,
            members: (1..=3).map(ServerId).collect(),
        }
    }

    #[test]
    fn an_operator_is_told_who_answers() {
        let me = server(1, Formation::Formed);
        let hello = |from: &Identity, core| {
            let frame = from.greeting(CoreId(core), ServerId(1), CoreId(0));
            read_hello(&frame).expect("a hello").expect("all of it").0
        };
        let judge = |from: &Identity, core| {
            me.judge_dialed(&hello(from, core), ServerId(2), CoreId(0)).map_err(|it| it.to_string())
        };
        let refused = |why: &str| Err(why.to_owned());
        assert_eq!(judge(&server(2, Formation::Formed), 0), Ok(()));
        let of_another_core = "its core 1 answers: it has other cores than before";
        assert_eq!(judge(&server(2, Formation::Formed), 1), refused(of_another_core));
        let another = "server 3 answers there: check the server.N lines";
        assert_eq!(judge(&server(3, Formation::Formed), 0), refused(another));
        let forming = "the cluster is just being formed";
        assert_eq!(judge(&server(2, Formation::Forming), 0), refused(forming));
    }
}
