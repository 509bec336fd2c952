#include "vmm/snapshot/fork_disks.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "block/block.h"
#include "block/qcow2/pin.h"
#include "block/qcow2/qcow2.h"
#include "vmm/machine/machine_disk.h"
#include "vmm/snapshot/disk_flatten.h"
#include "vmm/snapshot/image_copy.h"
#include "vmm/snapshot/vm_snapshot_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* Minimum refcount order for a snapshot of shared clusters; narrower refcounts overflow. */
#define REFCOUNT_ORDER_MIN 3u
/* Threads that flush the clones' files, besides the worker, and how many files are worth a thread. */
#define SYNC_THREADS 7u
#define SYNC_FILES_EACH 4u

_Static_assert(VM_PIN_ID_BYTES == BLOCK_PIN_ID_BYTES, "the daemon draws the engine's ids");

/* ---- progress of the fork ---- */

void fork_progress_next(struct fork_progress *p, uint64_t part)
{
	p->base += p->part;
	p->part = part;
}

int fork_progress_step(void *opaque, uint64_t done, uint64_t total)
{
	struct fork_progress *p = opaque;

	(void)total;
	return vm_work_step(p->vm, MIN(p->base + MIN(done, p->part), p->total), p->total);
}

/* ---- checking the disks, and choosing how each is copied ---- */

/* Check that the file is the image that this disk has open: the daemon opened it by its path, which
 * may name another file by now. */
static int image_check(struct fork_disk *x, struct err *e)
{
	const struct machine_disk *d = x->disk;
	struct stat st;

	if (fstat(x->image, &st) < 0)
		return err_set_errno(e, -errno, "disk %s", d->id);
	if (st.st_dev != d->image_dev || st.st_ino != d->image_ino)
		return err_set(e, -EINVAL, ERR_INVALID,
			"disk %s: the running VM uses another image than its definition names; "
			"restore the definition or restart the VM", d->id);
	x->bytes = (uint64_t)st.st_blocks * 512;
	return 0;
}

int fork_disks_check(struct fork_disks *d, struct machine *m, struct err *e)
{
	unsigned at = 0;
	int r = 0;

	d->n = 0;
	for (unsigned i = 0; i < m->ndisks; i++) {
		if (!vmsnap_disk_takes_part(m, i))
			continue;
		d->list[d->n] = (struct fork_disk){ .disk = &m->disks[i], .pin = &d->pins[d->n], .flat = d->flatten >> d->n & 1,
			.is_qcow2 = m->cfg.disks[i].format[0] == BLOCK_FORMAT_QCOW2,
			.earlier = bytes_are_zero(d->earlier[d->n], VM_PIN_ID_BYTES) ? NULL : d->earlier[d->n] };
		d->n++;
	}
	if (d->nfds != d->n * (1 + (uint64_t)d->copies) || (d->n && !d->copies))
		return err_set(e, -EINVAL, ERR_INVALID,
			"the running VM has other disks than its definition; restore the definition "
			"or restart the VM");
	for (unsigned i = 0; i < d->n && !r; i++, at += 1 + d->copies) {
		d->list[i].image = d->fds[at];
		d->list[i].copies = d->fds + at + 1;
		r = image_check(&d->list[i], e);
	}
	return r;
}

/* Return whether the copy can share this file's blocks, by trying with the first block. */
static bool can_share(const struct fork_disk *x)
{
	struct stat st;
	struct file_clone_range range = { .src_fd = x->image };

	if (fstat(x->image, &st) < 0 || st.st_size < st.st_blksize)
		return false;
	range.src_length = (uint64_t)st.st_blksize;
	return ioctl(x->copies[0], FICLONERANGE, &range) == 0;
}

static bool is_frozen(const struct fork_disk *x)
{
	return x->way == FORK_DISK_FREEZE || x->way == FORK_DISK_PIN;
}

/* Whether the image can hold a hidden snapshot. Ask the engine, because reading the header from the file takes as
 * long as the fork's pause: a file that is open with O_DIRECT is not in the page cache. */
static bool can_freeze(const struct fork_disk *x)
{
	struct block_info info;

	block_info(x->disk->block, &info);
	return x->is_qcow2 && info.refcount_order >= REFCOUNT_ORDER_MIN && !info.data_file;
}

/* Fail if the clones must be isolated and the disk reads another VM's image, but the daemon did not ask for a flat
 * copy. A pull may have changed the file's header since the engine opened the image. */
