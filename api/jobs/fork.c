#include "api/jobs/fork_impl.h"
#include "api/access/authors.h"
#include "api/access/fork_as.h"
#include "api/definition/definition.h"
#include "api/jobs/batch.h"
#include "api/jobs/flatten.h"
#include "api/jobs/fork_images.h"
#include "api/jobs/fork_seal.h"
#include "api/jobs/group_steps.h"
#include "api/jobs/job.h"
#include "api/jobs/pin_release.h"
#include "api/jobs/snapshot_devices.h"
#include "api/jobs/snapshots.h"
#include "api/net/network_ports.h"
#include "api/net/publish.h"
#include "api/vm/identity.h"
#include "api/vm/pins.h"
#include "api/vm/quota_use.h"
#include "api/vm/vm.h"
#include "api/vm/vm_cgroup.h"
#include "api/vm/vm_process.h"
#include "api/vm/vm_spare.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

/* Greatest number of clones that start at a time: enough to keep the CPUs busy, few enough that each start is over
 * soon. A start waits for the kernel some four times (grace periods of KVM, a thread of its timer), and for messages,
 * so with two CPUs eight at a time took 0.93 of the time of four, and sixteen 0.90. */
#define AT_ONCE_MAX 8
/* Clones that the result lists: some clients read lines of at most 64 KiB. */
#define CLONES_LISTED 100

/* End the spare process of the first clone, if the clone does not use it. */
static void spare_drop(const struct fork *f)
{
	if (uuid_is_set(f->spare))
		vm_spare_drop(f->host, f->spare);
}

static void fork_free(struct fork *f)
{
	spare_drop(f);
	for (unsigned i = 0; i < f->n; i++) {
		definition_free(f->clones[i].def);
		definition_free(f->clones[i].live);
	}
	fork_as_free(f->sealing);
	fork_images_free(f->files);
	definition_free(f->disks);
	batch_free(f->batch);
	for (unsigned i = 0; i < VM_DISKS_MAX; i++)
		free(f->images[i]);
	free(f->clones);
	json_object_put(f->peers);
	if (f->state_fd >= 0)
		close(f->state_fd);
	if (f->ready_fd >= 0)
		close(f->ready_fd);
	free(f);
}

/* ---- the disks that were made ---- */

/* Raise the clones' quota use to the space of the first clone's files, if that exceeds the claim. That happens if the
 * source's process has copied a disk that was to be pinned, or a copy is larger than its source. */
static int bytes_adjust(struct fork *f, struct err *e)
{
	uint64_t bytes = 0;
	int r;

	for (unsigned i = 0; i < VM_DISKS_MAX; i++)
		bytes = quota_sum(bytes, f->made_bytes[i] ? MAX(f->made_bytes[i], QUOTA_IMAGE_MIN_BYTES) : 0);
	if (bytes <= f->image_bytes)
		return 0;
	r = quota_check_more(f->clones[0].vm, QUOTA_DISK, quota_product(f->n, bytes - f->image_bytes), e);
	for (unsigned i = 0; i < f->n && !r; i++) {
		f->clones[i].vm->counts.made_bytes = bytes;
		vm_save(f->clones[i].vm);
	}
	return r;
}

static int disks_adjust(struct fork *f, struct err *e)
{
	bool changed = false;
	int r = 0;

	for (unsigned i = 0, w = 0; i < VM_DISKS_MAX; i++) {
		if (!f->images[i])
			continue;
		if (f->flat[i] && f->taken.disks_made[w] != VM_MADE_FLAT)
			return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "VM '%s' is run by a process of an older Cairn, which cannot make "
				"isolated clones of this VM; use cairn restart-process first", f->source->def->name);
		if (f->pinned[i] && !fork_is_overlay(f, i, f->taken.disks_made[w]) && f->ready)
			return err_set(e, -EPROTO, ERR_GENERIC, "the VM's process copied a disk after it let the clones start");
		if (f->pinned[i] && !fork_is_overlay(f, i, f->taken.disks_made[w])) {
			fork_set_copied(f, i);
			changed = true;
		}
		w++;
	}
	if (changed) {
		pins_store(f->host, NULL);
		vm_open_ahead_drop(f->clones[0].vm); /* its layers have changed */
	}
	for (unsigned k = 0; k < f->n && changed && !r; k++)
		r = batch_redefine(f->batch, f->clones[k].vm, e);
	return r;
}

