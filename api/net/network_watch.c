#include "api/net/network_watch.h"
#include "api/net/network.h"
#include "api/net/network_blocked.h"
#include "api/net/network_life.h"
#include "api/vm/vm_host.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <linux/if_addr.h>
#include <linux/netconf.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define OWN_TABLES "cairn_"
#define OWN_VETH "cn-"
#define MESSAGE_BYTES 16384
#define MESSAGES_PER_ROUND 64
/* A reload takes a moment; and hosts with many containers change their rules all the time. */
#define DELAY_NS (500 * 1000000ULL)
#define INTERVAL_NS (2 * 1000000000ULL)

enum { ROUTES, RULES, SOCKETS };

struct network_watch {
	struct vm_host *host;
	struct {
		struct network_watch *owner;
		int fd;
		struct loop_watch *watch;
	} sockets[SOCKETS];
	struct loop_timer *timer;
	bool due; /* the timer is armed */
	bool parts; /* check the networks' parts then, not only whether they are blocked */
	uint64_t last_ns; /* of the last check; 0: none */
};

/* ---- messages ---- */

/* A link has got an address, as Docker's bridge does when it starts. */
static bool is_new_subnet(const struct nlmsghdr *m)
{
	const struct rtmsg *r = NLMSG_DATA(m);

	return m->nlmsg_type == RTM_NEWROUTE && m->nlmsg_len >= NLMSG_LENGTH(sizeof(*r)) && r->rtm_protocol == RTPROT_KERNEL &&
		r->rtm_type == RTN_UNICAST && r->rtm_scope == RT_SCOPE_LINK;
}

static const struct nlattr *attribute_find(const struct nlmsghdr *m, size_t header, unsigned type)
{
	size_t at = NLMSG_LENGTH(NLMSG_ALIGN(header));

	while (at + NLA_HDRLEN <= m->nlmsg_len) {
		const struct nlattr *a = (const void *)((const char *)m + at);

		if (a->nla_len < NLA_HDRLEN || at + a->nla_len > m->nlmsg_len)
			break;
		if ((a->nla_type & NLA_TYPE_MASK) == type)
			return a;
		at += NLA_ALIGN(a->nla_len);
	}
	return NULL;
}

/* Return whether a link that has been deleted or set down is the bridge of an active network, or a veth of dnsmasq. */
static bool is_lost_link(struct vm_host *host, const struct nlmsghdr *m)
{
	const struct ifinfomsg *i = NLMSG_DATA(m);
	const struct nlattr *a = attribute_find(m, sizeof(*i), IFLA_IFNAME);
	const struct network *n;
	char name[IFNAMSIZ] = "";

	if (m->nlmsg_len < NLMSG_LENGTH(sizeof(*i)) || (m->nlmsg_type != RTM_DELLINK && (m->nlmsg_type != RTM_NEWLINK || i->ifi_flags & IFF_UP)) || !a)
		return false;
	memcpy(name, a + 1, MIN(sizeof(name) - 1, a->nla_len - (size_t)NLA_HDRLEN));
	if (!strncmp(name, OWN_VETH, strlen(OWN_VETH)))
		return true;
	for (size_t k = 0; (n = network_at(host, k)); k++)
		if (n->state == NETWORK_ACTIVE && !strcmp(n->live->bridge, name))
			return true;
	return false;
}

/* Return the network that has the link as its bridge, also while it starts or stops; NULL: none. */
static const struct network *bridge_network(struct vm_host *host, unsigned index)
{
	const struct network *n;

	for (size_t k = 0; (n = network_at(host, k)); k++)
		if (n->live && if_nametoindex(n->live->bridge) == index)
			return n;
	return NULL;
}

