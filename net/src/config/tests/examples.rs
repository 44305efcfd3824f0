//! Whole files as users have them.

pub(super) const EVERY_SETTING: &str = "tickTime=2000\n\
    dataDir={data}\n\
    dataLogDir={data}/log\n\
    clientPort: 2182\n\
    clientPortAddress=127.0.0.1\n\
    clientPortListenBacklog=128\n\
    quorumListenOnAllIPs=TRUE\n\
    initLimit=4\n\
    syncLimit=2\n\
    minSessionTimeout=1000\n\
    maxSessionTimeout=90000\n\
    maxClientCnxns=-1\n\
    maxCnxns=500\n\
    globalOutstandingLimit=2000\n\
    jute.maxbuffer=0x80000\n\
    snapCount=500\n\
    preAllocSize=65536\n\
    autopurge.purgeInterval=1\n\
    4lw.commands.whitelist=mntr, ruok,,mntr\n\
    zookeeper.DigestAuthenticationProvider.superDigest=super:D/InIHSb7yEEbrWz8b9l71RjZJU=\n\
    DigestAuthenticationProvider.digestAlg=SHA1\n\
    forceSync=yes\n\
    electionAlg=3\n\
    peerType=observer\n\
    reconfigEnabled=false\n\
    server.1=[::1]:2888:3888:participant;[::1]:2181\n\
    server.2=b.example:2888:3888:Observer;2182\n\
    server.254=c.example:2888:3888\n\
    pigeonhole.shards=1024\n\
    pigeonhole.cores=2\n\
    pigeonhole.pin=off\n\
    pigeonhole.logBytesMax=512M\n\
    pigeonhole.cluster=00c0ffee00000000000000000000000a\n\
    pigeonhole.directIO=false\n\
    pigeonhole.strictTail=true\n\
    pigeonhole.peerHeartbeatMs=20\n\
    pigeonhole.peerSilenceMs=200\n";

/// As the package `zookeeper` installs it in `/etc/zookeeper/conf_example`.
pub(super) const DEBIAN: &str = "\
# The number of milliseconds of each tick
tickTime=2000
# The number of ticks that the initial\x20
# synchronization phase can take
initLimit=10
# The number of ticks that can pass between\x20
# sending a request and getting an acknowledgement
syncLimit=5
# the directory where the snapshot is stored.
# do not use /tmp for storage, /tmp here is just\x20
# example sakes.
dataDir={data}
# the port at which the clients will connect
clientPort=2181
# the maximum number of client connections.
# increase this if you need to handle more clients
#maxClientCnxns=60
#
# Be sure to read the maintenance section of the\x20
# administrator guide before turning on autopurge.
#
# https://zookeeper.apache.org/doc/current/zookeeperAdmin.html#sc_maintenance
#
# The number of snapshots to retain in dataDir
#autopurge.snapRetainCount=3
# Purge task interval in hours
# Set to \"0\" to disable auto purge feature
#autopurge.purgeInterval=1

## Metrics Providers
#
# https://prometheus.io Metrics Exporter
#metricsProvider.className=org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider
#metricsProvider.httpHost=0.0.0.0
#metricsProvider.httpPort=7000
#metricsProvider.exportJvmInfo=true
";

/// As kazoo's own test harness writes it for the second of three servers.
pub(super) const KAZOO: &str = "
tickTime=2000
dataDir={data}
clientPort=20010
secureClientPort=20014
maxClientCnxns=0
admin.serverPort=20013
serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory
authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider
ssl.keyStore.location=/tmp/x/keystore.jks
ssl.keyStore.password=apassword
ssl.trustStore.location=/tmp/x/truststore.jks
ssl.trustStore.password=apassword
4lw.commands.whitelist=*
reconfigEnabled=true
localSessionsEnabled=true
localSessionsUpgradingEnabled=true

initLimit=4
syncLimit=2
server.2=localhost:20012:20011:participant
server.1=localhost:20002:20001:participant
server.3=localhost:20022:20021:participant
peerType=participant
";

pub(super) const KAZOO_WARNINGS: [&str; 18] = [
    "zoo.cfg:5: secureClientPort: TLS is not supported; this port is not opened, clientPort is",
    "zoo.cfg:7: admin.serverPort: ZooKeeper's admin server does not exist here; it has no effect",
    "zoo.cfg:8: serverCnxnFactory: there is one network engine, io_uring; it has no effect",
    "zoo.cfg:9: authProvider.1: the schemes are world, ip and digest; this provider is not loaded",
    "zoo.cfg:10: ssl.keyStore.location: TLS is not supported; it has no effect",
    "zoo.cfg:11: ssl.keyStore.password: TLS is not supported; it has no effect",
    "zoo.cfg:12: ssl.trustStore.location: TLS is not supported; it has no effect",
    "zoo.cfg:13: ssl.trustStore.password: TLS is not supported; it has no effect",
    "zoo.cfg:15: reconfigEnabled: servers cannot be changed while running; edit this file",
    "zoo.cfg:16: localSessionsEnabled: every session is replicated",
    "zoo.cfg:17: localSessionsUpgradingEnabled: every session is replicated",
    "command line: file.encoding: everything is UTF-8; it has no effect",
    "command line: java.awt.headless: there is no Java virtual machine; it has no effect",
    "command line: java.security.auth.login.config: SASL is not supported; no login \
     configuration is read",
    "command line: log.dir: the log goes to standard error; it has no effect",
    "command line: log4j.configuration: the environment variable RUST_LOG sets the log; it has \
     no effect",
    "command line: readonlymode.enabled: there is no read-only mode; a server without its leader \
     refuses clients",
    "command line: root.logger: the environment variable RUST_LOG sets the log; it has no effect",
];
