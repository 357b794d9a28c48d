/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* User space is asked once per accepted connection, and its verdict removed at the end. */
#pragma once

#include "journal.h"

struct ringbuf_msg_type {
	__u32 type;
	struct bpf_sock_tuple tuple;
};
LAYOUT(struct ringbuf_msg_type, 40);

RING_MAP(AUTH_REQUESTS_MAP, 4096);
HASH_MAP(AUTH_RESULTS_MAP, struct bpf_sock_tuple, __u32, 8192, HASH_FLAGS);

static __always_inline void request_authorization(struct bpf_sock_ops *skops)
{
	struct ringbuf_msg_type *request;

	request = bpf_ringbuf_reserve(&AUTH_REQUESTS_MAP, sizeof(*request), 0);
	if (!request) {
		log_error(0, "authorize: the request ring is full");
		return;
	}
	__builtin_memset(request, 0, sizeof(*request));
	request->type = is_ipv4(skops) ? ADDRESS_IPV4 : ADDRESS_IPV6;
	tuple_remote_to_local(skops, &request->tuple, AUTH_PORTS);
	bpf_ringbuf_submit(request, 0);
}

static __always_inline void forget_verdict(struct bpf_sock_ops *skops)
{
	struct bpf_sock_tuple tuple = {};

	tuple_remote_to_local(skops, &tuple, AUTH_PORTS);
	bpf_map_delete_elem(&AUTH_RESULTS_MAP, &tuple); /* absent where nobody judged it */
}
