"""Checks a running ensemble with kazoo in less than a minute: `kazoo_subset.py HOSTS [--only m1]`.

Each check works under a top-level node of its own, prints `ok NAME`, and fails loudly. `--only m1`
takes the checks that need create, get, set, delete, children and exists alone.
"""

import argparse
import collections
import logging
import sys
import threading
import time
import traceback
import uuid

from kazoo import exceptions
from kazoo.client import KazooClient, KazooState
from kazoo.protocol.connection import _CONNECTION_DROP
from kazoo.protocol.states import EventType
from kazoo.security import ACL, Id, make_acl, make_digest_acl, make_digest_acl_credential

import raw_session
from raw_session import RawSession

WAIT_SECONDS = 15
CHECKS = []


def check(function=None, *, m1=False):
    if function is None:
        return lambda inner: check(inner, m1=m1)
    CHECKS.append((function.__name__, function, m1))
    return function


class World:
    """What a check may use: clients, raw sessions and a top-level node of its own."""

    def __init__(self, hosts, name):
        self.hosts = hosts
        self.base = f"/{name}-{uuid.uuid4().hex[:8]}"
        self.clients = []
        self.raws = []
        self.kazoo = self.client()
        self.kazoo.create(self.base, b"")

    def path(self, *names):
        return "/".join([self.base, *names])

    def client(self, chroot="", **options):
        client = KazooClient(self.hosts + chroot, timeout=10, **options)
        self.clients.append(client)
        client.start(timeout=WAIT_SECONDS)
        return client

    def raw(self, **options):
        session = RawSession(self.hosts.split(",")[0], **options)
        self.raws.append(session)
        return session

    def close(self):
        """Every client ends, also those that a failed check left; the nodes go too."""
        for session in self.raws:
            session.drop()
        sweeper = self.client()
        sweeper.add_auth("digest", "owner:secret")
        for client in self.clients:
            if client is not sweeper:
                client.stop()
                client.close()
        try:
            sweeper.delete(self.base, recursive=True)
        except exceptions.KazooException:
            pass  # A failed check may leave a node that its access list protects.
        sweeper.stop()
        sweeper.close()


class Events:
    """Collects what watches say; waits for the n-th instead of for a time."""

    def __init__(self):
        self.seen = []
        self.changed = threading.Condition()

    def __call__(self, *event):
        with self.changed:
            self.seen.append(event[0] if len(event) == 1 else event)
            self.changed.notify_all()

    def wait(self, count):
        return self.until(lambda: len(self.seen) >= count)

    def until(self, condition):
        with self.changed:
            done = self.changed.wait_for(condition, WAIT_SECONDS)
            assert done, f"only saw {self.seen}"
            return list(self.seen)


def raises(error, function, *arguments, **options):
    try:
        result = function(*arguments, **options)
    except error as raised:
        assert type(raised) is error, f"{type(raised).__name__} instead of {error.__name__}"
        return
    raise AssertionError(f"{error.__name__} was due, but the answer is {result!r}")


def fence(world):
    """Events arrive in order: when this one has, every earlier one has too."""
    events = Events()
    path = world.path(f"fence-{uuid.uuid4().hex}")
    world.kazoo.exists(path, watch=events)
    world.kazoo.create(path)
    events.wait(1)
    world.kazoo.delete(path)


def sync(world):
    """Servers may lag: behind this the world's own client sees what any client wrote."""
    world.kazoo.sync(world.base)


def kinds(events):
    return [(event.type, event.path) for event in events]


# Reading and writing.


@check(m1=True)
def connects(world):
    session, password = world.kazoo.client_id
    assert session != 0 and len(password) == 16
    assert world.kazoo.state == KazooState.CONNECTED


@check(m1=True)
def creates_gets_sets_deletes(world):
    path = world.path("node")
    assert world.kazoo.create(path, b"one") == path
    assert world.kazoo.get(path)[0] == b"one"
    assert world.kazoo.set(path, b"two").version == 1
    assert world.kazoo.get(path)[0] == b"two"
    assert world.kazoo.delete(path) is True
    assert world.kazoo.exists(path) is None


