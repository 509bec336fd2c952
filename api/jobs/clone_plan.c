#include "api/jobs/clone_plan.h"
#include "api/access/authors.h"
#include "api/definition/definition.h"
#include "api/vm/identity.h"
#include "api/vm/image_users.h"
#include "api/vm/owner_claim.h"
#include "api/vm/quota_use.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"
#include "base/uuid.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the clones' names ---- */

static int pattern_wrong(const char *pattern, struct err *e)
{
	return err_set(e, -EINVAL, ERR_INVALID,
		"name-pattern: \"%.100s\" must have one number, as %%d or %%02d, and no other %%", pattern);
}

/* Parses the pattern itself: it is a client's input, so it must not become a printf() format. */
int clone_pattern_name(const char *pattern, unsigned i, char *ret, size_t cap, struct err *e)
{
	const char *at = strchr(pattern, '%'), *p = at ? at + 1 : NULL;
	bool zeros;
	int width = 0;

	if (!at)
		return pattern_wrong(pattern, e);
	zeros = *p == '0';
	for (; *p >= '0' && *p <= '9' && width < 10; p++)
		width = width * 10 + (*p - '0');
	if (*p != 'd' || width > 9 || strchr(p, '%'))
		return pattern_wrong(pattern, e);
	if (snprintf(ret, cap, zeros ? "%.*s%0*u%s" : "%.*s%*u%s", (int)(at - pattern), pattern, width, i, p + 1) >=
		(int)cap)
		return err_set(e, -EINVAL, ERR_INVALID, "name-pattern: the names would have more than %d bytes", VM_NAME_MAX);
	return 0;
}

int clone_name_print(const char *name, const char *pattern, unsigned count, unsigned i, char *ret, size_t cap, struct err *e)
{
	if (pattern)
		return clone_pattern_name(pattern, i + 1, ret, cap, e);
	if (count)
		snprintf(ret, cap, "%.*s-%u", VM_NAME_MAX + 1, name, i + 1);
	else
		snprintf(ret, cap, "%.*s", VM_NAME_MAX + 1, name);
	return 0;
}

static int name_check(const struct vm *source, const char *name, struct err *e)
{
	int r = definition_check_name(name, e);

	if (r < 0)
		err_prefix(e, "name");
	if (!r && vm_find(source->host, name))
		r = err_set(e, -EEXIST, ERR_EXISTS, "there is a VM '%s' already; choose another name", name);
	return r;
}

/* ---- the clones' files ---- */

/* Choose a path beside the source's image. If the image's name begins with the source's name, and no letter or digit
 * follows, that part is replaced: web1-data.qcow2 of web1 becomes NEW-data.qcow2. Any other name becomes the disk's id
 * and format behind NEW, such as NEW-vda.qcow2. */
static int path_beside(const struct definition_disk *d, const char *old, const char *new, const char *ext,
	char ret[PATH_MAX], struct err *e)
{
	const char *image = d->layers[0].path, *slash = strrchr(image, '/'), *base = slash + 1, *rest, *dot;
	size_t len = strlen(old);
	int n;

	if (!strncmp(image, "/dev/", 5) && strncmp(image, "/dev/shm/", 9))
		return err_set(e, -EINVAL, ERR_INVALID, "disk %s: %s is a device; give the path of its copy with "
			"--file", d->id,
			image);
	rest = base + len;
	if (strncmp(base, old, len) || isalnum((unsigned char)*rest)) {
		n = snprintf(ret, PATH_MAX, "%.*s/%s-%s.%s", (int)(slash - image), image, new, d->id, ext);
	} else {
		dot = strrchr(rest, '.');
		if (!dot)
			dot = rest + strlen(rest);
		/* A linked clone's disk is a qcow2 overlay, also on a raw backing file. */
		n = d->layers[0].format == DEFINITION_FORMAT_QCOW2 || strcmp(ext, "qcow2") ?
			snprintf(ret, PATH_MAX, "%.*s/%s%s", (int)(slash - image), image, new, rest) :
			snprintf(ret, PATH_MAX, "%.*s/%s%.*s.qcow2", (int)(slash - image), image, new,
				(int)(dot - rest), rest);
	}
	return n >= PATH_MAX ? err_set_errno(e, -ENAMETOOLONG, "%s", image) : 0;
}

