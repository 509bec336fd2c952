#include "api/fork.h"
#include "api/daemon.h"
#include "api/definition.h"
#include "api/identity.h"
#include "api/images.h"
#include "api/job.h"
#include "api/js.h"
#include "api/rights.h"
#include "api/snapshots.h"
#include "api/store.h"
#include "api/vm.h"
#include "api/vm_process.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* Processes that are being started at a time: enough to keep the CPUs busy, few enough that each is done
 * soon. */
#define AT_ONCE_MAX 4
#define CANCEL_TIMEOUT_NS (10 * 1000000000ULL)

struct clone {
	struct fork *fork;
	struct definition *def; /* until the VM has it */
	struct vm *vm;		/* whose job is ours until the end: nobody else moves it */
	unsigned ndisks;	/* of its definition: copies of those it writes to may be there */
};

struct fork {
	struct daemon *daemon;
	struct vm *source;
	struct job *job; /* NULL: clearing up after another daemon */
	struct clone *clones;
	unsigned n, next, begun, running;
	int state_fd;
	int *disk_fds; /* for the source's process: of each disk that it writes to, the image and the copies */
	unsigned ndisk_fds;
	char snapshot[VM_SNAPSHOT_NAME_MAX + 1]; /* empty: what the source is now */
	bool paused, hint_hostname, failed;
	struct err e;
	uint64_t begun_ns, pause_ns, ram_bytes_written;
	unsigned leaving; /* processes whose end is waited for */
	struct loop_task task;
};

static void disk_fds_close(struct fork *f)
{
	for (unsigned i = 0; i < f->ndisk_fds; i++)
		close(f->disk_fds[i]);
	free(f->disk_fds);
	f->disk_fds = NULL;
	f->ndisk_fds = 0;
}

static void fork_free(struct fork *f)
{
	for (unsigned i = 0; i < f->n; i++)
		definition_free(f->clones[i].def);
	free(f->clones);
	disk_fds_close(f);
	if (f->state_fd >= 0)
		close(f->state_fd);
	free(f);
}

/* ---- what the clones are ---- */

static int clone_check(struct daemon *d, const char *name, struct err *e)
{
	int r = definition_check_name(name, e);

	if (!r && vm_find(d, name))
		r = err_set(e, -EEXIST, ERR_EXISTS, "there is a VM '%s' already; choose another name", name);
	return r;
}

/* Beside the source's image: NAME-vda.qcow2. */
static int copy_path(const struct definition_disk *d, const char *name, char path[PATH_MAX], struct err *e)
{
	const char *image = d->layers[0].path, *slash = strrchr(image, '/');
	int n = snprintf(path, PATH_MAX, "%.*s/%s-%s.%s", (int)(slash - image), image, name, d->id,
		d->layers[0].format == DEFINITION_FORMAT_QCOW2 ? "qcow2" : "raw");

	if (n >= PATH_MAX)
		return err_set_errno(e, -ENAMETOOLONG, "%s", image);
	if (access(path, F_OK) == 0)
		return err_set(e, -EEXIST, ERR_EXISTS, "%s: a clone's disk would be there, and that file exists",
			path);
	return 0;
}

/* Each disk that is written to becomes the clone's own copy. */
static int disks_rename(const struct definition *source, struct json_object *o, const char *name,
	struct err *e)
{
	struct json_object *disks = js_get_array(o, "disks");
	char path[PATH_MAX];
	int r = 0;

