#include "vmm/kvm/fork_host.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "snapshot/state.h"
#include "snapshot/vmstate.h"
#include "vmm/kvm/kvm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Offset of the section: between the definition and the checksums of snapshot/vmstate.h, a range
 * that saved states leave unused. */
#define HOST_OFFSET (14 * MIB)
#define HOST_BYTES 8192u
#define HOST_SECTION "host"
#define HOST_VERSION 1

static void entry_put(struct state_writer *w, const struct kvm_cpuid_entry2 *c)
{
	state_put_u32(w, c->function);
	state_put_u32(w, c->index);
	state_put_u32(w, c->flags);
	state_put_u32(w, c->eax);
	state_put_u32(w, c->ebx);
	state_put_u32(w, c->ecx);
	state_put_u32(w, c->edx);
}

static void entry_take(struct state_reader *r, struct kvm_cpuid_entry2 *c)
{
	c->function = state_u32(r);
	c->index = state_u32(r);
	c->flags = state_u32(r);
	c->eax = state_u32(r);
	c->ebx = state_u32(r);
	c->ecx = state_u32(r);
	c->edx = state_u32(r);
}

static int cpuid_write(struct vmstate_store *s, const struct kvm_cpuid2 *c)
{
	CLEANUP_FREE uint8_t *page = aligned_alloc(4096, HOST_BYTES);
	struct state_writer w;
	int r = page ? 0 : -ENOMEM;

	if (r)
		return r;
	state_writer_init(&w);
	state_section_begin(&w, HOST_SECTION, "", HOST_VERSION);
	state_put_u32(&w, c->nent);
	for (uint32_t i = 0; i < c->nent; i++)
		entry_put(&w, &c->entries[i]);
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

int fork_host_write(struct vmstate_file *f, const struct kvm *k, uint64_t total_bytes, struct err *e)
{
	int r = k->supported ? cpuid_write(&f->store, k->supported) : 0;

	if (!r && ftruncate(f->fd, (off_t)total_bytes) < 0)
		r = -errno;
	return r < 0 ? err_set_errno(e, r, "cannot extend the fork's state file") : 0;
}

static struct kvm_cpuid2 *cpuid_take(struct state_reader *r)
{
	uint32_t n = state_u32(r);
	struct kvm_cpuid2 *c = r->failed || n > KVM_CPUID_ENTRIES_MAX ? NULL :
			       calloc(1, sizeof(*c) + n * sizeof(c->entries[0]));

	if (!c)
		return NULL;
	c->nent = n;
	for (uint32_t i = 0; i < n; i++)
		entry_take(r, &c->entries[i]);
	if (n && state_reader_complete(r))
		return c;
	free(c);
	return NULL;
}

struct kvm_cpuid2 *fork_host_read(int fd)
{
	CLEANUP_FREE uint8_t *page = aligned_alloc(4096, HOST_BYTES);
	struct state_section s;
	struct vmstate_file f;
	struct err e;
	size_t pos = 0;

	vmstate_file_init(&f, fd);
	if (!page || f.store.read(&f.store, HOST_OFFSET, page, HOST_BYTES) < 0 ||
		state_section_next(page, HOST_BYTES, &pos, &s, &e) <= 0 || strcmp(s.name, HOST_SECTION) ||
		s.version != HOST_VERSION)
		return NULL;
	return cpuid_take(&s.content);
}
