#include "vmm/kvm/prefault.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "snapshot/first_pages.h"
#include "vmm/kvm/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE_BYTES 4096u

#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15) /* since Linux 6.7 */
#endif

/* Register RAM for write protection, but protect nothing: in such memory, the kernel maps only the page that is
 * touched, and not its neighbours, too. With WP_ASYNC, it does so with any memory, and no fault waits for this process.
 * A failure is no error: then only written pages can be told from others. */
static int uffd_register(const struct memory *mem)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_WP_ASYNC };
	struct uffdio_register reg = { .range = { (uintptr_t)mem->host, mem->bytes }, .mode = UFFDIO_REGISTER_MODE_WP };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (fd >= 0 && (ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &reg) < 0)) {
		close(fd);
		return -1;
	}
	return fd;
}

void prefault_init(struct prefault *p, const struct memory *mem, int state_fd, int kvm_fd)
{
	*p = (struct prefault){ .mem = mem, .uffd = -1, .list = malloc(FIRST_PAGES_MAX * sizeof(*p->list)) };
	p->n = p->list ? first_pages_read(state_fd, mem->bytes / PAGE_BYTES, p->list) : 0;
	if (p->n == -ENOENT)
		p->uffd = uffd_register(mem);
	else
		p->maps = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_PRE_FAULT_MEMORY) > 0;
}

void prefault_done(struct prefault *p)
{
	free(p->list);
	p->list = NULL;
	if (p->uffd >= 0)
		close(p->uffd);
	p->uffd = -1;
}

/* ---- using the list ---- */

/* Returns the number of entries from i on whose pages follow each other. written: and that are all written. */
static int run_length(const struct prefault *p, int i, bool written)
{
	int n = 1;

	while (i + n < p->n && first_page_number(p->list[i + n]) == first_page_number(p->list[i]) + (unsigned)n &&
		(!written || first_page_is_written(p->list[i + n])))
		n++;
	return n;
}

static void copies_make(const struct prefault *p, const atomic_bool *stop)
{
	for (int i = 0, n; i < p->n && !atomic_load(stop); i += n) {
		bool written = first_page_is_written(p->list[i]);

		n = written ? run_length(p, i, true) : 1;
		if (written && madvise(p->mem->host + first_page_number(p->list[i]) * PAGE_BYTES, (size_t)n * PAGE_BYTES, MADV_POPULATE_WRITE) < 0)
			return;
	}
}

/* Map the range in KVM's page tables of the guest. Returns false if KVM cannot. */
static bool range_map(const struct memory *mem, int vcpu_fd, const atomic_bool *stop, uint64_t offset, uint64_t bytes)
{
	bool low = offset < mem->low_bytes;
	struct kvm_pre_fault_memory range = { .gpa = low ? offset : MEM_HIGH_BASE + offset - mem->low_bytes,
		.size = low ? MIN(bytes, mem->low_bytes - offset) : bytes };
	int r;

	do
		r = ioctl(vcpu_fd, KVM_PRE_FAULT_MEMORY, &range);
	while (range.size && (!r || errno == EINTR) && !atomic_load(stop));
	return !r;
}

void prefault_run(const struct prefault *p, int vcpu_fd, const atomic_bool *stop)
{
	bool can = p->maps;

	copies_make(p, stop);
	for (int i = 0, n; i < p->n && can && !atomic_load(stop); i += n) {
		n = run_length(p, i, false);
		can = range_map(p->mem, vcpu_fd, stop, first_page_number(p->list[i]) * PAGE_BYTES, (uint64_t)n * PAGE_BYTES);
	}
}

/* ---- making the list ---- */

#define ENTRIES_AT_ONCE 4096u

/* Add the pages of some entries of the pagemap to the list. Returns the number of pages; it may be too large. */
static size_t pages_add(const struct prefault *p, const uint64_t *entries, size_t count, uint64_t first, uint32_t *list, size_t n)
{
	for (size_t i = 0; i < count; i++) {
		bool own = ram_view_entry_is_own(entries[i]), touched = own || (p->uffd >= 0 && ram_view_entry_is_present(entries[i]));

		if (touched && n < FIRST_PAGES_MAX)
			list[n] = first_page(first + i, own);
		n += touched;
	}
	return n;
}

/* List the pages that the guest has touched. Returns their number, which may be too large; -errno. */
static int64_t touched_list(const struct prefault *p, uint32_t *list)
{
	CLEANUP_FREE uint64_t *entries = malloc(ENTRIES_AT_ONCE * sizeof(*entries));
	const struct ram_view *v = p->mem ? memory_view(p->mem) : NULL;
	size_t n = 0;
	int r = entries ? 0 : -ENOMEM;

	for (uint64_t at = 0, count; v && at < v->bytes / PAGE_BYTES && !r; at += count) {
		count = MIN(v->bytes / PAGE_BYTES - at, (uint64_t)ENTRIES_AT_ONCE);
		r = ram_view_entries(v, at * PAGE_BYTES, entries, count);
		if (!r)
			n = pages_add(p, entries, count, at, list, n);
	}
	return r < 0 ? r : (int64_t)n;
}

int prefault_make(const struct prefault *p, int fd, struct err *e)
{
	CLEANUP_FREE uint32_t *list = malloc(FIRST_PAGES_MAX * sizeof(*list));
	bool had = p->list && p->n >= 0;
	int64_t n = had ? p->n : list ? touched_list(p, list) : -ENOMEM;
	int r = n < 0 ? (int)n : n > FIRST_PAGES_MAX ? 0 : pwrite_full(fd, had ? p->list : list, (size_t)n * sizeof(*list), 0);

	return r < 0 ? err_set_errno(e, r, "the pages that the guest has touched") : 0;
}
