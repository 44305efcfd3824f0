#!/usr/bin/env bash
# Compiles a walk through ZooKeeper's C client and compares what it is told: c_client.sh HOSTS
set -euo pipefail
hosts=${1:?usage: c_client.sh HOST:PORT[,HOST:PORT…]}
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# THREADED makes the header declare the calls that wait for their answer.
cc -std=gnu11 -Wall -Wextra -Werror -O1 -DTHREADED -o "$folder/c_client" "$here/c_client.c" \
    -lzookeeper_mt -lpthread
timeout 60 "$folder/c_client" "$hosts" "/c-client-$$-$RANDOM" >"$folder/seen" || {
    echo "the C client ended early (exit $?); it had been told:"
    cat "$folder/seen"
    exit 1
}

cat >"$folder/expected" <<'EXPECTED'
create : made base
create /node: made /node
create /node: node exists
create /no/parent: no node
create /s-: made /s-0000000001
create /s-: made /s-0000000002
ls : ok node s-0000000001 s-0000000002
get /node: 'one' version 0 cversion 0 aversion 0 length 3 children 0
set /node: ok
set /node: bad version
get /node: 'second' version 1 cversion 0 aversion 0 length 6 children 0
get /missing: no node
delete /node: bad version
delete base: not empty
exists /missing: no node
exists /node: ok
get /node: 'second' version 1 cversion 0 aversion 0 length 6 children 0
create /born: made /born
ls /born: ok
create /born/child: made /born/child
event 3 on /node
event 1 on /born
event 4 on /born
event 2 on /born/child
multi: ok
multi made /multi, version 3
multi again: node exists
result 0: -110
result 1: -2
result 2: -2
result 3: -2
create /locked: invalid acl
addauth: ok
create /locked: made /locked
get /locked: 'secret' version 0 cversion 0 aversion 0 length 6 children 0
getAcl /locked: ok digest:user:tpUq/4Pn5A64fVZyQ0gOJ8ZWqkY=:31
getAcl : ok world:anyone:31
setAcl /node: ok
set /node: not authenticated
getAcl /node: ok world:anyone:1
create /mine: made /mine
create /mine/child: no children for ephemerals
close: ok
sync: ok
get /mine: no node
get /locked: not authenticated
addauth: ok
get /locked: 'secret' version 0 cversion 0 aversion 0 length 6 children 0
delete /locked: ok
delete /multi: ok
delete /node: ok
delete /s-0000000001: ok
delete : ok
close: ok
EXPECTED
diff -u --label expected --label seen "$folder/expected" "$folder/seen"
echo "ok: the C client is told what ZooKeeper tells it"
