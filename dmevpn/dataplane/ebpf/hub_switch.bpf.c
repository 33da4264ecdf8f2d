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
 * A MAC that flips between members (RFC 7432 §15.1) is held where it was settled: frames with it
 * from elsewhere are dropped, what its site floods in its name is limited, and the hold ends by
 * itself. So each broadcast that a loop between two sites brings back ends here. While probes come
 * back from a site, all that it floods is limited.
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
#define ALL_HUBS (~0ULL) /* of hubs, and of sites that do not say which others they have */
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

/*
 * Copies that the floods of one underlay address may cost, in all its VPNs: as many as if each frame
 * that its budget lets pass went to so many members; and at once a part of those, so that others
 * wait for a small part of a second. Hubs, and VPNs without a limit, are free.
 */
#define COPIES_PER_FRAME 10
#define COPIES_BURST_SHARE 4
/* Addresses whose copies are counted; the one longest silent makes room. */
#define MAX_FLOODERS 16384
/* A MAC has settled where it stays for that long. */
#define SETTLED SECOND
/* A held MAC has fallen silent that was not seen for so long; it is noted once a second. */
#define SILENT (2 * SECOND)
/* The same where several hubs may have changed places, so that it may be held at the wrong one. */
#define LONG_SILENT (4 * SECOND)
/* How long a MAC is held that flips; every further hold takes twice as long, up to 640 s. */
#define HOLD (10 * SECOND)
#define MAX_HOLDS 6
/* Frames that one member may have flooded in the name of MACs that are held, or while a loop leads
 * through its site. */
#define HELD_GAP (SECOND / 100)
#define HELD_BURST SECOND
/* Held MACs that user space finds in a list; more are held all the same. */
#define MAX_HELD 16384
/* Lines of `sticky`, by VPN. */
#define MAX_STICKY 65536
/* Local experimental EtherType 2 (IEEE 802), and the first octets behind it: "dmlp". */
#define PROBE_TYPE 0x88b6
#define PROBE_MAGIC 0x706c6d64
/*
 * How long a site counts as part of a loop after a probe has come back from it: until the next but
 * one would, which user space sends every three seconds. Not longer, since a hundred floods a
 * second may be few for a site whose loop is gone.
 */
#define LOOPING (4500 * (SECOND / 1000))
/*
 * Switches that may pass on a probe of somebody else. Without an end the probe of another hub would
 * go round for ever, where it comes back from the same site each time: nothing flips then.
 */
#define PROBE_HOPS 3

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
	__u64 hub; /* its bit if it is a hub, 0 if it is a site */
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
	__u64 held; /* of floods in the name of MACs that are held */
	__u64 report;
	__u64 alarm;
	__u64 looping; /* until then a loop leads through its site */

	__u64 rx_packets;
	__u64 rx_bytes;
	__u64 tx_packets;
	__u64 tx_bytes;
	__u64 flooded;
	__u64 dropped;
	__u64 limited; /* dropped as they were over its budget of floods */
	__u64 macs;    /* MACs that are at it */
};

enum vpn_flags {
	VPN_STICKY = 1, /* `sticky` has something to say about its MACs */
};

