"""Ground floor: network namespaces, cgroups, links, sockets of the kernel. Knows nothing of BPF."""
