/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Addresses of a socket, one notion for the three families: a socket of an
 * IPv6 family whose peer is v4-mapped (::ffff:a.b.c.d) is an IPv4 connection.
 */
#pragma once

#include "abi.h"

#define MAPPED_WORD bpf_htonl(0x0000ffff)

/*
 * The words of an IPv6 address, one by one: two read as one wide word (as a
 * compiler likes to) are no valid access to a program's context.
 */
#define WORD(array, n) (*(volatile const __be32 *)&(array)[n])
#define READ_IP6(to, from)                                                                         \
	do {                                                                                       \
		(to)[0] = WORD(from, 0);                                                           \
		(to)[1] = WORD(from, 1);                                                           \
		(to)[2] = WORD(from, 2);                                                           \
		(to)[3] = WORD(from, 3);                                                           \
	} while (0)

enum port_order {
	PORTS_HOST,
	PORTS_NETWORK,
};

static __always_inline int is_mapped_ip6(const __be32 *ip6)
{
	return ip6[0] == 0 && ip6[1] == 0 && ip6[2] == MAPPED_WORD;
}

/* Whether the connection is IPv4 whatever the socket's family. */
static __always_inline int is_ipv4(struct bpf_sock_ops *skops)
{
	__be32 remote[4];

	if (skops->family == FAMILY_IPV4)
		return 1;
	READ_IP6(remote, skops->remote_ip6);
	return is_mapped_ip6(remote);
}

static __always_inline int is_inet(struct bpf_sock_ops *skops)
{
	return skops->family == FAMILY_IPV4 || skops->family == FAMILY_IPV6;
}

static __always_inline __u16 local_port(struct bpf_sock_ops *skops, enum port_order order)
{
	__u16 port = (__u16)skops->local_port;

	return order == PORTS_HOST ? port : bpf_htons(port);
}

static __always_inline __u16 remote_port(struct bpf_sock_ops *skops, enum port_order order)
{
	__u16 port = (__u16)bpf_ntohl(skops->remote_port);

	return order == PORTS_HOST ? port : bpf_htons(port);
}

/* tuple must be zero: an IPv4 tuple is a key with its unused bytes. */
static __always_inline void tuple_local_to_remote(struct bpf_sock_ops *skops,
						  struct bpf_sock_tuple *tuple,
						  enum port_order order)
{
	if (is_ipv4(skops)) {
		tuple->ipv4.saddr = skops->local_ip4;
		tuple->ipv4.daddr = skops->remote_ip4;
		tuple->ipv4.sport = local_port(skops, order);
		tuple->ipv4.dport = remote_port(skops, order);
	} else {
		READ_IP6(tuple->ipv6.saddr, skops->local_ip6);
		READ_IP6(tuple->ipv6.daddr, skops->remote_ip6);
		tuple->ipv6.sport = local_port(skops, order);
		tuple->ipv6.dport = remote_port(skops, order);
	}
}

static __always_inline void tuple_remote_to_local(struct bpf_sock_ops *skops,
						  struct bpf_sock_tuple *tuple,
						  enum port_order order)
{
	if (is_ipv4(skops)) {
		tuple->ipv4.saddr = skops->remote_ip4;
		tuple->ipv4.daddr = skops->local_ip4;
		tuple->ipv4.sport = remote_port(skops, order);
		tuple->ipv4.dport = local_port(skops, order);
	} else {
		READ_IP6(tuple->ipv6.saddr, skops->remote_ip6);
		READ_IP6(tuple->ipv6.daddr, skops->local_ip6);
		tuple->ipv6.sport = remote_port(skops, order);
		tuple->ipv6.dport = local_port(skops, order);
	}
}

/* Client to server, on either side: what verdicts and records are kept by. */
static __always_inline void tuple_client_to_server(struct bpf_sock_ops *skops,
						   enum direction direction,
						   struct bpf_sock_tuple *tuple)
{
	if (direction == DIRECTION_OUTBOUND)
		tuple_local_to_remote(skops, tuple, PORTS_HOST);
	else
		tuple_remote_to_local(skops, tuple, PORTS_HOST);
}
