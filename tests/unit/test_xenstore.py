"""The store as a guest sees it, in bytes on its ring (docs/misc/xenstore.txt; public/io/xs_wire.h)."""

from __future__ import annotations

import copy
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modes.paravirt.store.nodes import StoreError
from modes.paravirt.store.store import Store
from modes.paravirt.store.wire import Message
from tests.store_rig import (
    CONNECTION,
    DIRECTORY,
    DIRECTORY_PART,
    END,
    ERROR,
    FEATURES,
    GET_DOMAIN_PATH,
    GET_PERMS,
    INTRODUCE,
    IS_INTRODUCED,
    MKDIR,
    READ,
    REQ_CONS,
    REQ_PROD,
    RESET_WATCHES,
    RING,
    RING_ERROR,
    RM,
    RSP_CONS,
    RSP_PROD,
    SET_PERMS,
    START,
    UNWATCH,
    WATCH,
    WRITE,
    StoreRig,
)


@pytest.fixture
def rig() -> StoreRig:
    return StoreRig()


# --- the bytes --------------------------------------------------------------------------------------------------------


def test_a_request_and_its_reply_byte_by_byte(rig: StoreRig) -> None:
    page = rig.mfn(RING) << 12
    rig.memory.write(page, bytes.fromhex("02000000 2a000000 00000000 06000000") + b"domid\0")
    rig.index(REQ_PROD, 22)
    rig.domain.events.unmask(rig.domain.store_port)
    rig.kick()
    assert rig.memory.read(page + 1024, 17) == bytes.fromhex("02000000 2a000000 00000000 01000000") + b"1"
    assert [rig.index(at) for at in (REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD)] == [22, 22, 0, 17]
    assert rig.domain.events.is_pending(rig.domain.store_port)
    assert rig.index(FEATURES) == 3


def test_an_error_is_its_name(rig: StoreRig) -> None:
    page = rig.mfn(RING) << 12
    rig.memory.write(page, struct.pack("<4I", 2, 7, 0, 8) + b"nowhere\0")
    rig.index(REQ_PROD, 24)
    rig.kick()
    assert rig.memory.read(page + 1024, 23) == struct.pack("<4I", 16, 7, 0, 7) + b"ENOENT\0"


def test_a_request_may_come_in_any_pieces_and_around_the_end(rig: StoreRig) -> None:
    for offset in (REQ_CONS, REQ_PROD):
        rig.index(offset, 0xFFFF_FFF0)
    for offset in (RSP_CONS, RSP_PROD):
        rig.index(offset, 0xFFFF_FFFE)
    for byte in struct.pack("<4I", WRITE, 1, 0, 9) + b"data/x\0ab" + struct.pack("<4I", READ, 2, 0, 7) + b"data/x\0":
        rig.put_bytes(bytes((byte,)))
    assert [reply.payload for reply in rig.replies()] == [b"OK\0", b"ab"]


def test_several_requests_in_one_kick(rig: StoreRig) -> None:
    rig.put_bytes(b"".join(struct.pack("<4I", READ, i, 0, 6) + b"domid\0" for i in range(40)))
    assert [reply.request for reply in rig.replies()] == list(range(40))


