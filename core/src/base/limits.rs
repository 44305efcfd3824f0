//! Every bound of the system, with its reason, and what ties the bounds to each other.

/// ZooKeeper's `jute.maxbuffer` default: the largest client frame.
pub const FRAME_BYTES_MAX: usize = 0xf_ffff;
/// A connection's first frame is a ConnectRequest of 44 or 45 bytes; more is not a client.
pub const CONNECT_BYTES_MAX: usize = 1024;
/// Longer paths cost every replica memory and every look-up time; ZooKeeper has no bound.
pub const PATH_BYTES_MAX: usize = 4096;
/// Deeper trees make every walk longer; ZooKeeper has no bound, and overflowed its stack there.
pub const PATH_DEPTH_MAX: usize = 256;
/// Operations of one multi; each costs an entry in the overlay while it is pending.
pub const MULTI_OPERATIONS_MAX: usize = 1000;
/// What one reply may hold: the names of a million children. ZooKeeper has no bound, though its
/// Java client takes no more than its own `jute.maxbuffer`.
pub const RESPONSE_BYTES_MAX: usize = 32 << 20;
/// Received and not yet looked at: beyond it the connection is not read any further, until there is
/// less than the second. The largest request fits.
pub const INPUT_BYTES_PAUSE: usize = 2 << 20;
pub const INPUT_BYTES_RESUME: usize = 3 << 19;
/// Beyond it the connection is not read any further; a slow client delays only itself. As with the
/// next, what is being sent is not counted: it was taken from the output at once.
pub const OUTPUT_BYTES_PAUSE: usize = 2 << 20;
/// Beyond it the connection is closed: nothing else frees the memory it holds.
pub const OUTPUT_BYTES_MAX: usize = 40 << 20;
/// Requests that one connection may have waiting; beyond, its socket is not read.
pub const REQUESTS_PER_CONNECTION_MAX: usize = 1000;
/// Bytes of them, for the same reason: they are kept until they are answered.
pub const REQUEST_BYTES_PER_CONNECTION_MAX: usize = 4 << 20;
/// Writes that a client may begin when it is its turn, while others stand in line behind it.
pub const WRITES_PER_CALL: usize = 16;
/// Requests taken from one connection in one turn, so that a deep pipeline starves nobody.
pub const REQUESTS_PER_TURN_MAX: usize = 256;
/// The same where many wait to go on.
pub const REQUESTS_PER_TURN_MIN: usize = 16;
/// Requests begun in one turn for all connections of a core, some milliseconds of work: peers hear
/// from this core between turns.
pub const REQUESTS_PER_TURN_OF_ALL: usize = 1024;
/// ZooKeeper's `maxClientCnxns` default, by address; loopback tests and proxies need more: set it.
pub const CONNECTIONS_PER_ADDRESS_MAX: u32 = 60;
/// How long a connection may stay without a complete ConnectRequest. Then the home of its session
/// has the session's timeout to answer.
pub const CONNECT_TIME_MS_MAX: u64 = 5000;
/// Watches of one connection: each costs memory on its server until it fires.
pub const WATCHES_PER_CONNECTION_MAX: usize = 100_000;
/// Between the ids that two boots of a server begin with lie at least so many milliseconds' worth:
/// four thousand million sessions, all of them different, even if the clock is put back.
pub const SESSION_BASE_STEP_MS: u64 = 1 << 16;
/// What a session's client has seen, remembered so many times by the session's home: enough for a
/// client that lags behind its server by a whole timeout.
pub const SEEN_PER_SESSION_MAX: usize = 16;
/// Sessions that ended in a shard before its tombstones are worth an entry that frees them.
pub const TOMBSTONES_BEFORE_FLOOR: usize = 256;
/// Ephemeral znodes of one session in one shard, so that a close stays a bounded piece of work.
pub const EPHEMERALS_PER_SESSION_MAX: usize = 100_000;
/// Paths in one purge entry when a session ends: one entry is one turn's work on every replica.
pub const PURGE_PATHS_MAX: usize = 1000;
/// Bytes of paths in one purge entry, for the same reason.
pub const PURGE_BYTES_MAX: usize = 256 << 10;
/// Identities that one connection may collect with addAuth.
pub const IDENTITIES_PER_CONNECTION_MAX: usize = 32;
/// One credential of addAuth.
pub const CREDENTIAL_BYTES_MAX: usize = 1024;
/// Entries of one ACL: an address is looked for in one after the other. ZooKeeper has no bound.
pub const ACL_ENTRIES_MAX: usize = 1024;

