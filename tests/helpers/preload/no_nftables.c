/* A library for LD_PRELOAD: a kernel without nf_tables. NO_NFTABLES=nfnetlink: nor does it have the protocol of that;
 * otherwise the real kernel gets questions for a subsystem that it does not have. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MISSING_SUBSYSTEM 63

int socket(int domain, int type, int protocol)
{
	int (*real)(int, int, int) = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
	const char *what = getenv("NO_NFTABLES");

	if (domain == AF_NETLINK && protocol == NETLINK_NETFILTER && what && !strcmp(what, "nfnetlink")) {
		errno = EPROTONOSUPPORT;
		return -1;
	}
	return real(domain, type, protocol);
}

ssize_t sendto(int fd, const void *buf, size_t len, int flags, const struct sockaddr *to, socklen_t to_len)
{
	ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) =
		(ssize_t (*)(int, const void *, size_t, int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "sendto");
	struct nlmsghdr *h = (struct nlmsghdr *)buf;

	if (to && to->sa_family == AF_NETLINK && len >= sizeof(*h) && h->nlmsg_type >> 8 == NFNL_SUBSYS_NFTABLES)
		h->nlmsg_type = (unsigned short)(MISSING_SUBSYSTEM << 8 | (h->nlmsg_type & 255));
	return real(fd, buf, len, flags, to, to_len);
}
