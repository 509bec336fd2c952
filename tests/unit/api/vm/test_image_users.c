/* image_users and volumes: which VMs use a file according to their definitions, and which files are
 * deleted with a VM. */
#include "api/access/fork_as.h"
#include "api/definition/definition.h"
#include "api/jobs/volumes.h"
#include "api/vm/image_users.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define VMS 9
#define DISKS 8

/* web: /web.qcow2 on backing file /base.qcow2, a read-only /c.iso, /d.qcow2 with a data file, an
 * empty drive. */
struct fixture {
	struct vm_host host;
	struct vm vms[VMS], *list[VMS];
	struct definition defs[VMS];
	struct definition_disk disks[VMS][DISKS];
	char names[360];
	struct volumes v;
	struct err e;
};

static struct vm *vm_new(struct fixture *f, const char *name)
{
	size_t i = f->host.nvms++;
	struct definition *def = &f->defs[i];

	assert_true(i < VMS);
	snprintf(def->name, sizeof(def->name), "%s", name);
	def->uuid[0] = (uint8_t)(i + 1);
	def->disks = f->disks[i];
	f->vms[i] = (struct vm){ .host = &f->host, .def = def };
	f->list[i] = &f->vms[i];
	f->host.vms = f->list;
	return &f->vms[i];
}

/* below: backing file; NULL: none. */
static struct definition_disk *disk(const struct vm *vm, const char *path, const char *below)
{
	struct definition_disk *d = &vm->def->disks[vm->def->ndisks];

	assert_true(vm->def->ndisks < DISKS);
	snprintf(d->id, sizeof(d->id), "vd%c", (char)('a' + vm->def->ndisks++));
	d->layers[0].path = (char *)path;
	d->layers[1].path = (char *)below;
	d->nlayers = path ? below ? 2 : 1 : 0;
	return d;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct vm *web;

	if (!f)
		return -1;
	web = vm_new(f, "web");
	disk(web, "/web.qcow2", "/base.qcow2");
	disk(web, "/c.iso", NULL)->read_only = true;
	disk(web, "/d.qcow2", NULL)->layers[0].data_file = (char *)"/d.data";
	disk(web, NULL, NULL)->read_only = true;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	volumes_done(&f->v);
	permissions_done(&f->host.permissions);
	free(f);
	return 0;
}

/* ---- users ---- */

static void test_user_of_image_is_found(void **state)
{
	struct fixture *f = *state;
	struct vm *web = f->list[0], *other = vm_new(f, "other");

	disk(other, "/other.qcow2", "/web.qcow2");
	assert_ptr_equal(image_user(web, "/web.qcow2"), other);
	assert_null(image_user(web, "/base.qcow2")); /* a VM's own use does not count */
	assert_null(image_user(web, "/web"));
	assert_ptr_equal(image_user(other, "/base.qcow2"), web);
	assert_ptr_equal(image_user(other, "/d.data"), web);
	assert_ptr_equal(image_user(other, "/c.iso"), web);
}

/* The images that a VM runs with count as well, until it is restarted. */
static void test_running_definition_counts_as_user(void **state)
{
	struct fixture *f = *state;
	struct vm *web = f->list[0], *other = vm_new(f, "other"), *past = vm_new(f, "past");

	disk(past, "/then.qcow2", "/web.qcow2");
	f->host.nvms--;
	other->live = past->def;
	assert_ptr_equal(image_user(web, "/then.qcow2"), other);
	assert_int_equal(image_clones(web, f->names, sizeof(f->names)), 1);
	other->live = NULL;
	assert_null(image_user(web, "/then.qcow2"));
	assert_int_equal(image_clones(web, f->names, sizeof(f->names)), 0);
}

static void test_linked_clones_are_found(void **state)
{
	struct fixture *f = *state;
	struct vm *web = f->list[0];

	disk(vm_new(f, "same"), "/web.qcow2", "/base.qcow2"); /* shares the image, not a clone */
	disk(vm_new(f, "iso"), "/i.qcow2", "/c.iso"); /* web does not write to it */
	assert_int_equal(image_clones(web, f->names, sizeof(f->names)), 0);
	assert_string_equal(f->names, "");
	assert_false(image_is_frozen(web));
	assert_int_equal(image_check_writable(web, "start", &f->e), 0);
	disk(vm_new(f, "l1"), "/l1.qcow2", "/web.qcow2");
	disk(vm_new(f, "l2"), "/l2.qcow2", "/d.qcow2");
	assert_int_equal(image_clones(web, f->names, sizeof(f->names)), 2);
	assert_string_equal(f->names, "l1, l2");
	assert_true(image_is_frozen(web));
	assert_int_equal(image_check_writable(web, "start", &f->e), -EPERM);
	assert_non_null(strstr(f->e.msg, "VM 'web': cannot start: "));
	assert_non_null(strstr(f->e.msg, "(l1, l2)"));
}

