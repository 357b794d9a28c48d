"""What the program says about itself."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LogEvent:
    """An error that the program reported about itself."""

    ret: int
    message: str
    unused: bytes = field(default=b"", repr=False, compare=False)
    """What follows the message: zero in an event that was zeroed before it was filled."""

    @classmethod
    def decode(cls, data: bytes) -> LogEvent:
        text, _, unused = data[4:].partition(b"\0")
        ret = int.from_bytes(data[:4], "little", signed=True)
        return cls(ret, text.decode(errors="backslashreplace").rstrip(), unused)

    def __str__(self) -> str:
        return f"{self.message} (ret {self.ret})"
