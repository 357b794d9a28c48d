/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Probes of the node itself are neither observed nor authorized, since v1.0.0. */
#pragma once

#include "settings.h"

#ifdef CONFIG_GLOBALS
volatile __be32 node_ip[4];
volatile __be32 pod_gateway[4];
#endif

/* IPv4 is kept in word 3, behind zeroes or as a v4-mapped address. */
static __always_inline int is_peer(struct bpf_sock_ops *skops, const volatile __be32 *ip)
{
	__be32 remote[4];
	int holds_ipv4 = ip[0] == 0 && ip[1] == 0 && (ip[2] == 0 || ip[2] == MAPPED_WORD);

	if (is_ipv4(skops))
		return holds_ipv4 && ip[3] == skops->remote_ip4;
	READ_IP6(remote, skops->remote_ip6);
	return !holds_ipv4 && remote[0] == ip[0] && remote[1] == ip[1] && remote[2] == ip[2] &&
	       remote[3] == ip[3];
}

static __always_inline int is_exempt(struct bpf_sock_ops *skops)
{
#ifdef CONFIG_MAP
	int first = 0;
	struct kmesh_config *config = bpf_map_lookup_elem(&CONFIG_MAP, &first);

	return config && (is_peer(skops, config->node_ip) || is_peer(skops, config->pod_gateway));
#elif defined(CONFIG_GLOBALS)
	return is_peer(skops, node_ip) || is_peer(skops, pod_gateway);
#else
	(void)skops;
	return 0;
#endif
}