/* ---- checking the source ---- */

/* Check that live clones can copy the disks, and that one message can carry the files of n clones. The VM's process
 * checks the disks again, since this definition may be newer than the process. */
static int source_check(const struct vm *vm, unsigned n, struct err *e)
{
	const char *other = vm_has_other_disks(vm) ? "disk" : vm_has_other_interfaces(vm) ? "interface" : NULL;
	unsigned written = 0, most;
	int r = 0;

	if (other)
		return vm_refuse_other(vm, other, "and its clones would lack them:", e);
	for (uint32_t i = 0; i < vm->def->ndisks && !r; i++) {
		if (vm->def->disks[i].read_only)
			continue;
		written++;
		if (vm->def->disks[i].layers[0].data_file)
			r = err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
				"disks[%u]: has an external data file; live clones cannot copy it", i);
	}
	most = written ? (CHANNEL_FDS_MAX - 1) / written - 1 : FORK_CLONES_MAX;
	if (!r && n > most)
		r = err_set(e, -EINVAL, ERR_INVALID,
			"count: at most %u clones at a time, because the VM writes to %u disk%s", most, written,
			written == 1 ? "" : "s");
	return r;
}

/* ---- opening and creating the disks' files ---- */

/* Fill f->files. The paths of the clones' files belong to the clones' definitions, which do not move when a VM takes
 * them. source_check() has limited the number of files. */
static int files_list(struct fork *f, struct err *e)
{
	const struct definition *source;
	int r = authors_definition_copy(f->source->def, &f->disks, e);

	if (r < 0)
		return r;
	source = f->disks;
	for (uint32_t i = 0; i < source->ndisks; i++) {
		const struct definition_disk *d = &source->disks[i];

		if (d->read_only)
			continue;
		f->images[i] = strdup(d->layers[0].path);
		if (!f->images[i] || fork_images_add_disk(f->files, author_of(source, f->images[i]), f->images[i]) < 0)
			return err_set_errno(e, -ENOMEM, "clones");
		f->image_bytes += QUOTA_IMAGE_MIN_BYTES;
		if (!f->pinned[i])
			fork_images_add_copied(f->files, d, f->flat[i] ? d->nlayers : 1);
		for (unsigned k = 0; k < f->n; k++)
			fork_images_add_copy(f->files, f->clones[k].def->disks[i].layers[0].path);
	}
	return 0;
}

/* ---- ending the job ---- */

static struct json_object *disks_to_json(const struct fork *f)
{
	struct json_object *all = json_object_new_array();

	for (unsigned i = 0, w = 0; i < VM_DISKS_MAX; i++) {
		struct json_object *o;

		if (!f->images[i])
			continue;
		o = json_object_new_object();
		js_put_str(o, "id", f->clones[0].vm->def->disks[i].id);
		js_put_str(o, "made", f->pinned[i] ? "overlay" : "copy");
		if (f->pinned[i] && f->clones[0].vm->def->disks[i].nlayers > FLATTEN_LAYERS)
			js_put_uint(o, "flattened-layers", f->clones[0].vm->def->disks[i].nlayers);
		js_put_str(o, "reason", f->why_copied[i]);
		js_put_uint(o, "bytes", f->made_bytes[w++]);
		json_object_array_add(all, o);
	}
	return all;
}

static struct json_object *clones_to_json(const struct fork *f)
{
	struct json_object *all = json_object_new_array();

	for (unsigned i = 0; i < MIN(f->n, CLONES_LISTED); i++) {
		struct json_object *o = json_object_new_object();

		js_put_str(o, "name", f->clones[i].vm->def->name);
		js_put_uuid(o, "uuid", f->clones[i].vm->def->uuid);
		json_object_array_add(all, o);
	}
	return all;
}

