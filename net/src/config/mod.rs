//! The checked configuration: what the user wrote, as types in which nothing is wrong any more.
//!
//! | module | one line |
//! |---|---|
//! | `command` | the command line |
//! | `local` | the cluster in one process that needs no file |
//! | `server` | one server: every setting as a typed field, and its default |
//! | `settings` | from the settings of a file to a `server`: bounds, rules between settings |
//! | `ensemble` | the `server.N` lines and `myid` |
//! | `keys` | ZooKeeper's keys that have no effect here, and what is said about each |
//! | `reader` | settings taken one by one, and everything wrong collected |
//! | `file` | the syntax of `zoo.cfg` |
//! | `value` | the types of single settings |
//! | `error` | what is wrong, where, and what to write instead |
//!
//! `zoo.cfg` is the only format, so that a ZooKeeper user's file starts this server. Errors are
//! values and name every problem of a file at once; warnings are part of the configuration. The
//! file system is read (`myid`, whether directories exist) and never written.

mod command;
mod ensemble;
mod error;
mod file;
mod keys;
mod local;
mod reader;
mod server;
mod settings;
mod value;

#[cfg(test)]
mod tests;

pub use command::Command;
pub use ensemble::{Role, Server};
pub use error::{ConfigError, Finding, Place};
pub use local::LocalCluster;
pub use server::{ServerConfig, Whitelist};
pub use value::{ClusterId, HostPort, Secret};