static void test_list_of_many_clones_is_truncated(void **state)
{
	struct fixture *f = *state;
	struct vm *web = f->list[0];
	char name[2] = "a";

	for (; name[0] <= 'g'; name[0]++)
		disk(vm_new(f, name), "/x.qcow2", "/web.qcow2");
	assert_int_equal(image_clones(web, f->names, sizeof(f->names)), 7);
	assert_string_equal(f->names, "a, b, c, d, e and 2 more");
}

/* A user who may see only web learns no other VM's name. */
static void test_invisible_clones_are_not_named(void **state)
{
	struct fixture *f = *state;
	struct vm *web = f->list[0], *zoo;

	disk(vm_new(f, "secret"), "/x.qcow2", "/web.qcow2");
	assert_int_equal(permissions_set(&f->host.permissions, false, 1000, &(struct permission_vm){ "web", web->def->uuid }, ROLE_ADMIN), 0);
	assert_int_equal(image_clones(web, f->names, sizeof(f->names)), 1);
	assert_string_equal(f->names, "1 that you may not see");
	zoo = vm_new(f, "zoo");
	disk(zoo, "/y.qcow2", "/web.qcow2");
	assert_int_equal(permissions_set(&f->host.permissions, false, 1000, &(struct permission_vm){ "zoo", zoo->def->uuid }, ROLE_VIEWER), 0);
	assert_int_equal(image_clones(web, f->names, sizeof(f->names)), 2);
	assert_string_equal(f->names, "zoo and 1 more");
	assert_int_equal(volumes_of(web, NULL, NULL, &f->v, &f->e), -EBUSY);
	assert_null(strstr(f->e.msg, "secret"));
}

static void test_image_of_template_is_frozen(void **state)
{
	struct fixture *f = *state;

	f->vms[0].facts = VM_FACT_TEMPLATE;
	assert_true(image_is_frozen(f->list[0]));
	assert_int_equal(image_check_writable(f->list[0], "start", &f->e), -EPERM);
	assert_non_null(strstr(f->e.msg, "VM 'web' is a template: cannot start"));
}

/* ---- volumes ---- */

static void test_all_volumes_of_vm_are_listed(void **state)
{
	static const char *const paths[] = { "/web.qcow2", "/c.iso", "/d.qcow2", "/d.data" };
	struct fixture *f = *state;

	disk(vm_new(f, "other"), "/o.qcow2", "/c.iso");
	assert_int_equal(volumes_of(f->list[0], NULL, NULL, &f->v, &f->e), 0);
	assert_int_equal(f->v.n, ARRAY_SIZE(paths));
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		assert_string_equal(f->v.list[i].path, paths[i]);
		assert_int_equal(f->v.list[i].read_only, i == 1);
	}
	assert_string_equal(f->v.list[3].id, "vdc");
}

static void test_named_volumes_are_listed(void **state)
{
	struct fixture *f = *state;
	struct json_object *wanted = json_object_new_array();

	json_object_array_add(wanted, json_object_new_string("vdc"));
	json_object_array_add(wanted, json_object_new_string("/web.qcow2"));
	assert_int_equal(volumes_of(f->list[0], wanted, NULL, &f->v, &f->e), 0);
	assert_int_equal(f->v.n, 3);
	volumes_done(&f->v);
	json_object_array_add(wanted, json_object_new_string("/base.qcow2")); /* a backing file, not a disk */
	assert_int_equal(volumes_of(f->list[0], wanted, NULL, &f->v, &f->e), -ENOENT);
	assert_non_null(strstr(f->e.msg, "has no disk \"/base.qcow2\""));
	assert_int_equal(f->v.n, 0);
	json_object_put(wanted);
}

