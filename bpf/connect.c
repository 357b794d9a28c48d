// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * connect(), before a SYN: makes the socket's storage, and notes in it when and
 * to which address the client wanted to connect.
 */
#include "loader.h"
#include "address.h"
#include "log.h"

/* Zeroes what belongs to an earlier connect() of the same socket; user space's via_waypoint stays.
 */
static __always_inline struct sock_storage *begin_connect(struct bpf_sock *sk)
{
	struct sock_storage *storage = storage_of(sk, BPF_SK_STORAGE_GET_F_CREATE);

	if (!storage) {
		log_error(0, "connect: no memory for the storage");
		return 0;
	}
	storage->connect_ns = bpf_ktime_get_ns();
	storage->direction = DIRECTION_OUTBOUND;
	storage->has_encoded = 0;
	__builtin_memset(&storage->tuple, 0, sizeof(storage->tuple));
	return storage;
}

PROGRAM("cgroup/connect4")
int connect4_prog(struct bpf_sock_addr *addr)
{
	struct bpf_sock *sk = addr->sk;
	struct sock_storage *storage;

	if (!sk || addr->protocol != PROTOCOL_TCP)
		return 1;
	storage = begin_connect(sk);
	if (!storage)
		return 1;
	storage->tuple.ipv4.daddr = addr->user_ip4;
	storage->tuple.ipv4.dport = (__u16)addr->user_port;
	return 1;
}

PROGRAM("cgroup/connect6")
int connect6_prog(struct bpf_sock_addr *addr)
{
	struct bpf_sock *sk = addr->sk;
	struct sock_storage *storage;
	__be32 ip6[4];

	if (!sk || addr->protocol != PROTOCOL_TCP)
		return 1;
	storage = begin_connect(sk);
	if (!storage)
		return 1;
	READ_IP6(ip6, addr->user_ip6);
	if (is_mapped_ip6(ip6)) {
		storage->tuple.ipv4.daddr = ip6[3];
		storage->tuple.ipv4.dport = (__u16)addr->user_port;
	} else {
		READ_IP6(storage->tuple.ipv6.daddr, ip6);
		storage->tuple.ipv6.dport = (__u16)addr->user_port;
	}
	return 1;
}

LICENSE("Dual BSD/GPL");
