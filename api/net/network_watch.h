/* network_watch: repairs active networks when the host changes: a route leads to another link, as when a VPN connects,
 * or another firewall starts or reloads and deletes tables that have rules of Cairn's. It also asks whether
 * iptables-legacy blocks them (network_blocked.h) when a link gets an address. The kernel reports both by netlink.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_NETWORK_WATCH_H
#define CAIRN_API_NET_NETWORK_WATCH_H

struct network_watch;
struct vm_host;

/* Begin to watch, in host->network_watch. Without CAP_NET_ADMIN, with which networks are made, changes of rules stay
 * unseen. */
void network_watch_begin(struct vm_host *host);
/* NULL allowed. */
void network_watch_free(struct network_watch *w);

#endif
