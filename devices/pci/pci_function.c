#include "devices/pci/pci_internal.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "snapshot/state.h"

#include <errno.h>
#include <string.h>

/* Type 0 header, PCI 3.0 section 6.1. */
#define REG_VENDOR 0x00
#define REG_DEVICE 0x02
#define REG_COMMAND 0x04
#define REG_STATUS 0x06
#define REG_REVISION 0x08
#define REG_CLASS 0x09
#define REG_CACHE_LINE 0x0c
#define REG_LATENCY 0x0d
#define REG_BAR0 0x10
#define REG_SUBSYSTEM_VENDOR 0x2c
#define REG_SUBSYSTEM 0x2e
#define REG_CAPABILITIES 0x34
#define REG_INTERRUPT_LINE 0x3c
#define REG_INTERRUPT_PIN 0x3d
#define REG_FIRST_CAPABILITY 0x40

#define COMMAND_MEMORY 0x0002
#define COMMAND_WRITABLE 0x0547 /* I/O, memory, master, parity, SERR, INTx disable */
#define COMMAND_INTX_DISABLE 0x0400
#define STATUS_INTERRUPT 0x08 /* bit in the low byte of the status register */
#define STATUS_CAPABILITIES 0x10
#define BAR_64BIT 0x04
#define BAR_FLAGS 0x0f
#define ROM_ENABLE 0x01
#define ROM_FLAGS 0x7ff

void pci_function_init(struct pci_function *f, const struct pci_ids *ids,
	const struct pci_function_ops *ops)
{
	uint8_t *c = f->initial, *w = f->writable;

	f->ops = ops;
	f->cap_end = REG_FIRST_CAPABILITY;
	pthread_mutex_init(&f->msix.lock, NULL);
	store_le16(c + REG_VENDOR, ids->vendor);
	store_le16(c + REG_DEVICE, ids->device);
	store_le16(c + REG_COMMAND, COMMAND_MEMORY);
	c[REG_REVISION] = ids->revision;
	c[REG_CLASS] = (uint8_t)ids->class_code;
	store_le16(c + REG_CLASS + 1, (uint16_t)(ids->class_code >> 8));
	store_le16(c + REG_SUBSYSTEM_VENDOR, ids->subsystem_vendor);
	store_le16(c + REG_SUBSYSTEM, ids->subsystem);
	store_le16(w + REG_COMMAND, COMMAND_WRITABLE);
	w[REG_CACHE_LINE] = 0xff;
	w[REG_LATENCY] = 0xff;
	w[REG_INTERRUPT_LINE] = 0xff;
}

void pci_function_bar(struct pci_function *f, unsigned i, uint64_t bytes, bool is64,
	const struct bus_ops *ops, void *opaque)
{
	uint8_t *w = f->writable + REG_BAR0 + 4 * i;

	f->bars[i] = (struct pci_bar){ .bytes = bytes, .is64 = is64, .ops = ops, .opaque = opaque };
	store_le32(w, (uint32_t)~(bytes - 1));
	if (is64)
		store_le32(w + 4, (uint32_t)(~(bytes - 1) >> 32));
}

void pci_function_rom(struct pci_function *f, uint32_t bytes, const struct bus_ops *ops, void *opaque)
{
	f->bars[PCI_ROM] = (struct pci_bar){ .bytes = bytes, .ops = ops, .opaque = opaque };
	store_le32(f->writable + PCI_ROM_REGISTER, ~(bytes - 1) | ROM_ENABLE);
}

unsigned pci_function_capability(struct pci_function *f, uint8_t id, unsigned len)
{
	unsigned off = f->cap_end;

	if (len < 2 || off + len > PCI_CONFIG_BYTES)
		return 0;
	f->initial[off] = id;
	f->initial[f->last_cap ? f->last_cap + 1 : REG_CAPABILITIES] = (uint8_t)off;
	f->initial[REG_STATUS] |= STATUS_CAPABILITIES;
	f->last_cap = off;
	f->cap_end = ROUND_UP(off + len, 4);
	return off;
}

