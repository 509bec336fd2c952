#include "tools/net/forwarding.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONF "/proc/sys/net"
#define FORCE "force_forwarding"
#define ALL "all"

/* ---- values ---- */

static void sysctl_path(const char *family, const char *link, const char *key, char *buf, size_t size)
{
	snprintf(buf, size, CONF "/%s/conf/%s/%s", family, link, key);
}

int link_sysctl_write(const char *family, const char *link, const char *key, int value, struct err *e)
{
	char path[128], text[16];
	CLEANUP_CLOSE int fd = -1;
	int len = snprintf(text, sizeof(text), "%d\n", value);

	sysctl_path(family, link, key, path, sizeof(path));
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, (size_t)len) != len)
		return errno == EROFS ? err_set(e, -EROFS, ERR_HOST, "cannot write to %s, which is mounted read-only; in a container, mount "
			"/proc/sys writable (docker run --privileged)", path) : err_set_errno(e, -errno, "cannot write %d to %s", value, path);
	return 0;
}

int link_sysctl_read(const char *family, const char *link, const char *key)
{
	char path[128], text[16] = "";
	CLEANUP_CLOSE int fd = -1;

	sysctl_path(family, link, key, path, sizeof(path));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return -1;
	return atoi(text);
}

static bool kernel_can_force(void)
{
	return link_sysctl_read("ipv6", ALL, FORCE) >= 0;
}

static bool ipv6_passes(const char *link)
{
	return link_sysctl_read("ipv6", ALL, "forwarding") > 0 || link_sysctl_read("ipv6", link, FORCE) > 0;
}

/* ---- sets ---- */

static struct names *set_names(struct forwarding *f, const char *set)
{
	return !strcmp(set, SET_IPV4) ? &f->ipv4 : !strcmp(set, SET_IPV6) ? &f->ipv6 : !strcmp(set, SET_ACCEPT_RA) ? &f->accept_ra : NULL;
}

static void set_read(struct json_object *set, struct forwarding *f)
{
	struct names *to = set_names(f, js_get_str_or(set, "name", ""));
	struct json_object *elements = js_get_array(set, "elem");

	for (size_t i = 0; to && elements && i < json_object_array_length(elements); i++) {
		struct json_object *v = json_object_array_get_idx(elements, i);
		const char *text = json_object_is_type(v, json_type_string) ? js_plain_string(v) : NULL;

		if (text)
			names_add(to, text);
	}
}

/* Read the sets of a network's table; empty ones if there is no such table. */
static int table_read(struct nft *nft, const char *table, struct forwarding *ret, struct err *e)
{
	CLEANUP_JS struct json_object *owner = NULL;
	struct json_object *list;
	char command[128];
	int r;

	snprintf(command, sizeof(command), "list table inet %s", table);
	r = nft_list(nft, command, &owner, &list, e);
	for (size_t i = 0; !r && i < json_object_array_length(list); i++) {
		struct json_object *set = js_get(json_object_array_get_idx(list, i), "set");

		if (set)
			set_read(set, ret);
	}
	return r;
}

/* ---- the file: lines "SET LINK" ---- */

static const char *file_path(const char *folder, char path[PATH_MAX])
{
	snprintf(path, PATH_MAX, "%s/forwarding", folder);
	return path;
}

static int file_load(const char *folder, struct forwarding *ret, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	char path[PATH_MAX], set[32], link[IFNAMSIZ];
	size_t len;
	int r = file_read(file_path(folder, path), 1 * MIB, &text, &len, e);

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (sscanf(line, "%31s %15s", set, link) == 2 && set_names(ret, set) && link_name_is_valid(link))
			names_add(set_names(ret, set), link);
	return 0;
}

static void names_write(FILE *f, const char *set, const struct names *list)
{
	for (size_t i = 0; i < list->n; i++)
		fprintf(f, "%s %s\n", set, list->list[i]);
}

int forwarding_note(const char *folder, const struct forwarding *f, struct err *e)
{
	CLEANUP_FREE char *text = NULL;
	char path[PATH_MAX];
	size_t len;
	FILE *to = open_memstream(&text, &len);

	if (!to)
		return err_set_errno(e, -ENOMEM, "forwarding");
	names_write(to, SET_IPV4, &f->ipv4);
	names_write(to, SET_IPV6, &f->ipv6);
	names_write(to, SET_ACCEPT_RA, &f->accept_ra);
	if (fclose(to))
		return err_set_errno(e, -ENOMEM, "forwarding");
	return file_write_atomic(file_path(folder, path), text, len, 0600, e);
}

