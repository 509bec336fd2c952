#include "api/qmp/qmp_cpu.h"
#include "api/definition/definition.h"
#include "api/qmp/qmp_handler.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/vm/vm_vcpus.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DRIVER_END "-x86_64-cpu"

/* Find the vCPU threads of a VM's process by their names ("vcpu0"). tids: one per vCPU; 0: not found. */
static void find_threads(pid_t pid, int *tids, unsigned n)
{
	char path[64], name[32];
	struct dirent *de;
	unsigned i;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	while (dir && (de = readdir(dir))) {
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%d/task/%.12s/comm", (int)pid, de->d_name);
		f = fopen(path, "re");
		if (f && fgets(name, sizeof(name), f) && sscanf(name, "vcpu%u", &i) == 1 && i < n)
			tids[i] = atoi(de->d_name);
		if (f)
			fclose(f);
	}
	if (dir)
		closedir(dir);
}

/* The place of a vCPU, as the guest sees it. */
struct place {
	unsigned socket, core, thread;
};

static struct place place_of(const struct definition *d, unsigned i)
{
	unsigned threads = d->threads ? d->threads : 1, cores = d->cores ? d->cores : definition_vcpus_max(d);

	return (struct place){ i / threads / cores, i / threads % cores, i % threads };
}

static struct json_object *props_to_json(const struct definition *d, unsigned i)
{
	struct json_object *o = json_object_new_object();
	struct place p = place_of(d, i);

	js_put_int(o, "thread-id", p.thread);
	js_put_int(o, "core-id", p.core);
	js_put_int(o, "socket-id", p.socket);
	return o;
}

static void path_put(struct json_object *o, unsigned i)
{
	char path[32];

	snprintf(path, sizeof(path), "/machine/vcpu[%u]", i);
	js_put_str(o, "qom-path", path);
}

void qmp_query_cpus(struct call *c)
{
	const struct definition *d = vm_live(c->vm);
	struct json_object *list = json_object_new_array();
	uint64_t absent = vm_vcpus_absent(c->vm);
	int tids[VM_VCPUS_MAX] = { 0 };

	if (c->vm->proc && vm_process_pid(c->vm->proc) > 0)
		find_threads(vm_process_pid(c->vm->proc), tids, VM_VCPUS_MAX);
	for (unsigned i = 0; i < definition_vcpus_max(d); i++) {
		struct json_object *o;

		if (absent >> i & 1)
			continue;
		o = json_object_new_object();
		js_put_int(o, "cpu-index", i);
		path_put(o, i);
		if (tids[i])
			js_put_int(o, "thread-id", tids[i]);
		js_put(o, "props", props_to_json(d, i));
		js_put_str(o, "target", "x86_64");
		json_object_array_add(list, o);
	}
	call_return(c, list);
}

void qmp_cpu_driver(const struct definition *d, char text[QMP_CPU_DRIVER])
{
	const char *cpu = d->cpu ? d->cpu : "host";

	snprintf(text, QMP_CPU_DRIVER, "%.*s" DRIVER_END, (int)MIN(strcspn(cpu, ","), 40), cpu);
}

void qmp_query_hotpluggable_cpus(struct call *c)
{
	const struct definition *d = vm_live(c->vm);
	struct json_object *list = json_object_new_array();
	uint64_t absent = vm_vcpus_absent(c->vm);
	char driver[64];

	qmp_cpu_driver(d, driver);
	for (unsigned i = definition_vcpus_max(d); i--;) { /* QEMU's order */
		struct json_object *o = json_object_new_object();

		js_put(o, "props", props_to_json(d, i));
		js_put_int(o, "vcpus-count", 1);
		if (!(absent >> i & 1))
			path_put(o, i);
		js_put_str(o, "type", driver);
		json_object_array_add(list, o);
	}
	call_return(c, list);
}

/* ---- device_add, device_del ---- */

int qmp_cpu_is_driver(const char *driver)
{
	size_t n = strlen(driver), end = sizeof(DRIVER_END) - 1;

	return n > end && !strcmp(driver + n - end, DRIVER_END);
}

/* Find the vCPU by its place. *ret: its number. */
static int cpu_place(const struct call *c, unsigned *ret, struct err *e)
{
	static const char *const keys[] = { "socket-id", "core-id", "thread-id" };
	const struct definition *d = vm_live(c->vm);
	int64_t at[3];

	for (unsigned k = 0; k < ARRAY_SIZE(keys); k++) {
		at[k] = js_get_int(c->args, keys[k], -1);
		if (at[k] < 0)
			return err_set(e, -EINVAL, ERR_GENERIC, "CPU %s is not set", keys[k]);
	}
	for (*ret = 0; *ret < definition_vcpus_max(d); ++*ret) {
		struct place p = place_of(d, *ret);

		if (p.socket == at[0] && p.core == at[1] && p.thread == at[2])
			return 0;
	}
	return err_set(e, -EINVAL, ERR_GENERIC, "Invalid CPU [socket: %lld, core: %lld, thread: %lld]; query-hotpluggable-cpus lists the valid ones",
		(long long)at[0], (long long)at[1], (long long)at[2]);
}

static int cpu_check(const struct call *c, unsigned vcpu, struct err *e)
{
	static const char *const known[] = { "driver", "id", "socket-id", "core-id", "thread-id", "die-id", "node-id" };
	const char *driver = js_get_str(c->args, "driver"), *id = js_get_str(c->args, "id");
	char own[64], name[16];

	qmp_cpu_driver(vm_live(c->vm), own);
	snprintf(name, sizeof(name), "vcpu%u", vcpu);
	json_object_object_foreach(c->args, key, value)
	{
		size_t k = 0;

		(void)value;
		while (k < ARRAY_SIZE(known) && strcmp(known[k], key))
			k++;
		if (k == ARRAY_SIZE(known))
			return err_set(e, -EINVAL, ERR_GENERIC, "Property '%.40s.%.40s' not found", driver, key);
	}
	if (strcmp(driver, own))
		return err_set(e, -EINVAL, ERR_GENERIC, "Invalid CPU type, expected cpu type: '%s'", own);
	if (id && strcmp(id, name))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "id: this vCPU has the id %s, which events use", name);
	return 0;
}

int qmp_cpu_add(struct call *c, struct err *e)
{
	unsigned vcpu = 0;
	int r = cpu_place(c, &vcpu, e);

	if (!r)
		r = cpu_check(c, vcpu, e);
	if (!r)
		vm_vcpus_add(c, vcpu);
	return r;
}

int qmp_cpu_find(const struct vm *vm, const char *id)
{
	char name[16];

	for (unsigned i = 0; i < definition_vcpus_max(vm_live(vm)); i++) {
		snprintf(name, sizeof(name), "vcpu%u", i);
		if (!strcmp(name, id) && !(vm_vcpus_absent(vm) >> i & 1))
			return (int)i;
	}
	return -1;
}
