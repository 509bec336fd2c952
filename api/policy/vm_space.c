#include "api/policy/vm_space.h"
#include "api/jobs/pin_release.h"
#include "api/policy/fs_space.h"
#include "api/policy/space_fill.h"
#include "api/policy/thresholds.h"
#include "api/schema/event.h"
#include "api/schema/schema.h"
#include "api/store/pool_history.h"
#include "api/store/store.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/vm/vm_figures.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/ratelimit.h"
#include "base/util.h"
#include "base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ASK_TIMEOUT_NS (30 * CLOCK_NS_PER_S)
#define FETCH_TIMEOUT_NS (1 * CLOCK_NS_PER_S)
/* Time between two questions of a VM that does not write, while space is low. */
#define LOW_NS (30 * CLOCK_NS_PER_S)
/* The same, while the VM has a threshold of disk-space. */
#define WANTED_NS (60 * CLOCK_NS_PER_S)
/* Time between two looks of the daemon at file systems. */
#define AROUND_NS (60 * CLOCK_NS_PER_S)
#define STORE_NS (3600 * CLOCK_NS_PER_S)
#define FILE_NAME "space.json"
#define EVENTS_BURST 10
#define EVENTS_WINDOW_NS (3600 * CLOCK_NS_PER_S)

struct vm_space {
	struct vm_space_disk disks[VM_DISKS_MAX];
	size_t ndisks;
	bool answered; /* in this run */
	bool silent; /* has not answered vm_space_fetch() */
	bool asking; /* vm_space_update() waits for an answer */
	bool stale;  /* ask again, whether the guest writes or not: a job has changed the images */
	bool ask_again; /* ask again, since the image's tables are written later than the guest's data */
	bool wanted; /* the VM had a threshold of disk-space at the last sample */
	uint64_t live_changes; /* of the VM, when the process was asked last */
	uint64_t asked_ns; /* CLOCK_MONOTONIC; 0: not in this run */
	uint64_t writes, bytes; /* of the guest, when the process was asked last */
	struct space_fill fills[VM_DISKS_MAX]; /* of the disks' file systems, as the process sees them */
	uint64_t devs[VM_DISKS_MAX]; /* st_dev of the disks' images, likewise; 0: unknown */
	bool fill_low; /* one of the fills is low */
	bool low; /* as reported: one of these file systems, as the process or the daemon sees them */
	/* These outlive the run. */
	struct ratelimit events;
	struct pool_history *history; /* owned: bytes that the images take, of those that the guest sees; NULL: none yet */
	uint64_t store_ns;	      /* not stored before this time */
	bool unstored;
};

static struct vm_space *space_of(struct vm *vm)
{
	if (!vm->space)
		vm->space = must_alloc(calloc(1, sizeof(*vm->space)));
	return vm->space;
}

/* ---- low space ---- */

/* The file system with the smallest part free. */
struct fullest {
	const char *id; /* of a disk on it; borrowed */
	const struct space_fill *fill; /* NULL: none is known */
	bool low; /* whether any is */
};

static void fullest_add(struct fullest *f, const char *id, const struct space_fill *fill)
{
	if (!fill->total_bytes)
		return;
	f->low |= fill->low;
	if (f->fill && (double)fill->free_bytes / (double)fill->total_bytes >= (double)f->fill->free_bytes / (double)f->fill->total_bytes)
		return;
	f->id = id;
	f->fill = fill;
}

/* Return the number of the file system that holds the image of vm_live()'s disk i; 0: unknown, or the VM only reads it.
 * A compromised process that reports wrong file systems affects its own users only. */
static uint64_t disk_dev(const struct vm *vm, uint32_t i)
{
	const struct definition *d = vm_live(vm);
	const struct vm_space *s = vm->space;

	if (!s || d->disks[i].read_only || !d->disks[i].nlayers)
		return 0;
	if (s->answered)
		return i < s->ndisks && !strncmp(s->disks[i].id, d->disks[i].id, sizeof(s->disks[i].id)) ? s->devs[i] : 0;
	return vm->ndisk_ids == d->ndisks && !s->stale && s->live_changes == vm->live_changes ? vm->disk_ids[i].dev : 0;
}

