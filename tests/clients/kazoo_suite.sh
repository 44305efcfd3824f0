#!/usr/bin/env bash
# Runs kazoo's own complete test suite against Pigeonhole; the suite starts and kills the servers.
#   PIGEONHOLE_BIN=target/release/pigeonhole tests/clients/kazoo_suite.sh [pytest options]
#   PIGEONHOLE_SHARDS=8 …                    the same, with the tree cut into eight shards
#   ZOOKEEPER=1 tests/clients/kazoo_suite.sh the baseline: the same against Debian's ZooKeeper,
#                                            nothing excluded
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=$("$here/venv.sh" suite)
exec "$python" "$here/kazoo_suite.py" "$@"
