/* options: what cairn-slirp is started with, checked (docs/slirp.md). */
#ifndef CAIRN_TOOLS_SLIRP_OPTIONS_H
#define CAIRN_TOOLS_SLIRP_OPTIONS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

struct err;

#define FORWARDS_MAX 64
#define FDS_MAX 1024 /* file descriptors of the process; each is below it */
#define HOSTNAME_LEN_MAX 63 /* RFC 1123 */
#define MTU_MIN 576 /* what every IPv4 host takes (RFC 791) */
#define MTU_MAX 65520 /* libslirp's largest is one more */

struct forward {
	int fd; /* a socket that is bound, and listens when it is TCP's */
	bool udp;
	struct in_addr guest;
	uint16_t port; /* the guest's */
};

struct options {
	int frames_fd;
	int control_fd; /* listens; -1: none */
	struct in_addr network, mask, gateway, resolver, first; /* first: the address that DHCP hands out */
	char hostname[HOSTNAME_LEN_MAX + 1]; /* empty: none */
	unsigned mtu;
	bool restricted;
	bool host_loopback;
	unsigned nforwards;
	struct forward forwards[FORWARDS_MAX];
};

/* Fds are the caller's: borrowed. Returns 0; -EINVAL with a sentence. */
int options_parse(int argc, char **argv, struct options *ret_o, struct err *e);

#endif
