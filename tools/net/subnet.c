#include "tools/net/subnet.h"
#include "base/boot_file.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LEASE_SECONDS 3600
#define LEASE_SECONDS_MIN 120 /* dnsmasq's */
#define DUID_MAX_BYTES 130    /* RFC 8415, section 11.1 */
#define SERVICE_ID 0x53	      /* of IPv6: PREFIX::53 */
#define PREFIX_MIN_IPV4 8
#define PREFIX_MAX_IPV4 29 /* the bridge, dnsmasq and a guest */
#define PREFIX_MIN_IPV6 64 /* dnsmasq's */
#define PREFIX_MAX_IPV6 120

/* ---- checks ---- */

static int address_inside(const struct subnet *s, const struct address *a, const char *path, const char *key, struct err *e)
{
	char text[ADDRESS_TEXT_MAX], net[ADDRESS_TEXT_MAX];
	struct address first = address_network(&s->address, s->prefix);

	if (address_shares_prefix(a, &s->address, s->prefix) && !address_is_edge(a, s->prefix))
		return 0;
	return err_set(e, -EINVAL, ERR_INVALID, "%s.%s: no host of the network %s/%u can have %s", path, key,
		address_print(&first, net), s->prefix, address_print(a, text));
}

static int range_read(const struct reading *r, struct subnet *s, struct range *range, struct err *e)
{
	static const char *const keys[] = { "start", "end", NULL };
	int family = s->address.family, error = reading_keys(r, keys, e);

	if (!error)
		error = reading_address(r, "start", true, family, &range->start, e);
	if (!error)
		error = reading_address(r, "end", true, family, &range->end, e);
	if (!error)
		error = address_inside(s, &range->start, r->path, "start", e);
	if (!error)
		error = address_inside(s, &range->end, r->path, "end", e);
	if (!error && address_compare(&range->end, &range->start) < 0)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: it ends before it starts", r->path);
	for (size_t i = 0; !error && i < s->nranges; i++)
		if (address_compare(&s->ranges[i].start, &range->end) <= 0 && address_compare(&range->start, &s->ranges[i].end) <= 0)
			return err_set(e, -EINVAL, ERR_INVALID, "%s: it overlaps ranges[%zu]", r->path, i);
	return error;
}

static int ranges_read(const struct reading *r, struct subnet *s, struct err *e)
{
	struct json_object *array = NULL;
	int error = reading_array(r, "ranges", RANGES_MAX, &array, e);

	for (size_t i = 0; !error && array && i < json_object_array_length(array); i++) {
		struct reading range;

		error = reading_member(r, "ranges", array, i, &range, e);
		if (!error)
			error = range_read(&range, s, &s->ranges[i], e);
		s->nranges = i + 1;
	}
	return error;
}

static bool duid_is_valid(const char *duid)
{
	size_t len = strlen(duid);

	if (len % 3 != 2 || len > 3 * DUID_MAX_BYTES)
		return false;
	for (size_t i = 0; i < len; i++)
		if (i % 3 == 2 ? duid[i] != ':' : !strchr("0123456789abcdefABCDEF", duid[i]))
			return false;
	return true;
}

static int host_identity_read(const struct reading *r, int family, struct dhcp_host *h, struct err *e)
{
	uint8_t mac[MAC_BYTES];
	int error = reading_text(r, "mac", family == AF_INET, &h->mac, e);

	if (!error && family == AF_INET6)
		error = reading_text(r, "duid", false, &h->duid, e);
	if (error < 0)
		return error;
	if (h->mac && mac_parse(h->mac, mac) < 0)
		return err_set(e, -EINVAL, ERR_INVALID, "%s.mac: a MAC address, such as 52:54:00:12:34:56, and no multicast one", r->path);
	if (h->duid && !duid_is_valid(h->duid))
		return err_set(e, -EINVAL, ERR_INVALID, "%s.duid: bytes in hexadecimal with colons", r->path);
	if (!h->mac == !h->duid)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: give one of mac and duid", r->path);
	return 0;
}