static int path_given(const struct clone_opts *opts, unsigned nth, char ret[PATH_MAX], struct err *e)
{
	const char *path = js_plain_string(json_object_array_get_idx(opts->files, nth));

	if (!path)
		return err_set(e, -EINVAL, ERR_INVALID, "files: give one for each disk that the VM writes to");
	if (*path != '/' || strlen(path) >= PATH_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "files: %.200s is not an absolute path", path);
	snprintf(ret, PATH_MAX, "%s", path);
	return 0;
}

/* Return the backing chain of a linked clone's disk. */
static struct json_object *layers_to_json(const struct definition_disk *d)
{
	struct json_object *all = json_object_new_array();

	for (unsigned k = 0; k < d->nlayers; k++) {
		struct json_object *o = json_object_new_object();

		js_put_str(o, "path", d->layers[k].path);
		js_put_str(o, "format", definition_format_name(d->layers[k].format));
		js_put_str(o, "data_file", d->layers[k].data_file);
		json_object_array_add(all, o);
	}
	return all;
}

static int disk_change(const struct vm *source, const struct clone_opts *opts, const struct definition_disk *d,
	unsigned nth, const char *name, struct json_object *o, struct err *e)
{
	const char *format = opts->linked ? "qcow2" : definition_format_name(d->layers[0].format);
	char path[PATH_MAX];
	int r;

	if (opts->snapshots && d->layers[0].data_file)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"disk %s has an external data file, so it has no snapshots to copy; omit --snapshots", d->id);
	r = opts->files ? path_given(opts, nth, path, e) : path_beside(d, source->def->name, name, format, path, e);
	if (!r)
		r = image_check_new(source, path, e);
	if (r < 0)
		return r;
	js_put_str(o, "path", path);
	js_put_str(o, "format", format);
	json_object_object_del(o, "data_file");
	if (opts->linked)
		js_put(o, "backing", layers_to_json(d));
	else if (!opts->snapshots)
		json_object_object_del(o, "backing");
	return 0;
}

static int disks_change(const struct vm *source, const struct clone_opts *opts, const char *name,
	struct json_object *o, struct err *e)
{
	struct json_object *disks = js_get_array(o, "disks");
	unsigned nth = 0;
	int r = 0;

	for (uint32_t i = 0; i < source->def->ndisks && !r; i++)
		if (!source->def->disks[i].read_only)
			r = disk_change(source, opts, &source->def->disks[i], nth++, name,
				json_object_array_get_idx(disks, i), e);
	if (!r && opts->files && json_object_array_length(opts->files) != nth)
		r = err_set(e, -EINVAL, ERR_INVALID, "files: give %u paths, one for each disk that the VM writes to",
			nth);
	return r;
}

/* ---- the clones' MACs and definitions ---- */

/* Set the given MACs, which the definition's parser checks later. Remove the others: identity_complete() generates new
 * ones. */
static int macs_change(const struct clone_opts *opts, struct json_object *o, struct err *e)
{
	struct json_object *interfaces = js_get_array(o, "interfaces");
	size_t n = json_object_array_length(interfaces), given = opts->macs ? json_object_array_length(opts->macs) : 0;

	if (given > n)
		return err_set(e, -EINVAL, ERR_INVALID, "macs: has %zu addresses, but the VM has only %zu interfaces",
			given, n);
	for (size_t i = 0; i < n; i++) {
		struct json_object *interface = json_object_array_get_idx(interfaces, i);

		if (i < given)
			js_put(interface, "mac", json_object_get(json_object_array_get_idx(opts->macs, i)));
		else
			json_object_object_del(interface, "mac");
	}
	return 0;
}

static int uuid_set(const struct vm *source, const struct clone_opts *opts, struct definition *def, struct err *e)
{
	const struct vm *holder;

	if (!opts->uuid)
		return uuid_make(def->uuid, e);
	if (opts->owners)
		return creator_uuid_chosen(e);
	if (uuid_parse(opts->uuid, def->uuid) < 0 || !uuid_is_set(def->uuid))
		return err_set(e, -EINVAL, ERR_INVALID, "uuid: \"%.60s\" is not a UUID", opts->uuid);
	holder = vm_find_uuid(source->host, def->uuid);
	return holder ? err_set(e, -EEXIST, ERR_EXISTS,
				"uuid: is taken by VM '%s'; omit it to have one generated", holder->def->name) : 0;
}

