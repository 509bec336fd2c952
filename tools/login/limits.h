/* limits: bounds failed logins for each user at an address, each address, and each user. A table of fixed size: names
 * that hash to one row share its limit, and no flood of names pushes another one out. */
#ifndef CAIRN_TOOLS_LOGIN_LIMITS_H
#define CAIRN_TOOLS_LOGIN_LIMITS_H

#include "base/token_bucket.h"

#include <stdint.h>

#define LIMITS_ROWS 4096
enum { LIMIT_USER_AT_ADDRESS, LIMIT_ADDRESS, LIMIT_USER, LIMIT_KINDS };

struct limits {
	uint64_t seed; /* random, so that nobody finds names that share a row */
	struct token_bucket rows[LIMIT_KINDS][LIMITS_ROWS];
};

void limits_init(struct limits *l, uint64_t seed);
/* Returns 0 if a login may be tried; otherwise for how many seconds it has to wait.
 * address: as in struct login_ask; the networks of IPv6 (/64) count as one. An address of this host has no limit of its
 * own, because users elsewhere may come through a forwarded port. */
unsigned limits_wait(struct limits *l, const char *user, const char *address, uint64_t now_ns);
/* Count a try. A successful one is given back (limits_return()). */
void limits_take(struct limits *l, const char *user, const char *address, uint64_t now_ns);
void limits_return(struct limits *l, const char *user, const char *address, uint64_t now_ns);

#endif