static int host_read(const struct reading *r, const struct subnet *s, struct dhcp_host *h, struct err *e)
{
	static const char *const keys4[] = { "mac", "name", "address", NULL };
	static const char *const keys6[] = { "mac", "duid", "name", "address", NULL };
	int family = s->address.family;
	int error = reading_keys(r, family == AF_INET ? keys4 : keys6, e);

	if (!error)
		error = host_identity_read(r, family, h, e);
	if (!error)
		error = reading_host_name(r, "name", &h->name, e);
	if (!error)
		error = reading_address(r, "address", false, family, &h->address, e);
	if (error < 0)
		return error;
	if (!h->name && !h->address.family)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: give a name or an address, or both", r->path);
	if (!h->address.family)
		return 0;
	if (address_equal(&h->address, &s->address))
		return err_set(e, -EINVAL, ERR_INVALID, "%s.address: this is the address of the bridge; choose another", r->path);
	return address_inside(s, &h->address, r->path, "address", e);
}

/* Whether two hosts have the same value of a key that must be unique. Returns the name of the key, or NULL. */
static const char *hosts_clash(const struct dhcp_host *a, const struct dhcp_host *b)
{
	if (a->address.family && b->address.family && address_equal(&a->address, &b->address))
		return "address";
	if (a->mac && b->mac && !strcasecmp(a->mac, b->mac))
		return "mac";
	if (a->duid && b->duid && !strcasecmp(a->duid, b->duid))
		return "duid";
	return NULL;
}

static int hosts_read(const struct reading *r, struct subnet *s, struct err *e)
{
	struct json_object *array = NULL;
	int error = reading_array(r, "hosts", HOSTS_MAX, &array, e);
	size_t count = array ? json_object_array_length(array) : 0;

	if (error < 0 || !count)
		return error;
	s->hosts = must_alloc(calloc(count, sizeof(*s->hosts)));
	for (size_t i = 0; i < count; i++) {
		struct reading host;

		error = reading_member(r, "hosts", array, i, &host, e);
		if (!error)
			error = host_read(&host, s, &s->hosts[i], e);
		if (error < 0)
			return error;
		for (size_t j = 0; j < i; j++) {
			const char *key = hosts_clash(&s->hosts[i], &s->hosts[j]);

			if (key)
				return err_set(e, -EINVAL, ERR_INVALID, "%s.%s: hosts[%zu] has the same", host.path, key, j);
		}
		s->nhosts = i + 1;
	}
	return 0;
}

static int boot_read(const struct reading *r, struct subnet *s, struct err *e)
{
	int error = reading_text(r, "boot_file", false, &s->boot_file, e);

	if (!error && s->boot_file && (strlen(s->boot_file) > BOOT_FILE_BYTES || !boot_file_has_characters(s->boot_file) ||
		boot_file_is_tag(s->boot_file)))
		return err_set(e, -EINVAL, ERR_INVALID, "%s.boot_file: %s", r->path, BOOT_FILE_CHARACTERS);
	return error ? error : reading_address(r, "boot_server", false, AF_INET, &s->boot_server, e);
}

static int dhcp_read(const struct reading *up, struct subnet *s, struct err *e)
{
	static const char *const keys6[] = { "ranges", "hosts", "lease_seconds", NULL };
	static const char *const keys4[] = { "ranges", "hosts", "lease_seconds", "boot_file", "boot_server", NULL };
	bool v4 = s->address.family == AF_INET;
	struct reading r;
	int error = reading_object(up, "dhcp", &r, e);

	s->lease_seconds = LEASE_SECONDS;
	if (error < 0 || !r.o)
		return error;
	error = reading_keys(&r, v4 ? keys4 : keys6, e);
	if (!error && v4)
		error = boot_read(&r, s, e);
	if (!error)
		error = reading_number(&r, "lease_seconds", false, LEASE_SECONDS_MIN, UINT32_MAX, &s->lease_seconds, e);
	if (!error)
		error = ranges_read(&r, s, e);
	if (!error)
		error = hosts_read(&r, s, e);
	s->dhcp = s->nranges || s->nhosts;
	return error;
}

