#!/usr/bin/env bash
# Prints the python of the project's virtual environment, which it makes on first use.
# `venv.sh suite` adds what kazoo's own test suite needs; without it only kazoo is installed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=${PIGEONHOLE_VENV:-$(cd "$here/../.." && pwd)/.venv}
requirements=$here/requirements.txt
if [ "${1:-}" = suite ]; then requirements=$here/requirements-suite.txt; fi
stamp=$venv/installed-$(basename "$requirements")

# Tests run side by side and may all be the first: one makes the environment, the others wait.
mkdir -p "$venv"
exec 9>"$venv/lock"
flock 9
if ! cmp -s "$requirements" "$stamp"; then
    {
        [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            --requirement "$requirements"
        cp "$requirements" "$stamp"
    } >&2
fi
echo "$venv/bin/python"
