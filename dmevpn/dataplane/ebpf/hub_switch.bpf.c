// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The hub's switch: a learning layer-2 switch between VXLAN tunnel endpoints (VTEPs).
 *
 * It runs on the clsact ingress of one `external` vxlan device. Each member of a VPN is a VTEP, an
 * underlay address with the site's own VNI. Frames of anybody else are dropped; source MACs are
 * learnt per VPN; a frame for a known MAC leaves by the same device towards that member, in its
 * VNI; any other goes to every other member once.
 *
 * A member may be another hub of the VPN, which has members of its own. All hubs send to each other,
 * so what came from a hub goes to no other one (split horizon), nor to a site that is a member of
 * that hub as well, and has it from there.
 *
 * User space (dmevpn/dataplane/hub_ebpf.py) decides who is a member, and is told of MACs through
 * a ring buffer. Nothing here waits for it, and ageing needs no daemon: an entry that has been
 * silent for the ageing time counts as unknown.
 *
 * The layouts below are mirrored in layout.py; a change of any of them needs a new LAYOUT there.
 * Only stable helpers and structures are used, so that one object serves every kernel from 6.1.
 *
 * CAP_BPF and CAP_NET_ADMIN are enough to load it, and that rules how the stack is written.
 * Without CAP_PERFMON the verifier refuses a write to a part of an aligned word of eight octets
 * that holds a pointer; Linux 6.1 also if it holds a number, be it from a narrow write before.
 * So the stack is written in whole words: structures are put together from `words`, and numbers
 * that the compiler may spill, or that are keys, have 64 bits. The compiler does not know;
 * test_stack_is_written_in_whole_words looks at what it has made.
 */
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAX_MEMBERS 131072 /* those that have just left included, see `member.next` */
#define MAX_VPNS 16384
#define MAX_HUBS 64 /* other hubs that this one knows: a bit each */
/* MACs of all VPNs together; each VPN has its own limit below that. 80 octets of memory each. */
#define MAX_MACS (1 << 20)
#define EVENTS_SIZE (1 << 20)

#define SECOND 1000000000ULL
/* An entry in use is written at most this often, so that its cache line can be shared. */
#define SEEN_GRANULARITY SECOND
/* MACs that one member can report: bursts of a whole table, then 2,000 a second. The rest is
 * reported as lost, which makes user space read the table. */
#define REPORT_GAP (SECOND / 2000)
#define REPORT_BURST (16384 * REPORT_GAP)
/* Frames of strangers, and frames over the MAC limit, are news ten times a second at most. */
#define ALARM_GAP (SECOND / 10)
#define ALARM_BURST SECOND

#define NOBODY 0 /* no member has this number */

/* Words, and the first octets of a word as a key of a map, are put together for that order. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "little-endian");

/* Where frames come from and go to. IPv4 addresses are written as ::ffff:a.b.c.d. */
struct vtep {
	__be32 address[4];
	__u32 vni;
};

/* What the arrival of a frame needs to know of its sender. */
struct sender {
	__u32 member;
	__u32 vpn;
	__u64 flood_gap;   /* ns between two flooded frames; 0: no limit */
	__u64 flood_burst; /* ns of them that may be due at once */
	__u64 hub;         /* its bit if it is a hub, 0 if it is a site */
};

enum member_flags {
	MEMBER_IPV6 = 1,
	MEMBER_LEFT = 2,
	MEMBER_HUB = 4,
};

/*
 * What sending to a member needs to know, and its registration, which is for a daemon that comes
 * after us. `next` chains the members of a VPN: joining and leaving are one update each, and a
 * flood sees either list whole. A member that leaves is unlinked first and stays readable,
 * marked MEMBER_LEFT, until no flood can stand on it any more.
 */
struct member {
	struct vtep vtep;
	__be32 local[4];
	__u32 vpn;
	__u32 flags;
	__u32 next;
	__u64 expires; /* CLOCK_MONOTONIC, ns; all ones: never */
	__u8 station[6];
	__u8 unique;
	__u8 padding;
	__u64 apart; /* bits of the hubs whose frames are not flooded to it; a hub's: all */
};

