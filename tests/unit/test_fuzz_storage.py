"""The fuzzers of the disks reach everything in a short run, and find bugs that are planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hv.devices.ata_channel import Channel
from hv.devices.ata_drive import Drive
from hv.devices.ata_state import BSY, DATA_OUT, DRDY, DRQ
from hv.devices.ide import Ide
from hv.devices.ide_bus_master import BusMaster
from hv.host import nbd_protocol
from hv.host.nbd import Nbd
from hv.host.nbd_server import NbdServer, Steps
from hv.host.store import SECTOR, MemoryStore, Store
from tests.fuzz import ide, nbd


def test_the_controller_withstands_a_hostile_driver() -> None:
    assert ide.run(2, 20_000).missing == []


def test_both_ends_withstand_nonsense_on_the_wire() -> None:
    assert nbd.run(1, 3_000).missing == []


def without_a_range_check(patch: pytest.MonkeyPatch) -> None:
    original = Drive._start_address

    def start(drive: Drive) -> bool:
        store = drive.store
        assert isinstance(store, MemoryStore)
        real, store.sectors = store.sectors, 1 << 60
        try:
            return original(drive)
        finally:
            store.sectors = real

    patch.setattr(Drive, "_start_address", start)


def without_the_interrupt_mask(patch: pytest.MonkeyPatch) -> None:
    def update(channel: Channel) -> None:
        drive = channel.selected
        level = drive is not None and drive.state.irq
        if level != channel.state.line:
            channel.state.line = level
            channel.line(level)
        channel.rescheduled()

    patch.setattr(Channel, "update", update)


def without_an_end_of_the_buffer(patch: pytest.MonkeyPatch) -> None:
    original = Drive.write_data

    def write(drive: Drive, data: bytes) -> None:
        s = drive.state
        if s.phase == DATA_OUT and s.at + len(data) > len(s.buffer):
            s.buffer[s.at :] = data
        original(drive, data)

    patch.setattr(Drive, "write_data", write)


def with_an_abort_that_escapes(patch: pytest.MonkeyPatch) -> None:
    def push(master: BusMaster, data: bytes) -> int:
        done = 0
        while done < len(data) and master._region():
            part = data[done : done + master.state.left]
            master.slot().write(master.state.address, part)
            master._moved(len(part))
            done += len(part)
        return done

    patch.setattr(BusMaster, "push", push)


def without_word_of_a_deadline(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ide, "_reschedule", lambda ide: None)


def with_data_after_a_reset(patch: pytest.MonkeyPatch) -> None:
    original = Drive._signature

    def signature(drive: Drive) -> None:
        original(drive)
        drive.state.status |= DRQ

    patch.setattr(Drive, "_signature", signature)


def without_an_end_of_the_table(patch: pytest.MonkeyPatch) -> None:
    def moved(master: BusMaster, size: int) -> None:
        master.state.address, master.state.left = master.state.address + size, master.state.left - size

    patch.setattr(BusMaster, "_moved", moved)


def with_the_next_sector(patch: pytest.MonkeyPatch) -> None:
    original = Drive._start_address

    def start(drive: Drive) -> bool:
        found = original(drive)
        drive.state.sector += found and drive.state.sector + drive.state.left < drive.store.sectors
        return found

    patch.setattr(Drive, "_start_address", start)


def with_a_reset_that_does_not_stop(patch: pytest.MonkeyPatch) -> None:
    def hold(drive: Drive) -> None:
        drive.state.irq, drive.state.status = False, BSY | DRDY

    patch.setattr(Drive, "hold_reset", hold)


@pytest.mark.parametrize(
    "plant",
    [
        without_a_range_check, without_the_interrupt_mask, without_an_end_of_the_buffer, with_an_abort_that_escapes,
        without_word_of_a_deadline, with_data_after_a_reset, without_an_end_of_the_table, with_the_next_sector,
        with_a_reset_that_does_not_stop,
    ],
)  # fmt: skip
def test_a_bug_planted_in_the_controller_is_found(
    plant: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(Exception):  # noqa: B017, PT011 - a failed check, or whatever the bug raises
        ide.run(1, 20_000)


def server_without_a_check(patch: pytest.MonkeyPatch) -> None:
    def transmission(server: NbdServer, store: Store) -> Steps:
        while True:
            header = yield nbd_protocol.REQUEST_HEADER.size
            _, _, command, cookie, offset, length = nbd_protocol.REQUEST_HEADER.unpack(header)
            if command == nbd_protocol.READ:
                server._answer(command, cookie, 0, offset, store.read(offset // SECTOR, length // SECTOR))

    patch.setattr(NbdServer, "_transmission", transmission)


def server_that_reads_any_option(patch: pytest.MonkeyPatch) -> None:
    def info(server: NbdServer, option: int, body: bytes) -> None:
        assert body[6], "beyond the end"

    patch.setattr(NbdServer, "_info", info)


def client_that_believes_lengths(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("hv.host.nbd.MOST_OPTION_REPLY", 1 << 40)


def client_that_trusts_offsets(patch: pytest.MonkeyPatch) -> None:
    original = Nbd._chunks

    def chunks(disk: Nbd, command: int, offset: int, length: int) -> bytes:
        data = original(disk, command, offset, length)
        return data + data if disk.cookie % 5 == 0 and command == nbd_protocol.READ else data

    patch.setattr(Nbd, "_chunks", chunks)


@pytest.mark.parametrize(
    "plant",
    [server_without_a_check, server_that_reads_any_option, client_that_believes_lengths, client_that_trusts_offsets],
)
def test_a_bug_planted_in_either_end_is_found(plant: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(Exception):  # noqa: B017, PT011 - a failed check, or whatever the bug raises
        nbd.run(1, 3_000)
