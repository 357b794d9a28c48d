// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Sends a client's connect() somewhere else than it asked for: what a mesh does
 * with a service's address, and with a server behind a waypoint.
 *
 * Attached to the parent of the cgroup that the program under test is attached
 * to, it runs last: a connect hook there has seen the address asked for.
 */
#include "loader.h"
#include "address.h"
#include "redirect_maps.h"

/*
 * Before Linux 5.14 user space cannot ask for a namespace's cookie. So it
 * connects a datagram socket, which sends nothing, and is told it here.
 */
static __always_inline void tell_namespace(struct bpf_sock_addr *addr)
{
	__u64 cookie = bpf_get_socket_cookie(addr);
	__u64 *asked = namespace_lookup(&cookie);

	if (asked)
		*asked = bpf_get_netns_cookie(addr);
}

/* Who knows a socket by its cookie alone learns here what it asked for. */
static __always_inline int tell_redirect(struct bpf_sock_addr *addr,
					 const struct endpoint *asked_for,
					 const struct endpoint *to)
{
	struct redirect_event *event = redirect_reserve();

	if (!event)
		return 0;
	event->time_ns = bpf_ktime_get_ns();
	event->cookie = bpf_get_socket_cookie(addr);
	event->asked_for = *asked_for;
	event->to = *to;
	redirect_submit(event);
	return 1;
}

static __always_inline struct redirection *find_redirection(struct bpf_sock_addr *addr,
							    struct endpoint *asked_for)
{
	struct redirection *found;

	if (addr->protocol != PROTOCOL_TCP) {
		tell_namespace(addr);
		return 0;
	}
	asked_for->port = (__u16)addr->user_port;
	found = redirection_lookup(asked_for);
	return found && found->spared != bpf_get_netns_cookie(addr) ? found : 0;
}

/* EPERM where it cannot be told: a connect() that nobody knows of would be worse. */
PROGRAM("cgroup/connect4")
int redirect4(struct bpf_sock_addr *addr)
{
	struct endpoint asked_for = {};
	struct redirection *found;

	asked_for.ip6[2] = MAPPED_WORD;
	asked_for.ip6[3] = addr->user_ip4;
	found = find_redirection(addr, &asked_for);
	if (!found)
		return 1;
	addr->user_ip4 = found->to.ip6[3];
	addr->user_port = found->to.port;
	return tell_redirect(addr, &asked_for, &found->to);
}

PROGRAM("cgroup/connect6")
int redirect6(struct bpf_sock_addr *addr)
{
	struct endpoint asked_for = {};
	struct redirection *found;

	READ_IP6(asked_for.ip6, addr->user_ip6);
	found = find_redirection(addr, &asked_for);
	if (!found)
		return 1;
	/* word by word, as in READ_IP6 */
	*(volatile __be32 *)&addr->user_ip6[0] = found->to.ip6[0];
	*(volatile __be32 *)&addr->user_ip6[1] = found->to.ip6[1];
	*(volatile __be32 *)&addr->user_ip6[2] = found->to.ip6[2];
	*(volatile __be32 *)&addr->user_ip6[3] = found->to.ip6[3];
	addr->user_port = found->to.port;
	return tell_redirect(addr, &asked_for, &found->to);
}

LICENSE("Dual BSD/GPL");