/*
 * What changes with the frames of a member; apart from `sender` and `member`, which user space
 * replaces. Not per CPU: that would cost every member memory for every CPU the machine could have,
 * and every registration an allocation of 20 microseconds.
 */
struct member_state {
	/* Theoretical arrival times of its rate limits. */
	__u64 flood;
	__u64 report;
	__u64 alarm;

	__u64 rx_packets;
	__u64 rx_bytes;
	__u64 tx_packets;
	__u64 tx_bytes;
	__u64 flooded;
	__u64 dropped;
};

struct vpn {
	__u32 head; /* first member of the chain */
	__u32 mac_limit;
	__u64 ageing; /* ns */
};

/* How many MACs a VPN has; apart from `vpn`, which user space replaces. */
struct vpn_usage {
	__u32 macs;
};

struct mac_key {
	__u32 vpn;
	__u8 mac[6];
	__u8 padding[2];
};

struct mac_entry {
	__u64 seen; /* CLOCK_MONOTONIC, ns */
	__u32 member;
	__u32 padding;
};

enum event_type {
	EVENT_LEARNED = 1,
	EVENT_MOVED = 2,
	EVENT_LIMIT = 3,
	EVENT_REFUSED = 4,
};

struct event {
	__u32 type;
	__u32 vpn;
	__u32 member;
	__u32 previous; /* EVENT_MOVED: the member it was at */
	__u8 mac[8]; /* six, and two of padding */
	struct vtep vtep; /* EVENT_REFUSED: whose frame it was */
};

enum counter {
	DROP_NO_TUNNEL,
	DROP_UNREGISTERED,
	DROP_UNKNOWN_VPN,
	DROP_BAD_SOURCE,
	DROP_REFLECTED,
	DROP_LINK_LOCAL,
	DROP_FLOOD_RATE,
	DROP_UNSENDABLE,
	EVENTS_LOST,
	NOT_LEARNED,
	DROP_SPLIT_HORIZON,
	COUNTERS,
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct vtep);
	__type(value, struct sender);
	__uint(max_entries, MAX_MEMBERS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} senders SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct member);
	__uint(max_entries, MAX_MEMBERS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} members SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct member_state);
	__uint(max_entries, MAX_MEMBERS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} states SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct vpn);
	__uint(max_entries, MAX_VPNS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} vpns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct vpn_usage);
	__uint(max_entries, MAX_VPNS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} usage SEC(".maps");

/*
 * One table for all VPNs. A table of its own for each would cost every VPN its buckets, made for
 * its limit, and every VPN that comes or goes a grace period of several milliseconds in the
 * daemon; so the limit of a VPN is counted in `usage` instead.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mac_key);
	__type(value, struct mac_entry);
	__uint(max_entries, MAX_MACS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} macs SEC(".maps");

/*
 * From a hub's address, written as in `vtep`, to its bit, for a daemon that comes after us. The
 * program does not look at it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(key_size, 16);
	__type(value, __u64);
	__uint(max_entries, MAX_HUBS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} hubs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, COUNTERS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} counters SEC(".maps");

/* One element: the theoretical arrival time that limits news of strangers. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} strangers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENTS_SIZE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} events SEC(".maps");

/* What user space keeps for its next life; see layout.py. The program does not look at it. */
struct keepsake {
	__u32 next_member;
	__u32 made_clsact;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct keepsake);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} keepsakes SEC(".maps");

/* Two halves, in the order of memory. */
#define WORD(low, high) ((__u64)(low) | (__u64)(high) << 32)

/* What is on the stack, by its words. */
union vtep_words {
	struct vtep vtep;
	__u64 words[3];
};

union mac_key_words {
	struct mac_key key;
	__u64 words[2];
};

union mac_entry_words {
	struct mac_entry entry;
	__u64 words[2];
};

union tunnel_words {
	struct bpf_tunnel_key key;
	__u64 words[6];
};

/* Six octets of a frame; its header is aligned to two. */
struct mac {
	__u16 part[3];
};

struct header {
	struct mac destination;
	struct mac source;
	__be16 protocol;
};

/* A MAC as a number: its first octet is the lowest. */
static __always_inline __u64 mac_number(const struct mac *mac)
{
	return mac->part[0] | (__u64)mac->part[1] << 16 | (__u64)mac->part[2] << 32;
}