static void low_emit(struct vm *vm, const struct fullest *f)
{
	struct vm_space *s = vm->space;
	double seconds = space_fill_seconds_left(f->fill);
	struct json_object *data;
	char rate[64] = "";
	uint64_t left_out;

	if (!ratelimit_take_of(&s->events, EVENTS_BURST, EVENTS_WINDOW_NS, clock_monotonic_ns(), &left_out))
		return;
	data = json_object_new_object();
	js_put_str(data, "device", f->id);
	js_put_str(data, "state", s->low ? "low" : "enough");
	js_put_uint(data, "free", f->fill->free_bytes);
	js_put_uint(data, "total", f->fill->total_bytes);
	if (s->low && seconds >= 0 && seconds < 86400)
		js_put_uint(data, "seconds-left", (uint64_t)seconds);
	if (left_out)
		js_put_uint(data, "left-out", left_out);
	vm_emit(vm, EVENT_DISK_SPACE, data);
	if (s->low && seconds >= 0 && seconds < 86400)
		snprintf(rate, sizeof(rate), ", and none in %.0f s if it keeps filling", seconds);
	if (s->low)
		log_warn("space", "VM '%s': the file system of disk %s has little space: %llu of %llu MiB are free%s", vm->def->name, f->id,
			(unsigned long long)(f->fill->free_bytes >> 20), (unsigned long long)(f->fill->total_bytes >> 20), rate);
}

static void low_check(struct vm *vm)
{
	struct vm_space *s = vm->space;
	struct fullest f = { 0 };

	for (size_t i = 0; i < s->ndisks; i++)
		fullest_add(&f, s->disks[i].id, &s->fills[i]);
	if (f.low != s->fill_low)
		vm->host->fs_spaces_due_ns = 0; /* look now: other VMs' images may be there */
	s->fill_low = f.low;
	for (uint32_t i = 0; i < vm_live(vm)->ndisks; i++) {
		uint64_t dev = disk_dev(vm, i);
		const struct space_fill *fill = dev ? fs_spaces_of(vm->host->fs_spaces, dev) : NULL;

		if (fill)
			fullest_add(&f, vm_live(vm)->disks[i].id, fill);
	}
	if (f.low == s->low || !f.fill)
		return;
	s->low = f.low;
	low_emit(vm, &f);
	if (s->low)
		pin_release_idle(vm);
}

/* ---- writes of other programs ---- */

static bool runs(const struct vm *vm)
{
	return vm->proc && vm_state_is_active(vm->state);
}

static void fs_measured(void *opaque, uint64_t dev)
{
	struct vm_host *host = opaque;

	for (size_t v = 0; v < host->nvms; v++) {
		struct vm *vm = host->vms[v];
		bool has = false;

		for (uint32_t i = 0; runs(vm) && i < vm_live(vm)->ndisks && !has; i++)
			has = disk_dev(vm, i) == dev;
		if (has)
			low_check(vm);
	}
}

/* Name the VM's file systems, and report their figures. */
static void fs_name(struct vm *vm)
{
	for (uint32_t i = 0; i < vm_live(vm)->ndisks; i++) {
		uint64_t dev = disk_dev(vm, i);

		if (dev)
			fs_spaces_want(vm->host->fs_spaces, dev);
	}
	if (vm->space)
		low_check(vm);
}

void vm_spaces_update(struct vm_host *host, uint64_t now_ns)
{
	bool due = now_ns >= host->fs_spaces_due_ns;

	if (!due && !host->fs_spaces_more)
		return;
	host->fs_spaces_more = false;
	if (due)
		host->fs_spaces_due_ns = now_ns + AROUND_NS;
	if (!host->fs_spaces)
		host->fs_spaces = fs_spaces_new(host->helpers, fs_measured, host);
	for (size_t v = 0; v < host->nvms; v++)
		if (runs(host->vms[v]))
			fs_name(host->vms[v]);
	fs_spaces_measure(host->fs_spaces, due);
}

void vm_spaces_finish(struct vm_host *host)
{
	fs_spaces_free(host->fs_spaces);
	host->fs_spaces = NULL;
}

/* ---- growth ---- */

static void history_store(struct vm *vm)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();

	js_put(o, "points", pool_history_to_json(vm->space->history));
	store_put(vm->host->store, vm->def->name, FILE_NAME, o, STORE_EVENTUALLY, NULL, NULL);
	vm->space->store_ns = clock_monotonic_ns() + STORE_NS;
	vm->space->unstored = false;
}

