// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The states: every change of a TCP socket's state, as the kernel makes it, in
 * the network namespaces that user space names. For libbpf alone, as the types
 * below are found in the running kernel (CO-RE).
 *
 * Two programs, of which one is used: bpf_get_socket_cookie() is open to them
 * since Linux 5.12, and gives a cookie to a socket that has none yet. Before
 * that, a socket has one once somebody has asked for it.
 */
#include "loader.h"

#define KERNEL_TYPE __attribute__((preserve_access_index))

struct ns_common {
	unsigned int inum;
} KERNEL_TYPE;

struct net {
	struct ns_common ns;
} KERNEL_TYPE;

typedef struct {
	struct net *net;
} KERNEL_TYPE possible_net_t;

typedef struct {
	__s64 counter;
} KERNEL_TYPE atomic64_t;

struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} in6_u;
} KERNEL_TYPE;

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
} KERNEL_TYPE;

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
} KERNEL_TYPE;

/* IP addresses in network order, ports in host order. */
struct state_change {
	__u64 time_ns; /* bpf_ktime_get_ns() */
	__u64 cookie;  /* 0: none yet */
	__u32 netns;   /* the namespace's inode number */
	__u8 old_state;
	__u8 new_state;
	__u16 family;
	__u16 local_port;
	__u16 remote_port;
	__u32 unused;
	__be32 local_ip[4]; /* IPv4: the first word */
	__be32 remote_ip[4];
};

_Static_assert(sizeof(struct state_change) == 64, "user space reads 64 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1024 * 1024);
} state_changes SEC(".maps");

/* The namespaces to be watched, by inode number. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} state_netns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} states_lost SEC(".maps");

static __always_inline void count_lost(void)
{
	__u32 first = 0;
	__u64 *lost = bpf_map_lookup_elem(&states_lost, &first);

	if (lost)
		__sync_fetch_and_add(lost, 1);
}

/* A change that is to be recorded has its record; none for any other. */
static __always_inline struct state_change *begin(struct sock *sk)
{
	__u32 netns = sk->__sk_common.skc_net.net->ns.inum;
	struct state_change *change;

	if (sk->sk_protocol != PROTOCOL_TCP || !bpf_map_lookup_elem(&state_netns, &netns))
		return 0;
	change = bpf_ringbuf_reserve(&state_changes, sizeof(*change), 0);
	if (!change) {
		count_lost();
		return 0;
	}
	__builtin_memset(change, 0, sizeof(*change));
	change->netns = netns;
	return change;
}

static __always_inline void describe(struct state_change *change, struct sock *sk, __u64 old_state,
				     __u64 new_state)
{
	change->time_ns = bpf_ktime_get_ns();
	change->old_state = (__u8)old_state;
	change->new_state = (__u8)new_state;
	change->family = sk->__sk_common.skc_family;
	change->local_port = sk->__sk_common.skc_num;
	change->remote_port = bpf_ntohs(sk->__sk_common.skc_dport);
	if (change->family == FAMILY_IPV6) {
		for (int word = 0; word < 4; word++) {
			change->local_ip[word] =
			    sk->__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[word];
			change->remote_ip[word] =
			    sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[word];
		}
	} else {
		change->local_ip[0] = sk->__sk_common.skc_rcv_saddr;
		change->remote_ip[0] = sk->__sk_common.skc_daddr;
	}
}

/* Arguments of the tracepoint: the socket, the old state, the new one. */
PROGRAM("tp_btf/inet_sock_set_state")
int states(__u64 *args)
{
	struct sock *sk = (struct sock *)args[0];
	struct state_change *change = begin(sk);

	if (!change)
		return 0;
	describe(change, sk, args[1], args[2]);
	change->cookie = bpf_get_socket_cookie(sk);
	bpf_ringbuf_submit(change, 0);
	return 0;
}

PROGRAM("tp_btf/inet_sock_set_state")
int states_before_5_12(__u64 *args)
{
	struct sock *sk = (struct sock *)args[0];
	struct state_change *change = begin(sk);

	if (!change)
		return 0;
	describe(change, sk, args[1], args[2]);
	change->cookie = (__u64)sk->__sk_common.skc_cookie.counter;
	bpf_ringbuf_submit(change, 0);
	return 0;
}

LICENSE("Dual BSD/GPL");