struct vpn {
	__u32 head; /* first member of the chain */
	__u32 flags;
	__u32 mac_limit;
	__u32 site_limit;     /* MACs that one member may have */
	__u64 ageing;         /* ns */
	__u64 flood_gap;      /* ns between two flooded frames of a member; 0: no limit */
	__u64 flood_burst;    /* ns of them that may be due at once */
	__u64 moves;          /* of a MAC that are followed; 0: any number */
	__u64 moves_window;   /* ns in which they count */
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

/* Of thirty-two octets: with what a hash table adds, one more would cost thirty-two. */
struct mac_entry {
	__u64 seen; /* CLOCK_MONOTONIC, ns */
	__u32 member;
	__u32 home;    /* the last member that it had settled at before it came here */
	__u64 mark;    /* ns: when `moves` began to count; the end of the hold, if it is held */
	__u32 arrived; /* when it came to `member`, in units of 2^20 ns */
	__u16 moves;   /* since `mark`; HELD */
	__u16 holds;   /* in a row, but for the first */
};

#define HELD 0xffff

/* What is held, for user space to list; the entry of the MAC is what counts. */
struct held {
	__u64 until; /* CLOCK_MONOTONIC, ns */
	__u32 member;
	__u32 other; /* where it sent from as well */
};

/* The longest prefix holds, of 32 bits of VPN and those of the MAC. */
struct sticky_key {
	__u32 prefix_length;
	__u32 vpn;
	__u8 mac[6];
	__u8 padding[2];
};

/* Where such a MAC belongs: at an address, all zeros: wherever it is known. */
struct sticky {
	__be32 address[4];
};

/* How a daemon knows loop probes of its own again, and the device that they leave by. */
struct probing {
	__u64 secret;
	__u64 ifindex;
};

/* What follows the EtherType of a loop probe. */
struct probe {
	__u32 magic;
	__u32 member; /* whom it was sent to */
	__u64 secret;
	__u64 hops; /* other switches that may still pass it on */
};

enum event_type {
	EVENT_LEARNED = 1,
	EVENT_MOVED = 2,
	EVENT_LIMIT = 3, /* `previous` is the member if it is at its own limit */
	EVENT_REFUSED = 4,
	EVENT_HELD = 5,   /* at `member`; `previous` is where it sent from as well */
	EVENT_STICKY = 6, /* `previous` is where it belongs, if that is a member */
	EVENT_LOOP = 7,   /* a probe to `previous` came back from `member` */
	EVENT_FLOOD = 8,  /* over its budget */
};

struct event {
	__u32 type;
	__u32 vpn;
	__u32 member;
	__u32 previous; /* EVENT_MOVED: the member it was at */
	__u8 mac[8]; /* six, and for EVENT_HELD how often in a row */
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
	DROP_DUPLICATE,
	DROP_STICKY,
	DROP_HELD_FLOOD,
	DROP_PROBE,
	DROP_LOOP_FLOOD,
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
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mac_key);
	__type(value, struct held);
	__uint(max_entries, MAX_HELD);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} held SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct sticky_key);
	__type(value, struct sticky);
	__uint(max_entries, MAX_STICKY);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sticky SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct probing);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} probing SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, COUNTERS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} counters SEC(".maps");

/* The theoretical arrival times of the copies, by address. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(key_size, 16);
	__type(value, __u64);
	__uint(max_entries, MAX_FLOODERS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} flooders SEC(".maps");

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

/* Hides from the compiler that 32 bits of a number are enough, should it spill it. */
#define WHOLE(number) asm volatile("" : "+r"(number))

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
	__u64 words[4];
};

union held_words {
	struct held held;
	__u64 words[2];
};

