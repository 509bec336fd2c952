#include "vmm/kvm/memory.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "vmm/kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HUGE_PAGE_BYTES (2 * MIB)
#define PAGE_BYTES 4096u
#define ROM_SMALL_BYTES (128 * 1024)
#define ROM_LARGE_BYTES (256 * 1024)
/* Firmware is between KVM's own page tables (vmm/kvm/kvm.c) and 4 GiB. */
#define UEFI_MAX_BYTES (8 * MIB)
#define SLOT_BRIEF (MEMORY_SLOT_SCREEN + 1)

static void layout_set(struct memory *m, uint64_t bytes, bool huge_pages)
{
	memset(m, 0, sizeof(*m));
	m->view.base_fd = m->view.pagemap_fd = m->fd = -1;
	m->bytes = bytes;
	m->huge_pages = huge_pages;
	m->mapped_bytes = huge_pages ? ROUND_UP(bytes, HUGE_PAGE_BYTES) : bytes;
	m->low_bytes = MIN(bytes, MEM_LOW_MAX);
	m->high_bytes = bytes - m->low_bytes;
}

static int fd_map(struct memory *m, bool huge_pages, struct err *e)
{
	uint64_t bytes = m->bytes;
	int r;

	/* The mapping reserves huge pages; ordinary pages are allocated on first touch. */
	m->host = mmap(NULL, m->mapped_bytes, PROT_READ | PROT_WRITE,
		MAP_SHARED | (huge_pages ? 0 : MAP_NORESERVE), m->fd, 0);
	if (m->host == MAP_FAILED) {
		r = -errno;
		m->host = NULL;
		return err_set(e, r, ERR_HOST, "cannot map %llu MiB of guest memory: %s%s",
			(unsigned long long)(bytes / MIB), strerror(-r),
			huge_pages ? "; raise /proc/sys/vm/nr_hugepages or set \"hugepages\": false" : "");
	}
	/* Keep the guest's secrets out of a core dump of this process. */
	madvise(m->host, m->mapped_bytes, MADV_DONTDUMP);
	return 0;
}

static int ram_allocate(struct memory *m, struct err *e)
{
	if (m->fd < 0 || ftruncate(m->fd, (off_t)m->mapped_bytes) < 0) {
		int r = -errno;

		return err_set(e, r, ERR_HOST, "cannot allocate %llu MiB of guest memory: %s%s",
			(unsigned long long)(m->bytes / MIB), strerror(-r), r == -EFBIG ? "; raise the limit of file sizes (ulimit -f)" : "");
	}
	return fd_map(m, m->huge_pages, e);
}

int memory_init(struct memory *m, uint64_t bytes, bool huge_pages, struct err *e)
{
	layout_set(m, bytes, huge_pages);
	m->fd = memfd_create("cairn-ram", MFD_CLOEXEC | (huge_pages ? MFD_HUGETLB | MFD_HUGE_2MB : 0));
	return ram_allocate(m, e);
}

int memory_init_file(struct memory *m, uint64_t bytes, int fd, struct err *e)
{
	layout_set(m, bytes, false);
	m->fd = fd;
	return ram_allocate(m, e);
}

void memory_advise(struct memory *m, int advice)
{
	m->advice = advice;
	if (advice)
		madvise(m->host, m->mapped_bytes, advice);
}

void memory_lay_out_for_uefi(struct memory *m)
{
	m->low_bytes = MIN(m->bytes, MEM_LOW_MAX_UEFI);
	m->high_bytes = m->bytes - m->low_bytes;
}

int memory_take(struct memory *m, uint64_t bytes, bool huge_pages, int fd, struct err *e)
{
	struct stat st;

	layout_set(m, bytes, huge_pages);
	if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != m->mapped_bytes)
		return err_set(e, -EINVAL, ERR_INVALID, "the file of the VM's memory does not have %llu MiB",
			(unsigned long long)(bytes / MIB));
	m->fd = fd;
	return fd_map(m, huge_pages, e);
}

static int slot_set(struct kvm *k, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t bytes, void *host,
	struct err *e)
{
	struct kvm_userspace_memory_region region = { .slot = slot, .flags = flags, .guest_phys_addr = gpa,
		.memory_size = bytes, .userspace_addr = (uintptr_t)host };
	int r = kvm_ioctl(k->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);

