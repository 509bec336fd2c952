#include "devices/legacy/bochs_display.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "devices/device.h"
#include "devices/legacy/edid.h"
#include "devices/pci/pci.h"
#include "snapshot/state.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEMORY_BAR 0
#define REGISTER_BAR 2
#define REGISTER_BAR_BYTES 4096
#define FILE_BYTES (BOCHS_DISPLAY_BYTES + DISPLAY_PAGE_BYTES)
#define VBE_AT 0x500
#define QEXT_AT 0x600
#define QEXT_BYTES 8
#define LITTLE_ENDIAN_FRAMEBUFFER 0x1e1e1e1eu
#define VBE_ID 0xb0c5
#define ENABLED 0x0001
#define PAGE_BYTES 4096u
#define SIDE_MIN 64
#define PREFERRED_WIDTH 1280
#define PREFERRED_HEIGHT 800

enum { VBE_INDEX_ID, VBE_XRES, VBE_YRES, VBE_BPP, VBE_ENABLE, VBE_BANK, VBE_VIRT_WIDTH, VBE_VIRT_HEIGHT, VBE_X_OFFSET,
	VBE_Y_OFFSET, VBE_MEMORY_64K, VBE_REGISTERS };

struct bochs_rom {
	const uint8_t *content;
	size_t bytes;
};

struct bochs_display {
	struct device dev;
	struct dev_host *host;
	struct pci_function fn;
	int fd; /* memfd of the framebuffer */
	uint8_t *memory;
	struct display_page *page; /* behind the framebuffer; written under the lock */
	uint64_t shown_at; /* address where KVM shows the framebuffer; 0: nowhere. Under the config lock */
	uint8_t edid[EDID_BYTES];
	bool has_rom;
	uint8_t rom[BOCHS_DISPLAY_ROM_BYTES];

	pthread_mutex_t lock; /* protects all fields below */
	uint16_t vbe[VBE_REGISTERS];
};

static struct bochs_display *display_of(const struct device *d)
{
	return container_of(d, struct bochs_display, dev);
}

/* ---- the mode ---- */

static bool mode_of(const uint16_t vbe[VBE_REGISTERS], struct display_mode *ret)
{
	uint64_t width = vbe[VBE_XRES], height = vbe[VBE_YRES], bytes = vbe[VBE_BPP] / 8;
	uint64_t stride = MAX(width, vbe[VBE_VIRT_WIDTH]) * bytes;
	uint64_t offset = vbe[VBE_Y_OFFSET] * stride + vbe[VBE_X_OFFSET] * bytes;

	if (!(vbe[VBE_ENABLE] & ENABLED) || (vbe[VBE_BPP] != 16 && vbe[VBE_BPP] != 32) || width < SIDE_MIN || height < SIDE_MIN ||
		!range_inside(offset, (height - 1) * stride + width * bytes, BOCHS_DISPLAY_BYTES))
		return false;
	*ret = (struct display_mode){ (uint32_t)width, (uint32_t)height, vbe[VBE_BPP], (uint32_t)stride, (uint32_t)offset };
	return true;
}

bool bochs_display_mode(struct device *d, struct display_mode *ret)
{
	struct bochs_display *b = display_of(d);

	LOCK_GUARD(&b->lock);
	return mode_of(b->vbe, ret);
}