/* The addresses that networks have given the clones. */
static void addresses_put(const struct fork *f, struct json_object *o)
{
	struct json_object *list = json_object_new_array();

	for (unsigned i = 0; i < f->n; i++)
		network_ports_list(f->clones[i].vm, NULL, list);
	if (json_object_array_length(list))
		js_put(o, "addresses", list);
	else
		json_object_put(list);
}

/* The ports that the clones' forwards have. */
static void published_put(const struct fork *f, struct json_object *o)
{
	struct json_object *list = json_object_new_array();

	for (unsigned i = 0; i < f->n && f->publishes; i++)
		publish_list(f->clones[i].vm, NULL, list);
	if (f->publishes)
		js_put(o, "published", list);
	else
		json_object_put(list);
}

static void result_put(void *opaque, struct json_object *o)
{
	struct fork *f = opaque;

	js_put(o, "disks", disks_to_json(f));
	js_put(o, "clones", clones_to_json(f));
	identity_put_forwards(f->source->def, o);
	addresses_put(f, o);
	published_put(f, o);
	/* One more clone is likely to follow; a batch keeps the processors busy by itself. */
	if (f->n == 1 && !f->group_stage)
		vm_spare_make(f->host, f->clones[0].vm->def);
}

/* The source's process may answer when the clones are gone already. */
static void end_put(void *opaque, struct json_object *o)
{
	struct fork *f = opaque;

	js_put_uint(o, "pause", f->taken.pause_ns);
	group_put_instant(o, &f->taken);
	js_put_uint(o, "total", loop_now_ns() - f->begun_ns);
	js_put_uint(o, "ram-bytes-written", f->taken.ram_bytes_written);
	job_put_tracking(o, &f->taken);
	if (f->pins_changed)
		pins_store(f->host, NULL);
}

static void states_stored(struct store_work *w)
{
	struct fork *f = container_of(w, struct fork, stored);

	batch_end(f->batch, f->job, result_put, end_put, f);
}

/* Whether the next daemon needs the clones' state.json from the end of the job on: for the ports of published forwards,
 * which the answer names, for the addresses on networks, and for the clones' use of quotas. */
static bool states_matter(const struct fork *f)
{
	bool rules = false;

	for (unsigned i = 0; i < f->n && !batch_has_failed(f->batch); i++)
		rules = rules || network_ports_has_rules(f->clones[i].vm);
	return !batch_has_failed(f->batch) && (f->publishes || rules || quota_limits(f->host, f->clones[0].vm->def, QUOTA_DISK));
}

static void fork_end(struct fork *f)
{
	f->ended = true;
	spare_drop(f);
	fork_as_free(STEAL_PTR(f->sealing));
	batch_await(f->batch, f->asked && !f->answered);
	f->stored = (struct store_work){ .loop = f->host->loop, .done = states_stored };
	if (states_matter(f))
		store_after(f->host->store, &f->stored);
	else
		states_stored(&f->stored);
}

/* ---- starting the clones ---- */

static void clones_start_next(struct fork *f);

static void clone_started(void *opaque, int r, const struct err *e)
{
	struct clone *c = opaque;
	struct fork *f = c->fork;

	f->begun--;
	f->running += r == 0;
	if (r < 0)
		batch_fail(f->batch, e);
	gate_leave(&c->gated);
	job_progress(f->job, f->running, f->n);
	clones_start_next(f);
}

/* The disks whose pins the source's process is making. When they are on stable storage, the images name them. */
static uint32_t pins_readable(const struct fork *f)
{
	uint32_t mask = 0;

	if (f->durable || f->snapshot[0] || !f->source->proc || !vm_process_knows(f->source->proc, VM_KNOWS_PINS_READABLE))
		return 0;
	for (unsigned i = 0; i < VM_DISKS_MAX; i++)
		mask |= f->pinned[i] ? 1u << i : 0;
	return mask;
}

