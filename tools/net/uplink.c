#include "tools/net/uplink.h"
#include "base/err.h"

#include <stdio.h>
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

static bool default_route_add(const struct route *r, void *arg)
{
	char name[IFNAMSIZ];

	/* A name that cannot stand in a rule is left out. */
	if (!r->prefix && r->link && if_indextoname((unsigned)r->link, name) && link_name_is_valid(name))
		names_add(arg, name);
	return false;
}

static int family_find(struct links *l, const struct network *n, int family, struct names *ret, struct err *e)
{
	if (!n->dev)
		return routes_each(l, family, default_route_add, ret, e);
	names_add(ret, n->dev);
	return 0;
}

int uplinks_find(struct links *l, const struct network *n, struct uplinks *ret, struct err *e)
{
	int r = 0;

	memset(ret, 0, sizeof(*ret));
	if (!network_is_forwarded(n))
		return 0;
	if (n->ipv4.given)
		r = family_find(l, n, AF_INET, &ret->ipv4, e);
	if (!r && n->ipv6.given)
		r = family_find(l, n, AF_INET6, &ret->ipv6, e);
	return r;
}
