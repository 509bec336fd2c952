/* notices: tells the host's rules which addresses names have opened (base/egress_notice.h), and knows which of the
 * notices the host has answered. */
#ifndef CAIRN_TOOLS_DNS_NOTICES_H
#define CAIRN_TOOLS_DNS_NOTICES_H

#include "tools/dns/settings.h"

struct err;
struct notices;

/* Open the socket; needs CAP_NET_RAW. settings: outlives the result. Returns 0; -errno with a sentence. */
int notices_new(const struct settings *s, struct notices **ret_n, struct err *e);
void notices_free(struct notices *n);
int notices_fd(const struct notices *n);

/* Open an address for all rules that have this name. number: comes back with the host's answers.
 * Returns how many answers will come; 0: no rule has the name, or nothing could be sent. */
unsigned notices_open(struct notices *n, const char *name, const uint8_t address[EGRESS_ADDRESS_BYTES], uint32_t ttl_s,
	uint16_t number, uint64_t now_ns);
/* Count a question that was refused. */
void notices_refused(struct notices *n);
/* Read an answer. Returns true if there was one: *ret_number is the notice's. */
bool notices_read(struct notices *n, uint16_t *ret_number);

#endif