static int prefix_read(const struct reading *r, struct subnet *s, struct err *e)
{
	bool v4 = s->address.family == AF_INET;
	int error = reading_number(r, "prefix", true, v4 ? PREFIX_MIN_IPV4 : PREFIX_MIN_IPV6,
		v4 ? PREFIX_MAX_IPV4 : PREFIX_MAX_IPV6, &s->prefix, e);
	char text[ADDRESS_TEXT_MAX];

	if (!error && (!address_is_unicast(&s->address) || address_is_edge(&s->address, s->prefix)))
		return err_set(e, -EINVAL, ERR_INVALID, "%s.address: no host can have %s/%u", r->path, address_print(&s->address, text),
			s->prefix);
	return error;
}

int subnet_read(const struct reading *up, const char *key, int family, struct subnet *ret, struct err *e)
{
	static const char *const keys4[] = { "address", "prefix", "tftp_root", "dhcp", NULL };
	static const char *const keys6[] = { "address", "prefix", "nat", "dhcp", NULL };
	struct reading r;
	int error = reading_object(up, key, &r, e);

	if (error < 0 || !r.o)
		return error;
	ret->given = true;
	error = reading_keys(&r, family == AF_INET ? keys4 : keys6, e);
	if (!error)
		error = reading_address(&r, "address", true, family, &ret->address, e);
	if (!error)
		error = prefix_read(&r, ret, e);
	if (!error && family == AF_INET6)
		error = reading_bool(&r, "nat", &ret->nat, e);
	if (!error && family == AF_INET)
		error = reading_text(&r, "tftp_root", false, &ret->tftp_root, e);
	if (!error && ret->tftp_root && *ret->tftp_root != '/')
		return err_set(e, -EINVAL, ERR_INVALID, "%s.tftp_root: an absolute path", r.path);
	if (!error)
		error = dhcp_read(&r, ret, e);
	if (!error && family == AF_INET6 && !ret->dhcp && ret->prefix != PREFIX_MIN_IPV6)
		return err_set(e, -EINVAL, ERR_INVALID, "%s.prefix: guests make addresses by router advertisements only in networks of /%d; "
			"give that, or a range for DHCP", r.path, PREFIX_MIN_IPV6);
	return error;
}

/* ---- dnsmasq's address ---- */

bool subnet_service_is_valid(const struct subnet *s, const struct address *a)
{
	if (!address_shares_prefix(a, &s->address, s->prefix) || address_is_edge(a, s->prefix) || address_equal(a, &s->address))
		return false;
	for (size_t i = 0; i < s->nhosts; i++)
		if (s->hosts[i].address.family && address_equal(a, &s->hosts[i].address))
			return false;
	return true;
}

/* Returns the range that has the address, or NULL. */
static const struct range *range_find(const struct subnet *s, const struct address *a)
{
	for (size_t i = 0; i < s->nranges; i++)
		if (address_compare(a, &s->ranges[i].start) >= 0 && address_compare(a, &s->ranges[i].end) <= 0)
			return &s->ranges[i];
	return NULL;
}

/* Search downwards from the highest address. Each step jumps over a range or a host, which bounds the steps. */
static bool service_search(const struct subnet *s, bool in_ranges, struct address *ret)
{
	struct address a = address_last(&s->address, s->prefix);

	for (size_t steps = s->nranges + s->nhosts + 4; steps--; a = address_step(&a, -1)) {
		const struct range *range = in_ranges ? NULL : range_find(s, &a);

		if (range)
			a = range->start;
		else if (subnet_service_is_valid(s, &a)) {
			*ret = a;
			return true;
		}
	}
	return false;
}

int subnet_service_choose(const struct subnet *s, struct address *ret, struct err *e)
{
	struct address wanted = address_network(&s->address, s->prefix);

	wanted.bytes[15] = SERVICE_ID;
	if (s->address.family == AF_INET6 && subnet_service_is_valid(s, &wanted) && !range_find(s, &wanted)) {
		*ret = wanted;
		return 0;
	}
	if (service_search(s, false, ret) || service_search(s, true, ret))
		return 0;
	return err_set(e, -ENOSPC, ERR_INVALID, "the network has no free address for DHCP and DNS; give it a shorter prefix");
}
