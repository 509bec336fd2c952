/* QMP handlers of queries about the machine and the monitor, which the daemon answers by itself. Clients ask them when
 * they connect, and take an error for a QEMU that is too old. */
#include "api/qmp/qmp.h"
#include "api/qmp/qmp_device.h"
#include "api/qmp/qmp_handler.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/vm/vm_socket.h"
#include "api/wire/json.h"
#include "base/cpu_model_table.h"
#include "base/err.h"
#include "base/machine_version.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct json_object *object_add(struct json_object *list)
{
	struct json_object *o = json_object_new_object();

	json_object_array_add(list, o);
	return o;
}

/* ---- the machine ---- */

void qmp_query_target(struct call *c)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "arch", "x86_64");
	call_return(c, o);
}

/* The machine versions that such a VM can boot as. */
void qmp_query_machines(struct call *c)
{
	struct json_object *list = json_object_new_array();
	unsigned firmware = vm_live(c->vm)->firmware, newest = machine_version_newest(firmware);
	char name[24];

	for (unsigned i = 1; i <= newest; i++) {
		struct json_object *o;

		if (!machine_version_boots(firmware, i))
			continue;
		o = object_add(list);
		snprintf(name, sizeof(name), "cairn-%u", i);
		js_put_str(o, "name", name);
		if (i == newest) {
			js_put_str(o, "alias", "cairn");
			js_put_bool(o, "is-default", true);
		}
		js_put_int(o, "cpu-max", VM_VCPUS_MAX);
		js_put_bool(o, "hotpluggable-cpus", true);
		js_put_bool(o, "numa-mem-supported", false);
		js_put_bool(o, "deprecated", false);
		js_put_str(o, "default-cpu-type", "host-x86_64-cpu");
	}
	call_return(c, list);
}

void qmp_query_cpu_definitions(struct call *c)
{
	struct json_object *list = json_object_new_array();
	char type[64];

	for (size_t i = 0; i < cpu_models_n; i++) {
		const struct cpu_model *m = &cpu_models[i];
		struct json_object *o = object_add(list);

		js_put_str(o, "name", m->name);
		snprintf(type, sizeof(type), "%.40s-x86_64-cpu", m->name);
		js_put_str(o, "typename", type);
		js_put_bool(o, "static", false);
		js_put_bool(o, "migration-safe", m->features);
		js_put_bool(o, "deprecated", false);
	}
	call_return(c, list);
}

/* The threads that object-add named. Each disk has a thread of its own. */
void qmp_query_iothreads(struct call *c)
{
	struct json_object *list = json_object_new_array();
	struct qmp_backend **backends = qmp_backends(c->vm);

	for (const struct qmp_backend *b = backends ? *backends : NULL; b; b = b->next) {
		struct json_object *o;

		if (b->kind != QMP_IOTHREAD)
			continue;
		o = object_add(list);
		js_put_str(o, "id", b->id);
		js_put_int(o, "thread-id", c->vm->proc ? vm_process_pid(c->vm->proc) : 0);
		js_put_int(o, "poll-max-ns", 0);
		js_put_int(o, "poll-grow", 0);
		js_put_int(o, "poll-shrink", 0);
		js_put_int(o, "aio-max-batch", 0);
	}
	call_return(c, list);
}

static void mouse_add(struct json_object *list, const char *name, bool absolute, bool current)
{
	struct json_object *o = object_add(list);

	js_put_int(o, "index", (int)json_object_array_length(list));
	js_put_str(o, "name", name);
	js_put_bool(o, "absolute", absolute);
	js_put_bool(o, "current", current);
}

void qmp_query_mice(struct call *c)
{
	const struct definition *d = vm_live(c->vm);
	struct json_object *list = json_object_new_array();

	if (d->tablet)
		mouse_add(list, "virtio tablet", true, true);
	if (d->screen)
		mouse_add(list, "PS/2 mouse", false, !d->tablet);
	call_return(c, list);
}

/* The serial port, and the ports of virtio-serial. The other end of each is a socket of the daemon. */
void qmp_query_chardev(struct call *c)
{
	const struct definition *d = vm_live(c->vm);
	struct json_object *list = json_object_new_array(), *o = object_add(list);
	char path[108], filename[sizeof(path) + 24];
	struct err e;

	js_put_str(o, "label", "compat_monitor0");
	snprintf(filename, sizeof(filename), "unix:%s,server=on", vm_qmp_path(c->vm, path, sizeof(path), &e) < 0 ? "" : path);
	js_put_str(o, "filename", filename);
	js_put_bool(o, "frontend-open", true);
	o = object_add(list);
	js_put_str(o, "label", "serial0");
	js_put_str(o, "filename", "cairn:console");
	js_put_bool(o, "frontend-open", true);
	if (d->guest_agent) {
		o = object_add(list);
		js_put_str(o, "label", "org.qemu.guest_agent.0");
		js_put_str(o, "filename", "cairn:agent");
		js_put_bool(o, "frontend-open", c->vm->agent.now >= VM_AGENT_OPEN);
	}
	call_return(c, list);
}

/* ---- the screen ---- */

void qmp_query_vnc(struct call *c)
{
	const struct definition_vnc *v = &vm_live(c->vm)->vnc;
	struct json_object *o = json_object_new_object();
	char port[12];

	js_put_bool(o, "enabled", v->on);
	if (v->on) {
		snprintf(port, sizeof(port), "%u", v->port);
		js_put_str(o, "host", v->port ? v->address : v->path ? v->path : "");
		js_put_str(o, "service", v->port ? port : "");
		js_put_str(o, "family", !v->port ? "unix" : strchr(v->address, ':') ? "ipv6" : "ipv4");
		js_put_str(o, "auth", v->password_file ? "vnc" : "none");
	}
	call_return(c, o);
}

void qmp_query_spice(struct call *c)
{
	struct json_object *o = json_object_new_object();

	js_put_bool(o, "enabled", false);
	js_put_bool(o, "migrated", false);
	js_put_str(o, "mouse-mode", vm_live(c->vm)->tablet ? "client" : "server");
	call_return(c, o);
}

void qmp_query_display_options(struct call *c)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "type", "none");
	call_return(c, o);
}

/* ---- features that Cairn lacks ---- */

void qmp_query_replay(struct call *c)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "mode", "none");
	js_put_int(o, "icount", 0);
	call_return(c, o);
}

/* As of a QEMU that never migrated. */
void qmp_query_migrate(struct call *c)
{
	call_return(c, NULL);
}

void qmp_query_nothing(struct call *c)
{
	call_return(c, json_object_new_array());
}

/* As in a QEMU whose network cards do not report this. */
void qmp_query_rx_filter(struct call *c)
{
	const char *name = js_get_str(c->args, "name");
	struct err e;

	if (!name) {
		call_return(c, json_object_new_array());
		return;
	}
	if (qmp_device_find(c->vm, name, NULL) == QMP_IS_INTERFACE)
		err_set(&e, -ENOTSUP, ERR_GENERIC, "net client(%.40s) doesn't support rx-filter querying", name);
	else
		err_set(&e, -ENOENT, ERR_GENERIC, "invalid net client name: %.40s", name);
	call_fail(c, &e);
}