/// Ends of epochs that a log remembers and a learner describes; older differences are settled by a
/// snapshot.
pub const EPOCH_ENDS_MAX: usize = 64;
/// Proposals of one shard that are not applied by their leader yet; beyond, requests queue.
pub const PROPOSALS_OUTSTANDING_MAX: usize = 4096;
/// Bytes of them, for the same reason.
pub const PROPOSAL_BYTES_OUTSTANDING_MAX: usize = 16 << 20;
/// Writes that wait at one replica for a leader to be known or to answer; and reads that wait,
/// after a start, until one has said what is committed.
pub const FORWARDS_WAITING_MAX: usize = 65_536;
/// Bytes of such writes, in all shards together, and of such reads: until there is a leader they
/// are in memory. Every shard has the same share of either, and takes one request more when that
/// is nearly full.
pub const FORWARDS_WAITING_BYTES_OF_ALL: usize = 256 << 20;
/// Entries kept behind the last applied one, so that a learner a little behind gets a DIFF.
pub const HISTORY_ENTRIES: usize = 16_384;
/// Bytes of them.
pub const HISTORY_BYTES: usize = 32 << 20;
/// Entries between two snapshots of a shard, as in ZooKeeper (`snapCount`).
pub const SNAPSHOT_ENTRIES: u64 = 100_000;
/// Bytes of entries that stay in memory because learners that are behind need them; beyond, those
/// learners begin again later.
pub const PINNED_BYTES_MAX: usize = 1 << 30;
/// Bytes sent in one shard before the other side has answered: entries or the state to a learner
/// that is behind, and requests to a leader. The rest waits, because a link that is given too much
/// is dropped.
pub const IN_FLIGHT_BYTES: usize = 8 << 20;
/// The same in all shards together, because they share a link, and each way.
pub const IN_FLIGHT_BYTES_OF_ALL: usize = 16 << 20;
/// A turn of a core takes in what has arrived for so long, then logs and sends what has come of it:
/// less than anybody notices who waits, and many times what a turn costs in any case.
pub const TURN_TAKING_MS_MAX: u64 = 2;
/// Bytes of proposals that a disk is behind, in all shards together, before the server is let go as
/// one that has lost touch: until they are written they are in its memory.
pub const UNWRITTEN_BYTES_OF_ALL: u64 = 512 << 20;
/// What is proposed and applied when a turn ends goes on for so long, one share after the other.
pub const TURN_ENDING_MS_MAX: u64 = 2;
/// Requests that the leaders of a core propose, and entries that its replicas apply, without a look
/// at the clock: in a tree that nobody has touched for a while each costs tens of microseconds.
pub const TURN_SHARE: usize = 64;
/// A large one counts as several: once more for every so many bytes, which cost about as much. So
/// does a transaction, for each of its operations.
pub const TURN_SHARE_BYTES: usize = 4096;
/// Watches of one setWatches that a shard takes in at once, which is most of a millisecond: clients
/// come back with tens of thousands.
pub const WATCHES_SET_AT_ONCE: usize = 1000;
/// So many of them take as much of a turn as a request for what is in no cache.
pub const WATCHES_PER_REQUEST: usize = 16;
/// Sessions of a shard that expire in one turn: a rack that is gone takes thousands with it.
pub const SESSIONS_EXPIRED_PER_TURN: usize = 64;
/// How long a leader that hands its shard over holds back what is new, until the rest is settled.
pub const HAND_OVER_MS_MAX: u64 = 1000;
/// How long a server that is to stop stays for the election of its successor: with its vote nobody
/// waits for those that are silent.
pub const SUCCESSION_MS_MAX: u64 = 300;
/// How long a replica may take to get what its leader has before its server takes no more clients:
/// what an election and a short absence leave behind is done much sooner.
pub const CATCHING_UP_MS_MAX: u64 = 1000;
/// After so long a state that could not be stored, mostly for want of room, is tried again from
/// memory: the server comes back soon after there is room, and writes little in vain until then.
pub const STORE_AGAIN_MS: u64 = 2000;
/// A shard goes back to the server that should lead it, at most one of a core in so long: each
/// time, its writes pause for an election.
pub const BALANCE_PERIOD_MS: u64 = 60_000;
/// A leader hands its shard over, while idle, before its 32-bit counter runs out.
pub const COUNTER_HANDOVER: u32 = 0xf000_0000;
/// So many proposals later it does so even if it never was idle: those in flight fit in between.
pub const COUNTER_HANDOVER_DELAY: u32 = 0x0f00_0000;

