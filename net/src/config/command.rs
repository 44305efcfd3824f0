//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::local::{BASE_PORT_DEFAULT, LocalCluster};
use super::value::ClusterId;

/// What the user asked the program to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `pigeonhole [--data DIR] [--port BASE] [--replicas N] [--shards S]`: run a cluster here.
    Local(LocalCluster),
    /// `pigeonhole serve <zoo.cfg> [-Dkey=value …]`: run one server.
    Serve {
        /// The configuration file.
        file: PathBuf,
        /// The `-D` arguments in their order; they win over the file.
        overrides: Vec<(String, String)>,
    },
    /// `pigeonhole format <zoo.cfg> [--cluster HEX [--founding]]`: make the data directory a
    /// cluster's member.
    Format {
        /// The configuration file.
        file: PathBuf,
        /// The `-D` arguments in their order; they win over the file.
        overrides: Vec<(String, String)>,
        /// The cluster to be a member of; none founds one.
        cluster: Option<ClusterId>,
        /// The cluster is being founded, and no member of it has ever run.
        founding: bool,
    },
    /// `pigeonhole check DIR [--log DIR]`: verify the data directory of a stopped server.
    Check {
        /// The data directory.
        directory: PathBuf,
        /// `dataLogDir`; none if it is the data directory.
        log: Option<PathBuf>,
    },
}

impl Command {
    /// Reads the arguments, the program's name first. `formats` is the line about the formats on
    /// disk and between servers that `--version` prints below the version.
    ///
    /// The error is also `--help` and `--version`: clap's `exit` prints each where it belongs.
    pub fn parse<I, T>(arguments: I, formats: &str) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        // Clap wants a text that lives for ever; there is one command line in a process.
        let version: &'static str = format!("{}\n{formats}", env!("CARGO_PKG_VERSION")).leak();
        let matches = Arguments::command().version(version).try_get_matches_from(arguments)?;
        Ok(Arguments::from_arg_matches(&matches)?.into())
    }
}

impl From<Arguments> for Command {
    fn from(arguments: Arguments) -> Self {
        match arguments.verb {
            None => Self::Local(LocalCluster {
                data: arguments.local.data,
                base_port: arguments.local.port,
                replicas: arguments.local.replicas,
                shards: arguments.local.shards,
            }),
            Some(Verb::Serve { file }) => {
                Self::Serve { file: file.file, overrides: file.overrides }
            }
            Some(Verb::Format { file, cluster, founding }) => {
                Self::Format { file: file.file, overrides: file.overrides, cluster, founding }
            }
            Some(Verb::Check { directory, log }) => Self::Check { directory, log },
        }
    }
}

