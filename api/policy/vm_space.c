#include "api/policy/vm_space.h"
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

#include <stdlib.h>
#include <string.h>

#define ASK_TIMEOUT_NS (30 * CLOCK_NS_PER_S)
#define FETCH_TIMEOUT_NS (1 * CLOCK_NS_PER_S)
/* Time between two questions of a VM that does not write, while space is low. */
#define LOW_NS (30 * CLOCK_NS_PER_S)
/* The same, while the VM has a threshold of disk-space. */
#define WANTED_NS (60 * CLOCK_NS_PER_S)
#define STORE_NS (3600 * CLOCK_NS_PER_S)
#define FILE_NAME "space.json"
#define EVENTS_BURST 10
#define EVENTS_WINDOW_NS (3600 * CLOCK_NS_PER_S)

struct vm_space {
	struct vm_space_disk disks[VM_DISKS_MAX];
	size_t ndisks;
	bool answered; /* in this run */
	bool silent; /* has not answered vm_space_fetch() */
	bool asking; /* vm_space_look() waits for an answer */
	bool stale;  /* ask again, whether the guest writes or not: a job has changed the images */
	bool unsettled; /* ask again, since the image's tables are written later than the guest's data */
	bool wanted; /* the VM had a threshold of disk-space at the last sample */
	uint64_t live_changes; /* of the VM, when the process was asked last */
	uint64_t asked_ns; /* CLOCK_MONOTONIC; 0: not in this run */
	uint64_t writes, bytes; /* of the guest, when the process was asked last */
	struct space_fill fills[VM_DISKS_MAX]; /* of the disks' file systems */
	bool low; /* as told */
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

/* Return the disk whose file system has the smallest part free; NULL: none is known. */
static const struct vm_space_disk *fullest(const struct vm_space *s)
{
	const struct vm_space_disk *ret = NULL;

	for (size_t i = 0; i < s->ndisks; i++) {
		const struct vm_space_disk *d = &s->disks[i];

		if (s->fills[i].total_bytes && (!ret || (double)d->free_bytes / (double)d->total_bytes < (double)ret->free_bytes / (double)ret->total_bytes))
			ret = d;
	}
	return ret;
}

static void low_tell(struct vm *vm, const struct vm_space_disk *d)
{
	struct vm_space *s = vm->space;
	double seconds = space_fill_seconds_left(&s->fills[d - s->disks]);
	struct json_object *data;
	uint64_t left_out;

	if (!ratelimit_take_of(&s->events, EVENTS_BURST, EVENTS_WINDOW_NS, clock_monotonic_ns(), &left_out))
		return;
	data = json_object_new_object();
	js_put_str(data, "device", d->id);
	js_put_str(data, "state", s->low ? "low" : "enough");
	js_put_uint(data, "free", d->free_bytes);
	js_put_uint(data, "total", d->total_bytes);
	if (s->low && seconds >= 0 && seconds < 86400)
		js_put_uint(data, "seconds-left", (uint64_t)seconds);
	if (left_out)
		js_put_uint(data, "left-out", left_out);
	vm_emit(vm, EVENT_DISK_SPACE, data);
	if (s->low)
		log_warn("space", "VM '%s': the file system of disk %s has little space: %llu of %llu MiB are free", vm->def->name, d->id,
			(unsigned long long)(d->free_bytes >> 20), (unsigned long long)(d->total_bytes >> 20));
}

static void low_look(struct vm *vm)
{
	const struct vm_space_disk *d = fullest(vm->space);
	struct vm_space *s = vm->space;
	bool low = false;

	for (size_t i = 0; i < s->ndisks; i++)
		low |= s->fills[i].low;
	if (low == s->low || !d)
		return;
	s->low = low;
	low_tell(vm, d);
}

/* ---- growth ---- */

static void history_keep(struct vm *vm)
{
	CLEANUP_JS struct json_object *o = json_object_new_object();

	js_put(o, "points", pool_history_to_json(vm->space->history));
	store_put(vm->host->store, vm->def->name, FILE_NAME, o, STORE_EVENTUALLY, NULL, NULL);
	vm->space->store_ns = clock_monotonic_ns() + STORE_NS;
	vm->space->unstored = false;
}

/* Note what all images that the VM writes take. */
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
		history_keep(vm);
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
	disks_take(vm->space, from);
	history_add(vm);
	low_look(vm);
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

static void look_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm *vm = opaque;

	(void)e; /* unknown; asked again later */
	if (!vm->space)
		return;
	vm->space->asking = false;
	if (!r && a->spaces)
		answer_take(vm, a->spaces);
}

/* Whether it is time to ask the process. bytes: that the guest has written since the last question. */
static bool is_due(const struct vm *vm, bool writes, uint64_t bytes, uint64_t ns)
{
	const struct vm_space *s = vm->space;
	uint64_t next_ns = space_fill_next_ns(&(struct space_fill){ 0 }), next_bytes = UINT64_MAX;

	if (!s->asked_ns)
		return writes || s->wanted;
	if (s->wanted && ns >= WANTED_NS)
		return true;
	if (!writes && !s->stale && !s->unsettled && vm->live_changes == s->live_changes)
		return s->low && ns >= LOW_NS;
	for (size_t i = 0; i < s->ndisks && writes; i++) {
		next_ns = MIN(next_ns, space_fill_next_ns(&s->fills[i]));
		next_bytes = MIN(next_bytes, space_fill_next_bytes(&s->fills[i]));
	}
	return ns >= next_ns || bytes >= next_bytes;
}

void vm_space_look(struct vm *vm, const struct vm_sums *sums, uint64_t now_ns)
{
	bool wanted = thresholds_want_space(vm), is_new, writes;
	struct vm_space *s = vm->space;

	if (!s && !sums->wr_reqs && !wanted)
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
	s->unsettled = writes;
	s->asked_ns = now_ns;
	s->writes = sums->wr_reqs;
	s->bytes = sums->wr_bytes;
	s->live_changes = vm->live_changes;
	vm_process_request(vm->proc, VM_MSG_SPACE, NULL, 0, -1, ASK_TIMEOUT_NS, look_done, vm);
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

/* The guest's counters do not show what a job did to the images. */
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
		history_keep(vm);
	*s = (struct vm_space){ .events = s->events, .history = s->history, .store_ns = s->store_ns };
}

static void space_on_removed(struct vm *vm)
{
	if (vm->space)
		free(vm->space->history);
	free(vm->space);
	vm->space = NULL;
}

const struct vm_observer vm_space_observer = { .removed = space_on_removed, .process_gone = space_on_process_gone,
	.job_concluded = space_on_job_concluded };
