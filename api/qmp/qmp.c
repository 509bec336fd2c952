/* Opens and closes the VMs' own sockets, and translates the daemon's events into QEMU's. */
#include "api/qmp/qmp.h"
#include "api/jobs/job.h"
#include "api/qmp/qmp_device.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_socket.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "api/wire/listen.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Older daemons named sockets after a hash in hexadecimal. */
#define OLD_CHARS 16
#define OLD_ALPHABET "0123456789abcdef"

struct qmp {
	struct listener *listener;
	char path[LISTEN_PATH_MAX + 1];
	struct qmp_backend *backends; /* owned */
};

static int qmp_open(struct vm *vm, struct err *e)
{
	struct vm_host *host = vm->host;
	struct qmp *q = calloc(1, sizeof(*q));
	gid_t group;
	int fd, r;

	if (!q)
		return err_set_errno(e, -ENOMEM, "socket");
	r = vm_qmp_path(vm, q->path, sizeof(q->path), e);
	if (!r)
		r = listen_open(q->path, host->paths->system, &fd, &group, e);
	if (!r)
		r = listener_new(host->server, vm, vm->def->uuid, q->path, fd, &q->listener, e);
	if (r < 0) {
		free(q);
		return r;
	}
	vm->qmp = q;
	return 0;
}

static void qmp_close(struct vm *vm)
{
	if (!vm->qmp)
		return;
	unlink(vm->qmp->path);
	listener_free(vm->qmp->listener);
	qmp_backends_free(vm->qmp->backends);
	free(vm->qmp);
	vm->qmp = NULL;
}

static void open_or_log(struct vm *vm)
{
	struct err e;

	if (qmp_open(vm, &e) < 0)
		log_warn("qmp", "VM '%s' has no socket of its own: %s", vm->def->name, e.msg);
}

static void qmp_on_state_change(struct vm *vm)
{
	bool active = vm_state_is_active(vm->state);

	if (!vm->host->server || active == (vm->qmp != NULL))
		return;
	jobs_dismiss_qmp(vm);
	if (active)
		open_or_log(vm);
	else
		qmp_close(vm);
}

static bool consists_of(const char *name, size_t len, const char *alphabet)
{
	return strlen(name) == len && strspn(name, alphabet) == len;
}

/* Remove leftover sockets. Only one daemon uses the folder, so every file whose name has the form of a socket's is a
 * leftover. */
static void sockets_sweep(const char *dir)
{
	DIR *at = opendir(dir);
	struct dirent *de;

	while (at && (de = readdir(at)))
		if (consists_of(de->d_name, VM_QMP_NAME_CHARS, VM_QMP_NAME_ALPHABET) ||
			consists_of(de->d_name, OLD_CHARS, OLD_ALPHABET))
			unlinkat(dirfd(at), de->d_name, 0);
	if (at)
		closedir(at);
}

int qmp_open_all(struct vm_host *host, struct err *e)
{
	int r = mkdir_all(host->paths->qmp_dir, 0711, e);

	if (r < 0)
		return r;
	sockets_sweep(host->paths->qmp_dir);
	for (size_t i = 0; i < host->nvms; i++)
		if (vm_state_is_active(host->vms[i]->state))
			open_or_log(host->vms[i]);
	return 0;
}

void qmp_close_all(struct vm_host *host)
{
	for (size_t i = 0; i < host->nvms; i++)
		qmp_close(host->vms[i]);
	rmdir(host->paths->qmp_dir);
}

struct qmp_backend **qmp_backends(const struct vm *vm)
{
	return vm->qmp ? &vm->qmp->backends : NULL;
}

/* ---- translating events ---- */

/* Return a value of the daemon's event, in QEMU's word if that differs. */
static struct json_object *event_reword(enum event_id id, const char *key, struct json_object *v)
{
	const char *s = js_plain_string(v);

	if (id == EVENT_GUEST_PANICKED && !strcmp(key, "action") && s && !strcmp(s, "shutdown"))
		return json_object_new_string("poweroff");
	if (id == EVENT_WATCHDOG && s && !strcmp(s, "dump"))
		return json_object_new_string("pause");
	return json_object_get(v);
}