/* ---- mapping BARs ---- */

uint64_t pci_function_bar_address(const struct pci_function *f, unsigned i)
{
	uint32_t rom = load_le32(f->config + PCI_ROM_REGISTER);
	uint64_t v;

	if (i == PCI_ROM)
		return rom & ROM_ENABLE ? rom & ~(uint32_t)ROM_FLAGS : 0;
	v = load_le32(f->config + REG_BAR0 + 4 * i) & ~(uint32_t)BAR_FLAGS;

	if (f->bars[i].is64)
		v |= (uint64_t)load_le32(f->config + REG_BAR0 + 4 * i + 4) << 32;
	return v;
}

/* Return the address that the guest wants for a BAR; 0: not mapped. */
static uint64_t bar_wanted(const struct pci_function *f, unsigned i)
{
	uint64_t at = pci_function_bar_address(f, i);

	if (!f->bars[i].bytes || !(load_le16(f->config + REG_COMMAND) & COMMAND_MEMORY))
		return 0;
	return at + (f->bars[i].bytes - 1) < at ? 0 : at;
}

static bool bar_unmap_if_moved(struct pci_function *f, unsigned i)
{
	struct pci_bar *b = &f->bars[i];

	if (!b->mapped || b->base == bar_wanted(f, i))
		return false;
	bus_remove(f->host->mmio, b->base, b->opaque);
	b->mapped = false;
	return true;
}

static bool bar_map_if_wanted(struct pci_function *f, unsigned i)
{
	struct pci_bar *b = &f->bars[i];
	uint64_t at = bar_wanted(f, i);

	if (b->mapped || !at || bus_add(f->host->mmio, at, b->bytes, b->ops, b->opaque))
		return false;
	b->mapped = true;
	b->base = at;
	return true;
}

/* Update the bus from the registers of all functions: a BAR that overlapped another one may have
 * moved away. */
static void host_remap(struct pci_function *cause)
{
	uint32_t changed = 1u << cause->slot;
	struct pci_host *p = cause->host;

	for (unsigned s = 0; s < PCI_SLOTS; s++) {
		for (unsigned i = 0; p->functions[s] && i <= PCI_ROM; i++)
			changed |= (uint32_t)bar_unmap_if_moved(p->functions[s], i) << s;
	}
	for (unsigned s = 0; s < PCI_SLOTS; s++) {
		for (unsigned i = 0; p->functions[s] && i <= PCI_ROM; i++)
			changed |= (uint32_t)bar_map_if_wanted(p->functions[s], i) << s;
	}
	for (unsigned s = 0; s < PCI_SLOTS; s++) {
		struct pci_function *f = p->functions[s];

		if ((changed >> s & 1) && f->ops->changed)
			f->ops->changed(f);
	}
}

void pci_function_unmap(struct pci_function *f)
{
	for (unsigned i = 0; i <= PCI_ROM; i++) {
		if (f->bars[i].mapped)
			bus_remove(f->host->mmio, f->bars[i].base, f->bars[i].opaque);
		f->bars[i].mapped = false;
	}
	if (f->ops->changed)
		f->ops->changed(f);
}

static void config_apply(struct pci_function *f)
{
	pci_function_intx_disable(f, load_le16(f->config + REG_COMMAND) & COMMAND_INTX_DISABLE);
	if (f->msix_cap)
		msix_control(f, load_le16(f->config + f->msix_cap + 2));
	host_remap(f);
}

/* ---- configuration accesses ---- */

uint32_t pci_function_read(struct pci_function *f, unsigned off, unsigned size)
{
	uint32_t v;

	if (off % size || size > 4)
		return UINT32_MAX;
	if (off >= PCI_CONFIG_BYTES)
		return 0; /* there are no extended capabilities */
	if (f->ops->config_read && f->ops->config_read(f, off, size, &v))
		return v;
	v = (uint32_t)load_le(f->config + off, size);
	if (off <= REG_STATUS && off + size > REG_STATUS && pci_function_intx_pending(f))
		v |= (uint32_t)STATUS_INTERRUPT << (8 * (REG_STATUS - off));
	return v;
}

