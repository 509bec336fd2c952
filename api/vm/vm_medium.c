#include "api/vm/vm_medium.h"
#include "api/schema/call.h"
#include "api/vm/disk_change.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>

static const char *const of_medium[] = { "path", "format", "data_file", "backing" };

void vm_medium_put(struct json_object *drive, struct json_object *medium)
{
	for (size_t i = 0; i < ARRAY_SIZE(of_medium); i++) {
		json_object_object_del(drive, of_medium[i]);
		if (medium && js_get(medium, of_medium[i]))
			js_put(drive, of_medium[i], json_object_get(js_get(medium, of_medium[i])));
	}
}

bool vm_medium_is_same(struct json_object *a, struct json_object *b)
{
	for (size_t i = 0; i < ARRAY_SIZE(of_medium); i++)
		if (!json_object_equal(js_get(a, of_medium[i]), js_get(b, of_medium[i])))
			return false;
	return true;
}

/* Find the drive in the running definition. Returns its index or -errno. */
static int drive_find(const struct vm *vm, const char *which, struct err *e)
{
	int at = vm_live_disk(vm, which, e);
	const struct definition_disk *d;

	if (at < 0)
		return at;
	d = &vm_live(vm)->disks[at];
	if (d->device != DEFINITION_CDROM)
		return err_set(e, -EINVAL, ERR_INVALID, "disk %s is no cdrom, so it has no medium to change", d->id);
	if (d->bus != VM_BUS_SCSI)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s is a cdrom with bus virtio, whose guest would not see the medium change: change it "
			"for the next start, with --config, or give the drive bus scsi", d->id);
	return at;
}

static int medium_plan(const struct call *c, const struct vm *vm, struct json_object *disks, unsigned *ret_at, struct err *e)
{
	int at = drive_find(vm, js_get_str(c->args, "disk"), e);

	if (at < 0)
		return at;
	vm_medium_put(json_object_array_get_idx(disks, (size_t)at), js_get(c->args, "medium"));
	*ret_at = (unsigned)at;
	return 1;
}

void vm_medium_change(struct call *c)
{
	static const struct disk_change_kind kind = { .type = VM_MSG_MEDIUM_SET, .known = VM_KNOWS_MEDIUM_SET, .plan = medium_plan };

	disk_change_begin(c, &kind, NULL);
}
