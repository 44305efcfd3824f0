//! Every line that is wrong or worth a remark, and the words for it.

/// A line, and what is said about it when it follows a standalone server's two.
pub(super) const WRONG_VALUES: &[(&str, &[&str])] = &[
    (
        "tickTime=0",
        &["tickTime: 0 is not from 1 to 600000 milliseconds; write for example tickTime=2000"],
    ),
    (
        "tickTime=",
        &["tickTime: \"\" is not a whole number of milliseconds; write for example tickTime=2000"],
    ),
    (
        "syncLimit=99999999999999999999",
        &["syncLimit: \"99999999999999999999\" is not a whole number of ticks; write for example \
         syncLimit=5"],
    ),
    (
        "minSessionTimeout=70000",
        &["minSessionTimeout: the shortest timeout, 70000 ms, is above the longest, 60000 ms; \
         lower minSessionTimeout, or raise maxSessionTimeout"],
    ),
    (
        "maxSessionTimeout=5000",
        &["maxSessionTimeout: the shortest timeout, 6000 ms, is above the longest, 5000 ms; \
         lower minSessionTimeout, or raise maxSessionTimeout"],
    ),
    (
        "clientPort=70000",
        &["clientPort: 70000 is not from 1 to 65535; write for example clientPort=2181"],
    ),
    (
        "clientPortAddress=a b",
        &["clientPortAddress: \"a b\" is not a host name or address; write for example \
         clientPortAddress=127.0.0.1"],
    ),
    (
        "maxClientCnxns=10000001",
        &["maxClientCnxns: 10000001 is not from 0 to 10000000 connections (0 for no limit); \
         write for example maxClientCnxns=60"],
    ),
    (
        "jute.maxbuffer=1G",
        &["jute.maxbuffer: \"1G\" is not a whole number of bytes; write for example \
         jute.maxbuffer=1048575"],
    ),
    (
        "zookeeper.jute.maxbuffer=1073741824",
        &["jute.maxbuffer: 1073741824 is not from 1024 to 33554432 bytes; write for example \
         jute.maxbuffer=1048575"],
    ),
    (
        "preAllocSize=x",
        &["preAllocSize: \"x\" is not a whole number of KiB; write for example preAllocSize=65536"],
    ),
    (
        "forceSync=no",
        &["forceSync: durability is not optional: an acknowledged write is on disk; write \
         forceSync=yes, or remove the line"],
    ),
    (
        "forceSync=maybe",
        &["forceSync: \"maybe\" is neither yes nor no; write forceSync=yes or forceSync=no"],
    ),
    (
        "electionAlg=0",
        &["electionAlg: \"0\" is not supported; write electionAlg=3, or remove the line"],
    ),
    (
        "DigestAuthenticationProvider.superDigest=super:secret",
        &["DigestAuthenticationProvider.superDigest: is not a user, a colon and the base64 of a \
         SHA-1; write super: and the output of: printf super:PASSWORD | openssl sha1 -binary | \
         base64"],
    ),
    (
        "DigestAuthenticationProvider.digestAlg=SHA-256",
        &["DigestAuthenticationProvider.digestAlg: \"SHA-256\" is not supported; write \
         DigestAuthenticationProvider.digestAlg=SHA1"],
    ),
    (
        "enforce.auth.enabled=true",
        &["enforce.auth.enabled: clients cannot be forced to authenticate, and everybody would \
         be let in; remove it, and protect data with ACLs"],
    ),
    (
        "zookeeper.sessionRequireClientSASLAuth=true",
        &["sessionRequireClientSASLAuth: clients cannot be forced to authenticate, and everybody \
         would be let in; remove it, and protect data with ACLs"],
    ),
    (
        "weight.1=2",
        &["weight.1: weighted and grouped quorums are not supported, and another majority would \
         decide; remove every group.N and weight.N"],
    ),
    (
        "peerType=leader",
        &["peerType: \"leader\" is neither participant nor observer; remove the line"],
    ),
    (
        "peerType=observer",
        &["peerType: a standalone server has nobody to observe; list the servers as server.N, or \
         remove the line"],
    ),
    (
        "pigeonhole.shards=0",
        &["pigeonhole.shards: 0 is not from 1 to 1024 shards; write for example \
             pigeonhole.shards=8"],
    ),
    (
        "pigeonhole.shards=65537",
        &["pigeonhole.shards: 65537 is not from 1 to 1024 shards; write for example \
         pigeonhole.shards=8"],
    ),
    (
        "pigeonhole.cores=65",
        &["pigeonhole.cores: 65 is not from 1 to 64 cores; write for example pigeonhole.cores=1"],
    ),
    (
        "pigeonhole.pin=true",
        &["pigeonhole.pin: \"true\" is neither on nor off; write pigeonhole.pin=on or \
         pigeonhole.pin=off"],
    ),
    (
        "pigeonhole.logBytesMax=255M",
        &["pigeonhole.logBytesMax: \"255M\" is not a number of bytes from 256M to 16777216M; \
         write for example pigeonhole.logBytesMax=1024M"],
    ),
    (
        "pigeonhole.cluster=abc",
        &["pigeonhole.cluster: \"abc\" is not a cluster's id; write the 32 hex digits that \
         `pigeonhole format` printed on the first server"],
    ),
    (
        "pigeonhole.directIO=1",
        &["pigeonhole.directIO: \"1\" is neither true nor false; write pigeonhole.directIO=true \
         or pigeonhole.directIO=false"],
    ),
    (
        "pigeonhole.peerHeartbeatMs=300",
        &["pigeonhole.peerSilenceMs: 400 ms is less than 2 heartbeats, and one late message \
         would end a leadership; write at least pigeonhole.peerSilenceMs=600"],
    ),
    (
        "pigeonhole.LogBytes=1G",
        &["pigeonhole.LogBytes: unknown key; did you mean pigeonhole.logBytesMax?"],
    ),
];