static int isolation_check(const struct fork_disks *d, const struct fork_disk *x, struct err *e)
{
	struct qcow2_header h = { 0 };
	int r = x->is_qcow2 && (d->flatten & VM_FORK_ISOLATED) ? qcow2_header_read(x->image, x->disk->id, &h, e) : 0;

	/* The daemon asks for flat copies of the overlays in its list of pins. */
	if (!r && h.has_pin && !x->flat)
		r = err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk %s reads the image of another VM, and the daemon's list of pins "
			"lacks it, so its clones cannot be isolated; shut the VM down and use cairn clone --full", x->disk->id);
	return r;
}

/* Use the pin of an earlier fork if it has the disk's content. Returns whether it has. */
static bool pin_share(struct fork_disk *x)
{
	x->shares = x->way == FORK_DISK_PIN && x->earlier && disk_pin_is_current(x->disk, x->earlier, &x->shared);
	return x->shares;
}

static int disk_prepare(struct fork_disks *d, struct fork_disk *x, struct err *e)
{
	bool freezes = can_freeze(x);
	int r = isolation_check(d, x, e);

	if (!r && x->flat && !freezes)
		r = err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk %s reads the image of another VM, and its image can hold no "
			"hidden snapshot, so its clones cannot be isolated; use cairn blockpull first", x->disk->id);
	if (r < 0)
		return r;
	if (x->flat)
		x->way = FORK_DISK_FREEZE;
	else if (x->pin->path[0] && freezes)
		x->way = FORK_DISK_PIN;
	else if (can_share(x))
		x->way = FORK_DISK_SHARE;
	else
		x->way = freezes ? FORK_DISK_FREEZE : FORK_DISK_STAND;
	if (x->way == FORK_DISK_SHARE || x->way == FORK_DISK_PIN)
		x->bytes = 0;
	d->progress->total += x->bytes * d->copies;
	if (pin_share(x))
		return 0;
	/* Open the snapshot, or flush, now, so that little is left to write in the pause and after it. */
	return is_frozen(x) ? disk_snapshot_open(x->disk, &x->frozen, e) : disk_flush(x->disk, e);
}

int fork_disks_prepare(struct fork_disks *d, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < d->n && !r; i++)
		r = disk_prepare(d, &d->list[i], e);
	return r;
}

/* ---- copying whole files ---- */

/* Scale progress from the file's length to its approximate amount of data. */
static int file_step(void *opaque, uint64_t done, uint64_t total)
{
	struct fork_progress *p = opaque;

	return fork_progress_step(p, (uint64_t)((double)p->part * (double)done / (double)MAX(total, 1u)), p->part);
}

static int file_copy(struct fork_disks *d, int source, int copy, struct err *e)
{
	return image_copy(source, copy, file_step, d->progress, e);
}

/* ---- work in the pause ---- */

static int disk_freeze(struct fork_disks *d, struct fork_disk *x, struct err *e)
{
	int r;

	if (x->shares && pin_share(x))
		return 0;
	if (is_frozen(x)) /* without a snapshot that is open, the guest has written since fork_disks_prepare() */
		return x->frozen ? disk_snapshot_freeze(x->disk, x->frozen, e) : disk_snapshot_begin(x->disk, &x->frozen, e);
	r = disk_flush(x->disk, e);
	if (r < 0)
		return r;
	fork_progress_next(d->progress, x->bytes);
	return file_copy(d, x->image, x->copies[0], e);
}

int fork_disks_freeze(struct fork_disks *d, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < d->n && !r; i++)
		r = disk_freeze(d, &d->list[i], e);
	return r;
}

/* ---- hidden snapshots, which hold the frozen content ---- */

static int set_new(const struct machine *m, struct tree_set *set, char name[BLOCK_SNAPSHOT_NAME_MAX + 1],
	struct err *e)
{
	uint64_t id;

	memcpy(set->vm, m->cfg.uuid, sizeof(set->vm));
	if (getrandom(set->id, sizeof(set->id), 0) != sizeof(set->id))
		return err_set_errno(e, -errno, "getrandom");
	memcpy(&id, set->id, sizeof(id));
	snprintf(name, BLOCK_SNAPSHOT_NAME_MAX + 1, "cairn-fork-%016llx", (unsigned long long)id);
	return 0;
}

/* A pin has a mark of its own (qcow2_pin_mark()), so recovery keeps the pin; the daemon deletes it together with the
 * clones that are not complete. */