	return r < 0 ? err_set(e, r, ERR_HOST, "memory slot of %llu MiB at 0x%llx: %s",
			       (unsigned long long)(bytes / MIB), (unsigned long long)gpa, strerror(-r))
		     : 0;
}

static int ram_slots_set(struct memory *m, struct kvm *k, uint32_t flags, struct err *e)
{
	int r = slot_set(k, MEMORY_SLOT_LOW, flags, 0, m->low_bytes, m->host, e);

	if (!r && m->high_bytes)
		r = slot_set(k, MEMORY_SLOT_HIGH, flags, MEM_HIGH_BASE, m->high_bytes, m->host + m->low_bytes, e);
	return r;
}

int memory_read_rom(struct memory *m, int fd, struct err *e)
{
	struct stat st;
	void *p;
	int r;

	if (fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "firmware");
	if (st.st_size != ROM_SMALL_BYTES && st.st_size != ROM_LARGE_BYTES)
		return err_set(e, -EINVAL, ERR_INVALID, "boot.loader: the file has %lld bytes; a BIOS has 128 or 256 KiB, as "
			"/usr/share/seabios/bios-256k.bin", (long long)st.st_size);
	p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return err_set_errno(e, -errno, "firmware");
	m->rom = p;
	m->rom_bytes = (uint64_t)st.st_size;
	r = pread_full(fd, p, m->rom_bytes, 0);
	return r < 0 ? err_set_errno(e, r, "firmware") : 0;
}

static int flash_make(struct memory *m, uint64_t bytes)
{
	void *p;

	m->flash_fd = memfd_create("cairn-flash", MFD_CLOEXEC);
	if (m->flash_fd < 0)
		return -errno;
	p = ftruncate(m->flash_fd, (off_t)(2 * bytes)) < 0 ? MAP_FAILED : mmap(NULL, bytes, PROT_READ, MAP_SHARED, m->flash_fd, 0);
	if (p == MAP_FAILED) {
		int r = -errno;

		close(m->flash_fd);
		return r;
	}
	m->flash = p;
	m->flash_bytes = bytes;
	return 0;
}

int memory_map_uefi(struct memory *m, int fd, uint64_t flash_bytes, struct err *e)
{
	struct stat st;
	void *p;
	int r;

	if (fstat(fd, &st) < 0)
		return err_set_errno(e, -errno, "boot.loader");
	if (st.st_size < (off_t)(64 * KIB) || st.st_size % PAGE_BYTES || (uint64_t)st.st_size + flash_bytes > UEFI_MAX_BYTES)
		return err_set(e, -EINVAL, ERR_INVALID, "boot.loader: the file has %lld bytes; a UEFI has at least 64 KiB and with its "
			"variables at most 8 MiB, a multiple of 4 KiB, as /usr/share/OVMF/OVMF_CODE_4M.fd", (long long)st.st_size);
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (p == MAP_FAILED)
		return err_set_errno(e, -errno, "boot.loader");
	m->rom = p;
	m->rom_bytes = (uint64_t)st.st_size;
	r = flash_make(m, flash_bytes);
	return r < 0 ? err_set_errno(e, r, "cannot allocate the flash memory of UEFI variables") : 0;
}

uint64_t memory_flash_gpa(const struct memory *m)
{
	return MEM_ROM_END - m->rom_bytes - m->flash_bytes;
}

void memory_shadow_rom(struct memory *m)
{
	memcpy(m->host + MEM_SHADOW_END - m->rom_bytes, m->rom, m->rom_bytes);
}

int memory_attach(struct memory *m, struct kvm *k, struct err *e)
{
	int r = ram_slots_set(m, k, 0, e);

	if (!r && m->rom)
		r = slot_set(k, MEMORY_SLOT_ROM, KVM_MEM_READONLY, MEM_ROM_END - m->rom_bytes, m->rom_bytes, m->rom, e);
	if (!r && m->flash)
		r = slot_set(k, MEMORY_SLOT_FLASH, KVM_MEM_READONLY, memory_flash_gpa(m), m->flash_bytes, m->flash, e);
	return r;
}

