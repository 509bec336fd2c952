#include "tools/net/direct.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/net/operation.h"
#include "tools/net/privileges.h"

#include <errno.h>
#include <linux/if_link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned macvlan_mode(enum network_mode mode)
{
	switch (mode) {
	case MODE_PRIVATE:
		return MACVLAN_MODE_PRIVATE;
	case MODE_VEPA:
		return MACVLAN_MODE_VEPA;
	case MODE_PASSTHROUGH:
		return MACVLAN_MODE_PASSTHRU;
	default:
		return MACVLAN_MODE_BRIDGE;
	}
}

static int dev_find(struct operation *o, const char *dev, struct link *ret, struct err *e)
{
	int r = link_find(o->links, dev, ret, e);

	if (r < 0 || ret->index)
		return r;
	return err_set(e, -ENODEV, ERR_NOT_FOUND, "network '%s': there is no link '%s'; give the name of a link of this host (ip link show)",
		o->req->net.name, dev);
}

/* Explain why the kernel refuses a macvtap link. */
static int macvtap_failed(const struct network *n, const char *dev, int error, struct err *e)
{
	switch (error) {
	case -EPERM:
	case -EACCES:
		return err_set(e, error, ERR_PERMISSION, "network '%s': making a macvtap link requires CAP_NET_ADMIN; %s", n->name,
			privileges_remedy());
	case -EOPNOTSUPP:
		return err_set(e, error, ERR_HOST, "network '%s': the kernel of this host has no macvtap; load the module with: modprobe macvtap; "
			"or use a network of mode nat, or an existing bridge", n->name);
	case -EBUSY:
		return err_set(e, error, ERR_BUSY, "network '%s': '%s' is a port of a bridge or bond already; give that bridge as the network's "
			"bridge, or another dev", n->name, dev);
	case -EINVAL:
		if (n->mode == MODE_PASSTHROUGH && n->ndevs > 1)
			return err_set(e, error, ERR_BUSY, "network '%s': none of its %zu links is free; each of them serves one guest in mode "
				"passthrough. Add another one to devs, or shut a guest down", n->name, n->ndevs);
		return err_set(e, error, ERR_BUSY, "network '%s': '%s' takes no further macvtap link, since one in mode passthrough has it alone, or it is "
			"no Ethernet link; give another dev", n->name, dev);
	default:
		return err_set_errno(e, error, "network '%s': cannot make a macvtap link on '%s'", n->name, dev);
	}
}

/* Make a macvtap link. mac: NULL: the kernel's choice. */
static int macvtap_make(struct operation *o, const char *name, const struct link *dev, const uint8_t *mac, struct link *ret, struct err *e)
{
	const struct network *n = &o->req->net;
	struct err own;
	int r;

	r = link_make_macvtap(o->links, &(struct macvtap_config){ name, mac, dev->index, macvlan_mode(n->mode) });
	if (r < 0)
		return macvtap_failed(n, dev->name, r, e);
	r = link_find(o->links, name, ret, e);
	if (r < 0)
		return r;
	r = link_set_alias(o->links, ret->index, n->alias, e);
	if (r < 0)
		link_delete(o->links, ret->index, &own);
	return r;
}

/* Make a macvtap link on the dev, and delete it. */
static int dev_try(struct operation *o, const char *name, struct err *e)
{
	const struct network *n = &o->req->net;
	struct link dev, probe;
	int r = dev_find(o, name, &dev, e);

	if (!r)
		r = macvtap_make(o, n->veth, &dev, NULL, &probe, e);
	if (!r)
		r = MIN(link_delete(o->links, probe.index, e), 0);
	if (!r && !dev.is_up) {
		char text[160];

		snprintf(text, sizeof(text), "'%s' is down, so the guests of network '%.40s' reach nobody; bring it up with: ip link set %s up",
			name, n->name, name);
		operation_note(o, text);
	}
	return r;
}

int direct_up(struct operation *o, struct err *e)
{
	int r = 0;

	for (size_t i = 0; i < o->req->net.ndevs && !r; i++)
		r = dev_try(o, o->req->net.devs[i], e);
	return r;
}

int direct_down(struct operation *o, struct err *e)
{
	return links_delete_alias(o->links, o->req->net.alias, operation_note, o, e);
}