static void clone_start(struct clone *c)
{
	struct fork *f = c->fork;
	struct vm_start_opts opts = { .state_fd = -1, .forked = true, .paused = f->paused,
		.hint_hostname = f->hint_hostname, .by_job = true, .waits = !f->answered, .pins_readable = pins_readable(f),
		.state_ready_fd = f->sealed ? 0 : f->ready_fd, .done = clone_started, .opaque = c };

	opts.state_fd = fcntl(f->state_fd, F_DUPFD_CLOEXEC, 3);
	f->begun++;
	gate_enter(&f->gate, c->vm, &c->gated);
	network_ports_clone(c->vm, f->source, !f->snapshot[0]);
	if (f->peers)
		network_ports_set_peers(c->vm, f->peers);
	if (c->live)
		c->vm->live = STEAL_PTR(c->live);
	vm_start(c->vm, &opts);
}

static void cancel_check(struct fork *f)
{
	struct err e;

	if (!f->job->cancelling || batch_has_failed(f->batch))
		return;
	err_set(&e, -ECANCELED, ERR_CANCELLED, "the job was cancelled; no clone remains");
	batch_fail(f->batch, &e);
}

/* Return whether the fork has failed and nothing of it is under way, or all clones run and all is on stable storage. */
static bool is_over(const struct fork *f)
{
	if (f->begun || f->measures || f->ended)
		return false;
	return batch_has_failed(f->batch) ? f->answered : f->sealed && f->durable && f->measured;
}

static void clones_start_next(struct fork *f)
{
	if (f->loop_runs) /* a start was refused at once: the loop below, which called vm_start(), continues */
		return;
	cancel_check(f);
	f->loop_runs = true;
	while (f->sealed && !batch_has_failed(f->batch) && f->next < f->n && gate_has_room(&f->gate))
		clone_start(&f->clones[f->next++]);
	f->loop_runs = false;
	if (is_over(f))
		fork_end(f);
}

static void gate_on_room(struct start_gate *g)
{
	clones_start_next(container_of(g, struct fork, gate));
}

/* ---- beginning and cancelling the job ---- */

/* Start the first clone, whose process builds its machine while the source's process writes the state. Not more than
 * one: they would compete with the source for the CPUs. */
static void first_begin(struct fork *f)
{
	cancel_check(f);
	if (!f->next && !batch_has_failed(f->batch) && gate_has_room(&f->gate))
		clone_start(&f->clones[f->next++]);
}

/* End the clones that are starting: their processes wait for the state and the pins, which will not come after a
 * failure. */
static void starting_end(struct fork *f)
{
	for (unsigned i = 0; i < f->next; i++)
		vm_start_call_off(f->clones[i].vm);
}

static void fork_fail(struct fork *f, const struct err *e)
{
	batch_fail(f->batch, e);
	starting_end(f);
	clones_start_next(f);
}

/* The state cannot change any more: wake the first clone, if it waits for that, and start the others. */
static void state_sealed(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct fork *f = opaque;
	uint64_t one = 1;
	struct err own;

	(void)res;
	f->sealing = NULL;
	if (!r && write(f->ready_fd, &one, sizeof(one)) < 0) {
		r = err_set_errno(&own, -errno, "cannot wake the clone");
		e = &own;
	}
	f->sealed = !r;
	if (r < 0)
		fork_fail(f, e);
	else
		clones_start_next(f);
}

static void clones_begin(struct fork *f)
{
	struct err e;

	if (f->ready)
		return;
	f->ready = true;
	f->job->unit = "clones";
	if (fork_is_sealed(f->state_fd))
		state_sealed(f, 0, NULL, NULL);
	else if (fork_seal_begin(f->host->helpers, f->state_fd, state_sealed, f, &f->sealing, &e) < 0)
		fork_fail(f, &e);
}