void pci_function_write(struct pci_function *f, unsigned off, unsigned size, uint32_t v)
{
	uint32_t before, mask, after;

	if (off % size || size > 4 || off >= PCI_CONFIG_BYTES)
		return;
	if (f->ops->config_write && f->ops->config_write(f, off, size, v))
		return;
	before = (uint32_t)load_le(f->config + off, size);
	mask = (uint32_t)load_le(f->writable + off, size);
	after = (before & ~mask) | (v & mask);
	store_le(f->config + off, size, after);
	/* Only the command register, BARs, the ROM and MSI-X control have an effect. */
	if (after != before && (off < REG_SUBSYSTEM_VENDOR || off / 4 == PCI_ROM_REGISTER / 4 || off >= REG_FIRST_CAPABILITY))
		config_apply(f);
}

/* ---- reset and state of the configuration space ---- */

void pci_function_power_on(struct pci_function *f)
{
	memcpy(f->config, f->initial, sizeof(f->config));
	for (unsigned i = 0; i < PCI_BARS; i++) {
		uint8_t *reg = f->config + REG_BAR0 + 4 * i;
		const struct pci_bar *b = &f->bars[i];

		if (!b->bytes)
			continue;
		if (f->host->config.firmware) {
			store_le32(reg, b->is64 ? BAR_64BIT : 0);
			continue;
		}
		store_le32(reg, (uint32_t)b->initial | (b->is64 ? BAR_64BIT : 0));
		if (b->is64)
			store_le32(reg + 4, (uint32_t)(b->initial >> 32));
	}
	/* Set the interrupt pin and line, as firmware would. */
	if (f->msix_cap || f->initial[REG_CAPABILITIES]) {
		f->config[REG_INTERRUPT_PIN] = 1;
		f->config[REG_INTERRUPT_LINE] = (uint8_t)PCI_INTX_GSI(f->slot);
	}
	if (f->host->config.firmware)
		store_le16(f->config + REG_COMMAND, 0);
	msix_reset(f);
	config_apply(f);
}

void pci_function_reset(struct pci_function *f)
{
	pci_function_intx(f, false);
	LOCK_GUARD(&f->host->lock);
	pci_function_power_on(f);
}

void pci_function_save(struct pci_function *f, struct state_writer *w)
{
	LOCK_GUARD(&f->host->lock);
	state_put_bytes(w, f->config, sizeof(f->config));
	state_put_u8(w, pci_function_intx_pending(f));
	msix_save(f, w);
}

/* Return whether c differs from this device's configuration only in bits that the guest can
 * write. */
static bool config_is_possible(const struct pci_function *f, const uint8_t *c)
{
	for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++) {
		if ((c[i] ^ f->config[i]) & (uint8_t)~f->writable[i])
			return false;
	}
	return true;
}

int pci_function_load(struct pci_function *f, struct state_reader *r, struct err *e)
{
	uint8_t config[PCI_CONFIG_BYTES], intx;
	int ret;

	state_bytes(r, config, sizeof(config));
	intx = state_u8(r);
	if (r->failed || intx > 1)
		return err_set(e, -EINVAL, ERR_CORRUPT, "PCI slot %u: malformed state", f->slot);
	pthread_mutex_lock(&f->host->lock);
	if (!config_is_possible(f, config))
		ret = err_set(e, -EINVAL, ERR_CORRUPT,
			"PCI slot %u: the state is of another device", f->slot);
	else
		ret = msix_load(f, r, e);
	if (!ret) {
		memcpy(f->config, config, sizeof(config));
		config_apply(f);
	}
	pthread_mutex_unlock(&f->host->lock);
	if (!ret)
		pci_function_intx(f, intx);
	return ret;
}
