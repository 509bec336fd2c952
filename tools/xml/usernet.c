/* <ip> and <portForward> of an interface of type user, in both directions. */
#include "tools/xml/domain.h"
#include "api/definition/definition.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "tools/xml/print.h"
#include "tools/xml/reading.h"
#include "tools/xml/writer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libxml/tree.h>
#include <stdio.h>
#include <string.h>

/* ---- reading the XML ---- */

/* Compute the network from address and prefix of <ip>. With libvirt's passt, the address is the guest's, with SLIRP the
 * network's; without its host bits, both give the network. */
static int network_read(struct reading *r, struct _xmlNode *n, struct json_object *into)
{
	CLEANUP_FREE char *address = node_attr(n, "address");
	char text[INET_ADDRSTRLEN], prefix[32];
	struct in_addr a;
	uint64_t bits = 24;

	if (node_attr_is(n, "family", "ipv6")) {
		reading_warn(r, n, NULL, "has no effect: a user network has IPv4 only");
		return 0;
	}
	if (!address || inet_pton(AF_INET, address, &a) != 1)
		return reading_error(r, n, "address", ERR_INVALID, "\"%.40s\" is not an IPv4 address", address ? address : "");
	if (node_attr_number(r, n, "prefix", 32, &bits) < 0)
		return -EINVAL;
	a.s_addr &= htonl(bits ? ~0u << (32 - bits) : 0);
	inet_ntop(AF_INET, &a, text, sizeof(text));
	snprintf(prefix, sizeof(prefix), "%s/%u", text, (unsigned)bits);
	js_put_str(into, "network", prefix);
	return 0;
}

static int range_read(struct reading *r, struct _xmlNode *n, const char *protocol, const char *address,
	struct json_object *list)
{
	uint64_t start = 0, end, to;

	if (node_attr_is(n, "exclude", "yes"))
		return reading_error(r, n, "exclude", ERR_UNSUPPORTED, "is not supported; give the remaining ranges");
	if (node_attr_number(r, n, "start", 65535, &start) < 0)
		return -EINVAL;
	end = to = start;
	if (node_attr_number(r, n, "end", 65535, &end) < 0 || node_attr_number(r, n, "to", 65535, &to) < 0)
		return -EINVAL;
	if (!start || end < start)
		return reading_error(r, n, NULL, ERR_INVALID, "has no ports; give start, and an end of at least start");
	for (uint64_t i = 0; i <= end - start && json_object_array_length(list) <= DEFINITION_FORWARDS_MAX; i++) {
		struct json_object *one = json_object_new_object();

		js_put_str(one, "protocol", protocol);
		js_put_str(one, "address", address);
		js_put_uint(one, "port", start + i);
		js_put_uint(one, "to", to + i);
		json_object_array_add(list, one);
	}
	return 0;
}

static int forward_read(struct reading *r, struct _xmlNode *n, struct json_object *list)
{
	CLEANUP_FREE char *protocol = node_attr(n, "proto"), *address = node_attr(n, "address");
	CLEANUP_FREE char *dev = node_attr(n, "dev");
	struct _xmlNode *range = node_child(n, "range");
	int ret = 0;

	if (dev)
		return reading_error(r, n, "dev", ERR_UNSUPPORTED,
			"is not supported; a forward listens on an address: give address='...'");
	if (!range)
		return reading_error(r, n, NULL, ERR_UNSUPPORTED,
			"without a <range> means all ports, which is not supported; give "
			"<range start='2222' to='22'/>");
	for (; range && !ret; range = node_next(range))
		ret = range_read(r, range, protocol ? protocol : "tcp", address ? address : "0.0.0.0", list);
	return ret;
}

int usernet_read(struct reading *r, struct _xmlNode *interface, struct json_object *into)
{
	struct json_object *list = json_object_new_array();
	struct _xmlNode *n;
	int ret = 0;

	for (n = node_child(interface, "ip"); n && !ret; n = node_next(n))
		ret = network_read(r, n, into);
	for (n = node_child(interface, "portForward"); n && !ret; n = node_next(n))
		ret = forward_read(r, n, list);
	if (ret < 0 || !json_object_array_length(list))
		json_object_put(list);
	else
		js_put(into, "forwards", list);
	return ret;
}

/* ---- printing the XML ---- */

static void forward_print(struct writer *w, struct json_object *f)
{
	char port[16], to[16];

	snprintf(port, sizeof(port), "%d", (int)js_get_int(f, "port", 0));
	snprintf(to, sizeof(to), "%d", (int)js_get_int(f, "to", 0));
	writer_open(w, "portForward", "proto", js_get_str(f, "protocol"), "address", js_get_str(f, "address"), NULL);
	writer_leaf(w, "range", "start", port, "to", to, NULL);
	writer_close(w, "portForward");
}

/* Can <portForward> express all forwards? It has no attribute for a guest's address; <metadata> then holds all
 * forwards. */
static bool forwards_fit(struct json_object *list)
{
	for (size_t i = 0; i < json_object_array_length(list); i++)
		if (js_get(json_object_array_get_idx(list, i), "guest"))
			return false;
	return true;
}

void usernet_print(struct writer *w, struct json_object *interface)
{
	struct json_object *list = js_get_array(interface, "forwards");
	const char *network = js_get_str(interface, "network"), *slash = network ? strchr(network, '/') : NULL;
	bool fit = list && json_object_array_length(list) && forwards_fit(list);
	char address[32];

	if (slash && strcmp(network, DEFINITION_USER_NETWORK)) {
		snprintf(address, sizeof(address), "%.*s", (int)(slash - network), network);
		writer_leaf(w, "ip", "family", "ipv4", "address", address, "prefix", slash + 1, NULL);
	}
	for (size_t i = 0; fit && i < json_object_array_length(list); i++)
		forward_print(w, json_object_array_get_idx(list, i));
	if (fit)
		writer_leaf(w, "backend", "type", "passt", NULL);
}
