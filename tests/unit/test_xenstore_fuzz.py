"""The fuzzers of grants and of the store find a bug planted in each check, and none where none is planted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from modes.paravirt import bus, grants
from modes.paravirt.abi import Refused
from modes.paravirt.calls import grant_maps
from modes.paravirt.calls import grants as grant_calls
from modes.paravirt.events import Events
from modes.paravirt.foreign import MachineFrames
from modes.paravirt.frames import Kind
from modes.paravirt.grants import Grants, View
from modes.paravirt.store import nodes, ring, store, transaction
from modes.paravirt.store.nodes import Node, Nodes, StoreError, Tree
from modes.paravirt.store.ring import StoreRing
from modes.paravirt.store.store import Store
from modes.paravirt.store.transaction import Transaction
from modes.paravirt.store.wire import Type
from tests.fuzz import grants as grants_fuzz
from tests.fuzz import xenstore as store_fuzz

Patch = Callable[[pytest.MonkeyPatch], None]


def test_nothing_is_found_and_every_kind_of_answer_is_reached() -> None:
    reached: Counter[str] = Counter()
    for seed in range(20):
        reached.update(grants_fuzz.case(seed))
        reached.update(store_fuzz.case(seed))
    wanted = "map ok,map -1,map -3,map -9,access ok,access -1,access -10,op 0 ok,op 1 ok,op 5 ok,op 5 -9,op 5 -10"
    answers = "2 ok,11 ok,11 ENOSPC,13 ok,14 EACCES,6 EBUSY,7 EAGAIN,7 ok,8 EACCES,20 ENOSYS,bus CONNECTED,bus CLOSED"
    for name in (*wanted.split(","), *answers.split(",")):
        assert reached[name], name


# --- grants -----------------------------------------------------------------------------------------------------------


def type_not_checked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(grants, "TYPE_MASK", 1)


def domain_not_checked(patch: pytest.MonkeyPatch) -> None:
    original = Grants._acquire

    def acquire(self: Grants, ref: int, domid: int, *, write: bool) -> int:
        at = self._entry(ref)
        entry = self.memory.read(at, 8)
        self.memory.write(at + 2, domid.to_bytes(2, "little"))
        try:
            return original(self, ref, domid, write=write)
        finally:
            self.memory.write(at + 2, entry[2:4])

    patch.setattr(Grants, "_acquire", acquire)


def read_only_not_checked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(grants, "READ_ONLY", 0)


def no_reference_held(patch: pytest.MonkeyPatch) -> None:
    original = MachineFrames.hold

    def hold(self: MachineFrames, frame: int, *, write: bool) -> int:
        address = original(self, frame, write=write)
        self.let_go(frame, write=write)
        return address

    patch.setattr(MachineFrames, "hold", hold)


def held_for_reading_when_it_is_written(patch: pytest.MonkeyPatch) -> None:
    def hold(self: MachineFrames, frame: int, *, write: bool) -> int:
        self.frames.take(frame, self.domid)
        return frame << 12

    patch.setattr(MachineFrames, "hold", hold)
    patch.setattr(MachineFrames, "let_go", lambda self, frame, *, write: self.frames.drop(frame))


def owner_of_the_frame_not_checked(patch: pytest.MonkeyPatch) -> None:
    def hold(self: MachineFrames, frame: int, *, write: bool) -> int:
        i = self.frames.index(frame)
        if i < 0:
            raise Refused(22)
        self.frames.take_as(frame, Kind.WRITABLE, self.frames.owner[i])
        return frame << 12

    patch.setattr(MachineFrames, "hold", hold)
    patch.setattr(MachineFrames, "let_go", lambda self, frame, *, write: self.frames.drop_as(frame))


def never_let_go(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MachineFrames, "let_go", lambda self, frame, *, write: None)


def reused_reference_is_read_again(patch: pytest.MonkeyPatch) -> None:
    original = Grants._try_to_acquire

    def acquire(self: Grants, ref: int, domid: int, *, write: bool) -> int:
        if ref in self.s.uses:
            frame = int.from_bytes(self.memory.read(self._entry(ref) + 4, 4), "little")
            self.s.uses[ref] = self.s.uses[ref]._replace(frame=frame)
        return original(self, ref, domid, write=write)

    patch.setattr(Grants, "_try_to_acquire", acquire)


def use_not_shown(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(grants, "READING", 0)


def write_not_shown(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(grants, "WRITING", 0)


def use_shown_for_ever(patch: pytest.MonkeyPatch) -> None:
    original = Grants._flags
    patch.setattr(Grants, "_flags", lambda self, ref, *, set_=0, clear=0: original(self, ref, set_=set_))


def view_without_an_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(View, "_check", staticmethod(lambda offset, size: None))


def copy_without_an_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(grants, "_check_copy", lambda offset, size: None)


def view_for_reading_is_written(patch: pytest.MonkeyPatch) -> None:
    def write(self: View, offset: int, data: bytes) -> None:
        self._check(offset, len(data))
        self.memory.write(self.address + offset, data)

    patch.setattr(View, "write", write)


def reference_beyond_the_table(patch: pytest.MonkeyPatch) -> None:
    def entry(self: Grants, ref: int) -> int:
        return (self.s.frames[0] << 12) + ref * 8 if self.s.frames else 0

    patch.setattr(Grants, "_entry", entry)


def guest_ends_the_mappings_of_domain_0(patch: pytest.MonkeyPatch) -> None:
    original = Grants.unmap
    patch.setattr(Grants, "unmap", original)
    unmap, size = grant_maps._unmap, grant_maps.UNMAP.size

    def careless(v: Any, at: int) -> None:
        (number,) = v.memory.unpack(grant_calls.VERSION, at + 16)
        if number in v.domain.grants.s.handles:
            v.domain.grants.unmap(number)
        unmap(v, at)

    def call(v: Any, a: list[int]) -> int:
        return grant_calls.grant_table_op(v, a, {**grant_calls.LISTED, 1: (careless, size)})

    from modes.paravirt.calls.table import CALLS

    patch.setitem(CALLS, "grant_table_op", call)


def copy_between_any_frames(patch: pytest.MonkeyPatch) -> None:
    def put(v: Any, target: Any, data: bytes) -> None:
        if not target.is_ref and v.domain.frames.index(target.frame) >= 0:
            v.domain.memory.write((target.frame << 12) + target.offset, data)

    patch.setattr(grant_calls, "_put", put)


def copy_beyond_the_page(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(grant_calls, "PAGE", 1 << 20)


GRANT_BUGS: list[Patch] = [
    type_not_checked, domain_not_checked, read_only_not_checked, no_reference_held,
    held_for_reading_when_it_is_written, owner_of_the_frame_not_checked, never_let_go, reused_reference_is_read_again,
    use_not_shown, write_not_shown, use_shown_for_ever, view_without_an_end, copy_without_an_end,
    view_for_reading_is_written, reference_beyond_the_table, guest_ends_the_mappings_of_domain_0,
    copy_between_any_frames, copy_beyond_the_page,
]  # fmt: skip


# --- the store and the bus --------------------------------------------------------------------------------------------


def everybody_may(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Node, "rights", lambda self, domid: 7)


def owner_of_the_parent_may(patch: pytest.MonkeyPatch) -> None:
    """Reading alone is not checked."""
    patch.setattr(store, "READ", 0)


def writing_not_checked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(nodes, "WRITE", 0)


def permissions_are_anybodys_to_change(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(nodes, "OWN", 0)


def events_for_everybody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Store, "may_see", lambda self, domid, change, node: True)


def conflict_not_noticed(patch: pytest.MonkeyPatch) -> None:
    original = Transaction.commit

    def commit(self: Transaction) -> None:
        self.state.seen.clear()
        original(self)

    patch.setattr(Transaction, "commit", commit)


def quota_of_nodes_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(nodes, "MOST_NODES", 1 << 30)


def quota_forgotten_in_transactions(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Transaction, "owned", lambda self, domid: 0)


def quota_of_watches_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(store, "MOST_WATCHES", 1 << 30)


def quota_of_transactions_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(store, "MOST_TRANSACTIONS", 1 << 30)


def quota_of_permissions_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(nodes, "MOST_PERMISSIONS", 1 << 30)


def children_left_behind(patch: pytest.MonkeyPatch) -> None:
    original = Nodes._below
    patch.setattr(Nodes, "_below", lambda self, path: iter(list(original(self, path))[:1]))


def parent_not_told(patch: pytest.MonkeyPatch) -> None:
    def remove(self: Nodes, path: str, domid: int) -> list[Any]:
        if path == "/":
            raise StoreError("EINVAL")
        gone = [(each, self.find(each, domid, 2).permissions) for each, _ in self._below(path)]
        for each, _ in gone:
            self.tree.put(each, None)
        return gone

    patch.setattr(Nodes, "remove", remove)


def owners_counted_wrong(patch: pytest.MonkeyPatch) -> None:
    def put(self: Tree, path: str, node: Node | None) -> None:
        self.s.generation += 1
        if node is None:
            self.s.nodes.pop(path, None)
            return
        if path not in self.s.nodes:
            self.s.owned[node.owner] = self.s.owned.get(node.owner, 0) + 1
        self.s.nodes[path] = node._replace(generation=self.s.generation)

    patch.setattr(Tree, "put", put)


def any_path_will_do(patch: pytest.MonkeyPatch) -> None:
    def canonical(path: bytes, domid: int) -> str:
        absolute = path if path.startswith(b"/") else b"/local/domain/%d/%b" % (domid, path)
        return absolute.decode("latin-1")

    patch.setattr(store, "canonical", canonical)


def long_message_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ring, "MOST_PAYLOAD", 1 << 32)


def served_whether_it_reads_or_not(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ring, "MOST_WAITING", 1 << 30)
    patch.setattr(ring, "MOST_EVENTS", 1 << 30)
    patch.setattr(StoreRing, "_send", lambda self: False)


def ring_restarted_with_what_was_left(patch: pytest.MonkeyPatch) -> None:
    def reset(self: StoreRing) -> None:
        for offset in (2048, 2052, 2056, 2060, 2068, 2072):
            self._set(offset, 0)
        self.s.ignored = False

    patch.setattr(StoreRing, "reset", reset)


def transaction_of_nobody(patch: pytest.MonkeyPatch) -> None:
    original = store.Job.end

    def end(self: store.Job) -> bytes:
        assert self.transaction is not None
        return original(self)

    patch.setitem(store.HANDLERS, Type.TRANSACTION_END, end)


def transaction_remembers_every_change(patch: pytest.MonkeyPatch) -> None:
    def fire(self: Transaction, changes: list[Any]) -> None:
        for change in changes:
            self.state.fired[f"{change.path} {len(self.state.fired)}"] = change

    patch.setattr(Transaction, "fire", fire)


def limit_of_a_transaction_cuts_a_change(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(transaction, "MOST_NODES", 12)

    def get(self: Transaction, path: str) -> Node | None:
        return self.state.changed[path] if path in self.state.changed else self.base.get(path)

    def put(self: Transaction, path: str, node: Node | None) -> None:
        if len(self.state.changed) >= 3:
            raise StoreError("ENOSPC")
        self.state.changed[path] = node

    patch.setattr(Transaction, "get", get)
    patch.setattr(Transaction, "put", put)


def back_end_not_disconnected(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(bus.Device, "leave", lambda self: setattr(self, "connected", False))


def channel_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Events, "disconnect_backend", lambda self, port, backend_port: None)


def connected_twice(patch: pytest.MonkeyPatch) -> None:
    original = bus.Device.front_changed

    def changed(self: bus.Device) -> None:
        if self.connected and self.bus.read(f"{self.front}/state") == "3":
            self.backend.connect(bus.FrontEnd(self))
        original(self)

    patch.setattr(bus.Device, "front_changed", changed)


def failed_connection_keeps_its_channel(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(bus.Device, "_unbind", lambda self: None)


STORE_BUGS: list[Patch] = [
    everybody_may, owner_of_the_parent_may, writing_not_checked, permissions_are_anybodys_to_change,
    events_for_everybody, conflict_not_noticed, quota_of_nodes_forgotten, quota_of_watches_forgotten,
    quota_of_transactions_forgotten, quota_of_permissions_forgotten, children_left_behind,
    parent_not_told, owners_counted_wrong, any_path_will_do,
    served_whether_it_reads_or_not, ring_restarted_with_what_was_left, transaction_of_nobody,
    limit_of_a_transaction_cuts_a_change, back_end_not_disconnected, channel_kept, connected_twice,
    failed_connection_keeps_its_channel, transaction_remembers_every_change, long_message_taken,
    quota_forgotten_in_transactions,
]  # fmt: skip


@pytest.mark.parametrize("bug", GRANT_BUGS, ids=lambda bug: bug.__name__)
def test_a_bug_in_grants_is_found(bug: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    with pytest.raises(Exception):  # noqa: B017, PT011 - a violation, or whatever Python makes of the bug
        all(grants_fuzz.case(seed) for seed in range(60))


@pytest.mark.parametrize("bug", STORE_BUGS, ids=lambda bug: bug.__name__)
def test_a_bug_in_the_store_is_found(bug: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    with pytest.raises(Exception):  # noqa: B017, PT011 - a violation, or whatever Python makes of the bug
        all(store_fuzz.case(seed) for seed in range(60))
