// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The sockops program: which callback does what. The effects are one concern a
 * header each.
 */
#include "loader.h"
#include "authorize.h"
#include "manage.h"
#include "observe.h"

static __always_inline void watch_state(struct bpf_sock_ops *skops)
{
	long err = bpf_sock_ops_cb_flags_set(skops, BPF_SOCK_OPS_STATE_CB_FLAG);

	if (err)
		log_error(err, "established: STATE_CB_FLAG was not set");
}

/* The sk_msg program writes ahead of the first payload of a socket in the sockhash. */
static __always_inline void route_via_waypoint(struct bpf_sock_ops *skops)
{
	struct bpf_sock_tuple tuple = {};
	long err;

	tuple_local_to_remote(skops, &tuple, PORTS_NETWORK);
	err = sockhash_add(skops, &tuple);
	if (err)
		log_error(err, "waypoint: the socket was not put into the sockhash");
}

static __always_inline void handle_active_established(struct bpf_sock_ops *skops)
{
	struct bpf_sock *sk = skops->sk;
	struct sock_storage *storage;

	if (!sk || !is_managed(skops))
		return;
	storage = observe_outbound(skops, sk);
	watch_state(skops);
	if (storage && storage->via_waypoint)
		route_via_waypoint(skops);
}

static __always_inline void handle_passive_established(struct bpf_sock_ops *skops)
{
	struct bpf_sock *sk = skops->sk;

	if (!sk || !is_managed(skops) || is_exempt(skops))
		return;
	observe_inbound(skops, sk);
	watch_state(skops);
	request_authorization(skops);
}

static __always_inline void handle_state(struct bpf_sock_ops *skops)
{
	struct bpf_sock *sk = skops->sk;

	/* Not CLOSE_WAIT and the like: half of a connection still carries data. */
	if (!sk || skops->args[1] != BPF_TCP_CLOSE)
		return;
	if (observe_close(skops, sk) != DIRECTION_OUTBOUND)
		forget_verdict(skops);
}

PROGRAM("sockops")
int sockops_prog(struct bpf_sock_ops *skops)
{
	if (!is_inet(skops))
		return 1;
	switch (skops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		handle_control_connect(skops);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		handle_active_established(skops);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		handle_passive_established(skops);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		handle_state(skops);
		break;
	}
	return 1;
}

LICENSE("Dual BSD/GPL");