/// An eighth line for an ensemble of three, and what is said about it.
pub(super) const WRONG_SERVERS: &[(&str, &str)] = &[
    (
        "server.0=zk4:2888:3888",
        "server.0: \"0\" is not a server id; write a whole number from 1 to 254, as in \
         server.1=host:2888:3888",
    ),
    (
        "server.255=zk4:2888:3888",
        "server.255: \"255\" is not a server id; write a whole number from 1 to 254, as in \
         server.1=host:2888:3888",
    ),
    ("server.2=zk4:2888:3888", "server.2: is already given at zoo.cfg:6; give each server its own"),
    (
        "server.02=zk4:2888:3888",
        "server.02: has the id of the server at zoo.cfg:6; give each its own",
    ),
    (
        "server.4=zk4",
        "server.4: \"zk4\" is not a host and ports; write for example server.4=host:2888:3888",
    ),
    (
        "server.4=:2888:3888",
        "server.4: \"\" is not a host (an IPv6 address stands in brackets); write for example \
         server.4=host:2888:3888",
    ),
    (
        "server.4=::1:2888:3888",
        "server.4: \"\" is not a host (an IPv6 address stands in brackets); write for example \
         server.4=host:2888:3888",
    ),
    (
        "server.4=[::1]2888:3888",
        "server.4: \"[::1]2888:3888\" has no \"]:\" after its address; write for example \
         server.4=host:2888:3888",
    ),
    (
        "server.4=zk4:2888:3888:voter",
        "server.4: \"voter\" is neither participant nor observer; write for example \
         server.4=host:2888:3888",
    ),
    (
        "server.4=zk4:2888:3888:observer:x",
        "server.4: \"zk4:2888:3888:observer:x\" has too many parts (an IPv6 address stands in \
         brackets); write for example server.4=host:2888:3888",
    ),
    (
        "server.4=zk4:0:3888",
        "server.4: \"0\" is no quorum port from 1 to 65535; write for example \
         server.4=host:2888:3888",
    ),
    (
        "server.4=zk4:2888:65536",
        "server.4: \"65536\" is no election port from 1 to 65535; write for example \
         server.4=host:2888:3888",
    ),
    (
        "server.4=zk4:2888:3888;",
        "server.4: \"\" is no client port from 1 to 65535; write for example \
         server.4=host:2888:3888;2181",
    ),
    (
        "server.4=zk4:2888:2888",
        "server.4: 2888 is both the quorum and the election port; write for example \
         server.4=host:2888:3888",
    ),
    (
        "server.4=zk4:2888:3888|zk5:x:3888",
        "server.4: \"x\" is no quorum port from 1 to 65535; write for example \
         server.4=host:2888:3888",
    ),
    (
        "server.4=ZK3:2888:3889",
        "server.4: zk3:2888, its quorum port, is server.3's quorum port too; choose another",
    ),
    (
        "server.4=zk3:2889:3889;3888",
        "server.4: zk3:3888, its client port, is server.3's election port too; choose another",
    ),
];

/// An eighth line for an ensemble of three, and what is said at the start.
pub(super) const WARNINGS: &[(&str, &[&str])] = &[
    ("fooBar=1", &["fooBar: unknown key; it has no effect"]),
    (
        "autopurge.purgeIntervals=1",
        &["autopurge.purgeIntervals: unknown key; it has no effect; did you mean \
         autopurge.purgeInterval?"],
    ),
    ("syncLimit=6", &["syncLimit: is already given at zoo.cfg:4; this one counts"]),
    (
        "reconfigEnabled=true",
        &["reconfigEnabled: servers cannot be changed while running; edit this file"],
    ),
    ("standaloneEnabled=false", &[]),
    ("standaloneEnabled=true", &[]),
    ("sslQuorum=false", &[]),
    (
        "secureClientPort=2281",
        &["secureClientPort: TLS is not supported; this port is not opened, clientPort is"],
    ),
    (
        "quorum.auth.enableSasl=true",
        &["quorum.auth.enableSasl: servers do not authenticate each other"],
    ),
    ("skipACL=yes", &["skipACL: access control lists are not checked: everybody is a superuser"]),
    ("preAllocSize=1024", &["preAllocSize: segments of the log are 64 MiB; it has no effect"]),
    (
        "autopurge.purgeInterval=0",
        &["autopurge.purgeInterval: old files are purged in any case; pigeonhole.logBytesMax \
         bounds the log"],
    ),
    (
        "pigeonhole.cores=3",
        &["pigeonhole.cores: this process may use 2 CPUs; threads will share them"],
    ),
    ("peerType=observer", &["peerType: has no effect: server.1 says otherwise, and counts"]),
    (
        "4lw.commands.whitelist=stat, dance",
        &["4lw.commands.whitelist: \"dance\" is not a four-letter word of ZooKeeper's"],
    ),
    (
        "server.4=zk4:2888:3888:observer|zk4b:2888:3888:observer",
        &["server.4: only the first address, zk4:2888, is used"],
    ),
    (
        "jute.maxbuffer=4194304",
        &["jute.maxbuffer: longer requests than 1048575 bytes are refused all the same"],
    ),
    (
        "dataLogDir=log",
        &["dataLogDir: is relative to the directory in which the server is started"],
    ),
];
