#include "tools/net/overlap.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>

#define FREE_FIRST 122
#define FREE_LAST 254
#define FREE_PREFIX 24

static bool overlaps(const struct route *r, const struct address *a, unsigned prefix)
{
	if (r->table != RT_TABLE_MAIN || r->prefix <= PREFIX_DEFAULT_MAX || r->to.family != a->family)
		return false;
	return address_shares_prefix(&r->to, a, MIN(r->prefix, prefix));
}

/* ---- one network ---- */

struct search {
	const struct subnet *subnet;
	int bridge;
	struct route found;
};

static bool route_clashes(const struct route *r, void *arg)
{
	struct search *s = arg;

	if ((s->bridge && r->link == s->bridge) || !overlaps(r, &s->subnet->address, s->subnet->prefix))
		return false;
	s->found = *r;
	return true;
}

static int overlap_report(struct links *l, const struct network *n, const struct search *s, struct err *e)
{
	char net[ADDRESS_TEXT_MAX], to[ADDRESS_TEXT_MAX], free_text[ADDRESS_TEXT_MAX], advice[80] = "choose another address";
	char link[IFNAMSIZ] = "another link";
	struct address first = address_network(&s->subnet->address, s->subnet->prefix), unused;

	if (s->found.link)
		if_indextoname((unsigned)s->found.link, link);
	if (first.family == AF_INET && overlap_find_free(l, NULL, 0, &unused, NULL) == 0)
		snprintf(advice, sizeof(advice), "choose another address, for example %s/%d", address_print(&unused, free_text), FREE_PREFIX);
	return err_set(e, -EBUSY, ERR_BUSY, "network '%s': %s/%u overlaps the host's route to %s/%u by %s; %s", n->name, address_print(&first, net),
		s->subnet->prefix, address_print(&s->found.to, to), s->found.prefix, link, advice);
}

int overlap_check(struct links *l, const struct network *n, struct err *e)
{
	const struct subnet *subnets[] = { &n->ipv4, &n->ipv6 };

	for (size_t i = 0; i < ARRAY_SIZE(subnets); i++) {
		struct search s = { .subnet = subnets[i], .bridge = (int)if_nametoindex(n->bridge) };
		int r = s.subnet->given ? routes_each(l, s.subnet->address.family, route_clashes, &s, e) : 0;

		if (r)
			return r < 0 ? r : overlap_report(l, n, &s, e);
	}
	return 0;
}

/* ---- a free one ---- */

static struct address candidate(unsigned third)
{
	return (struct address){ .family = AF_INET, .bytes = { 192, 168, (uint8_t)third, 1 } };
}

static bool route_takes(const struct route *r, void *arg)
{
	bool *taken = arg;

	for (unsigned i = FREE_FIRST; i <= FREE_LAST; i++) {
		struct address a = candidate(i);

		taken[i] |= overlaps(r, &a, FREE_PREFIX);
	}
	return false;
}

int overlap_find_free(struct links *l, const struct range *used, size_t nused, struct address *ret, struct err *e)
{
	bool taken[FREE_LAST + 1] = { false };
	int r = routes_each(l, AF_INET, route_takes, taken, e);

	for (unsigned i = FREE_FIRST; i <= FREE_LAST && r >= 0; i++) {
		struct address a = candidate(i), first = address_network(&a, FREE_PREFIX), last = address_last(&a, FREE_PREFIX);

		for (size_t k = 0; k < nused && !taken[i]; k++)
			taken[i] = used[k].start.family == AF_INET && address_compare(&used[k].start, &last) <= 0 &&
				address_compare(&first, &used[k].end) <= 0;
		if (taken[i])
			continue;
		*ret = a;
		return 0;
	}
	return r < 0 ? r : err_set(e, -ENOSPC, ERR_HOST, "each network from 192.168.%d.0/24 to 192.168.%d.0/24 overlaps a route of the host or a network; "
		"choose an address yourself", FREE_FIRST, FREE_LAST);
}
