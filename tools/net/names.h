/* names: cairn-dns, the name server of a network whose egress rules have names. It runs in dnsmasq's network namespace
 * and has its addresses there; dnsmasq answers DNS on loopback then. FOLDER/names has its settings, FOLDER/dns.pid its
 * process id. */
#ifndef CAIRN_TOOLS_NET_NAMES_H
#define CAIRN_TOOLS_NET_NAMES_H

#include "tools/net/dnsmasq.h"

/* Start cairn-dns if the network needs it and none runs there, or anew if its settings have changed; or stop it.
 * d: a dnsmasq that runs. Returns 0; -errno with a sentence. */
int names_up(const struct dnsmasq *d, struct err *e);
/* Stop it. Returns 0; -errno with a sentence. */
int names_down(const struct request *req, struct err *e);
/* Return the process id of the network's cairn-dns; 0: it needs none, or none runs. */
pid_t names_pid(const struct dnsmasq *d);
/* Does it run, or does the network need none? */
bool names_are_up(const struct dnsmasq *d);

#endif
