/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* When a managed connection is reported; what a report is differs between eras. */
#pragma once

#include "journal.h"
#include "storage.h"

#if defined(OBSERVE_MAP)
#include "records.h"
#elif defined(METRICS_MAP)
#include "metrics.h"
#endif

#ifdef STORAGE_MAP

/* The connect program made the storage of a client before its SYN. */
static __always_inline void observe_outbound(struct bpf_sock_ops *skops, struct bpf_sock *sk)
{
	struct sock_storage_data *storage = storage_of(sk, 0);

	if (!storage) {
		log_error(0, "observe: an outbound socket without storage");
		return;
	}
	storage->direction = DIRECTION_OUTBOUND;
	storage->connect_success = 1;
	report(skops, sk, storage, BPF_TCP_ESTABLISHED);
}

static __always_inline void observe_inbound(struct bpf_sock_ops *skops, struct bpf_sock *sk)
{
	struct sock_storage_data *storage = storage_of(sk, BPF_SK_STORAGE_GET_F_CREATE);

	if (!storage) {
		log_error(0, "observe: no memory for the storage of an inbound socket");
		return;
	}
	storage->direction = DIRECTION_INBOUND;
	storage->connect_success = 1;
	storage->connect_ns = bpf_ktime_get_ns();
	report(skops, sk, storage, BPF_TCP_ESTABLISHED);
}

/* Returns whether an accepted connection ended: its verdict goes with it. */
static __always_inline int observe_close(struct bpf_sock_ops *skops, struct bpf_sock *sk)
{
	struct sock_storage_data *storage = storage_of(sk, 0);

	if (!storage || !storage->connect_success)
		return 0; /* a later connect() of the socket failed: the flag is still set */
	report(skops, sk, storage, BPF_TCP_CLOSE);
	storage->connect_success = 0;
	return storage->direction == DIRECTION_INBOUND;
}

#else

static __always_inline void observe_outbound(struct bpf_sock_ops *skops, struct bpf_sock *sk)
{
	(void)skops;
	(void)sk;
}

static __always_inline void observe_inbound(struct bpf_sock_ops *skops, struct bpf_sock *sk)
{
	(void)skops;
	(void)sk;
}

/* Nothing tells which side this is; a client has no verdict under that key. */
static __always_inline int observe_close(struct bpf_sock_ops *skops, struct bpf_sock *sk)
{
	(void)skops;
	(void)sk;
	return 1;
}

#endif