void fork_disks_commit(struct fork_disks *d)
{
	uint64_t now = clock_realtime_ns();

	for (unsigned i = 0; i < d->n; i++) {
		struct fork_disk *x = &d->list[i];

		if (!x->frozen || x->way != FORK_DISK_PIN)
			continue;
		x->info.sec = (uint32_t)(now / 1000000000ULL);
		qcow2_pin_mark(&x->info, x->pin->id);
		disk_commit_start(x->disk, STEAL_PTR(x->frozen), &x->info, &x->commit);
		x->committing = true;
	}
}

/* Pass tables on to the clones. The pin has its place, so all tables have been counted and most of them are in memory;
 * the disk's thread waits for the pin's syncs meanwhile. */
static void warm_start(struct fork_disks *d, struct fork_disk *x, const struct machine *m)
{
	x->warming = machine_disk_warm_at((unsigned)(x->disk - m->disks), &x->warm.at);
	if (!x->warming)
		return;
	x->warm.id = x->shares ? x->shared.id : x->pin->id;
	x->warm.fd = d->state_fd;
	disk_warm_start(x->disk, &x->warm);
}

/* Wait until the warm tables are in the state file. */
static void warm_wait(struct fork_disks *d)
{
	for (unsigned i = 0; i < d->n; i++)
		if (d->list[i].warming)
			disk_warm_wait(&d->list[i].warm);
	for (unsigned i = 0; i < d->n; i++)
		d->list[i].warming = false;
}

/* Wait for the end of the pins' commits. Returns r, or -errno. */
static int pins_wait(struct fork_disks *d, int r, struct err *e)
{
	struct err own;

	for (unsigned i = 0; i < d->n; i++) {
		struct fork_disk *x = &d->list[i];
		int w = x->committing ? disk_commit_wait(&x->commit, x->id, &own) : 0;

		x->committing = false;
		if (w < 0 && !r) {
			*e = own;
			r = w;
		}
	}
	return r;
}

/* Commit the hidden snapshots. Mark the first disk's snapshot as being deleted and the other disks' as being created:
 * after a crash, recovery deletes the snapshots with either mark. */
static int frozen_commit(struct fork_disks *d, struct machine *m, struct err *e)
{
	const struct machine_disk *first = vmsnap_first_disk(m, NULL);
	uint64_t now = clock_realtime_ns();
	struct tree_data data = { .state = TREE_SHUTOFF };
	struct block_snapshot_info temporary = { 0 };
	int r = set_new(m, &data.set, temporary.name, e);

	for (unsigned i = 0; i < d->n && !r; i++) {
		struct block_snapshot_info info = temporary;
		struct fork_disk *x = &d->list[i];

		if (!x->frozen)
			continue;
		info.sec = (uint32_t)(now / 1000000000ULL);
		data.set.mark = x->disk == first ? TREE_DELETING : TREE_MAKING;
		tree_encode(&data, &info);
		r = disk_snapshot_commit(x->disk, STEAL_PTR(x->frozen), &info, x->id, e);
	}
	return r;
}

/* Abort the hidden snapshots that were not committed, and delete the others.
 * failed: delete the pins, too. */
static void frozen_release(struct fork_disks *d, bool failed)
{
	struct err e = { 0 };

	for (unsigned i = 0; i < d->n; i++) {
		struct fork_disk *x = &d->list[i];
		bool goes = x->way == FORK_DISK_FREEZE || (failed && x->way == FORK_DISK_PIN);
		int r = x->frozen ? disk_snapshot_abort(x->disk, STEAL_PTR(x->frozen), &e) : 0;

		if (!r && goes && x->id[0])
			r = disk_snapshot_delete(x->disk, x->id, &e);
		if (r < 0)
			log_warn(x->disk->id, "cannot delete the fork's temporary snapshot: %s; it is deleted later", e.msg);
	}
}

/* ---- work after the pause ---- */

static int first_copy(struct fork_disks *d, struct fork_disk *x, bool cloned, struct err *e)
{
	struct qcow2_copy c = { .from = x->image, .to = x->copies[0], .cloned = cloned,
		.snapshot = x->id[0] ? x->id : NULL, .step = fork_progress_step, .opaque = d->progress };
	struct disk_flatten f = { .disk = x->disk, .image = x->image, .snapshot = x->id, .to = x->copies[0],
		.step = file_step, .opaque = d->progress };
	int r = x->flat ? disk_flatten(&f, e) : qcow2_copy(&c, e);

	return r < 0 ? (err_prefix(e, "disk %s", x->disk->id), r) : 0;
}

