"""Random requests to the store by a guest: well made, nearly so, or any bytes; and a front end that keeps no order.

Beside the guest, domain 0 has nodes that the guest may not see or change. After a few steps the tree is checked as it
stands (each node is named by its parent, owners are counted, quotas hold), domain 0's nodes are what they were, nothing
secret has come over the ring, what is kept for the guest is bounded, and the bus agrees with its back end.
"""

from __future__ import annotations

import random
import re
import struct
from collections import Counter
from collections.abc import Iterable

from tests.pv_rig import Violation
from tests.store_rig import (
    CONNECTION,
    DIRECTORY,
    END,
    ERROR,
    EVENT,
    READ,
    REQ_CONS,
    REQ_PROD,
    RING_ERROR,
    RM,
    RSP_CONS,
    RSP_PROD,
    SET_PERMS,
    START,
    WATCH,
    WRITE,
    StoreRig,
)

STEPS, CHECK_EVERY = 80, 16
SECRET = "xyzzy"  # a value, and a name below a node that the guest may not see
SECRETS = (f"/secret/{SECRET}", "/secret/hidden", "/shown/hidden")
FRONT, BACK = b"device/test/0", b"/local/domain/0/backend/test/1/0"
PATH = re.compile("/|(/[A-Za-z0-9_@-]+)+")
PATHS = (
    b"data", b"data/a", b"data/a/b", b"data/n", b"data/a/b/c/d/e", b"/local/domain/1/data/a", b"/local/domain/1", b"/",
    b"/secret", b"/secret/hidden", b"/secret/none", b"/shown", b"/shown/hidden", b"/blind", b"/local/domain/0", BACK,
    BACK + b"/state", FRONT, FRONT + b"/state", FRONT + b"/ring-ref", FRONT + b"/event-channel", FRONT + b"/backend",
    b"name", b"", b"//", b"data/a b", b"data//", b"\xff", b"@releaseDomain", b"/none/at/all", b"device",
    b"data/" + b"x" * 2050,
)  # fmt: skip
VALUES = (*(b"%d" % n for n in (0, 1, 2, 3, 4, 5, 6, 8, 9, 17, 1 << 32)), b"", b"x" * 2030, b"\0\xff", b"-1")
PERMISSIONS = (*(b"r1", b"b1", b"w0", b"b0", b"n0", b"r2", b"n2") * 4, b"n1", b"q1", b"n", b"n99999", b"")


