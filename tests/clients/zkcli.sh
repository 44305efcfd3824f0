#!/usr/bin/env bash
# Drives ZooKeeper's own shell, as Debian ships it, and compares what it prints: zkcli.sh HOSTS
# Replies and events are printed by two threads of the shell, so they are compared apart.
set -euo pipefail
hosts=${1:?usage: zkcli.sh HOST:PORT[,HOST:PORT…]}
zkcli=${ZKCLI:-/usr/share/zookeeper/bin/zkCli.sh}
base=/zkcli-$$-$RANDOM
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# What differs from run to run becomes a letter; what the shell says of itself goes away.
# The shell's exit status is that of its last command and says nothing that the lines do not.
shell() {
    { timeout 60 "$zkcli" -server "$hosts" 2>&1 || true; } | sed \
        -e '/^SLF4J/d' -e '/^Connecting to/d' -e '/^Welcome/d' -e '/^JLine/d' -e '/^ *$/d' \
        -e "s|$base|/BASE|g" \
        -e 's/^\([cm]time\) = .*/\1 = T/' -e 's/^\([cmp]Zxid\) = 0x[1-9a-f][0-9a-f]*/\1 = Z/' \
        -e 's/^ephemeralOwner = 0x[1-9a-f][0-9a-f]*/ephemeralOwner = S/' >"$folder/output"
    grep -v -e '^WATCHER::' -e '^WatchedEvent' "$folder/output" || true
    echo "-- events"
    grep '^WatchedEvent' "$folder/output" | grep -v ' type:None ' || true
}

{
    shell <<COMMANDS
create $base hello
create $base/node "two words"
ls $base
get $base
get -s $base/node
set $base/node again
set -v 0 $base/node refused
stat $base/node
create -s $base/s- first
create -s $base/s- second
ls -s $base
ls -R $base
get -w $base/node
set $base/node watched
ls -w $base
create $base/child
get $base/child
stat -w $base/nothing
create $base/node
get $base/missing
delete $base/missing
delete $base
addWatch -m PERSISTENT_RECURSIVE $base/child
create $base/child/a
set $base/child/a x
delete $base/child/a
removewatches $base/child
create $base/locked secret
addauth digest user:password
setAcl $base/locked auth:user:password:cdrwa
getAcl $base/locked
get $base/locked
getAcl $base
create -e $base/mine here
stat $base/mine
getAllChildrenNumber $base
getEphemerals $base
sync $base
quit
COMMANDS
    echo "-- another session"
    shell <<COMMANDS
sync $base
get $base/mine
get $base/locked
addauth digest user:password
get $base/locked
deleteall $base
ls $base
quit
COMMANDS
} >"$folder/seen"

cat >"$folder/expected" <<'EXPECTED'
Created /BASE
Created /BASE/node
[node]
hello
two words
cZxid = Z
ctime = T
mZxid = Z
mtime = T
pZxid = Z
cversion = 0
dataVersion = 0
aclVersion = 0
ephemeralOwner = 0x0
dataLength = 9
numChildren = 0
version No is not valid : /BASE/node
cZxid = Z
ctime = T
mZxid = Z
mtime = T
pZxid = Z
cversion = 0
dataVersion = 1
aclVersion = 0
ephemeralOwner = 0x0
dataLength = 5
numChildren = 0
Created /BASE/s-0000000001
Created /BASE/s-0000000002
[node, s-0000000001, s-0000000002]
cZxid = Z
ctime = T
mZxid = Z
mtime = T
pZxid = Z
cversion = 3
dataVersion = 0
aclVersion = 0
ephemeralOwner = 0x0
dataLength = 5
numChildren = 3
/BASE
/BASE/node
/BASE/s-0000000001
/BASE/s-0000000002
again
[node, s-0000000001, s-0000000002]
Created /BASE/child
null
Node does not exist: /BASE/nothing
Node already exists: /BASE/node
Node does not exist: /BASE/missing
Node does not exist: /BASE/missing
Node not empty: /BASE
Created /BASE/child/a
Created /BASE/locked
'digest,'user:tpUq/4Pn5A64fVZyQ0gOJ8ZWqkY=
: cdrwa
secret
'world,'anyone
: cdrwa
Created /BASE/mine
cZxid = Z
ctime = T
mZxid = Z
mtime = T
pZxid = Z
cversion = 0
dataVersion = 0
aclVersion = 0
ephemeralOwner = S
dataLength = 4
numChildren = 0
6
[/BASE/mine]
Sync is OK
-- events
WatchedEvent state:SyncConnected type:NodeDataChanged path:/BASE/node
WatchedEvent state:SyncConnected type:NodeChildrenChanged path:/BASE
WatchedEvent state:SyncConnected type:NodeCreated path:/BASE/child/a
WatchedEvent state:SyncConnected type:NodeDataChanged path:/BASE/child/a
WatchedEvent state:SyncConnected type:NodeDeleted path:/BASE/child/a
WatchedEvent state:SyncConnected type:PersistentWatchRemoved path:/BASE/child
-- another session
Sync is OK
Node does not exist: /BASE/mine
Insufficient permission : /BASE/locked
secret
Node does not exist: /BASE
-- events
EXPECTED
diff -u --label expected --label seen "$folder/expected" "$folder/seen"
echo "ok: zkCli prints what it prints on ZooKeeper"
