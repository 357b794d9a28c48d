"""An end-to-end testbed for sockops eBPF programs on real kernels."""

__version__ = "0.1.0"