@check(m1=True)
def keeps_any_bytes(world):
    for name, data in [("empty", b""), ("all", bytes(range(256))), ("long", b"x" * 100_000)]:
        world.kazoo.create(world.path(name), data)
        value, stat = world.kazoo.get(world.path(name))
        assert value == data and stat.dataLength == len(data), name
    name = world.path("schlüssel-鍵")
    world.kazoo.create(name, b"unicode")
    assert world.kazoo.get(name)[0] == b"unicode"


@check(m1=True)
def lists_children(world):
    assert world.kazoo.get_children(world.base) == []
    for name in ["b", "a", "c"]:
        world.kazoo.create(world.path(name))
    world.kazoo.create(world.path("a", "inner"))
    assert sorted(world.kazoo.get_children(world.base)) == ["a", "b", "c"]
    assert world.kazoo.get_children(world.path("a")) == ["inner"]
    assert world.base[1:] in world.kazoo.get_children("/")


@check
def lists_children_with_stat(world):
    world.kazoo.create(world.path("a"))
    children, stat = world.kazoo.get_children(world.base, include_data=True)
    assert children == ["a"] and stat.numChildren == 1 and stat.cversion == 1


@check(m1=True)
def knows_its_system_nodes(world):
    assert "zookeeper" in world.kazoo.get_children("/")
    assert world.kazoo.exists("/zookeeper/quota") is not None


@check(m1=True)
def refuses_what_does_not_fit(world):
    client, path = world.kazoo, world.path("node")
    raises(exceptions.NoNodeError, client.get, path)
    raises(exceptions.NoNodeError, client.set, path, b"")
    raises(exceptions.NoNodeError, client.delete, path)
    raises(exceptions.NoNodeError, client.get_children, path)
    raises(exceptions.NoNodeError, client.create, world.path("no", "parent"))
    client.create(path)
    raises(exceptions.NodeExistsError, client.create, path)
    client.create(world.path("node", "child"))
    raises(exceptions.NotEmptyError, client.delete, path)


@check
def refuses_characters_that_no_path_has(world):
    for name in ("\x01", "\x7f", "\ue000", "\U0001f5dd"):
        raises(exceptions.BadArgumentsError, world.kazoo.create, world.path(name))
    raises(exceptions.BadArgumentsError, world.kazoo.delete, "/")


@check(m1=True)
def guards_versions(world):
    client, path = world.kazoo, world.path("node")
    client.create(path, b"0")
    raises(exceptions.BadVersionError, client.set, path, b"x", version=1)
    assert client.set(path, b"1", version=0).version == 1
    assert client.set(path, b"2", version=-1).version == 2
    raises(exceptions.BadVersionError, client.delete, path, version=1)
    assert client.get(path)[0] == b"2"
    client.delete(path, version=2)
    client.create(path)
    assert client.exists(path).version == 0


@check(m1=True)
def fills_the_stat(world):
    client, path = world.kazoo, world.path("node")
    before = time.time() * 1000
    client.create(path, b"four")
    born = client.exists(path)
    assert born.czxid == born.mzxid == born.pzxid > 0
    assert born.ctime == born.mtime and abs(born.ctime - before) < 60_000
    assert (born.version, born.cversion, born.aversion) == (0, 0, 0)
    assert (born.ephemeralOwner, born.dataLength, born.numChildren) == (0, 4, 0)
    client.set(path, b"seven77")
    changed = client.exists(path)
    assert changed.czxid == born.czxid and changed.mzxid > born.mzxid
    assert changed.pzxid == born.pzxid and changed.version == 1 and changed.dataLength == 7
    client.create(path + "/child")
    parent, child = client.exists(path), client.exists(path + "/child")
    assert parent.pzxid == child.czxid > changed.mzxid
    assert (parent.cversion, parent.numChildren, parent.version) == (1, 1, 1)
    client.delete(path + "/child")
    parent = client.exists(path)
    assert parent.pzxid > child.czxid and (parent.cversion, parent.numChildren) == (2, 0)


@check
def creates_with_stat(world):
    path, stat = world.kazoo.create(world.path("node"), b"data", include_data=True)
    assert world.kazoo.get(path) == (b"data", stat)


