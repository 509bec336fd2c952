/* network: the addresses and the name of a guest whose init the agent is. The host has put them on the kernel's command
 * line, and no program of the root is needed to set them. */
#ifndef CAIRN_TOOLS_AGENT_NETWORK_H
#define CAIRN_TOOLS_AGENT_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <netinet/in.h>

struct network {
	struct in_addr address, mask, gateway;
	char address_text[INET_ADDRSTRLEN], resolver_text[INET_ADDRSTRLEN];
};

/* Parse "ADDRESS/PREFIX,GATEWAY,RESOLVER", all IPv4. Returns false if it is something else. */
bool network_parse(const char *text, struct network *ret);
/* Start the loopback and the first interface, and write /etc/resolv.conf, /etc/hosts and /etc/hostname. A failure is
 * printed. The agent is in the guest's root.
 * text: as for network_parse(); NULL: there is no network. name: the host name; NULL: that of the kernel.
 * binds: the root is a folder of the user; leave its files unchanged, and mount other files over them. */
void network_begin(const char *text, const char *name, bool binds);
/* Give the guest another host name, if it is another one. */
void network_name_set(const char *name, size_t len);

#endif
