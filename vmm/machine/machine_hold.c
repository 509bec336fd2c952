#include "vmm/machine/machine_hold.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "block/block.h"
#include "block/mirror.h"
#include "vmm/machine/disk_call.h"
#include "vmm/machine/machine.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>

/* How long the guest's requests may wait for those in flight before the caller gives up. */
#define HOLD_NS (10 * 1000000000ULL)

/* On the heap: a disk's thread that waits for its file system runs the tasks late, when the caller has given up. */
struct hold {
	struct loop_task hold, release;
	struct machine_disk *disk;
	atomic_bool held;
};

static void held(void *opaque)
{
	atomic_store((atomic_bool *)opaque, true);
}

static void hold_run(struct loop_task *t)
{
	struct hold *x = container_of(t, struct hold, hold);

	block_mirror_hold(x->disk->mirror, held, &x->held);
}

static void give_up_run(struct loop_task *t)
{
	struct hold *x = container_of(t, struct hold, release);

	block_mirror_release(x->disk->mirror);
	free(x);
}

int machine_disk_hold(struct machine_disk *d, struct err *e)
{
	struct hold *x = calloc(1, sizeof(*x));
	uint64_t end = loop_now_ns() + HOLD_NS;

	if (!x)
		return err_set_errno(e, -ENOMEM, "disk %s", d->id);
	*x = (struct hold){ .hold.run = hold_run, .release.run = give_up_run, .disk = d };
	loop_post(d->loop, &x->hold);
	while (!atomic_load(&x->held) && loop_now_ns() < end)
		poll(NULL, 0, 1);
	if (atomic_load(&x->held)) {
		free(x);
		return 0;
	}
	loop_post(d->loop, &x->release);
	return err_set(e, -ETIMEDOUT, ERR_TIMEOUT, "requests to disk %s take longer than %llu s, because the file system of its image or of the "
		"copy does not answer; try again when it does", d->id, HOLD_NS / 1000000000);
}

static void release_run(struct disk_call *c, struct block *b)
{
	(void)b;
	block_mirror_release(c->disk->mirror);
	disk_call_return(c, 0, NULL);
}

void machine_disk_release(struct machine_disk *d)
{
	struct disk_call release = { .run = release_run };

	disk_call(d, &release, NULL);
}

static void gate_run(struct disk_call *c, struct block *b)
{
	disk_call_return(c, block_mirror_new(b, NULL, &c->disk->mirror, &c->e), NULL);
}

static void gate_end_run(struct disk_call *c, struct block *b)
{
	block_mirror_submit(block_mirror_end(STEAL_PTR(c->disk->mirror)), b);
	disk_call_return(c, 0, NULL);
}

int machine_disk_gate(struct machine_disk *d, struct err *e)
{
	struct disk_call gate = { .run = gate_run };
	int r = disk_call(d, &gate, e);

	if (r < 0)
		return r;
	r = machine_disk_hold(d, e);
	if (r < 0)
		machine_disk_gate_end(d);
	return r;
}

void machine_disk_gate_end(struct machine_disk *d)
{
	struct disk_call end = { .run = gate_end_run };

	disk_call(d, &end, NULL);
}

/* ---- disks that are held until the main thread gives them other images ---- */

void machine_held_begin(struct machine *m)
{
	LOCK_GUARD(&m->held_disks.lock);
	m->held_disks.begun = true;
}

void machine_held_end(struct machine *m, machine_release_fn *release, void *what, unsigned n)
{
	struct machine_held *h = &m->held_disks;

	LOCK_GUARD(&h->lock);
	h->begun = false;
	h->release = release;
	h->what = what;
	h->n = n;
	pthread_cond_signal(&h->cond);
}

void machine_held_lock(struct machine *m)
{
	struct machine_held *h = &m->held_disks;

	pthread_mutex_lock(&h->lock);
	while (h->begun)
		pthread_cond_wait(&h->cond, &h->lock);
	if (h->release)
		h->release(m, h->what, h->n);
	h->release = NULL;
}

void machine_held_unlock(struct machine *m)
{
	pthread_mutex_unlock(&m->held_disks.lock);
}

void machine_held_release(struct machine *m)
{
	machine_held_lock(m);
	machine_held_unlock(m);
}
