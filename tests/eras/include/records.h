/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One record when a connection is established, one when it is closed: v0.4.1 and later. */
#pragma once

#include "destination.h"
#include "settings.h"

RING_MAP(OBSERVE_MAP, OBSERVE_BYTES);

#ifdef OBSERVE_ORIG_DST
static __always_inline void fill_destination(struct bpf_sock_ops *skops,
					     const struct bpf_sock_tuple *asked,
					     struct orig_dst_info *orig_dst)
{
	if (is_ipv4(skops)) {
		orig_dst->ipv4.addr = asked->ipv4.daddr;
		orig_dst->ipv4.port = bpf_ntohs(asked->ipv4.dport);
	} else {
		READ_IP6(orig_dst->ipv6.addr, asked->ipv6.daddr);
		orig_dst->ipv6.port = bpf_ntohs(asked->ipv6.dport);
	}
}
#endif

static __always_inline void fill_times(struct sock_storage_data *storage, __u32 state,
				       struct tcp_probe_info *record)
{
	__u64 now = bpf_ktime_get_ns();

#ifdef OBSERVE_TIMES
	(void)state;
	storage->last_report_ns = now;
	record->start_ns = storage->connect_ns;
	record->last_report_ns = now;
	record->duration = now - storage->connect_ns;
#else
	if (state != BPF_TCP_CLOSE)
		return;
	record->close_ns = now;
	record->duration = now - storage->connect_ns;
#endif
}

static __always_inline void fill_figures(struct bpf_tcp_sock *tcp, struct tcp_probe_info *record)
{
	record->sent_bytes = (__u32)tcp->bytes_acked;
	record->received_bytes = (__u32)tcp->bytes_received;
	record->srtt_us = tcp->srtt_us;
	record->rtt_min = tcp->rtt_min;
	record->total_retrans = tcp->total_retrans;
	record->lost_out = tcp->lost_out;
#ifndef OBSERVE_TIMES
	record->mss_cache = tcp->mss_cache;
	record->segs_in = tcp->segs_in;
	record->segs_out = tcp->segs_out;
#endif
}

static __always_inline void report(struct bpf_sock_ops *skops, struct bpf_sock *sk,
				   struct sock_storage_data *storage, __u32 state)
{
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);
	struct tcp_probe_info *record;

	if (!tcp || !is_monitored())
		return;
	record = bpf_ringbuf_reserve(&OBSERVE_MAP, sizeof(*record), 0);
	if (!record)
		return;
	__builtin_memset(record, 0, sizeof(*record));
	record->type = is_ipv4(skops) ? ADDRESS_IPV4 : ADDRESS_IPV6;
	tuple_client_to_server(skops, storage->direction, &record->tuple);
#ifdef STORAGE_HAS_TUPLE
	if (storage->direction == DIRECTION_OUTBOUND)
		fill_destination(skops, &storage->sk_tuple, &record->orig_dst);
#elif defined(OBSERVE_ORIG_DST)
	if (storage->direction == DIRECTION_OUTBOUND) {
		struct bpf_sock_tuple *asked = destination_of(sk);

		if (asked)
			fill_destination(skops, asked, &record->orig_dst);
	}
#endif
	fill_figures(tcp, record);
	fill_times(storage, state, record);
	record->conn_success = storage->connect_success;
	record->direction = storage->direction;
	record->state = state;
	record->protocol = PROTOCOL_TCP;
	bpf_ringbuf_submit(record, 0);
}
