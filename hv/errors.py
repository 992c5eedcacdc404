"""The one kind of error that a user sees: a single line, and what would be right."""


class HvError(Exception):
    """Shown as `hv: MESSAGE`. `status` is the exit status: 2 for bad usage, 1 for a failed run."""

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status
