/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Errors for user space: what failed, and the code that the kernel answered.
 * Errors are told at every bpf_log_level; nothing else is logged here.
 */
#pragma once

#include "maps.h"

#define log_error(code, text)                                                                      \
	do {                                                                                       \
		struct log_event *event_ = log_reserve();                                          \
                                                                                                   \
		if (event_) {                                                                      \
			__builtin_memset(event_, 0, sizeof(*event_));                              \
			__builtin_memcpy(event_->msg, text, sizeof(text));                         \
			event_->ret = (code);                                                      \
			log_submit(event_);                                                        \
		}                                                                                  \
	} while (0)
