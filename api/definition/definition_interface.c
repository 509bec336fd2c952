/* Parses the keys of a network interface. */
#include "api/definition/definition_key.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/hex.h"
#include "base/machine_version.h"
#include "base/util.h"

#include <ctype.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static const struct choice types[] = { { "network", DEFINITION_NETWORK },
	{ "bridge", DEFINITION_BRIDGE }, { "user", DEFINITION_USER }, { NULL, 0 } };
static const struct choice models[] = { { "virtio", 0 }, { NULL, 0 } };
static const struct choice filters[] = { { "clean-traffic", true }, { NULL, 0 } };
static const struct choice links[] = { { "up", 0 }, { "down", 1 }, { NULL, 0 } };

/* ---- MAC addresses ---- */

bool definition_has_mac(const struct definition_interface *i)
{
	static const uint8_t none[DEFINITION_MAC_BYTES];

	return memcmp(i->mac, none, sizeof(none)) != 0;
}

int definition_make_mac(struct definition_interface *i, struct err *e)
{
	uint8_t mac[DEFINITION_MAC_BYTES] = { 0x52, 0x54, 0x00 };

	if (getrandom(mac + 3, 3, 0) != 3)
		return err_set_errno(e, -errno, "cannot make a MAC address");
	memcpy(i->mac, mac, sizeof(mac));
	return 0;
}

void mac_print(const uint8_t mac[DEFINITION_MAC_BYTES], char text[DEFINITION_MAC_TEXT])
{
	snprintf(text, DEFINITION_MAC_TEXT, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
		mac[3], mac[4], mac[5]);
}

int mac_parse(const char *text, uint8_t mac[DEFINITION_MAC_BYTES])
{
	uint8_t out[DEFINITION_MAC_BYTES];

	if (strlen(text) != DEFINITION_MAC_TEXT - 1)
		return -EINVAL;
	for (unsigned i = 0; i < DEFINITION_MAC_BYTES; i++) {
		int hi = hex_value(text[3 * i]), lo = hex_value(text[3 * i + 1]);

		if (hi < 0 || lo < 0 || text[3 * i + 2] != (i == DEFINITION_MAC_BYTES - 1 ? 0 : ':'))
			return -EINVAL;
		out[i] = (uint8_t)(hi << 4 | lo);
	}
	memcpy(mac, out, sizeof(out));
	return 0;
}

/* ---- parsers of the keys ---- */

static int parse_mac(struct parse *p, struct json_object *v, void *into)
{
	static const uint8_t none[DEFINITION_MAC_BYTES];
	const char *s = key_text(p, v, 255);
	uint8_t mac[DEFINITION_MAC_BYTES];
	char given[48];

	if (!s)
		return -EINVAL;
	key_quote(s, given);
	if (mac_parse(s, mac) < 0)
		return key_error(p, "\"%s\" is not a MAC address such as 52:54:00:12:34:56", given);
	if (mac[0] & 1)
		return key_error(p, "%s is a multicast address; give one whose first byte is even",
			given);
	if (!memcmp(mac, none, sizeof(mac)))
		return key_error(p, "must not be all zeros; omit it to have one generated");
	memcpy(into, mac, sizeof(mac));
	return 0;
}

static int parse_source(struct parse *p, struct json_object *v, void *into)
{
	const char *s = key_text(p, v, 63);

	if (!s)
		return -EINVAL;
	if (!*s)
		return key_error(p, "is empty; give the name of a network or a bridge");
	if (!isalnum((unsigned char)*s))
		return key_error(p, "must begin with a letter or a digit");
	for (const char *c = s; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("-_.", *c))
			return key_error(p, "may have letters, digits, \"-\", \"_\" and \".\" only");
	snprintf(into, sizeof(((struct definition_interface *)0)->source), "%s", s);
	return 0;
}