	for (uint32_t i = 0; i < source->ndisks && !r; i++) {
		if (source->disks[i].read_only)
			continue;
		r = copy_path(&source->disks[i], name, path, e);
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

/* The source's definition under another name, with a uuid of its own. */
static int clone_define(struct clone *c, struct json_object *o, const char *name, struct err *e)
{
	int r = clone_check(c->fork->daemon, name, e);

	if (!r)
		r = disks_rename(c->fork->source->def, o, name, e);
	if (r < 0)
		return r;
	js_put_str(o, "name", name);
	r = definition_parse(o, NULL, &c->def, e);
	/* Its files are those of whoever defined the source, and no more than they may open. */
	if (!r && rights_copy(c->fork->source->def->rights, &c->def->rights) < 0)
		r = err_set_errno(e, -ENOMEM, "clones");
	if (!r)
		r = definition_make_uuid(c->def, e);
	return r < 0 ? r : identity_complete(c->fork->daemon, c->def, NULL, e);
}

static int clones_define(struct fork *f, const struct fork_how *how, struct err *e)
{
	CLEANUP_JS struct json_object *source = definition_to_json(f->source->def);
	char name[VM_NAME_MAX + 16];
	int r = 0;

	json_object_object_del(source, "uuid");
	macs_drop(source);
	for (unsigned i = 0; i < f->n && !r; i++) {
		f->clones[i].fork = f;
		if (how->count)
			snprintf(name, sizeof(name), "%.*s-%u", VM_NAME_MAX + 1, how->name, i + 1);
		else
			snprintf(name, sizeof(name), "%.*s", VM_NAME_MAX + 1, how->name);
		r = clone_define(&f->clones[i], source, name, e);
	}
	return r;
}

static int disk_check(const struct definition *def, unsigned i, struct err *e)
{
	const struct definition_disk *d = &def->disks[i];
	struct stat st;

	/* The copies are made by the daemon, which may go where that user may not. */
	if (def->rights)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"disks[%u]: user %u defined the VM, and disks of other users' are not copied for clones; "
			"let root define it, and start it anew", i, def->rights->uid);
	if (d->layers[0].data_file)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"disks[%u]: it has an external data file, which is not copied for clones", i);
	if (stat(d->layers[0].path, &st) < 0)
		return err_set_errno(e, -errno, "disks[%u].path: %s", i, d->layers[0].path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"disks[%u].path: %s is a device, which is not copied for clones", i, d->layers[0].path);
	return 0;
}

/* The VM's process looks again: this definition may be newer than it. */
static int source_check(const struct vm *vm, unsigned n, struct err *e)
{
	unsigned written = 0, most;
	int r = 0;

	for (uint32_t i = 0; i < vm->def->ndisks && !r; i++) {
		if (vm->def->disks[i].read_only)
			continue;
		written++;
		r = disk_check(vm->def, i, e);
	}
	most = written ? (CHANNEL_FDS_MAX - 1) / written - 1 : FORK_CLONES_MAX;
	if (!r && n > most)
		r = err_set(e, -EINVAL, ERR_INVALID,
			"count: at most %u at a time of a VM that writes to %u disk%s", most, written,
			written == 1 ? "" : "s");
	return r;
}

/* ---- their disks ---- */

static int fd_add(struct fork *f, const char *path, int flags, struct err *e)
{
	int fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW, 0600);

	if (fd < 0)
		return err_set_errno(e, -errno, "%s", path);
	f->disk_fds[f->ndisk_fds++] = fd;
	return 0;
}

static int disks_open(struct fork *f, struct err *e)
{
	const struct definition *source = f->source->def;
	int r = 0;

	f->disk_fds = calloc(CHANNEL_FDS_MAX, sizeof(*f->disk_fds));
	if (!f->disk_fds)
		return err_set_errno(e, -ENOMEM, "clones");
	for (uint32_t i = 0; i < source->ndisks && !r; i++) {
		if (source->disks[i].read_only)
			continue;
		r = fd_add(f, source->disks[i].layers[0].path, O_RDONLY, e);
		for (unsigned k = 0; k < f->n && !r; k++) {
			r = fd_add(f, f->clones[k].vm->def->disks[i].layers[0].path, O_RDWR | O_CREAT | O_EXCL,
				e);
			f->clones[k].ndisks = r < 0 ? f->clones[k].ndisks : i + 1;
		}
	}
	return r;
}

/* Of a clone that is forgotten. ndisks: how many of the definition's may be there. */
static void disks_remove(const struct definition *d, unsigned ndisks)
{
	for (unsigned i = 0; i < ndisks; i++)
		if (!d->disks[i].read_only && unlink(d->disks[i].layers[0].path) < 0 && errno != ENOENT)
			log_error("fork", "VM '%s': %s is left: %s", d->name, d->disks[i].layers[0].path,
				strerror(errno));
}

/* ---- the end ---- */

static void clone_forget(struct fork *f, const struct clone *c)
{
	char name[VM_NAME_MAX + 1];
	struct vm *vm = c->vm;
	struct err e;

	if (!vm)
		return;
	vm->job = NULL;
	memcpy(name, vm->def->name, sizeof(name));
	disks_remove(vm->def, c->ndisks);
	if (store_remove(f->daemon->store, name, &e) < 0) {
		log_error("fork", "VM '%s' is left: %s", name, e.msg);
		return;
	}
	vm_remove(vm);
	daemon_emit(f->daemon, EVENT_VM_UNDEFINED, name, NULL);
}

static void all_gone(struct loop_task *t)
{
	struct fork *f = container_of(t, struct fork, task);

	for (unsigned i = 0; i < f->n; i++)
		clone_forget(f, &f->clones[i]);
	if (f->job)
		job_fail(f->job, &f->e);
	else
		fork_free(f);
}

