"""Runs kazoo's own tests with its harness starting the server of our choice."""

import importlib.util
import os
import pathlib
import shutil
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
EXCLUDED = HERE / "kazoo_excluded.txt"
JAVA_LIBRARIES = pathlib.Path("/usr/share/java")

# Debian's zookeeper.jar names most of what it needs; Netty and a logger are missing from its list.
ZOOKEEPER_JARS = [
    "zookeeper.jar",
    "netty-codec.jar",
    "netty-resolver.jar",
    "netty-transport-native-unix-common.jar",
    "slf4j-log4j12.jar",
    "log4j-1.2.jar",
]


def read_exclusions(text):
    """Each line is `test — why Pigeonhole does not run it`; a line without a reason is an error."""
    exclusions = {}
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        test, dash, reason = line.partition(" — ")
        if not dash or not reason.strip():
            raise SystemExit(f"{EXCLUDED.name}: no reason given in: {line}")
        exclusions[test.strip()] = reason.strip()
    return exclusions


class Exclusions:
    """Takes the excluded tests out, says so, and refuses names that no test has any more."""

    def __init__(self, exclusions, whole_suite):
        self.exclusions = exclusions
        self.whole_suite = whole_suite
        self.counts = dict.fromkeys(exclusions, 0)

    def pytest_collection_modifyitems(self, config, items):
        kept, taken = [], []
        for item in items:
            name = "::".join([item.path.name] + item.nodeid.split("::")[1:])
            rule = next((r for r in self.exclusions if (name + "::").startswith(r + "::")), None)
            if rule is None:
                kept.append(item)
            else:
                self.counts[rule] += 1
                taken.append(item)
        stale = [rule for rule, count in self.counts.items() if count == 0]
        if stale and self.whole_suite:
            raise pytest.UsageError(f"{EXCLUDED.name} names no test of kazoo's: {stale}")
        config.hook.pytest_deselected(items=taken)
        items[:] = kept

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.write_sep("-", "excluded")
        for rule, reason in self.exclusions.items():
            terminalreporter.write_line(f"{self.counts[rule]:3} {rule}: {reason}")


def prepare_environment(zookeeper):
    """Tells kazoo's harness what to start."""
    os.environ["ZOOKEEPER_VERSION"] = "3.8.0"
    os.environ["ZOOKEEPER_CLASSPATH"] = ":".join(str(JAVA_LIBRARIES / j) for j in ZOOKEEPER_JARS)
    if zookeeper:
        if shutil.which("java") is None or not (JAVA_LIBRARIES / "zookeeper.jar").exists():
            raise SystemExit("ZOOKEEPER=1 needs java and Debian's libzookeeper-java")
        return
    binary = os.environ.get("PIGEONHOLE_BIN")
    if not binary or not os.access(binary, os.X_OK):
        raise SystemExit("PIGEONHOLE_BIN must name the server to test")
    os.environ["PIGEONHOLE_BIN"] = os.path.abspath(binary)
    os.environ["PATH"] = f"{HERE / 'fake_java'}{os.pathsep}{os.environ['PATH']}"


def main(arguments):
    zookeeper = os.environ.get("ZOOKEEPER") == "1"
    prepare_environment(zookeeper)
    exclusions = {} if zookeeper else read_exclusions(EXCLUDED.read_text(encoding="utf-8"))
    tests = pathlib.Path(importlib.util.find_spec("kazoo.tests").origin).parent
    options = ["-p", "no:cacheprovider", "-W", "ignore", "-q", "--tb=short", "--timeout=180"]
    # Kazoo logs thousands of lines a failure; the servers' own end of log stays.
    options += ["--show-capture=no", "-r", "fEs", f"--rootdir={tests}", str(tests)]
    return pytest.main(options + arguments, plugins=[Exclusions(exclusions, not arguments)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