/* Put the name that query-block shows. */
static void node_name_put(struct json_object *o, const struct vm *vm, const char *device)
{
	int at = definition_disk_find(vm_live(vm), device);

	if (at >= 0)
		js_put_str(o, "node-name", qmp_node_name(vm, &vm_live(vm)->disks[at]));
}

/* Reduce the daemon's event data to the members of QEMU's event. NULL: QEMU has no such event. */
static struct json_object *event_data(const struct vm *vm, enum event_id id, struct json_object *data)
{
	const struct event_spec *ev = schema_event(DIALECT_QEMU, id);
	const char *qmp_id = js_get_str(data, "qmp-id");
	struct json_object *out, *v;
	char path[64];

	if (!ev || (id == EVENT_JOB_STATUS_CHANGE && !qmp_id))
		return NULL;
	out = json_object_new_object();
	for (const struct field *f = ev->data; f->name; f++)
		if (json_object_object_get_ex(data, f->name, &v))
			js_put(out, f->name, event_reword(id, f->name, v));
	if (id == EVENT_JOB_STATUS_CHANGE)
		js_put_str(out, "id", qmp_id);
	if (id == EVENT_BLOCK_IO_ERROR)
		node_name_put(out, vm, js_get_str_or(data, "device", ""));
	if (id == EVENT_DEVICE_DELETED || id == EVENT_DEVICE_UNPLUG_GUEST_ERROR) {
		snprintf(path, sizeof(path), "/machine/peripheral/%.40s", js_get_str_or(data, "device", ""));
		js_put_str(out, "path", path);
	}
	return out;
}

static void event_send(const struct vm *vm, enum event_id id, struct json_object *time, struct json_object *data)
{
	CLEANUP_JS struct json_object *out = json_object_new_object();

	js_put(out, "timestamp", json_object_get(time));
	js_put_str(out, "event", schema_event(DIALECT_QEMU, id)->name);
	js_put(out, "data", data);
	listener_broadcast(vm->qmp->listener, out);
}

struct json_object *qmp_block_job_to_json(const struct job *j)
{
	struct json_object *o = json_object_new_object();

	js_put_str(o, "type", job_qmp_type(j));
	js_put_str(o, "device", j->qmp_id);
	js_put_uint(o, "len", j->total);
	js_put_uint(o, "offset", j->done);
	js_put_uint(o, "speed", j->speed);
	return o;
}

/* Send QEMU's event of a block job that has become ready or is concluded, besides JOB_STATUS_CHANGE. */
static void block_job_event(const struct vm *vm, struct json_object *time, const char *id)
{
	const struct job *j = job_find(vm->host, id);
	bool cancelled = j && j->failed && j->e.cls == ERR_CANCELLED;
	struct json_object *data;

	if (!j || !job_qmp_is_block(j) || (j->status != JOB_READY && j->status != JOB_CONCLUDED))
		return;
	data = qmp_block_job_to_json(j);
	if (j->failed && !cancelled)
		js_put_str(data, "error", j->e.msg);
	event_send(vm, j->status == JOB_READY ? EVENT_BLOCK_JOB_READY : cancelled ? EVENT_BLOCK_JOB_CANCELLED : EVENT_BLOCK_JOB_COMPLETED,
		time, data);
}

void qmp_emit(struct vm_host *host, enum event_id id, const char *name, const uint8_t uuid[16], struct json_object *o)
{
	const struct vm *vm = vm_find(host, name);
	struct json_object *data, *time = js_get(o, "timestamp");

	data = vm && vm->qmp && !memcmp(vm->def->uuid, uuid, sizeof(vm->def->uuid)) ? event_data(vm, id, js_get(o, "data")) : NULL;
	if (!data)
		return;
	event_send(vm, id, time, data);
	if (id == EVENT_JOB_STATUS_CHANGE)
		block_job_event(vm, time, js_get_str(js_get(o, "data"), "id"));
}

/* The socket's name is made of the uuid. */
static void qmp_on_promoted(struct vm *clone, struct vm *other)
{
	(void)other;
	if (!clone->qmp)
		return;
	jobs_dismiss_qmp(clone);
	qmp_close(clone);
	open_or_log(clone);
}

const struct vm_observer qmp_observer = { .state_told = qmp_on_state_change, .promoted = qmp_on_promoted };