@check
def numbers_sequential_nodes(world):
    client = world.kazoo
    first = client.create(world.path("s-"), sequence=True)
    assert first == world.path("s-0000000000")
    client.create(world.path("plain"))
    assert client.create(world.path("s-"), sequence=True) == world.path("s-0000000002")
    client.delete(first)
    assert client.create(world.path("t-"), sequence=True) == world.path("t-0000000003"), (
        "a deletion does not count: the number is that of the creations"
    )
    both = client.create(world.path("e-"), sequence=True, ephemeral=True)
    assert both == world.path("e-0000000004")
    assert client.exists(both).ephemeralOwner == client.client_id[0]
    root = [client.create(f"/{n}-", sequence=True, ephemeral=True) for n in ("a", "b", "a")]
    numbers = [int(path[-10:]) for path in root]
    assert numbers == sorted(set(numbers)), f"children of the root share one counter: {root}"


@check
def answers_in_order(world):
    client = world.kazoo
    creates = [client.create_async(world.path("n-"), b"", sequence=True) for _ in range(500)]
    last = client.get_children_async(world.base)
    names = [result.get(WAIT_SECONDS) for result in creates]
    assert names == [world.path(f"n-{number:010}") for number in range(500)]
    assert len(last.get(WAIT_SECONDS)) == 500


@check
def ephemerals_bear_no_children(world):
    client, path = world.kazoo, world.path("node")
    client.create(path, ephemeral=True)
    assert client.exists(path).ephemeralOwner == client.client_id[0]
    raises(exceptions.NoChildrenForEphemeralsError, client.create, path + "/child")


@check
def takes_large_data_and_refuses_larger(world):
    client, path = world.kazoo, world.path("node")
    client.create(path, b"x" * 1_000_000)
    assert client.get(path)[0] == b"x" * 1_000_000
    client.set(path, b"y" * 1_048_000)
    assert client.exists(path).dataLength == 1_048_000
    connected = Events()
    client.add_listener(lambda state: connected(state))
    raises(exceptions.ConnectionLoss, client.set, path, b"z" * 1_048_576)
    connected.until(lambda: KazooState.CONNECTED in connected.seen)
    assert client.get(path)[0] == b"y" * 1_048_000


@check
def syncs_before_a_read(world):
    other, path = world.client(), world.path("node")
    world.kazoo.create(path, b"0")
    for number in range(1, 30):
        world.kazoo.set(path, b"%d" % number)
        assert other.sync(path) == path
        assert other.get(path)[0] == b"%d" % number


@check
def maps_a_chroot(world):
    inside = world.client(chroot=world.base)
    assert inside.create("/node", b"in") == "/node"
    sync(world)
    assert world.kazoo.get(world.path("node"))[0] == b"in"
    assert inside.get_children("/") == ["node"]
    assert inside.create("/s-", sequence=True) == "/s-0000000001"
    events = Events()
    inside.get("/node", watch=events)
    world.kazoo.set(world.path("node"), b"out")
    assert kinds(events.wait(1)) == [(EventType.CHANGED, "/node")]


# Transactions.


@check
def commits_a_transaction(world):
    client = world.kazoo
    client.create(world.path("old"), b"")
    transaction = client.transaction()
    transaction.create(world.path("new"), b"n")
    transaction.set_data(world.path("new"), b"m")
    transaction.check(world.path("new"), version=1)
    transaction.create(world.path("s-"), sequence=True)
    transaction.delete(world.path("old"))
    created, stat, checked, numbered, deleted = transaction.commit()
    assert created == world.path("new") and numbered == world.path("s-0000000002")
    assert stat.version == 1 and stat.dataLength == 1
    assert checked is True and deleted is True
    stats = [client.exists(world.path(name)) for name in ("new", "s-0000000002")]
    assert stats[0].czxid == stats[0].mzxid == stats[1].czxid, "one zxid for all"
    assert client.exists(world.base).pzxid == stats[0].czxid
    assert sorted(client.get_children(world.base)) == ["new", "s-0000000002"]


@check
def rolls_a_transaction_back(world):
    client = world.kazoo
    before = client.exists(world.base)
    transaction = client.transaction()
    transaction.create(world.path("a"))
    transaction.check(world.path("a"), version=7)
    transaction.create(world.path("b"))
    transaction.delete(world.path("missing"))
    rolled, failed, *after = transaction.commit()
    assert type(rolled) is exceptions.RolledBackError
    assert type(failed) is exceptions.BadVersionError
    assert [type(error) for error in after] == [exceptions.RuntimeInconsistency] * 2
    assert client.get_children(world.base) == []
    assert client.exists(world.base) == before, "nothing of it is left"
    transaction = client.transaction()
    transaction.delete(world.path("missing"))
    assert [type(error) for error in transaction.commit()] == [exceptions.NoNodeError]