static __always_inline void fill_mac_key(union mac_key_words *key, __u32 vpn, __u64 mac)
{
	key->words[0] = WORD(vpn, mac);
	key->words[1] = mac >> 32;
}

/* The element of a map whose keys are numbers of 32 bits. */
static __always_inline void *element(void *map, __u64 number)
{
	return bpf_map_lookup_elem(map, &number);
}

static __always_inline void count(__u64 counter)
{
	__u64 *value = element(&counters, counter);

	if (value)
		(*value)++;
}

static __always_inline void add(__u64 *counter, __u64 amount)
{
	__sync_fetch_and_add(counter, amount);
}

static __always_inline int drop(__u64 reason)
{
	count(reason);
	return TC_ACT_SHOT;
}

/*
 * Not one function for a sender that may be NULL: 6.1's verifier follows, without CAP_PERFMON, the
 * wrong side of a check for a NULL that it knows, as a CPU may, and refuses what is done there.
 */
static __always_inline int drop_from(struct member_state *sender, __u64 reason)
{
	add(&sender->dropped, 1);
	return drop(reason);
}

/* The packets that a frame will be on the wire: offloads hand us many as one. */
static __always_inline __u32 packets(const struct __sk_buff *skb)
{
	__u32 segments = skb->gso_segs;

	return segments ? segments : 1;
}

/*
 * Generic cell rate algorithm with one word of state and no lock: whether an arrival of `cost` ns
 * conforms. Losing the race for the word lets a frame pass for free; the limit is not exact.
 */
static __always_inline int conforms(__u64 *arrival, __u64 now, __u64 cost, __u64 burst)
{
	__u64 old = *arrival;
	__u64 due = old > now ? old : now;

	if (due - now > burst)
		return 0;
	__sync_val_compare_and_swap(arrival, old, due + cost);
	return 1;
}

static __always_inline void emit(__u32 type, __u32 vpn, __u32 member, __u64 previous, __u64 mac,
				 const struct vtep *vtep)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		count(EVENTS_LOST);
		return;
	}
	event->type = type;
	event->vpn = vpn;
	event->member = member;
	event->previous = previous;
	__builtin_memcpy(event->mac, &mac, sizeof(event->mac));
	event->vtep = *vtep;
	bpf_ringbuf_submit(event, 0);
}

static __always_inline void report(__u32 type, const struct sender *sender, __u64 previous,
				   __u64 mac, const struct vtep *vtep, __u64 now)
{
	struct member_state *state = bpf_map_lookup_elem(&states, &sender->member);

	if (state && conforms(&state->report, now, REPORT_GAP, REPORT_BURST))
		emit(type, sender->vpn, sender->member, previous, mac, vtep);
	else
		count(EVENTS_LOST);
}

static __always_inline void refuse(const struct vtep *vtep, __u64 mac, __u64 now)
{
	__u64 *arrival = element(&strangers, 0);

	if (arrival && conforms(arrival, now, ALARM_GAP, ALARM_BURST))
		emit(EVENT_REFUSED, 0, NOBODY, NOBODY, mac, vtep);
}

/* Where a frame that has just come out of the tunnel was sent from. */
static __always_inline int read_vtep(struct __sk_buff *skb, union vtep_words *from)
{
	struct bpf_tunnel_key key; /* the helper fills it, or clears it when it fails */

	if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0)) {
		from->words[0] = 0;
		from->words[1] = WORD(bpf_htonl(0xffff), bpf_htonl(key.remote_ipv4));
	} else if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), BPF_F_TUNINFO_IPV6)) {
		from->words[0] = WORD(key.remote_ipv6[0], key.remote_ipv6[1]);
		from->words[1] = WORD(key.remote_ipv6[2], key.remote_ipv6[3]);
	} else {
		return -1;
	}
	from->words[2] = key.tunnel_id;
	return 0;
}

/* The words of a tunnel key; the addresses are four words of 32 bits each. */
#define TUNNEL_TTL(ttl) ((__u32)(ttl) << 8)
_Static_assert(offsetof(struct bpf_tunnel_key, remote_ipv6) == 4, "second half of word 0");
_Static_assert(offsetof(struct bpf_tunnel_key, tunnel_ttl) == 21, "second half of word 2");
_Static_assert(offsetof(struct bpf_tunnel_key, local_ipv6) == 28, "second half of word 3");

