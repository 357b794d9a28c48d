// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Makes a host impatient: an unanswered SYN or SYN-ACK is repeated after one
 * jiffy, not after a second. It answers that one callback, and nothing else.
 *
 * Attached to the parent of the cgroup that the program under test is attached
 * to, it answers last, and so in the end.
 */
#include "loader.h"

PROGRAM("sockops")
int impatient(struct bpf_sock_ops *skops)
{
	if (skops->op == BPF_SOCK_OPS_TIMEOUT_INIT)
		skops->reply = 1; /* jiffies; 0 and less would leave it at a second */
	return 1;
}

LICENSE("Dual BSD/GPL");
