/* resolver: answers the guests' questions of DNS. It passes on those that the rules take, or that dnsmasq answers by
 * itself, to dnsmasq, and has an allowed name's addresses opened before the guest gets them. */
#ifndef CAIRN_TOOLS_DNS_RESOLVER_H
#define CAIRN_TOOLS_DNS_RESOLVER_H

#include "tools/dns/notices.h"
#include "tools/dns/settings.h"

struct err;
struct resolver;

/* dnsmasq's port in this network namespace; the namespace's rules drop what comes from guests to it. */
#define DNSMASQ_DNS_PORT 5300

/* Open all sockets; needs CAP_NET_BIND_SERVICE. Both outlive the result. Returns 0; -errno with a sentence. */
int resolver_new(const struct settings *s, struct notices *n, struct resolver **ret_r, struct err *e);
void resolver_free(struct resolver *r);
/* Wait for one round of questions and answers, and work on them. Returns 0; -errno: poll failed. */
int resolver_run(struct resolver *r);

#endif
