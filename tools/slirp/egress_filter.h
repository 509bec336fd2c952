/* egress_filter: decides about each frame of the guest by the rules of the interface (base/egress.h), before libslirp
 * sees the frame. It knows the addresses that the resolver gave for allowed names. Makes no system call. */
#ifndef CAIRN_TOOLS_SLIRP_EGRESS_FILTER_H
#define CAIRN_TOOLS_SLIRP_EGRESS_FILTER_H

#include "tools/slirp/guest_packet.h"
#include "tools/slirp/options.h"

struct egress_filter;
struct err;

enum egress_verdict {
	EGRESS_PASS,
	EGRESS_DROP,	 /* not for the outside, such as multicast: not counted */
	EGRESS_DENY,
	EGRESS_QUESTION, /* a datagram to the resolver: dns_proxy answers */
};

struct egress_counts {
	uint64_t packets, questions; /* denied */
};

/* o: has the rules and the network; outlives the result. Returns 0; -ENOMEM with a sentence. */
int egress_filter_new(const struct options *o, struct egress_filter **ret_f, struct err *e);
void egress_filter_free(struct egress_filter *f);

/* Decide about a frame. *ret_p: the parsed fields; only its MAC addresses if it is no whole packet. */
enum egress_verdict egress_filter_verdict(struct egress_filter *f, const uint8_t *frame, size_t len, uint64_t now_ns,
	struct guest_packet *ret_p);
/* May the guest ask for this name? name: lower case, without a dot at its end. */
bool egress_filter_takes_name(const struct egress_filter *f, const char *name);
/* Is this an address that a name may open? Not private, loopback, link-local, multicast or reserved ones, those of the
 * guest's network, and IPv6 addresses that stand for IPv4 addresses. */
bool egress_filter_is_public(const struct egress_filter *f, const uint8_t address[EGRESS_ADDRESS_BYTES]);
/* Open an address for the rules that name this name. The caller has checked egress_filter_is_public(). */
void egress_filter_open(struct egress_filter *f, const char *name, const uint8_t address[EGRESS_ADDRESS_BYTES],
	uint32_t ttl_s, uint64_t now_ns);
/* The options have other rules now. Addresses stay open by the names that both have. old: the rules before. */
void egress_filter_change(struct egress_filter *f, const struct egress *old);
/* Do the rules allow an open connection or datagram socket to send there? protocol: IPPROTO_TCP or IPPROTO_UDP. */
bool egress_filter_allows(struct egress_filter *f, uint8_t protocol, const uint8_t to[EGRESS_ADDRESS_BYTES], uint16_t port,
	uint64_t now_ns);
/* The counters; the caller counts denied questions. */
struct egress_counts *egress_filter_counts(struct egress_filter *f);

#endif
