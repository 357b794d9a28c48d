// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The gate: passes, drops, holds, duplicates or corrupts the TCP segments that
 * the rules name. tc ingress, at the end of a link where a segment arrives:
 * packet sockets have seen it cross the wire by then.
 *
 * A held segment goes to user space whole, and later comes once more, from
 * where it came. Then its source is a group's address, which no other frame's
 * may be: it is let pass, and the source is as it was.
 */
#include "loader.h"
#include "gate_maps.h"

#ifndef BPF_F_INGRESS
#define BPF_F_INGRESS 1
#endif
#define VERDICT_NEXT (-1) /* TC_ACT_UNSPEC, TCX_NEXT: as if we were not there */
#define VERDICT_DROP 2
#define VERDICT_STOLEN 4

#define ETHERNET_SIZE 14
#define SOURCE_AT 6
#define GROUP_BIT 1
#define IPV4_SIZE 20
#define IPV6_SIZE 40
#define TCP_SIZE 20
#define TCP_CHECKSUM_AT 16
#define COPY_MARK 0x6761746d /* of a copy that we made: nobody else's marks cross namespaces */

enum gate_failed {
	FAILED_EVENT, /* the ring was full */
	FAILED_ACTION,
};

struct place {
	__u32 tcp;
	__u32 end; /* behind the last byte of the segment */
};

static __always_inline void failed(enum gate_failed which)
{
	__u64 *count = gate_failure(which);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline __u32 big16(const __u8 *at)
{
	return at[0] << 8 | at[1];
}

static __always_inline __u32 big32(const __u8 *at)
{
	return (__u32)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3];
}

/* Where TCP begins and the packet ends; 0 where there is no TCP, or not its beginning. */
static __always_inline int read_ipv4(struct __sk_buff *skb, struct gate_event *event,
				     struct place *place)
{
	__u8 ip[IPV4_SIZE];

	if (bpf_skb_load_bytes(skb, ETHERNET_SIZE, ip, sizeof(ip)))
		return 0;
	if (ip[9] != PROTOCOL_TCP || big16(ip + 6) & 0x1fff)
		return 0;
	event->version = 4;
	__builtin_memcpy(event->source, ip + 12, 4);
	__builtin_memcpy(event->destination, ip + 16, 4);
	place->tcp = ETHERNET_SIZE + (ip[0] & 0xf) * 4;
	place->end = big16(ip + 2) ? ETHERNET_SIZE + big16(ip + 2) : skb->len;
	return 1;
}

static __always_inline int read_ipv6(struct __sk_buff *skb, struct gate_event *event,
				     struct place *place)
{
	__u8 ip[IPV6_SIZE];

	if (bpf_skb_load_bytes(skb, ETHERNET_SIZE, ip, sizeof(ip)))
		return 0;
	if (ip[6] != PROTOCOL_TCP)
		return 0;
	event->version = 6;
	__builtin_memcpy(event->source, ip + 8, 16);
	__builtin_memcpy(event->destination, ip + 24, 16);
	place->tcp = ETHERNET_SIZE + IPV6_SIZE;
	place->end = big16(ip + 4) ? place->tcp + big16(ip + 4) : skb->len;
	return 1;
}

static __always_inline int read_tcp(struct __sk_buff *skb, struct gate_event *event,
				    struct place *place)
{
	__u8 tcp[TCP_SIZE];
	__u32 payload_at;

	if (bpf_skb_load_bytes(skb, place->tcp, tcp, sizeof(tcp)))
		return 0;
	payload_at = place->tcp + (tcp[12] >> 4) * 4;
	if (payload_at > place->end || place->end > skb->len)
		return 0;
	event->source_port = big16(tcp);
	event->destination_port = big16(tcp + 2);
	event->seq = big32(tcp + 4);
	event->ack = big32(tcp + 8);
	event->flags = tcp[13];
	event->payload = place->end - payload_at;
	return 1;
}

static __always_inline int fits(const struct gate_rule *rule, const struct gate_event *event)
{
	if (rule->ifindex[0] != event->ifindex && rule->ifindex[1] != event->ifindex)
		return 0;
	if ((event->flags & rule->flags_mask) != rule->flags_value)
		return 0;
	if (rule->payload == GATE_WITH_PAYLOAD && !event->payload)
		return 0;
	if (rule->payload == GATE_WITHOUT_PAYLOAD && event->payload)
		return 0;
	return !rule->port || rule->port == event->source_port ||
	       rule->port == event->destination_port;
}

/* The action of a rule that fits, or GATE_OFF: it is another's turn, or the rule is gone by now. */
static __always_inline __u8 count(struct gate_rule *rule, __u32 id, int slot,
				  struct gate_event *event)
{
	struct gate_count *counted = gate_count(slot);
	__u8 action = GATE_OFF;

	if (!counted)
		return GATE_OFF;
	bpf_spin_lock(&counted->lock);
	if (rule->id == id)
		action = rule->action;
	if (action != GATE_OFF) {
		counted->seen += 1;
		event->seen = counted->seen;
		if (rule->nth && rule->nth != event->seen)
			action = GATE_OFF;
		else
			counted->taken += 1;
	}
	bpf_spin_unlock(&counted->lock);
	return action;
}

