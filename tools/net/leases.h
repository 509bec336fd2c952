/* leases: dnsmasq's file of leases. */
#ifndef CAIRN_TOOLS_NET_LEASES_H
#define CAIRN_TOOLS_NET_LEASES_H

#include "tools/net/request.h"

/* Call found() with each line of the file; a file that is not there has none. Returns 0; -errno with a sentence. */
int leases_each(const struct request *req, void (*found)(void *arg, const char *line), void *arg, struct err *e);

#endif
