/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which addresses are managed. A host enrols or removes its own address by a
 * connect() to the control address; the SYN need not go anywhere.
 */
#pragma once

#include "address.h"
#include "log.h"

#define CONTROL_ADDRESS bpf_htonl(2) /* 0.0.0.2, and the last word of ::2 */
#define CONTROL_PORT_ENROL 929
#define CONTROL_PORT_REMOVE 930

static __always_inline void local_key(struct bpf_sock_ops *skops, struct managed_key *key)
{
	if (is_ipv4(skops))
		key->ip4 = skops->local_ip4;
	else
		READ_IP6(key->ip6, skops->local_ip6);
}

/* Managed is: present, and with value 0. */
static __always_inline int is_managed(struct bpf_sock_ops *skops)
{
	struct managed_key key = {};
	__u32 *value;

	local_key(skops, &key);
	value = managed_lookup(&key);
	return value && *value == 0;
}

static __always_inline int is_to_control_address(struct bpf_sock_ops *skops)
{
	__be32 remote[4];

	if (is_ipv4(skops))
		return skops->remote_ip4 == CONTROL_ADDRESS;
	READ_IP6(remote, skops->remote_ip6);
	return remote[0] == 0 && remote[1] == 0 && remote[2] == 0 && remote[3] == CONTROL_ADDRESS;
}

static __always_inline void handle_control_connect(struct bpf_sock_ops *skops)
{
	struct managed_key key = {};
	__u16 port;
	long err;

	if (!is_to_control_address(skops))
		return;
	local_key(skops, &key);
	port = remote_port(skops, PORTS_HOST);
	if (port == CONTROL_PORT_ENROL) {
		err = managed_add(&key);
		if (err)
			log_error(err, "enrol: the managed map was not updated");
	} else if (port == CONTROL_PORT_REMOVE) {
		managed_remove(&key); /* absent already is no error */
	}
}
