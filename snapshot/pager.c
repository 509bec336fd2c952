#include "snapshot/pager.h"
#include "base/bitmap.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "snapshot/uffd.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define FAULTS_AT_ONCE 16

struct pager {
	struct pager_config c;
	int uffd, stop_fd;
	pthread_t thread;
	bool thread_made;
	uint8_t *buf;		/* one block, page-aligned */
	struct bitmap loaded;	/* the thread's */
	uint64_t next;		/* the background reader's */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct pager_stats stats; /* under lock */
};

/* ---- blocks ---- */

static uint64_t block_count(const struct pager *p)
{
	return p->c.header.layout.blocks;
}

static struct uffdio_range block_range(const struct pager *p, uint64_t block)
{
	return (struct uffdio_range){ .start = (uintptr_t)p->c.ram + block * VMSTATE_BLOCK_BYTES,
		.len = vmstate_block_len(&p->c.header.layout, block) };
}

/* EEXIST: somebody was there first; EAGAIN: the address space changed under us, once more. */
static int copy_in(struct pager *p, uint64_t block)
{
	struct uffdio_range range = block_range(p, block);
	struct uffdio_copy copy = { .dst = range.start, .src = (uintptr_t)p->buf, .len = range.len };

	while (ioctl(p->uffd, UFFDIO_COPY, &copy) < 0) {
		if (errno != EAGAIN)
			return -errno;
		if (copy.copy > 0) {
			copy.dst += (uint64_t)copy.copy;
			copy.src += (uint64_t)copy.copy;
			copy.len -= (uint64_t)copy.copy;
		}
		copy.copy = 0;
	}
	return 0;
}

static int zeros_in(struct pager *p, uint64_t block)
{
	memset(p->buf, 0, VMSTATE_BLOCK_BYTES);
	return copy_in(p, block);
}

static void fail(struct pager *p, const struct err *e)
{
	bool first;

	pthread_mutex_lock(&p->lock);
	first = !p->stats.failed;
	p->stats.failed = true;
	pthread_mutex_unlock(&p->lock);
	if (first)
		p->c.failed(p->c.opaque, e);
}

static bool is_absent(const struct pager *p, uint64_t block)
{
	return vmstate_block_is_zero(&p->c.header.layout, p->c.crcs, block);
}

/* Put a block into memory. Blocks of zeros are put only when the guest asks. */
static void block_load(struct pager *p, uint64_t block, bool faulted)
{
	struct err e = { 0 };
	int r;

	bitmap_set(&p->loaded, block);
	if (is_absent(p, block)) {
		r = faulted ? zeros_in(p, block) : 0;
	} else {
		r = vmstate_read_block(p->c.store, &p->c.header, p->c.crcs, block, p->buf, &e);
		if (r < 0) {
			/* The vCPU that waits for it cannot be stopped before it has got something. */
			fail(p, &e);
			zeros_in(p, block);
			return;
		}
		r = copy_in(p, block);
		pthread_mutex_lock(&p->lock);
		p->stats.blocks_faulted += faulted;
		p->stats.blocks_prefetched += !faulted;
		pthread_mutex_unlock(&p->lock);
	}
	if (r < 0 && r != -EEXIST) {
		err_set_errno(&e, r, "cannot put a block of saved memory in place");
		fail(p, &e);
	}
}

/* ---- the thread ---- */

static void fault_handle(struct pager *p, uint64_t address)
{
	uint64_t off = address - (uintptr_t)p->c.ram, block = off / VMSTATE_BLOCK_BYTES;

	if (off >= p->c.header.layout.ram_bytes)
		return;
	if (bitmap_test(&p->loaded, block) && !is_absent(p, block)) {
		/* It came in between the fault and now: only wake. */
		struct uffdio_range range = block_range(p, block);

		ioctl(p->uffd, UFFDIO_WAKE, &range);
		return;
	}
	block_load(p, block, true);
}

static void faults_handle(struct pager *p)
{
	struct uffd_msg msgs[FAULTS_AT_ONCE];
	ssize_t n = read(p->uffd, msgs, sizeof(msgs));

	for (ssize_t i = 0; i < n / (ssize_t)sizeof(msgs[0]); i++)
		if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
			fault_handle(p, msgs[i].arg.pagefault.address);
}