/* ---- making the plan ---- */

static int clone_define(const struct vm *source, const struct clone_opts *opts, unsigned i, struct json_object *o,
	struct definition **ret, struct err *e)
{
	char name[VM_NAME_MAX + 16];
	int r = clone_name_print(opts->name, opts->pattern, opts->count, i, name, sizeof(name), e);

	if (!r)
		r = name_check(source, name, e);
	if (!r)
		r = disks_change(source, opts, name, o, e);
	if (!r)
		r = macs_change(opts, o, e);
	if (r < 0)
		return r;
	js_put_str(o, "name", name);
	r = definition_parse(o, NULL, ret, e);
	if (!r)
		authors_clone(source->def, *ret); /* the author of a disk of the source makes its copy */
	if (!r)
		r = uuid_set(source, opts, *ret, e);
	if (!r)
		r = owner_claim_add(opts->owners, *ret, e);
	return r ? r : identity_complete(source->host, *ret, NULL, e);
}

static int opts_check(const struct clone_opts *opts, struct err *e)
{
	if (!opts->name && !opts->pattern)
		return err_set(e, -EINVAL, ERR_INVALID, "the name is missing; give name or name-pattern");
	if (opts->count > 1 && (opts->files || opts->macs || opts->uuid))
		return err_set(e, -EINVAL, ERR_INVALID, "files, macs and uuid require a single clone");
	if (opts->linked && opts->snapshots)
		return err_set(e, -EINVAL, ERR_INVALID,
			"a linked clone cannot have the snapshots of its source; --snapshots requires --full");
	return 0;
}

int clone_plan_make(const struct vm *source, const struct clone_opts *opts, struct clone_plan *p, struct err *e)
{
	CLEANUP_JS struct json_object *o = definition_to_json(source->def);
	int r = opts_check(opts, e);

	*p = (struct clone_plan){ .owners = opts->owners };
	if (r < 0) {
		clone_plan_done(p);
		return r;
	}
	p->n = MAX(opts->count, 1);
	p->defs = calloc(p->n, sizeof(struct definition *));
	if (!p->defs)
		abort(); /* otherwise the client would never get an answer */
	json_object_object_del(o, "uuid");
	identity_drop_forwards(o);
	for (unsigned i = 0; i < p->n && !r; i++) {
		r = clone_define(source, opts, i, o, &p->defs[i], e);
		for (unsigned k = 0; k < i && !r; k++)
			r = identity_differ(source->host, p->defs[i], p->defs[k], e);
	}
	if (!r)
		r = quota_check_new(source->host, p->defs[0], &(struct quota_new){ .n = p->n }, e);
	if (r < 0)
		clone_plan_done(p);
	return r;
}

void clone_plan_done(struct clone_plan *p)
{
	for (unsigned i = 0; p->defs && i < p->n; i++)
		definition_free(p->defs[i]);
	free(p->defs);
	owner_claim_free(p->owners);
	*p = (struct clone_plan){ 0 };
}

static struct json_object *disks_to_json(const struct definition *def, const struct definition *source)
{
	struct json_object *all = json_object_new_array();

	for (uint32_t i = 0; i < def->ndisks; i++) {
		struct json_object *o;

		if (def->disks[i].read_only)
			continue;
		o = json_object_new_object();
		js_put_str(o, "id", def->disks[i].id);
		js_put_str(o, "path", def->disks[i].layers[0].path);
		js_put_str(o, "from", source->disks[i].layers[0].path);
		json_object_array_add(all, o);
	}
	return all;
}

struct json_object *clone_plan_to_json(const struct clone_plan *p, const struct vm *source)
{
	struct json_object *all = json_object_new_array();

	for (unsigned i = 0; i < p->n; i++) {
		struct json_object *o = json_object_new_object();

		js_put_str(o, "name", p->defs[i]->name);
		js_put(o, "disks", disks_to_json(p->defs[i], source->def));
		json_object_array_add(all, o);
	}
	return all;
}
