#include "tools/net/link.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/net/privileges.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_BYTES (32 * KIB)

struct links {
	struct mnl_socket *sock;
	unsigned seq;
	char request[4096];
	char answer[BUFFER_BYTES];
};

int links_open(struct links **ret, struct err *e)
{
	struct links *l = must_alloc(calloc(1, sizeof(*l)));

	l->sock = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
	if (!l->sock || mnl_socket_bind(l->sock, 0, MNL_SOCKET_AUTOPID) < 0) {
		int error = errno;

		links_close(l);
		return err_set_errno(e, -error, "cannot open a netlink socket");
	}
	*ret = l;
	return 0;
}

void links_close(struct links *l)
{
	if (!l)
		return;
	if (l->sock)
		mnl_socket_close(l->sock);
	free(l);
}

/* ---- requests ---- */

static struct nlmsghdr *request_begin(struct links *l, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *n = mnl_nlmsg_put_header(l->request);

	n->nlmsg_type = type;
	n->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
	n->nlmsg_seq = ++l->seq;
	return n;
}

static struct nlmsghdr *link_request(struct links *l, uint16_t type, uint16_t flags, int index)
{
	struct nlmsghdr *n = request_begin(l, type, flags);
	struct ifinfomsg *m = mnl_nlmsg_put_extra_header(n, sizeof(*m));

	m->ifi_family = AF_UNSPEC;
	m->ifi_index = index;
	return n;
}

/* Send the request, and give each message of its answer to the callback. Returns the last result of the callbacks
 * (MNL_CB_STOP is 0); -errno. */
static int request_run(struct links *l, struct nlmsghdr *n, mnl_cb_t each, void *arg)
{
	unsigned port = mnl_socket_get_portid(l->sock);
	int r;

	if (mnl_socket_sendto(l->sock, n, n->nlmsg_len) < 0)
		return -errno;
	do {
		ssize_t got = mnl_socket_recvfrom(l->sock, l->answer, sizeof(l->answer));

		r = got < 0 ? -1 : mnl_cb_run(l->answer, (size_t)got, n->nlmsg_seq, port, each, arg);
	} while (r > MNL_CB_STOP || (r < 0 && errno == EINTR));
	return r < 0 ? -errno : 0;
}

/* The same for a request that the kernel only confirms. */
static int request_confirm(struct links *l, struct nlmsghdr *n)
{
	n->nlmsg_flags |= NLM_F_ACK;
	return request_run(l, n, NULL, NULL);
}

static int link_failed(int error, const char *name, const char *what, struct err *e)
{
	if (error == -EPERM || error == -EACCES)
		return err_set(e, error, ERR_PERMISSION, "%s '%s' requires CAP_NET_ADMIN; %s", what, name, privileges_remedy());
	if (error == -EOPNOTSUPP)
		return err_set(e, error, ERR_HOST, "%s '%s': the kernel has no such links; load the modules with: modprobe -a bridge veth", what,
			name);
	return err_set_errno(e, error, "%s '%s'", what, name);
}

/* ---- finding links ---- */

static void attribute_text(const struct nlattr *a, char *buf, size_t size)
{
	if (mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0)
		snprintf(buf, size, "%s", mnl_attr_get_str(a));
}

static int link_read(const struct nlmsghdr *n, void *arg)
{
	const struct ifinfomsg *m = mnl_nlmsg_get_payload(n);
	const struct nlattr *a, *inner;
	struct link *ret = arg;

	ret->index = m->ifi_index;
	ret->is_up = m->ifi_flags & IFF_UP;
	mnl_attr_for_each(a, n, sizeof(*m)) {
		if (mnl_attr_get_type(a) == IFLA_MASTER && mnl_attr_validate(a, MNL_TYPE_U32) >= 0)
			ret->master = (int)mnl_attr_get_u32(a);
		else if (mnl_attr_get_type(a) == IFLA_MTU && mnl_attr_validate(a, MNL_TYPE_U32) >= 0)
			ret->mtu = mnl_attr_get_u32(a);
		else if (mnl_attr_get_type(a) == IFLA_ADDRESS && mnl_attr_get_payload_len(a) == MAC_BYTES)
			memcpy(ret->mac, mnl_attr_get_payload(a), MAC_BYTES);
		else if (mnl_attr_get_type(a) == IFLA_IFALIAS)
			attribute_text(a, ret->alias, sizeof(ret->alias));
		else if (mnl_attr_get_type(a) == IFLA_LINKINFO)
			mnl_attr_for_each_nested(inner, a)
				if (mnl_attr_get_type(inner) == IFLA_INFO_KIND)
					attribute_text(inner, ret->kind, sizeof(ret->kind));
	}
	return MNL_CB_OK;
}

