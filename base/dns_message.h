/* dns_message: reads the DNS messages that pass between a guest and the resolver (RFC 1035). Nothing in them
 * is trusted. */
#ifndef CAIRN_BASE_DNS_MESSAGE_H
#define CAIRN_BASE_DNS_MESSAGE_H

#include "base/egress.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DNS_PORT 53
#define DNS_HEADER 12
#define DNS_QUERY_MAX 320 /* header, a name of 255 bytes, type and class, and the record of EDNS */
#define DNS_ANSWER_MAX 4096
#define DNS_ADDRESSES_MAX 32 /* most addresses that are read from one answer; further ones are not opened */
/* Offsets in the header and values. */
enum { DNS_ID = 0, DNS_FLAGS = 2, DNS_CODE = 3, DNS_QUESTIONS = 4, DNS_ANSWERS = 6, DNS_EXTRAS = 10 };
enum { DNS_REFUSED = 5, DNS_FAILED = 2 };

struct dns_question {
	uint16_t id, type;
	size_t bytes; /* of the header and the question */
	bool edns, dnssec; /* the guest takes EDNS; it wants signatures */
	uint16_t room; /* size of the answers that the guest takes */
	char name[EGRESS_NAME_BYTES]; /* lower case, without a dot at its end; empty: the root */
};

struct dns_address {
	uint8_t address[EGRESS_ADDRESS_BYTES];
	uint32_t ttl_s;
};

/* Parse a question for one name in letters, digits, - and _. Returns false if it is anything else. */
bool dns_question_parse(const uint8_t *message, size_t len, struct dns_question *ret_q);
/* Write the query for the host's resolver. From the guest's message, it has only the name, in lower case, and the
 * type. Returns its length. */
size_t dns_query_make(const struct dns_question *q, uint16_t id, uint8_t out[DNS_QUERY_MAX]);
/* Is the message an answer to this question with this id? */
bool dns_answer_fits(const struct dns_question *q, uint16_t id, const uint8_t *message, size_t len);
/* List the addresses that an answer gives for the name of the question or for a name to which its CNAME records lead.
 * Addresses of other names are left out. Returns their number. */
unsigned dns_answer_addresses(const struct dns_question *q, const uint8_t *message, size_t len,
	struct dns_address ret[DNS_ADDRESSES_MAX]);

#endif
