/* settings: cairn-net's configuration for cairn-dns, as lines of text on standard input:
 *
 *   user 61184
 *   egress deny;allow tcp 443 *.example.org
 *   listen 192.168.122.254        and again for IPv6
 *   gateway 192.168.122.1         the host's address in the network, of either family
 *   own 192.168.122.0/24          a network of the guests; and again for IPv6
 *   domain vms.example            optional
 *   name gate.example             of the network's own DNS hosts; any number */
#ifndef CAIRN_TOOLS_DNS_SETTINGS_H
#define CAIRN_TOOLS_DNS_SETTINGS_H

#include "base/egress.h"

#include <sys/types.h>

struct err;

#define LISTEN_MAX 2

struct settings {
	uid_t user;
	struct egress egress;
	unsigned nlisten, nown;
	uint8_t listen[LISTEN_MAX][EGRESS_ADDRESS_BYTES]; /* IPv4 addresses in their IPv6 form, as all below */
	uint8_t gateway[EGRESS_ADDRESS_BYTES];
	struct egress_prefix own[LISTEN_MAX];
	char domain[EGRESS_NAME_BYTES]; /* empty: none */
	char **names; /* owned, sorted; in lower case */
	size_t nnames;
};

/* Parse the text, which is split in place. ret: zeroed by the caller, who frees it with settings_done() in any case.
 * Returns 0; -EINVAL with a sentence that names the line; -ENOMEM. */
int settings_parse(char *text, struct settings *ret, struct err *e);
void settings_done(struct settings *s);

/* Does dnsmasq answer this question itself, without asking elsewhere? name: lower case, without a dot at its end.
 * type: of DNS. */
bool settings_name_is_local(const struct settings *s, const char *name, uint16_t type);
/* May a name open this address: a public one that is not the network's own? */
bool settings_address_opens(const struct settings *s, const uint8_t address[EGRESS_ADDRESS_BYTES]);

#endif
