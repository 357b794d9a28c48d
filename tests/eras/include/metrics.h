/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * v0.4.0: sums for each pair of addresses (of this side, then of the other), a ring
 * that says which sums changed, and a log of connections that were closed.
 */
#pragma once

#include "storage.h"

HASH_MAP(METRICS_MAP, struct metric_key, struct metric_data, 100000, BPF_F_NO_PREALLOC);
RING_MAP(METRIC_NOTIFY_MAP, 4096);
RING_MAP(ACCESS_LOG_MAP, 4096);

static __always_inline void pair_key(struct bpf_sock_ops *skops, struct metric_key *key)
{
	if (is_ipv4(skops)) {
		key->src_ip.ip4 = skops->local_ip4;
		key->dst_ip.ip4 = skops->remote_ip4;
	} else {
		READ_IP6(key->src_ip.ip6, skops->local_ip6);
		READ_IP6(key->dst_ip.ip6, skops->remote_ip6);
	}
}

static __always_inline void add_up(struct bpf_sock_ops *skops, struct bpf_tcp_sock *tcp,
				   __u32 direction, __u32 state)
{
	struct metric_data none = {.direction = direction};
	struct metric_key key = {};
	struct metric_data *data;

	pair_key(skops, &key);
	bpf_map_update_elem(&METRICS_MAP, &key, &none, BPF_NOEXIST); /* there already is no error */
	data = bpf_map_lookup_elem(&METRICS_MAP, &key);
	if (!data)
		return;
	data->direction = direction;
	if (state == BPF_TCP_ESTABLISHED) {
		__sync_fetch_and_add(&data->conn_open, 1);
	} else {
		__sync_fetch_and_add(&data->conn_close, 1);
		__sync_fetch_and_add(&data->sent_bytes, (__u32)tcp->bytes_acked);
		__sync_fetch_and_add(&data->received_bytes, (__u32)tcp->bytes_received);
	}
	bpf_ringbuf_output(&METRIC_NOTIFY_MAP, &key, sizeof(key), 0);
}

static __always_inline void log_access(struct bpf_sock_ops *skops, struct bpf_tcp_sock *tcp,
				       struct sock_storage_data *storage)
{
	struct access_log *entry = bpf_ringbuf_reserve(&ACCESS_LOG_MAP, sizeof(*entry), 0);

	if (!entry)
		return;
	__builtin_memset(entry, 0, sizeof(*entry));
	tuple_client_to_server(skops, storage->direction, &entry->tuple);
	entry->close_ns = bpf_ktime_get_ns();
	entry->duration = entry->close_ns - storage->connect_ns;
	entry->family = is_ipv4(skops) ? FAMILY_IPV4 : FAMILY_IPV6;
	entry->protocol = PROTOCOL_TCP;
	entry->direction = storage->direction;
	entry->sent_bytes = (__u32)tcp->bytes_acked;
	entry->received_bytes = (__u32)tcp->bytes_received;
	entry->conn_success = storage->connect_success;
	bpf_ringbuf_submit(entry, 0);
}

static __always_inline void report(struct bpf_sock_ops *skops, struct bpf_sock *sk,
				   struct sock_storage_data *storage, __u32 state)
{
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);

	if (!tcp)
		return;
	if (state == BPF_TCP_CLOSE)
		log_access(skops, tcp, storage);
	add_up(skops, tcp, storage->direction, state);
}
