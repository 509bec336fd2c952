#include "devices/virtio/tcp_flows.h"
#include "base/bytes.h"
#include "base/inet_sum.h"
#include "base/util.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#define SETS 512u
#define WAYS 8u
#define FLOWS (SETS * WAYS)
#define MAC_BYTES 6
#define ADDRESS_BYTES 16
#define FAR (1u << 30) /* a sequence number at this distance from the window is accepted by no receiver */

enum { ETHERNET_BYTES = 14, IPV4_BYTES = 20, IPV6_BYTES = 40, TCP_BYTES = 20 };
enum { ETHERTYPE_IPV4 = 0x0800, ETHERTYPE_IPV6 = 0x86dd };
enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };
enum { TTL = 64 };

/* The frame that a side is to get next. */
enum due {
	DUE_NONE,
	DUE_POKE,	/* a segment that the side must answer: poke_put() */
	DUE_RESET_BOTH, /* a RST with the side's last acknowledgement, then perhaps another one: reset_put() */
	DUE_RESET,	/* a RST with due_seq and due_ack */
};

struct flow_key {
	uint8_t address[TCP_SIDES][ADDRESS_BYTES]; /* IPv4 in the first 4 bytes */
	uint16_t port[TCP_SIDES];
	uint32_t ipv6;
};

struct flow {
	struct flow_key key;
	uint8_t mac[TCP_SIDES][MAC_BYTES];
	bool used, dead;
	bool known[TCP_SIDES];	  /* end and ack of this side */
	uint8_t due[TCP_SIDES];	  /* enum due */
	uint32_t end[TCP_SIDES];  /* the sequence number after all that this side has sent */
	uint32_t ack[TCP_SIDES];  /* this side's last acknowledgement number */
	uint32_t due_seq[TCP_SIDES], due_ack[TCP_SIDES]; /* DUE_RESET */
	uint64_t born;		  /* generation in which the first segment of all, a SYN, has passed; 0: unknown */
	uint64_t moved;		  /* generation */
	uint64_t last;		  /* number of its last segment; the flow with the lowest one is evicted */
};

struct mark {
	uint64_t key, generation;
	bool unknown_dead; /* the flows' value at the mark */
};

struct tcp_flows {
	struct flow flows[FLOWS];
	struct mark marks[TCP_FLOWS_MARKS];
	unsigned next_mark;
	uint64_t generation; /* changes with each mark and revert */
	uint64_t lost;	     /* latest generation in which an evicted flow had moved */
	uint64_t segments;
	bool unknown_dead;   /* a flow that the table lacks is dead: it began before a revert; a SYN begins a new one */
	uint64_t evicted;    /* latest generation in which a flow that was not dead was evicted */
	unsigned due[TCP_SIDES], cursor[TCP_SIDES];
};

struct segment {
	struct flow_key key;
	const uint8_t *mac[TCP_SIDES];
	uint32_t seq, ack, bytes; /* bytes: of the sequence space */
	uint8_t flags;
};

int tcp_flows_new(struct tcp_flows **ret)
{
	struct tcp_flows *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	f->generation = 1;
	*ret = f;
	return 0;
}

void tcp_flows_free(struct tcp_flows *f)
{
	free(f);
}

/* ---- parsing ---- */

/* Find the TCP header. Returns its offset, 0 if the packet is no whole segment; *ret_bytes: of header and data. */
static size_t ip_parse(enum tcp_side from, const uint8_t *head, size_t len, struct flow_key *k, size_t *ret_bytes)
{
	const uint8_t *ip = head + ETHERNET_BYTES;
	uint16_t type = load_be16(head + 12);
	size_t ip_bytes = type == ETHERTYPE_IPV6 ? IPV6_BYTES : (ip[0] & 15u) * 4u, address, total;

	if (type == ETHERTYPE_IPV4) {
		if (ip[0] >> 4 != 4 || ip_bytes < IPV4_BYTES || ip[9] != IPPROTO_TCP || (load_be16(ip + 6) & 0x3fff))
			return 0;
		total = load_be16(ip + 2);
		address = 4;
	} else {
		if (type != ETHERTYPE_IPV6 || len < ETHERNET_BYTES + IPV6_BYTES || ip[0] >> 4 != 6 || ip[6] != IPPROTO_TCP)
			return 0;
		total = (size_t)IPV6_BYTES + load_be16(ip + 4);
		address = ADDRESS_BYTES;
	}
	if (len < ETHERNET_BYTES + ip_bytes + TCP_BYTES || total < ip_bytes + TCP_BYTES)
		return 0;
	k->ipv6 = type == ETHERTYPE_IPV6;
	memcpy(k->address[from], ip + (k->ipv6 ? 8 : 12), address);
	memcpy(k->address[!from], ip + (k->ipv6 ? 24 : 16), address);
	*ret_bytes = total - ip_bytes;
	return ETHERNET_BYTES + ip_bytes;
}

