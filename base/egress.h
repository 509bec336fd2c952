/* egress: rules about the destinations that a guest may reach, by address, DNS name, protocol and port; the first rule
 * that matches decides (docs/definition.md, "Egress rules"). IPv4 addresses are in their IPv6 form ::ffff:a.b.c.d. */
#ifndef CAIRN_BASE_EGRESS_H
#define CAIRN_BASE_EGRESS_H

#include <stdbool.h>
#include <stdint.h>

#define EGRESS_RULES_MAX 64 /* one bit each in a uint64_t */
#define EGRESS_PORTS_MAX 8
#define EGRESS_NAME_BYTES 254 /* RFC 1035: a name in text form has at most 253 bytes */
#define EGRESS_ADDRESS_BYTES 16
#define EGRESS_IPV4_AT 12 /* of an IPv4 address in its IPv6 form */
#define EGRESS_TARGET_TEXT 260
#define EGRESS_PORTS_TEXT (EGRESS_PORTS_MAX * 12)
#define EGRESS_RULE_TEXT (EGRESS_TARGET_TEXT + EGRESS_PORTS_TEXT + 16)

#define EGRESS_IPV4_BITS 96 /* bits before an IPv4 address in its IPv6 form */

/* For how long an address that a name has opened stays open. */
#define EGRESS_TTL_MIN_S 300   /* an address is open at least for this time after the answer */
#define EGRESS_TTL_MAX_S 86400
#define EGRESS_IDLE_S 300      /* after its end, an address that is in use stays open for existing connections */

/* The bytes before an IPv4 address in its IPv6 form. */
extern const uint8_t egress_ipv4_form[EGRESS_IPV4_AT];

enum egress_target { EGRESS_ANY, EGRESS_PREFIX, EGRESS_NAME };

struct egress_rule {
	bool allow;
	bool below; /* EGRESS_NAME: the names below this one, not itself ("*.example.org") */
	uint8_t target; /* enum egress_target */
	uint8_t bits; /* EGRESS_PREFIX: of the 128 */
	uint8_t protocol; /* 0: any; IPPROTO_TCP, IPPROTO_UDP; IPPROTO_ICMP stands for ICMPv6, too */
	uint8_t nports; /* 0: any */
	struct {
		uint16_t from, to;
	} ports[EGRESS_PORTS_MAX];
	uint8_t address[EGRESS_ADDRESS_BYTES];
	char name[EGRESS_NAME_BYTES]; /* lower case, without a dot at its end */
};

struct egress {
	bool allow; /* for destinations that match no rule */
	uint32_t nrules;
	struct egress_rule rules[EGRESS_RULES_MAX];
};

/* Parse "any", an address, a prefix, a DNS name, or "*." and a DNS name. Sets target, bits, address, below and name.
 * Returns NULL; or the fault, as the end of a sentence. */
const char *egress_target_parse(const char *text, struct egress_rule *r);
void egress_target_print(const struct egress_rule *r, char text[EGRESS_TARGET_TEXT]);
/* Parse ports such as "80,8000-8100". Returns NULL; or the fault. */
const char *egress_ports_parse(const char *text, struct egress_rule *r);
/* Prints nothing if the rule has no ports. */
void egress_ports_print(const struct egress_rule *r, char text[EGRESS_PORTS_TEXT]);
/* Returns 0 for "any"; a protocol's number; -1: unknown. */
int egress_protocol_parse(const char *text);
const char *egress_protocol_name(uint8_t protocol);

/* Print all rules as one line: "deny;allow tcp 443 *.example.org;allow any - 10.0.0.0/8".
 * Returns an owned text; NULL: no memory. */
char *egress_print(const struct egress *e);
/* Parse the text of egress_print(), which is split in place. Returns false if it is something else. */
bool egress_parse(char *text, struct egress *ret_e);

/* A prefix of addresses. */
struct egress_prefix {
	uint8_t bits;
	uint8_t address[EGRESS_ADDRESS_BYTES];
};
bool egress_prefix_has(const struct egress_prefix *p, const uint8_t address[EGRESS_ADDRESS_BYTES]);

/* Has any rule a DNS name? */
bool egress_has_names(const struct egress *e);
/* May the guest ask for this name? name: lower case, without a dot at its end. A rule that denies some ports of a name
 * leaves the others, so the name may be asked. */
bool egress_takes_name(const struct egress *e, const char *name);
/* May a name open this address? Not private, loopback, link-local, multicast or reserved ones, and IPv6 addresses that
 * stand for IPv4 addresses. */
bool egress_address_is_public(const uint8_t address[EGRESS_ADDRESS_BYTES]);
/* Is it an IPv6 address that a translator or a tunnel turns into an IPv4 address: NAT64, 6to4, Teredo? */
bool egress_address_is_translated(const uint8_t address[EGRESS_ADDRESS_BYTES]);

/* Does the rule fit this protocol and port? port: 0 for protocols without ports. */
bool egress_rule_fits_port(const struct egress_rule *r, uint8_t protocol, uint16_t port);
/* Does the address lie in the rule's prefix? */
bool egress_rule_has_address(const struct egress_rule *r, const uint8_t address[EGRESS_ADDRESS_BYTES]);
/* A number that stands for the names of a rule with EGRESS_NAME: the same for the same text, and never 0. */
uint64_t egress_rule_name_hash(const struct egress_rule *r);
/* Does the rule name this DNS name? name: lower case, without a dot at its end. */
bool egress_rule_has_name(const struct egress_rule *r, const char *name);

#endif
