//! The keys that ZooKeeper knows and this server does not act upon, and what happens to each.
//!
//! A setting is never dropped in silence. What merely tunes or adds something is warned about in
//! one line; what somebody wrote to be safer, and would not be, stops the start.

/// What becomes of a setting that has no effect here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    /// The server starts, and says this.
    Warn(&'static str),
    /// The server does not start, and says this.
    Refuse(&'static str),
    /// The setting asks for what happens anyway.
    Accept,
}

/// What becomes of `key=value`; none for a key that ZooKeeper's documentation does not know.
pub(super) fn treatment(key: &str, value: &str) -> Option<Treatment> {
    let row = UNSUPPORTED.iter().find(|row| match row.key.strip_suffix('*') {
        Some(prefix) => key.starts_with(prefix),
        None => row.key == key,
    })?;
    let harmless = row.unless.iter().any(|unless| unless.eq_ignore_ascii_case(value));
    Some(if harmless { Treatment::Accept } else { row.treatment })
}

/// The known key that is nearest to `key`, if a slip of the finger explains the difference.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let unsupported = UNSUPPORTED.iter().map(|row| row.key).filter(|key| !key.ends_with('*'));
    nearest_of(key, SUPPORTED.iter().chain(OWN).copied().chain(unsupported), 2)
}

/// The own key that is nearest to `key`: somebody who wrote `pigeonhole.` meant one of these.
pub(super) fn nearest_own(key: &str) -> &'static str {
    nearest_of(key, OWN.iter().copied(), usize::MAX).expect("there are own keys")
}

fn nearest_of(
    key: &str,
    known: impl Iterator<Item = &'static str>,
    distance_max: usize,
) -> Option<&'static str> {
    known
        .map(|known| (edit_distance(key, known), known))
        .filter(|&(distance, _)| distance <= distance_max)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, known)| known)
}

/// How many characters to insert, delete or replace; upper and lower case are one.
fn edit_distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().map(|it| it.to_ascii_lowercase()).collect();
    let right: Vec<char> = right.chars().map(|it| it.to_ascii_lowercase()).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, from) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

/// The keys of this server alone.
pub(super) const OWN: &[&str] = &[
    "pigeonhole.shards",
    "pigeonhole.cores",
    "pigeonhole.pin",
    "pigeonhole.logBytesMax",
    "pigeonhole.cluster",
    "pigeonhole.directIO",
    "pigeonhole.strictTail",
    "pigeonhole.peerHeartbeatMs",
    "pigeonhole.peerSilenceMs",
];

/// ZooKeeper's keys that are acted upon, or checked.
pub(super) const SUPPORTED: &[&str] = &[
    "tickTime",
    "dataDir",
    "dataLogDir",
    "clientPort",
    "clientPortAddress",
    "clientPortListenBacklog",
    "initLimit",
    "syncLimit",
    "maxClientCnxns",
    "maxCnxns",
    "minSessionTimeout",
    "maxSessionTimeout",
    "peerType",
    "quorumListenOnAllIPs",
    "dynamicConfigFile",
    "datadir.autocreate",
    "jute.maxbuffer",
    "snapCount",
    "preAllocSize",
    "globalOutstandingLimit",
    "4lw.commands.whitelist",
    "DigestAuthenticationProvider.superDigest",
    "DigestAuthenticationProvider.digestAlg",
    "skipACL",
    "standaloneEnabled",
    "forceSync",
    "electionAlg",
    "autopurge.purgeInterval",
    "autopurge.snapRetainCount",
];

struct Unsupported {
    /// The key, or its beginning and `*`.
    key: &'static str,
    /// Values that ask for what happens here anyway.
    unless: &'static [&'static str],
    treatment: Treatment,
}

const fn warn(key: &'static str, text: &'static str) -> Unsupported {
    Unsupported { key, unless: &[], treatment: Treatment::Warn(text) }
}

const fn warn_unless(
    unless: &'static [&'static str],
    key: &'static str,
    text: &'static str,
) -> Unsupported {
    Unsupported { key, unless, treatment: Treatment::Warn(text) }
}

const fn refuse_unless(
    unless: &'static [&'static str],
    key: &'static str,
    text: &'static str,
) -> Unsupported {
    Unsupported { key, unless, treatment: Treatment::Refuse(text) }
}

const OFF: &[&str] = &["false", "no"];
const ON: &[&str] = &["true", "yes"];