/* The action of the first rule that is to act on a segment. */
static __always_inline __u8 decide(struct gate_event *event)
{
	for (int slot = 0; slot < GATE_RULES; slot++) {
		struct gate_rule *rule = gate_rule(slot);
		__u8 action;

		if (!rule || rule->action == GATE_OFF)
			continue;
		event->id = *(volatile __u32 *)&rule->id;
		if (!fits(rule, event))
			continue;
		action = count(rule, event->id, slot, event);
		if (action != GATE_OFF)
			return action;
	}
	return GATE_OFF;
}

static __always_inline int report(const struct gate_event *event)
{
	struct gate_event *record = gate_reserve_event();

	if (!record) {
		failed(FAILED_EVENT);
		return 0;
	}
	*record = *event;
	gate_submit(record);
	return 1;
}

/* `room` is what the record has for the frame: a constant, once this is a part of its caller. */
static __always_inline int keep(struct __sk_buff *skb, struct gate_event *event, void *record,
				__u64 room)
{
	__u64 size = skb->len;

	if (!record)
		return 0;
	*(struct gate_event *)record = *event;
	FENCE(size);
	if (size < ETHERNET_SIZE)
		goto discard;
	FENCE(size);
	if (size > room)
		goto discard;
	if (bpf_skb_load_bytes(skb, 0, record + sizeof(*event), size))
		goto discard;
	gate_submit(record);
	return 1;
discard:
	gate_discard(record);
	return 0;
}

static __always_inline int hold(struct __sk_buff *skb, struct gate_event *event)
{
	event->frame_size = skb->len;
	event->gso_size = skb->gso_size;
	if (skb->len <= GATE_SMALL)
		return keep(skb, event, gate_reserve_small(), GATE_SMALL);
	if (skb->len <= GATE_MIDDLE)
		return keep(skb, event, gate_reserve_middle(), GATE_MIDDLE);
	if (skb->len <= GATE_LARGE)
		return keep(skb, event, gate_reserve_large(), GATE_LARGE);
	return keep(skb, event, gate_reserve_huge(), GATE_HUGE);
}

/* The copy arrives behind it. */
static __always_inline void duplicate(struct __sk_buff *skb)
{
	__u32 mark = skb->mark;

	skb->mark = COPY_MARK;
	if (bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS))
		failed(FAILED_ACTION);
	skb->mark = mark;
}

/* Inverts the last byte of the payload; without any, bits of the checksum. TCP's sum never bears
 * it. */
static __always_inline void corrupt(struct __sk_buff *skb, const struct gate_event *event,
				    const struct place *place)
{
	__u32 at = event->payload ? place->end - 1 : place->tcp + TCP_CHECKSUM_AT;
	__u8 byte;

	if (bpf_skb_load_bytes(skb, at, &byte, sizeof(byte))) {
		failed(FAILED_ACTION);
		return;
	}
	byte ^= event->payload ? 0xff : 0x55;
	if (bpf_skb_store_bytes(skb, at, &byte, sizeof(byte), 0))
		failed(FAILED_ACTION);
}

static __always_inline int released(struct __sk_buff *skb, struct gate_event *event, __u8 first)
{
	event->action = GATE_RELEASED;
	first &= ~GROUP_BIT;
	if (bpf_skb_store_bytes(skb, SOURCE_AT, &first, sizeof(first), 0))
		failed(FAILED_ACTION);
	report(event);
	return VERDICT_NEXT;
}

static __always_inline int act(struct __sk_buff *skb, struct gate_event *event,
			       const struct place *place)
{
	if (event->action == GATE_HOLD) {
		if (hold(skb, event))
			return VERDICT_STOLEN;
		failed(FAILED_EVENT);
		return VERDICT_NEXT;
	}
	if (!report(event))
		return VERDICT_NEXT;
	if (event->action == GATE_DROP)
		return VERDICT_DROP;
	if (event->action == GATE_DUPLICATE)
		duplicate(skb);
	if (event->action == GATE_CORRUPT)
		corrupt(skb, event, place);
	return VERDICT_NEXT;
}

PROGRAM("tc")
int gate(struct __sk_buff *skb)
{
	struct gate_event event;
	struct place place;
	__u8 ethernet[ETHERNET_SIZE];
	__u32 kind;

	if (skb->mark == COPY_MARK) {
		skb->mark = 0;
		return VERDICT_NEXT;
	}
	__builtin_memset(&event, 0, sizeof(event));
	event.time_ns = bpf_ktime_get_ns();
	event.ifindex = skb->ifindex;
	if (bpf_skb_load_bytes(skb, 0, ethernet, sizeof(ethernet)))
		return VERDICT_NEXT;
	kind = big16(ethernet + 12);
	if (!(kind == 0x0800 && read_ipv4(skb, &event, &place)) &&
	    !(kind == 0x86dd && read_ipv6(skb, &event, &place)))
		return VERDICT_NEXT;
	if (!read_tcp(skb, &event, &place))
		return VERDICT_NEXT;
	if (ethernet[SOURCE_AT] & GROUP_BIT)
		return released(skb, &event, ethernet[SOURCE_AT]);
	event.action = decide(&event);
	return event.action == GATE_OFF ? VERDICT_NEXT : act(skb, &event, &place);
}

LICENSE("Dual BSD/GPL");
