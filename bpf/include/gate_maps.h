/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The gate's maps, for both loaders. As in maps.h, the loaders are told apart here alone. */
#pragma once

#include "loader.h"

#define GATE_RULES 16

enum gate_action {
	GATE_OFF, /* a slot that is free */
	GATE_PASS,
	GATE_DROP,
	GATE_HOLD,
	GATE_DUPLICATE,
	GATE_CORRUPT,
	GATE_RELEASED, /* no rule's: a segment that was held, and comes again */
};

enum gate_payload {
	GATE_ANY_PAYLOAD,
	GATE_WITH_PAYLOAD,
	GATE_WITHOUT_PAYLOAD,
};

/* Written by user space alone. Set last, `action` makes it valid. */
struct gate_rule {
	__u32 id;
	__u32 ifindex[2]; /* of the receiving end of each direction that it is about; 0: none */
	__u32 nth;	  /* the only one that is acted on, counted from 1; 0: each */
	__u16 port;	  /* of either end, in host order; 0: any */
	__u8 flags_mask;
	__u8 flags_value;
	__u8 payload; /* enum gate_payload */
	__u8 action;  /* enum gate_action */
	__u8 unused[2];
};

_Static_assert(sizeof(struct gate_rule) == 24, "user space writes 24 bytes");

/* Written by the program alone, under the lock. */
struct gate_count {
	struct bpf_spin_lock lock;
	__u32 seen;  /* segments that fit the rule */
	__u32 taken; /* of those, what it acted on */
};

/* One segment that was acted on. Addresses in network order, all else in host order. */
struct gate_event {
	__u64 time_ns; /* bpf_ktime_get_ns() */
	__u32 id;      /* of the rule */
	__u32 seen;    /* which one it was, counted from 1 */
	__u32 ifindex; /* of the end where it arrived */
	__u32 seq;
	__u32 ack;
	__u32 payload;	  /* bytes */
	__be32 source[4]; /* IPv4: the first word */
	__be32 destination[4];
	__u16 source_port;
	__u16 destination_port;
	__u8 action;
	__u8 flags;
	__u8 version; /* 4 or 6 */
	__u8 unused;
	__u32 frame_size; /* of the frame that follows, 0 where none does */
	__u32 gso_size;
};

_Static_assert(sizeof(struct gate_event) == 80, "user space reads 80 bytes");

/*
 * A frame that is held comes with its event. A record's size must be known to
 * the verifier, so that there are some sizes to choose from.
 */
#define GATE_SMALL 160
#define GATE_MIDDLE 1600
#define GATE_LARGE 16384
#define GATE_HUGE (65536 + 64)

struct gate_small {
	struct gate_event event;
	__u8 frame[GATE_SMALL];
};

struct gate_middle {
	struct gate_event event;
	__u8 frame[GATE_MIDDLE];
};

struct gate_large {
	struct gate_event event;
	__u8 frame[GATE_LARGE];
};

struct gate_huge {
	struct gate_event event;
	__u8 frame[GATE_HUGE];
};

#ifdef TESTBED_BCC

BPF_RINGBUF_OUTPUT(gate_events, 2048);
BPF_ARRAY(gate_rules, struct gate_rule, GATE_RULES);
BPF_ARRAY(gate_counts, struct gate_count, GATE_RULES);
BPF_ARRAY(gate_failures, __u64, 2);

static __always_inline void *gate_reserve_event(void)
{
	return gate_events.ringbuf_reserve(sizeof(struct gate_event));
}

static __always_inline void *gate_reserve_small(void)
{
	return gate_events.ringbuf_reserve(sizeof(struct gate_small));
}

static __always_inline void *gate_reserve_middle(void)
{
	return gate_events.ringbuf_reserve(sizeof(struct gate_middle));
}

static __always_inline void *gate_reserve_large(void)
{
	return gate_events.ringbuf_reserve(sizeof(struct gate_large));
}

static __always_inline void *gate_reserve_huge(void)
{
	return gate_events.ringbuf_reserve(sizeof(struct gate_huge));
}

static __always_inline void gate_submit(void *record)
{
	gate_events.ringbuf_submit(record, 0);
}

static __always_inline void gate_discard(void *record)
{
	gate_events.ringbuf_discard(record, 0);
}

static __always_inline struct gate_rule *gate_rule(int slot)
{
	return gate_rules.lookup(&slot);
}

static __always_inline struct gate_count *gate_count(int slot)
{
	return gate_counts.lookup(&slot);
}

static __always_inline __u64 *gate_failure(int which)
{
	return gate_failures.lookup(&which);
}

#else

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 * 1024 * 1024);
} gate_events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GATE_RULES);
	__type(key, int);
	__type(value, struct gate_rule);
} gate_rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GATE_RULES);
	__type(key, int);
	__type(value, struct gate_count);
} gate_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, int);
	__type(value, __u64);
} gate_failures SEC(".maps");

static __always_inline void *gate_reserve_event(void)
{
	return bpf_ringbuf_reserve(&gate_events, sizeof(struct gate_event), 0);
}

static __always_inline void *gate_reserve_small(void)
{
	return bpf_ringbuf_reserve(&gate_events, sizeof(struct gate_small), 0);
}

static __always_inline void *gate_reserve_middle(void)
{
	return bpf_ringbuf_reserve(&gate_events, sizeof(struct gate_middle), 0);
}

static __always_inline void *gate_reserve_large(void)
{
	return bpf_ringbuf_reserve(&gate_events, sizeof(struct gate_large), 0);
}

static __always_inline void *gate_reserve_huge(void)
{
	return bpf_ringbuf_reserve(&gate_events, sizeof(struct gate_huge), 0);
}

static __always_inline void gate_submit(void *record)
{
	bpf_ringbuf_submit(record, 0);
}

static __always_inline void gate_discard(void *record)
{
	bpf_ringbuf_discard(record, 0);
}

static __always_inline struct gate_rule *gate_rule(int slot)
{
	return bpf_map_lookup_elem(&gate_rules, &slot);
}

static __always_inline struct gate_count *gate_count(int slot)
{
	return bpf_map_lookup_elem(&gate_counts, &slot);
}

static __always_inline __u64 *gate_failure(int which)
{
	return bpf_map_lookup_elem(&gate_failures, &which);
}

#endif