static __always_inline __u64 fill_key(union tunnel_words *key, const struct member *member)
{
	const __be32 *remote = member->vtep.address, *local = member->local;

	if (member->flags & MEMBER_IPV6) {
		key->words[0] = WORD(member->vtep.vni, remote[0]);
		key->words[1] = WORD(remote[1], remote[2]);
		key->words[2] = WORD(remote[3], TUNNEL_TTL(64));
		key->words[3] = WORD(0, local[0]);
		key->words[4] = WORD(local[1], local[2]);
		key->words[5] = local[3];
		return BPF_F_TUNINFO_IPV6;
	}
	key->words[0] = WORD(member->vtep.vni, bpf_ntohl(remote[3]));
	key->words[1] = 0;
	key->words[2] = WORD(0, TUNNEL_TTL(64));
	key->words[3] = WORD(0, bpf_ntohl(local[3]));
	key->words[4] = 0;
	key->words[5] = 0;
	return BPF_F_ZERO_CSUM_TX; /* as the kernel's own devices do over IPv4 */
}

static __always_inline void count_sent(struct __sk_buff *skb, __u64 member)
{
	struct member_state *receiver = element(&states, member);

	if (receiver) {
		add(&receiver->tx_packets, packets(skb));
		add(&receiver->tx_bytes, skb->len);
	}
}

static __always_inline void learn_new(const struct mac_key *key, __u64 mac,
				      const struct sender *sender, const struct vpn *vpn,
				      const struct vtep *vtep, __u64 now)
{
	union mac_entry_words entry = {.words = {now, WORD(sender->member, 0)}};
	struct vpn_usage *used = bpf_map_lookup_elem(&usage, &key->vpn);
	struct member_state *state;
	int error; /* not long: before 6.4 the inlined call leaves the upper half undefined */

	if (!used)
		return;
	/* Look before the atomic addition, or a flood of new MACs would fight for the word. */
	if (used->macs < vpn->mac_limit) {
		if (__sync_fetch_and_add(&used->macs, 1) < vpn->mac_limit) {
			error = bpf_map_update_elem(&macs, key, &entry, BPF_NOEXIST);
			if (!error) {
				report(EVENT_LEARNED, sender, NOBODY, mac, vtep, now);
				return;
			}
		} else {
			error = 0;
		}
		__sync_fetch_and_add(&used->macs, -1);
		if (error == -17 /* EEXIST: another CPU was faster */)
			return;
	}
	count(NOT_LEARNED);
	state = bpf_map_lookup_elem(&states, &sender->member);
	if (state && conforms(&state->alarm, now, ALARM_GAP, ALARM_BURST))
		emit(EVENT_LIMIT, sender->vpn, sender->member, NOBODY, mac, vtep);
}

/* A member that has not left. */
static __always_inline struct member *present(__u64 number)
{
	struct member *member = element(&members, number);

	return member && !(member->flags & MEMBER_LEFT) ? member : NULL;
}

static __always_inline int fresh(const struct mac_entry *entry, const struct vpn *vpn, __u64 now)
{
	/* Signed: another CPU may have written a time after our `now`. */
	return (__s64)(now - entry->seen) <= (__s64)vpn->ageing;
}

/*
 * Whether a hub should see the frame, wherever else it goes: its source was behind that hub until
 * now, and what the hub has told about it is no longer true.
 */
