/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The tap's maps, for both loaders. As in maps.h, the loaders are told apart here alone. */
#pragma once

#include "loader.h"

/* One callback. IP addresses in network order, ports in host order. */
struct tap_event {
	__u64 time_ns;	    /* bpf_ktime_get_ns() */
	__u64 cookie;	    /* of the socket; a request socket (SYN_RECV) has its own */
	__u64 netns_cookie; /* 0 where the kernel has no helper for it */
	__u32 op;
	__u32 args[3];
	__u32 family;
	__u32 state;
	__u32 cb_flags;
	__u32 local_port;
	__u32 remote_port;
	__u32 unused;
	__be32 local_ip[4]; /* IPv4: the first word */
	__be32 remote_ip[4];
	/* What the kernel has counted so far, of a full socket; 0 of a request. */
	__u64 bytes_acked;
	__u64 bytes_received;
	__u32 srtt_us; /* times 8 */
	__u32 rtt_min;
	__u32 total_retrans;
	__u32 lost_out;
};

_Static_assert(sizeof(struct tap_event) == 128, "user space reads 128 bytes");

#ifdef TESTBED_BCC

BPF_RINGBUF_OUTPUT(tap_events, 256);
BPF_ARRAY(tap_lost, __u64, 1);

static __always_inline struct tap_event *tap_reserve(void)
{
	return tap_events.ringbuf_reserve(sizeof(struct tap_event));
}

static __always_inline void tap_submit(struct tap_event *event)
{
	tap_events.ringbuf_submit(event, 0);
}

static __always_inline __u64 *tap_lost_count(void)
{
	int first = 0;

	return tap_lost.lookup(&first);
}

#else

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1024 * 1024);
} tap_events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, __u64);
} tap_lost SEC(".maps");

static __always_inline struct tap_event *tap_reserve(void)
{
	return bpf_ringbuf_reserve(&tap_events, sizeof(struct tap_event), 0);
}

static __always_inline void tap_submit(struct tap_event *event)
{
	bpf_ringbuf_submit(event, 0);
}

static __always_inline __u64 *tap_lost_count(void)
{
	int first = 0;

	return bpf_map_lookup_elem(&tap_lost, &first);
}

#endif