/* Record the space of all images that the VM writes. */
static void history_add(struct vm *vm)
{
	struct pool_point p = { .time_s = (int64_t)(clock_realtime_ns() / CLOCK_NS_PER_S) };
	struct vm_space *s = vm->space;

	for (size_t i = 0; i < s->ndisks; i++) {
		p.used_bytes += s->disks[i].total_bytes ? MIN(s->disks[i].allocation_bytes, 1ULL << 56) : 0;
		p.total_bytes += s->disks[i].total_bytes ? MIN(s->disks[i].capacity_bytes, 1ULL << 56) : 0;
	}
	if (!p.total_bytes)
		return;
	if (!s->history) {
		s->history = must_alloc(calloc(1, sizeof(*s->history)));
		s->store_ns = clock_monotonic_ns() + STORE_NS;
	}
	pool_history_add(s->history, &p);
	s->unstored = true;
	if (clock_monotonic_ns() >= s->store_ns)
		history_store(vm);
}

bool vm_space_growth(const struct vm *vm, struct vm_space_growth *ret)
{
	const struct pool_history *h = vm->space ? vm->space->history : NULL;
	struct pool_history now;
	struct pool_point p;

	if (!h || !h->n)
		return false;
	/* Nothing has been written since the last point. */
	now = *h;
	p = h->points[h->n - 1];
	p.time_s = MAX(p.time_s, (int64_t)(clock_realtime_ns() / CLOCK_NS_PER_S));
	pool_history_add(&now, &p);
	if (!pool_history_growth(&now, &ret->bytes_a_day))
		return false;
	ret->days_left = pool_history_days_left(&now);
	return true;
}

void vm_space_load(struct vm_host *host)
{
	for (size_t i = 0; i < host->nvms; i++) {
		struct vm *vm = host->vms[i];
		CLEANUP_JS struct json_object *o = store_load_file(host->store, vm->def->name, FILE_NAME);
		struct vm_space *s = o ? space_of(vm) : NULL;

		if (!s)
			continue;
		s->history = must_alloc(calloc(1, sizeof(*s->history)));
		pool_history_from_json(js_get(o, "points"), s->history);
		s->store_ns = clock_monotonic_ns() + STORE_NS;
	}
}

/* ---- answers ---- */

static void disks_take(struct vm_space *s, const struct vm_spaces *from)
{
	s->answered = true;
	s->ndisks = 0;
	for (unsigned i = 0; i < VM_DISKS_MAX && from->images[i].id[0]; i++) {
		const struct vm_space_image *image = &from->images[i];
		struct vm_space_disk *d = &s->disks[s->ndisks++];

		if (strncmp(d->id, image->id, sizeof(d->id)) != 0)
			s->fills[i] = (struct space_fill){ 0 };
		*d = (struct vm_space_disk){ .capacity_bytes = image->capacity_bytes, .allocation_bytes = image->allocation_bytes,
			.physical_bytes = image->physical_bytes, .free_bytes = from->disks[i].free_bytes, .total_bytes = from->disks[i].total_bytes };
		memcpy(d->id, image->id, sizeof(d->id) - 1);
		utf8_clean(d->id);
		d->free_bytes = MIN(d->free_bytes, d->total_bytes);
		space_fill_add(&s->fills[i], d->free_bytes, d->total_bytes, clock_monotonic_ns());
	}
}

static void answer_take(struct vm *vm, const struct vm_spaces *from)
{
	if (memcmp(vm->space->devs, from->devs, sizeof(from->devs)) != 0) {
		memcpy(vm->space->devs, from->devs, sizeof(from->devs));
		vm->host->fs_spaces_more = true;
	}
	disks_take(vm->space, from);
	history_add(vm);
	low_check(vm);
	thresholds_take_space(vm, from);
}

const struct vm_space_disk *vm_space_of(const struct vm *vm, const char *id)
{
	const struct vm_space *s = vm->space;

	for (size_t i = 0; s && i < s->ndisks; i++)
		if (!strncmp(s->disks[i].id, id, sizeof(s->disks[i].id)))
			return &s->disks[i];
	return NULL;
}

/* ---- questions ---- */

static void space_answered(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;

	(void)e; /* unknown; asked again later */
	if (!vm->space)
		return;
	vm->space->asking = false;
	if (!r && a->spaces)
		answer_take(vm, a->spaces);
}

