"""How much memory a map takes at once when it is made, about. Linux 5.10 to 6.18, kernel/bpf/*.c."""

from __future__ import annotations

from pathlib import Path

_HASHES = {1, 9}  # HASH, LRU_HASH
_PERCPU_HASHES = {5, 10}
_ARRAY, _PERCPU_ARRAY, _RINGBUF = 2, 6, 27
_QUEUE, _STACK = 22, 23
_NO_PREALLOC = 1  # BPF_F_NO_PREALLOC
_ELEMENT = 48  # struct htab_elem
_BUCKET = 16


def _round8(size: int) -> int:
    return (size + 7) & ~7


def memory_of(kind: int, key_size: int, value_size: int, entries: int, flags: int, cpus: int) -> int:
    """Bytes; for a map that grows with its entries, only what it begins with."""
    key, value = _round8(key_size), _round8(value_size)
    if kind in _HASHES | _PERCPU_HASHES:
        buckets = _BUCKET * (1 << max(entries - 1, 0).bit_length())
        if flags & _NO_PREALLOC:
            return buckets
        return buckets + entries * (_ELEMENT + key + value * (cpus if kind in _PERCPU_HASHES else 1))
    by_kind = {
        _ARRAY: value,
        _PERCPU_ARRAY: value * cpus,
        _RINGBUF: 1,
        _QUEUE: value_size,
        _STACK: value_size,
    }
    return entries * by_kind.get(kind, 16)  # else pointers, or buckets


def available_memory() -> int:
    """Half of what the machine has left (MemAvailable of proc_meminfo(5)), in bytes."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 // 2
    return 1 << 30
