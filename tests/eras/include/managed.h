/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which addresses are managed, and the control address that makes them so. */
#pragma once

#include "journal.h"

#define PORT_ENROL 929
#define PORT_REMOVE 930
#define PORT_BYPASS 931
#define PORT_NO_BYPASS 932

HASH_MAP(MANAGED_MAP, MANAGED_KEY, MANAGED_VALUE, 8192, HASH_FLAGS);

#ifdef MANAGED_BY_PRESENCE
#define ENROL_FLAGS BPF_NOEXIST
#else
#define ENROL_FLAGS BPF_ANY
#endif

static __always_inline void local_key(struct bpf_sock_ops *skops, MANAGED_KEY *key)
{
	__builtin_memset(key, 0, sizeof(*key));
#ifdef HAS_IPV6
	if (is_ipv4(skops))
		key->addr.ip4 = skops->local_ip4;
	else
		READ_IP6(key->addr.ip6, skops->local_ip6);
#else
	*key = skops->local_ip4;
#endif
}

static __always_inline int is_managed(struct bpf_sock_ops *skops)
{
	MANAGED_KEY key;
	__u32 *value;

	local_key(skops, &key);
	value = bpf_map_lookup_elem(&MANAGED_MAP, &key);
#ifdef MANAGED_BY_PRESENCE
	return value != 0;
#else
	return value && *value == 0;
#endif
}

static __always_inline int is_to_control_address(struct bpf_sock_ops *skops)
{
	__be32 remote[4];

	if (is_ipv4(skops))
		return skops->remote_ip4 == bpf_htonl(CONTROL_ADDRESS);
	READ_IP6(remote, skops->remote_ip6);
	return remote[0] == 0 && remote[1] == 0 && remote[2] == 0 &&
	       remote[3] == bpf_htonl(CONTROL_ADDRESS);
}

static __always_inline void set_managed(const MANAGED_KEY *key, __u32 value, __u64 flags)
{
	long err = bpf_map_update_elem(&MANAGED_MAP, key, &value, flags);

	/* an entry that is there already, or one that is not, is as it should be */
	if (err && flags == BPF_ANY)
		log_error(err, "control: the managed map was not updated");
}

static __always_inline void handle_control_connect(struct bpf_sock_ops *skops)
{
	MANAGED_KEY key;

	local_key(skops, &key);
	switch (remote_port(skops, PORTS_HOST)) {
	case PORT_ENROL:
		set_managed(&key, 0, ENROL_FLAGS);
		break;
	case PORT_REMOVE:
		bpf_map_delete_elem(&MANAGED_MAP, &key); /* absent already is no error */
		break;
#ifdef HAS_BYPASS_PORTS
	case PORT_BYPASS:
		set_managed(&key, 1, BPF_EXIST);
		break;
	case PORT_NO_BYPASS:
		set_managed(&key, 0, BPF_EXIST);
		break;
#endif
	}
}