/* Read the sets of this network, with those in its folder, and together those of all others. */
static int sets_read(struct nft *nft, const struct network *n, const char *folder, struct forwarding *own, struct forwarding *others,
	struct err *e)
{
	CLEANUP_FREE struct nft_table *list = NULL;
	size_t count = 0;
	int r = folder ? file_load(folder, own, e) : 0;

	if (!r)
		r = nft_tables(nft, &list, &count, e);
	for (size_t i = 0; !r && i < count; i++) {
		const char *name = list[i].name;

		if (!strcmp(list[i].family, "inet") && !strncmp(name, "cairn_", 6) && nft_name_is_plain(name))
			r = table_read(nft, name, !strcmp(name, n->table) ? own : others, e);
	}
	return r;
}

/* ---- planning ---- */

/* Return whether somebody else has switched forwarding on for all links. */
static bool ipv4_is_on(void)
{
	return link_sysctl_read("ipv4", ALL, "forwarding") > 0;
}

static bool ipv6_is_on(void)
{
	return kernel_can_force() && link_sysctl_read("ipv6", ALL, "forwarding") > 0;
}

static void names_drop_missing(const char *family, struct names *list)
{
	struct names old = *list;

	list->n = 0;
	for (size_t i = 0; i < old.n; i++)
		if (link_sysctl_read(family, old.list[i], "forwarding") >= 0)
			names_add(list, old.list[i]);
}

static void names_join(struct names *ret, const struct names *a, const struct names *b)
{
	*ret = *a;
	for (size_t i = 0; i < b->n; i++)
		names_add(ret, b->list[i]);
}

static void ipv4_plan(const struct uplinks *up, const struct forwarding *others, struct forwarding *f)
{
	for (size_t i = 0; i < up->ipv4.n; i++) {
		const char *link = up->ipv4.list[i];

		if (link_sysctl_read("ipv4", link, "forwarding") == 0 || names_have(&others->ipv4, link))
			names_add(&f->ipv4, link);
	}
}

/* Links that take routes from router advertisements only as long as the host does not forward. */
static void accept_ra_plan(struct forwarding *f)
{
	DIR *d = opendir(CONF "/ipv6/conf");

	for (struct dirent *i; d && (i = readdir(d));)
		if (link_name_is_valid(i->d_name) && link_sysctl_read("ipv6", i->d_name, "accept_ra") == 1 &&
			link_sysctl_read("ipv6", i->d_name, "forwarding") == 0)
			names_add(&f->accept_ra, i->d_name);
	if (d)
		closedir(d);
}

static void ipv6_plan(const struct uplinks *up, const struct forwarding *others, struct forwarding *f)
{
	if (kernel_can_force()) {
		for (size_t i = 0; i < up->ipv6.n; i++)
			if (!ipv6_passes(up->ipv6.list[i]) || names_have(&others->ipv6, up->ipv6.list[i]))
				names_add(&f->ipv6, up->ipv6.list[i]);
		return;
	}
	if (link_sysctl_read("ipv6", ALL, "forwarding") == 0)
		accept_ra_plan(f);
	else if (!names_have(&others->ipv6, ALL))
		return;
	names_add(&f->ipv6, ALL);
	for (size_t i = 0; i < others->accept_ra.n; i++)
		names_add(&f->accept_ra, others->accept_ra.list[i]);
}

int forwarding_plan(struct nft *nft, const struct network *n, const char *folder, const struct uplinks *up, struct forwarding *ret,
	struct err *e)
{
	struct forwarding others = { 0 };
	int r;

	memset(ret, 0, sizeof(*ret));
	r = sets_read(nft, n, folder, ret, &others, e);
	if (r < 0 || !network_is_forwarded(n))
		return r;
	/* Links of VPNs come and go. */
	names_drop_missing("ipv4", &ret->ipv4);
	names_drop_missing("ipv6", &ret->ipv6);
	names_drop_missing("ipv6", &ret->accept_ra);
	if (ipv4_is_on())
		ret->ipv4.n = 0;
	else if (n->ipv4.given)
		ipv4_plan(up, &others, ret);
	if (ipv6_is_on())
		ret->ipv6.n = 0;
	else if (n->ipv6.given)
		ipv6_plan(up, &others, ret);
	names_join(&ret->guard_ipv4, &ret->ipv4, &others.ipv4);
	names_join(&ret->guard_ipv6, &ret->ipv6, &others.ipv6);
	return 0;
}