/* The space that the first clone's files take is known. */
static void files_measured(void *opaque, int r, const struct err *e)
{
	struct fork *f = opaque;
	struct err why;

	f->measures = false;
	f->measured = true;
	memcpy(f->made_bytes, fork_images_sizes(f->files), sizeof(f->made_bytes));
	if (!r) {
		r = bytes_adjust(f, &why);
		e = &why;
	}
	if (r < 0)
		fork_fail(f, e);
	else if (f->ready)
		clones_start_next(f);
	else
		clones_begin(f);
}

static void files_measure(struct fork *f)
{
	f->measures = true;
	if (fork_images_any(f->files))
		fork_images_measure(f->files, files_measured, f);
	else
		files_measured(f, 0, NULL);
}

/* Start the clones while the source's process flushes their disks. The job succeeds when that is done, too. */
static void fork_ready(struct fork *f)
{
	clones_begin(f);
	files_measure(f);
}

static void fork_stage(struct job *j, int64_t stage)
{
	struct fork *f = j->opaque;

	if (!f->asked || f->answered)
		return;
	if (stage >= VM_GROUP_HELD && f->group_stage)
		f->group_stage(f->group_opaque, stage);
	else if (stage == VM_FORK_BEGUN && !f->ready)
		first_begin(f);
	else if (stage == VM_FORK_READY && !f->ready)
		fork_ready(f);
	else if (stage == VM_FORK_DURABLE && f->ready && !f->durable) {
		f->durable = true;
		clones_start_next(f);
	}
}

static void fork_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct fork *f = opaque;
	struct err why;

	f->answered = true;
	if (!r && a->snapshot) {
		f->taken = *a->snapshot;
		fork_resolve_pins(f);
	}
	for (unsigned i = 0; i < f->next && !f->ended; i++)
		vm_start_limit(f->clones[i].vm); /* the pins are there */
	if (f->durable) {
		r = 0; /* a process that has ended since has not failed */
	} else if (!r) {
		r = disks_adjust(f, &why);
		e = &why;
	}
	f->durable = f->durable || !r;
	if (f->ended)
		batch_await(f->batch, false);
	else if (r < 0)
		fork_fail(f, e);
	else if (f->ready)
		clones_start_next(f);
	else
		files_measure(f);
}

/* Ask the source's process to stop. Before it has the request, fork_send() checks for the cancel. Once all clones may
 * start, the source has no work left to cancel; then end the starts. If none is under way, clones_start_next() checks
 * for the cancel. */
static void fork_cancel(struct job *j)
{
	struct fork *f = j->opaque;

	if (f->begun || f->sealing) {
		cancel_check(f);
		starting_end(f);
		clones_start_next(f);
	}
	if (f->asked && !f->ready && (j->vm->proc || j->vm->offline))
		snapshots_cancel(j);
}

static void fork_release(struct job *j)
{
	fork_free(j->opaque);
}

/* Define a clone as part of the batch. Its state.json is first written when it starts. */
static int clone_keep(struct clone *c, struct err *e)
{
	int r = batch_add(c->fork->batch, c->def, c->fork->job, &c->vm, e);

	if (!r)
		c->def = NULL;
	if (!r)
		memcpy(c->vm->source, c->fork->source->def->uuid, sizeof(c->vm->source));
	return r || !c->fork->ephemeral ? r : vm_make_transient(c->vm, true, e);
}

static void begin_failed(struct loop_task *t)
{
	fork_end(container_of(t, struct fork, task));
}

static void begin_end(struct fork *f)
{
	f->task.run = begin_failed;
	loop_post(f->host->loop, &f->task);
}

static void begin_fail(struct fork *f, const struct err *e)
{
	batch_fail(f->batch, e);
	begin_end(f);
}

/* Fail if the VM whose present state is to be cloned has ended meanwhile: an offline process would get the request. */
static void source_check_alive(struct fork *f)
{
	const struct vm *vm = f->source;
	struct err e;

	if (f->snapshot[0] || (vm->proc && vm_state_is_active(vm->state)) || batch_has_failed(f->batch))
		return;
	err_set(&e, -ECANCELED, ERR_WRONG_STATE, "the VM ended before its state was taken");
	batch_fail(f->batch, &e);
}

