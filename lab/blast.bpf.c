// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The packets of a flood, one after the other, as if they came from the cable of a network card.
 *
 * User space (blast.py) has it run by BPF_PROG_TEST_RUN with live frames: each frame is filled with
 * the next packet here, and then goes the way of all that a device receives.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define PACKETS 8192
#define OCTETS 2044

struct packet {
	__u32 length;
	__u8 octets[OCTETS];
};

struct turn {
	__u64 next;
	__u64 packets; /* how many of the map are in use */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PACKETS);
	__type(key, __u32);
	__type(value, struct packet);
} packets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct turn);
} turns SEC(".maps");

SEC("xdp")
int blast(struct xdp_md *frame)
{
	__u32 zero = 0, number, length;
	struct turn *turn = bpf_map_lookup_elem(&turns, &zero);
	struct packet *packet;

	if (!turn)
		return XDP_ABORTED;
	number = turn->next;
	turn->next = number + 1 < turn->packets ? number + 1 : 0;
	packet = bpf_map_lookup_elem(&packets, &number);
	if (!packet)
		return XDP_ABORTED;
	length = packet->length;
	if (length < 14 || length > OCTETS)
		return XDP_ABORTED;
	/* User space gives us OCTETS each time. */
	if (bpf_xdp_adjust_tail(frame, (int)length - OCTETS))
		return XDP_ABORTED;
	if (bpf_xdp_store_bytes(frame, 0, packet->octets, length))
		return XDP_ABORTED;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
