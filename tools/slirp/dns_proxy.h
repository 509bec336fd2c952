/* dns_proxy: answers the guest's questions to its resolver when the interface has egress rules. It asks the host's
 * first name server on a connected socket of its own for each question, so only that server can answer, and opens the
 * addresses of allowed names (egress_filter.h). Names that the rules do not allow are refused. */
#ifndef CAIRN_TOOLS_SLIRP_DNS_PROXY_H
#define CAIRN_TOOLS_SLIRP_DNS_PROXY_H

#include "tools/slirp/guest_packet.h"

#include <poll.h>

#define DNS_QUERIES_MAX 32 /* queries that wait for the host's resolver; a further query replaces the oldest */

struct dns_proxy;
struct egress_filter;
struct err;
struct frames;

/* All arguments outlive the result. Returns 0; -ENOMEM with a sentence. */
int dns_proxy_new(struct egress_filter *filter, struct frames *frames, struct dns_proxy **ret_d, struct err *e);
void dns_proxy_free(struct dns_proxy *d);

/* Handle a datagram of the guest to its resolver. */
void dns_proxy_ask(struct dns_proxy *d, const struct guest_packet *p, uint64_t now_ns);
/* Answer questions that have waited 10 seconds with an error. Returns the time of the next call; UINT64_MAX: not
 * needed. */
uint64_t dns_proxy_expire(struct dns_proxy *d, uint64_t now_ns);
/* Add up to DNS_QUERIES_MAX entries for poll(). Returns their number. */
unsigned dns_proxy_poll_add(const struct dns_proxy *d, struct pollfd *fds);
void dns_proxy_poll_done(struct dns_proxy *d, const struct pollfd *fds, unsigned n, uint64_t now_ns);

#endif