/* Return whether a route may make a link an uplink of networks, or end that (tools/net/uplink.h). */
static bool is_uplink_route(struct vm_host *host, const struct nlmsghdr *m)
{
	const struct rtmsg *r = NLMSG_DATA(m);
	const struct nlattr *link = attribute_find(m, sizeof(*r), RTA_OIF), *to = attribute_find(m, sizeof(*r), RTA_DST);
	const unsigned char *first = to ? (const void *)(to + 1) : NULL;
	unsigned index = 0;

	if ((m->nlmsg_type != RTM_NEWROUTE && m->nlmsg_type != RTM_DELROUTE) || m->nlmsg_len < NLMSG_LENGTH(sizeof(*r)) ||
		r->rtm_type != RTN_UNICAST || r->rtm_table == RT_TABLE_LOCAL || (r->rtm_flags & RTM_F_CLONED))
		return false;
	/* Each link with IPv6 has a route to its link-local addresses, and each network's bridge one to the guests. */
	if (r->rtm_family == AF_INET6 && to && to->nla_len >= NLA_HDRLEN + 2 && first[0] == 0xfe && (first[1] & 0xc0) == 0x80)
		return false;
	if (link && link->nla_len >= NLA_HDRLEN + sizeof(index))
		memcpy(&index, link + 1, sizeof(index));
	return !index || !bridge_network(host, index);
}

static bool is_lost_address(struct vm_host *host, const struct nlmsghdr *m)
{
	const struct ifaddrmsg *a = NLMSG_DATA(m);
	const struct network *n;

	if (m->nlmsg_type != RTM_DELADDR || m->nlmsg_len < NLMSG_LENGTH(sizeof(*a)))
		return false;
	n = bridge_network(host, a->ifa_index);
	return n && n->state == NETWORK_ACTIVE;
}

/* Return whether somebody has switched forwarding off, of a link or of all, or on of all. The message about a new link
 * has more settings. */
static bool is_forwarding_change(const struct nlmsghdr *m)
{
	const size_t header = sizeof(struct netconfmsg);
	const struct nlattr *a = m->nlmsg_type == RTM_NEWNETCONF ? attribute_find(m, header, NETCONFA_FORWARDING) : NULL;
	const struct nlattr *link = a ? attribute_find(m, header, NETCONFA_IFINDEX) : NULL;
	int value, index;

	if (!link || a->nla_len < NLA_HDRLEN + sizeof(value) || link->nla_len < NLA_HDRLEN + sizeof(index) ||
		attribute_find(m, header, NETCONFA_PROXY_NEIGH))
		return false;
	memcpy(&value, a + 1, sizeof(value));
	memcpy(&index, link + 1, sizeof(index));
	return !value || index == NETCONFA_IFINDEX_ALL;
}

static bool is_lost_part(struct vm_host *host, const struct nlmsghdr *m)
{
	return is_uplink_route(host, m) || is_lost_link(host, m) || is_lost_address(host, m) || is_forwarding_change(m);
}

/* The name of the table is the first attribute of tables, chains and rules. */
static bool is_own_table(const struct nlmsghdr *m)
{
	const size_t head = NLMSG_LENGTH(NLMSG_ALIGN(sizeof(struct nfgenmsg)));
	const struct nlattr *a = (const void *)((const char *)m + head);

	return m->nlmsg_len >= head + NLA_HDRLEN + strlen(OWN_TABLES) && (a->nla_type & NLA_TYPE_MASK) == NFTA_RULE_TABLE &&
		a->nla_len >= NLA_HDRLEN + strlen(OWN_TABLES) && !memcmp(a + 1, OWN_TABLES, strlen(OWN_TABLES));
}

/* A firewall that starts adds chains; one that reloads deletes all rules, including ours. */
static bool is_other_firewall(const struct nlmsghdr *m)
{
	if (NFNL_SUBSYS_ID(m->nlmsg_type) != NFNL_SUBSYS_NFTABLES)
		return false;
	switch (NFNL_MSG_TYPE(m->nlmsg_type)) {
	case NFT_MSG_DELTABLE:
		return true;
	case NFT_MSG_NEWCHAIN:
	case NFT_MSG_DELCHAIN:
	case NFT_MSG_DELRULE:
		return !is_own_table(m);
	default:
		return false;
	}
}

/* ---- looking at the networks ---- */