static __always_inline __u64 learn(const struct mac_key *key, __u64 mac,
				   const struct sender *sender, const struct vpn *vpn,
				   const struct vtep *vtep, __u64 now)
{
	struct mac_entry *entry = bpf_map_lookup_elem(&macs, key);
	struct member *there;
	__u64 previous;
	int returned;

	if (!entry) {
		learn_new(key, mac, sender, vpn, vtep, now);
		return 0;
	}
	previous = entry->member;
	if (previous != sender->member) {
		/* Only the CPU that moves it reports it. */
		if (__sync_val_compare_and_swap(&entry->member, previous, sender->member) == previous) {
			entry->seen = now;
			/* With a member its MACs are forgotten; this one was not swept up yet. */
			there = present(previous);
			if (there) {
				report(EVENT_MOVED, sender, previous, mac, vtep, now);
				return !sender->hub && there->flags & MEMBER_HUB;
			}
			report(EVENT_LEARNED, sender, NOBODY, mac, vtep, now);
		}
		return 0;
	}
	if ((__s64)(now - entry->seen) <= (__s64)SEEN_GRANULARITY)
		return 0;
	returned = !fresh(entry, vpn, now);
	entry->seen = now;
	if (returned)
		report(EVENT_LEARNED, sender, NOBODY, mac, vtep, now);
	return 0;
}

/* 01:80:c2:00:00:00 to 0f belong to the link (IEEE 802.1Q table 8-1): a bridge keeps them. */
static __always_inline int is_link_local(__u64 mac)
{
	return (mac & 0xf0ffffffffff) == 0xc28001;
}

static __always_inline int is_group(__u64 mac)
{
	return mac & 1;
}

/* A walk along the members of a VPN. The last copy is the frame itself, so one is held back. */
struct flood {
	struct __sk_buff *skb;
	__u64 vpn;
	__u64 source;
	__u64 hub; /* the bit of the hub that sent it, or 0 */
	__u64 next;
	__u64 pending;
	__u64 key_flags;
	union tunnel_words tunnel;
};

static long flood_one(__u32 index, struct flood *flood)
{
	__u64 number = flood->next;
	struct member *member = element(&members, number);

	if (!member)
		return 1;
	flood->next = member->next;
	if (number == flood->source || member->vpn != flood->vpn || member->flags & MEMBER_LEFT ||
	    member->apart & flood->hub)
		return 0;
	if (flood->pending != NOBODY &&
	    !bpf_skb_set_tunnel_key(flood->skb, &flood->tunnel.key, sizeof(flood->tunnel.key),
				    flood->key_flags)) {
		count_sent(flood->skb, flood->pending);
		bpf_clone_redirect(flood->skb, flood->skb->ifindex, 0);
	}
	flood->pending = number;
	flood->key_flags = fill_key(&flood->tunnel, member);
	return 0;
}

SEC("tc")
int hub_switch(struct __sk_buff *skb)
{
	union mac_key_words key;
	union tunnel_words tunnel;
	union vtep_words vtep;
	__u64 now = bpf_ktime_get_ns();
	struct member_state *from;
	struct mac_entry *entry;
	struct member *member;
	struct sender *sender;
	struct header *header;
	__u64 destination;
	__u64 vpn_number;
	__u64 key_flags;
	struct vpn *vpn;
	__u64 to_hubs;
	__u64 source;
	__u64 number;

	if (read_vtep(skb, &vtep))
		return drop(DROP_NO_TUNNEL);
	header = (void *)(long)skb->data;
	if ((void *)(header + 1) > (void *)(long)skb->data_end)
		return drop(DROP_NO_TUNNEL);
	destination = mac_number(&header->destination);
	source = mac_number(&header->source);

	sender = bpf_map_lookup_elem(&senders, &vtep.vtep);
	if (!sender) {
		refuse(&vtep.vtep, source, now);
		return drop(DROP_UNREGISTERED);
	}
	vpn_number = sender->vpn;
	vpn = element(&vpns, vpn_number);
	from = bpf_map_lookup_elem(&states, &sender->member);
	if (!from)
		return drop(DROP_UNKNOWN_VPN);
	if (!vpn)
		return drop_from(from, DROP_UNKNOWN_VPN);
	add(&from->rx_packets, packets(skb));
	add(&from->rx_bytes, skb->len);

	if (is_group(source) || !source)
		return drop_from(from, DROP_BAD_SOURCE);
	if (is_link_local(destination))
		return drop_from(from, DROP_LINK_LOCAL);
	fill_mac_key(&key, vpn_number, source);
	to_hubs = learn(&key.key, source, sender, vpn, &vtep.vtep, now);

	if (!is_group(destination) && !to_hubs) {
		fill_mac_key(&key, vpn_number, destination);
		entry = bpf_map_lookup_elem(&macs, &key.key);
		if (entry && fresh(entry, vpn, now)) {
			number = entry->member;
			member = present(number);
			/* An entry of a member that has left is as good as none: flood. */
			if (member && member->vpn == vpn_number) {
				if (number == sender->member)
					return drop_from(from, DROP_REFLECTED);
				if (sender->hub && member->flags & MEMBER_HUB)
					return drop_from(from, DROP_SPLIT_HORIZON);
				key_flags = fill_key(&tunnel, member);
				if (bpf_skb_set_tunnel_key(skb, &tunnel.key, sizeof(tunnel.key),
							   key_flags))
					return drop_from(from, DROP_UNSENDABLE);
				count_sent(skb, number);
				return bpf_redirect(skb->ifindex, 0);
			}
		}
	}

	add(&from->flooded, packets(skb));
	if (sender->flood_gap &&
	    !conforms(&from->flood, now, sender->flood_gap * packets(skb), sender->flood_burst))
		return drop_from(from, DROP_FLOOD_RATE);

	struct flood flood = {
		.skb = skb,
		.vpn = vpn_number,
		.source = sender->member,
		.hub = sender->hub,
		.next = vpn->head,
	};

	bpf_loop(MAX_MEMBERS, flood_one, &flood, 0);
	if (flood.pending == NOBODY)
		return TC_ACT_SHOT; /* nobody else is there: no fault to count */
	if (bpf_skb_set_tunnel_key(skb, &flood.tunnel.key, sizeof(flood.tunnel.key), flood.key_flags))
		return drop_from(from, DROP_UNSENDABLE);
	count_sent(skb, flood.pending);
	return bpf_redirect(skb->ifindex, 0);
}

