#include "tools/net/direct.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"
#include "tools/net/operation.h"

#include <errno.h>
#include <linux/if_link.h>
#include <stdio.h>
#include <string.h>

static void alias_make(const struct network *n, char alias[LINK_ALIAS_MAX])
{
	snprintf(alias, LINK_ALIAS_MAX, "cairn %s", n->uuid);
}

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

static int dev_find(struct operation *o, struct link *ret, struct err *e)
{
	const struct network *n = &o->req->net;
	int r = link_find(o->links, n->dev, ret, e);

	if (r < 0 || ret->index)
		return r;
	return err_set(e, -ENODEV, ERR_NOT_FOUND, "network '%s': there is no link '%s'; give the name of a link of this host (ip link show)",
		n->name, n->dev);
}

/* Explain why the kernel refuses a macvtap link. */
static int macvtap_failed(const struct network *n, int error, struct err *e)
{
	switch (error) {
	case -EPERM:
	case -EACCES:
		return err_set(e, error, ERR_PERMISSION, "network '%s': making a macvtap link requires CAP_NET_ADMIN; run cairnd as root", n->name);
	case -EOPNOTSUPP:
		return err_set(e, error, ERR_HOST, "network '%s': the kernel of this host has no macvtap; load the module with: modprobe macvtap; "
			"or use a network of mode nat, or an existing bridge", n->name);
	case -EBUSY:
		return err_set(e, error, ERR_BUSY, "network '%s': '%s' is a port of a bridge or bond already; give that bridge as the network's "
			"bridge, or another dev", n->name, n->dev);
	case -EINVAL:
		return err_set(e, error, ERR_BUSY, "network '%s': '%s' takes no further macvtap link, since one in mode passthrough has it alone, or it is "
			"no Ethernet link; give another dev", n->name, n->dev);
	default:
		return err_set_errno(e, error, "network '%s': cannot make a macvtap link on '%s'", n->name, n->dev);
	}
}

/* Make a macvtap link. mac: NULL: the kernel's choice. */
static int macvtap_make(struct operation *o, const char *name, int dev, const uint8_t *mac, struct link *ret, struct err *e)
{
	const struct network *n = &o->req->net;
	char alias[LINK_ALIAS_MAX];
	struct err own;
	int r;

	r = link_make_macvtap(o->links, &(struct macvtap_config){ name, mac, dev, macvlan_mode(n->mode) });
	if (r < 0)
		return macvtap_failed(n, r, e);
	r = link_find(o->links, name, ret, e);
	if (r < 0)
		return r;
	alias_make(n, alias);
	r = link_set_alias(o->links, ret->index, alias, e);
	if (r < 0)
		link_delete(o->links, ret->index, &own);
	return r;
}

int direct_up(struct operation *o, struct err *e)
{
	const struct network *n = &o->req->net;
	struct link dev, probe;
	int r = dev_find(o, &dev, e);

	if (!r)
		r = macvtap_make(o, n->veth, dev.index, NULL, &probe, e);
	if (!r)
		r = MIN(link_delete(o->links, probe.index, e), 0);
	if (!r && !dev.is_up) {
		char text[160];

		snprintf(text, sizeof(text), "'%s' is down, so the guests of network '%.40s' reach nobody; bring it up with: ip link set %s up",
			n->dev, n->name, n->dev);
		operation_note(o, text);
	}
	return r;
}

int direct_down(struct operation *o, struct err *e)
{
	char alias[LINK_ALIAS_MAX];

	alias_make(&o->req->net, alias);
	return links_delete_alias(o->links, alias, operation_note, o, e);
}

int direct_check(struct operation *o, struct err *e)
{
	struct link dev;
	int r = link_find(o->links, o->req->net.dev, &dev, e);

	if (r < 0)
		return r;
	if (!dev.index)
		operation_note(o, "dev");
	js_put_bool(o->answer, "active", dev.index);
	js_put_bool(o->answer, "complete", dev.index);
	return 0;
}

/* ---- ports ---- */

static int port_up(struct operation *o, const struct port *p, int dev, struct err *e)
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
			"one", n->name, n->dev);
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

int direct_ports_up(struct operation *o, struct err *e)
{
	struct err ignored;
	struct link dev;
	size_t i = 0;
	int r = dev_find(o, &dev, e);

	for (; i < o->req->nports && !r; i++)
		r = port_up(o, &o->req->ports[i], dev.index, e);
	while (r < 0 && i-- > 0)
		port_down(o, &o->req->ports[i], &ignored);
	return r;
}
