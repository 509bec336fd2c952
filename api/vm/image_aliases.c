#include "api/vm/image_aliases.h"
#include "api/definition/definition.h"
#include "api/vm/vm.h"
#include "base/err.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A layer of a disk of the definition, and one of another VM. */
struct pair {
	unsigned disk;
	const char *path, *other;
	const struct vm *vm, *old; /* old: the VM that is redefined; NULL: none */
	/* What pair_check() knows of `path`. */
	const char *looked_at;
	char real[PATH_MAX]; /* without symbolic links; empty: there is no such file */
	struct stat st;
};

typedef int pair_fn(const struct image_aliases *a, struct pair *p, struct err *e);

static bool same_last(const char *a, const char *b)
{
	return !strcmp(strrchr(a, '/'), strrchr(b, '/')); /* all paths are absolute */
}

static bool definition_names(const struct definition *def, const char *path)
{
	for (uint32_t i = 0; def && i < def->ndisks; i++)
		for (unsigned k = 0; k < def->disks[i].nlayers; k++)
			if (!strcmp(def->disks[i].layers[k].path, path))
				return true;
	return false;
}

/* Call fn for each layer of the other definition that has another path. */
static int others_compare(const struct image_aliases *a, struct pair *p, const struct definition *other, pair_fn *fn, struct err *e)
{
	int r = 0;

	for (uint32_t i = 0; other && i < other->ndisks && !r; i++)
		for (unsigned k = 0; k < other->disks[i].nlayers && !r; k++) {
			p->other = other->disks[i].layers[k].path;
			if ((!other->disks[i].read_only || !a->def->disks[p->disk].read_only) && strcmp(p->other, p->path))
				r = fn(a, p, e);
		}
	return r;
}

/* Call fn for each pair, until it returns something else than 0. */
static int pairs_compare(const struct image_aliases *a, pair_fn *fn, struct err *e)
{
	struct pair p = { .old = vm_find_name(a->host, a->def->name) };
	int r = 0;

	for (p.disk = 0; p.disk < a->def->ndisks; p.disk++)
		for (unsigned k = 0; k < a->def->disks[p.disk].nlayers; k++) {
			p.path = a->def->disks[p.disk].layers[k].path;
			if (p.old && definition_names(p.old->def, p.path))
				continue;
			for (size_t i = 0; i < a->host->nvms && !r; i++) {
				p.vm = a->host->vms[i];
				if (p.vm != p.old)
					r = others_compare(a, &p, p.vm->def, fn, e) ?: others_compare(a, &p, p.vm->live, fn, e);
			}
		}
	return r;
}

static int pair_found(const struct image_aliases *a, struct pair *p, struct err *e)
{
	(void)a;
	(void)p;
	(void)e;
	return 1;
}

bool image_aliases_possible(const struct image_aliases *a)
{
	return pairs_compare(a, pair_found, NULL);
}

static void path_look(struct pair *p)
{
	if (p->looked_at == p->path)
		return;
	p->looked_at = p->path;
	if (stat(p->path, &p->st) < 0 || !realpath(p->path, p->real))
		p->real[0] = 0;
}

/* Whether the other path may lead to the file of p->path. Looks only at the latter, which the definer has opened: the
 * file system of another VM's image may hang. */
static bool may_be_same(struct pair *p)
{
	path_look(p);
	return p->real[0] && (same_last(p->other, p->path) || same_last(p->other, p->real) || p->st.st_nlink > 1);
}

static int pair_check(const struct image_aliases *a, struct pair *p, struct err *e)
{
	struct stat st;

	if (!may_be_same(p) || stat(p->other, &st) < 0 || st.st_dev != p->st.st_dev || st.st_ino != p->st.st_ino)
		return 0;
	/* A creator's new VM has its owner's entry already. */
	if (!permissions_seen_together(&a->host->permissions, p->old ? p->old->def->uuid : a->def->uuid, p->vm->def->uuid))
		return err_set(e, -EINVAL, ERR_INVALID, "disk %s: %.300s is an image of another VM, which names it by another path",
			a->def->disks[p->disk].id, p->path);
	return err_set(e, -EINVAL, ERR_INVALID, "disk %s: %.300s is the same file as %.300s, an image of VM '%.60s'; name it by that path",
		a->def->disks[p->disk].id, p->path, p->other, p->vm->def->name);
}

int image_aliases_check(const void *arg, struct fork_as_result *out, struct err *e)
{
	(void)out;
	return pairs_compare(arg, pair_check, e);
}
