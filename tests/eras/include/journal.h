/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a program says what went wrong, and the level (errors are told at every one). */
#pragma once

#include "era.h"

#ifdef CONFIG_GLOBALS
volatile __u32 bpf_log_level = 2;
#endif
#ifdef LOG_LEVEL_MAP
ARRAY_MAP(LOG_LEVEL_MAP, BPF_MAP_TYPE_ARRAY, int);
#endif

#ifdef HAS_LOG_BUFFERS
struct buf {
	char data[40];
};
ARRAY_MAP(tmp_buf, BPF_MAP_TYPE_PERCPU_ARRAY, struct buf);
ARRAY_MAP(tmp_log_buf, BPF_MAP_TYPE_PERCPU_ARRAY, struct log_event);
#endif

#ifdef LOG_MAP
RING_MAP(LOG_MAP, 262144);

#define log_error(code, text)                                                                      \
	do {                                                                                       \
		struct log_event *event_ =                                                         \
		    bpf_ringbuf_reserve(&LOG_MAP, sizeof(struct log_event), 0);                    \
                                                                                                   \
		if (event_) {                                                                      \
			__builtin_memset(event_, 0, sizeof(*event_));                              \
			__builtin_memcpy(event_->msg, text, sizeof(text));                         \
			event_->ret = (code);                                                      \
			bpf_ringbuf_submit(event_, 0);                                             \
		}                                                                                  \
	} while (0)
#else
#define log_error(code, text) bpf_printk(text " (ret %ld)", (long)(code))
#endif
