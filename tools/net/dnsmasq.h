/* dnsmasq: the network's DHCP, DNS and router advertisements: Debian's dnsmasq, with a user id of its own and three
 * capabilities, in network and mount namespaces of its own. The network namespace has loopback and one end of a veth;
 * the other end is a port of the bridge. Its file system is read-only but for the network's files, which it sees in
 * /tmp.
 *
 * Files below FOLDER/dnsmasq, root's: UUID-HASH.conf (of the folder's path), dhcp-hosts, dns-hosts; below it
 * state/leases, which belongs to dnsmasq's user; tftp, where it sees the definition's tftp_root. FOLDER/dnsmasq.pid:
 * process id and start time. FOLDER/service: its addresses, which stay the same over restarts. */
#ifndef CAIRN_TOOLS_NET_DNSMASQ_H
#define CAIRN_TOOLS_NET_DNSMASQ_H

#include "tools/net/accept.h"
#include "tools/net/link.h"
#include "tools/net/rules.h"

struct dnsmasq {
	const struct request *req; /* borrowed */
	struct service service;
	pid_t pid; /* 0: none runs */
	uid_t uid;
	gid_t gid;
};

/* Choose addresses and user, and find the running process. Returns 0; -errno with a sentence. */
int dnsmasq_init(struct dnsmasq *d, const struct request *req, struct err *e);
/* Read the addresses that it had at its last start; family 0: none. */
void dnsmasq_addresses(const struct request *req, struct service *ret);
/* Check that the program is installed. Returns 0; -ENOENT with a sentence. */
int dnsmasq_check_installed(struct err *e);
/* Write the files for it. ret_same: whether a running dnsmasq can take them without a new start. Returns 0; -errno. */
int dnsmasq_write(const struct dnsmasq *d, bool *ret_same, note_fn *note, void *arg, struct err *e);
/* Start it in a new namespace, with a veth to the bridge. Returns 0; -errno with a sentence; nothing remains then. */
int dnsmasq_start(struct dnsmasq *d, struct links *l, int bridge, struct err *e);
/* Stop it, and start it anew in its namespace. Returns 0; -errno with a sentence. */
int dnsmasq_restart(struct dnsmasq *d, struct err *e);
/* Make it read its lists of hosts again. */
int dnsmasq_reload(const struct dnsmasq *d, struct err *e);
/* Stop it, and also a process that a killed cairn-net has left. Returns the process id; 0: none ran; -errno. */
int dnsmasq_stop(const struct request *req, struct err *e);

#endif
