#include "vmm/machine/ram_load.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "devices/vmgenid.h"
#include "snapshot/fault_tracker.h"
#include "snapshot/ram_reader.h"
#include "snapshot/working_set.h"
#include "vmm/kvm/thread_filter.h"
#include "vmm/machine/close_aside.h"
#include "vmm/machine/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Limit of the old content that the tracker keeps during a save (fault_tracker_config.aside_max_bytes). */
#define ASIDE_MAX_BYTES (64 * MIB)
#define ASIDE_HARD_BYTES (192 * MIB)
#define PAGE_BYTES 4096u
/* Blocks that may be left to write-protect during the pause: 32 MiB take about 1 ms. */
#define LEFT_BLOCKS (32 * MIB / VMSTATE_BLOCK_BYTES)

/* Runs on the tracker's thread. Poison the vCPUs: none may use the zeros that replace the unreadable block. */
static void ram_reader_failed(void *opaque, const struct err *e)
{
	struct machine *m = opaque;

	vcpus_poison(&m->vcpus);
	m->listener.fault(m->listener.opaque, 0, VM_REASON_IO_ERROR, e->msg);
}

/* Runs on the tracker's thread when all memory is loaded or the tracker ends. The saved state's file uses disk
 * space while it is open, so close it, on another thread: closing takes the kernel a while, and faults would
 * wait. */
static void ram_reader_completed(void *opaque)
{
	struct machine *m = opaque;

	if (m->restored_from.fd >= 0 && close_aside(m->restored_from.fd))
		m->restored_from.fd = -1;
}

static bool thread_may_wait(void *opaque, int tid)
{
	struct machine *m = opaque;

	return vcpus_has_tid(&m->vcpus, tid);
}

static void tracker_thread_begin(void *opaque)
{
	struct machine *m = opaque;

	thread_filter_enter(&m->kvm, THREAD_TRACKER, NULL, -1);
}

static int fault_tracker_begin(struct machine *m, struct ram_reader *rd, struct err *e)
{
	struct fault_tracker_config c = { .uffd = &m->uffd, .ram = m->mem.host, .ram_bytes = m->mem.bytes,
		.ram_fd = m->mem.fd, .huge_pages = m->mem.advice == MADV_HUGEPAGE, .view = memory_view(&m->mem), .ram_reader = rd, .aside_max_bytes = ASIDE_MAX_BYTES,
		.aside_hard_bytes = ASIDE_HARD_BYTES, .written_at = vmgenid_gpa(m->cfg.firmware),
		.may_wait = thread_may_wait, .begin = tracker_thread_begin, .opaque = m };
	struct fault_tracker *t = NULL;
	int r = fault_tracker_new(&c, &t, e);

	if (!r)
		r = fault_tracker_start(t, e);
	if (r < 0)
		fault_tracker_free(t);
	else
		/* Threads of devices may run: they see it when it is complete. */
		__atomic_store_n(&m->tracker, t, __ATOMIC_RELEASE);
	return r;
}

/* Return the tracker, for threads of devices; NULL: there is none yet. */
static struct fault_tracker *tracker_seen(struct machine *m)
{
	return __atomic_load_n(&m->tracker, __ATOMIC_ACQUIRE);
}

static void page_touch(uint8_t *p, bool write)
{
	if (write)
		/* An atomic no-op, since the guest may write to the page as well. */
		__atomic_fetch_or(p, 0, __ATOMIC_RELAXED);
	else
		__atomic_load_n(p, __ATOMIC_RELAXED);
}

void ram_load_iov(struct machine *m, const struct iovec *iov, unsigned niov, bool write)
{
	struct fault_tracker *t = tracker_seen(m);

	if (!t || !fault_tracker_loads(t))
		return;
	fault_tracker_use(t, iov, niov);
	for (; niov; niov--, iov++) {
		uint8_t *p = iov->iov_base, *end = p + iov->iov_len;

		for (; p < end; p = (uint8_t *)ROUND_DOWN((uintptr_t)p + PAGE_BYTES, PAGE_BYTES))
			page_touch(p, write);
	}
}

bool ram_make_room(struct machine *m, const struct iovec *iov, unsigned niov, int wake_fd)
{
	struct fault_tracker *t = tracker_seen(m);

	if (!t || !fault_tracker_saves(t))
		return true;
	ram_load_iov(m, iov, niov, false); /* only memory that is present has content to copy */
	return fault_tracker_make_room(t, iov, niov, wake_fd);
}

static bool ram_can_watch(struct machine *m)
{
	const struct ram_view *view = memory_view(&m->mem);

	if (m->tracker || !m->uffd.can_protect || !view)
		return m->uffd.can_protect;
	if (fault_tracker_can_watch(&m->uffd, view))
		return true;
	log_warn(NULL, "this kernel cannot write-protect memory that a clone shares, so the VM is paused while its memory "
		"is copied; use Linux 5.19 or later");
	return false;
}

bool ram_give_back(struct machine *m, uint64_t off, uint64_t len, int wake_fd)
{
	struct fault_tracker *t = tracker_seen(m);
	int r;

	if (m->mem.huge_pages)
		return true; /* the definition's check refuses this */
	r = t ? fault_tracker_give_back(t, off, len, wake_fd) : memory_give_back(&m->mem, off, len);
	dirty_log_mark(&m->dirty_log, off, len);
	if (r < 0)
		log_guest("balloon0", "cannot give memory back: %s", strerror(-r));
	return r || !t;
}

enum ram_way ram_way(struct machine *m)
{
	if (ram_can_watch(m))
		return RAM_FAULTS;
	return m->dirty_log.blocks && !m->uffd.can_protect ? RAM_LOG : RAM_PAUSED;
}

