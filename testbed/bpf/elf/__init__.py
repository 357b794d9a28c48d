"""ELF objects: built, read, described, and loaded by libbpf in a process of its own."""