/* Notify the process that shows the screen of the mode. The lock is held. */
static void mode_publish(struct bochs_display *b)
{
	struct display_page *p = b->page;
	uint32_t sequence = atomic_load_explicit(&p->sequence, memory_order_relaxed);
	struct display_mode mode = { 0 };
	bool on = mode_of(b->vbe, &mode);

	atomic_store_explicit(&p->sequence, sequence + 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	p->on = on;
	p->mode = mode;
	atomic_store_explicit(&p->sequence, sequence + 2, memory_order_release);
}

int bochs_display_fd(const struct device *d)
{
	return display_of(d)->fd;
}

const uint8_t *bochs_display_memory(const struct device *d)
{
	return display_of(d)->memory;
}

/* ---- BAR 2 ---- */

static uint64_t registers_read(void *opaque, uint64_t off, unsigned size)
{
	struct bochs_display *b = opaque;

	if (range_inside(off, size, EDID_BYTES))
		return load_le(b->edid + off, size);
	if (off == QEXT_AT && size == 4)
		return QEXT_BYTES;
	if (off == QEXT_AT + 4 && size == 4)
		return LITTLE_ENDIAN_FRAMEBUFFER;
	if (off < VBE_AT || off % 2 || size != 2 || (off - VBE_AT) / 2 >= VBE_REGISTERS)
		return 0;
	LOCK_GUARD(&b->lock);
	return b->vbe[(off - VBE_AT) / 2];
}

static void registers_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct bochs_display *b = opaque;
	unsigned i = (unsigned)(off - VBE_AT) / 2;

	if (off < VBE_AT || off % 2 || size != 2 || i >= VBE_REGISTERS || i == VBE_INDEX_ID || i == VBE_MEMORY_64K)
		return;
	LOCK_GUARD(&b->lock);
	b->vbe[i] = (uint16_t)value;
	mode_publish(b);
}

static const struct bus_ops register_ops = { registers_read, registers_write };

/* ---- BAR 0, where KVM does not show the framebuffer ---- */

static uint64_t memory_read(void *opaque, uint64_t off, unsigned size)
{
	return load_le(((struct bochs_display *)opaque)->memory + off, size);
}

static void memory_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	store_le(((struct bochs_display *)opaque)->memory + off, size, value);
}

static const struct bus_ops memory_ops = { memory_read, memory_write };

static uint64_t rom_read(void *opaque, uint64_t off, unsigned size)
{
	return load_le(((struct bochs_display *)opaque)->rom + off, size);
}

static void rom_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	(void)opaque;
	(void)off;
	(void)size;
	(void)value;
}

static const struct bus_ops rom_ops = { rom_read, rom_write };

/* Show the framebuffer where the guest has put BAR 0. KVM refuses an address where there is RAM; accesses come to
 * memory_ops then. The config lock is held. */
static void bars_changed(struct pci_function *f)
{
	struct bochs_display *b = container_of(f, struct bochs_display, fn);
	const struct pci_bar *bar = &f->bars[MEMORY_BAR];
	uint64_t at = bar->mapped ? bar->base : 0;

	if (at == b->shown_at || !b->host->ops->show)
		return;
	if (b->shown_at)
		b->host->ops->show(b->host, b->shown_at, 0, NULL);
	b->shown_at = at && !b->host->ops->show(b->host, at, BOCHS_DISPLAY_BYTES, b->memory) ? at : 0;
}

/* A guest that continues from a state without the ROM gets none before its next reset. */
static bool config_write(struct pci_function *f, unsigned off, unsigned size, uint32_t v)
{
	const struct bochs_display *b = container_of(f, struct bochs_display, fn);

	(void)size;
	(void)v;
	return off / 4 == PCI_ROM_REGISTER / 4 && b->has_rom && b->dev.ops->state_version == 1;
}

static const struct pci_function_ops fn_ops = { .config_write = config_write, .changed = bars_changed };

/* ---- device ---- */

/* Find the next range of the framebuffer that has pages: a read of another one would allocate it. *at: where to begin,
 * and then where the range begins. Returns its end; *at after the last one. */
static uint32_t range_next(const struct bochs_display *b, uint32_t *at)
{
	off_t from = lseek(b->fd, (off_t)*at, SEEK_DATA), to = from < 0 ? -1 : lseek(b->fd, from, SEEK_HOLE);

	if ((from < 0 && errno == ENXIO) || from >= (off_t)BOCHS_DISPLAY_BYTES)
		return *at = BOCHS_DISPLAY_BYTES;
	if (to < 0)
		return BOCHS_DISPLAY_BYTES;
	*at = (uint32_t)from;
	return MIN((uint32_t)to, BOCHS_DISPLAY_BYTES);
}

