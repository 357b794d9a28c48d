/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a client asked for, before anybody sent it elsewhere: in a map whose key is
 * the socket's address in the kernel, or (since v1.1) in the socket's storage.
 * Only daddr and dport of the tuple are used; the port is in network order.
 *
 * Nothing here sends a client to a waypoint. Whose client goes to one, says user
 * space: it can where the storage holds the mark.
 */
#pragma once

#include "storage.h"
#include "journal.h"

#ifdef ORIG_DST_MAP
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, HASH_FLAGS);
#if ORIG_DST_KEY_SIZE == 4
	__type(key, __u32);
#else
	__type(key, __u64);
#endif
	__type(value, struct bpf_sock_tuple);
} ORIG_DST_MAP SEC(".maps");

/* A key of four bytes is the first half of these eight: the lower one. */
static __always_inline struct bpf_sock_tuple *destination_of(struct bpf_sock *sk)
{
	__u64 address = (__u64)sk;

	return bpf_map_lookup_elem(&ORIG_DST_MAP, &address);
}
#endif

static __always_inline void forget_destination(struct bpf_sock *sk)
{
#ifdef ORIG_DST_MAP
	__u64 address = (__u64)sk;

	bpf_map_delete_elem(&ORIG_DST_MAP, &address); /* absent where none was kept */
#else
	(void)sk; /* it goes with the socket */
#endif
}

/* Before the SYN; an earlier connect() of the socket may have left something. */
static __always_inline void keep_destination(struct bpf_sock *sk,
					     const struct bpf_sock_tuple *asked)
{
#ifdef STORAGE_HAS_TUPLE
	struct sock_storage_data *storage = storage_of(sk, 0);

	if (!storage)
		return;
	storage->last_report_ns = 0;
	storage->has_encoded = 0;
	storage->sk_tuple = *asked;
#elif defined(ORIG_DST_FOR_ALL)
	__u64 address = (__u64)sk;
	long err = bpf_map_update_elem(&ORIG_DST_MAP, &address, asked, BPF_ANY);

	if (err)
		log_error(err, "connect: the destination was not kept");
#else
	(void)sk;
	(void)asked;
#endif
}

/* Whether the sk_msg program is to see what this client sends. */
static __always_inline int is_for_sockhash(struct bpf_sock *sk)
{
#ifdef SOCKHASH_FOR_ALL
	return sk != 0;
#elif defined(STORAGE_HAS_TUPLE)
	struct sock_storage_data *storage = storage_of(sk, 0);

	return storage && storage->via_waypoint;
#elif defined(ORIG_DST_FOR_ALL)
	struct bpf_sock_tuple *kept = destination_of(sk);

	return kept && kept->ipv4.saddr;
#else
	return destination_of(sk) != 0;
#endif
}

/* Copies what is to be written ahead of the payload; 0 where nothing is, or it was taken before. */
static __always_inline int take_destination(struct bpf_sock *sk, struct bpf_sock_tuple *destination)
{
#ifdef STORAGE_HAS_TUPLE
	struct sock_storage_data *storage = storage_of(sk, 0);

	if (!storage || !storage->via_waypoint || storage->has_encoded)
		return 0;
	*destination = storage->sk_tuple;
	storage->has_encoded = 1;
#else
	struct bpf_sock_tuple *kept = destination_of(sk);

	if (!kept)
		return 0;
#ifdef ORIG_DST_FOR_ALL
	if (!kept->ipv4.saddr || kept->ipv4.sport)
		return 0;
	*destination = *kept;
	kept->ipv4.sport = 1;
#else
	*destination = *kept;
	forget_destination(sk);
#endif
#endif
	return 1;
}