static bool segment_parse(enum tcp_side from, const uint8_t *head, size_t len, struct segment *s)
{
	size_t bytes, header, at;
	const uint8_t *tcp;

	memset(s, 0, sizeof(*s));
	at = len < ETHERNET_BYTES + IPV4_BYTES + TCP_BYTES ? 0 : ip_parse(from, head, len, &s->key, &bytes);
	if (!at)
		return false;
	tcp = head + at;
	header = (tcp[12] >> 4) * 4u;
	if (header < TCP_BYTES || header > bytes)
		return false;
	s->key.port[from] = load_be16(tcp);
	s->key.port[!from] = load_be16(tcp + 2);
	s->mac[!from] = head;
	s->mac[from] = head + MAC_BYTES;
	s->seq = load_be32(tcp + 4);
	s->ack = load_be32(tcp + 8);
	s->flags = tcp[13];
	s->bytes = (uint32_t)(bytes - header) + !!(s->flags & SYN) + !!(s->flags & FIN);
	return true;
}

/* ---- the table ---- */

static unsigned set_of(const struct flow_key *k)
{
	uint64_t h = 0, words[sizeof(*k) / 8];

	memcpy(words, k, sizeof(words));
	for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
		h = (h ^ words[i]) * 0x9e3779b97f4a7c15ULL;
		h ^= h >> 29;
	}
	return (unsigned)(h % SETS) * WAYS;
}

static struct flow *flow_find(struct tcp_flows *f, const struct flow_key *k)
{
	struct flow *set = f->flows + set_of(k);

	for (unsigned i = 0; i < WAYS; i++)
		if (set[i].used && !memcmp(&set[i].key, k, sizeof(*k)))
			return &set[i];
	return NULL;
}

static void due_set(struct tcp_flows *f, struct flow *w, enum tcp_side to, enum due due)
{
	f->due[to] += (due != DUE_NONE) - (w->due[to] != DUE_NONE);
	w->due[to] = (uint8_t)due;
}

static struct flow *flow_add(struct tcp_flows *f, const struct flow_key *k)
{
	struct flow *set = f->flows + set_of(k), *w = set;

	for (unsigned i = 0; i < WAYS && w->used; i++)
		if (!set[i].used || set[i].last < w->last)
			w = &set[i];
	if (w->used) {
		f->lost = MAX(f->lost, w->moved);
		/* A flow that began after the revert would be mistaken for one from before it. */
		if (!w->dead) {
			f->unknown_dead = false;
			f->evicted = f->generation;
		}
	}
	due_set(f, w, TCP_GUEST, DUE_NONE);
	due_set(f, w, TCP_PEER, DUE_NONE);
	memset(w, 0, sizeof(*w));
	w->key = *k;
	w->used = true;
	return w;
}

/* ---- segments ---- */

static void flow_follow(struct tcp_flows *f, struct flow *w, enum tcp_side from, const struct segment *s)
{
	uint32_t end = s->seq + s->bytes;

	memcpy(w->mac[TCP_GUEST], s->mac[TCP_GUEST], MAC_BYTES);
	memcpy(w->mac[TCP_PEER], s->mac[TCP_PEER], MAC_BYTES);
	if (s->bytes || (s->flags & RST))
		w->moved = f->generation;
	if (s->flags & RST)
		return;
	if (!w->known[from] || (s->flags & SYN) || (int32_t)(end - w->end[from]) > 0)
		w->end[from] = end;
	if (s->flags & ACK)
		w->ack[from] = s->ack;
	w->known[from] = true;
}

