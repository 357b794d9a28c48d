// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The sockops program of an era: which callback does what. */
#include "era.h"
#include "journal.h"
#include "authorization.h"
#include "destination.h"
#include "exemption.h"
#include "managed.h"
#include "observation.h"
#include "policies.h"

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 8192);
	__type(key, struct bpf_sock_tuple);
	__type(value, __u32);
} SOCKHASH_MAP SEC(".maps");

static __always_inline int is_of_interest(struct bpf_sock_ops *skops)
{
#ifdef HAS_IPV6
	return is_inet(skops);
#else
	return is_inet(skops) && is_ipv4(skops);
#endif
}

static __always_inline void watch_state(struct bpf_sock_ops *skops)
{
	long err = bpf_sock_ops_cb_flags_set(skops, BPF_SOCK_OPS_STATE_CB_FLAG);

	if (err)
		log_error(err, "established: STATE_CB_FLAG was not set");
}

static __always_inline void put_into_sockhash(struct bpf_sock_ops *skops)
{
	struct bpf_sock_tuple tuple = {};
	long err;

	tuple_local_to_remote(skops, &tuple, PORTS_NETWORK);
	err = bpf_sock_hash_update(skops, &SOCKHASH_MAP, &tuple, BPF_ANY);
	if (err)
		log_error(err, "waypoint: the socket was not put into the sockhash");
}

static __always_inline void handle_connect(struct bpf_sock_ops *skops)
{
	struct bpf_sock *sk = skops->sk;

	if (!is_to_control_address(skops))
		return;
	handle_control_connect(skops);
	if (sk)
		forget_destination(sk); /* there is nobody to connect to */
}

static __always_inline void handle_active_established(struct bpf_sock_ops *skops)
{
	struct bpf_sock *sk = skops->sk;

	if (!sk)
		return;
	if (!is_managed(skops)) {
		forget_destination(sk); /* its end will not be seen */
		return;
	}
	observe_outbound(skops, sk);
	watch_state(skops);
	if (is_for_sockhash(sk))
		put_into_sockhash(skops);
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

	if (!sk || skops->args[1] != BPF_TCP_CLOSE)
		return;
	if (observe_close(skops, sk))
		forget_verdict(skops);
	forget_destination(sk);
}

PROGRAM("sockops")
int SOCKOPS_PROGRAM(struct bpf_sock_ops *skops)
{
	if (!is_of_interest(skops))
		return 1;
	switch (skops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		handle_connect(skops);
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

LICENSE(LICENSE_TEXT);
OBJECT_VERSION;
