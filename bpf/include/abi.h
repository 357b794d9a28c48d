/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Keys, values and records: the layouts that user space relies on.
 *
 * IP addresses are in network order everywhere. Ports are in host order in what
 * user space reads (auth request, verdict key, observe record), in network
 * order in what only programs read (sockhash key, storage) and on the wire.
 */
#pragma once

#include "loader.h"

enum direction {
	DIRECTION_INBOUND = 1,
	DIRECTION_OUTBOUND = 2,
};

enum address_type {
	ADDRESS_IPV4 = 0,
	ADDRESS_IPV6 = 1,
};

/* An IPv4 key is its four bytes and twelve zero bytes. */
struct managed_key {
	union {
		__u64 netns_cookie;
		__be32 ip4;
		__be32 ip6[4];
	};
};

struct sock_storage {
	__u64 connect_ns;
	__u64 last_report_ns;
	__u8 direction;
	__u8 connect_success;
	__u8 via_waypoint;
	__u8 has_encoded;
	__u8 has_set_ip;
	__u8 unused[3];
	struct bpf_sock_tuple tuple; /* the destination that the client asked for */
	__u32 unused_tail;
};

struct auth_request {
	__u32 type; /* enum address_type */
	struct bpf_sock_tuple tuple;
};

struct original_destination {
	union {
		struct {
			__be32 addr;
			__u16 port;
		} ipv4;
		struct {
			__be32 addr[4];
			__u16 port;
		} ipv6;
	};
};

struct observe_record {
	__u32 type; /* enum address_type */
	struct bpf_sock_tuple tuple;
	struct original_destination orig_dst;
	__u32 sent_bytes;
	__u32 received_bytes;
	__u32 conn_success;
	__u32 direction;
	__u32 state;
	__u64 duration;
	__u64 start_ns;
	__u64 last_report_ns;
	__u32 protocol;
	__u32 srtt_us;
	__u32 rtt_min;
	__u32 total_retrans;
	__u32 lost_out;
	__u32 unused;
};

struct log_event {
	__u32 ret;
	char msg[255];
};

/* What user space sets. An IPv4 address sits in word 3, behind three zero words. */
struct config {
	__be32 node_ip[4];
	__be32 pod_gateway[4];
	__u32 enable_monitoring;
	__u32 bpf_log_level; /* nothing here is told at a level of its own */
};

#define LAYOUT(what, size) _Static_assert(sizeof(what) == (size), #what " is not " #size " bytes")

LAYOUT(struct bpf_sock_tuple, 36);
LAYOUT(struct managed_key, 16);
LAYOUT(struct sock_storage, 64);
LAYOUT(struct auth_request, 40);
LAYOUT(struct original_destination, 20);
LAYOUT(struct observe_record, 128);
LAYOUT(struct log_event, 260);
