/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One era: its names, sizes and features are in its own header, whose name the
 * compiler is told (-DERA_HEADER='"v0.3.h"'). A name that an era does not define is
 * a thing that it does not have.
 *
 * address.h is the project's own: how the addresses of a socket are read, and
 * put into tuples, is the same in all eras.
 */
#pragma once

#include <stddef.h>
#include "loader.h"
#include "address.h"

#define OFFSET(what, member, bytes)                                                                \
	_Static_assert(offsetof(what, member) == (bytes), #member " is not at " #bytes)

struct ip_addr {
	union {
		__be32 ip4;
		__be32 ip6[4];
	};
};

/* An IPv4 key is its four bytes and twelve zero bytes. */
struct manager_key {
	union {
		__u64 netns_cookie;
		struct ip_addr addr;
	};
};
LAYOUT(struct manager_key, 16);

/* The port is in host order. */
struct orig_dst_info {
	union {
		struct {
			__be32 addr;
			__u16 port;
		} ipv4;
		struct {
			__be32 addr[4];
			__u16 port;
		} ipv6;
	};
};
LAYOUT(struct orig_dst_info, 20);

#include ERA_HEADER

/* A field of an ELF object that the kernel once wanted. */
#define OBJECT_VERSION int _version SEC("version") = 1

/* Expands its arguments before it uses them: names come from the era. */
#define HASH_MAP(map, key_type, value_type, entries, flags)                                        \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_HASH);                                                   \
		__uint(max_entries, entries);                                                      \
		__uint(map_flags, flags);                                                          \
		__type(key, key_type);                                                             \
		__type(value, value_type);                                                         \
	} map SEC(".maps")

#define ARRAY_MAP(map, map_type, value_type)                                                       \
	struct {                                                                                   \
		__uint(type, map_type);                                                            \
		__uint(max_entries, 1);                                                            \
		__type(key, int);                                                                  \
		__type(value, value_type);                                                         \
	} map SEC(".maps")

#define RING_MAP(map, bytes)                                                                       \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_RINGBUF);                                                \
		__uint(max_entries, bytes);                                                        \
	} map SEC(".maps")