/* Return whether it is time to ask the process. bytes: that the guest has written since the last question. */
static bool is_due(const struct vm *vm, bool writes, uint64_t bytes, uint64_t ns)
{
	const struct vm_space *s = vm->space;
	uint64_t next_ns = space_fill_next_ns(&(struct space_fill){ 0 }), next_bytes = UINT64_MAX;

	if (!s->asked_ns)
		return writes || s->wanted || s->stale || vm->live_changes != s->live_changes;
	if (s->wanted && ns >= WANTED_NS)
		return true;
	if (!writes && !s->stale && !s->ask_again && vm->live_changes == s->live_changes)
		return s->fill_low && ns >= LOW_NS;
	for (size_t i = 0; i < s->ndisks && writes; i++) {
		next_ns = MIN(next_ns, space_fill_next_ns(&s->fills[i]));
		next_bytes = MIN(next_bytes, space_fill_next_bytes(&s->fills[i]));
	}
	return ns >= next_ns || bytes >= next_bytes;
}

void vm_space_update(struct vm *vm, const struct vm_sums *sums, uint64_t now_ns)
{
	bool wanted = thresholds_want_space(vm), is_new, writes;
	struct vm_space *s = vm->space;

	if (!s && !sums->wr_reqs && !wanted && !vm->live_changes)
		return;
	s = space_of(vm);
	is_new = wanted && !s->wanted;
	if (s->asking)
		return;
	s->wanted = wanted;
	writes = sums->wr_reqs != s->writes;
	if (!is_new && !is_due(vm, writes, sums->wr_bytes - MIN(s->bytes, sums->wr_bytes), now_ns - s->asked_ns))
		return;
	s->asking = true;
	s->stale = false;
	s->ask_again = writes;
	s->asked_ns = now_ns;
	s->writes = sums->wr_reqs;
	s->bytes = sums->wr_bytes;
	s->live_changes = vm->live_changes;
	vm_process_request(vm->proc, VM_MSG_SPACE, NULL, 0, -1, ASK_TIMEOUT_NS, space_answered, vm);
}

struct fetch {
	struct vm *vm;
	void (*done)(void *opaque);
	void *opaque;
};

static void fetch_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct fetch *f = opaque;

	(void)e;
	if (f->vm->space && !r && a->spaces)
		answer_take(f->vm, a->spaces);
	else if (f->vm->space)
		f->vm->space->silent = true;
	f->done(f->opaque);
	free(f);
}

void vm_space_fetch(struct vm *vm, void (*done)(void *opaque), void *opaque)
{
	struct fetch *f;

	if (!vm->proc || !vm_state_is_active(vm->state) || space_of(vm)->answered || vm->space->silent) {
		done(opaque);
		return;
	}
	f = must_alloc(calloc(1, sizeof(*f)));
	*f = (struct fetch){ vm, done, opaque };
	vm->space->asked_ns = clock_monotonic_ns();
	vm->space->live_changes = vm->live_changes;
	vm_process_request(vm->proc, VM_MSG_SPACE, NULL, 0, -1, FETCH_TIMEOUT_NS, fetch_done, f);
}

/* ---- a VM's life ---- */

/* A VM without disks needs no memory for them. */
static void space_on_started(struct vm *vm)
{
	if (!vm->space && !vm_live(vm)->ndisks)
		return;
	space_of(vm)->live_changes = vm->live_changes;
	vm->host->fs_spaces_more = true;
}

/* The daemon has not opened the images. */
static void space_on_adopted(struct vm *vm, const struct vm_info *info)
{
	(void)info;
	space_of(vm)->stale = true;
}

/* The guest's counters do not include a job's changes of the images. */
static void space_on_changed(struct vm *vm)
{
	if (vm->space)
		vm->space->stale = true;
}

static void space_on_job_concluded(struct vm_host *host, const char *name)
{
	struct vm *vm = vm_find(host, name);

	if (vm)
		space_on_changed(vm);
}

static void space_on_process_gone(struct vm *vm)
{
	struct vm_space *s = vm->space;

	if (!s)
		return;
	if (s->unstored)
		history_store(vm);
	*s = (struct vm_space){ .events = s->events, .history = s->history, .store_ns = s->store_ns };
}

static void space_on_removed(struct vm *vm)
{
	if (vm->space)
		free(vm->space->history);
	free(vm->space);
	vm->space = NULL;
}

const struct vm_observer vm_space_observer = { .started = space_on_started, .adopted = space_on_adopted, .removed = space_on_removed, .process_gone = space_on_process_gone,
	.job_concluded = space_on_job_concluded };