def test_a_guest_that_does_not_read_is_not_served(rig: StoreRig) -> None:
    request = struct.pack("<4I", DIRECTORY, 0, 0, 1) + b"\0"  # refused, in 16 + 7 bytes each
    page = rig.mfn(RING) << 12
    for _ in range(10):
        produced, consumed = rig.index(REQ_PROD), rig.index(REQ_CONS)
        for _ in range((1024 - (produced - consumed)) // len(request)):
            for i, byte in enumerate(request):
                rig.memory.write(page + (produced + i) % 1024, bytes((byte,)))
            produced += len(request)
        rig.index(REQ_PROD, produced)
        rig.kick()
    assert rig.index(RSP_PROD) == 1024
    assert len(rig.zero.ring.s.waiting) == 20
    assert rig.index(REQ_PROD) - rig.index(REQ_CONS) > 1000 - len(request)
    rig.take_bytes()
    rig.kick()
    rig.take_bytes()
    assert rig.index(REQ_PROD) == rig.index(REQ_CONS)
    assert len(rig.replies()) * len(request) == rig.index(REQ_PROD)


@pytest.mark.parametrize(
    ("offset", "value", "error"), [(REQ_PROD, 1025, 2), (REQ_CONS, 1, 2), (RSP_CONS, 1, 2), (RSP_PROD, 1025, 2)]
)
def test_indices_that_run_away_end_the_connection_until_it_begins_anew(
    rig: StoreRig, offset: int, value: int, error: int
) -> None:
    rig.ask(WATCH, b"data\0t\0")
    rig.index(offset, rig.index(offset) + value)
    rig.kick()
    assert rig.index(RING_ERROR) == error
    assert rig.zero.ring.connection.s.watches == []
    rig.kick()
    rig.index(CONNECTION, 1)
    rig.kick()
    assert [rig.index(at) for at in (CONNECTION, RING_ERROR, REQ_PROD, RSP_PROD, FEATURES)] == [0, 0, 0, 0, 3]
    rig.replies()
    rig.out = b""
    assert rig.read(b"domid") == b"1"


def test_a_message_that_is_too_long_ends_the_connection(rig: StoreRig) -> None:
    rig.put_bytes(struct.pack("<4I", WRITE, 1, 0, 4097))
    assert rig.index(RING_ERROR) == 3
    assert rig.replies() == []


def test_the_longest_message_is_none_too_long(rig: StoreRig) -> None:
    assert rig.write(b"data/x", b"v" * 4089) == b"!ENOSPC"
    assert rig.write(b"data/x", b"v" * 1900) == b"OK\0"
    assert rig.read(b"data/x") == b"v" * 1900


# --- nodes ------------------------------------------------------------------------------------------------------------


def test_nodes_come_and_go(rig: StoreRig) -> None:
    assert rig.write(b"data/a/b", b"1\0\xff") == b"OK\0"
    assert rig.read(b"data/a/b") == b"1\0\xff"
    assert rig.read(b"/local/domain/1/data/a") == b""
    assert rig.ask(MKDIR, b"data/a/c\0") == rig.ask(MKDIR, b"data/a/b\0") == b"OK\0"
    assert rig.read(b"data/a/b") == b"1\0\xff"  # what is there stays
    assert rig.ask(DIRECTORY, b"data/a\0") == b"b\0c\0"
    assert rig.ask(RM, b"data/a\0") == b"OK\0"
    assert rig.read(b"data/a/b") == rig.read(b"data/a") == b"!ENOENT"
    assert rig.ask(DIRECTORY, b"data\0") == b""
    assert rig.ask(RM, b"data/a\0") == b"OK\0"  # it is gone, as was wanted
    assert rig.ask(RM, b"data/a/b\0") == b"!ENOENT"
    assert rig.ask(RM, b"/\0") == b"!EINVAL"


@pytest.mark.parametrize(
    "path", [b"", b"/data/", b"//data", b"data//x", b"da ta", b"d\xe4ta", b"..", b"@releaseDomain", b"/" + b"x" * 3072,
             b"x" * 2048, b"/local/domain/1/" + b"x" * 2048],
)  # fmt: skip
def test_paths_that_are_none(rig: StoreRig, path: bytes) -> None:
    assert rig.read(path) == rig.write(path, b"") == rig.ask(RM, path + b"\0") == b"!EINVAL"
    assert rig.ask(GET_PERMS, path + b"\0") == rig.ask(SET_PERMS, path + b"\0n1\0") == b"!EINVAL"


@pytest.mark.parametrize("kind", [DIRECTORY, READ, GET_PERMS, MKDIR, RM, GET_DOMAIN_PATH, IS_INTRODUCED, WATCH, END])
@pytest.mark.parametrize("payload", [b"", b"data", b"data\0x", b"a\0b\0c\0", b"\0\0\0"])
def test_arguments_that_are_none(rig: StoreRig, kind: int, payload: bytes) -> None:
    assert rig.ask(kind, payload) == b"!EINVAL"


def test_long_directories_come_in_pieces(rig: StoreRig) -> None:
    names = [f"{i:04}" + "n" * 40 for i in range(150)]
    for name in names:
        rig.zero.store.write(f"/local/domain/1/data/{name}", "")
    assert rig.ask(DIRECTORY, b"data\0") == b"!E2BIG"
    found, generations = b"", set()
    while not found.endswith(b"\0\0"):
        part = rig.ask(DIRECTORY_PART, b"data\0%d\0" % len(found))
        generation, _, names_part = part.partition(b"\0")
        generations.add(generation)
        assert len(part) <= 4096
        found += names_part
    assert found == "".join(name + "\0" for name in names).encode() + b"\0"
    assert len(generations) == 1
    assert rig.ask(DIRECTORY_PART, b"data\099999\0") == generations.pop() + b"\0\0"


def test_domains(rig: StoreRig) -> None:
    assert rig.ask(GET_DOMAIN_PATH, b"7\0") == b"/local/domain/7\0"
    assert [rig.ask(IS_INTRODUCED, b"%d\0" % domid) for domid in (0, 1, 2)] == [b"T\0", b"T\0", b"F\0"]
    for kind in (0, INTRODUCE, 9, 18, 19):
        assert rig.ask(kind, b"1\0") == b"!EACCES"
    for kind in (15, 16, 20, 23, 99, 0xFFFF_FFFF):
        assert rig.ask(kind, b"1\0") == b"!ENOSYS"


# --- permissions ------------------------------------------------------------------------------------------------------


def test_who_may_do_what(rig: StoreRig) -> None:
    zero = rig.zero.store
    zero.make("/secret", ((0, "n"),))
    zero.write("/secret/a", "1")
    zero.make("/shown", ((0, "n"), (1, "r")))
    zero.make("/given", ((0, "n"), (1, "b")))
    zero.make("/blind", ((0, "w"),))
    for path in (b"/secret", b"/secret/a", b"/secret/none", b"/none", b"/", b"/blind"):
        assert rig.read(path) == b"!EACCES", path
    assert rig.read(b"/shown") == b""
    assert rig.read(b"/shown/none") == b"!ENOENT"
    assert rig.write(b"/shown", b"") == rig.write(b"/shown/x", b"") == rig.ask(RM, b"/shown\0") == b"!EACCES"
    assert rig.write(b"/given/x", b"") == rig.write(b"/blind", b"y") == b"OK\0"
    assert rig.ask(GET_PERMS, b"/given/x\0") == b"n1\0b1\0"  # the maker's, with the rights of the node above
    assert zero.read("/blind") == "y"


def test_permissions_are_the_owners_to_change(rig: StoreRig) -> None:
    assert rig.write(b"data/x", b"") == b"OK\0"
    assert rig.ask(SET_PERMS, b"data/x\0n1\0r2\0w3\0b4\0") == b"OK\0"
    assert rig.ask(GET_PERMS, b"data/x\0") == b"n1\0r2\0w3\0b4\0"
    assert rig.ask(SET_PERMS, b"data/x\0n0\0") == b"!EPERM"  # nobody gives nodes away
    assert rig.ask(SET_PERMS, b"name\0n1\0") == b"!EACCES"
    assert rig.ask(SET_PERMS, b"data/none\0n1\0") == b"!ENOENT"
    assert rig.ask(SET_PERMS, b"data/x\0n1\0r2\0r3\0r4\0r5\0r6\0") == b"!ENOSPC"
    for text in (b"", b"n", b"x1", b"n-1", b"n1x", b"n40000", b"n999999"):
        assert rig.ask(SET_PERMS, b"data/x\0" + text + b"\0") == b"!EINVAL", text
    assert rig.ask(SET_PERMS, b"data/x\0") == rig.ask(SET_PERMS, b"data/x\0n1") == b"!EINVAL"


def test_quotas(rig: StoreRig) -> None:
    own = rig.zero.server.tree.owned(1)
    for i in range(20):
        rig.ask(MKDIR, b"data/%d\0" % i)
    made = 20
    while rig.ask(MKDIR, b"data/%d/%d\0" % (made % 20, made)) == b"OK\0":
        made += 1
    assert own + made == 1000
    assert rig.ask(MKDIR, b"data/x\0") == rig.write(b"data/y", b"") == b"!ENOSPC"
    assert rig.ask(RM, b"data/0\0") == rig.ask(MKDIR, b"data/x\0") == b"OK\0"
    for _ in range(10):
        assert rig.ask(START, b"\0").endswith(b"\0")
    assert rig.ask(START, b"\0") == b"!ENOSPC"
    for i in range(128):
        assert rig.ask(WATCH, b"data\0%d\0" % i) == b"OK\0"
    assert rig.ask(WATCH, b"data\0x\0") == b"!E2BIG"
    assert rig.ask(RESET_WATCHES, b"\0") == rig.ask(WATCH, b"data\0x\0") == b"OK\0"


# --- watches ----------------------------------------------------------------------------------------------------------


def events(rig: StoreRig) -> list[tuple[bytes, bytes]]:
    found, rig.events = rig.events, []
    return found


def test_a_watch_fires_at_once_and_at_changes_below(rig: StoreRig) -> None:
    assert rig.ask(WATCH, b"data/a\0tok en\0") == b"OK\0"
    assert events(rig) == [(b"data/a", b"tok en")]
    rig.write(b"data/a/b", b"")
    rig.write(b"data/ab", b"")
    rig.zero.store.write("/local/domain/1/data/a", "by somebody else")
    rig.take_bytes()
    rig.replies()
    assert events(rig) == [(b"data/a/b", b"tok en"), (b"data/a", b"tok en")]
    rig.ask(MKDIR, b"data/a\0")  # it is there already
    rig.ask(READ, b"data/a\0")
    assert events(rig) == []
    assert rig.ask(WATCH, b"data/a\0tok en\0") == b"!EEXIST"
    assert rig.ask(UNWATCH, b"data/a\0other\0") == b"!ENOENT"
    assert rig.ask(UNWATCH, b"data/a\0tok en\0") == b"OK\0"
    rig.write(b"data/a", b"")
    assert events(rig) == []


def test_an_event_names_its_node_as_the_watch_did(rig: StoreRig) -> None:
    rig.ask(WATCH, b"/local/domain/1/data\0abs\0")
    rig.ask(WATCH, b"data\0rel\0")
    rig.ask(WATCH, b"@releaseDomain\0special\0")
    events(rig)
    rig.write(b"data/x", b"")
    assert events(rig) == [(b"/local/domain/1/data/x", b"abs"), (b"data/x", b"rel")]


def test_a_removal_fires_above_and_exactly_below(rig: StoreRig) -> None:
    rig.write(b"data/a/b/c", b"")
    for path in (b"data", b"data/a/b", b"data/a/b/c", b"data/a/x"):
        rig.ask(WATCH, path + b"\0" + path[-1:] + b"\0")
    events(rig)
    rig.ask(RM, b"data/a\0")
    assert events(rig) == [(b"data/a", b"a"), (b"data/a/b", b"b"), (b"data/a/b/c", b"c")]


def test_nobody_hears_of_what_he_may_not_see(rig: StoreRig) -> None:
    zero = rig.zero.store
    zero.make("/top", ((0, "n"),))
    zero.make("/top/secret", ((0, "n"),))
    rig.ask(WATCH, b"/top\0t\0")
    assert events(rig) == [(b"/top", b"t")]
    zero.write("/top/secret", "x")
    zero.set_permissions("/top/secret", ((0, "n"), (1, "r")))
    zero.set_permissions("/top/secret", ((0, "n"),))
    zero.remove("/top/secret")
    rig.take_bytes()
    rig.replies()
    assert events(rig) == [(b"/top/secret", b"t")] * 2  # shown, and hidden again


def test_the_same_event_waits_once(rig: StoreRig) -> None:
    rig.ask(WATCH, b"data\0t\0")
    events(rig)
    for i in range(200):
        rig.zero.store.write("/local/domain/1/data/x", str(i))
    for i in range(3000):
        rig.zero.store.write(f"/local/domain/1/data/{i}", "")
    assert len(rig.zero.ring.s.waiting) == 1024
    assert rig.zero.ring.s.lost > 1900
    rig.take_bytes()
    rig.replies()
    seen = events(rig)
    assert 1 < seen.count((b"data/x", b"t")) < 60  # what the ring itself holds, and one more
    assert rig.read(b"domid") == b"1"


# --- transactions -----------------------------------------------------------------------------------------------------


def begin(rig: StoreRig) -> int:
    return int(rig.ask(START, b"\0").removesuffix(b"\0"))


def test_a_transaction_happens_at_once_or_not_at_all(rig: StoreRig) -> None:
    rig.ask(WATCH, b"data\0t\0")
    events(rig)
    t = begin(rig)
    assert rig.write(b"data/a/b", b"1", t) == b"OK\0"
    assert rig.ask(READ, b"data/a/b\0", t) == b"1"
    assert rig.ask(DIRECTORY, b"data\0", t) == b"a\0"
    assert rig.read(b"data/a/b") == b"!ENOENT"
    assert events(rig) == []
    assert rig.ask(END, b"T\0", t) == b"OK\0"
    assert rig.read(b"data/a/b") == b"1"
    assert events(rig) == [(b"data/a/b", b"t")]
    t = begin(rig)
    assert rig.ask(RM, b"data/a\0", t) == b"OK\0"
    assert rig.ask(END, b"F\0", t) == b"OK\0"
    assert rig.read(b"data/a/b") == b"1"
    assert events(rig) == []


def test_a_node_that_changes_often_in_a_transaction_is_one_event(rig: StoreRig) -> None:
    rig.ask(WATCH, b"data\0t\0")
    events(rig)
    t = begin(rig)
    for value in (b"1", b"2"):
        rig.write(b"data/x", value, t)
    rig.ask(RM, b"data/x\0", t)
    rig.write(b"data/x", b"3", t)
    assert rig.ask(END, b"T\0", t) == b"OK\0"
    assert events(rig) == [(b"data/x", b"t")]


@pytest.mark.parametrize(
    ("mine", "other", "conflict"),
    [
        ((READ, b"data/x\0"), (WRITE, b"data/x\0new"), True),
        ((WRITE, b"data/x\0mine"), (WRITE, b"data/x\0new"), True),
        ((READ, b"data/none\0"), (WRITE, b"data/none\0"), True),
        ((DIRECTORY, b"data\0"), (MKDIR, b"data/y\0"), True),
        ((READ, b"data/x\0"), (RM, b"data\0"), True),
        ((GET_PERMS, b"data/x\0"), (SET_PERMS, b"data/x\0r1\0"), True),
        ((READ, b"data/x\0"), (WRITE, b"data/z\0new"), False),
        ((DIRECTORY, b"data\0"), (WRITE, b"data/x\0new"), False),
    ],
)
def test_a_conflict(rig: StoreRig, mine: tuple[int, bytes], other: tuple[int, bytes], conflict: bool) -> None:
    rig.write(b"data/x", b"old")
    rig.write(b"data/z", b"old")
    t = begin(rig)
    rig.ask(*mine, t)
    rig.ask(*other)
    assert rig.ask(END, b"T\0", t) == (b"!EAGAIN" if conflict else b"OK\0")
    assert rig.ask(END, b"T\0", t) == b"!ENOENT"


def test_transactions_that_are_none(rig: StoreRig) -> None:
    t = begin(rig)
    assert rig.ask(START, b"\0", t) == b"!EBUSY"
    assert rig.ask(READ, b"domid\0", t + 1) == b"!ENOENT"
    assert rig.ask(END, b"T\0") == b"!ENOENT"
    assert rig.ask(END, b"X\0", t) == b"!EINVAL"
    assert rig.ask(WATCH, b"data\0t\0", 99) == b"OK\0"  # it never belongs to one
    assert rig.ask(END, b"F\0", t) == b"OK\0"


def test_a_refused_change_leaves_no_trace_in_a_transaction(rig: StoreRig) -> None:
    t = begin(rig)
    assert rig.write(b"data/a/b", b"v" * 2048, t) == b"!ENOSPC"
    assert rig.ask(DIRECTORY, b"data\0", t) == b""
    assert rig.ask(END, b"T\0", t) == b"OK\0"


NAMES = ("a", "b", "c")
STEP = st.tuples(
    st.sampled_from("write rm mkdir read directory commit abort begin".split()),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3), st.integers(0, 2), st.integers(0, 9),
)  # fmt: skip
Model = dict[tuple[str, ...], bytes]


