#include "vmm/kvm/fork_host.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "snapshot/cpu_state.h"
#include "snapshot/state.h"
#include "snapshot/vmstate.h"
#include "vmm/kvm/cpu_probe.h"
#include "vmm/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Offset of the section: between the definition and the checksums of snapshot/vmstate.h, a range
 * that saved states leave unused. */
#define HOST_OFFSET (14 * MIB)
#define HOST_BYTES 16384u
#define HOST_SECTION "host"
#define HOST_VERSION 2

_Static_assert(HOST_OFFSET + HOST_BYTES <= FORK_HOST_END, "the tables of disks follow (machine_disk.c)");

static int facts_write(struct vmstate_store *s, struct kvm *k)
{
	CLEANUP_FREE uint8_t *page = aligned_alloc(4096, HOST_BYTES);
	struct state_writer w;
	int r = page ? 0 : -ENOMEM;

	if (r)
		return r;
	state_writer_init(&w);
	state_section_begin(&w, HOST_SECTION, "", HOST_VERSION);
	state_put_u32(&w, cpu_probe_result(k));
	state_put_u64(&w, k->xcr0);
	cpuid_put(&w, k->supported);
	cpuid_put(&w, k->own);
	state_section_end(&w);
	if (w.failed || w.len > HOST_BYTES)
		r = -ENOMEM;
	if (!r) {
		memset(page, 0, HOST_BYTES);
		memcpy(page, w.buf, w.len);
		r = s->write(s, HOST_OFFSET, page, HOST_BYTES);
	}
	state_writer_done(&w);
	return r;
}

int fork_host_write(struct vmstate_file *f, struct kvm *k, uint64_t total_bytes, struct err *e)
{
	int r = k->supported ? facts_write(&f->store, k) : 0;

	if (!r && ftruncate(f->fd, (off_t)total_bytes) < 0)
		r = -errno;
	return r < 0 ? err_set_errno(e, r, "cannot extend the fork's state file") : 0;
}

/* Returns false when the content is malformed. */
static bool facts_take(struct state_reader *r, struct fork_host *h)
{
	h->kind = state_u32(r);
	h->xcr0 = state_u64(r);
	h->supported = cpuid_take(r);
	h->own = cpuid_take(r);
	return h->supported && state_reader_complete(r) && h->kind <= CPU_KIND_PROCESSOR &&
		(h->own != NULL) == (h->kind == CPU_KIND_PROCESSOR);
}

/* Copy the facts' pages through a mapping. read() marks a page as accessed, so the kernel may put it on a list of
 * this CPU. The list holds a reference to the page until the list is full. The daemon may be sealing the file at this
 * time, and the kernel seals no file that has a page with such a reference. munmap() marks no page of a sequential
 * mapping. */
static bool facts_copy(int fd, uint8_t *page)
{
	struct stat st;
	void *p;

	if (fstat(fd, &st) < 0 || st.st_size < (off_t)(HOST_OFFSET + HOST_BYTES))
		return false;
	p = mmap(NULL, HOST_BYTES, PROT_READ, MAP_PRIVATE, fd, HOST_OFFSET);
	if (p == MAP_FAILED)
		return false;
	madvise(p, HOST_BYTES, MADV_SEQUENTIAL);
	memcpy(page, p, HOST_BYTES);
	munmap(p, HOST_BYTES);
	return true;
}

void fork_host_read(int fd, struct fork_host *h)
{
	CLEANUP_FREE uint8_t *page = aligned_alloc(4096, HOST_BYTES);
	struct state_section s;
	struct err e;
	size_t pos = 0;

	memset(h, 0, sizeof(*h));
	if (!page || !facts_copy(fd, page) ||
		state_section_next(page, HOST_BYTES, &pos, &s, &e) <= 0 || strcmp(s.name, HOST_SECTION) ||
		s.version != HOST_VERSION)
		return;
	if (!facts_take(&s.content, h))
		fork_host_done(h);
}

void fork_host_done(struct fork_host *h)
{
	free(h->supported);
	free(h->own);
	memset(h, 0, sizeof(*h));
}