static void networks_check(void *opaque);

static void check_later(struct network_watch *w, bool parts)
{
	uint64_t now = loop_now_ns(), at = now + DELAY_NS;

	w->parts |= parts;
	if (w->due)
		return;
	if (w->last_ns && w->last_ns + INTERVAL_NS > at)
		at = w->last_ns + INTERVAL_NS;
	w->due = true;
	loop_timer_arm(w->timer, at);
}

static void networks_check(void *opaque)
{
	struct network_watch *w = opaque;
	bool again = false, parts = w->parts;
	struct network *n;

	w->due = w->parts = false;
	w->last_ns = loop_now_ns();
	for (size_t i = 0; (n = network_at(w->host, i)); i++) {
		network_blocked_update(n);
		if (parts && !network_check_parts(n))
			again = true;
	}
	if (again)
		check_later(w, true);
}

static void socket_read(void *opaque, unsigned revents)
{
	struct network_watch *w = *(struct network_watch **)opaque;
	int which = opaque == &w->sockets[RULES];
	char text[MESSAGE_BYTES] __attribute__((aligned(NLMSG_ALIGNTO)));
	bool changed = false, added = false;
	ssize_t got = 0;

	(void)revents;
	for (unsigned i = 0; i < MESSAGES_PER_ROUND; i++) {
		got = recv(w->sockets[which].fd, text, sizeof(text), MSG_DONTWAIT);
		if (got < 0)
			break;
		for (const struct nlmsghdr *m = (const void *)text; got > 0 && NLMSG_OK(m, (size_t)got); m = NLMSG_NEXT(m, got)) {
			changed = changed || (which == ROUTES ? is_lost_part(w->host, m) : is_other_firewall(m));
			added = added || (which == ROUTES && is_new_subnet(m));
		}
	}
	/* The kernel dropped messages. */
	changed = changed || (got < 0 && errno == ENOBUFS);
	if (changed || added)
		check_later(w, changed);
}

/* ---- begin and end ---- */

static int socket_open(struct network_watch *w, int which)
{
	static const int protocols[] = { [ROUTES] = NETLINK_ROUTE, [RULES] = NETLINK_NETFILTER };
	static const unsigned groups[][8] = {
		[ROUTES] = { RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_NETCONF,
			RTNLGRP_IPV6_NETCONF },
		[RULES] = { NFNLGRP_NFTABLES },
	};
	struct sockaddr_nl a = { .nl_family = AF_NETLINK };
	int fd = w->sockets[which].fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocols[which]);

	if (fd < 0 || bind(fd, (void *)&a, sizeof(a)) < 0)
		return -errno;
	for (const unsigned *group = groups[which]; *group; group++)
		if (setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group, sizeof(*group)) < 0)
			return -errno;
	w->sockets[which].owner = w;
	return loop_watch(w->host->loop, fd, POLLIN, socket_read, &w->sockets[which], &w->sockets[which].watch);
}

void network_watch_begin(struct vm_host *host)
{
	struct network_watch *w;

	if (host->network_watch)
		return;
	host->network_watch = w = must_alloc(calloc(1, sizeof(*w)));
	w->host = host;
	if (loop_timer_new(host->loop, networks_check, w, &w->timer) < 0)
		abort();
	for (int i = 0; i < SOCKETS; i++)
		w->sockets[i].fd = -1;
	for (int i = 0; i < SOCKETS; i++) {
		int r = socket_open(w, i);

		if (r < 0 && r != -EPERM)
			log_warn("network", "the daemon does not see changes of the host's %s, so cairn net-start of an active network repairs it: %s",
				i == ROUTES ? "routes" : "rules of nftables", strerror(-r));
	}
}

void network_watch_free(struct network_watch *w)
{
	if (!w)
		return;
	for (int i = 0; i < SOCKETS; i++) {
		loop_unwatch(w->sockets[i].watch);
		if (w->sockets[i].fd >= 0)
			close(w->sockets[i].fd);
	}
	loop_timer_free(w->timer);
	free(w);
}