/* From the loop, not from inside the VM's own end. */
static void clone_gone(struct vm *vm, void *opaque)
{
	struct fork *f = opaque;

	(void)vm;
	if (!--f->leaving)
		loop_post(f->daemon->loop, &f->task);
}

static void give_up(struct fork *f)
{
	f->task.run = all_gone;
	f->leaving = 1;
	for (unsigned i = 0; i < f->n; i++) {
		struct vm *vm = f->clones[i].vm;

		if (!vm || !vm->proc)
			continue;
		f->leaving++;
		vm_when_gone(vm, clone_gone, f);
		if (vm_state_is_active(vm->state))
			vm_destroy(vm, NULL);
	}
	clone_gone(NULL, f);
}

static struct json_object *result_new(struct fork *f)
{
	struct json_object *o = json_object_new_object();

	js_put_uint(o, "count", f->n);
	js_put_str(o, "first", f->clones[0].vm->def->name);
	js_put_str(o, "last", f->clones[f->n - 1].vm->def->name);
	js_put_uint(o, "pause", f->pause_ns);
	js_put_uint(o, "total", loop_now_ns() - f->begun_ns);
	js_put_uint(o, "ram-bytes-written", f->ram_bytes_written);
	return o;
}

static void fail(struct fork *f, const struct err *e)
{
	if (!f->failed)
		f->e = *e;
	f->failed = true;
}

/* With a marker that stays the next daemon would end a clone that somebody was told of. */
static void succeed(struct fork *f)
{
	struct err e;

	for (unsigned i = 0; i < f->n; i++)
		if (store_remove_marker(f->daemon->store, f->clones[i].vm->def->name, FORK_MARKER, &e) < 0) {
			fail(f, &e);
			give_up(f);
			return;
		}
	for (unsigned i = 0; i < f->n; i++) {
		f->clones[i].vm->job = NULL;
		f->clones[i].vm->half = false;
	}
	job_succeed(f->job, result_new(f));
}

/* ---- starting them ---- */

static void go_on(struct fork *f);

static void clone_started(void *opaque, int r, const struct err *e)
{
	struct clone *c = opaque;
	struct fork *f = c->fork;

	f->begun--;
	f->running += r == 0;
	if (r < 0)
		fail(f, e);
	job_progress(f->job, f->running, f->n);
	go_on(f);
}

static void clone_start(struct clone *c)
{
	struct fork *f = c->fork;
	struct vm_start_how how = { .state_fd = -1, .forked = true, .paused = f->paused,
		.hint_hostname = f->hint_hostname, .by_job = true, .done = clone_started, .opaque = c };

	how.state_fd = fcntl(f->state_fd, F_DUPFD_CLOEXEC, 3);
	f->begun++;
	vm_start(c->vm, &how);
}

static void go_on(struct fork *f)
{
	struct err e;

	if (f->job->cancelling && !f->failed) {
		err_set(&e, -ECANCELED, ERR_CANCELLED, "it was cancelled; no clone is left");
		fail(f, &e);
	}
	while (!f->failed && f->next < f->n && f->begun < AT_ONCE_MAX)
		clone_start(&f->clones[f->next++]);
	if (f->begun)
		return;
	if (f->failed)
		give_up(f);
	else
		succeed(f);
}

/* ---- the beginning ---- */