def model_step(tree: Model, name: str, path: tuple[str, ...], value: bytes) -> bytes:
    """The same in a plain dictionary. Returns the reply."""
    if name == "read":
        return tree.get(path, b"!ENOENT")
    if name == "directory":
        if path not in tree:
            return b"!ENOENT"
        return b"".join(p[-1].encode() + b"\0" for p in sorted(tree) if p[:-1] == path)
    if name == "rm":
        if path not in tree:
            return b"OK\0" if path[:-1] in tree else b"!ENOENT"
        for each in [p for p in tree if p[: len(path)] == path]:
            del tree[each]
        return b"OK\0"
    for i in range(1, len(path)):
        tree.setdefault(path[:i], b"")
    if name == "write" or path not in tree:
        tree[path] = value if name == "write" else b""
    return b"OK\0"


Logged = tuple[str, tuple[str, ...], bytes, bytes]  # a step and its reply


@settings(deadline=None, max_examples=100)
@given(st.lists(STEP, max_size=30))
def test_a_transaction_is_as_if_it_had_all_happened_at_its_end(steps: list[tuple[str, list[str], int, int]]) -> None:
    """Three clients, against a dictionary. A commit may fail only if the tree has changed meanwhile."""
    store = Store((0, 1))
    connection = store.connect(0, lambda message: None)
    kinds = {"write": WRITE, "rm": RM, "mkdir": MKDIR, "read": READ, "directory": DIRECTORY}

    def ask(kind: int, payload: bytes, transaction: int = 0) -> bytes:
        reply = store.request(connection, Message(kind, 0, transaction, payload))
        return (b"!" if reply.type == ERROR else b"") + reply.payload.removesuffix(
            b"\0" if reply.type == ERROR else b""
        )

    ask(MKDIR, b"/data\0")
    truth: Model = {(): b""}
    running: dict[int, tuple[int, int, list[Logged]]] = {}  # client -> transaction, changes before it, its steps
    changes = 0
    for name, path, client, digit in steps:
        transaction, before, log = running.get(client, (0, 0, []))
        if name == "begin":
            if not transaction:
                running[client] = int(ask(START, b"\0")[:-1]), changes, []
        elif name in kinds:
            value = b"%d" % digit
            payload = b"/data/" + "/".join(path).encode() + b"\0" + (value if name == "write" else b"")
            reply = ask(kinds[name], payload, transaction)
            if name == "directory" and not reply.startswith(b"!"):
                reply = b"".join(part + b"\0" for part in sorted(reply.split(b"\0")[:-1]))
            log.append((name, tuple(path), value, reply))
            if not transaction:
                assert model_step(truth, *log[-1][:3]) == reply
                changes += name in ("write", "rm", "mkdir")
        elif transaction:
            del running[client]
            reply = ask(END, b"T\0" if name == "commit" else b"F\0", transaction)
            if name == "commit" and reply == b"!EAGAIN":
                assert changes > before
            else:
                assert reply == b"OK\0"
            if name == "commit" and reply == b"OK\0":
                for kind, where, what, seen in log:
                    assert model_step(truth, kind, where, what) == seen
                    changes += kind in ("write", "rm", "mkdir")
    for found, value in truth.items():
        assert ask(READ, b"/data" + b"".join(b"/" + part.encode() for part in found) + b"\0") == value