int link_find(struct links *l, const char *name, struct link *ret, struct err *e)
{
	struct nlmsghdr *n = link_request(l, RTM_GETLINK, 0, 0);
	int r;

	memset(ret, 0, sizeof(*ret));
	ret->name = name;
	mnl_attr_put_strz(n, IFLA_IFNAME, name);
	n->nlmsg_flags |= NLM_F_ACK;
	r = request_run(l, n, link_read, ret);
	return r == 0 || r == -ENODEV ? 0 : link_failed(r, name, "looking for the link", e);
}

struct link_search {
	void (*found)(const struct link *, void *);
	void *arg;
};

static int link_each_read(const struct nlmsghdr *n, void *arg)
{
	const struct link_search *s = arg;
	struct link link = { .name = "" };
	const struct nlattr *a;

	link_read(n, &link);
	mnl_attr_for_each(a, n, sizeof(struct ifinfomsg))
		if (mnl_attr_get_type(a) == IFLA_IFNAME && mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0)
			link.name = mnl_attr_get_str(a);
	s->found(&link, s->arg);
	return MNL_CB_OK;
}

int links_each(struct links *l, void (*found)(const struct link *, void *), void *arg, struct err *e)
{
	struct link_search s = { found, arg };
	int r = request_run(l, link_request(l, RTM_GETLINK, NLM_F_DUMP, 0), link_each_read, &s);

	return r < 0 ? err_set_errno(e, r, "cannot list the links") : 0;
}

/* ---- changing links ---- */

int link_make_bridge(struct links *l, const struct bridge_config *c, struct err *e)
{
	struct nlmsghdr *n = link_request(l, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0);
	struct nlattr *info, *data;
	int r;

	mnl_attr_put_strz(n, IFLA_IFNAME, c->name);
	mnl_attr_put(n, IFLA_ADDRESS, MAC_BYTES, c->mac);
	if (c->mtu)
		mnl_attr_put_u32(n, IFLA_MTU, c->mtu);
	info = mnl_attr_nest_start(n, IFLA_LINKINFO);
	mnl_attr_put_strz(n, IFLA_INFO_KIND, "bridge");
	data = mnl_attr_nest_start(n, IFLA_INFO_DATA);
	/* With STP, the kernel raises it to 2 seconds, its minimum. Its default of 15 would cut guests off for 30. */
	mnl_attr_put_u32(n, IFLA_BR_FORWARD_DELAY, 0);
	mnl_attr_put_u32(n, IFLA_BR_STP_STATE, c->stp);
	mnl_attr_nest_end(n, data);
	mnl_attr_nest_end(n, info);
	r = request_confirm(l, n);
	return r < 0 ? link_failed(r, c->name, "making the bridge", e) : 0;
}

int link_protect_bridge(struct links *l, int index, struct err *e)
{
	const struct br_boolopt_multi option = { .optval = 1u << BR_BOOLOPT_NO_LL_LEARN, .optmask = 1u << BR_BOOLOPT_NO_LL_LEARN };
	struct nlmsghdr *n = link_request(l, RTM_NEWLINK, 0, index);
	struct nlattr *info, *data;
	int r;

	info = mnl_attr_nest_start(n, IFLA_LINKINFO);
	mnl_attr_put_strz(n, IFLA_INFO_KIND, "bridge");
	data = mnl_attr_nest_start(n, IFLA_INFO_DATA);
	mnl_attr_put(n, IFLA_BR_MULTI_BOOLOPT, sizeof(option), &option);
	mnl_attr_nest_end(n, data);
	mnl_attr_nest_end(n, info);
	r = request_confirm(l, n);
	return r < 0 ? err_set_errno(e, r, "cannot set the bridge %d to learn nothing from link-local frames", index) : 0;
}