static void forked(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct fork *f = opaque;
	struct err why;

	/* From here on nobody can change it: not the source, nor any clone. */
	if (!r && fcntl(f->state_fd, F_ADD_SEALS,
			  F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		r = err_set_errno(&why, -errno, "cannot seal the VM's state");
		e = &why;
	}
	if (r < 0) {
		fail(f, e);
		give_up(f);
		return;
	}
	if (a->snapshot) {
		f->pause_ns = a->snapshot->pause_ns;
		f->ram_bytes_written = a->snapshot->ram_bytes_written;
	}
	f->job->unit = "clones";
	go_on(f);
}

static void cancelled(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	(void)opaque;
	(void)a;
	if (r < 0 && r != -ESRCH)
		log_debug("fork", "%s", e->msg);
}

/* Once the state is there the source has nothing to cancel; go_on() looks. */
static void fork_cancel(struct job *j)
{
	struct fork *f = j->opaque;

	if (!f->next && (j->vm->proc || j->vm->images))
		snapshots_request(j->vm, VM_MSG_CANCEL, NULL, 0, CANCEL_TIMEOUT_NS, cancelled, NULL);
}

static void fork_release(struct job *j)
{
	fork_free(j->opaque);
}

/* In the state folder and the registry, off. */
static int clone_keep(struct clone *c, struct err *e)
{
	struct daemon *d = c->fork->daemon;
	CLEANUP_JS struct json_object *o = definition_to_json(c->def);
	int r;

	if (c->def->rights)
		rights_put(o, c->def->rights);
	r = store_save_definition_soon(d->store, c->def->name, o, FORK_MARKER, e);
	if (r < 0)
		return r;
	r = vm_add(d, c->def, &c->vm);
	if (r < 0) {
		store_remove(d->store, c->def->name, NULL);
		return err_set_errno(e, r, "VM '%s'", c->def->name);
	}
	c->def = NULL;
	c->vm->job = c->fork->job;
	c->vm->half = true; /* its state is kept from its start on */
	daemon_emit(d, EVENT_VM_DEFINED, c->vm->def->name, NULL);
	return 0;
}

static void begin_failed(struct loop_task *t)
{
	give_up(container_of(t, struct fork, task));
}

static void fork_send(struct fork *f)
{
	struct vm_fork body = { .copies = f->ndisk_fds ? f->n : 0 };
	int fds[CHANNEL_FDS_MAX] = { f->state_fd };

	memcpy(fds + 1, f->disk_fds, f->ndisk_fds * sizeof(*fds));
	memcpy(body.snapshot, f->snapshot, sizeof(body.snapshot));
	snapshots_request_fds(f->source, VM_MSG_FORK, &body, sizeof(body), fds, f->ndisk_fds + 1,
		VM_PROCESS_NO_TIMEOUT, forked, f);
	disk_fds_close(f);
}

/* What goes wrong from here on is the job's failure. */
static void fork_go(struct fork *f)
{
	struct err e;
	int r = 0;

	for (unsigned i = 0; i < f->n && !r; i++)
		r = clone_keep(&f->clones[i], &e);
	if (!r)
		r = disks_open(f, &e);
	if (!r) {
		fork_send(f);
		return;
	}
	fail(f, &e);
	f->task.run = begin_failed;
	loop_post(f->daemon->loop, &f->task);
}

static int fork_prepare(struct fork *f, const struct fork_how *how, struct err *e)
{
	int r = source_check(f->source, f->n, e);

	if (!r)
		r = clones_define(f, how, e);
	if (r < 0)
		return r;
	f->state_fd = memfd_create("cairn-fork", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return f->state_fd < 0 ? err_set_errno(e, -errno, "cannot make a file for the VM's state") : 0;
}

static int fork_submit(struct fork *f, const char *job_id, struct err *e)
{
	int r = job_new(f->source, "fork", job_id, &f->job, e);

	if (r < 0)
		return r;
	f->job->opaque = f; /* at first bytes, of memory and disks; then clones */
	f->job->release = fork_release;
	f->job->cancel = fork_cancel;
	f->begun_ns = loop_now_ns();
	fork_go(f);
	return 0;
}

static struct fork *fork_new(struct daemon *d, unsigned n)
{
	struct fork *f = calloc(1, sizeof(*f));

	if (f)
		f->clones = calloc(n, sizeof(*f->clones));
	if (!f || !f->clones)
		abort(); /* as for any call that could not be answered */
	f->daemon = d;
	f->state_fd = -1;
	f->n = n;
	return f;
}

int fork_begin(struct vm *vm, const struct fork_how *how, const char *job_id, struct job **ret_j,
	struct err *e)
{
	struct fork *f = fork_new(vm->daemon, MAX(how->count, 1));
	int r;

	f->source = vm;
	f->paused = how->paused;
	f->hint_hostname = how->hint_hostname;
	snprintf(f->snapshot, sizeof(f->snapshot), "%s", how->snapshot ? how->snapshot : "");
	r = fork_prepare(f, how, e);
	if (!r)
		r = fork_submit(f, job_id, e);
	if (r < 0) {
		fork_free(f);
		return r;
	}
	*ret_j = f->job;
	return 0;
}

/* ---- after another daemon ---- */

void fork_clear_up(struct daemon *d)
{
	struct fork *f = d->nvms ? fork_new(d, (unsigned)d->nvms) : NULL;

	if (!f)
		return;
	f->n = 0;
	for (size_t i = 0; i < d->nvms; i++) {
		struct vm *vm = d->vms[i];

		if (!store_has_file(d->store, vm->def->name, FORK_MARKER))
			continue;
		log_warn("fork", "VM '%s' is one of clones that were never finished; it is forgotten",
			vm->def->name);
		vm->half = true;
		f->clones[f->n].ndisks = vm->def->ndisks;
		f->clones[f->n++].vm = vm;
	}
	if (f->n)
		give_up(f);
	else
		fork_free(f);
}