/* Answer a segment of a dead flow. RFC 9293, 3.10.7.1 has the numbers. */
static void flow_refuse(struct tcp_flows *f, struct flow *w, enum tcp_side from, const struct segment *s)
{
	if (!(s->flags & ACK))
		return;
	w->due_seq[from] = s->ack;
	w->due_ack[from] = s->seq + s->bytes;
	due_set(f, w, from, DUE_RESET);
}

static struct flow *flow_begin(struct tcp_flows *f, enum tcp_side from, const struct segment *s, bool opens)
{
	struct flow *w = flow_add(f, &s->key);

	w->born = opens ? f->generation : 0;
	if (f->unknown_dead && !(s->flags & SYN)) {
		flow_follow(f, w, from, s);
		due_set(f, w, !from, DUE_POKE);
		w->dead = true;
		w->moved = f->generation;
	}
	return w;
}

bool tcp_flows_note(struct tcp_flows *f, enum tcp_side from, bool own, const uint8_t *head, size_t len)
{
	struct segment s;
	struct flow *w;
	bool opens;

	if (!segment_parse(from, head, len, &s))
		return true;
	opens = (s.flags & (SYN | ACK | RST)) == SYN;
	w = flow_find(f, &s.key);
	if ((!w && (s.flags & RST)) || (!own && !(w && w->known[TCP_GUEST])))
		return true;
	if (!w)
		w = flow_begin(f, from, &s, opens);
	w->last = ++f->segments;
	if (opens && w->dead) {
		due_set(f, w, TCP_GUEST, DUE_NONE);
		due_set(f, w, TCP_PEER, DUE_NONE);
		w->known[TCP_GUEST] = w->known[TCP_PEER] = w->dead = false;
	}
	if (!w->dead || (s.flags & RST)) {
		flow_follow(f, w, from, &s);
		return true;
	}
	flow_refuse(f, w, from, &s);
	return false;
}

/* ---- snapshots ---- */

void tcp_flows_mark(struct tcp_flows *f, uint64_t key)
{
	f->marks[f->next_mark++ % TCP_FLOWS_MARKS] = (struct mark){ key, ++f->generation, f->unknown_dead };
}

static const struct mark *mark_find(const struct tcp_flows *f, uint64_t key)
{
	for (unsigned i = 0; key && i < TCP_FLOWS_MARKS; i++)
		if (f->marks[i].key == key)
			return &f->marks[i];
	return NULL;
}

/* Make a flow dead. The guest of the snapshot knows it unless it was born since, even if its peer was reset before. */
static void flow_die(struct tcp_flows *f, struct flow *w, uint64_t since)
{
	if (!w->dead)
		due_set(f, w, TCP_PEER, DUE_RESET_BOTH);
	w->dead = true;
	w->moved = f->generation;
	due_set(f, w, TCP_GUEST, since && w->born >= since ? DUE_NONE : DUE_POKE);
}

void tcp_flows_revert(struct tcp_flows *f, uint64_t key, bool all)
{
	const struct mark *m = mark_find(f, key);
	uint64_t since = m && f->lost < m->generation ? m->generation : 0;

	f->generation++;
	f->unknown_dead = all || !since || (m->unknown_dead && m->generation > f->evicted);
	for (unsigned i = 0; i < FLOWS; i++) {
		struct flow *w = &f->flows[i];

		if (w->used && (all || w->dead || w->moved >= since))
			flow_die(f, w, since);
	}
	f->cursor[TCP_GUEST] = f->cursor[TCP_PEER] = 0;
}

/* ---- frames ---- */

/* Write a segment to a side in the name of the other one. data: number of zero bytes of data. Returns the frame's
 * length. */