/* Remove the snapshots from a copy of the whole file: they hold the source VM's memory, and a clone
 * has no use for them. */
static int snapshots_drop(struct fork_disks *d, struct fork_disk *x, struct err *e)
{
	struct qcow2_header h;
	int r = x->is_qcow2 ? qcow2_header_read(x->copies[0], x->disk->id, &h, e) : 0;

	if (r < 0 || !x->is_qcow2 || !h.nb_snapshots || (h.incompatible & QCOW2_INCOMPAT_DATA_FILE))
		return r;
	return first_copy(d, x, true, e);
}

struct syncing {
	const int *fds;
	unsigned n;
	atomic_uint next;
	atomic_int res;
};

static void *sync_main(void *opaque)
{
	struct syncing *s = opaque;
	unsigned k;

	while (!atomic_load(&s->res) && (k = atomic_fetch_add(&s->next, 1)) < s->n)
		if (fdatasync(s->fds[k]) < 0)
			atomic_store(&s->res, -errno);
	return NULL;
}

/* Start writing the clones' files to stable storage, all of them before copies_sync() waits for the first, so that one
 * commit of the file system's journal serves them all. */
static void copies_sync_start(const struct fork_disks *d, const struct fork_disk *x)
{
	for (unsigned k = 0; k < d->copies; k++)
		(void)sync_file_range(x->copies[k], 0, 0, SYNC_FILE_RANGE_WRITE);
}

/* Flush the clones' files to stable storage. Threads wait for several files at a time, because each wait ends with a
 * flush of the device's cache, and the kernel merges flushes that wait. */
static int copies_sync(const struct fork_disks *d, const struct fork_disk *x, struct err *e)
{
	struct syncing s = { .fds = x->copies, .n = d->copies };
	pthread_t threads[SYNC_THREADS];
	unsigned n = 0;
	int r;

	while (n < MIN(d->copies / SYNC_FILES_EACH, SYNC_THREADS) && !pthread_create(&threads[n], NULL, sync_main, &s))
		n++;
	sync_main(&s);
	while (n)
		pthread_join(threads[--n], NULL);
	r = atomic_load(&s.res);
	return r < 0 ? err_set_errno(e, r, "cannot write a clone's disk") : 0;
}

static int overlays_write(struct fork_disks *d, struct fork_disk *x, const struct qcow2_pin *pin, struct err *e)
{
	return qcow2_pin_overlays(x->copies, d->copies, pin, x->pin->path, e);
}

static int copies_spread(struct fork_disks *d, struct fork_disk *x, struct err *e)
{
	int r = 0;

	for (unsigned k = 0; k < d->copies && !r; k++) {
		if (k) {
			fork_progress_next(d->progress, x->bytes);
			r = file_copy(d, x->copies[0], x->copies[k], e);
		}
	}
	return r;
}

/* *ret_placed: set to false if a pin's commit has failed; pins_wait() then returns the error. */
static int disk_make(struct fork_disks *d, struct fork_disk *x, const struct machine *m, bool *ret_placed, struct err *e)
{
	struct qcow2_pin pin;
	int r;

	if (x->way == FORK_DISK_PIN) {
		if (x->shares || disk_commit_place(&x->commit, &pin)) {
			warm_start(d, x, m);
			return overlays_write(d, x, x->shares ? &x->shared : &pin, e);
		}
		*ret_placed = false;
		return 0;
	}
	if (x->way == FORK_DISK_FREEZE) {
		fork_progress_next(d->progress, x->bytes);
		r = first_copy(d, x, false, e);
	} else {
		r = snapshots_drop(d, x, e);
	}
	return r < 0 ? r : copies_spread(d, x, e);
}

int fork_disks_make(struct fork_disks *d, struct machine *m, struct err *e)
{
	bool frozen = false, placed = true;
	int r = 0;

	for (unsigned i = 0; i < d->n; i++)
		frozen |= d->list[i].frozen != NULL;
	if (frozen)
		r = frozen_commit(d, m, e);
	for (unsigned i = 0; i < d->n && !r; i++) {
		r = disk_make(d, &d->list[i], m, &placed, e);
		copies_sync_start(d, &d->list[i]);
	}
	warm_wait(d);
	/* The clones open the pins when this function has returned. */
	for (unsigned i = 0; i < d->n && !r && placed; i++)
		placed = !d->list[i].committing || disk_commit_readable(&d->list[i].commit);
	return r < 0 || placed ? r : pins_wait(d, 0, e);
}

