//! The znodes that a load reads and writes, created however often and present on every server.

use std::net::SocketAddr;
use std::time::Duration;

use super::keys::{Keys, value};
use crate::client::{Client, wire};
use crate::error::BenchError;

/// Creates the znodes through one server and waits until every other server has them.
pub(crate) fn prepare(
    servers: &[SocketAddr],
    keys: Keys,
    value_bytes: usize,
) -> Result<(), BenchError> {
    let (first, others) = servers.split_first().expect("a load has a server");
    create(*first, keys, value_bytes)?;
    for server in others {
        let mut client = Client::connect(*server, PATIENCE)?;
        // A sync covers what was acknowledged before it, so from here on this server has them all.
        for subtree in 0..keys.subtrees {
            client.sync(&keys.subtree_path(subtree))?;
            let last = keys.path(keys.of_subtree(subtree).end - 1);
            expect("exists behind sync", client.exists(&last)?)?;
        }
        client.close()?;
    }
    Ok(())
}

/// Creates the znodes on one server; those that exist are given their value again.
pub(crate) fn create(server: SocketAddr, keys: Keys, value_bytes: usize) -> Result<(), BenchError> {
    let mut client = Client::connect(server, PATIENCE)?;
    for subtree in 0..keys.subtrees {
        let code = client.create(&keys.subtree_path(subtree), b"")?;
        if code != wire::NODE_EXISTS {
            expect("create of a subtree", code)?;
        }
        let missing: Vec<u32> = keys.of_subtree(subtree).collect();
        let (mut present, mut refused) = (Vec::new(), wire::OK);
        client.pipeline(
            &missing,
            |output, xid, &key| {
                wire::create(output, xid, &keys.path(key), &value(key, value_bytes));
            },
            |&key, code| match code {
                wire::OK => {}
                wire::NODE_EXISTS => present.push(key),
                code => refused = code,
            },
        )?;
        expect("create of a key", refused)?;
        client.pipeline(
            &present,
            |output, xid, &key| {
                wire::set_data(output, xid, &keys.path(key), &value(key, value_bytes));
            },
            |_, code| {
                if code != wire::OK {
                    refused = code;
                }
            },
        )?;
        expect("setData of a key", refused)?;
    }
    client.close()
}

fn expect(request: &'static str, code: i32) -> Result<(), BenchError> {
    if code == wire::OK { Ok(()) } else { Err(BenchError::Refused { request, code }) }
}

/// The whole set-up has to come through, so a server is given more time than a client would.
const PATIENCE: Duration = Duration::from_secs(20);
