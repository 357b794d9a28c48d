"""Ground floor: load BPF programs, attach them, read and write their maps and rings."""
