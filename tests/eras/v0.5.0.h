/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Kmesh v0.5.0, workload mode: as v0.4.1, but for the order of the record's
 * fields, plain values of the managed map, and maps of policies.
 */
#pragma once

#define LICENSE_TEXT "Dual BSD/GPL"
#define SOCKOPS_PROGRAM sockops_prog
#define SENDMSG_PROGRAM sendmsg_prog

#define HAS_IPV6
#define CONTROL_ADDRESS 2 /* 0.0.0.2 and ::2 */

#define HASH_FLAGS BPF_F_NO_PREALLOC

#define MANAGED_MAP kmesh_manage
#define MANAGED_KEY struct manager_key /* 16 bytes */
#define MANAGED_VALUE __u32

#define STORAGE_MAP map_of_sock_storage
struct sock_storage_data {
	__u64 connect_ns;
	__u8 direction;
	__u8 connect_success;
};
LAYOUT(struct sock_storage_data, 16);

#define SOCKHASH_MAP map_of_kmesh_socket
#define ORIG_DST_MAP map_of_dst_info
#define ORIG_DST_KEY_SIZE 8 /* the socket's address in the kernel */

#define AUTH_REQUESTS_MAP map_of_tuple
#define AUTH_RESULTS_MAP map_of_auth
#define AUTH_PORTS PORTS_NETWORK

#define OBSERVE_MAP map_of_tcp_info
#define OBSERVE_BYTES 4096
struct tcp_probe_info {
	__u32 type;
	struct bpf_sock_tuple tuple;
	__u32 sent_bytes;
	__u32 received_bytes;
	__u32 conn_success;
	__u32 direction;
	__u64 duration;
	__u64 close_ns;
	__u32 state;
	__u32 protocol;
	__u32 srtt_us;
	__u32 rtt_min;
	__u32 mss_cache;
	__u32 total_retrans;
	__u32 segs_in;
	__u32 segs_out;
	__u32 lost_out;
};
LAYOUT(struct tcp_probe_info, 112);
OFFSET(struct tcp_probe_info, sent_bytes, 40);
OFFSET(struct tcp_probe_info, duration, 56);
OFFSET(struct tcp_probe_info, state, 72);
OFFSET(struct tcp_probe_info, srtt_us, 80);
OFFSET(struct tcp_probe_info, lost_out, 104);

#define LOG_LEVEL_MAP bpf_log_level
#define LOG_MAP kmesh_events
#define HAS_LOG_BUFFERS

#define TAIL_CALL_MAP map_of_tail_call_prog
#define TAIL_CALL_ENTRIES 4

#define HAS_POLICY_MAPS /* outer_map, which does not say what is in it, inner_map,                 \
			   map_of_wl_policy */
