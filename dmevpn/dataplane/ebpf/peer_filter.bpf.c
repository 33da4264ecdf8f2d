// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * How many packets each peer may send to a control interface: a filter on its raw GRE sockets.
 *
 * It runs before a packet is queued, so what exceeds a limit costs neither room in the receive
 * buffer nor a turn of the daemon. Peers that user space knows (whoever is registered, and servers)
 * have a budget each. Every other source has one, too, and all of those together have one more:
 * senders can be forged, and then there are as many sources as packets.
 *
 * Budgets are kept as theoretical arrival times (GCRA). Two processors may read one at the same
 * time and let one packet too many pass, which does no harm.
 *
 * The layouts are mirrored in peer_filter.py. CAP_BPF is enough to load it; for the rules that
 * follow from it see hub_switch.bpf.c: the stack is written in words of 64 bits.
 */
#include <stddef.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define NHRP 0x2001 /* GRE protocol type */
/* Peers with a budget of their own. What is not in use takes no memory. */
#define MAX_KNOWN 131072
/* Other sources whose budgets are remembered; the one longest silent makes room. */
#define MAX_STRANGERS 16384
/* Sources of which user space can tell how much was dropped. */
#define MAX_OFFENDERS 256

/* IPv4 addresses are written as ::ffff:a.b.c.d. */
struct address {
	__u64 words[2];
};

struct limits {
	__u64 gap;   /* ns between two packets of one source; 0: no limits at all */
	__u64 burst; /* ns of them that may be due at once */
	__u64 strangers_gap;
	__u64 strangers_burst;
};

enum reason { PEER, STRANGER, STRANGERS, REASONS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct limits);
} limits SEC(".maps");

/* Theoretical arrival times by source; the keys of this one are user space's. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_KNOWN);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, __u64);
} known SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_STRANGERS);
	__type(key, struct address);
	__type(value, __u64);
} strangers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} together SEC(".maps");

/* Packets dropped, by reason. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u64);
} drops SEC(".maps");

/* Packets dropped, by source, of sources that exceed their own budget. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_OFFENDERS);
	__type(key, struct address);
	__type(value, __u64);
} offenders SEC(".maps");

static __always_inline int drop(__u64 reason)
{
	__u64 key = reason;
	__u64 *count = bpf_map_lookup_elem(&drops, &key);

	if (count)
		*count += 1;
	return 0;
}

static __always_inline int conforms(__u64 *arrival, __u64 now, __u64 gap, __u64 burst)
{
	__u64 due = *arrival > now ? *arrival : now;

	if (due - now + gap > burst)
		return 0;
	*arrival = due + gap;
	return 1;
}

static __always_inline void blame(const struct address *source)
{
	__u64 *count = bpf_map_lookup_elem(&offenders, source), one = 1;

	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&offenders, source, &one, BPF_ANY);
}

static __always_inline int verdict(const struct address *source)
{
	__u64 zero = 0, now = bpf_ktime_get_ns(), fresh;
	struct limits *limit = bpf_map_lookup_elem(&limits, &zero);
	__u64 *arrival, *all;

	if (!limit || !limit->gap)
		return -1;
	arrival = bpf_map_lookup_elem(&known, source);
	if (arrival) {
		if (conforms(arrival, now, limit->gap, limit->burst))
			return -1;
		blame(source);
		return drop(PEER);
	}
	arrival = bpf_map_lookup_elem(&strangers, source);
	if (!arrival) {
		fresh = now + limit->gap;
		bpf_map_update_elem(&strangers, source, &fresh, BPF_ANY);
	} else if (!conforms(arrival, now, limit->gap, limit->burst)) {
		blame(source);
		return drop(STRANGER);
	}
	all = bpf_map_lookup_elem(&together, &zero);
	if (all && !conforms(all, now, limit->strangers_gap, limit->strangers_burst))
		return drop(STRANGERS);
	return -1;
}

/* An AF_INET raw socket: the packet begins with its IPv4 header. */
SEC("socket")
int peer_filter_ipv4(struct __sk_buff *skb)
{
	struct address source;
	__u64 first = 0, protocol = 0, from = 0;

	if (bpf_skb_load_bytes(skb, 0, &first, 1) || bpf_skb_load_bytes(skb, 12, &from, 4))
		return 0;
	if (bpf_skb_load_bytes(skb, ((first & 15) << 2) + 2, &protocol, 2) ||
	    protocol != bpf_htons(NHRP))
		return 0;
	source.words[0] = 0;
	source.words[1] = from << 32 | 0xffff0000;
	return verdict(&source);
}

/* An AF_INET6 raw socket: it begins with the GRE header, and the IPv6 header stands before it. */
SEC("socket")
int peer_filter_ipv6(struct __sk_buff *skb)
{
	struct address source;
	__u64 protocol = 0;

	if (bpf_skb_load_bytes(skb, 2, &protocol, 2) || protocol != bpf_htons(NHRP))
		return 0;
	if (bpf_skb_load_bytes_relative(skb, 8, &source, sizeof(source), BPF_HDR_START_NET))
		return 0;
	return verdict(&source);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