# Watches.


@check
def data_watches_fire_once(world):
    client, other, path = world.kazoo, world.client(), world.path("node")
    client.create(path, b"0")
    events = Events()
    client.get(path, watch=events)
    other.set(path, b"1")
    other.set(path, b"2")
    events.wait(1)
    other.set(path, b"3")
    fence(world)
    assert kinds(events.seen) == [(EventType.CHANGED, path)]
    gone = Events()
    client.exists(path, watch=gone)
    other.delete(path)
    assert kinds(gone.wait(1)) == [(EventType.DELETED, path)]


@check
def existence_watches_fire_on_birth(world):
    events, path = Events(), world.path("node")
    assert world.kazoo.exists(path, watch=events) is None
    world.client().create(path)
    assert kinds(events.wait(1)) == [(EventType.CREATED, path)]


@check
def child_watches_fire_once(world):
    client, other = world.kazoo, world.client()
    events = Events()
    client.get_children(world.base, watch=events)
    other.create(world.path("a"), b"")
    events.wait(1)
    other.set(world.path("a"), b"data is no matter of the parent")
    other.create(world.path("b"))
    fence(world)
    assert kinds(events.seen) == [(EventType.CHILD, world.base)]
    gone = Events()
    client.get_children(world.path("a"), watch=gone)
    other.delete(world.path("a"))
    assert kinds(gone.wait(1)) == [(EventType.DELETED, world.path("a"))]


@check
def data_and_children_are_followed(world):
    client, path = world.kazoo, world.path("node")
    values, children = Events(), Events()
    client.DataWatch(path, lambda data, stat: values(data))
    client.ChildrenWatch(world.base, lambda names: children(sorted(names)))
    client.create(path, b"1")
    values.until(lambda: values.seen[-1] == b"1")
    client.set(path, b"2")
    values.until(lambda: values.seen[-1] == b"2")
    client.delete(path)
    values.until(lambda: values.seen[-1] is None and len(values.seen) > 1)
    children.until(lambda: ["node"] in children.seen and children.seen[-1] == [])


@check
def persistent_watches_stay(world):
    raw, client, path = world.raw(), world.kazoo, world.path("node")
    assert raw.add_watch(path, raw_session.PERSISTENT)[0] == 0
    client.create(path)
    client.set(path, b"1")
    client.create(path + "/child")
    client.set(path + "/child", b"not ours")
    client.delete(path + "/child")
    client.set(path, b"2")
    client.delete(path)
    kind = [raw_session.CREATED, raw_session.CHANGED, raw_session.CHILD, raw_session.CHILD]
    kind += [raw_session.CHANGED, raw_session.DELETED]
    assert raw.await_events(6) == [(k, path) for k in kind]
    raw.close()


@check
def recursive_watches_see_the_subtree(world):
    raw, client, path = world.raw(), world.kazoo, world.path("node")
    assert raw.add_watch(path, raw_session.PERSISTENT_RECURSIVE)[0] == 0
    client.create(path)
    client.create(path + "/a")
    client.create(path + "/a/b")
    client.set(path + "/a/b", b"1")
    client.create(world.path("node2"))
    client.delete(path + "/a/b")
    expected = [(raw_session.CREATED, path), (raw_session.CREATED, path + "/a")]
    expected += [(raw_session.CREATED, path + "/a/b"), (raw_session.CHANGED, path + "/a/b")]
    expected += [(raw_session.DELETED, path + "/a/b")]
    assert raw.await_events(5) == expected
    raw.close()


