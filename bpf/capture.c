// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The capture: copies every frame that a packet socket sees into a ring, and
 * leaves nothing to the socket itself. For libbpf alone.
 *
 * A frame goes into the smallest record that holds it, as the kernel reserves
 * records of a constant size; what is longer than the largest is cut off. One
 * ring serves the sockets of a whole process: which capture a frame is of, says
 * the program that its socket has.
 */
#include "loader.h"

#define OUTGOING 4 /* PACKET_OUTGOING of if_packet.h */
#define CAPTURES 8
#define ETHERNET_SIZE 14 /* of its header: there is no shorter frame */

enum frame_flag {
	FRAME_OUTGOING = 1,
	FRAME_TAGGED = 2, /* a device has taken the VLAN tag out of the frame */
};

struct frame {
	__u64 time_ns; /* bpf_ktime_get_ns() */
	__u32 interface;
	__u32 length;	/* on the wire */
	__u32 captured; /* bytes that follow */
	__u16 vlan_tci;
	__u8 capture;
	__u8 flags;
};

_Static_assert(sizeof(struct frame) == 24, "user space reads 24 bytes");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 * 1024 * 1024);
} capture_frames SEC(".maps");

/* Bytes of a frame that are kept, set by user space: all, or no more than 2048. */
__u32 longest = 65536;

/* By capture. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CAPTURES);
	__type(key, __u32);
	__type(value, __u64);
} capture_lost SEC(".maps");

static __always_inline void describe(struct __sk_buff *skb, __u8 capture, struct frame *frame)
{
	frame->time_ns = bpf_ktime_get_ns();
	frame->interface = skb->ifindex;
	frame->length = skb->len;
	frame->vlan_tci = (__u16)skb->vlan_tci;
	frame->capture = capture;
	frame->flags = (skb->pkt_type == OUTGOING ? FRAME_OUTGOING : 0) |
		       (skb->vlan_present ? FRAME_TAGGED : 0);
}

/* One size of a record. Returns whether there was room. */
#define COPY_INTO(size)                                                                            \
	static __always_inline int copy_into_##size(struct __sk_buff *skb, __u8 capture,           \
						    __u32 length)                                  \
	{                                                                                          \
		struct {                                                                           \
			struct frame frame;                                                        \
			__u8 data[size];                                                           \
		} *record = bpf_ringbuf_reserve(&capture_frames, sizeof(*record), 0);              \
		__u64 kept = length;                                                               \
                                                                                                   \
		if (!record)                                                                       \
			return 0;                                                                  \
		describe(skb, capture, &record->frame);                                            \
		FENCE(kept);                                                                       \
		if (kept < ETHERNET_SIZE)                                                          \
			kept = ETHERNET_SIZE;                                                      \
		FENCE(kept);                                                                       \
		if (kept > (size))                                                                 \
			kept = (size);                                                             \
		record->frame.captured =                                                           \
		    bpf_skb_load_bytes(skb, 0, record->data, kept) ? 0 : kept;                     \
		bpf_ringbuf_submit(record, 0);                                                     \
		return 1;                                                                          \
	}

COPY_INTO(128)
COPY_INTO(512)
COPY_INTO(2048)
COPY_INTO(65536)

static __always_inline int copy(struct __sk_buff *skb, __u8 capture)
{
	__u32 length = skb->len, number = capture;
	__u64 *lost;
	int done;

	if (length == 0)
		return 0;
	if (length <= 128)
		done = copy_into_128(skb, capture, length);
	else if (length <= 512)
		done = copy_into_512(skb, capture, length);
	else if (length <= 2048 || longest <= 2048)
		done = copy_into_2048(skb, capture, length);
	else
		done = copy_into_65536(skb, capture, length);
	if (!done) {
		lost = bpf_map_lookup_elem(&capture_lost, &number);
		if (lost)
			__sync_fetch_and_add(lost, 1);
	}
	return 0; /* bytes for the socket's own queue */
}

#define CAPTURE(number)                                                                            \
	PROGRAM("socket")                                                                          \
	int capture_##number(struct __sk_buff *skb)                                                \
	{                                                                                          \
		return copy(skb, number);                                                          \
	}

CAPTURE(0)
CAPTURE(1)
CAPTURE(2)
CAPTURE(3)
CAPTURE(4)
CAPTURE(5)
CAPTURE(6)
CAPTURE(7)

LICENSE("Dual BSD/GPL");