/* The process that holds the opened files sends them with the request, behind the file for the state. */
static void fork_send(struct fork *f)
{
	bool copies = fork_images_any(f->files);
	struct vm_fork body = { .copies = copies ? f->n : 0,
		.flatten = VM_FORK_STAGES | (f->isolated ? VM_FORK_ISOLATED : 0) | (f->group_stage ? VM_FORK_GROUP : 0) };

	cancel_check(f);
	source_check_alive(f);
	if (batch_has_failed(f->batch)) {
		begin_end(f);
		return;
	}
	fork_put_pins(f, &body);
	memcpy(body.snapshot, f->snapshot, sizeof(body.snapshot));
	f->asked = true;
	vm_cgroup_make_room(f->source);
	pin_release_before_fork(f->source);
	snapshots_request_with(f->source, VM_MSG_FORK, &body, fork_request_bytes(f), fork_images_take(f->files), &f->state_fd, copies ? 0 : 1,
		VM_PROCESS_NO_TIMEOUT, fork_answered, f);
	/* Load the first clone's program while the source's process works: a fork of one takes 0.8 ms less. Do not do
	 * this for more clones: they would compete with the source for the CPUs during its pause. */
	if (f->group_stage)
		return;
	if (!f->clones[0].live) /* the start opens the ports that it publishes, too */
		vm_open_ahead(f->clones[0].vm);
	vm_start_ahead(f->clones[0].vm);
}

static void files_opened(void *opaque, int r, const struct err *e)
{
	struct fork *f = opaque;

	/* On -EEXIST no file is left that was created here. After another error, files may be left. */
	for (unsigned i = 0; i < f->n; i++)
		batch_made(f->batch, f->clones[i].vm, r != -EEXIST ? VM_DISKS_MAX : 0);
	if (r < 0)
		begin_fail(f, e);
	else
		fork_send(f);
}

/* Define the clones, and open and create the disks' files. An error fails the job. */
static void fork_go(struct fork *f)
{
	struct store *store = f->host->store;
	struct err e;
	int r;

	store_hold(store);
	for (unsigned i = 0; i < f->n; i++)
		batch_plan(f->batch, f->clones[i].def);
	r = batch_begin(f->batch, &e);
	for (unsigned i = 0; i < f->n && !r; i++)
		r = clone_keep(&f->clones[i], &e);
	if (!r)
		r = fork_note_pins(f, &e);
	if (!r)
		r = fork_images_any(f->files) ? fork_images_open(f->files, f->state_fd, files_opened, f, &e) : 0;
	if (r < 0)
		begin_fail(f, &e);
	else if (!fork_images_any(f->files))
		fork_send(f);
	store_release(store);
}

/* Claim quota for the clones' images, now that the size of the source's images is known. */
static int copies_claim(struct fork *f, struct err *e)
{
	unsigned ncopied = fork_images_ncopied(f->files);
	uint64_t overlays = f->image_bytes - ncopied * QUOTA_IMAGE_MIN_BYTES;

	if (!ncopied)
		return 0;
	f->image_bytes = quota_sum(overlays, fork_images_bytes(f->files));
	return batch_claim_change(f->batch, f->image_bytes, 0, e);
}

static void files_checked(void *opaque, int r, const struct err *e)
{
	struct fork *f = opaque;
	struct err own;

	if (!r) {
		r = copies_claim(f, &own);
		e = &own;
	}
	if (r < 0)
		begin_fail(f, e);
	else
		fork_go(f);
}

static void fork_check(struct fork *f)
{
	if (fork_images_any(f->files))
		fork_images_check(f->files, files_checked, f);
	else
		fork_go(f);
}

