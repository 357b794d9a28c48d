// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The connect programs of an era, before a SYN: they make the socket's storage, and
 * keep what the client asked for where the era has a place for it.
 */
#include "era.h"
#include "journal.h"
#include "destination.h"
#include "policies.h"
#include "settings.h"
#include "storage.h"
#include "tail_calls.h"

static __always_inline int begin_connect(struct bpf_sock_addr *addr,
					 const struct bpf_sock_tuple *asked)
{
	struct bpf_sock *sk = addr->sk;

	if (!sk || addr->protocol != PROTOCOL_TCP)
		return 1;
#ifdef STORAGE_MAP
	struct sock_storage_data *storage = storage_of(sk, BPF_SK_STORAGE_GET_F_CREATE);

	if (!storage) {
		log_error(0, "connect: no memory for the storage");
		return 1;
	}
	storage->connect_ns = bpf_ktime_get_ns();
	storage->direction = DIRECTION_OUTBOUND;
#endif
	keep_destination(sk, asked);
	return 1;
}

PROGRAM("cgroup/connect4")
int cgroup_connect4_prog(struct bpf_sock_addr *addr)
{
	struct bpf_sock_tuple asked = {};

	asked.ipv4.daddr = addr->user_ip4;
	asked.ipv4.dport = (__u16)addr->user_port;
	return begin_connect(addr, &asked);
}

#ifdef HAS_IPV6
PROGRAM("cgroup/connect6")
int cgroup_connect6_prog(struct bpf_sock_addr *addr)
{
	struct bpf_sock_tuple asked = {};
	__be32 ip6[4];

	READ_IP6(ip6, addr->user_ip6);
	if (is_mapped_ip6(ip6)) {
		asked.ipv4.daddr = ip6[3];
		asked.ipv4.dport = (__u16)addr->user_port;
	} else {
		READ_IP6(asked.ipv6.daddr, ip6);
		asked.ipv6.dport = (__u16)addr->user_port;
	}
	return begin_connect(addr, &asked);
}
#endif

#ifdef HAS_DNS_HOOKS
PROGRAM("cgroup/sendmsg4")
int bpf_redirect_dns_send(struct bpf_sock_addr *addr)
{
	(void)addr;
	return 1;
}

PROGRAM("cgroup/recvmsg4")
int bpf_restore_dns_recv(struct bpf_sock_addr *addr)
{
	(void)addr;
	return 1;
}
#endif

LICENSE(LICENSE_TEXT);
OBJECT_VERSION;
