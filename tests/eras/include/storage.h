/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is kept with a socket. */
#pragma once

#include "era.h"

#ifdef STORAGE_MAP
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sock_storage_data);
} STORAGE_MAP SEC(".maps");

static __always_inline struct sock_storage_data *storage_of(struct bpf_sock *sk, __u64 flags)
{
	return bpf_sk_storage_get(&STORAGE_MAP, sk, 0, flags);
}
#endif
