"""A ring buffer read in batches, without being woken for each record.

`testbed.bpf.libbpf.RingConsumer` calls a function for each record; at 200,000 records a second that
is most of a CPU's time. This consumer maps the ring itself (its layout is ABI: a page with the
consumer's position, a page with the producer's, then the data, twice in a row) and takes records of
one size many at a time. The producer's position counts records independently of who reads them.

Linux 6.18, kernel/bpf/ringbuf.c: a record of ``n`` bytes takes ``n + 8``, rounded up to 8, and there
is room while no more than ``size - 1`` bytes are used: 85 records of 40 bytes in a ring of 4096,
1927 of 128 in one of 256 KiB, 963 of 260. A program that finds no room gets NULL of
bpf_ringbuf_reserve(), and nothing in the ring says so.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import ExitStack

from testbed.bpf.maps import Map
from testbed.closing import Closing

_HEADER = 8  # u32 length, u32 offset of the page: struct bpf_ringbuf_hdr
_BUSY, _DISCARDED = 1 << 31, 1 << 30
_BATCH = 256  # records


def _stride(size: int) -> int:
    """The bytes that a record of ``size`` takes."""
    return (size + _HEADER + 7) & ~7


class BatchRing(Closing):
    """The only consumer of a ring buffer whose records are ``record_size`` bytes (others are read too)."""

    def __init__(self, ring: Map, record_size: int) -> None:
        self.name = ring.name
        self.record_size = record_size
        self.received = 0
        self._size = ring.max_entries
        self._stride = _stride(record_size)
        self._records = struct.Struct(f"=I4x{record_size}s{self._stride - _HEADER - record_size}x")
        page = mmap.PAGESIZE
        with ExitStack() as stack:
            consumer = stack.enter_context(mmap.mmap(ring.fd, page))
            producer = stack.enter_context(
                mmap.mmap(ring.fd, page + 2 * self._size, prot=mmap.PROT_READ, offset=page)
            )
            # memory that is unmapped must not be in a view: views are given back first
            self._consumed = stack.enter_context(stack.enter_context(memoryview(consumer)).cast("Q"))
            view = stack.enter_context(memoryview(producer))
            self._produced = stack.enter_context(stack.enter_context(view[:page]).cast("Q"))
            self._data = stack.enter_context(view[page:])
            self._undo = stack.pop_all()
        self.clear()

    def clear(self) -> None:
        """Forgets what is in the ring. For when nobody writes into it."""
        self._consumed[0] = self._start = self._produced[0]
        self.received = 0

    @property
    def capacity(self) -> int:
        """How many records the ring holds."""
        return (self._size - 1) // self._stride

    @property
    def produced(self) -> int:
        """How many records were reserved since `clear`, read or not, if all were of the ring's size."""
        return (self._produced[0] - self._start) // self._stride

    @property
    def is_full(self) -> bool:
        """Whether the next record would be lost."""
        return self._size - 1 - (self._produced[0] - self._consumed[0]) < self._stride

    def read(self) -> Iterator[list[bytes]]:
        """What has come, in batches; a record that is being written ends it.

        The header is read before the data, in a copy of its own: no CPU that Linux has loads ahead
        that far.
        """
        while batch := self._batch() or self._odd():
            self.received += len(batch)
            yield batch

    def _batch(self) -> list[bytes]:
        """Records of the ring's own size, as many as follow one another."""
        consumed = self._consumed[0]
        count = min((self._produced[0] - consumed) // self._stride, _BATCH)
        if not count:
            return []
        place, length = consumed & (self._size - 1), count * self._stride
        headers = memoryview(bytes(self._data[place : place + length])).cast("I")
        lengths = headers[:: self._stride // 4].tolist()
        whole = count
        if lengths.count(self.record_size) != count:
            whole = next(at for at, each in enumerate(lengths) if each != self.record_size)
        data = bytes(self._data[place : place + whole * self._stride])
        self._consumed[0] = consumed + whole * self._stride
        return [record for _, record in self._records.iter_unpack(data)]

    def _odd(self) -> list[bytes]:
        """The next record, where it is of another size or was discarded (then empty bytes)."""
        consumed = self._consumed[0]
        if self._produced[0] == consumed:
            return []
        place = consumed & (self._size - 1)
        length = int.from_bytes(bytes(self._data[place : place + 4]), "little")
        if length & _BUSY:
            return []
        size = length & ~_DISCARDED
        data = b"" if length & _DISCARDED else bytes(self._data[place + _HEADER : place + _HEADER + size])
        self._consumed[0] = consumed + _stride(size)
        return [data]

    def close(self) -> None:
        self._undo.close()