/* ---- switching ---- */

int forwarding_enable(const struct network *n, const struct forwarding *f, struct err *e)
{
	int r = 0;

	if (!network_is_forwarded(n))
		return 0;
	if (n->ipv4.given)
		r = link_sysctl_write("ipv4", n->bridge, "forwarding", 1, e);
	for (size_t i = 0; i < f->ipv4.n && !r; i++)
		r = link_sysctl_write("ipv4", f->ipv4.list[i], "forwarding", 1, e);
	for (size_t i = 0; i < f->accept_ra.n && !r; i++)
		r = link_sysctl_write("ipv6", f->accept_ra.list[i], "accept_ra", 2, e);
	for (size_t i = 0; i < f->ipv6.n && !r; i++)
		r = link_sysctl_write("ipv6", f->ipv6.list[i], strcmp(f->ipv6.list[i], ALL) ? FORCE : "forwarding", 1, e);
	if (!r && n->ipv6.given && kernel_can_force())
		r = link_sysctl_write("ipv6", n->bridge, FORCE, 1, e);
	return r;
}

/* A link may be gone. */
static int switch_off(const char *family, const char *link, const char *key, int value, struct err *e)
{
	if (link_sysctl_read(family, link, key) < 0)
		return 0;
	return link_sysctl_write(family, link, key, value, e);
}

int forwarding_disable(struct nft *nft, const struct network *n, const char *folder, struct err *e)
{
	struct forwarding own = { 0 }, others = { 0 };
	int r = sets_read(nft, n, folder, &own, &others, e);

	if (!ipv4_is_on())
		for (size_t i = 0; i < own.ipv4.n && !r; i++)
			if (!names_have(&others.ipv4, own.ipv4.list[i]))
				r = switch_off("ipv4", own.ipv4.list[i], "forwarding", 0, e);
	for (size_t i = 0; i < own.ipv6.n && !r; i++) {
		const char *link = own.ipv6.list[i];

		if (!names_have(&others.ipv6, link))
			r = switch_off("ipv6", link, strcmp(link, ALL) ? FORCE : "forwarding", 0, e);
	}
	for (size_t i = 0; i < own.accept_ra.n && !r; i++)
		if (!names_have(&others.accept_ra, own.accept_ra.list[i]))
			r = switch_off("ipv6", own.accept_ra.list[i], "accept_ra", 1, e);
	return r;
}

void forwarding_guard_print(FILE *f, const struct network *n)
{
	if (!network_is_forwarded(n))
		return;
	fputs("meta nfproto ipv4 iifname @" SET_IPV4 " oifname @" SET_GUARD_IPV4 " drop\n"
		"meta nfproto ipv4 iifname @" SET_GUARD_IPV4 " oifname @" SET_IPV4 " drop\n"
		"meta nfproto ipv6 iifname @" SET_IPV6 " oifname @" SET_GUARD_IPV6 " drop\n"
		"meta nfproto ipv6 iifname @" SET_GUARD_IPV6 " oifname @" SET_IPV6 " drop\n", f);
}

/* Return whether packets pass between the bridge and the uplinks. */
static bool switches_are_on(const struct network *n, const struct uplinks *up)
{
	if ((n->ipv4.given && link_sysctl_read("ipv4", n->bridge, "forwarding") != 1) || (n->ipv6.given && !ipv6_passes(n->bridge)))
		return false;
	for (size_t i = 0; i < up->ipv4.n; i++)
		if (link_sysctl_read("ipv4", up->ipv4.list[i], "forwarding") != 1)
			return false;
	for (size_t i = 0; i < up->ipv6.n; i++)
		if (!ipv6_passes(up->ipv6.list[i]))
			return false;
	return true;
}

int forwarding_is_complete(struct nft *nft, const struct network *n, const struct uplinks *up, bool has_table, struct err *e)
{
	struct forwarding own = { 0 };
	int r = 0;

	if (!network_is_forwarded(n))
		return 1;
	if (has_table && (ipv4_is_on() || ipv6_is_on()))
		r = table_read(nft, n->table, &own, e);
	if (r < 0)
		return r;
	return switches_are_on(n, up) && !(ipv4_is_on() && own.ipv4.n) && !(ipv6_is_on() && own.ipv6.n);
}
