"""A ZooKeeper session spoken byte by byte, for what kazoo does not let a test do."""

import socket
import struct

PERSISTENT, PERSISTENT_RECURSIVE = 0, 1
CREATED, DELETED, CHANGED, CHILD = 1, 2, 3, 4
ALL_PERMISSIONS = 31
OP_CREATE, OP_EXISTS, OP_SYNC, OP_SET_WATCHES, OP_ADD_WATCH, OP_CLOSE = 1, 3, 9, 101, 106, -11


def text(value):
    data = value.encode()
    return struct.pack(">i", len(data)) + data


def texts(values):
    return struct.pack(">i", len(values)) + b"".join(text(value) for value in values)


class RawSession:
    """One connection of one session; dropping it leaves the session to the server."""

    def __init__(self, address, timeout_ms=10000, session=0, password=b"\0" * 16):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.xid = 0
        self.events = []
        body = struct.pack(">iqiqi", 0, 0, timeout_ms, session, len(password)) + password
        self._send(body + b"\0")
        answer = self._receive()
        _, self.timeout_ms, self.session, length = struct.unpack_from(">iiqi", answer)
        self.password = answer[20 : 20 + length]

    def request(self, operation, body=b""):
        """Sends and waits; returns (error, zxid, body). Events on the way are kept."""
        self.xid += 1
        xid = -8 if operation == OP_SET_WATCHES else self.xid
        self._send(struct.pack(">ii", xid, operation) + body)
        while True:
            frame = self._receive()
            answered, zxid, error = struct.unpack_from(">iqi", frame)
            if answered == xid:
                return error, zxid, frame[16:]
            assert answered == -1, f"the reply to {answered} came where {xid} was due"
            self._keep(frame)

    def create(self, path, data=b"", flags=0):
        acl = struct.pack(">ii", 1, ALL_PERMISSIONS) + text("world") + text("anyone")
        body = text(path) + struct.pack(">i", len(data)) + data + acl + struct.pack(">i", flags)
        return self.request(OP_CREATE, body)

    def exists(self, path, watch=False):
        return self.request(OP_EXISTS, text(path) + struct.pack(">?", watch))

    def sync(self, path):
        return self.request(OP_SYNC, text(path))

    def add_watch(self, path, mode):
        return self.request(OP_ADD_WATCH, text(path) + struct.pack(">i", mode))

    def set_watches(self, zxid, data=(), exist=(), child=()):
        body = struct.pack(">q", zxid) + texts(data) + texts(exist) + texts(child)
        return self.request(OP_SET_WATCHES, body)

    def await_events(self, count):
        while len(self.events) < count:
            frame = self._receive()
            assert struct.unpack_from(">i", frame)[0] == -1, "a reply came where an event was due"
            self._keep(frame)
        events, self.events = self.events[:count], self.events[count:]
        return events

    def drop(self):
        """Ends the connection without a word, as a dying client does."""
        self.socket.close()

    def close(self):
        self.request(OP_CLOSE)
        self.socket.close()

    def _keep(self, frame):
        kind, _, length = struct.unpack_from(">iii", frame, 16)
        self.events.append((kind, frame[28 : 28 + length].decode()))

    def _send(self, body):
        self.socket.sendall(struct.pack(">i", len(body)) + body)

    def _receive(self):
        return self._read(struct.unpack(">i", self._read(4))[0])

    def _read(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise ConnectionError("the server closed the connection")
            data += part
        return data