/* The seal keeps the pages from being freed. */
static void memory_clear(struct bochs_display *b)
{
	uint32_t at = 0, end;

	for (; (end = range_next(b, &at)) > at; at = end)
		memset(b->memory + at, 0, end - at);
}

static void vbe_power_on(uint16_t vbe[VBE_REGISTERS])
{
	memset(vbe, 0, VBE_REGISTERS * sizeof(*vbe));
	vbe[VBE_INDEX_ID] = VBE_ID;
	vbe[VBE_MEMORY_64K] = BOCHS_DISPLAY_BYTES >> 16;
}

static const struct device_ops display_ops, display_ops_with_rom;

static void display_reset(struct device *d)
{
	struct bochs_display *b = display_of(d);

	d->ops = b->has_rom ? &display_ops_with_rom : &display_ops;

	pthread_mutex_lock(&b->lock);
	vbe_power_on(b->vbe);
	mode_publish(b);
	pthread_mutex_unlock(&b->lock);
	memory_clear(b);
	pci_function_reset(&b->fn);
}

static bool page_is_zero(const uint8_t *page)
{
	return !page[0] && !memcmp(page, page + 1, PAGE_BYTES - 1);
}

/* Each page that is not zero follows its number. */
static void pages_put(struct bochs_display *b, struct state_writer *w)
{
	uint32_t at = 0, end;

	for (; (end = range_next(b, &at)) > at; at = end) {
		for (; at < end; at += PAGE_BYTES) {
			if (page_is_zero(b->memory + at))
				continue;
			state_put_u32(w, at / PAGE_BYTES);
			state_put_bytes(w, b->memory + at, PAGE_BYTES);
		}
	}
}

static void display_save(struct device *d, struct state_writer *w)
{
	struct bochs_display *b = display_of(d);

	pthread_mutex_lock(&b->lock);
	for (unsigned i = 0; i < VBE_REGISTERS; i++)
		state_put_u16(w, b->vbe[i]);
	pthread_mutex_unlock(&b->lock);
	pci_function_save(&b->fn, w);
	pages_put(b, w);
}

/* Check the pages, which are the rest of the section. */
static bool pages_ok(struct state_reader r)
{
	uint32_t least = 0;

	while (!r.failed && r.pos < r.len) {
		uint32_t i = state_u32(&r);

		if (i < least || i >= BOCHS_DISPLAY_BYTES / PAGE_BYTES || r.len - r.pos < PAGE_BYTES)
			return false;
		r.pos += PAGE_BYTES;
		least = i + 1;
	}
	return !r.failed;
}

static void pages_take(struct bochs_display *b, struct state_reader *r)
{
	memory_clear(b);
	while (r->pos < r->len) {
		uint32_t i = state_u32(r);

		state_bytes(r, b->memory + i * PAGE_BYTES, PAGE_BYTES);
	}
}

static int display_load(struct device *d, struct state_reader *r, uint16_t version, struct err *e)
{
	struct bochs_display *b = display_of(d);
	uint16_t vbe[VBE_REGISTERS], own[VBE_REGISTERS];
	int ret;

	vbe_power_on(own);
	for (unsigned i = 0; i < VBE_REGISTERS; i++)
		vbe[i] = state_u16(r);
	if (r->failed || vbe[VBE_INDEX_ID] != own[VBE_INDEX_ID] || vbe[VBE_MEMORY_64K] != own[VBE_MEMORY_64K])
		return err_set(e, -EINVAL, ERR_CORRUPT, "screen: malformed state");
	ret = pci_function_load(&b->fn, r, e);
	if (ret < 0)
		return ret;
	if (!pages_ok(*r))
		return err_set(e, -EINVAL, ERR_CORRUPT, "screen: malformed state");
	pages_take(b, r);
	if (version == display_ops.state_version)
		d->ops = &display_ops;
	LOCK_GUARD(&b->lock);
	memcpy(b->vbe, vbe, sizeof(vbe));
	mode_publish(b);
	return 0;
}