/// The largest frame between two servers: a chunk of a snapshot or a batch of proposals.
pub const PEER_FRAME_BYTES_MAX: usize = 8 << 20;
/// Proposals are cut into frames of about this size, so that a heartbeat never waits long.
pub const PROPOSE_BYTES_TARGET: usize = 256 << 10;
/// One chunk of a snapshot, on the link and in the file.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;
/// Chunks of a snapshot sent to a learner and not yet acknowledged. Together they are no more than
/// a shard may have in flight: with many shards, they are smaller.
pub const SNAPSHOT_CHUNKS_IN_FLIGHT: usize = 4;
/// Smaller ones would cost more than what is in them.
pub const SNAPSHOT_PART_BYTES_MIN: usize = 4096;
/// Bytes waiting on one link before it is dropped: a peer so far behind gets a snapshot later.
pub const LINK_OUTPUT_BYTES_MAX: usize = 64 << 20;

/// Shards of one cluster, fixed when it is formatted.
pub const SHARDS_MAX: u16 = 1024;
/// Cores of one node; session ids are spread over them.
pub const CORES_MAX: u8 = 64;
/// How long to wait before a peer is dialed again, first and at most.
pub const DIAL_BACKOFF_MS_MIN: u64 = 10;
pub const DIAL_BACKOFF_MS_MAX: u64 = 500;
/// Connections to the peer port that have not said who they are; more are closed at once.
pub const GREETINGS_MAX: usize = 128;

/// Every batch starts and ends on this boundary: the physical sector of today's disks.
pub const LOG_BLOCK_BYTES: usize = 4096;
/// A batch is sent when it holds about so much, even while more is waiting.
pub const BATCH_BYTES_TARGET: usize = 256 << 10;
/// A log buffer: one record of the largest size and what a batch adds to it.
pub const LOG_BUFFER_BYTES: usize = (2 << 20) + BATCH_BYTES_TARGET;
/// The largest record: a request's frame, what preparing adds to it, and its header.
pub const RECORD_BYTES_MAX: usize = 2 << 20;
/// One segment file of the log.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// A segment is usable when so much of it is zeroed.
pub const SEGMENT_BYTES_READY: u64 = 4 << 20;
/// An empty batch follows the last write of a busy spell after so long, and proves it complete.
pub const SEAL_DELAY_MS: u64 = 5;

const _: () = assert!(CONNECT_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX + 4 < INPUT_BYTES_RESUME);
const _: () = assert!(OUTPUT_BYTES_PAUSE + RESPONSE_BYTES_MAX < OUTPUT_BYTES_MAX);
// A multi of the largest frame, with a stat's worth of change for each operation, is one record.
const _: () = assert!(RECORD_BYTES_MAX >= FRAME_BYTES_MAX + MULTI_OPERATIONS_MAX * 512);
const _: () = assert!(LOG_BUFFER_BYTES >= RECORD_BYTES_MAX + LOG_BLOCK_BYTES);
const _: () = assert!(LOG_BUFFER_BYTES.is_multiple_of(LOG_BLOCK_BYTES));
const _: () = assert!(PEER_FRAME_BYTES_MAX >= PROPOSE_BYTES_TARGET + RECORD_BYTES_MAX);
const _: () = assert!(PEER_FRAME_BYTES_MAX >= SNAPSHOT_CHUNK_BYTES + 4096);
// What is sent without being asked for again, to a server that is behind in every shard and leads
// others, is half of what a link holds: the other half is for proposals.
const _: () = assert!(LINK_OUTPUT_BYTES_MAX >= 4 * IN_FLIGHT_BYTES_OF_ALL);
const _: () = assert!(SNAPSHOT_CHUNKS_IN_FLIGHT * SNAPSHOT_CHUNK_BYTES <= IN_FLIGHT_BYTES);
const _: () = assert!(
    SNAPSHOT_CHUNKS_IN_FLIGHT * SNAPSHOT_PART_BYTES_MIN * SHARDS_MAX as usize
        <= IN_FLIGHT_BYTES_OF_ALL
);
const _: () = assert!(PURGE_BYTES_MAX + PURGE_PATHS_MAX * 64 < RECORD_BYTES_MAX);
const _: () = assert!(SEGMENT_BYTES >= 8 * LOG_BUFFER_BYTES as u64);
const _: () = assert!(PROPOSAL_BYTES_OUTSTANDING_MAX > RECORD_BYTES_MAX);
const _: () = assert!(COUNTER_HANDOVER < u32::MAX - COUNTER_HANDOVER_DELAY);
const _: () = assert!(REQUEST_BYTES_PER_CONNECTION_MAX >= FRAME_BYTES_MAX);
const _: () = assert!(REQUESTS_PER_TURN_MAX <= REQUESTS_PER_CONNECTION_MAX);