/*
 * Changes of MAC entries, for user space: it runs this program by BPF_PROG_TEST_RUN with a frame
 * full of them. Map operations from user space could neither compare before they write nor keep
 * the count of the VPN exact.
 */
enum edit_action {
	EDIT_REMOVE = 1,  /* take the entry out */
	EDIT_REFRESH = 2, /* its MAC counts as seen now, if its member is still there */
};

struct edit {
	struct mac_key key;
	__u32 member; /* only if it is at this member; NOBODY: wherever */
	__u64 seen;   /* only if it was not seen after that; 0: whenever */
	__u32 action;
	__u32 done; /* answer: 1 if the entry was changed */
};

struct edits {
	struct __sk_buff *skb;
	__u64 now;
};

static __always_inline int remove_mac(const struct mac_key *key)
{
	struct vpn_usage *used;

	if (bpf_map_delete_elem(&macs, key))
		return 0;
	used = bpf_map_lookup_elem(&usage, &key->vpn);
	if (used)
		__sync_fetch_and_add(&used->macs, -1);
	return 1;
}

static __always_inline int refresh_mac(struct mac_entry *entry, __u64 now)
{
	if (!present(entry->member))
		return 0;
	entry->seen = now; /* the member is not written: a move at this moment is kept */
	return 1;
}

static long edit_one(__u32 index, struct edits *edits)
{
	__u32 offset = index * sizeof(struct edit);
	struct mac_entry *entry;
	struct edit edit;
	__u64 done = 0;

	if (bpf_skb_load_bytes(edits->skb, offset, &edit, sizeof(edit)))
		return 1;
	entry = bpf_map_lookup_elem(&macs, &edit.key);
	if (entry && (edit.member == NOBODY || entry->member == edit.member) &&
	    (!edit.seen || (__s64)(entry->seen - edit.seen) <= 0)) {
		if (edit.action == EDIT_REMOVE)
			done = remove_mac(&edit.key);
		else if (edit.action == EDIT_REFRESH)
			done = refresh_mac(entry, edits->now);
	}
	bpf_skb_store_bytes(edits->skb, offset + offsetof(struct edit, done), &done,
			    sizeof(edit.done), 0);
	return 0;
}

SEC("tc")
int edit_macs(struct __sk_buff *skb)
{
	struct edits edits = {.skb = skb, .now = bpf_ktime_get_ns()};

	bpf_loop(skb->len / sizeof(struct edit), edit_one, &edits, 0);
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual MIT/GPL";
