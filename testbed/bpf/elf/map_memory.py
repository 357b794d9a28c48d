"""How much memory a map takes at once when it is made, about. Linux 5.10 to 6.18, kernel/bpf/*.c."""

from __future__ import annotations

_HASHES = {1, 9}  # HASH, LRU_HASH
_PERCPU_HASHES = {5, 10}
_ARRAY, _PERCPU_ARRAY = 2, 6
_QUEUE, _STACK, _STACK_TRACE = 22, 23, 7
_RINGBUF, _USER_RINGBUF, _BLOOM_FILTER = 27, 31, 30
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
        _PERCPU_ARRAY: 8 + value * cpus,
        _QUEUE: value_size,
        _STACK: value_size,
        _STACK_TRACE: 32 + value,
        _RINGBUF: 1,
        _USER_RINGBUF: 1,
        _BLOOM_FILTER: 2,
    }
    return entries * by_kind.get(kind, 16)  # else pointers, or buckets


def available_memory() -> int:
    """Half of what the machine has left (MemAvailable of proc_meminfo(5)), in bytes."""
    with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123 (the worker starts without pathlib)
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 // 2
    return 1 << 30