static void display_free(struct device *d)
{
	struct bochs_display *b = display_of(d);

	pci_host_remove(&b->fn);
	if (b->memory)
		munmap(b->memory, FILE_BYTES);
	if (b->fd >= 0)
		close(b->fd);
	pthread_mutex_destroy(&b->lock);
	free(b);
}

static const struct device_ops display_ops = {
	.type = "bochs-display",
	.state_version = 1,
	.reset = display_reset,
	.save = display_save,
	.load = display_load,
	.free = display_free,
};

static const struct device_ops display_ops_with_rom = {
	.type = "bochs-display",
	.state_version = 2,
	.reset = display_reset,
	.save = display_save,
	.load = display_load,
	.free = display_free,
};

static int memory_make(struct bochs_display *b)
{
	void *p;

	b->fd = memfd_create("cairn-screen", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (b->fd < 0 || ftruncate(b->fd, FILE_BYTES) < 0)
		return -errno;
	p = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, b->fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	b->memory = p;
	b->page = (struct display_page *)(b->memory + BOCHS_DISPLAY_BYTES);
	madvise(p, FILE_BYTES, MADV_DONTDUMP);
	/* The process that gets the fd can only read. */
	return fcntl(b->fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0 ? -errno : 0;
}

static const struct pci_ids ids = { .vendor = 0x1234, .device = 0x1111, .subsystem_vendor = 0x1af4, .subsystem = 0x1100,
	.revision = 2, .class_code = 0x038000 };

/* rom: NULL with no expansion ROM. */
static int display_new(struct dev_host *h, struct pci_host *p, const struct bochs_rom *rom, struct device **ret_dev, struct err *e)
{
	struct bochs_display *b = calloc(1, sizeof(*b));
	int r;

	if (!b)
		return err_set_errno(e, -ENOMEM, "screen");
	b->dev.ops = rom ? &display_ops_with_rom : &display_ops;
	snprintf(b->dev.name, sizeof(b->dev.name), "screen0");
	b->host = h;
	vbe_power_on(b->vbe);
	edid_fill(b->edid, PREFERRED_WIDTH, PREFERRED_HEIGHT);
	pthread_mutex_init(&b->lock, NULL);
	pci_function_init(&b->fn, &ids, &fn_ops);
	pci_function_bar(&b->fn, MEMORY_BAR, BOCHS_DISPLAY_BYTES, false, &memory_ops, b);
	pci_function_bar(&b->fn, REGISTER_BAR, REGISTER_BAR_BYTES, false, &register_ops, b);
	if (rom) {
		b->has_rom = true;
		memcpy(b->rom, rom->content, MIN(rom->bytes, sizeof(b->rom)));
		pci_function_rom(&b->fn, sizeof(b->rom), &rom_ops, b);
	}
	r = memory_make(b);
	if (r < 0)
		err_set_errno(e, r, "cannot allocate the screen's memory");
	else
		r = pci_host_add(p, &b->fn, -1, e);
	if (r < 0) {
		display_free(&b->dev);
		return r;
	}
	*ret_dev = &b->dev;
	return 0;
}

int bochs_display_new(struct dev_host *h, struct pci_host *p, struct device **ret_dev, struct err *e)
{
	return display_new(h, p, NULL, ret_dev, e);
}

int bochs_display_new_with_rom(struct dev_host *h, struct pci_host *p, const uint8_t *rom, size_t bytes, struct device **ret_dev,
	struct err *e)
{
	return display_new(h, p, &(struct bochs_rom){ bytes ? rom : (const uint8_t *)"", bytes }, ret_dev, e);
}
