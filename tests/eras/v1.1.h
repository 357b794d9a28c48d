/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Kmesh v1.1 and v1.2, workload mode: the storage holds what the client asked
 * for, the configuration is in variables. Ports of verdicts are in network order.
 */
#pragma once

#define LICENSE_TEXT "Dual BSD/GPL"
#define SOCKOPS_PROGRAM sockops_prog
#define SENDMSG_PROGRAM sendmsg_prog

#define HAS_IPV6
#define CONTROL_ADDRESS 2 /* 0.0.0.2 and ::2 */

#define HASH_FLAGS BPF_F_NO_PREALLOC

#define MANAGED_MAP km_manage
#define MANAGED_KEY struct manager_key /* 16 bytes */
#define MANAGED_VALUE __u32

#define STORAGE_MAP km_sockstorage
#define STORAGE_HAS_TUPLE
struct sock_storage_data {
	__u64 connect_ns;
	__u64 last_report_ns;
	__u8 direction;
	__u8 connect_success;
	_Bool via_waypoint;
	_Bool has_encoded;
	_Bool has_set_ip;
	struct bpf_sock_tuple sk_tuple; /* what the client asked for */
};
LAYOUT(struct sock_storage_data, 64);
OFFSET(struct sock_storage_data, direction, 16);
OFFSET(struct sock_storage_data, sk_tuple, 24);

#define SOCKHASH_MAP km_socket

#define AUTH_REQUESTS_MAP km_auth_req
#define AUTH_RESULTS_MAP km_auth_res
#define AUTH_PORTS PORTS_NETWORK

#define OBSERVE_MAP km_tcp_probe
#define OBSERVE_BYTES 262144
#define OBSERVE_ORIG_DST
#define OBSERVE_TIMES
struct tcp_probe_info {
	__u32 type;
	struct bpf_sock_tuple tuple;
	struct orig_dst_info orig_dst;
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
};
LAYOUT(struct tcp_probe_info, 128);
OFFSET(struct tcp_probe_info, orig_dst, 40);
OFFSET(struct tcp_probe_info, sent_bytes, 60);
OFFSET(struct tcp_probe_info, duration, 80);
OFFSET(struct tcp_probe_info, protocol, 104);
OFFSET(struct tcp_probe_info, lost_out, 120);

#define CONFIG_GLOBALS /* variables of each object, not shared */
#define LOG_MAP km_log_event

#define TAIL_CALL_MAP km_cgr_tailcall
#define TAIL_CALL_ENTRIES 8