@check
def set_watches_catches_up(world):
    client = world.kazoo
    for name in ("same", "changed", "deleted", "parent"):
        client.create(world.path(name))
    raw = world.raw()
    raw.sync(world.base)
    seen = raw.exists(world.path("same"))[1]
    raw.drop()
    client.set(world.path("changed"), b"1")
    client.delete(world.path("deleted"))
    client.create(world.path("born"))
    client.create(world.path("parent", "child"))
    again = world.raw(session=raw.session, password=raw.password)
    data = [world.path(name) for name in ("same", "changed", "deleted")]
    answer = again.set_watches(seen, data, [world.path("born")], [world.path("parent")])
    assert answer[0] == 0
    events = again.await_events(4)
    # With several shards a server fires what it cannot prove to be unchanged.
    unproven = (raw_session.CHANGED, world.path("same"))
    if unproven in events:
        events += again.await_events(1)
        events.remove(unproven)
    else:
        client.set(world.path("same"), b"now")
        assert again.await_events(1) == [unproven]
    assert sorted(events) == sorted([
        (raw_session.CHANGED, world.path("changed")),
        (raw_session.DELETED, world.path("deleted")),
        (raw_session.CREATED, world.path("born")),
        (raw_session.CHILD, world.path("parent")),
    ])
    again.close()


# Access.


@check
def digest_access_is_kept(world):
    client, path = world.kazoo, world.path("node")
    owner = world.client(auth_data=[("digest", "owner:secret")])
    owner.create(path, b"mine", acl=[make_digest_acl("owner", "secret", all=True)])
    sync(world)
    for refused in (
        lambda: client.get(path),
        lambda: client.set(path, b""),
        lambda: client.create(path + "/child"),
        lambda: client.get_children(path),
        lambda: client.get_acls(path),
        lambda: client.set_acls(path, [make_acl("world", "anyone", all=True)]),
    ):
        raises(exceptions.NoAuthError, refused)
    # Existence is protected since ZooKeeper 3.9; a new znode at the path shows it either way.
    raises(exceptions.NodeExistsError, client.create, path)
    assert owner.get(path)[0] == b"mine"
    client.add_auth("digest", "owner:wrong")
    raises(exceptions.NoAuthError, client.get, path)
    client.add_auth("digest", "owner:secret")
    assert client.get(path)[0] == b"mine"
    client.delete(path)


@check
def access_lists_are_shown_masked(world):
    path = world.path("node")
    owner = world.client(auth_data=[("digest", "owner:secret")])
    acl = [make_digest_acl("owner", "secret", all=True), make_acl("world", "anyone", read=True)]
    owner.create(path, b"", acl=acl)
    shown, stat = owner.get_acls(path)
    assert sorted(shown) == sorted(acl) and stat.aversion == 0
    sync(world)
    masked, _ = world.kazoo.get_acls(path)
    assert ACL(31, Id("digest", "owner:x")) in masked, masked
    raises(exceptions.BadVersionError, owner.set_acls, path, acl, version=3)
    assert owner.set_acls(path, acl[:1], version=0).aversion == 1
    sync(world)
    raises(exceptions.NoAuthError, world.kazoo.get, path)


@check
def permissions_are_told_apart(world):
    client, path = world.kazoo, world.path("node")
    anyone = lambda **permissions: [make_acl("world", "anyone", **permissions)]
    client.create(path, b"", acl=anyone(read=True, admin=True))
    assert client.get(path)[0] == b"" and client.get_children(path) == []
    raises(exceptions.NoAuthError, client.set, path, b"")
    raises(exceptions.NoAuthError, client.create, path + "/child")
    client.set_acls(path, anyone(write=True, create=True, admin=True))
    raises(exceptions.NoAuthError, client.get, path)
    client.set(path, b"1")
    client.create(path + "/child")
    raises(exceptions.NoAuthError, client.delete, path + "/child")
    client.set_acls(path, anyone(delete=True, admin=True))
    client.delete(path + "/child")
    client.delete(path)


@check
def address_and_auth_schemes_work(world):
    client = world.kazoo
    client.create(world.path("here"), b"", acl=[make_acl("ip", "127.0.0.1", all=True)])
    assert client.get(world.path("here"))[0] == b""
    client.create(world.path("net"), b"", acl=[make_acl("ip", "127.0.0.0/8", all=True)])
    assert client.get(world.path("net"))[0] == b""
    client.create(world.path("there"), b"", acl=[make_acl("ip", "10.1.2.3", all=True)])
    raises(exceptions.NoAuthError, client.get, world.path("there"))
    auth = [make_acl("auth", "", all=True)]
    raises(exceptions.InvalidACLError, client.create, world.path("mine"), acl=auth)
    raises(exceptions.InvalidACLError, client.create, world.path("x"), acl=[make_acl("no", "x")])
    client.add_auth("digest", "owner:secret")
    client.create(world.path("mine"), b"", acl=auth)
    credential = make_digest_acl_credential("owner", "secret")
    assert client.get_acls(world.path("mine"))[0] == [ACL(31, Id("digest", credential))]


