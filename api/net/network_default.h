/* network_default: the network "default", which the system's daemon defines at its first start, as libvirt does.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_NET_NETWORK_DEFAULT_H
#define CAIRN_API_NET_NETWORK_DEFAULT_H

struct vm_host;

/* Define it unless an earlier daemon did so, in root's daemon with the default state folder: NAT with 192.168.122.0/24,
 * or the next such network that no route of the host overlaps. Waits for cairn-net, up to 5 s. The network is not
 * started. */
void network_default_define(struct vm_host *host);

#endif
