"""What is behind a drive: sectors, from the drive's place. Whoever builds the machine decides where they are."""

from __future__ import annotations

from typing import Protocol

SECTOR = 512  # bytes


class MediumError(Exception):
    """The medium could not do it. `sector` is the first one that is concerned."""

    def __init__(self, text: str, sector: int = 0) -> None:
        super().__init__(text)
        self.sector = sector


class Medium(Protocol):
    """`sectors` blocks of 512 bytes. All three operations raise MediumError."""

    @property
    def sectors(self) -> int: ...

    @property
    def read_only(self) -> bool: ...

    def read(self, sector: int, count: int) -> bytes: ...

    def write(self, sector: int, data: bytes, *, durable: bool = False) -> None:
        """`durable`: as if a flush of this data followed."""

    def flush(self) -> None: ...
