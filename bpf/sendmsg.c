// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The first sendmsg() of a socket in the sockhash: writes ahead of its payload
 * the address that the client wanted, for the waypoint to read.
 *
 *	01 | be32 length | address | be16 port		original destination
 *	fe | be32 0					end
 */
#include "loader.h"
#include "address.h"
#include "log.h"

#define TLV_ORIGINAL_DESTINATION 0x01
#define TLV_END 0xfe

struct tlv_ipv4 {
	__u8 type;
	__be32 length;
	__be32 addr;
	__be16 port;
	__u8 end;
	__be32 end_length;
} __attribute__((packed));

struct tlv_ipv6 {
	__u8 type;
	__be32 length;
	__be32 addr[4];
	__be16 port;
	__u8 end;
	__be32 end_length;
} __attribute__((packed));

LAYOUT(struct tlv_ipv4, 16);
LAYOUT(struct tlv_ipv6, 28);

static __always_inline int make_room(struct sk_msg_md *msg, __u32 bytes)
{
	long err = bpf_msg_push_data(msg, 0, bytes, 0);

	if (err)
		log_error(err, "waypoint: no room for the metadata");
	return !err;
}

static __always_inline void encode_ipv4(struct sk_msg_md *msg, struct sock_storage *storage)
{
	struct tlv_ipv4 *tlv;

	if (!make_room(msg, sizeof(*tlv)))
		return;
	tlv = msg->data;
	if ((void *)(tlv + 1) > msg->data_end)
		return;
	tlv->type = TLV_ORIGINAL_DESTINATION;
	tlv->length = bpf_htonl(sizeof(tlv->addr) + sizeof(tlv->port));
	tlv->addr = storage->tuple.ipv4.daddr;
	tlv->port = storage->tuple.ipv4.dport;
	tlv->end = TLV_END;
	tlv->end_length = 0;
}

static __always_inline void encode_ipv6(struct sk_msg_md *msg, struct sock_storage *storage)
{
	struct tlv_ipv6 *tlv;

	if (!make_room(msg, sizeof(*tlv)))
		return;
	tlv = msg->data;
	if ((void *)(tlv + 1) > msg->data_end)
		return;
	tlv->type = TLV_ORIGINAL_DESTINATION;
	tlv->length = bpf_htonl(sizeof(tlv->addr) + sizeof(tlv->port));
	READ_IP6(tlv->addr, storage->tuple.ipv6.daddr);
	tlv->port = storage->tuple.ipv6.dport;
	tlv->end = TLV_END;
	tlv->end_length = 0;
}

static __always_inline int is_message_ipv4(struct sk_msg_md *msg)
{
	__be32 remote[4];

	if (msg->family == FAMILY_IPV4)
		return 1;
	READ_IP6(remote, msg->remote_ip6);
	return is_mapped_ip6(remote);
}

PROGRAM("sk_msg")
int sendmsg_prog(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	struct sock_storage *storage;

	if (!sk)
		return SK_PASS;
	storage = storage_of(sk, 0);
	if (!storage || storage->has_encoded)
		return SK_PASS;
	storage->has_encoded = 1;
	if (is_message_ipv4(msg))
		encode_ipv4(msg, storage);
	else
		encode_ipv6(msg, storage);
	return SK_PASS;
}

LICENSE("Dual BSD/GPL");
