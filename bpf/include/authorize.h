/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Authorization: user space is asked once per accepted connection, and its verdict removed at the
 * end. */
#pragma once

#include "address.h"
#include "log.h"

/* IPv4 is kept behind three zero words; such an IPv6 address (::a.b.c.d) is never meant. */
static __always_inline int is_peer(struct bpf_sock_ops *skops, const __be32 *ip)
{
	__be32 remote[4];
	int holds_ipv4 = ip[0] == 0 && ip[1] == 0 && ip[2] == 0;

	if (is_ipv4(skops))
		return holds_ipv4 && ip[3] == skops->remote_ip4;
	READ_IP6(remote, skops->remote_ip6);
	return !holds_ipv4 && remote[0] == ip[0] && remote[1] == ip[1] && remote[2] == ip[2] &&
	       remote[3] == ip[3];
}

/* Probes of the node itself are neither observed nor authorized. */
static __always_inline int is_exempt(struct bpf_sock_ops *skops)
{
	struct config config = {};

	config_read(&config);
	return is_peer(skops, config.node_ip) || is_peer(skops, config.pod_gateway);
}

static __always_inline void request_authorization(struct bpf_sock_ops *skops)
{
	struct auth_request *request = auth_reserve();

	if (!request) {
		log_error(0, "authorize: the request ring is full");
		return;
	}
	__builtin_memset(request, 0, sizeof(*request));
	request->type = is_ipv4(skops) ? ADDRESS_IPV4 : ADDRESS_IPV6;
	tuple_remote_to_local(skops, &request->tuple, PORTS_HOST);
	auth_submit(request);
}

static __always_inline void forget_verdict(struct bpf_sock_ops *skops)
{
	struct bpf_sock_tuple tuple = {};

	tuple_remote_to_local(skops, &tuple, PORTS_HOST);
	verdict_remove(&tuple); /* absent where nobody judged it */
}