union sticky_key_words {
	struct sticky_key key;
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

static __always_inline void emit(__u32 type, __u32 vpn, __u64 member, __u64 previous, __u64 mac,
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

/* News of a MAC, which a frame of `sender` has caused, and which is about a member. */
static __always_inline void report_at(__u32 type, const struct sender *sender, __u64 member,
				      __u64 previous, __u64 mac, const struct vtep *vtep,
				      __u64 now)
{
	struct member_state *state = bpf_map_lookup_elem(&states, &sender->member);

	if (state && conforms(&state->report, now, REPORT_GAP, REPORT_BURST))
		emit(type, sender->vpn, member, previous, mac, vtep);
	else
		count(EVENTS_LOST);
}

static __always_inline void report(__u32 type, const struct sender *sender, __u64 previous,
				   __u64 mac, const struct vtep *vtep, __u64 now)
{
	report_at(type, sender, sender->member, previous, mac, vtep, now);
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

static __always_inline int is_held(const struct mac_entry *entry, __u64 now)
{
	return entry->moves == HELD && (__s64)(entry->mark - now) > 0;
}

/* Units of a bit more than a millisecond, that 32 bits have room for 52 days of. */
static __always_inline __u64 coarse(__u64 time)
{
	return time >> 20 & 0xffffffff;
}

static __always_inline int has_settled(const struct mac_entry *entry, __u64 now)
{
	return (__u32)(coarse(now) - entry->arrived) >= coarse(SETTLED);
}

/* News of a frame that was not as it should be. */
static __always_inline void alarm(__u32 type, const struct sender *sender, __u64 previous,
				  __u64 mac, const struct vtep *vtep, __u64 now)
{
	struct member_state *state = bpf_map_lookup_elem(&states, &sender->member);

	if (state && conforms(&state->alarm, now, ALARM_GAP, ALARM_BURST))
		emit(type, sender->vpn, sender->member, previous, mac, vtep);
}

static __always_inline void count_mac(__u64 member, __u64 amount)
{
	struct member_state *state = element(&states, member);

	if (state)
		add(&state->macs, amount);
}

/*
 * What becomes of a frame by its source: DROP_*, or one of these. Numbers have 64 bits, as all that
 * the compiler may spill.
 */
#define PASS COUNTERS
#define PASS_HELD (COUNTERS + 1) /* its floods are limited */
/*
 * A hub should see the frame, wherever else it goes: its source was behind that hub until now, and
 * what the hub has told about it is no longer true.
 */
#define PASS_TO_HUBS (COUNTERS + 2)

/* What `sticky` says about a MAC; NULL if nothing. */
static __always_inline struct sticky *sticky_line(const struct mac_key *key, __u64 mac,
						  const struct vpn *vpn)
{
	union sticky_key_words sought;

	if (!(vpn->flags & VPN_STICKY))
		return NULL;
	sought.words[0] = WORD(80, key->vpn);
	sought.words[1] = mac;
	return bpf_map_lookup_elem(&sticky, &sought.key);
}

/* Whether a line leaves a MAC to the site at an address; without an address to any that has it. */
static __always_inline int belongs(const struct sticky *line, const struct vtep *vtep)
{
	const __be32 *of = line->address, *from = vtep->address;

	return of[0] == from[0] && of[1] == from[1] && of[2] == from[2] && of[3] == from[3];
}

static __always_inline int is_of_nobody(const struct sticky *line)
{
	return !(line->address[0] | line->address[1] | line->address[2] | line->address[3]);
}

static __always_inline __u64 learn_new(const struct mac_key *key, __u64 mac,
				       const struct sender *sender, const struct vpn *vpn,
				       const struct vtep *vtep, __u64 now)
{
	union mac_entry_words entry = {
		.words = {now, WORD(sender->member, sender->member), 0, WORD(coarse(now), 0)}
	};
	struct vpn_usage *used = bpf_map_lookup_elem(&usage, &key->vpn);
	struct member_state *state = bpf_map_lookup_elem(&states, &sender->member);
	struct sticky *line = sticky_line(key, mac, vpn);
	__u64 full = NOBODY; /* the member, if it has its share */
	int error; /* not long: before 6.4 the inlined call leaves the upper half undefined */

	/* What another hub lets pass is for that hub to decide, unless a site here has the MAC. */
	if (line && !is_of_nobody(line) && !belongs(line, vtep) && !sender->hub) {
		alarm(EVENT_STICKY, sender, NOBODY, mac, vtep, now);
		return DROP_STICKY;
	}
	if (!used || !state)
		return PASS;
	WHOLE(full);
	/* Look before the atomic addition, or a flood of new MACs would fight for the word. */
	if (state->macs >= vpn->site_limit && !sender->hub) {
		full = sender->member;
		WHOLE(full);
	} else if (used->macs < vpn->mac_limit) {
		if (__sync_fetch_and_add(&used->macs, 1) < vpn->mac_limit) {
			error = bpf_map_update_elem(&macs, key, &entry, BPF_NOEXIST);
			if (!error) {
				add(&state->macs, 1);
				report(EVENT_LEARNED, sender, NOBODY, mac, vtep, now);
				return PASS;
			}
		} else {
			error = 0;
		}
		__sync_fetch_and_add(&used->macs, -1);
		if (error == -17 /* EEXIST: another CPU was faster */)
			return PASS;
	}
	count(NOT_LEARNED);
	alarm(EVENT_LIMIT, sender, full, mac, vtep, now);
	return PASS;
}

/*
 * A MAC that flips is held from now on: where it is, if it has settled there, else where it had
 * last done so. A frame from elsewhere was the cause.
 */
static __always_inline void hold(struct mac_entry *entry, const struct mac_key *key, __u64 mac,
				 const struct sender *sender, const struct vtep *vtep, __u64 now)
{
	__u64 holds = entry->holds, at = entry->member, home = entry->home, other;
	union held_words held_at;

	if (!has_settled(entry, now) && present(home) &&
	    __sync_val_compare_and_swap(&entry->member, at, home) == at) {
		count_mac(at, -1);
		count_mac(home, 1);
		other = sender->member == home ? at : sender->member;
		at = home;
	} else {
		other = sender->member;
	}
	if (holds > MAX_HOLDS)
		holds = MAX_HOLDS;
	entry->mark = now + (HOLD << holds);
	entry->moves = HELD;
	entry->holds = holds + 1;
	held_at.words[0] = now + (HOLD << holds);
	held_at.words[1] = WORD(at, other);
	bpf_map_update_elem(&held, key, &held_at, BPF_ANY);
	report_at(EVENT_HELD, sender, at, other, mac | holds << 48, vtep, now);
}

/* Whether a MAC moves too often: more than so many times in a while. Counts this move. */
static __always_inline int flips(struct mac_entry *entry, const struct vpn *vpn, __u64 now)
{
	__u64 holds = entry->holds;

	if (!vpn->moves)
		return 0;
	if (entry->moves == HELD) {
		/* The hold is over. After as long a time of peace the next one is short again. */
		if (now - entry->mark > (HOLD << (holds > MAX_HOLDS ? MAX_HOLDS : holds)))
			entry->holds = 0;
	} else if (entry->moves && now - entry->mark <= vpn->moves_window) {
		if (entry->moves >= vpn->moves)
			return 1;
		entry->moves += 1;
		return 0;
	} else {
		entry->holds = 0;
	}
	entry->mark = now;
	entry->moves = 1;
	return 0;
}

/*
 * Whether a site that is registered with a hub and with us may have changed from one to the other:
 * its MACs go behind the hub or come from there.
 */
static __always_inline int may_change_hubs(const struct sender *sender, const struct member *there)
{
	const struct sender *hub;
	const struct member *here;

	if (sender->hub)
		return !(there->flags & MEMBER_HUB) && there->apart & sender->hub;
	if (!(there->flags & MEMBER_HUB))
		return 0;
	hub = bpf_map_lookup_elem(&senders, &there->vtep);
	here = element(&members, sender->member);
	return hub && here && here->apart & hub->hub;
}

/* Whether frames of a member may come by another hub: it is one, or a site that says it has one. */
static __always_inline int has_other_hubs(const struct member *member)
{
	return member->flags & MEMBER_HUB || (member->apart && member->apart != ALL_HUBS);
}

/*
 * The note of a MAC that is held, if the hold goes along to where it sends from now; else NULL. The
 * MAC is silent where it was, and its site may have changed its hub. Where that hub is the one on
 * whose account it flipped, or another site of several hubs has it, the MAC may have settled at the
 * wrong place, since frames come by other ways when hubs change. Then a longer silence tells.
 */
static __always_inline struct held *follow(const struct mac_entry *entry, const struct mac_key *key,
					   const struct sender *sender, const struct member *there,
					   __u64 now)
{
	__s64 silence = now - entry->seen;
	const struct member *here;
	struct held *note;

	if (silence <= (__s64)SILENT)
		return NULL;
	note = bpf_map_lookup_elem(&held, key);
	if (!note || (note->other != sender->member && may_change_hubs(sender, there)))
		return note;
	here = element(&members, sender->member);
	if (silence <= (__s64)LONG_SILENT || !here)
		return NULL;
	return has_other_hubs(here) || has_other_hubs(there) ? note : NULL;
}

/* A frame of a MAC that was last seen at another member. */
static __always_inline __u64 move(struct mac_entry *entry, const struct mac_key *key, __u64 mac,
				  const struct sender *sender, const struct vpn *vpn,
				  const struct vtep *vtep, __u64 now)
{
	struct sticky *line = sticky_line(key, mac, vpn);
	__u64 previous = entry->member;
	struct member *there = present(previous);
	__u64 known = fresh(entry, vpn, now) && there;
	struct held *note = NULL;

	WHOLE(known);
	if (line && (is_of_nobody(line) || sender->hub ? known : !belongs(line, vtep))) {
		alarm(EVENT_STICKY, sender, previous, mac, vtep, now);
		return DROP_STICKY;
	}
	if (known) {
		if (is_held(entry, now)) {
			note = follow(entry, key, sender, there, now);
			if (!note)
				return DROP_DUPLICATE;
		} else if (!(has_settled(entry, now) && may_change_hubs(sender, there)) &&
			   flips(entry, vpn, now)) {
			hold(entry, key, mac, sender, vtep, now);
			/* It may have gone back to where this frame came from. */
			return entry->member == sender->member ? PASS_HELD : DROP_DUPLICATE;
		}
	}
	/* Only the CPU that moves it reports it. */
	if (__sync_val_compare_and_swap(&entry->member, previous, sender->member) != previous)
		return PASS;
	count_mac(previous, -1);
	count_mac(sender->member, 1);
	if (note) {
		if (note->other == sender->member)
			note->other = previous;
		note->member = sender->member;
	}
	if (!known || has_settled(entry, now))
		entry->home = known ? previous : sender->member;
	entry->arrived = coarse(now);
	if (!known)
		entry->moves = 0;
	entry->seen = now;
	/* With a member its MACs are forgotten; this one was not swept up yet. */
	if (!there) {
		report(EVENT_LEARNED, sender, NOBODY, mac, vtep, now);
		return PASS;
	}
	report(EVENT_MOVED, sender, previous, mac, vtep, now);
	return !sender->hub && there->flags & MEMBER_HUB ? PASS_TO_HUBS : PASS;
}

/*
 * A source that is not where it was a moment ago: new, moved, or silent for a second. A function of
 * its own, so that the way of most frames keeps its numbers in registers.
 */
static __noinline __u64 learn_slowly(const union mac_key_words *words, const struct sender *sender,
				     const struct vpn *vpn, const struct vtep *vtep, __u64 now)
{
	const struct mac_key *key = &words->key;
	__u64 mac = words->words[0] >> 32 | words->words[1] << 32;
	struct mac_entry *entry = bpf_map_lookup_elem(&macs, key);
	int returned;

	if (!entry)
		return learn_new(key, mac, sender, vpn, vtep, now);
	if (entry->member != sender->member)
		return move(entry, key, mac, sender, vpn, vtep, now);
	returned = !fresh(entry, vpn, now);
	entry->seen = now;
	if (returned)
		report(EVENT_LEARNED, sender, NOBODY, mac, vtep, now);
	return is_held(entry, now) ? PASS_HELD : PASS;
}

static __always_inline __u64 learn(const union mac_key_words *key, const struct sender *sender,
				   const struct vpn *vpn, const struct vtep *vtep, __u64 now)
{
	struct mac_entry *entry = bpf_map_lookup_elem(&macs, &key->key);

	if (!entry || entry->member != sender->member ||
	    (__s64)(now - entry->seen) > (__s64)SEEN_GRANULARITY)
		return learn_slowly(key, sender, vpn, vtep, now);
	return is_held(entry, now) ? PASS_HELD : PASS;
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

enum {
	NO_PROBE,
	PROBE_ENDS,
	PROBE_GOES_ON,
};

/*
 * What becomes of a broadcast of the probes' type. Ours end here: they are sent into a site, and none
 * comes out of one unless sites are connected behind our back. Those of others are passed on a few
 * times, since a loop may lead through several hubs; nothing is learned from them.
 */
static __always_inline int pass_probe(struct __sk_buff *skb, const struct sender *sender,
				      struct member_state *from, __u64 mac,
				      const struct vtep *vtep, __u64 now)
{
	struct probing *ours = element(&probing, 0);
	struct probe probe; /* the helper fills it, or clears it when it fails */

	if (!ours || bpf_skb_load_bytes(skb, sizeof(struct header), &probe, sizeof(probe)) ||
	    probe.magic != PROBE_MAGIC)
		return NO_PROBE;
	if (probe.secret == ours->secret) {
		if (!sender->hub) /* behind which are many sites, each with a budget there */
			from->looping = now + LOOPING;
		alarm(EVENT_LOOP, sender, probe.member, mac, vtep, now);
		return PROBE_ENDS;
	}
	if (!probe.hops || probe.hops > PROBE_HOPS)
		return PROBE_ENDS;
	probe.hops -= 1;
	if (bpf_skb_store_bytes(skb, sizeof(struct header) + offsetof(struct probe, hops),
				&probe.hops, sizeof(probe.hops), 0))
		return PROBE_ENDS;
	return PROBE_GOES_ON;
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

/* Note what the copies of a frame cost the address that it came from. */
static __always_inline void charge(const struct vtep *from, __u64 now, __u64 cost)
{
	__u64 *arrival = bpf_map_lookup_elem(&flooders, from), due = now + cost;

	if (!arrival)
		bpf_map_update_elem(&flooders, from, &due, BPF_ANY);
	else if (*arrival > now)
		*arrival += cost; /* to lose a race for it lets some copies pass for free */
	else
		*arrival = due;
}

static __always_inline int has_copies_left(const struct vtep *from, __u64 now, __u64 burst)
{
	__u64 *arrival = bpf_map_lookup_elem(&flooders, from);

	return !arrival || (__s64)(*arrival - now) <= (__s64)burst;
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
	__u64 verdict;
	struct vpn *vpn;
	__u64 source;
	__u64 number;
	long others;
	__u64 looping;
	int probe;

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
	probe = NO_PROBE;
	if (is_group(destination) && header->protocol == bpf_htons(PROBE_TYPE))
		probe = pass_probe(skb, sender, from, source, &vtep.vtep, now);
	if (probe == PROBE_ENDS)
		return drop_from(from, DROP_PROBE);
	verdict = PASS;
	if (probe == NO_PROBE) {
		fill_mac_key(&key, vpn_number, source);
		verdict = learn(&key, sender, vpn, &vtep.vtep, now);
		if (verdict < PASS)
			return drop_from(from, verdict);
	}

	if (!is_group(destination) && verdict != PASS_TO_HUBS) {
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
	/*
	 * What is held goes round no further. But in a loop of which a part leads through another hub,
	 * that one sees MACs flip, and their frames come to us from one site alone.
	 */
	looping = (__s64)(from->looping - now) > 0;
	if ((looping || verdict == PASS_HELD) &&
	    !conforms(&from->held, now, HELD_GAP * packets(skb), HELD_BURST))
		return drop_from(from, looping ? DROP_LOOP_FLOOD : DROP_HELD_FLOOD);
	/* What a hub sends is that of many sites, each of which has a budget there. */
	if (vpn->flood_gap && !sender->hub &&
	    (!has_copies_left(&vtep.vtep, now, vpn->flood_burst / COPIES_BURST_SHARE) ||
	     !conforms(&from->flood, now, vpn->flood_gap * packets(skb), vpn->flood_burst))) {
		add(&from->limited, 1);
		alarm(EVENT_FLOOD, sender, NOBODY, source, &vtep.vtep, now);
		return drop_from(from, DROP_FLOOD_RATE);
	}

	struct flood flood = {
		.skb = skb,
		.vpn = vpn_number,
		.source = sender->member,
		.hub = sender->hub,
		.next = vpn->head,
	};

	/* Without the sender and the end of the chain, so many as there are others. */
	others = bpf_loop(MAX_MEMBERS, flood_one, &flood, 0) - 2;
	if (vpn->flood_gap && !sender->hub && others > 0)
		charge(&vtep.vtep, now,
		       vpn->flood_gap * packets(skb) * others / COPIES_PER_FRAME);
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

static __always_inline int remove_mac(const struct mac_key *key, __u64 member)
{
	struct vpn_usage *used;

	if (bpf_map_delete_elem(&macs, key))
		return 0;
	count_mac(member, -1);
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
			done = remove_mac(&edit.key, entry->member);
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

/*
 * Sends a loop probe, for user space: it runs this program by BPF_PROG_TEST_RUN with the probe as
 * the frame. A socket could not say which member a frame is for.
 */
SEC("tc")
int send_probe(struct __sk_buff *skb)
{
	struct probing *ours = element(&probing, 0);
	union tunnel_words tunnel;
	struct member *member;
	struct probe probe;
	__u64 key_flags;

	if (!ours || bpf_skb_load_bytes(skb, sizeof(struct header), &probe, sizeof(probe)))
		return TC_ACT_SHOT;
	member = present(probe.member);
	if (!member)
		return TC_ACT_SHOT;
	key_flags = fill_key(&tunnel, member);
	if (!bpf_skb_set_tunnel_key(skb, &tunnel.key, sizeof(tunnel.key), key_flags))
		bpf_clone_redirect(skb, ours->ifindex, 0);
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual MIT/GPL";