static void test_volumes_in_use_are_refused(void **state)
{
	struct fixture *f = *state;
	struct json_object *wanted = json_object_new_array();

	disk(vm_new(f, "other"), "/o.qcow2", NULL)->layers[0].data_file = (char *)"/d.data";
	json_object_array_add(wanted, json_object_new_string("vda"));
	assert_int_equal(volumes_of(f->list[0], NULL, NULL, &f->v, &f->e), -EBUSY);
	assert_non_null(strstr(f->e.msg, "disk vdc: /d.data is used by VM 'other'"));
	assert_int_equal(f->v.n, 0);
	assert_int_equal(volumes_of(f->list[0], wanted, NULL, &f->v, &f->e), 0);
	assert_int_equal(f->v.n, 1);
	json_object_put(wanted);
}

/* A VM that was imported into /in: all files there that no other VM uses. */
static void test_volumes_of_imported_vm_include_its_folder(void **state)
{
	struct fixture *f = *state;
	struct definition *def = f->list[0]->def;
	struct vm *other;

	def->kernel = (char *)"/in/kernel";
	def->initrd = (char *)"/in/initrd";
	disk(f->list[0], "/in/a.qcow2", "/in/base.raw");
	disk(f->list[0], "/in/deep/b.qcow2", "/inside");
	disk(f->list[0], "/in/base.raw", NULL)->read_only = true;
	other = vm_new(f, "other");
	other->def->initrd = (char *)"/in/initrd";
	assert_int_equal(volumes_of(f->list[0], NULL, "/in", &f->v, &f->e), 0);
	assert_int_equal(f->v.n, 4 + 3 + 1);
	assert_string_equal(f->v.list[6].path, "/in/base.raw");
	assert_false(f->v.list[6].read_only);
	assert_string_equal(f->v.list[7].path, "/in/kernel");
	assert_string_equal(f->v.list[7].id, "kernel");
	assert_string_equal(f->v.folder, "/in");
}

/* Only files are deleted. The list of files outlives the daemon, and a list that was tampered with
 * names no others. */
static void test_list_of_volumes_round_trips(void **state)
{
	static const uint8_t kinds[] = { VOLUME_FILE, VOLUME_UNSEEN, VOLUME_LINK, VOLUME_FILE };
	struct fixture *f = *state;
	struct fork_as_result res = { 0 };
	struct json_object *o, *all, *told;
	struct volumes again;

	assert_int_equal(volumes_of(f->list[0], NULL, NULL, &f->v, &f->e), 0);
	memcpy(res.notes, kinds, sizeof(kinds));
	f->v.folder = strdup("/folder");
	volumes_take(&f->v, &res);
	told = volumes_to_json(&f->v);
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct json_object *x = json_object_array_get_idx(told, i);

		assert_int_equal(json_object_get_boolean(json_object_object_get(x, "removed")), kinds[i] == VOLUME_FILE);
		assert_int_equal(json_object_object_get_ex(x, "why", NULL), kinds[i] != VOLUME_FILE);
	}
	json_object_put(told);
	o = volumes_keep(&f->v);
	assert_true(json_object_object_get_ex(o, "volumes", &all));
	json_object_array_add(all, json_object_new_string("relative"));
	json_object_array_add(all, json_object_new_int(7));
	volumes_load(o, &again);
	assert_int_equal(again.n, 2);
	assert_string_equal(again.list[0].path, "/web.qcow2");
	assert_string_equal(again.list[1].path, "/d.data");
	assert_string_equal(again.folder, "/folder");
	for (unsigned i = 0; i < 2 * VOLUMES_MAX; i++)
		json_object_array_add(all, json_object_new_string("/more"));
	volumes_done(&again);
	volumes_load(o, &again);
	assert_true(again.n <= VOLUMES_MAX);
	volumes_done(&again);
	json_object_put(o);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(test_user_of_image_is_found),
		TEST(test_running_definition_counts_as_user),
		TEST(test_linked_clones_are_found),
		TEST(test_list_of_many_clones_is_truncated),
		TEST(test_invisible_clones_are_not_named),
		TEST(test_image_of_template_is_frozen),
		TEST(test_all_volumes_of_vm_are_listed),
		TEST(test_named_volumes_are_listed),
		TEST(test_volumes_in_use_are_refused),
		TEST(test_volumes_of_imported_vm_include_its_folder),
		TEST(test_list_of_volumes_round_trips),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
