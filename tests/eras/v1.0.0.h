/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Kmesh v1.0.0, workload mode: new names, records of 128 bytes that say what the
 * client asked for, and a configuration in a map, without which none is written.
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
struct sock_storage_data {
	__u64 connect_ns;
	__u8 direction;
	__u8 connect_success;
};
LAYOUT(struct sock_storage_data, 16);

#define SOCKHASH_MAP km_socket
#define ORIG_DST_MAP km_orig_dst
#define ORIG_DST_KEY_SIZE 8 /* the socket's address in the kernel */
#define ORIG_DST_FOR_ALL    /* u32@0: 1 via a waypoint; u16@8: 1 once written */

#define AUTH_REQUESTS_MAP km_auth_req
#define AUTH_RESULTS_MAP km_auth_res
#define AUTH_PORTS PORTS_NETWORK

#define OBSERVE_MAP km_tcp_probe
#define OBSERVE_BYTES 262144
#define OBSERVE_ORIG_DST
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
	__u64 close_ns;
	__u32 protocol;
	__u32 srtt_us;
	__u32 rtt_min;
	__u32 mss_cache;
	__u32 total_retrans;
	__u32 segs_in;
	__u32 segs_out;
	__u32 lost_out;
};
LAYOUT(struct tcp_probe_info, 128);
OFFSET(struct tcp_probe_info, orig_dst, 40);
OFFSET(struct tcp_probe_info, sent_bytes, 60);
OFFSET(struct tcp_probe_info, state, 76);
OFFSET(struct tcp_probe_info, duration, 80);
OFFSET(struct tcp_probe_info, protocol, 96);
OFFSET(struct tcp_probe_info, lost_out, 124);

#define CONFIG_MAP km_configmap
struct kmesh_config {
	__u32 bpf_log_level;
	__be32 node_ip[4];
	__be32 pod_gateway[4];
	__u32 authz_offload;
	__u32 enable_monitoring; /* nothing is observed until it is 1 */
};
LAYOUT(struct kmesh_config, 44);
#define LOG_MAP km_log_event

#define TAIL_CALL_MAP km_cgr_tailcall
#define TAIL_CALL_ENTRIES 8