/// A sharded, replicated, durable coordination store that ZooKeeper clients use.
///
/// Without a command it runs a cluster in this process, on the loopback address.
#[derive(Debug, Parser)]
#[command(name = "pigeonhole", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    local: Local,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Args)]
struct Local {
    /// Directory that holds the data of all replicas.
    #[arg(long, value_name = "DIR", default_value = "pigeonhole-data")]
    data: PathBuf,
    /// Client port of the first replica; the others follow, peers are 707 ports above.
    #[arg(long, value_name = "BASE", default_value_t = BASE_PORT_DEFAULT)]
    port: u16,
    /// How many replicas, 1 to 7.
    #[arg(long, value_name = "N", default_value_t = 3)]
    replicas: u8,
    /// Into how many shards the tree is cut, 1 to 1024; fixed once there is data.
    #[arg(long, value_name = "S", default_value_t = 8)]
    shards: u16,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run one server as its zoo.cfg says.
    Serve {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Make the data directory of a zoo.cfg a member of a cluster, and print the cluster's id.
    Format {
        #[command(flatten)]
        file: ConfigFile,
        /// The id that `format` printed on the first server; without it, a new cluster is founded.
        #[arg(long, value_name = "HEX")]
        cluster: Option<ClusterId>,
        /// The cluster is being founded: no member of it has ever run. Otherwise the member takes
        /// everything from the others, and counts when they have admitted its disk.
        #[arg(long)]
        founding: bool,
    },
    /// Verify the data directory of a stopped server.
    Check {
        /// The data directory.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// The server's dataLogDir, if it is another directory.
        #[arg(long, value_name = "DIR")]
        log: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file, in ZooKeeper's format.
    #[arg(value_name = "zoo.cfg")]
    file: PathBuf,
    /// A setting that wins over the file, with or without the prefix "zookeeper.".
    #[arg(short = 'D', value_name = "key=value", value_parser = parse_override)]
    overrides: Vec<(String, String)>,
}

/// Like Java, takes a key alone for a key with an empty value.
fn parse_override(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.trim().is_empty() {
        return Err("there is no key before the value; write -Dkey=value".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Command::parse(line.split_whitespace(), "formats: log 1")
    }

    fn local(data: &str, base_port: u16, replicas: u8, shards: u16) -> Command {
        Command::Local(LocalCluster { data: data.into(), base_port, replicas, shards })
    }

    fn overrides(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn lines_are_commands() {
        let cluster = "00c0ffee00000000000000000000000a";
        let table = [
            ("pigeonhole".to_owned(), local("pigeonhole-data", 2181, 3, 8)),
            (
                "pigeonhole --data /d --port 9000 --replicas 1 --shards 1".to_owned(),
                local("/d", 9000, 1, 1),
            ),
            (
                "pigeonhole serve zoo.cfg".to_owned(),
                Command::Serve { file: "zoo.cfg".into(), overrides: Vec::new() },
            ),
            (
                "pigeonhole serve -Dzookeeper.snapCount=5 zoo.cfg -D a=b=c -Dempty".to_owned(),
                Command::Serve {
                    file: "zoo.cfg".into(),
                    overrides: overrides(&[
                        ("zookeeper.snapCount", "5"),
                        ("a", "b=c"),
                        ("empty", ""),
                    ]),
                },
            ),
            (
                format!("pigeonhole format zoo.cfg --cluster {cluster}"),
                Command::Format {
                    file: "zoo.cfg".into(),
                    overrides: Vec::new(),
                    cluster: Some(cluster.parse().unwrap()),
                    founding: false,
                },
            ),
            (
                format!("pigeonhole format zoo.cfg --cluster {cluster} --founding"),
                Command::Format {
                    file: "zoo.cfg".into(),
                    overrides: Vec::new(),
                    cluster: Some(cluster.parse().unwrap()),
                    founding: true,
                },
            ),
            (
                "pigeonhole check /data".to_owned(),
                Command::Check { directory: "/data".into(), log: None },
            ),
            (
                "pigeonhole check /data --log /log".to_owned(),
                Command::Check { directory: "/data".into(), log: Some("/log".into()) },
            ),
        ];
        for (line, expected) in table {
            assert_eq!(parse(&line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_command_is_refused() {
        let table = [
            ("pigeonhole serve", ErrorKind::MissingRequiredArgument),
            ("pigeonhole check", ErrorKind::MissingRequiredArgument),
            ("pigeonhole --port 70000", ErrorKind::ValueValidation),
            ("pigeonhole --data /d serve zoo.cfg", ErrorKind::ArgumentConflict),
            ("pigeonhole serve zoo.cfg -D =x", ErrorKind::ValueValidation),
            ("pigeonhole format zoo.cfg --cluster c0ffee", ErrorKind::ValueValidation),
            ("pigeonhole zoo.cfg", ErrorKind::InvalidSubcommand),
            ("pigeonhole --help", ErrorKind::DisplayHelp),
        ];
        for (line, kind) in table {
            assert_eq!(parse(line).unwrap_err().kind(), kind, "{line}");
        }
    }

    #[test]
    fn the_version_has_a_line_about_the_formats() {
        for flag in ["--version", "-V"] {
            let error = Command::parse(["pigeonhole", flag], "formats: log 1").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DisplayVersion);
            let expected = format!("pigeonhole {}\nformats: log 1\n", env!("CARGO_PKG_VERSION"));
            assert_eq!(error.to_string(), expected);
        }
    }
}