#define INTERFACE(field) offsetof(struct definition_interface, field)
static const struct key interface_rows[] = {
	{ "id", KEY_CUSTOM, .offset = INTERFACE(id), .parse = key_parse_id,
		.about = "id of the interface [net0, net1, ... by position]", .form = KEY_ID_FORM },
	{ "type", KEY_CHOICE, .offset = INTERFACE(type), .choices = types,
		.needed = true,
		.about = "network, bridge or user network that the interface connects to" },
	{ "source", KEY_CUSTOM, .offset = INTERFACE(source), .parse = parse_source,
		.about = "name of the network or the bridge",
		.form = "{\"type\":\"string\",\"maxLength\":63,\"pattern\":\"^[A-Za-z0-9][A-Za-z0-9_.-]*$\"}" },
	{ "mac", KEY_CUSTOM, .offset = INTERFACE(mac), .parse = parse_mac,
		.about = "MAC address, unique in the daemon [the interface's present one, or a new one]",
		.form = KEY_MAC_FORM },
	{ "model", KEY_CHOICE, .offset = INTERFACE(model), .choices = models,
		.about = "model of the device",
		.initial = "\"virtio\"" },
	{ "link", KEY_CHOICE, .offset = INTERFACE(link), .choices = links,
		.about = "state of the link: up or down",
		.initial = "\"up\"" },
	{ "queues", KEY_NUMBER16, .offset = INTERFACE(queues), .min = 1, .max = VM_QUEUE_PAIRS_MAX,
		.about = "pairs of queues; type user has one", .initial = "1" },
	{ "vhost", KEY_BOOL, .offset = INTERFACE(vhost),
		.about = "not for type user: let the host's kernel (vhost-net) move the frames, not the VM's process", .initial = "false" },
	{ "boot_order", KEY_NUMBER16, .offset = INTERFACE(boot_order), .min = 1, .max = 999,
		.about = "position of the network in the boot order, unique; no effect on a VM that boots a kernel" },
	{ "slot", KEY_NUMBER16, .offset = INTERFACE(slot), .min = MACHINE_SLOT_MIN, .max = MACHINE_SLOT_MAX,
		.about = "slot on the PCI bus, unique [a free one]" },
	{ "filter", KEY_CHOICE, .offset = INTERFACE(clean_traffic), .choices = filters,
		.about = "type network: the guest's own addresses only [the network's filter]" },
	{ "isolated", KEY_BOOL, .offset = INTERFACE(isolated), .about = "type network: keep it from other isolated guests",
		.initial = "false" },
	{ "bandwidth", KEY_OBJECT, .offset = INTERFACE(bandwidth), .of = &definition_bandwidth_keys,
		.about = "limits of the traffic" },
	{ "egress", KEY_OBJECT_OWNED, .offset = INTERFACE(egress), .of = &definition_egress_keys,
		.parse = definition_parse_egress, .about = "type user: egress rules [the guest reaches everything]" },
	{ "network", KEY_CUSTOM, .offset = INTERFACE(user.network), .parse = definition_parse_network,
		.about = "type user: the guest's private network", .initial = "\"" DEFINITION_USER_NETWORK "\"",
		.form = "{\"type\":\"string\",\"pattern\":\"^" KEY_IPV4_FORM "/([89]|1[0-9]|2[0-7])$\"}" },
	{ "forwards", KEY_ARRAY, .offset = INTERFACE(user), .max = DEFINITION_FORWARDS_MAX,
		.of = &definition_forward_keys, .parse = definition_parse_forwards,
		.about = "types user and network: ports of this host that are forwarded to the guest" },
	{ "restrict", KEY_BOOL, .offset = INTERFACE(user.restricted),
		.about = "type user: block all connections of the guest to the outside; forwards still work",
		.initial = "false" },
	{ "host_loopback", KEY_BOOL, .offset = INTERFACE(user.host_loopback),
		.about = "type user: let the guest reach services on this host's loopback address",
		.initial = "false" },
};
const struct keys definition_interface_keys = { interface_rows, ARRAY_SIZE(interface_rows),
	"{\"if\":{\"properties\":{\"type\":{\"const\":\"user\"}}},"
	"\"then\":{\"properties\":{\"source\":false,\"queues\":{\"const\":1},\"vhost\":{\"const\":false}}},\"else\":{\"required\":[\"source\"],\"properties\":"
	"{\"network\":false,\"egress\":false,\"restrict\":{\"const\":false},"
	"\"host_loopback\":{\"const\":false}}},"
	"\"anyOf\":[{\"not\":{\"properties\":{\"type\":{\"const\":\"bridge\"}}}},"
	"{\"properties\":{\"source\":{\"maxLength\":15},\"forwards\":{\"maxItems\":0}}}],"
	"\"allOf\":[{\"anyOf\":[{\"properties\":{\"type\":{\"const\":\"network\"}}},"
	"{\"properties\":{\"filter\":false,\"isolated\":{\"const\":false}}}]}]}" };

#define TYPE_MISSING 0xff

static int check_interface(struct parse *p, size_t n)
{
	struct definition_interface *i = &p->d->interfaces[n];

	if (i->type == TYPE_MISSING)
		return key_error(p, "type is missing; use network, bridge or user");
	if (i->type == DEFINITION_USER && i->source[0])
		return key_error(p, "source: an interface of type user has no source; remove it");
	if (i->type == DEFINITION_BRIDGE && i->user.nforwards)
		return key_error(p, "forwards require type user or network; remove them");
	if (i->type != DEFINITION_USER && !definition_user_is_plain(&i->user))
		return key_error(p, "network, restrict and host_loopback require type user; remove them");
	if (i->type != DEFINITION_NETWORK && (i->clean_traffic || i->isolated))
		return key_error(p, "filter and isolated require type network; remove them");
	if (i->type == DEFINITION_USER && i->queues > 1)
		return key_error(p, "queues: an interface of type user has one pair of queues; remove queues, or use type network");
	if (i->type == DEFINITION_USER && i->vhost)
		return key_error(p, "vhost requires type network or bridge; remove it");
	if (i->type != DEFINITION_USER && i->egress)
		return key_error(p, "egress requires type user; remove it");
	if (i->type == DEFINITION_USER && !i->user.network[0])
		snprintf(i->user.network, sizeof(i->user.network), "%s", DEFINITION_USER_NETWORK);
	if (i->type != DEFINITION_USER && !i->source[0])
		return key_error(p, "source is missing; give the name of the %s",
			i->type == DEFINITION_BRIDGE ? "bridge" : "network");
	if (i->type == DEFINITION_BRIDGE && strlen(i->source) >= IFNAMSIZ)
		return key_error(p, "source: is %zu bytes long; a bridge's name has at most %d",
			strlen(i->source), IFNAMSIZ - 1);
	if (definition_check_bandwidth(p, &i->bandwidth) < 0)
		return -EINVAL;
	if (!i->id[0])
		snprintf(i->id, sizeof(i->id), "net%zu", n);
	return 0;
}