int memory_show(struct kvm *k, uint64_t gpa, uint64_t bytes, void *memory)
{
	return slot_set(k, MEMORY_SLOT_SCREEN, 0, gpa, bytes, memory, NULL);
}

int memory_log_dirty(struct memory *m, struct kvm *k, bool on, struct err *e)
{
	return ram_slots_set(m, k, on ? KVM_MEM_LOG_DIRTY_PAGES : 0, e);
}

/* Deleting any memory slot makes KVM zap all shadow pages, so create and delete a slot of one page.
 * vCPUs are stopped. */
int memory_zap_shadow_pages(struct memory *m, struct kvm *k, struct err *e)
{
	uint64_t gpa = MEM_HIGH_BASE + ROUND_UP(m->high_bytes, PAGE_BYTES);
	int r = k->has_shadows ? slot_set(k, SLOT_BRIEF, 0, gpa, PAGE_BYTES, m->host, e) : 0;

	return r < 0 || !k->has_shadows ? r : slot_set(k, SLOT_BRIEF, 0, gpa, 0, m->host, e);
}

void memory_describe(const struct memory *m, struct dev_host *h)
{
	h->ram[0] = (struct dev_ram_range){ .gpa = 0, .bytes = m->low_bytes, .host = m->host };
	h->ram[1] = (struct dev_ram_range){ .gpa = MEM_HIGH_BASE, .bytes = m->high_bytes,
		.host = m->host + m->low_bytes };
}

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#define POPULATE_MIN_BYTES (256 * KIB)

void memory_populate(struct memory *m, uint64_t gpa, uint64_t bytes)
{
	uint64_t start = ROUND_DOWN(gpa, 4096), end = ROUND_UP(gpa + bytes, 4096);

	if (bytes < POPULATE_MIN_BYTES || !range_inside(start, end - start, m->low_bytes))
		return;
	madvise(m->host + start, end - start, MADV_POPULATE_WRITE);
}

/* ---- RAM as a private view of another VM's memory ---- */

static void fd_drop(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static int ram_map(struct memory *m, int fd, uint64_t offset, int flags, struct err *e)
{
	void *p = mmap(m->host, m->bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED | MAP_NORESERVE, fd,
		(off_t)offset);

	if (p == MAP_FAILED)
		return err_set_errno(e, -errno, "cannot map the VM's memory");
	madvise(m->host, m->bytes, MADV_DONTDUMP);
	return 0;
}

int memory_map_cow(struct memory *m, int base_fd, uint64_t offset, int *pagemap_fd, struct err *e)
{
	int r = *pagemap_fd < 0 ? err_set_errno(e, *pagemap_fd, "/proc/self/pagemap") :
		ram_map(m, base_fd, offset, MAP_PRIVATE, e);

	if (r < 0)
		return r;
	m->view.pagemap_fd = steal_fd(pagemap_fd);
	m->view.ram = m->host;
	m->view.bytes = m->bytes;
	m->view.base_fd = base_fd;
	m->view.base_offset = offset;
	return 0;
}

const struct ram_view *memory_view(const struct memory *m)
{
	return m->view.base_fd >= 0 ? &m->view : NULL;
}

int memory_take_view(struct memory *m, uint64_t bytes, int fd, int base_fd, uint64_t offset, int *pagemap_fd,
	struct err *e)
{
	int r = memory_take(m, bytes, false, fd, e);
	struct stat st;

	if (!r && (fstat(base_fd, &st) < 0 || offset > (uint64_t)st.st_size || (uint64_t)st.st_size - offset < bytes))
		r = err_set(e, -EINVAL, ERR_INVALID, "the file of the clone's shared memory is too short");
	if (!r)
		r = memory_map_cow(m, base_fd, offset, pagemap_fd, e);
	if (r < 0) {
		m->fd = -1;
		memory_done(m);
	}
	return r;
}

static int view_end(struct memory *m)
{
	int r = ram_map(m, m->fd, 0, MAP_SHARED, NULL);

	if (r < 0)
		return r;
	fd_drop(&m->view.base_fd);
	fd_drop(&m->view.pagemap_fd);
	memory_advise(m, m->advice);
	return 0;
}

static int ram_empty(struct memory *m)
{
	/* Free the last huge page as a whole, too: the kernel may only zero a part of a huge page, and keep its
	 * memory. */
	return fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)ROUND_UP(m->mapped_bytes, 2 * MIB)) < 0
		? -errno : 0;
}

