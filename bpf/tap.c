// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The tap: records every sockops callback, and changes nothing.
 *
 * It is attached to the parent of the cgroup that the program under test is
 * attached to. The kernel runs a child's programs first, so that an event in
 * the ring says: the effects of the program under test are there.
 *
 * It never sets a callback flag: that would hide a program that forgot to.
 */
#include "loader.h"
#include "tap_maps.h"
#include "address.h"

static __always_inline void count_lost(void)
{
	__u64 *lost = tap_lost_count();

	if (lost)
		__sync_fetch_and_add(lost, 1);
}

PROGRAM("sockops")
int tap(struct bpf_sock_ops *skops)
{
	struct tap_event *event;

	if (!is_inet(skops))
		return 1;
	event = tap_reserve();
	if (!event) {
		count_lost();
		return 1;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = bpf_ktime_get_ns();
	event->cookie = bpf_get_socket_cookie(skops);
#ifdef HAVE_NETNS_COOKIE
	event->netns_cookie = bpf_get_netns_cookie(skops);
#endif
	event->op = skops->op;
	event->args[0] = WORD(skops->args, 0);
	event->args[1] = WORD(skops->args, 1);
	event->args[2] = WORD(skops->args, 2);
	event->family = skops->family;
	event->state = skops->state;
	event->cb_flags = skops->bpf_sock_ops_cb_flags;
	event->local_port = local_port(skops, PORTS_HOST);
	event->remote_port = remote_port(skops, PORTS_HOST);
	if (skops->family == FAMILY_IPV4) {
		event->local_ip[0] = skops->local_ip4;
		event->remote_ip[0] = skops->remote_ip4;
	} else {
		READ_IP6(event->local_ip, skops->local_ip6);
		READ_IP6(event->remote_ip, skops->remote_ip6);
	}
	event->bytes_acked = skops->bytes_acked;
	event->bytes_received = skops->bytes_received;
	event->srtt_us = skops->srtt_us;
	event->rtt_min = skops->rtt_min;
	event->total_retrans = skops->total_retrans;
	event->lost_out = skops->lost_out;
	tap_submit(event);
	return 1;
}

LICENSE("Dual BSD/GPL");