int definition_check_interfaces(struct parse *p)
{
	const struct definition_interface *n = p->d->interfaces;

	for (unsigned i = 0; i < p->d->ninterfaces; i++)
		if (n[i].slot && p->d->machine && !machine_version_keeps_slots(p->d->machine))
			return key_error(p, "interfaces[%u].slot: has no effect with machine version %u; set machine to %u, or remove slot", i,
				p->d->machine, machine_version_newest(p->d->firmware));
	for (unsigned i = 0; i < p->d->ninterfaces; i++)
		for (unsigned k = 0; k < i; k++) {
			if (!strcmp(n[i].id, n[k].id))
				return key_error(p, "interfaces[%u].id: \"%s\" is also the id of interfaces[%u]",
					i, n[i].id, k);
			if (definition_has_mac(&n[i]) && !memcmp(n[i].mac, n[k].mac, sizeof(n[i].mac)))
				return key_error(p, "interfaces[%u].mac: is also the address of interfaces[%u]",
					i, k);
			if (n[i].slot && n[i].slot == n[k].slot)
				return key_error(p, "interfaces[%u].slot: %u is also the slot of interfaces[%u]", i, n[i].slot, k);
			if (n[i].boot_order && n[i].boot_order == n[k].boot_order)
				return key_error(p, "interfaces[%u].boot_order: %u is also the boot_order of interfaces[%u]", i,
					n[i].boot_order, k);
		}
	for (unsigned i = 0; i < p->d->ninterfaces; i++)
		for (unsigned k = 0; k < p->d->ndisks; k++)
			if (n[i].boot_order && n[i].boot_order == p->d->disks[k].boot_order)
				return key_error(p, "interfaces[%u].boot_order: %u is also the boot_order of disks[%u]", i, n[i].boot_order, k);
	return definition_check_forwards(p);
}

void definition_interface_slots(const struct definition *d, uint8_t ret[DEFINITION_INTERFACES_MAX])
{
	uint32_t taken = 1; /* the host bridge */
	unsigned before = (unsigned)d->virtio_console + d->guest_agent + d->rng + (d->watchdog == VM_WATCHDOG_I6300ESB);

	for (unsigned i = 0; i < d->ndisks; i++)
		before += d->disks[i].bus == VM_BUS_VIRTIO;
	for (unsigned i = 0; i < d->ninterfaces; i++)
		taken |= d->interfaces[i].slot ? 1u << d->interfaces[i].slot : 0;
	for (; before; before--)
		taken |= ~taken & (taken + 1); /* the lowest free slot */
	for (unsigned i = 0; i < d->ninterfaces; i++) {
		ret[i] = (uint8_t)d->interfaces[i].slot;
		if (!ret[i] && ~taken)
			ret[i] = (uint8_t)__builtin_ctz(~taken);
		taken |= 1u << ret[i];
	}
}

int definition_parse_interfaces(struct parse *p, struct json_object *v, void *into)
{
	size_t n;

	(void)into;
	if (!json_object_is_type(v, json_type_array))
		return key_error(p, "must be an array of interfaces, not %s", js_type_words(v));
	n = json_object_array_length(v);
	if (n > DEFINITION_INTERFACES_MAX)
		return key_error(p, "has %zu interfaces; at most %d", n, DEFINITION_INTERFACES_MAX);
	p->d->interfaces = calloc(n + 1, sizeof(*p->d->interfaces));
	if (!p->d->interfaces)
		return err_set_errno(p->e, -ENOMEM, "definition");
	p->d->ninterfaces = (uint32_t)n;
	for (size_t i = 0; i < n; i++) {
		size_t had = key_push_index(p, i);
		int r;

		p->d->interfaces[i].type = TYPE_MISSING;
		r = keys_parse(p, json_object_array_get_idx(v, i), &definition_interface_keys, &p->d->interfaces[i]);
		if (!r)
			r = check_interface(p, i);
		if (r < 0)
			return r;
		p->path[had] = 0;
	}
	return 0;
}
