#include "api/vm/tap_counters.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "vmm/vm_msg.h"

#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* Taps and macvtap links of this daemon have such names. A process could ask for those of others otherwise. */
#define TAP_PREFIX "vnet"
#define ANSWER_BYTES 16384

/* Ask the kernel for the link. Returns the length of the answer; 0: none. */
static size_t link_ask(const char *name, void *answer)
{
	CLEANUP_CLOSE int sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	struct {
		struct nlmsghdr head;
		struct ifinfomsg link;
		struct rtattr attribute;
		char name[sizeof(((struct vm_interface_info *)0)->target)];
	} q = { .head = { .nlmsg_len = sizeof(q), .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST },
		.attribute = { .rta_type = IFLA_IFNAME } };
	ssize_t n;

	snprintf(q.name, sizeof(q.name), "%s", name);
	q.attribute.rta_len = (unsigned short)RTA_LENGTH(strlen(q.name) + 1);
	if (sock < 0 || send(sock, &q, sizeof(q), 0) < 0)
		return 0;
	n = recv(sock, answer, ANSWER_BYTES, 0);
	return n > 0 ? (size_t)n : 0;
}

static bool link_counters(const char *name, struct rtnl_link_stats64 *ret)
{
	_Alignas(struct nlmsghdr) char answer[ANSWER_BYTES];
	size_t bytes = link_ask(name, answer);
	struct nlmsghdr *head = (struct nlmsghdr *)(void *)answer;
	struct rtattr *a;
	int left;

	if (!NLMSG_OK(head, bytes) || head->nlmsg_type != RTM_NEWLINK)
		return false;
	a = IFLA_RTA(NLMSG_DATA(head));
	left = (int)IFLA_PAYLOAD(head);
	for (; RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		if (a->rta_type == IFLA_STATS64 && RTA_PAYLOAD(a) >= sizeof(*ret)) {
			memcpy(ret, RTA_DATA(a), sizeof(*ret));
			return true;
		}
	}
	return false;
}

/* The host sends what the guest receives. */
void tap_counters_take_one(struct vm_interface_info *i)
{
	struct rtnl_link_stats64 s;
	char name[sizeof(i->target)];

	memcpy(name, i->target, sizeof(name));
	name[sizeof(name) - 1] = 0;
	if (strncmp(name, TAP_PREFIX, strlen(TAP_PREFIX)) != 0 || !link_counters(name, &s))
		return;
	i->rx_bytes = s.tx_bytes;
	i->rx_packets = s.tx_packets;
	i->rx_errors = s.tx_errors;
	i->rx_drops = s.tx_dropped;
	i->tx_bytes = s.rx_bytes;
	i->tx_packets = s.rx_packets;
	i->tx_errors = s.rx_errors;
	i->tx_drops = s.rx_dropped;
}

void tap_counters_take(struct vm_info *info)
{
	for (unsigned i = 0; i < MIN(info->ninterfaces, VM_INTERFACES_MAX); i++)
		if (info->interfaces[i].vhost)
			tap_counters_take_one(&info->interfaces[i]);
}