class Player:
    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)
        self.rig = StoreRig()
        self.reached: set[str] = set()
        self.transactions = [0]
        self.broken = False  # the guest has destroyed its own ring, or sent half a message
        zero = self.rig.zero.store
        zero.make("/secret", ((0, "n"),))
        for path in SECRETS:
            zero.write(path, SECRET)
        zero.set_permissions("/shown", ((0, "n"), (1, "r")))
        zero.set_permissions("/shown/hidden", ((0, "n"),))
        zero.make("/blind", ((0, "n"), (1, "w")))
        self.flood(seed % 24)
        nodes = self.rig.zero.server.tree.s.nodes
        self.others = {path: nodes[path][:2] for path in ("/secret", "/shown", "/local/domain/0", *SECRETS)}
        self.check()

    def flood(self, kind: int) -> None:
        """More of something than a guest may have; most often of nothing."""
        if kind == 0:
            for i in range(600):
                self.rig.write(b"data/%d/%d" % (i % 20, i), b"")
            transaction = int(self.rig.ask(START, b"\0")[:-1])
            for i in range(450):
                self.rig.write(b"data/%d/t%d" % (i % 20, i), b"", transaction)
            self.rig.ask(END, b"T\0", transaction)
        elif kind == 1:
            for i in range(140):
                self.rig.ask(WATCH, b"data\0%d\0" % i)
        elif kind == 2:
            for _ in range(15):
                self.rig.ask(START, b"\0")
        elif kind == 3:
            transaction = int(self.rig.ask(START, b"\0")[:-1])
            for _ in range(1100):
                self.rig.write(b"data/x", b"", transaction)

    # --- requests ---------------------------------------------------------------------------------------------

    def payload(self, kind: int) -> bytes:
        r, path = self.r, self.r.choice(PATHS)
        if kind == WRITE:
            return path + b"\0" + r.choice(VALUES)
        if kind == SET_PERMS:
            first = r.choice((b"n1\0", b"n1\0", b"b1\0", b""))
            return path + b"\0" + first + b"".join(r.choice(PERMISSIONS) + b"\0" for _ in range(r.choice((0, 1, 2, 5))))
        if kind in (WATCH, 5):
            return path + b"\0" + r.choice((b"t", b"u", b"", b"%d" % r.randrange(200), b"x" * 3000)) + b"\0"
        if kind == END:
            return r.choice((b"T\0", b"T\0", b"T\0", b"F\0", b"\0"))
        if kind in (8, 10, 17):
            return r.choice((b"0\0", b"1\0", b"2\0", b"x\0", b"99999\0"))
        if kind == 22:
            return path + b"\0" + r.choice((b"0", b"5", b"99999", b"x")) + b"\0"
        return b"\0" if kind in (START, 21) else path + b"\0"

    def request(self) -> None:
        r = self.r
        kind = r.choice((*range(1, 8), 2, 4, 7, 10, 11, 11, 11, 12, 13, 14, 14, 17, 21, 22, 0, 8, r.randrange(30)))
        payload, transaction = self.payload(kind), r.choice((0, 0, *self.transactions, r.getrandbits(32)))
        if r.random() < 0.1:
            payload = bytes(r.choice((byte, byte, byte, byte, 0, r.randrange(256))) for byte in payload)
        self.ask(kind, payload[:4096], transaction)

    def ask(self, kind: int, payload: bytes, transaction: int = 0) -> bytes:
        """One good message must have one answer, with its own number."""
        rig = self.rig
        if self.broken:
            self.restart()
        rig.request_id += 1
        rig.put_bytes(struct.pack("<4I", kind, rig.request_id, transaction, len(payload)) + payload)
        self.look_for_secrets(rig.out)
        replies = rig.replies()
        if len(replies) != 1 or replies[0].request != rig.request_id or replies[0].kind not in (kind, ERROR):
            raise Violation(f"request {kind} {payload[:40]!r} was answered by {replies}")
        if len(replies[0].payload) > 4096 or replies[0].kind == EVENT:
            raise Violation(f"a reply of {len(replies[0].payload)} bytes")
        failed = replies[0].kind == ERROR
        self.reached.add(f"{kind} {replies[0].payload[:-1].decode() if failed else 'ok'}")
        if kind == START and not failed:
            self.transactions = [*self.transactions[-11:], int(replies[0].payload[:-1])]
        return b"!" if failed else replies[0].payload

    def look_for_secrets(self, data: bytes) -> None:
        if SECRET.encode() in data:
            raise Violation("the guest has seen a value or an event that is not for it")

    def count(self) -> None:
        """A number that is counted up in a transaction, while domain 0 may write it too: no update is lost."""
        if self.ask(READ, b"data\0") == b"!" or self.ask(WRITE, b"data/count\x005") == b"!":
            return
        start = self.ask(START, b"\0")
        if start == b"!":
            return
        transaction = int(start[:-1])
        old = self.ask(READ, b"data/count\0", transaction)
        meanwhile = self.r.random() < 0.5
        if meanwhile:
            self.rig.zero.store.write("/local/domain/1/data/count", "7")
        written = self.ask(WRITE, b"data/count\x006", transaction)
        ended = self.ask(END, b"T\0", transaction)
        if b"!" not in (old, written, ended) and meanwhile:
            raise Violation("a transaction has overwritten what it had not seen")

    # --- any bytes --------------------------------------------------------------------------------------------

    def noise(self) -> None:
        """Whatever in the ring, wherever the indices are."""
        r, rig = self.r, self.rig
        self.broken = True
        for _ in range(r.randrange(1, 4)):
            page = rig.mfn(20) << 12
            rig.memory.write(page + r.choice((0, r.randrange(1024))), r.choice((r.randbytes(16), self.message())))
            if r.random() < 0.6:
                value = r.choice((0, 1, 16, 1024, 1025, 0xFFFF_FFFF, rig.index(REQ_CONS) + r.randrange(1100)))
                rig.index(r.choice((REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, CONNECTION)), value)
            for _ in range(r.choice((1, 1, 3, 50))):
                rig.kick()

    def too_long(self) -> None:
        """A message that is longer than any may be."""
        if self.broken:
            self.restart()
        self.rig.put_bytes(struct.pack("<4I", self.r.randrange(24), 1, 0, self.r.choice((4097, 5000, 0xFFFF_FFFF))))
        self.broken = True
        if self.rig.index(RING_ERROR) != 3:
            raise Violation("a message was begun that is too long")

    def message(self) -> bytes:
        size = self.r.choice((0, 1, 5, 40, 4096, 4097, 0xFFFF_FFFF))
        return struct.pack("<4I", self.r.randrange(24), 1, 0, size) + self.payload(self.r.randrange(24))[:200]

    def restart(self) -> None:
        """The guest asks to begin anew, as a kernel does that was started in its place."""
        self.rig.index(CONNECTION, 1)
        self.rig.kick()
        self.rig.out, self.rig.events, self.transactions, self.broken = b"", [], [0], False
        if any(self.rig.index(at) for at in (REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD)):
            raise Violation("the ring is not empty at the beginning")
        self.reached.add("restart")

    # --- others -----------------------------------------------------------------------------------------------

    def domain_zero(self) -> None:
        zero, name = self.rig.zero.store, self.r.choice(("data/a", "data/n", "data/count", "name"))
        zero.write(f"/local/domain/1/{name}", self.r.choice(("1", "2")))
        zero.write(self.r.choice(SECRETS), SECRET)

    def front_end(self) -> None:
        """A step of a driver, or something like one."""
        rig, r = self.rig, self.r
        step, channels = r.randrange(8), rig.domain.events
        if step == 0:
            rig.grant(8, r.choice((1, 200, 30)), r.choice((1, 0, 5)))
        elif step < 4 and 2 in channels.channels:
            r.choice((channels.send, channels.send, channels.close))(2)
        else:
            if 2 not in channels.channels:
                channels.alloc_unbound(0)
                rig.grant(8, 30)
            state = r.choice((b"0", b"1", b"1", b"3", b"3", b"4", b"5", b"6"))
            for name, value in ((b"ring-ref", b"8"), (b"event-channel", b"2"), (b"state", state)):
                self.ask(WRITE, FRONT + b"/" + name + b"\0" + value)
        self.reached.add(f"bus {self.rig.device.state.name}")

    # --- the check --------------------------------------------------------------------------------------------

    def check(self) -> None:
        self.rig.check()
        self.check_tree()
        zero, nodes = self.rig.zero, self.rig.zero.server.tree.s.nodes
        for path, node in self.others.items():
            if nodes.get(path) is None or nodes[path][:2] != node:
                raise Violation(f"domain 0's node {path} has changed")
        guest, ring = zero.ring.connection.s, zero.ring.s
        sizes = len(guest.watches), len(guest.transactions), len(ring.waiting), len(ring.received)
        if any(size > most for size, most in zip(sizes, (128, 10, 1024 + 20, 16 + 4096), strict=True)):
            raise Violation(f"too much is kept for the guest: {sizes}")
        if any(len(t.seen) > 1024 or len(t.fired) > 1024 for t in guest.transactions.values()):
            raise Violation("a transaction grows without end")
        device, backend = self.rig.device, self.rig.backend
        if device.connected != (backend.view is not None) or backend.connects - backend.disconnects != device.connected:
            raise Violation("the bus and its back end disagree")
        if zero.store.read(f"{device.back}/state") != str(device.state.value):
            raise Violation("the back end's state is not the one in the store")
        bound = [port for port, c in self.rig.domain.events.channels.items() if c[0] == 2 and c[3] == device.own_port]
        if bound not in ([], [device.port]) or (bound and not device.connected):
            raise Violation("an event channel is left")

    def check_tree(self) -> None:
        state = self.rig.zero.server.tree.s
        owned: Counter[int] = Counter(node.owner for node in state.nodes.values())
        if {d: n for d, n in state.owned.items() if n} != dict(owned):
            raise Violation("the nodes of a domain are counted wrong")
        if owned[1] > 1000 + 8:  # and those that the toolstack has made for it
            raise Violation("the guest has more nodes than it may")
        for path, node in state.nodes.items():
            parent = state.nodes.get(path.rpartition("/")[0] or "/")
            if path != "/" and (parent is None or parent.children.count(path.rpartition("/")[2]) != 1):
                raise Violation(f"node {path} has no parent that knows it")
            if any(f"{path.rstrip('/')}/{child}" not in state.nodes for child in node.children):
                raise Violation(f"node {path} names a child that is not there")
            if not PATH.fullmatch(path) or len(path) > 3072:
                raise Violation(f"{path[:40]!r} is no path")
            if len(node.value) > 2048 or (node.owner == 1 and len(node.permissions) > 5):
                raise Violation(f"node {path[:40]} is larger than it may be")

    def play(self) -> Iterable[str]:
        steps = [self.request] * 10 + [self.front_end] * 2
        steps += [self.count, self.noise, self.too_long, self.domain_zero]
        for step in range(STEPS):
            self.r.choice(steps)()
            if step % CHECK_EVERY == CHECK_EVERY - 1:
                self.check()
        if self.ask(DIRECTORY, b"\0") != b"!" or self.ask(RM, b"data\0") == b"":
            raise Violation("the store does not answer any more")
        self.rig.zero.destroy()
        if self.rig.domain.grants.s.uses or self.rig.backend.view is not None:
            raise Violation("something of a dead guest's is still held")
        return sorted(self.reached)


def case(seed: int) -> Iterable[str]:
    return Player(seed).play()
