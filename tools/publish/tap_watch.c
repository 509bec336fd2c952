#include "tools/publish/tap_watch.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

int tap_watch_init(struct tap_watch *w)
{
	struct sockaddr_nl own = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK };

	*w = (struct tap_watch){ .sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) };
	w->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	if (w->sock < 0 || w->fd < 0 || bind(w->fd, (struct sockaddr *)&own, sizeof(own)) < 0)
		return -errno;
	return 0;
}

/* Returns the number of the link; 0: there is none. */
static int tap_index(const struct tap_watch *w)
{
	struct ifreq r = { 0 };

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", w->name);
	return ioctl(w->sock, SIOCGIFINDEX, &r) < 0 ? 0 : r.ifr_ifindex;
}

/* Have the kernel pass messages about the end of this link only: a host has many taps, and each has a process such as
 * this. A load of the filter swaps the bytes of the message, which has the host's order. */
static void filter_set(const struct tap_watch *w, int index)
{
	struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, offsetof(struct nlmsghdr, nlmsg_type)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htons(RTM_DELLINK), 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, NLMSG_HDRLEN + offsetof(struct ifinfomsg, ifi_index)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htonl((uint32_t)index), 0, 1),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog program = { ARRAY_SIZE(rules), rules };

	/* Without the filter, more messages come than are needed. */
	(void)setsockopt(w->fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
}

bool tap_watch_begin(struct tap_watch *w, const char *name)
{
	int index;

	snprintf(w->name, sizeof(w->name), "%s", name);
	index = tap_index(w);
	if (!index)
		return false;
	w->index = index;
	filter_set(w, index);
	return !tap_is_gone(w); /* messages before the filter are read */
}

bool tap_is_gone(struct tap_watch *w)
{
	char dropped[64];

	while (recv(w->fd, dropped, sizeof(dropped), MSG_DONTWAIT | MSG_TRUNC) >= 0 || errno == ENOBUFS || errno == EINTR)
		;
	return w->name[0] && tap_index(w) != w->index;
}
