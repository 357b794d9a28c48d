// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The sk_msg program of an era: what the client asked for, once, ahead of the first
 * payload byte.
 *
 *	01 | be32 length | address | be16 port		original destination
 *	fe | be32 0					end
 */
#include "era.h"
#include "journal.h"
#include "destination.h"

#define TLV(name, words)                                                                           \
	struct name {                                                                              \
		__u8 type;                                                                         \
		__be32 length;                                                                     \
		__be32 addr[words];                                                                \
		__be16 port;                                                                       \
		__u8 end;                                                                          \
		__be32 end_length;                                                                 \
	} __attribute__((packed))

TLV(tlv_ipv4, 1);
TLV(tlv_ipv6, 4);
LAYOUT(struct tlv_ipv4, 16);
LAYOUT(struct tlv_ipv6, 28);

#define FILL(tlv, where)                                                                           \
	do {                                                                                       \
		(tlv)->type = 0x01;                                                                \
		(tlv)->length = bpf_htonl(sizeof((tlv)->addr) + sizeof((tlv)->port));              \
		(tlv)->port = (where)->dport;                                                      \
		(tlv)->end = 0xfe;                                                                 \
		(tlv)->end_length = 0;                                                             \
	} while (0)

static __always_inline int make_room(struct sk_msg_md *msg, __u32 bytes)
{
	long err = bpf_msg_push_data(msg, 0, bytes, 0);

	if (err)
		log_error(err, "waypoint: no room for the metadata");
	return !err;
}

static __always_inline void write_ipv4(struct sk_msg_md *msg, struct bpf_sock_tuple *asked)
{
	struct tlv_ipv4 *tlv;

	if (!make_room(msg, sizeof(*tlv)))
		return;
	tlv = msg->data;
	if ((void *)(tlv + 1) > msg->data_end)
		return;
	FILL(tlv, &asked->ipv4);
	tlv->addr[0] = asked->ipv4.daddr;
}

static __always_inline int is_message_ipv4(struct sk_msg_md *msg)
{
	__be32 remote[4];

	if (msg->family == FAMILY_IPV4)
		return 1;
	READ_IP6(remote, msg->remote_ip6);
	return is_mapped_ip6(remote);
}

#ifdef HAS_IPV6
static __always_inline void write_ipv6(struct sk_msg_md *msg, struct bpf_sock_tuple *asked)
{
	struct tlv_ipv6 *tlv;

	if (!make_room(msg, sizeof(*tlv)))
		return;
	tlv = msg->data;
	if ((void *)(tlv + 1) > msg->data_end)
		return;
	FILL(tlv, &asked->ipv6);
	READ_IP6(tlv->addr, asked->ipv6.daddr);
}
#endif

PROGRAM("sk_msg")
int SENDMSG_PROGRAM(struct sk_msg_md *msg)
{
	struct bpf_sock_tuple asked = {};
	struct bpf_sock *sk = msg->sk;

	if (!sk || !take_destination(sk, &asked))
		return SK_PASS;
	if (is_message_ipv4(msg))
		write_ipv4(msg, &asked);
#ifdef HAS_IPV6
	else
		write_ipv6(msg, &asked);
#endif
	return SK_PASS;
}

LICENSE(LICENSE_TEXT);
OBJECT_VERSION;
