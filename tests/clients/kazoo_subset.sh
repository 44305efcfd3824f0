#!/usr/bin/env bash
# Checks a running ensemble with kazoo: kazoo_subset.sh HOST:PORT[,HOST:PORT…] [--only m1]
# Options may also stand before the hosts.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=$("$here/venv.sh")
exec "$python" "$here/kazoo_subset.py" "$@"
