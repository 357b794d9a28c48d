/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps, and one function for each thing that a program does with them.
 *
 * This is the only place that knows both loaders: bcc declares maps by macros
 * and rewrites method calls on them, libbpf reads the .maps section. Everything
 * else is the same text for both.
 */
#pragma once

#include "abi.h"

#define KEEP static __always_inline

#ifdef TESTBED_BCC

BPF_TABLE("hash", struct managed_key, __u32, km_manage, 8192);
BPF_SK_STORAGE(km_sockstorage, struct sock_storage);
BPF_SOCKHASH(km_socket, struct bpf_sock_tuple, 8192);
BPF_TABLE("hash", struct bpf_sock_tuple, __u32, km_auth_res, 8192);
BPF_RINGBUF_OUTPUT(km_auth_req, 1);
BPF_RINGBUF_OUTPUT(km_tcp_probe, 64);
BPF_RINGBUF_OUTPUT(km_log_event, 64);
/* bcc has no global variables: they live in an array of one. */
BPF_ARRAY(globals, struct config, 1);

KEEP __u32 *managed_lookup(struct managed_key *key)
{
	return km_manage.lookup(key);
}

KEEP long managed_add(struct managed_key *key)
{
	__u32 value = 0;

	return km_manage.update(key, &value);
}

KEEP long managed_remove(struct managed_key *key)
{
	return km_manage.delete(key);
}

KEEP struct sock_storage *storage_of(struct bpf_sock *sk, __u64 flags)
{
	return km_sockstorage.sk_storage_get(sk, 0, flags);
}

KEEP long sockhash_add(struct bpf_sock_ops *skops, struct bpf_sock_tuple *key)
{
	return km_socket.sock_hash_update(skops, key, BPF_ANY);
}

KEEP long verdict_remove(struct bpf_sock_tuple *key)
{
	return km_auth_res.delete(key);
}

KEEP struct auth_request *auth_reserve(void)
{
	return km_auth_req.ringbuf_reserve(sizeof(struct auth_request));
}

KEEP void auth_submit(struct auth_request *request)
{
	km_auth_req.ringbuf_submit(request, 0);
}

KEEP struct observe_record *observe_reserve(void)
{
	return km_tcp_probe.ringbuf_reserve(sizeof(struct observe_record));
}

KEEP void observe_submit(struct observe_record *record)
{
	km_tcp_probe.ringbuf_submit(record, 0);
}

KEEP struct log_event *log_reserve(void)
{
	return km_log_event.ringbuf_reserve(sizeof(struct log_event));
}

KEEP void log_submit(struct log_event *event)
{
	km_log_event.ringbuf_submit(event, 0);
}

KEEP void config_read(struct config *config)
{
	int first = 0;
	struct config *found = globals.lookup(&first);

	if (found)
		*config = *found;
}

#else

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct managed_key);
	__type(value, __u32);
} km_manage SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sock_storage);
} km_sockstorage SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 8192);
	__type(key, struct bpf_sock_tuple);
	__type(value, __u32);
} km_socket SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct bpf_sock_tuple);
	__type(value, __u32);
} km_auth_res SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} km_auth_req SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} km_tcp_probe SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} km_log_event SEC(".maps");

volatile __be32 node_ip[4];
volatile __be32 pod_gateway[4];
volatile __u32 enable_monitoring = 1;
volatile __u32 bpf_log_level = 2;

KEEP __u32 *managed_lookup(struct managed_key *key)
{
	return bpf_map_lookup_elem(&km_manage, key);
}

KEEP long managed_add(struct managed_key *key)
{
	__u32 value = 0;

	return bpf_map_update_elem(&km_manage, key, &value, BPF_ANY);
}

KEEP long managed_remove(struct managed_key *key)
{
	return bpf_map_delete_elem(&km_manage, key);
}

KEEP struct sock_storage *storage_of(struct bpf_sock *sk, __u64 flags)
{
	return bpf_sk_storage_get(&km_sockstorage, sk, 0, flags);
}

KEEP long sockhash_add(struct bpf_sock_ops *skops, struct bpf_sock_tuple *key)
{
	return bpf_sock_hash_update(skops, &km_socket, key, BPF_ANY);
}

KEEP long verdict_remove(struct bpf_sock_tuple *key)
{
	return bpf_map_delete_elem(&km_auth_res, key);
}

KEEP struct auth_request *auth_reserve(void)
{
	return bpf_ringbuf_reserve(&km_auth_req, sizeof(struct auth_request), 0);
}

KEEP void auth_submit(struct auth_request *request)
{
	bpf_ringbuf_submit(request, 0);
}

KEEP struct observe_record *observe_reserve(void)
{
	return bpf_ringbuf_reserve(&km_tcp_probe, sizeof(struct observe_record), 0);
}

KEEP void observe_submit(struct observe_record *record)
{
	bpf_ringbuf_submit(record, 0);
}

KEEP struct log_event *log_reserve(void)
{
	return bpf_ringbuf_reserve(&km_log_event, sizeof(struct log_event), 0);
}

KEEP void log_submit(struct log_event *event)
{
	bpf_ringbuf_submit(event, 0);
}

KEEP void config_read(struct config *config)
{
	for (int word = 0; word < 4; word++) {
		config->node_ip[word] = node_ip[word];
		config->pod_gateway[word] = pod_gateway[word];
	}
	config->enable_monitoring = enable_monitoring;
}

#endif