# --- domain 0, snapshots ----------------------------------------------------------------------------------------------


def test_domain_0_hears_of_changes_in_order_and_may_change_more_meanwhile(rig: StoreRig) -> None:
    zero, seen = rig.zero.store, []

    def changed() -> None:
        seen.append(zero.read("/local/domain/1/data/x"))
        if seen[-1] == "1":
            zero.write("/local/domain/1/data/x", "2")
            seen.append("after")

    zero.watch("/local/domain/1/data/x", changed)
    rig.write(b"data/x", b"1")
    assert seen == [None, "1", "after", "2"]
    with pytest.raises(StoreError):
        zero.write("no good path/", "")


def test_a_snapshot_has_it_all(rig: StoreRig) -> None:
    rig.write(b"data/x", b"1")
    rig.ask(WATCH, b"data\0t\0")
    t = begin(rig)
    rig.write(b"data/y", b"2", t)
    rig.put_bytes(struct.pack("<4I", READ, 9, 0, 7) + b"da")
    saved = copy.deepcopy(rig.zero.state())
    rig.put_bytes(b"ta/x\0")
    assert [reply.payload for reply in rig.replies()] == [b"1"]
    rig.ask(END, b"F\0", t)
    rig.ask(RM, b"data\0")
    rig.ask(RESET_WATCHES, b"\0")
    rig.zero.set_state(saved)
    rig.put_bytes(b"ta/x\0")
    assert [reply.payload for reply in rig.replies()] == [b"1"]
    events(rig)
    assert rig.ask(END, b"T\0", t) == b"OK\0"
    assert events(rig) == [(b"data/y", b"t")]