static size_t frame_put(const struct flow *w, enum tcp_side to, uint8_t flags, uint32_t seq, uint32_t ack, size_t data, uint8_t *out)
{
	size_t address = w->key.ipv6 ? ADDRESS_BYTES : 4, ip_bytes = w->key.ipv6 ? IPV6_BYTES : IPV4_BYTES, tcp_bytes = TCP_BYTES + data;
	uint8_t *ip = out + ETHERNET_BYTES, *tcp = ip + ip_bytes, *from = ip + (w->key.ipv6 ? 8 : 12);

	memset(out, 0, TCP_FLOWS_FRAME_BYTES);
	memcpy(out, w->mac[to], MAC_BYTES);
	memcpy(out + MAC_BYTES, w->mac[!to], MAC_BYTES);
	store_be16(out + 12, w->key.ipv6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4);
	memcpy(from, w->key.address[!to], address);
	memcpy(from + address, w->key.address[to], address);
	if (w->key.ipv6) {
		ip[0] = 0x60;
		store_be16(ip + 4, (uint16_t)tcp_bytes);
		ip[6] = IPPROTO_TCP;
		ip[7] = TTL;
	} else {
		ip[0] = 0x45;
		store_be16(ip + 2, (uint16_t)(ip_bytes + tcp_bytes));
		ip[6] = 0x40; /* do not fragment */
		ip[8] = TTL;
		ip[9] = IPPROTO_TCP;
		store_be16(ip + 10, (uint16_t)~sum_fold(sum_add(0, ip, IPV4_BYTES)));
	}
	store_be16(tcp, w->key.port[!to]);
	store_be16(tcp + 2, w->key.port[to]);
	store_be32(tcp + 4, seq);
	store_be32(tcp + 8, ack);
	tcp[12] = TCP_BYTES / 4 << 4;
	tcp[13] = flags;
	store_be16(tcp + 16, (uint16_t)~sum_fold(sum_add(sum_add(IPPROTO_TCP + tcp_bytes, from, 2 * address), tcp, tcp_bytes)));
	return ETHERNET_BYTES + ip_bytes + tcp_bytes;
}

/* Write the reset for a side whose numbers were seen before. Its sequence number is the one that the side has
 * acknowledged. If more was sent to the side, a second reset follows with the end of that: the side may have got it. */
static size_t reset_put(struct tcp_flows *f, struct flow *w, enum tcp_side to, uint8_t *out)
{
	uint32_t acked = w->known[to] ? w->ack[to] : w->end[!to];

	if (w->known[to] && w->known[!to] && w->end[!to] != acked) {
		w->due_seq[to] = w->end[!to];
		w->due_ack[to] = w->end[to];
		due_set(f, w, to, DUE_RESET);
	} else {
		due_set(f, w, to, DUE_NONE);
	}
	return frame_put(w, to, RST | ACK, acked, w->known[to] ? w->end[to] : w->ack[!to], 0, out);
}

/* Write a segment that the receiver must answer with its own numbers: a byte of data far outside the window. Without
 * data, Linux would limit the rate of answers. */
static size_t poke_put(const struct flow *w, enum tcp_side to, uint8_t *out)
{
	uint32_t seq = w->known[!to] ? w->end[!to] : w->ack[to];

	return frame_put(w, to, ACK, seq - FAR, w->known[to] ? w->end[to] : w->ack[!to], 1, out);
}

static size_t due_put(struct tcp_flows *f, struct flow *w, enum tcp_side to, uint8_t *out)
{
	enum due due = w->due[to];

	if (due == DUE_RESET_BOTH)
		return reset_put(f, w, to, out);
	due_set(f, w, to, DUE_NONE);
	return due == DUE_POKE ? poke_put(w, to, out) : frame_put(w, to, RST | ACK, w->due_seq[to], w->due_ack[to], 0, out);
}

size_t tcp_flows_next(struct tcp_flows *f, enum tcp_side to, uint8_t out[TCP_FLOWS_FRAME_BYTES])
{
	while (f->due[to]) {
		struct flow *w = &f->flows[f->cursor[to] % FLOWS];

		if (w->due[to])
			return due_put(f, w, to, out);
		f->cursor[to]++;
	}
	return 0;
}
