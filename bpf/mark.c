// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The marks: how long every sockops callback takes, by its kind.
 *
 * One program runs ahead of the program under test, attached to the cgroups
 * below its own, and one behind it, attached to the parent of its own. They
 * change nothing. What lies between them is the program under test, and what
 * the kernel itself needs to get from one program to the next: that is known
 * from `nothing`, which is measured in the same way.
 */
#include "loader.h"
#include "mark_maps.h"

PROGRAM("sockops")
int mark_begin(struct bpf_sock_ops *skops)
{
	struct mark_cpu *cpu = mark_this_cpu();
	struct mark_open *open;

	if (!cpu)
		return 1;
	if (cpu->depth >= MARK_DEPTH) {
		cpu->lost++;
		return 1;
	}
	open = &cpu->open[cpu->depth & (MARK_DEPTH - 1)];
	cpu->depth++;
	open->context = (__u64)skops;
	open->start_ns = bpf_ktime_get_ns(); /* the last thing that it does */
	return 1;
}

PROGRAM("sockops")
int mark_end(struct bpf_sock_ops *skops)
{
	__u64 now = bpf_ktime_get_ns(); /* the first thing that it does */
	struct mark_cpu *cpu = mark_this_cpu();
	struct mark_open *open;
	struct mark_op *op;
	__u32 number = skops->op;

	if (!cpu)
		return 1;
	if (cpu->depth == 0) {
		cpu->lost++;
		return 1;
	}
	cpu->depth--;
	open = &cpu->open[cpu->depth & (MARK_DEPTH - 1)];
	if (open->context != (__u64)skops) { /* another task came in between */
		cpu->depth = 0;
		cpu->lost++;
		return 1;
	}
	if (number >= MARK_OPS)
		number = MARK_OPS - 1;
	op = &cpu->ops[number];
	op->runs++;
	op->ns += now - open->start_ns;
	return 1;
}

/* What is measured of it is of the measuring alone. */
PROGRAM("sockops")
int nothing(struct bpf_sock_ops *skops)
{
	(void)skops;
	return 1;
}

LICENSE("Dual BSD/GPL");