int link_make_veth(struct links *l, const char *name, int bridge, unsigned mtu, const char *peer, const uint8_t peer_mac[MAC_BYTES],
	pid_t pid, struct err *e)
{
	struct nlmsghdr *n = link_request(l, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0);
	struct ifinfomsg *m = mnl_nlmsg_get_payload(n);
	struct nlattr *info, *data, *other;
	int r;

	m->ifi_flags = m->ifi_change = IFF_UP;
	mnl_attr_put_strz(n, IFLA_IFNAME, name);
	mnl_attr_put_u32(n, IFLA_MASTER, (uint32_t)bridge);
	if (mtu)
		mnl_attr_put_u32(n, IFLA_MTU, mtu);
	info = mnl_attr_nest_start(n, IFLA_LINKINFO);
	mnl_attr_put_strz(n, IFLA_INFO_KIND, "veth");
	data = mnl_attr_nest_start(n, IFLA_INFO_DATA);
	other = mnl_attr_nest_start(n, VETH_INFO_PEER);
	mnl_nlmsg_put_extra_header(n, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(n, IFLA_IFNAME, peer);
	mnl_attr_put(n, IFLA_ADDRESS, MAC_BYTES, peer_mac);
	mnl_attr_put_u32(n, IFLA_NET_NS_PID, (uint32_t)pid);
	if (mtu)
		mnl_attr_put_u32(n, IFLA_MTU, mtu);
	mnl_attr_nest_end(n, other);
	mnl_attr_nest_end(n, data);
	mnl_attr_nest_end(n, info);
	r = request_confirm(l, n);
	return r < 0 ? link_failed(r, name, "making the veth", e) : 0;
}

int link_make_macvtap(struct links *l, const struct macvtap_config *c)
{
	struct nlmsghdr *n = link_request(l, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0);
	struct nlattr *info, *data;

	mnl_attr_put_strz(n, IFLA_IFNAME, c->name);
	if (c->mac)
		mnl_attr_put(n, IFLA_ADDRESS, MAC_BYTES, c->mac);
	mnl_attr_put_u32(n, IFLA_LINK, (uint32_t)c->dev);
	info = mnl_attr_nest_start(n, IFLA_LINKINFO);
	mnl_attr_put_strz(n, IFLA_INFO_KIND, "macvtap");
	data = mnl_attr_nest_start(n, IFLA_INFO_DATA);
	mnl_attr_put_u32(n, IFLA_MACVLAN_MODE, c->mode);
	mnl_attr_nest_end(n, data);
	mnl_attr_nest_end(n, info);
	return request_confirm(l, n);
}

#define ALIASED_MAX 64

struct aliased {
	const char *alias;
	struct {
		int index;
		char name[IFNAMSIZ];
	} list[ALIASED_MAX];
	size_t n;
	int dev;      /* the link below the devices that are counted */
	unsigned *count; /* NULL: none are counted */
	void (*found)(void *opaque, const char *name); /* instead of the list; NULL: the list gets them */
	void *opaque;
};

static int aliased_read(const struct nlmsghdr *n, void *arg)
{
	const struct ifinfomsg *m = mnl_nlmsg_get_payload(n);
	char alias[LINK_ALIAS_MAX] = "", name[IFNAMSIZ] = "";
	struct aliased *all = arg;
	const struct nlattr *a;
	uint32_t dev = 0;

	mnl_attr_for_each(a, n, sizeof(*m))
	{
		if (mnl_attr_get_type(a) == IFLA_IFALIAS)
			snprintf(alias, sizeof(alias), "%.*s", mnl_attr_get_payload_len(a), mnl_attr_get_str(a));
		else if (mnl_attr_get_type(a) == IFLA_IFNAME)
			attribute_text(a, name, sizeof(name));
		else if (mnl_attr_get_type(a) == IFLA_LINK)
			dev = mnl_attr_get_u32(a);
	}
	if (all->count) {
		*all->count += dev == (uint32_t)all->dev && !strcmp(alias, all->alias);
		return MNL_CB_OK;
	}
	if (all->found) {
		if (!strcmp(alias, all->alias))
			all->found(all->opaque, name);
		return MNL_CB_OK;
	}
	if (all->n < ALIASED_MAX && !strcmp(alias, all->alias)) {
		all->list[all->n].index = m->ifi_index;
		memcpy(all->list[all->n++].name, name, sizeof(name));
	}
	return MNL_CB_OK;
}

int links_delete_alias(struct links *l, const char *alias, void (*deleted)(void *opaque, const char *name), void *opaque, struct err *e)
{
	struct aliased all = { .alias = alias };
	int r;

	do {
		all.n = 0;
		r = request_run(l, link_request(l, RTM_GETLINK, NLM_F_DUMP, 0), aliased_read, &all);
		if (r < 0)
			return err_set_errno(e, r, "cannot list the links");
		for (size_t i = 0; i < all.n && r >= 0; i++) {
			r = link_delete(l, all.list[i].index, e);
			if (r > 0)
				deleted(opaque, all.list[i].name);
		}
	} while (all.n == ALIASED_MAX && r >= 0);
	return MIN(r, 0);
}

int links_list_alias(struct links *l, const char *alias, void (*found)(void *opaque, const char *name), void *opaque, struct err *e)
{
	struct aliased all = { .alias = alias, .found = found, .opaque = opaque };
	int r = request_run(l, link_request(l, RTM_GETLINK, NLM_F_DUMP, 0), aliased_read, &all);

	return r < 0 ? err_set_errno(e, r, "cannot list the links") : 0;
}

int links_count_alias(struct links *l, const char *alias, int dev, unsigned *ret, struct err *e)
{
	struct aliased all = { .alias = alias, .dev = dev, .count = ret };
	int r;

	*ret = 0;
	r = request_run(l, link_request(l, RTM_GETLINK, NLM_F_DUMP, 0), aliased_read, &all);
	return r < 0 ? err_set_errno(e, r, "cannot list the links") : 0;
}

struct other_alias {
	const char *alias;
	size_t len;
	char *name;
};

static int other_alias_read(const struct nlmsghdr *n, void *arg)
{
	const struct other_alias *other = arg;
	char alias[LINK_ALIAS_MAX] = "", name[IFNAMSIZ] = "";
	const struct nlattr *a;

	mnl_attr_for_each(a, n, sizeof(struct ifinfomsg)) {
		if (mnl_attr_get_type(a) == IFLA_IFALIAS)
			attribute_text(a, alias, sizeof(alias));
		else if (mnl_attr_get_type(a) == IFLA_IFNAME)
			attribute_text(a, name, sizeof(name));
	}
	if (!strncmp(alias, other->alias, other->len) && strcmp(alias, other->alias) != 0)
		memcpy(other->name, name, sizeof(name));
	return MNL_CB_OK;
}

int links_find_other_alias(struct links *l, const char *alias, size_t len, char ret[IFNAMSIZ], struct err *e)
{
	struct other_alias other = { alias, len, ret };
	int r;

	*ret = 0;
	r = request_run(l, link_request(l, RTM_GETLINK, NLM_F_DUMP, 0), other_alias_read, &other);
	return r < 0 ? err_set_errno(e, r, "cannot list the links") : 0;
}

int link_set_mac(struct links *l, int index, const uint8_t mac[MAC_BYTES], struct err *e)
{
	struct nlmsghdr *n = link_request(l, RTM_NEWLINK, 0, index);
	int r;

	mnl_attr_put(n, IFLA_ADDRESS, MAC_BYTES, mac);
	r = request_confirm(l, n);
	return r < 0 ? err_set_errno(e, r, "cannot set the MAC address of link %d", index) : 0;
}

int link_set_alias(struct links *l, int index, const char *alias, struct err *e)
{
	struct nlmsghdr *n = link_request(l, RTM_NEWLINK, 0, index);
	int r;

	mnl_attr_put_str(n, IFLA_IFALIAS, alias);
	r = request_confirm(l, n);
	return r < 0 ? err_set_errno(e, r, "cannot set the alias of link %d", index) : 0;
}

int link_set_up(struct links *l, int index, struct err *e)
{
	struct nlmsghdr *n = link_request(l, RTM_NEWLINK, 0, index);
	struct ifinfomsg *m = mnl_nlmsg_get_payload(n);
	int r;

	m->ifi_flags = m->ifi_change = IFF_UP;
	r = request_confirm(l, n);
	return r < 0 ? err_set_errno(e, r, "cannot bring link %d up", index) : 0;
}

int link_delete(struct links *l, int index, struct err *e)
{
	int r = request_confirm(l, link_request(l, RTM_DELLINK, 0, index));

	if (r == -ENODEV)
		return 0;
	return r < 0 ? err_set_errno(e, r, "cannot delete link %d", index) : 1;
}

int link_set_port(struct links *l, int index, bool isolated, bool root_block, struct err *e)
{
	struct nlmsghdr *n = link_request(l, RTM_SETLINK, 0, index);
	struct ifinfomsg *m = mnl_nlmsg_get_payload(n);
	struct nlattr *port;
	int r;

	m->ifi_family = PF_BRIDGE;
	port = mnl_attr_nest_start(n, IFLA_PROTINFO);
	mnl_attr_put_u8(n, IFLA_BRPORT_ISOLATED, isolated);
	mnl_attr_put_u8(n, IFLA_BRPORT_PROTECT, root_block);
	mnl_attr_nest_end(n, port);
	r = request_confirm(l, n);
	return r < 0 ? err_set_errno(e, r, "cannot set the flags of port %d of the bridge", index) : 0;
}

/* ---- addresses ---- */

int link_add_address(struct links *l, int index, const struct address *a, unsigned prefix, struct err *e)
{
	struct nlmsghdr *n = request_begin(l, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
	struct ifaddrmsg *m = mnl_nlmsg_put_extra_header(n, sizeof(*m));
	char text[ADDRESS_TEXT_MAX];
	int r;

	m->ifa_family = (uint8_t)a->family;
	m->ifa_prefixlen = (uint8_t)prefix;
	m->ifa_flags = a->family == AF_INET6 ? IFA_F_NODAD : 0;
	m->ifa_index = (uint32_t)index;
	mnl_attr_put(n, IFA_LOCAL, address_len(a), a->bytes);
	mnl_attr_put(n, IFA_ADDRESS, address_len(a), a->bytes);
	if (a->family == AF_INET) {
		struct address last = address_last(a, prefix);

		mnl_attr_put(n, IFA_BROADCAST, address_len(&last), last.bytes);
	}
	r = request_confirm(l, n);
	return r < 0 && r != -EEXIST ? err_set_errno(e, r, "cannot add the address %s/%u", address_print(a, text), prefix) : 0;
}

/* a: NULL: the MAC address is for a bridge's port. */
static int neighbour_put(struct links *l, int index, const uint8_t mac[MAC_BYTES], const struct address *a)
{
	struct nlmsghdr *n = request_begin(l, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
	struct ndmsg *m = mnl_nlmsg_put_extra_header(n, sizeof(*m));

	m->ndm_family = a ? (uint8_t)a->family : AF_BRIDGE;
	m->ndm_ifindex = index;
	m->ndm_state = a ? NUD_STALE : NUD_REACHABLE;
	m->ndm_flags = a ? 0 : NTF_MASTER;
	mnl_attr_put(n, NDA_LLADDR, MAC_BYTES, mac);
	if (a)
		mnl_attr_put(n, NDA_DST, address_len(a), a->bytes);
	return request_confirm(l, n);
}

int link_add_neighbour(struct links *l, int bridge, int port, const uint8_t mac[MAC_BYTES], const struct address *a, struct err *e)
{
	int r = neighbour_put(l, port, mac, NULL);

	if (!r)
		r = neighbour_put(l, bridge, mac, a);
	return r < 0 ? err_set_errno(e, r, "cannot enter the MAC address of port %d of the bridge", port) : 0;
}

struct address_search {
	int index;
	const struct address *address;
	unsigned prefix;
	bool found;
};

static int address_read(const struct nlmsghdr *n, void *arg)
{
	const struct ifaddrmsg *m = mnl_nlmsg_get_payload(n);
	struct address_search *s = arg;
	const struct nlattr *a;

	if ((int)m->ifa_index != s->index || m->ifa_family != s->address->family || m->ifa_prefixlen != s->prefix)
		return MNL_CB_OK;
	mnl_attr_for_each(a, n, sizeof(*m))
		if (mnl_attr_get_type(a) == IFA_ADDRESS && mnl_attr_get_payload_len(a) == address_len(s->address) &&
			!memcmp(mnl_attr_get_payload(a), s->address->bytes, address_len(s->address)))
			s->found = true;
	return MNL_CB_OK;
}

int link_has_address(struct links *l, int index, const struct address *a, unsigned prefix, struct err *e)
{
	struct nlmsghdr *n = request_begin(l, RTM_GETADDR, NLM_F_DUMP);
	struct ifaddrmsg *m = mnl_nlmsg_put_extra_header(n, sizeof(*m));
	struct address_search s = { .index = index, .address = a, .prefix = prefix };
	int r;

	m->ifa_family = (uint8_t)a->family;
	r = request_run(l, n, address_read, &s);
	return r < 0 ? err_set_errno(e, r, "cannot list addresses") : s.found;
}

/* ---- routes ---- */

int link_add_default_route(struct links *l, int index, const struct address *gateway, struct err *e)
{
	struct nlmsghdr *n = request_begin(l, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
	struct rtmsg *m = mnl_nlmsg_put_extra_header(n, sizeof(*m));
	int r;

	m->rtm_family = (uint8_t)gateway->family;
	m->rtm_table = RT_TABLE_MAIN;
	m->rtm_protocol = RTPROT_STATIC;
	m->rtm_scope = RT_SCOPE_UNIVERSE;
	m->rtm_type = RTN_UNICAST;
	mnl_attr_put(n, RTA_GATEWAY, address_len(gateway), gateway->bytes);
	mnl_attr_put_u32(n, RTA_OIF, (uint32_t)index);
	r = request_confirm(l, n);
	return r < 0 ? err_set_errno(e, r, "cannot add a default route") : 0;
}

struct route_search {
	bool (*found)(const struct route *, void *);
	void *arg;
	bool ended;
};

/* Report a route of RTA_MULTIPATH once for each of its links. */
static void hops_report(struct route_search *s, struct route *route, const struct nlattr *hops)
{
	const char *at = mnl_attr_get_payload(hops);
	size_t left = mnl_attr_get_payload_len(hops);
	struct rtnexthop hop;

	for (size_t step; !s->ended && left >= sizeof(hop); at += step, left -= step) {
		memcpy(&hop, at, sizeof(hop));
		if (hop.rtnh_len < sizeof(hop) || hop.rtnh_len > left)
			return;
		route->link = hop.rtnh_ifindex;
		s->ended = s->found(route, s->arg);
		step = MIN(left, (size_t)RTNH_ALIGN(hop.rtnh_len));
	}
}

static int route_read(const struct nlmsghdr *n, void *arg)
{
	const struct rtmsg *m = mnl_nlmsg_get_payload(n);
	struct route route = { .to.family = m->rtm_family, .prefix = m->rtm_dst_len, .table = m->rtm_table };
	struct route_search *s = arg;
	const struct nlattr *a, *hops = NULL;

	mnl_attr_for_each(a, n, sizeof(*m)) {
		uint16_t type = mnl_attr_get_type(a);

		if (type == RTA_DST && mnl_attr_get_payload_len(a) == address_len(&route.to))
			memcpy(route.to.bytes, mnl_attr_get_payload(a), address_len(&route.to));
		else if (type == RTA_TABLE && mnl_attr_validate(a, MNL_TYPE_U32) >= 0)
			route.table = mnl_attr_get_u32(a);
		else if (type == RTA_OIF && mnl_attr_validate(a, MNL_TYPE_U32) >= 0)
			route.link = (int)mnl_attr_get_u32(a);
		else if (type == RTA_GATEWAY || type == RTA_VIA || type == RTA_MULTIPATH)
			route.gateway = true;
		if (type == RTA_MULTIPATH)
			hops = a;
	}
	/* The dump has to be read to its end. */
	if (s->ended || route.table == RT_TABLE_LOCAL || m->rtm_type != RTN_UNICAST || (m->rtm_flags & RTM_F_CLONED))
		return MNL_CB_OK;
	if (hops)
		hops_report(s, &route, hops);
	else
		s->ended = s->found(&route, s->arg);
	return MNL_CB_OK;
}

int routes_each(struct links *l, int family, bool (*found)(const struct route *, void *), void *arg, struct err *e)
{
	struct nlmsghdr *n = request_begin(l, RTM_GETROUTE, NLM_F_DUMP);
	struct rtmsg *m = mnl_nlmsg_put_extra_header(n, sizeof(*m));
	struct route_search s = { .found = found, .arg = arg };
	int r;

	m->rtm_family = (uint8_t)family;
	r = request_run(l, n, route_read, &s);
	return r < 0 ? err_set_errno(e, r, "cannot list routes") : s.ended;
}