/* One block of the background's. False: there are no more. */
static bool prefetch(struct pager *p)
{
	while (p->next < block_count(p) &&
		(bitmap_test(&p->loaded, p->next) || is_absent(p, p->next)))
		p->next++;
	if (p->next == block_count(p))
		return false;
	block_load(p, p->next++, false);
	return true;
}

static void complete(struct pager *p)
{
	struct uffdio_range range = { .start = (uintptr_t)p->c.ram,
		.len = p->c.header.layout.ram_bytes };

	/* From here on a missing page is what it is for any VM: zeros. */
	ioctl(p->uffd, UFFDIO_UNREGISTER, &range);
	pthread_mutex_lock(&p->lock);
	p->stats.complete = true;
	pthread_cond_broadcast(&p->cond);
	pthread_mutex_unlock(&p->lock);
}

static void *pager_thread(void *opaque)
{
	struct pager *p = opaque;
	struct pollfd fds[2] = { { .fd = p->uffd, .events = POLLIN },
		{ .fd = p->stop_fd, .events = POLLIN } };
	bool more = true;

	pthread_setname_np(pthread_self(), "pager");
	while (more) {
		/* Faults go first: somebody waits for them. */
		if (poll(fds, 2, 0) < 0 && errno != EINTR)
			break;
		if (fds[1].revents)
			break;
		if (fds[0].revents & POLLIN)
			faults_handle(p);
		else
			more = prefetch(p);
	}
	complete(p);
	return NULL;
}

/* ---- making and ending ---- */

int pager_new(const struct pager_config *c, const struct uffd *uffd, struct pager **ret_p,
	struct err *e)
{
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct pager *p = calloc(1, sizeof(*p));
	int r = 0;

	if (!p || bitmap_init(&p->loaded, c->header.layout.blocks) < 0 ||
		posix_memalign((void **)&p->buf, 4096, VMSTATE_BLOCK_BYTES)) {
		if (p)
			bitmap_done(&p->loaded);
		free(p);
		return err_set_errno(e, -ENOMEM, "pager");
	}
	p->c = *c;
	p->uffd = uffd->fd;
	p->stop_fd = eventfd(0, EFD_CLOEXEC);
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->cond, NULL);
	for (uint64_t b = 0; b < block_count(p); b++)
		p->stats.blocks_total += !is_absent(p, b);
	reg.range.start = (uintptr_t)c->ram;
	reg.range.len = ROUND_UP(c->header.layout.ram_bytes, 4096);
	if (p->stop_fd < 0 || ioctl(p->uffd, UFFDIO_REGISTER, &reg) < 0)
		r = -errno;
	if (r < 0) {
		p->c.crcs = NULL;
		p->c.ram = NULL;
		pager_free(p);
		return err_set_errno(e, r, "userfaultfd");
	}
	*ret_p = p;
	return 0;
}

int pager_start(struct pager *p, struct err *e)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&p->thread, NULL, pager_thread, p);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	p->thread_made = !r;
	return r ? err_set_errno(e, -r, "cannot start the pager's thread") : 0;
}

bool pager_wait(struct pager *p)
{
	bool ok;

	pthread_mutex_lock(&p->lock);
	while (!p->stats.complete)
		pthread_cond_wait(&p->cond, &p->lock);
	ok = !p->stats.failed;
	pthread_mutex_unlock(&p->lock);
	return ok;
}

void pager_stats(struct pager *p, struct pager_stats *ret)
{
	pthread_mutex_lock(&p->lock);
	*ret = p->stats;
	pthread_mutex_unlock(&p->lock);
}

void pager_free(struct pager *p)
{
	uint64_t one = 1;

	if (!p)
		return;
	if (p->thread_made) {
		if (write(p->stop_fd, &one, sizeof(one)) < 0)
			log_error("pager", "cannot stop: %s", strerror(errno));
		pthread_join(p->thread, NULL);
	}
	if (p->stop_fd >= 0)
		close(p->stop_fd);
	pthread_cond_destroy(&p->cond);
	pthread_mutex_destroy(&p->lock);
	bitmap_done(&p->loaded);
	free(p->c.crcs);
	free(p->buf);
	free(p);
}