/* The snapshot's guest knows the devices that the VM had then. */
static void snapshots_fetched(void *opaque, int r, const struct snapshots *s, const struct err *e)
{
	struct definition *then CLEANUP(definition_free_p) = NULL;
	struct fork *f = opaque;
	struct err own;
	size_t i = 0;

	/* The VM's process refuses a snapshot that is missing. */
	if (!r && snapshots_find(s, f->source->def->name, f->snapshot, &i, NULL) == 0) {
		then = snapshot_devices_load(f->source, s->list[i].id, false);
		r = snapshot_devices_check_clones(f->source, then, s->list[i].name, &own);
		e = &own;
	}
	if (r < 0)
		begin_fail(f, e);
	else
		fork_check(f);
}

static int fork_prepare(struct fork *f, const struct fork_opts *opts, struct err *e)
{
	int r = source_check(f->source, f->n, e);

	if (!r && opts->forwards)
		r = publish_validate(f->source->host, opts->forwards, f->source->def, f->n > 1, e);
	if (!r)
		r = fork_choose_pins(f, opts, e);
	if (!r)
		r = fork_define_clones(f, opts, e);
	if (!r)
		r = files_list(f, e);
	if (!r)
		r = batch_claim(f->batch, f->clones[0].def,
			&(struct quota_new){ .n = f->n, .runs = true, .image_bytes = f->image_bytes }, e);
	if (r < 0)
		return r;
	f->state_fd = memfd_create("cairn-fork", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	f->ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return f->state_fd < 0 || f->ready_fd < 0 ? err_set_errno(e, -errno, "cannot make a file for the VM's state") : 0;
}

static int fork_submit(struct fork *f, const char *job_id, struct err *e)
{
	int r = job_new(f->source, "fork", job_id, &f->job, e);

	if (r < 0)
		return r;
	f->job->opaque = f; /* job_new() has set the unit to bytes; fork_answered() changes it to clones */
	f->job->release = fork_release;
	f->job->cancel = fork_cancel;
	f->job->fork_stage = fork_stage;
	f->begun_ns = loop_now_ns();
	if (f->snapshot[0])
		snapshots_fetch(f->source, snapshots_fetched, f);
	else
		fork_check(f);
	return 0;
}

static struct fork *fork_new(struct vm_host *host, unsigned n)
{
	struct fork *f = calloc(1, sizeof(*f));

	if (f)
		f->clones = calloc(n, sizeof(*f->clones));
	if (!f || !f->clones)
		abort(); /* otherwise the client would never get an answer */
	f->host = host;
	f->batch = batch_new(host);
	batch_redefines(f->batch);
	f->files = fork_images_new(host->helpers);
	f->state_fd = f->ready_fd = -1;
	f->n = n;
	f->gate = (struct start_gate){ .host = host, .max = AT_ONCE_MAX, .has_room = gate_on_room };
	return f;
}

int fork_begin(struct vm *vm, const struct fork_opts *opts, const char *job_id, struct job **ret_j,
	struct err *e)
{
	struct fork *f = fork_new(vm->host, MAX(opts->count, 1));
	int r;

	f->source = vm;
	f->paused = opts->paused;
	f->isolated = opts->isolated;
	f->ephemeral = opts->ephemeral;
	f->publishes = opts->forwards;
	f->group_stage = opts->group_stage;
	f->group_opaque = opts->group_opaque;
	f->hint_hostname = opts->hint_hostname;
	snprintf(f->snapshot, sizeof(f->snapshot), "%s", opts->snapshot ? opts->snapshot : "");
	batch_set_owners(f->batch, opts->owners);
	r = fork_prepare(f, opts, e);
	if (!r)
		r = fork_submit(f, job_id, e);
	if (r < 0) {
		fork_free(f);
		return r;
	}
	*ret_j = f->job;
	return 0;
}

const struct definition *fork_first_definition(const struct job *j)
{
	const struct fork *f = j->opaque;
	const struct clone *c = &f->clones[0];

	return c->def ? c->def : c->vm->def;
}

void fork_first_uuid(const struct job *j, uint8_t uuid[16])
{
	memcpy(uuid, fork_first_definition(j)->uuid, 16);
}

void fork_set_peers(struct job *j, struct json_object *peers)
{
	struct fork *f = j->opaque;

	json_object_put(f->peers);
	f->peers = peers;
}
