//! Does: the only crate with system calls, threads, time and unsafe code.
//!
//! | module | one line |
//! |---|---|
//! | `program` | the command line's verbs, the log, the signals, the exit codes |
//! | `config` | `zoo.cfg` and the command line, checked |
//! | `boot` | recover, bind, start the cores of a server; stop them |
//! | `ports` | where clients and peers connect |
//! | `local` | a cluster in one process |
//! | `founding` | a server without a cluster: waiting, forming, becoming a member |
//! | `home` | the data directory: lock and identity |
//! | `snapshots` | the snapshot files, found and read |
//! | `recovery` | what the disk holds, made into replicas |
//! | `check` | the offline verification of a data directory |
//! | `engine` | one core: its loop, its letters, its place |
//! | `client` | ports, connections, figures, four-letter words |
//! | `peer` | links with other servers |
//! | `file` | the log's disk operations, carried out |
//! | `sync_choice` | which way of syncing is the better one under load |
//! | `control` | the thread for slow work on files and names |
//! | `ring` | `io_uring` |
//! | `os` | the other system calls |
//! | `patience` | waiting, at start, for what nobody announces |
//! | `notify` | the service manager |
//! | `exit` | how the process ends when it cannot go on |

mod boot;
mod check;
mod client;
pub mod config;
mod control;
mod engine;
mod exit;
mod file;
mod founding;
mod home;
mod local;
mod mailbox;
mod notify;
pub mod os;
mod patience;
mod peer;
mod ports;
mod program;
mod recovery;
pub mod ring;
mod snapshots;
mod subject;
mod sync_choice;

pub use program::main;
