/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps of redirect.c, for both loaders. As in maps.h, the loaders are told apart here alone. */
#pragma once

#include "loader.h"

/* IPv4 as ::ffff:a.b.c.d; the port in network order. */
struct endpoint {
	__be32 ip6[4];
	__be16 port;
	__u16 unused;
};

struct redirection {
	struct endpoint to;
	__u32 unused;
	__u64 spared; /* netns cookie: who connects from there is not redirected */
};

/* One connect() that was redirected. */
struct redirect_event {
	__u64 time_ns; /* bpf_ktime_get_ns() */
	__u64 cookie;
	struct endpoint asked_for;
	struct endpoint to;
};

_Static_assert(sizeof(struct endpoint) == 20, "user space writes 20 bytes");
_Static_assert(sizeof(struct redirection) == 32, "user space writes 32 bytes");
_Static_assert(sizeof(struct redirect_event) == 56, "user space reads 56 bytes");

#ifdef TESTBED_BCC

BPF_TABLE("hash", struct endpoint, struct redirection, redirections, 1024);
BPF_TABLE("hash", __u64, __u64, namespaces, 64);
BPF_RINGBUF_OUTPUT(redirects, 64);

static __always_inline struct redirection *redirection_lookup(struct endpoint *key)
{
	return redirections.lookup(key);
}

static __always_inline __u64 *namespace_lookup(__u64 *key)
{
	return namespaces.lookup(key);
}

static __always_inline struct redirect_event *redirect_reserve(void)
{
	return redirects.ringbuf_reserve(sizeof(struct redirect_event));
}

static __always_inline void redirect_submit(struct redirect_event *event)
{
	redirects.ringbuf_submit(event, 0);
}

#else

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct endpoint);
	__type(value, struct redirection);
} redirections SEC(".maps");

/* By a socket's cookie: its namespace's, for who asks. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u64);
} namespaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} redirects SEC(".maps");

static __always_inline struct redirection *redirection_lookup(struct endpoint *key)
{
	return bpf_map_lookup_elem(&redirections, key);
}

static __always_inline __u64 *namespace_lookup(__u64 *key)
{
	return bpf_map_lookup_elem(&namespaces, key);
}

static __always_inline struct redirect_event *redirect_reserve(void)
{
	return bpf_ringbuf_reserve(&redirects, sizeof(struct redirect_event), 0);
}

static __always_inline void redirect_submit(struct redirect_event *event)
{
	bpf_ringbuf_submit(event, 0);
}

#endif
