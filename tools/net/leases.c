#include "tools/net/operation.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "tools/net/dnsmasq_config.h"
#include "tools/net/leases.h"
#include "tools/net/overlap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define LEASES_MAX_BYTES (128 * MIB) /* 65536 leases with the longest names and ids */

/* A line of dnsmasq's file: expiry, MAC (IPv6: IAID), address, name or *, client id or * (IPv6: DUID). */
struct line {
	char expires[24], id[64], address[64], name[256], client[512];
};

static void put_known(struct json_object *o, const char *key, const char *text)
{
	js_put(o, key, strcmp(text, "*") ? json_object_new_string(text) : NULL);
}

/* The MAC in a DUID of type 1 (time) or 3, for Ethernet: RFC 8415, section 11. */
static const char *duid_mac(const char *duid)
{
	if (!strncmp(duid, "00:01:00:01:", 12) && strlen(duid) == 14 * 3 - 1)
		return duid + 8 * 3;
	return !strncmp(duid, "00:03:00:01:", 12) && strlen(duid) == 10 * 3 - 1 ? duid + 4 * 3 : NULL;
}

/* Return the address as a number. Of an IPv6 address, the last 40 bits differ between the leases of a network. */
static int64_t address_key(const struct address *a)
{
	bool v4 = a->family == AF_INET;
	int64_t key = 0;

	for (size_t i = v4 ? 0 : 11; i < (v4 ? 4 : 16); i++)
		key = key << 8 | a->bytes[i];
	return v4 ? key : key | 1LL << 40;
}

static void lease_add(struct json_object *list, const struct line *l, const struct request *req)
{
	const char *mac;
	struct json_object *o;
	long long expires = strtoll(l->expires, NULL, 10);
	struct address a;
	bool v4;

	if (address_parse(l->address, AF_UNSPEC, &a) < 0 || (expires && expires < (long long)time(NULL)))
		return;
	v4 = a.family == AF_INET;
	mac = v4 ? l->id : duid_mac(l->client);
	if (req->leases.mac && strcasecmp(mac ? mac : "", req->leases.mac) != 0)
		return;
	o = json_object_new_object();
	js_put_int(o, "expires", expires);
	js_put(o, "mac", mac ? json_object_new_string(mac) : NULL);
	js_put_str(o, "address", l->address);
	js_put_int(o, "prefix", (v4 ? &req->net.ipv4 : &req->net.ipv6)->prefix);
	js_put_str(o, "family", v4 ? "ipv4" : "ipv6");
	put_known(o, "name", l->name);
	put_known(o, "client_id", l->client);
	if (!v4)
		js_put_int(o, "iaid", strtoll(l->id + (*l->id == 'T'), NULL, 10));
	json_object_array_add(list, o);
}

int leases_each(const struct request *req, void (*found)(void *arg, const char *line), void *arg, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	CLEANUP_CLOSE int fd = -1;
	char path[1200];
	size_t len;
	int r;

	snprintf(path, sizeof(path), "%s/dnsmasq/" LEASES, req->folder);
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : err_set_errno(e, -errno, "%s", path);
	r = file_read_fd(fd, path, LEASES_MAX_BYTES, &text, &len, e);
	if (r < 0)
		return r;
	for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		found(arg, line);
	return 0;
}

struct listing {
	struct json_object *list;
	const struct request *req;
};

static void line_add(void *arg, const char *text)
{
	struct listing *l = arg;
	struct line line;

	if (sscanf(text, "%23s %63s %63s %255s %511s", line.expires, line.id, line.address, line.name, line.client) == 5)
		lease_add(l->list, &line, l->req);
}

static int64_t lease_key(struct json_object *lease)
{
	struct address a;

	return address_parse(js_get_str_or(lease, "address", ""), AF_UNSPEC, &a) < 0 ? 0 : address_key(&a);
}

static int leases_compare(const void *a, const void *b)
{
	int64_t x = lease_key(*(struct json_object *const *)a), y = lease_key(*(struct json_object *const *)b);

	return (x > y) - (x < y);
}

int network_leases(struct operation *o, struct err *e)
{
	const struct request *req = o->req;
	struct listing l = { json_object_new_array(), req };
	size_t first = req->leases.skip, n, end;
	int r;

	js_put(o->answer, "leases", l.list);
	r = leases_each(req, line_add, &l, e);
	if (r < 0)
		return r;
	json_object_array_sort(l.list, leases_compare);
	n = json_object_array_length(l.list);
	first = MIN(first, n);
	while (first < n && lease_key(json_object_array_get_idx(l.list, first)) <= req->leases.after)
		first++;
	end = first + MIN(n - first, req->leases.most);
	if (end < n)
		js_put_int(o->answer, "next", lease_key(json_object_array_get_idx(l.list, end - 1)));
	json_object_array_del_idx(l.list, end, n - end);
	json_object_array_del_idx(l.list, 0, first);
	return 0;
}

int network_free(struct operation *o, struct err *e)
{
	struct address a;
	char text[ADDRESS_TEXT_MAX];
	int r = overlap_find_free(o->links, o->req->used, o->req->nused, &a, e);

	if (r < 0)
		return r;
	js_put_str(o->answer, "address", address_print(&a, text));
	js_put_int(o->answer, "prefix", 24);
	return 0;
}
