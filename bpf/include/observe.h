/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Records of what a managed connection did: one when established, one when closed. */
#pragma once

#include "address.h"
#include "log.h"

static __always_inline void fill_addresses(struct bpf_sock_ops *skops, struct sock_storage *storage,
					   struct observe_record *record)
{
	int ipv4 = is_ipv4(skops);

	record->type = ipv4 ? ADDRESS_IPV4 : ADDRESS_IPV6;
	tuple_client_to_server(skops, storage->direction, &record->tuple);
	if (storage->direction != DIRECTION_OUTBOUND)
		return;
	if (ipv4) {
		record->orig_dst.ipv4.addr = storage->tuple.ipv4.daddr;
		record->orig_dst.ipv4.port = bpf_ntohs(storage->tuple.ipv4.dport);
	} else {
		READ_IP6(record->orig_dst.ipv6.addr, storage->tuple.ipv6.daddr);
		record->orig_dst.ipv6.port = bpf_ntohs(storage->tuple.ipv6.dport);
	}
}

static __always_inline void fill_figures(struct bpf_tcp_sock *tcp, struct observe_record *record)
{
	record->sent_bytes = (__u32)tcp->bytes_acked;
	record->received_bytes = (__u32)tcp->bytes_received;
	record->srtt_us = tcp->srtt_us;
	record->rtt_min = tcp->rtt_min;
	record->total_retrans = tcp->total_retrans;
	record->lost_out = tcp->lost_out;
}

static __always_inline void report(struct bpf_sock_ops *skops, struct bpf_sock *sk,
				   struct sock_storage *storage, __u32 state)
{
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);
	struct config config = {};
	struct observe_record *record;

	config_read(&config);
	if (!config.enable_monitoring)
		return;
	if (!tcp) {
		log_error(0, "observe: not a TCP socket");
		return;
	}
	record = observe_reserve();
	if (!record)
		return; /* the ring is full: a log event would only say it again */
	__builtin_memset(record, 0, sizeof(*record));
	storage->last_report_ns = bpf_ktime_get_ns();
	fill_addresses(skops, storage, record);
	fill_figures(tcp, record);
	record->conn_success = storage->connect_success;
	record->direction = storage->direction;
	record->state = state;
	record->start_ns = storage->connect_ns;
	record->last_report_ns = storage->last_report_ns;
	record->duration = storage->last_report_ns - storage->connect_ns;
	record->protocol = PROTOCOL_TCP;
	observe_submit(record);
}

/* The connect hook made the storage of a client before its SYN. */
static __always_inline struct sock_storage *observe_outbound(struct bpf_sock_ops *skops,
							     struct bpf_sock *sk)
{
	struct sock_storage *storage = storage_of(sk, 0);

	if (!storage) {
		log_error(0, "observe: an outbound socket without storage");
		return 0;
	}
	storage->direction = DIRECTION_OUTBOUND;
	storage->connect_success = 1;
	report(skops, sk, storage, BPF_TCP_ESTABLISHED);
	return storage;
}

static __always_inline void observe_inbound(struct bpf_sock_ops *skops, struct bpf_sock *sk)
{
	struct sock_storage *storage = storage_of(sk, BPF_SK_STORAGE_GET_F_CREATE);

	if (!storage) {
		log_error(0, "observe: no memory for the storage of an inbound socket");
		return;
	}
	storage->direction = DIRECTION_INBOUND;
	storage->connect_success = 1;
	storage->connect_ns = bpf_ktime_get_ns();
	report(skops, sk, storage, BPF_TCP_ESTABLISHED);
}

/*
 * Returns the direction of the connection that ended, 0 where none did: a socket
 * whose next connect() failed comes by here too, with its flag still set.
 */
static __always_inline __u32 observe_close(struct bpf_sock_ops *skops, struct bpf_sock *sk)
{
	struct sock_storage *storage = storage_of(sk, 0);

	if (!storage || !storage->connect_success)
		return 0;
	report(skops, sk, storage, BPF_TCP_CLOSE);
	storage->connect_success = 0;
	return storage->direction;
}