bool fork_disks_are_as_asked(const struct fork_disks *d)
{
	for (unsigned i = 0; i < d->n; i++)
		if (d->list[i].pin->path[0] && d->list[i].way != FORK_DISK_PIN)
			return false;
	return true;
}

int fork_disks_sync(struct fork_disks *d, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < d->n && !r; i++)
		r = copies_sync(d, &d->list[i], e);
	for (unsigned i = 0; i < d->n && !r; i++)
		if (d->list[i].committing && !disk_commit_stands(&d->list[i].commit))
			r = pins_wait(d, 0, e);
	return r;
}

bool fork_disks_are_finished(const struct fork_disks *d)
{
	for (unsigned i = 0; i < d->n; i++)
		if (!d->list[i].shares || d->list[i].frozen)
			return false;
	return true;
}

int fork_disks_finish(struct fork_disks *d, bool used, int r, struct err *e)
{
	r = pins_wait(d, r, e);
	frozen_release(d, r < 0 && !used);
	return r;
}

void fork_disks_describe(const struct fork_disks *d, uint8_t *made)
{
	for (unsigned i = 0; i < d->n; i++)
		made[i] = d->list[i].shares ? VM_MADE_SHARED : d->list[i].way == FORK_DISK_PIN ? VM_MADE_OVERLAY :
			d->list[i].flat ? VM_MADE_FLAT : VM_MADE_COPY;
}

/* ---- clones of an existing snapshot ---- */

int fork_disks_of_snapshot_prepare(struct fork_disks *d, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < d->n && !r; i++) {
		struct fork_disk *x = &d->list[i];

		r = isolation_check(d, x, e);
		x->way = x->pin->path[0] && can_freeze(x) ? FORK_DISK_PIN : FORK_DISK_SHARE;
		if (x->way == FORK_DISK_PIN)
			x->bytes = 0;
		d->progress->total += x->bytes * d->copies;
	}
	return r;
}

/* Use the pin of an earlier fork if it has the snapshot's content. An earlier process may have ended before it made the
 * pin durable. */
static bool snapshot_pin_share(struct fork_disk *x)
{
	struct block_layer layers[BLOCK_LAYERS_MAX];
	struct err ignored;

	block_layers(x->disk->block, layers);
	x->shares = x->earlier && !qcow2_pin_of_snapshot(layers[0].fd, x->disk->id, x->earlier, x->id, &x->shared, &ignored) &&
		!fdatasync(x->image);
	return x->shares;
}

static int snapshot_pin(struct fork_disks *d, struct fork_disk *x, struct err *e)
{
	struct qcow2_pin pin;
	int r;

	if (snapshot_pin_share(x))
		return overlays_write(d, x, &x->shared, e);
	r = disk_pin_snapshot(x->disk, x->id, x->pin->id, e);
	if (!r)
		r = qcow2_pin_read(x->image, x->disk->id, x->pin->id, &pin, e);
	return r < 0 ? r : overlays_write(d, x, &pin, e);
}

static int snapshot_copy(struct fork_disks *d, struct fork_disk *x, struct err *e)
{
	bool cloned = !x->flat && ioctl(x->copies[0], FICLONE, x->image) == 0;
	int r;

	fork_progress_next(d->progress, x->bytes);
	r = first_copy(d, x, cloned, e);
	return r ? r : copies_spread(d, x, e);
}

/* Delete the pins that were made, after an error. */
static void snapshot_pins_drop(struct fork_disks *d)
{
	struct err e = { 0 };

	for (unsigned i = 0; i < d->n; i++) {
		struct fork_disk *x = &d->list[i];
		int r = x->way == FORK_DISK_PIN && !x->shares ? disk_pin_delete(x->disk, x->pin->id, &e) : 0;

		if (r < 0 && r != -ENOENT)
			log_warn(x->disk->id, "cannot delete the fork's pin: %s; it is deleted later", e.msg);
	}
}

int fork_disks_of_snapshot(struct fork_disks *d, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < d->n && !r; i++) {
		struct fork_disk *x = &d->list[i];

		r = x->way == FORK_DISK_PIN ? snapshot_pin(d, x, e) : snapshot_copy(d, x, e);
		copies_sync_start(d, x);
		if (!r)
			r = copies_sync(d, x, e);
	}
	if (r < 0)
		snapshot_pins_drop(d);
	return r;
}

void fork_disks_done(struct fork_disks *d)
{
	while (d->nfds)
		close(d->fds[--d->nfds]);
}
