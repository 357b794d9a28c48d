/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Program arrays of the connect programs. Nothing here calls them. */
#pragma once

#include "era.h"

#define PROGRAM_ARRAY(map)                                                                         \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_PROG_ARRAY);                                             \
		__uint(max_entries, TAIL_CALL_ENTRIES);                                            \
		__uint(key_size, sizeof(__u32));                                                   \
		__uint(value_size, sizeof(__u32));                                                 \
	} map SEC(".maps")

PROGRAM_ARRAY(TAIL_CALL_MAP);
#ifdef TAIL_CALL6_MAP
PROGRAM_ARRAY(TAIL_CALL6_MAP);
#endif
