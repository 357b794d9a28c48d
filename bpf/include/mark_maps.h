/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the marks keep, for both loaders. As in maps.h, the loaders are told apart here alone. */
#pragma once

#include "loader.h"

#define MARK_DEPTH 4 /* a callback may interrupt another one on the same CPU */
#define MARK_OPS 32  /* the last one stands for all behind it */

struct mark_open {
	__u64 context; /* whose callback it is: no two have the same at a time */
	__u64 start_ns;
};

struct mark_op {
	__u64 runs;
	__u64 ns;
};

/* Of one CPU. */
struct mark_cpu {
	__u64 depth;
	__u64 lost; /* callbacks whose begin and end did not fit together */
	struct mark_open open[MARK_DEPTH];
	struct mark_op ops[MARK_OPS];
};

_Static_assert(sizeof(struct mark_cpu) == 592, "user space reads 592 bytes");

#ifdef TESTBED_BCC

BPF_PERCPU_ARRAY(mark_cpus, struct mark_cpu, 1);

static __always_inline struct mark_cpu *mark_this_cpu(void)
{
	int first = 0;

	return mark_cpus.lookup(&first);
}

#else

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, int);
	__type(value, struct mark_cpu);
} mark_cpus SEC(".maps");

static __always_inline struct mark_cpu *mark_this_cpu(void)
{
	int first = 0;

	return bpf_map_lookup_elem(&mark_cpus, &first);
}

#endif
