#include "tools/net/uplink.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool names_have(const struct names *list, const char *name)
{
	for (size_t i = 0; i < list->n; i++)
		if (!strcmp(list->list[i], name))
			return true;
	return false;
}

void names_add(struct names *list, const char *name)
{
	if (list->n < UPLINKS_MAX && !names_have(list, name))
		snprintf(list->list[list->n++], IFNAMSIZ, "%.*s", IFNAMSIZ - 1, name);
}

/* ---- links of the host ---- */

struct host_link {
	int index, master;
	char name[IFNAMSIZ];
	bool is_bridge, is_veth;
	bool leads_outside; /* no kind that connects only programs, containers and VMs of this host; of a bridge: a port of it */
};

struct host_links {
	struct host_link *list;
	size_t n;
};

static void host_links_done(struct host_links *h)
{
	free(h->list);
}

static void host_link_add(const struct link *link, void *arg)
{
	struct host_links *h = arg;
	struct host_link *new;

	h->list = must_alloc(realloc(h->list, (h->n + 1) * sizeof(*h->list)));
	new = &h->list[h->n++];
	*new = (struct host_link){ .index = link->index, .master = link->master, .is_bridge = !strcmp(link->kind, "bridge"),
		.is_veth = !strcmp(link->kind, "veth") };
	new->leads_outside = !new->is_bridge && !new->is_veth && strcmp(link->kind, "tun") != 0 && strcmp(link->kind, "dummy") != 0;
	snprintf(new->name, sizeof(new->name), "%.*s", IFNAMSIZ - 1, link->name);
}

static struct host_link *host_link_find(const struct host_links *h, int index)
{
	for (size_t i = 0; i < h->n; i++)
		if (h->list[i].index == index)
			return &h->list[i];
	return NULL;
}

static int host_links_read(struct links *l, struct host_links *ret, struct err *e)
{
	int r = links_each(l, host_link_add, ret, e);

	for (size_t i = 0; i < ret->n && !r; i++) {
		struct host_link *bridge = ret->list[i].leads_outside ? host_link_find(ret, ret->list[i].master) : NULL;

		if (bridge && bridge->is_bridge)
			bridge->leads_outside = true;
	}
	return r;
}

/* ---- routes ---- */

struct search {
	const struct host_links *links;
	const char *bridge; /* the network's own */
	struct names *names;
	bool has_default;
};

/* Each link with IPv6 has such a route, also that of a container. */
static bool is_link_local(const struct route *r)
{
	static const struct address local = { .family = AF_INET6, .bytes = { 0xfe, 0x80 } };

	return r->prefix >= 10 && address_shares_prefix(&r->to, &local, 10);
}

/* Return whether the route leads to containers or VMs of this host. */
static bool is_internal(const struct route *r, const struct host_link *link)
{
	return (link->is_bridge && !link->leads_outside) || (link->is_veth && r->prefix == 8 * address_len(&r->to));
}

static bool route_add(const struct route *r, void *arg)
{
	struct search *s = arg;
	const struct host_link *link = host_link_find(s->links, r->link);
	bool is_default = r->prefix <= PREFIX_DEFAULT_MAX;

	/* A name that cannot stand in a rule is left out. */
	if (!link || !link_name_is_valid(link->name) || !strcmp(link->name, s->bridge) || is_link_local(r) ||
		(!is_default && !r->gateway && is_internal(r, link)))
		return false;
	s->has_default |= is_default;
	names_add(s->names, link->name);
	return false;
}

static int family_find(struct links *l, const struct network *n, int family, const struct host_links *links, struct names *ret,
	bool *ret_default, struct err *e)
{
	struct search s = { .links = links, .bridge = n->bridge, .names = ret };
	int r = 0;

	if (n->dev)
		names_add(ret, n->dev);
	else
		r = routes_each(l, family, route_add, &s, e);
	*ret_default = n->dev || s.has_default;
	return r < 0 ? r : 0;
}

int uplinks_find(struct links *l, const struct network *n, struct uplinks *ret, struct err *e)
{
	struct host_links links CLEANUP(host_links_done) = { 0 };
	bool ignored;
	int r;

	memset(ret, 0, sizeof(*ret));
	if (!network_is_forwarded(n))
		return 0;
	r = n->dev ? 0 : host_links_read(l, &links, e);
	if (!r && n->ipv4.given)
		r = family_find(l, n, AF_INET, &links, &ret->ipv4, &ret->has_default, e);
	if (!r && n->ipv6.given)
		r = family_find(l, n, AF_INET6, &links, &ret->ipv6, n->ipv4.given ? &ignored : &ret->has_default, e);
	return r;
}