/// Exact keys come before the prefixes that would cover them. One row a line, as a table is read.
#[rustfmt::skip]
const UNSUPPORTED: &[Unsupported] = &[
    refuse_unless(OFF, "sslQuorum", TLS_REQUIRED),
    refuse_unless(OFF, "enforce.auth.enabled", AUTH_REQUIRED),
    refuse_unless(OFF, "sessionRequireClientSASLAuth", AUTH_REQUIRED),
    refuse_unless(OFF, "quorum.auth.serverRequireSasl", PEER_AUTH_REQUIRED),
    refuse_unless(OFF, "quorum.auth.learnerRequireSasl", PEER_AUTH_REQUIRED),
    refuse_unless(ON, "DigestAuthenticationProvider.enabled", DIGEST_STAYS),
    refuse_unless(&[], "group.*", HIERARCHICAL),
    refuse_unless(&[], "weight.*", HIERARCHICAL),
    warn_unless(OFF, "quorum.auth.enableSasl", "servers do not authenticate each other"),
    warn("quorum.auth.*", "servers do not authenticate each other; it has no effect"),
    warn("enforce.auth.schemes", "has no effect while enforce.auth.enabled is not true"),
    warn_unless(OFF, "allowSaslFailedClients", "SASL is not supported; it has no effect"),
    warn("secureClientPortAddress", "TLS is not supported; no secure port is opened"),
    warn("serverCnxnFactory", "there is one network engine, io_uring; it has no effect"),
    warn_unless(OFF, "client.portUnification", "TLS is not supported; the client port is plain"),
    warn_unless(OFF, "portUnification", "TLS is not supported; the peer port is plain"),
    warn("ssl.*", "TLS is not supported; it has no effect"),
    warn("sslQuorumReloadCertFiles", "TLS is not supported; it has no effect"),
    warn("client.certReload", "TLS is not supported; it has no effect"),
    warn("fips-mode", "TLS is not supported; it has no effect"),
    warn("X509AuthenticationProvider.*", "TLS is not supported; nobody is this super user"),
    warn("authProvider.*", "the schemes are world, ip and digest; this provider is not loaded"),
    warn("kerberos.*", "SASL is not supported; it has no effect"),
    warn("sasl.*", "SASL is not supported; it has no effect"),
    warn("java.security.*", "SASL is not supported; no login configuration is read"),
    warn_unless(OFF, "reconfigEnabled", "servers cannot be changed while running; edit this file"),
    warn_unless(OFF, "localSessionsEnabled", "every session is replicated"),
    warn_unless(OFF, "localSessionsUpgradingEnabled", "every session is replicated"),
    warn_unless(OFF, "readonlymode.enabled", READ_ONLY),
    warn_unless(OFF, "readonlymode", READ_ONLY),
    warn_unless(OFF, "admin.enableServer", "ZooKeeper's admin server does not exist here"),
    warn("admin.*", "ZooKeeper's admin server does not exist here; it has no effect"),
    warn("metricsProvider.*", "metrics providers are not loaded; `mntr` has the metrics"),
    warn_unless(OFF, "multiAddress.enabled", "only the first address of a server is used"),
    warn("multiAddress.*", "only the first address of a server is used; it has no effect"),
    warn("observerMasterPort", "observers follow the leader; this port is not opened"),
    warn("observer.*", "observers follow the leader as voters do; it has no effect"),
    warn_unless(ON, "leaderServes", "the leader serves clients in any case"),
    warn_unless(ON, "syncEnabled", "observers keep a log in any case"),
    warn("oraclePath", "there is no oracle; a majority of the participants decides"),
    warn_unless(ON, "db.autocreate", "an empty directory never passes for an empty cluster"),
    warn("snapshot.compression.method", "snapshots are not compressed"),
    warn("snapshot.trust.empty", "a missing snapshot is never trusted; it has no effect"),
    warn("snapSizeLimitInKb", "pigeonhole.logBytesMax bounds the log; it has no effect"),
    warn("txnLogSizeLimitInKb", "segments of the log are 64 MiB; it has no effect"),
    warn("commitLogCount", "the log itself brings peers up to date; it has no effect"),
    warn("fsync.warningthresholdms", "has no effect"),
    warn("maxBatchSize", "whatever waits is written at once; it has no effect"),
    warn("flushDelay", "whatever waits is written at once; it has no effect"),
    warn("maxWriteQueuePollTime", "whatever waits is written at once; it has no effect"),
    warn("connectToLearnerMasterLimit", "initLimit bounds it; it has no effect"),
    warn("quorum.cnxn.threads.size", "one thread per core serves all; it has no effect"),
    warn("cnxTimeout", "pigeonhole.peerSilenceMs bounds it; it has no effect"),
    warn("electionPortBindRetry", "peers talk over one port; it has no effect"),
    warn("watchManagerName", "there is one kind of watch table; it has no effect"),
    warn("maxResponseCacheSize", "replies are not cached; it has no effect"),
    warn("maxGetChildrenResponseCacheSize", "replies are not cached; it has no effect"),
    warn("nio.*", "one thread per core serves all; it has no effect"),
    warn("netty.*", "one thread per core serves all; it has no effect"),
    warn("jvm-pause-monitor.*", "there is no Java virtual machine; it has no effect"),
    warn("java.*", "there is no Java virtual machine; it has no effect"),
    warn("sun.*", "there is no Java virtual machine; it has no effect"),
    warn("com.sun.*", "there is no Java virtual machine; it has no effect"),
    warn("file.encoding", "everything is UTF-8; it has no effect"),
    warn("user.*", "there is no Java virtual machine; it has no effect"),
    warn("log4j.*", "the environment variable RUST_LOG sets the log; it has no effect"),
    warn("logback.*", "the environment variable RUST_LOG sets the log; it has no effect"),
    warn("root.logger", "the environment variable RUST_LOG sets the log; it has no effect"),
    warn("log.*", "the log goes to standard error; it has no effect"),
    warn("console.threshold", "the environment variable RUST_LOG sets the log; it has no effect"),
];

