/* Makes the definitions of live clones from that of their source. */
#include "api/access/authors.h"
#include "api/definition/definition.h"
#include "api/jobs/clone_plan.h"
#include "api/jobs/fork_impl.h"
#include "api/net/publish.h"
#include "api/vm/identity.h"
#include "api/vm/image_users.h"
#include "api/vm/owner_claim.h"
#include "api/vm/vm.h"
#include "api/vm/vm_spare.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

static int clone_check(struct vm_host *host, const char *name, struct err *e)
{
	int r = definition_check_name(name, e);

	if (r < 0)
		err_prefix(e, "name");
	if (!r && vm_find(host, name))
		r = err_set(e, -EEXIST, ERR_EXISTS, "there is a VM '%s' already; choose another name", name);
	return r;
}

/* Print the path of a clone's file for the disk, beside the source's image: NAME-vda.qcow2. */
static int copy_path(const struct definition_disk *d, const char *name, char path[PATH_MAX], struct err *e)
{
	const char *image = d->layers[0].path, *slash = strrchr(image, '/');
	int n = snprintf(path, PATH_MAX, "%.*s/%s-%s.%s", (int)(slash - image), image, name, d->id,
		definition_format_name(d->layers[0].format));

	if (n >= PATH_MAX)
		return err_set_errno(e, -ENAMETOOLONG, "%s", image);
	return 0;
}

/* Replace the path of each writable disk by that of the clone's own file. */
static int disks_rename(const struct vm *vm, struct json_object *o, const char *name, struct err *e)
{
	const struct definition *source = vm->def;
	struct json_object *disks = js_get_array(o, "disks");
	char path[PATH_MAX];
	int r = 0;

	for (uint32_t i = 0; i < source->ndisks && !r; i++) {
		if (source->disks[i].read_only)
			continue;
		r = copy_path(&source->disks[i], name, path, e);
		if (!r)
			r = image_check_new(vm, path, e);
		if (!r)
			js_put_str(json_object_array_get_idx(disks, i), "path", path);
	}
	return r;
}

static void macs_drop(struct json_object *o)
{
	struct json_object *list = js_get_array(o, "interfaces");

	for (size_t i = 0; i < json_object_array_length(list); i++)
		json_object_object_del(json_object_array_get_idx(list, i), "mac");
}

/* Make the clone's definition from the source's, o, with new name, uuid, MAC addresses and paths of writable disks. */
static int clone_define(struct clone *c, struct json_object *o, const char *name, struct owner_claim *owners, struct err *e)
{
	struct fork *f = c->fork;
	int r = clone_check(f->host, name, e);

	if (!r)
		r = disks_rename(f->source, o, name, e);
	if (r < 0)
		return r;
	js_put_str(o, "name", name);
	r = definition_parse(o, NULL, &c->def, e);
	if (!r)
		authors_clone(f->source->def, c->def); /* the author of a disk of the source makes its copy */
	if (!r && c == f->clones && vm_spare_reserve(f->host, c->def))
		memcpy(f->spare, c->def->uuid, sizeof(f->spare));
	else if (!r)
		r = uuid_make(c->def->uuid, e);
	if (!r)
		r = owner_claim_add(owners, c->def, e);
	return r < 0 ? r : identity_complete(f->host, c->def, NULL, e);
}

/* Let the clones use other networks. The rules of a filter would know no address of theirs there. */
static void networks_replace(struct json_object *o, struct json_object *networks)
{
	struct json_object *list = js_get_array(o, "interfaces");

	for (size_t i = 0; networks && i < json_object_array_length(list); i++) {
		struct json_object *face = json_object_array_get_idx(list, i);
		const char *source = js_get_str(face, "source"), *other = source ? js_get_str(networks, source) : NULL;

		if (!other || strcmp(js_get_str_or(face, "type", ""), "network") != 0)
			continue;
		js_put_str(face, "source", other);
		json_object_object_del(face, "filter");
	}
}

int fork_define_clones(struct fork *f, const struct fork_opts *opts, struct err *e)
{
	CLEANUP_JS struct json_object *source = definition_to_json(f->source->def);
	char name[VM_NAME_MAX + 16], size[24];
	int r = 0;

	json_object_object_del(source, "uuid");
	macs_drop(source);
	identity_drop_forwards(source);
	fork_put_backing(f, source);
	networks_replace(source, opts->networks);
	if (opts->cpu_quota)
		js_put_uint(source, "cpu_quota", opts->cpu_quota);
	snprintf(size, sizeof(size), "%lluK", (unsigned long long)(opts->memory_max_bytes / KIB));
	if (opts->memory_max_bytes)
		js_put_str(source, "memory_max", size);
	for (unsigned i = 0; i < f->n && !r; i++) {
		f->clones[i].fork = f;
		r = clone_name_print(opts->name, opts->pattern, opts->count, i, name, sizeof(name), e);
		if (!r)
			r = clone_define(&f->clones[i], source, name, opts->owners, e);
		for (unsigned k = 0; k < i && !r; k++)
			r = identity_differ(f->host, f->clones[i].def, f->clones[k].def, e);
		if (!r && opts->forwards)
			r = publish_define(opts->forwards, opts->forwards_rights, f->clones[i].def, &f->clones[i].live, e);
	}
	return r;
}