static void watch_step(struct loop_task *task)
{
	struct machine *m = container_of(task, struct machine, watch_task);
	struct err e;
	int r;

	if (!m->tracker || !fault_tracker_is_arming(m->tracker))
		return; /* the memory was replaced, or ram_watch() has completed the work */
	r = fault_tracker_arm_step(m->tracker, &e);
	if (r > 0)
		loop_post(m->host.loop, task);
	else if (!r)
		log_info(NULL, "userfaultfd tracks memory again");
	else
		log_warn(NULL, "%s; the next snapshot tries again", e.msg);
}

void ram_watch_early(struct machine *m)
{
	struct err e;

	if (m->tracker || memory_view(&m->mem) || !m->uffd.can_protect)
		return;
	if (fault_tracker_begin(m, NULL, &e) < 0) {
		log_warn(NULL, "%s; the next snapshot tries again", e.msg);
		return;
	}
	fault_tracker_arm_begin(m->tracker);
	m->watch_task.run = watch_step;
	loop_post(m->host.loop, &m->watch_task);
}

int ram_watch(struct machine *m, struct err *e)
{
	int r = 0;

	if (m->tracker && fault_tracker_is_arming(m->tracker))
		r = fault_tracker_arm(m->tracker, e);
	if (m->tracker)
		return r < 0 ? r : fault_tracker_preprotect(m->tracker, LEFT_BLOCKS, e);
	r = fault_tracker_begin(m, NULL, e);
	if (!r)
		r = fault_tracker_arm(m->tracker, e);
	if (!r)
		r = fault_tracker_preprotect(m->tracker, LEFT_BLOCKS, e);
	if (r < 0) {
		fault_tracker_free(m->tracker);
		m->tracker = NULL;
	}
	return r;
}

static int ram_reader_begin(struct machine *m, struct vmstate_store *s, const struct vmstate_header *h,
	struct ram_reader **ret_p, struct err *e)
{
	struct ram_reader_config c = { .store = s, .header = *h, .failed = ram_reader_failed,
		.complete = ram_reader_completed, .opaque = m };

	if (m->working_sets_fd >= 0 && !m->working_sets_read)
		working_sets_read(&m->working_sets, m->working_sets_fd, h->layout.blocks);
	m->working_sets_read = true;
	c.first = working_sets_find(&m->working_sets, h->realtime_ns);
	return ram_reader_new(&c, ret_p, e);
}

void ram_working_set_keep(struct machine *m)
{
	const uint32_t *blocks;
	uint64_t key;
	uint32_t n;

	if (!m->ram_reader)
		return;
	blocks = ram_reader_working_set(m->ram_reader, &key, &n);
	working_sets_put(&m->working_sets, key, blocks, n);
	m->working_sets_changed = true;
}

void ram_working_sets_done(struct machine *m)
{
	int r = m->working_sets_fd >= 0 && m->working_sets_changed ? working_sets_write(&m->working_sets, m->working_sets_fd) : 0;

	if (r < 0)
		log_info(NULL, "cannot write the working sets of memory: %s", strerror(-r));
	working_sets_done(&m->working_sets);
	if (m->working_sets_fd >= 0)
		close(m->working_sets_fd);
}

int ram_wait(struct machine *m, struct err *e)
{
	if (m->tracker)
		fault_tracker_load_all(m->tracker);
	return !m->ram_reader || ram_reader_wait(m->ram_reader) ? 0
		: err_set(e, -EIO, ERR_IO, "part of the memory that this VM was restored from could not be read");
}

static int load_all(struct machine *m, struct vmstate_store *s, const struct vmstate_header *h, struct err *e)
{
	uint32_t *crcs = NULL;
	int r = vmstate_read_crcs(s, h, &crcs, e);

	for (uint64_t b = 0; b < h->layout.blocks && !r; b++)
		if (!vmstate_block_is_zero(&h->layout, crcs, b))
			r = vmstate_read_blocks(s, h, crcs, b, 1, m->mem.host + b * VMSTATE_BLOCK_BYTES, e);
	free(crcs);
	return r;
}

int ram_load(struct machine *m, struct vmstate_store *s, const struct vmstate_header *h, struct err *e)
{
	int r;

	if (m->uffd.fd < 0)
		return load_all(m, s, h, e);
	r = ram_reader_begin(m, s, h, &m->ram_reader, e);
	if (!r)
		r = fault_tracker_begin(m, m->ram_reader, e);
	return r;
}

int ram_rewind(struct machine *m, struct vmstate_store *s, const struct vmstate_header *h,
	const struct bitmap *changed, struct err *e)
{
	struct ram_reader *rd;
	int r = ram_reader_begin(m, s, h, &rd, e);

	if (r < 0)
		return r;
	r = fault_tracker_rewind(m->tracker, rd, changed, e);
	if (r < 0) {
		ram_reader_free(rd);
		return r;
	}
	ram_working_set_keep(m);
	ram_reader_free(m->ram_reader);
	m->ram_reader = rd;
	return 0;
}

int ram_reclaim_begin(struct machine *m, struct vmstate_store *s, const struct vmstate_header *h, struct err *e)
{
	struct ram_reader *rd;
	int r = ram_reader_begin(m, s, h, &rd, e);

	if (r < 0)
		return r;
	r = fault_tracker_reclaim_begin(m->tracker, rd, e);
	if (r < 0) {
		ram_reader_free(rd);
		return r;
	}
	ram_working_set_keep(m);
	ram_reader_free(m->ram_reader);
	m->ram_reader = rd;
	return 0;
}
