/* options: parse and check the command line of cairn-slirp (docs/slirp.md). */
#ifndef CAIRN_TOOLS_SLIRP_OPTIONS_H
#define CAIRN_TOOLS_SLIRP_OPTIONS_H

#include "base/egress.h"
#include "base/host_name.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

struct err;

#define FORWARDS_MAX 64
#define FDS_MAX 1024 /* limit of file descriptors of the process */
#define MTU_MIN 576 /* minimum of every IPv4 host (RFC 791) */
#define MTU_MAX 65520 /* one less than libslirp's maximum */

struct forward {
	int fd; /* bound socket; for TCP it listens, and libslirp has taken it once the stack runs */
	struct sockaddr_in own; /* its address on the host */
	bool udp;
	struct in_addr guest;
	uint16_t port; /* port of the guest */
};

struct options {
	int frames_fd;
	int control_fd; /* listening socket; -1: none */
	struct in_addr network, mask, gateway, resolver, first; /* first: the address that DHCP assigns */
	char hostname[HOST_LABEL_MAX + 1]; /* empty: none */
	unsigned mtu;
	bool restricted;
	bool host_loopback;
	bool filtered; /* egress has rules */
	struct egress egress;
	unsigned nforwards;
	struct forward forwards[FORWARDS_MAX];
	/* Guest addresses and ports of TCP forwards that were removed last: connections of these may be open. */
	struct forward removed[FORWARDS_MAX];
	unsigned nremoved; /* ever; the place of the next one is this modulo FORWARDS_MAX */
};

/* Parse the command line. The caller keeps the fds. Returns 0; -EINVAL with a sentence. */
int options_parse(int argc, char **argv, struct options *ret_o, struct err *e);
/* Add a forward. text: "tcp|udp:FD:ADDRESS|-:PORT", or without "FD:" if fd is not -1; split in place. fd: the bound
 * socket, which the forward keeps on success. Returns 0; -EINVAL with a sentence. */
int options_add_forward(struct options *o, char *text, int fd, struct err *e);
/* Remove the forward `at`, and note it as removed; those behind it move up. Does not close its fd. */
void options_remove_forward(struct options *o, unsigned at);

#endif