int memory_give_back(struct memory *m, uint64_t off, uint64_t len)
{
	int r = memory_view(m) ? madvise(m->host + off, len, MADV_DONTNEED) :
		fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len);

	return r < 0 ? -errno : 0;
}

void memory_clear(struct memory *m)
{
	/* Punching a hole frees the pages at once; when it fails, the old content is still there,
	 * so write zeros. */
	if (ram_empty(m) < 0 || (memory_view(m) && view_end(m) < 0))
		memset(m->host, 0, m->mapped_bytes);
}

/* Call fn for each extent of m->fd that has pages. */
static int copy_each(struct memory *m, int (*fn)(struct memory *m, uint64_t off, uint64_t len, void *opaque), void *opaque)
{
	off_t from = 0, to;
	int r = 0;

	while (!r && (from = lseek(m->fd, from, SEEK_DATA)) >= 0) {
		to = lseek(m->fd, from, SEEK_HOLE);
		r = to < 0 ? -errno : fn(m, (uint64_t)from, (uint64_t)(to - from), opaque);
		from = to;
	}
	return !r && errno != ENXIO ? -errno : r; /* ENXIO: there are no more */
}

static int extent_read(struct memory *m, uint64_t off, uint64_t len, void *opaque)
{
	(void)opaque;
	return pread_full(m->fd, m->host + off, len, (off_t)off);
}

static int extent_write(struct memory *m, uint64_t off, uint64_t len, void *opaque)
{
	(void)opaque;
	return pwrite_full(m->fd, m->host + off, len, (off_t)off);
}

static int extent_count(struct memory *m, uint64_t off, uint64_t len, void *opaque)
{
	(void)m;
	(void)off;
	*(uint64_t *)opaque += len;
	return 0;
}

int memory_read_copy(struct memory *m, struct err *e)
{
	int r = copy_each(m, extent_read, NULL);

	return r < 0 ? err_set_errno(e, r, "cannot read the clone's memory") : 0;
}

int memory_complete_copy(struct memory *m, uint64_t written)
{
	uint64_t bytes = 0;
	int r = copy_each(m, extent_count, &bytes);

	return r < 0 || bytes == written ? r : copy_each(m, extent_write, NULL);
}

void memory_drop_copy(struct memory *m)
{
	if (memory_view(m))
		ram_empty(m);
}

void memory_adopt(struct memory *m, struct memory *from)
{
	*m = *from;
	layout_set(from, 0, false);
}

void memory_done(struct memory *m)
{
	if (m->host)
		munmap(m->host, m->mapped_bytes);
	if (m->rom)
		munmap(m->rom, m->rom_bytes);
	m->rom = NULL;
	if (m->flash) {
		munmap(m->flash, m->flash_bytes);
		close(m->flash_fd);
	}
	m->flash = NULL;
	fd_drop(&m->fd);
	fd_drop(&m->view.base_fd);
	fd_drop(&m->view.pagemap_fd);
	m->host = NULL;
}

static void e820_add(struct memory_e820 *t, size_t *n, uint64_t gpa, uint64_t end, uint32_t type)
{
	if (end > gpa)
		t[(*n)++] = (struct memory_e820){ .gpa = gpa, .bytes = end - gpa, .type = type };
}

size_t memory_e820(const struct memory *m, struct memory_e820 *t)
{
	size_t n = 0;

	e820_add(t, &n, 0, MIN(MEM_EBDA_BASE, m->low_bytes), E820_RAM);
	e820_add(t, &n, MEM_EBDA_BASE, 0xa0000, E820_RESERVED);
	e820_add(t, &n, MEM_ACPI_BASE, 0x100000, E820_RESERVED);
	e820_add(t, &n, 0x100000, m->low_bytes, E820_RAM);
	e820_add(t, &n, MEM_ECAM_BASE, MEM_ECAM_BASE + MEM_ECAM_BYTES, E820_RESERVED);
	e820_add(t, &n, MEM_HIGH_BASE, MEM_HIGH_BASE + m->high_bytes, E820_RAM);
	return n;
}