# Sessions.


@check
def ephemerals_go_with_the_session(world):
    owner = world.client()
    paths = [owner.create(world.path(f"n-{n}"), ephemeral=True) for n in range(5)]
    events = Events()
    sync(world)
    for path in paths:
        assert world.kazoo.exists(path, watch=events) is not None
    owner.stop()
    assert sorted(kinds(events.wait(5))) == [(EventType.DELETED, path) for path in paths]
    assert world.kazoo.get_children(world.base) == []


@check
def a_session_outlives_its_connection(world):
    client, path = world.client(), world.path("node")
    client.create(path, b"", ephemeral=True)
    session = client.client_id
    states = Events()
    client.add_listener(lambda state: states(state))
    client._call(_CONNECTION_DROP, client.handler.async_result())
    states.until(lambda: states.seen[-2:] == [KazooState.SUSPENDED, KazooState.CONNECTED])
    assert client.client_id == session
    assert client.retry(client.exists, path).ephemeralOwner == session[0]


@check
def a_session_is_re_attached_with_its_password_alone(world):
    raw = world.raw()
    assert raw.create(world.path("node"), flags=1)[0] == 0
    raw.drop()
    thief = world.raw(session=raw.session, password=b"wrong".ljust(16, b"\0"))
    assert thief.session == 0, "another password is another's session"
    again = world.raw(session=raw.session, password=raw.password)
    assert again.session == raw.session and again.password == raw.password
    assert again.exists(world.path("node"))[0] == 0
    again.close()
    sync(world)
    assert world.kazoo.exists(world.path("node")) is None
    assert world.raw(session=raw.session, password=raw.password).session == 0, "it is closed"


@check
def a_silent_session_expires(world):
    raw = world.raw(timeout_ms=4000)
    assert 4000 <= raw.timeout_ms <= 40_000
    assert raw.create(world.path("node"), flags=1)[0] == 0
    events, silent_since = Events(), time.monotonic()
    sync(world)
    assert world.kazoo.exists(world.path("node"), watch=events) is not None
    raw.drop()
    assert kinds(events.wait(1)) == [(EventType.DELETED, world.path("node"))]
    silent = time.monotonic() - silent_since
    assert silent > raw.timeout_ms / 1000 - 0.5, f"expired after {silent:.1f} s"
    assert world.raw(session=raw.session, password=raw.password).session == 0


# Recipes.


@check
def locks_exclude(world):
    other = world.client()
    mine, theirs = world.kazoo.Lock(world.path("lock"), "a"), other.Lock(world.path("lock"), "b")
    assert mine.acquire() and not theirs.acquire(blocking=False)
    assert mine.contenders()[0] == "a"
    taken = Events()
    thread = threading.Thread(target=lambda: taken(theirs.acquire(timeout=WAIT_SECONDS)))
    thread.start()
    mine.release()
    assert taken.wait(1) == [True]
    thread.join()
    theirs.release()
    shared = [c.ReadLock(world.path("rw"), n) for c, n in ((world.kazoo, "a"), (other, "b"))]
    assert all(lock.acquire() for lock in shared)
    assert not world.client().WriteLock(world.path("rw"), "c").acquire(blocking=False)
    for lock in shared:
        lock.release()


@check
def elections_have_one_winner_at_a_time(world):
    leading, order = [0], Events()

    def lead(name):
        leading[0] += 1
        assert leading[0] == 1
        order(name)
        leading[0] -= 1

    elections = [world.client().Election(world.path("e"), name) for name in "abc"]
    threads = [
        threading.Thread(target=election.run, args=(lead, election.lock.data.decode()))
        for election in elections
    ]
    for thread in threads:
        thread.start()
    assert sorted(order.wait(3)) == ["a", "b", "c"]
    for thread in threads:
        thread.join()


