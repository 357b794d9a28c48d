/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Kmesh v0.4.0, workload mode: metrics, a ring that says which changed, and an access log. */
#pragma once

#define LICENSE_TEXT "Dual BSD/GPL"
#define SOCKOPS_PROGRAM sockops_prog
#define SENDMSG_PROGRAM sendmsg_prog

#define HAS_IPV6
#define CONTROL_ADDRESS 2 /* 0.0.0.2 and ::2 */
#define HAS_BYPASS_PORTS  /* 931: an entry's value becomes 1; 932: 0 */

#define HASH_FLAGS BPF_F_NO_PREALLOC

#define MANAGED_MAP kmesh_manage
#define MANAGED_KEY struct manager_key /* 16 bytes */
typedef struct manager_value_t {
	__u32 is_bypassed;
} manager_value_t;
#define MANAGED_VALUE manager_value_t

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

#define METRICS_MAP map_of_metrics
#define METRIC_NOTIFY_MAP map_of_metric_notify /* records are keys of the metrics */
#define ACCESS_LOG_MAP map_of_access_log
struct metric_key {
	struct ip_addr src_ip;
	struct ip_addr dst_ip;
};
struct metric_data {
	__u32 direction;
	__u32 conn_open;
	__u32 conn_close;
	__u32 conn_failed;
	__u32 sent_bytes;
	__u32 received_bytes;
};
struct access_log {
	struct bpf_sock_tuple tuple;
	__u64 duration;
	__u64 close_ns;
	__u32 family;
	__u32 protocol;
	__u8 direction;
	__u32 sent_bytes;
	__u32 received_bytes;
	__u32 conn_success;
};
LAYOUT(struct metric_key, 32);
LAYOUT(struct metric_data, 24);
LAYOUT(struct access_log, 80);
OFFSET(struct access_log, duration, 40);
OFFSET(struct access_log, family, 56);
OFFSET(struct access_log, direction, 64);
OFFSET(struct access_log, sent_bytes, 68);

#define LOG_LEVEL_MAP bpf_log_level
#define LOG_MAP kmesh_events
#define HAS_LOG_BUFFERS

#define TAIL_CALL_MAP map_of_tail_call_prog
#define TAIL_CALL_ENTRIES 4
