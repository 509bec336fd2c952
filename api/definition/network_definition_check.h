/* network_definition_check: checks of a network's definition that concern several keys. Private to api/definition/. */
#ifndef CAIRN_API_DEFINITION_NETWORK_DEFINITION_CHECK_H
#define CAIRN_API_DEFINITION_NETWORK_DEFINITION_CHECK_H

#include <netinet/in.h>

struct network_definition;
struct parse;

/* Check a parsed definition. p: with an empty path. Returns 0; -EINVAL. */
int network_definition_check(struct parse *p, const struct network_definition *d);
/* Print an address; a mapped one as IPv4. Returns text. */
const char *network_address_print(const struct in6_addr *a, char text[INET6_ADDRSTRLEN]);

#endif
