/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Kmesh v0.3, workload mode: IPv4 alone (v4-mapped sockets are IPv4), nothing
 * observed, nothing configured, no storage.
 */
#pragma once

#define LICENSE_TEXT "GPL"
#define SOCKOPS_PROGRAM record_tuple
#define SENDMSG_PROGRAM sendmsg

#define CONTROL_ADDRESS 1 /* 0.0.0.1 */

#define HASH_FLAGS 0

/* Managed is who is present, whatever the value; what is present is not overwritten. */
#define MANAGED_MAP kmesh_manage
#define MANAGED_BY_PRESENCE
#define MANAGED_KEY __u64 /* be32 ip4, four zero bytes */
#define MANAGED_VALUE __u32

/* Every managed client is in it: it takes the sk_msg program to know whose destination is kept. */
#define SOCKHASH_MAP map_of_kmesh_hashmap
#define SOCKHASH_FOR_ALL
#define ORIG_DST_MAP map_of_dst_info
#define ORIG_DST_KEY_SIZE 4 /* the lower half of the socket's address in the kernel */

#define AUTH_REQUESTS_MAP map_of_tuple
#define AUTH_RESULTS_MAP map_of_auth
#define AUTH_PORTS PORTS_NETWORK

#define TAIL_CALL_MAP map_of_tail_call_prog
#define TAIL_CALL_ENTRIES 4
