"""Kernels: which can be had, fetched into a cache, and made bootable. Knows nothing of guests."""
