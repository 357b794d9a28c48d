/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What user space sets, where the era lets it set anything. */
#pragma once

#include "era.h"

#ifdef CONFIG_MAP
ARRAY_MAP(CONFIG_MAP, BPF_MAP_TYPE_ARRAY, struct kmesh_config);
#endif
#ifdef CONFIG_GLOBALS
volatile __u32 enable_monitoring = 1;
#endif

static __always_inline int is_monitored(void)
{
#ifdef CONFIG_MAP
	int first = 0;
	struct kmesh_config *config = bpf_map_lookup_elem(&CONFIG_MAP, &first);

	return config && config->enable_monitoring == 1;
#elif defined(CONFIG_GLOBALS)
	return enable_monitoring == 1;
#else
	return 1;
#endif
}