const TLS_REQUIRED: &str = "TLS between servers is not supported, and they would talk in the \
    clear; remove it, and keep the peer ports on a private network";
const AUTH_REQUIRED: &str = "clients cannot be forced to authenticate, and everybody would be let \
    in; remove it, and protect data with ACLs";
const PEER_AUTH_REQUIRED: &str = "servers do not authenticate each other, and everybody would be \
    let in; remove it, and keep the peer ports on a private network";
const DIGEST_STAYS: &str = "digest authentication cannot be switched off; remove it";
const HIERARCHICAL: &str = "weighted and grouped quorums are not supported, and another majority \
    would decide; remove every group.N and weight.N";
const READ_ONLY: &str = "there is no read-only mode; a server without its leader refuses clients";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_the_slips() {
        let table = [
            ("", "", 0),
            ("a", "", 1),
            ("", "abc", 3),
            ("tickTime", "ticktime", 0),
            ("shard", "shards", 1),
            ("kitten", "sitting", 3),
            ("dataDir", "datadri", 2),
        ];
        for (left, right, expected) in table {
            assert_eq!(edit_distance(left, right), expected, "{left} {right}");
            assert_eq!(edit_distance(right, left), expected, "{right} {left}");
        }
    }

    #[test]
    fn a_slip_is_recognized_and_a_stranger_is_not() {
        assert_eq!(nearest("datadir"), Some("dataDir"));
        assert_eq!(nearest("maxClientConxns"), Some("maxClientCnxns"));
        assert_eq!(nearest("reconfigEnable"), Some("reconfigEnabled"));
        assert_eq!(nearest("somethingElse"), None);
        assert_eq!(nearest_own("pigeonhole.core"), "pigeonhole.cores");
        assert_eq!(nearest_own("pigeonhole.direct_io"), "pigeonhole.directIO");
    }

    #[test]
    fn no_row_is_hidden_behind_an_earlier_prefix() {
        for row in UNSUPPORTED {
            let key = row.key.replace('*', "x");
            assert_eq!(treatment(&key, "a value of its own"), Some(row.treatment), "{key}");
            for key in SUPPORTED.iter().chain(OWN) {
                assert_eq!(treatment(key, ""), None, "{key} is acted upon");
            }
        }
    }

    #[test]
    fn what_happens_anyway_is_accepted() {
        assert_eq!(treatment("sslQuorum", "False"), Some(Treatment::Accept));
        assert_eq!(treatment("sslQuorum", "true"), Some(Treatment::Refuse(TLS_REQUIRED)));
        assert_eq!(treatment("sslQuorum", "1"), Some(Treatment::Refuse(TLS_REQUIRED)));
        assert_eq!(treatment("leaderServes", "yes"), Some(Treatment::Accept));
        assert_eq!(treatment("group.1", "1:2:3"), Some(Treatment::Refuse(HIERARCHICAL)));
        assert_eq!(treatment("nobody.knows", ""), None);
    }
}
