//! The zoo.cfg files of a cluster, and the commands that run them.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use super::server::Server;
use super::{ClusterOptions, System, WorkDirectory};
use crate::error::BenchError;

/// Writes the files of every server and returns the servers, not yet started.
pub(super) fn write(
    system: System,
    count: u16,
    options: &ClusterOptions,
    directory: &WorkDirectory,
) -> Result<Vec<Server>, BenchError> {
    (0..count).map(|index| write_one(system, index, count, options, directory)).collect()
}

fn write_one(
    system: System,
    index: u16,
    count: u16,
    options: &ClusterOptions,
    directory: &WorkDirectory,
) -> Result<Server, BenchError> {
    let name = format!("{system:?}-{count}-{}", index + 1).to_lowercase();
    let home = directory.path().join(&name);
    let data = home.join("data");
    fs::create_dir_all(&data).map_err(BenchError::io(format!("create {}", data.display())))?;
    let port = ports(system, count, options).client + index;
    let write = |path: &Path, text: &str| {
        fs::write(path, text).map_err(BenchError::io(format!("write {}", path.display())))
    };
    let zoo_cfg = home.join("zoo.cfg");
    write(&zoo_cfg, &zoo_cfg_text(system, port, count, options, &data))?;
    write(&data.join("myid"), &format!("{}\n", index + 1))?;

    let command = command(system, port, options, &zoo_cfg)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Ok(Server::new(name, address, command, home))
}

fn command(
    system: System,
    port: u16,
    options: &ClusterOptions,
    zoo_cfg: &Path,
) -> Result<Command, BenchError> {
    Ok(match system {
        System::ZooKeeper => {
            let mut command = Command::new(&options.java);
            command
                .args(&options.java_flags)
                .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
                .args(["-cp", &options.zookeeper_class_path])
                .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
                .arg(zoo_cfg);
            command
        }
        System::Pigeonhole => {
            // The server starts in its own directory, so a relative path would lead elsewhere.
            let program = options
                .pigeonhole
                .canonicalize()
                .map_err(BenchError::io(format!("find {}", options.pigeonhole.display())))?;
            let mut command = Command::new(program);
            command.arg("serve").arg(zoo_cfg);
            command
        }
        System::Floor => {
            let program =
                std::env::current_exe().map_err(BenchError::io("find this program's own file"))?;
            let mut command = Command::new(program);
            command.args(["floor-serve", "--port", &port.to_string()]);
            command
        }
    })
}

/// One text for both systems but for each one's own keys: same ticks, same limits, same syncs.
fn zoo_cfg_text(
    system: System,
    port: u16,
    count: u16,
    options: &ClusterOptions,
    data: &Path,
) -> String {
    let mut text = format!(
        "tickTime=2000\n\
         initLimit=10\n\
         syncLimit=5\n\
         dataDir={}\n\
         clientPort={port}\n\
         clientPortAddress=127.0.0.1\n\
         maxClientCnxns=0\n\
         4lw.commands.whitelist=*\n",
        data.display()
    );
    let own: Vec<String> = match system {
        System::ZooKeeper => ["forceSync=yes".to_owned(), "admin.enableServer=false".to_owned()]
            .into_iter()
            .chain(options.zookeeper_option.iter().cloned())
            .collect(),
        System::Pigeonhole => [format!("pigeonhole.shards={}", options.shards)]
            .into_iter()
            .chain(options.pigeonhole_option.iter().cloned())
            .collect(),
        System::Floor => Vec::new(),
    };
    for line in own {
        text.push_str(&line);
        text.push('\n');
    }
    let ports = ports(system, count, options);
    for index in 0..if count > 1 { count } else { 0 } {
        let (id, quorum, election) = (index + 1, ports.quorum + index, ports.election + index);
        writeln!(text, "server.{id}=127.0.0.1:{quorum}:{election}")
            .expect("writing to a string cannot fail");
    }
    text
}

struct Ports {
    client: u16,
    quorum: u16,
    election: u16,
}

/// Clusters that run at the same time differ in their system or in their size.
fn ports(system: System, count: u16, options: &ClusterOptions) -> Ports {
    let cluster = match system {
        System::ZooKeeper => 0,
        System::Pigeonhole => 60,
        System::Floor => 120 + 10 * u16::from(count > 1),
    };
    let client = options.base_port + cluster;
    Ports { client, quorum: client + 20, election: client + 40 }
}