static void link_add(void *list, const char *name)
{
	json_object_array_add(list, json_object_new_string(name));
}

int direct_check(struct operation *o, struct err *e)
{
	const struct network *n = &o->req->net;
	struct json_object *links = json_object_new_array();
	struct link dev;
	size_t there = 0;

	js_put(o->answer, "links", links);
	for (size_t i = 0; i < n->ndevs; i++) {
		int r = link_find(o->links, n->devs[i], &dev, e);

		if (r < 0)
			return r;
		there += dev.index != 0;
	}
	if (there < n->ndevs)
		operation_note(o, "dev");
	js_put_bool(o->answer, "active", there > 0);
	js_put_bool(o->answer, "complete", there == n->ndevs);
	return links_list_alias(o->links, n->alias, link_add, links, e);
}

/* ---- ports ---- */

static int port_up_on(struct operation *o, const struct port *p, const struct link *dev, struct err *e)
{
	const struct network *n = &o->req->net;
	struct link link;
	int r = macvtap_make(o, p->tap, dev, n->mode == MODE_PASSTHROUGH ? NULL : p->mac, &link, e);

	/* The link of mode passthrough gives its address to dev, which gets its own back when the link is deleted. */
	if (!r && n->mode == MODE_PASSTHROUGH)
		r = link_set_mac(o->links, link.index, p->mac, e);
	if (r < 0)
		return r;
	r = link_set_up(o->links, link.index, e);
	if (r == -EBUSY || r == -EADDRINUSE)
		err_set(e, r, ERR_BUSY, "network '%s': another guest or link on '%s' has the MAC address of the interface; give the interface another "
			"one", n->name, dev->name);
	return r;
}

static int port_down(struct operation *o, const struct port *p, struct err *e)
{
	struct link link;
	int r = link_find(o->links, p->tap, &link, e);

	if (r < 0 || !link.index || strcmp(link.kind, "macvtap") != 0)
		return r;
	return MIN(link_delete(o->links, link.index, e), 0);
}

int direct_ports_down(struct operation *o, struct err *e)
{
	int r = 0;

	for (size_t i = 0; i < o->req->nports && !r; i++)
		r = port_down(o, &o->req->ports[i], e);
	return r;
}

struct candidate {
	struct link dev;
	unsigned guests;
};

static int guests_compare(const void *a, const void *b)
{
	const struct candidate *one = a, *two = b;

	return one->guests != two->guests ? (one->guests > two->guests) - (one->guests < two->guests) :
		(one->dev.index > two->dev.index) - (one->dev.index < two->dev.index);
}

/* Sort the network's links, the one with the fewest guests first. Missing links are left out, unless all are
 * missing. */
static int candidates_make(struct operation *o, struct candidate list[DEVS_MAX], size_t *ret_n, struct err *e)
{
	const struct network *n = &o->req->net;
	int r = 0;

	*ret_n = 0;
	for (size_t i = 0; i < n->ndevs && !r; i++) {
		struct candidate *c = &list[*ret_n];

		r = dev_find(o, n->devs[i], &c->dev, e);
		if (r == -ENODEV && (i + 1 < n->ndevs || *ret_n)) {
			r = 0;
			continue;
		}
		if (!r)
			r = links_count_alias(o->links, n->alias, c->dev.index, &c->guests, e);
		*ret_n += !r;
	}
	qsort(list, *ret_n, sizeof(*list), guests_compare);
	return r;
}

/* Make the guest's macvtap link on the first link that takes it. */
static int port_up(struct operation *o, const struct port *p, struct err *e)
{
	struct candidate list[DEVS_MAX];
	struct err ignored;
	size_t n;
	int r = candidates_make(o, list, &n, e);

	for (size_t i = 0; i < n; i++) {
		r = port_up_on(o, p, &list[i].dev, e);
		if (r != -EBUSY && r != -EINVAL && r != -EADDRINUSE)
			break;
		port_down(o, p, &ignored);
	}
	return r;
}

int direct_ports_up(struct operation *o, struct err *e)
{
	struct err ignored;
	size_t i = 0;
	int r = 0;

	for (; i < o->req->nports && !r; i++)
		r = port_up(o, &o->req->ports[i], e);
	while (r < 0 && i-- > 0)
		port_down(o, &o->req->ports[i], &ignored);
	return r;
}
