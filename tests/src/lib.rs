//! The other machine: what the product does on real hardware, done on a simulated network and
//! simulated disks, from a seed.
//!
//! - [`world`]: a seed → a cluster, virtual time, one queue of events, faults, the end
//! - [`swarm`]: a seed → what kind of world it is
//! - [`queue`], [`clock`], [`draw`]: virtual time, the nodes' own clocks, chance
//! - [`network`]: ordered byte streams that are late, cut, reset and slow
//! - [`disk`]: sectors that are durable, unsynced or in flight
//! - [`node`], [`process`], [`links`]: one node, one run of its process, its links to others
//! - [`client`], [`workload`], [`speech`], [`history`]: ZooKeeper clients and what they were told
//! - [`check`]: what must hold
//! - [`model`], [`people`]: ZooKeeper's data model and its access rules, written a second time
//! - [`sometimes`]: what must happen now and then
//! - [`say`]: messages and answers in a few words
//! - [`script`]: stories with golden transcripts
//! - [`servers`], [`ports`], [`caller`]: real servers, their ports on loopback, a client of them
//! - [`trace`]: what happened, as text and as a hash

pub mod caller;
pub mod check;
pub mod client;
pub mod clock;
pub mod disk;
pub mod draw;
pub mod history;
pub mod links;
pub mod model;
pub mod network;
pub mod node;
pub mod people;
pub mod ports;
pub mod process;
pub mod queue;
pub mod say;
pub mod script;
pub mod seeds;
pub mod servers;
pub mod sometimes;
pub mod speech;
pub mod swarm;
pub mod trace;
pub mod workload;
pub mod world;