@check
def queues_hand_out_in_order(world):
    queue = world.kazoo.Queue(world.path("queue"))
    for value, priority in ((b"2", 100), (b"3", 200), (b"1", 50)):
        queue.put(value, priority)
    assert [queue.get() for _ in range(4)] == [b"1", b"2", b"3", None]
    locking = world.kazoo.LockingQueue(world.path("locking"))
    locking.put_all([b"a", b"b"])
    assert locking.get(timeout=WAIT_SECONDS) == b"a" and locking.holds_lock()
    assert locking.consume() is True
    assert locking.get(timeout=WAIT_SECONDS) == b"b" and locking.consume() is True


@check
def barriers_hold_and_open(world):
    other = world.client()
    barrier = other.Barrier(world.path("barrier"))
    world.kazoo.Barrier(world.path("barrier")).create()
    # The other client may be connected to a server that is a little behind.
    other.sync(world.path("barrier"))
    assert barrier.wait(0.05) is False
    world.kazoo.Barrier(world.path("barrier")).remove()
    assert barrier.wait(WAIT_SECONDS) is True
    trace = Events()

    def cross(client, name):
        double = client.DoubleBarrier(world.path("double"), 2, name)
        double.enter()
        trace("in")
        double.leave()
        trace("out")

    clients = (world.kazoo, world.client())
    threads = [threading.Thread(target=cross, args=(c, n)) for c, n in zip(clients, "ab")]
    for thread in threads:
        thread.start()
    assert collections.Counter(trace.wait(4)) == {"in": 2, "out": 2}
    assert trace.seen[0] == "in" and trace.seen[-1] == "out"
    for thread in threads:
        thread.join()


@check
def counters_semaphores_and_parties_work(world):
    others = [world.client() for _ in range(2)]
    counters = [client.Counter(world.path("counter")) for client in others]
    threads = [threading.Thread(target=lambda c=c: [c.__add__(1) for _ in range(20)])
               for c in counters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sync(world)
    assert world.kazoo.Counter(world.path("counter")).value == 40
    semaphores = [c.Semaphore(world.path("semaphore"), max_leases=1) for c in others]
    assert semaphores[0].acquire(blocking=False)
    assert not semaphores[1].acquire(blocking=False)
    semaphores[0].release()
    assert semaphores[1].acquire(timeout=WAIT_SECONDS)
    parties = [c.Party(world.path("party"), n) for c, n in zip(others, "ab")]
    for party in parties:
        party.join()
    others[0].sync(world.path("party"))
    assert sorted(parties[0]) == ["a", "b"]
    parties[1].leave()
    others[0].sync(world.path("party"))
    assert list(parties[0]) == ["a"]


# Operators.


@check
def four_letter_words_answer(world):
    client = world.kazoo
    assert client.command(b"ruok") == "imok"
    assert client.command(b"isro") == "rw"
    server = client.command(b"srvr")
    assert "Mode: " in server and "Zxid: 0x" in server and "Node count: " in server
    lines = client.command(b"mntr").splitlines()
    monitor = dict(line.partition("\t")[::2] for line in lines)
    assert int(monitor["zk_znode_count"]) > 0 and monitor["zk_server_state"]
    assert client.server_version() >= (3, 5)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hosts", help="HOST:PORT[,HOST:PORT…]")
    parser.add_argument("--only", choices=["m1"], help="the part for a first single server")
    parser.add_argument("--check", action="append", help="run these checks alone")
    options = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    chosen = [
        (name, function)
        for name, function, m1 in CHECKS
        if (m1 or options.only is None) and (options.check is None or name in options.check)
    ]
    if not chosen:
        parser.error("no check has that name")
    failed = [name for name, function in chosen if not passes(options.hosts, name, function)]
    print(f"{len(chosen) - len(failed)} of {len(chosen)} checks passed", flush=True)
    return 1 if failed else 0


def passes(hosts, name, function):
    started = time.monotonic()
    try:
        world = World(hosts, name)
        try:
            function(world)
        finally:
            world.close()
    except Exception:
        print(f"FAILED {name} on {hosts}\n{traceback.format_exc()}", flush=True)
        return False
    print(f"ok {name} ({time.monotonic() - started:.2f} s)", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
