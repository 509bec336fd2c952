#include "devices/pci/pci.h"
#include "devices/pci/pci_hotplug.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "devices/pci/pci_internal.h"
#include "snapshot/state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define CONFIG_ADDRESS_ENABLE 0x80000000u
#define CONFIG_PORTS 4
#define RESET_CPU 0x04 /* bit of the reset control register; a change from 0 to 1 resets the machine */

static struct pci_function *host_function(struct pci_host *p, unsigned bus, unsigned devfn)
{
	return bus || (devfn & 7) ? NULL : p->functions[devfn >> 3];
}

/* ---- mechanism #1 ---- */

static uint32_t host_config_read(struct pci_host *p, unsigned bus, unsigned devfn, unsigned off,
	unsigned size)
{
	uint32_t v = UINT32_MAX;
	struct pci_function *f;

	LOCK_GUARD(&p->lock);
	f = host_function(p, bus, devfn);
	if (f)
		v = pci_function_read(f, off, size);
	return v;
}

static void host_config_write(struct pci_host *p, unsigned bus, unsigned devfn, unsigned off,
	unsigned size, uint32_t v)
{
	struct pci_function *f;

	LOCK_GUARD(&p->lock);
	f = host_function(p, bus, devfn);
	if (f)
		pci_function_write(f, off, size, v);
}

static uint64_t address_read(void *opaque, uint64_t off, unsigned size)
{
	struct pci_host *p = opaque;
	uint64_t v = UINT64_MAX;

	LOCK_GUARD(&p->lock);
	if (off == 0 && size == 4)
		v = p->address;
	else if (off == 1 && size == 1)
		v = p->reset_control;
	return v;
}

static void address_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct pci_host *p = opaque;
	struct dev_event ev = { .kind = DEV_EVENT_RESET, .device = p->dev.name };
	bool reset = false;

	pthread_mutex_lock(&p->lock);
	if (off == 0 && size == 4) {
		p->address = (uint32_t)value & 0x80fffffcu;
	} else if (off == 1 && size == 1) {
		reset = (value & RESET_CPU) && !(p->reset_control & RESET_CPU);
		p->reset_control = (uint8_t)value & 0x0e;
	}
	pthread_mutex_unlock(&p->lock);
	if (reset)
		dev_event(p->host, &ev);
}

static uint32_t host_address(struct pci_host *p)
{
	LOCK_GUARD(&p->lock);
	return p->address;
}

static uint64_t data_read(void *opaque, uint64_t off, unsigned size)
{
	struct pci_host *p = opaque;
	uint32_t a = host_address(p);

	if (!(a & CONFIG_ADDRESS_ENABLE))
		return UINT64_MAX;
	return host_config_read(p, a >> 16 & 0xff, a >> 8 & 0xff, (a & 0xfc) + (unsigned)off, size);
}

static void data_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct pci_host *p = opaque;
	uint32_t a = host_address(p);

	if (a & CONFIG_ADDRESS_ENABLE)
		host_config_write(p, a >> 16 & 0xff, a >> 8 & 0xff, (a & 0xfc) + (unsigned)off, size,
			(uint32_t)value);
}

/* ---- ECAM ---- */

static uint64_t ecam_read(void *opaque, uint64_t off, unsigned size)
{
	uint64_t v = host_config_read(opaque, 0, (unsigned)(off >> 12), off & 0xfff, MIN(size, 4u));

	if (size == 8)
		v |= (uint64_t)host_config_read(opaque, 0, (unsigned)(off >> 12), (off & 0xfff) + 4, 4)
			<< 32;
	return v;
}

static void ecam_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	host_config_write(opaque, 0, (unsigned)(off >> 12), off & 0xfff, MIN(size, 4u),
		(uint32_t)value);
	if (size == 8)
		host_config_write(opaque, 0, (unsigned)(off >> 12), (off & 0xfff) + 4, 4,
			(uint32_t)(value >> 32));
}

static const struct bus_ops address_bus_ops = { address_read, address_write };
static const struct bus_ops data_bus_ops = { data_read, data_write };
static const struct bus_ops ecam_bus_ops = { ecam_read, ecam_write };

/* ---- INTx ---- */

/* Update a shared line, which is high while any function raises it. irq_lock is held. */
static void intx_apply(struct pci_function *f)
{
	struct pci_host *p = f->host;
	bool raise = f->intx_wanted && !f->intx_disabled;
	unsigned pin = f->slot % PCI_INTX_PINS;

	if (raise == f->intx_raised)
		return;
	f->intx_raised = raise;
	p->intx_holders[pin] += raise ? 1 : -1;
	if (p->intx_holders[pin] == (raise ? 1 : 0))
		dev_irq_set(p->host, PCI_INTX_GSI(f->slot), raise);
}

void pci_function_intx(struct pci_function *f, bool level)
{
	LOCK_GUARD(&f->host->irq_lock);
	f->intx_wanted = level;
	intx_apply(f);
}

void pci_function_intx_disable(struct pci_function *f, bool disabled)
{
	LOCK_GUARD(&f->host->irq_lock);
	f->intx_disabled = disabled;
	intx_apply(f);
}

bool pci_function_intx_pending(struct pci_function *f)
{
	LOCK_GUARD(&f->host->irq_lock);
	return f->intx_wanted;
}

/* ---- functions on the bus ---- */

/* Return the first aligned address at or above *next in a window, and advance *next; 0 when the window is full. */
static uint64_t window_place(uint64_t base, uint64_t len, uint64_t *next, uint64_t bytes)
{
	uint64_t at;

	if (!len || *next > UINT64_MAX - bytes)
		return 0;
	at = ROUND_UP(*next, bytes);
	if (at < base || !range_inside(at - base, bytes, len))
		return 0;
	*next = at + bytes;
	return at;
}

static int host_place_bar(struct pci_host *p, struct pci_bar *b)
{
	const struct pci_host_config *c = &p->config;

	b->initial = 0;
	if (b->is64)
		b->initial = window_place(c->mmio64_base, c->mmio64_bytes, &p->next64, b->bytes);
	if (!b->initial)
		b->initial = window_place(c->mmio32_base, c->mmio32_bytes, &p->next32, b->bytes);
	return b->initial ? 0 : -ENOSPC;
}

/* ---- BARs of functions that are added later ---- */

#define HOT_AREA_BYTES 0x10000 /* room for the BARs of one function */

static bool is_in_area(uint64_t base, uint64_t at, uint64_t bytes)
{
	return at < base + HOT_AREA_BYTES && at + bytes > base;
}

/* An area is taken by BARs that a reset puts there, and by those that lie there now: where a loaded state has them, or
 * where the guest has put them. */
static bool area_is_free(const struct pci_host *p, uint64_t base)
{
	for (unsigned s = 0; s < PCI_SLOTS; s++)
		for (unsigned i = 0; p->functions[s] && i <= PCI_ROM; i++) {
			const struct pci_bar *b = &p->functions[s]->bars[i];

			if (b->bytes && (is_in_area(base, b->initial, b->bytes) ||
						is_in_area(base, pci_function_bar_address(p->functions[s], i), b->bytes)))
				return false;
		}
	return true;
}

/* Place the BARs of a function in a free area. Returns 0; -ENOSPC. */
static int host_place_hot(struct pci_host *p, struct pci_function *f)
{
	uint64_t end = p->config.mmio32_base + p->config.mmio32_bytes, base = end, next;

	do {
		base -= HOT_AREA_BYTES;
		if (end - base > PCI_SLOTS * HOT_AREA_BYTES || base < p->next32)
			return -ENOSPC;
	} while (!area_is_free(p, base));
	next = base;
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pci_bar *b = &f->bars[i];

		if (b->bytes)
			b->initial = window_place(base, HOT_AREA_BYTES, &next, b->bytes);
		if (b->bytes && !b->initial)
			return -ENOSPC;
	}
	return 0;
}

void pci_host_reserve(struct pci_host *p, unsigned slot)
{
	p->reserved |= slot ? 1u << slot : 0;
}

void pci_host_begin_hotplug(struct pci_host *p)
{
	p->hotplug = true;
	p->reserved = 0;
}

uint32_t pci_host_slots(struct pci_host *p)
{
	uint32_t mask = 0;

	LOCK_GUARD(&p->lock);
	for (unsigned s = 0; s < PCI_SLOTS; s++)
		mask |= p->functions[s] ? 1u << s : 0;
	return mask;
}

bool pci_host_view(struct pci_host *p, unsigned slot, struct pci_view *ret)
{
	const struct pci_function *f;

	LOCK_GUARD(&p->lock);
	f = p->functions[slot];
	if (!f)
		return false;
	memcpy(ret->config, f->config, sizeof(ret->config));
	memcpy(ret->bars, f->bars, sizeof(ret->bars));
	return true;
}

/* Fill in where each function goes. Returns false if two would have one slot. */
static bool moves_plan(const struct pci_host *p, const uint8_t to[PCI_SLOTS], struct pci_function *ret[PCI_SLOTS])
{
	for (unsigned s = 0; s < PCI_SLOTS; s++) {
		unsigned at = to[s] ? to[s] : s;

		if (!p->functions[s])
			continue;
		if (at >= PCI_SLOTS || ret[at])
			return false;
		ret[at] = p->functions[s];
	}
	return true;
}

int pci_host_move(struct pci_host *p, const uint8_t to[PCI_SLOTS], struct err *e)
{
	struct pci_function *functions[PCI_SLOTS] = { 0 };

	if (!moves_plan(p, to, functions))
		return err_set(e, -EINVAL, ERR_CORRUPT, "pci: two devices of the state have one slot");
	for (unsigned s = 0; s < PCI_SLOTS; s++)
		if (functions[s] && functions[s]->slot != s)
			pci_function_intx(functions[s], false); /* the line depends on the slot */
	LOCK_GUARD(&p->lock);
	for (unsigned s = 0; s < PCI_SLOTS; s++) {
		p->functions[s] = functions[s];
		if (functions[s])
			functions[s]->slot = s;
	}
	return 0;
}

static int host_find_slot(struct pci_host *p, int slot)
{
	if (slot >= 0)
		return slot >= PCI_SLOTS || p->functions[slot] ? -EBUSY : slot;
	for (slot = p->hotplug ? PCI_HOTPLUG_FIRST_SLOT : 0; slot < PCI_SLOTS; slot++) {
		if (!p->functions[slot] && !(p->reserved >> slot & 1))
			return slot;
	}
	return -ENOSPC;
}

int pci_host_add(struct pci_host *p, struct pci_function *f, int slot, struct err *e)
{
	int s = host_find_slot(p, slot);

	if (s < 0)
		return err_set(e, s, ERR_INVALID, "PCI slot %d is taken or the bus is full", slot);
	LOCK_GUARD(&p->lock);
	if (p->hotplug && host_place_hot(p, f))
		return err_set(e, -ENOSPC, ERR_INVALID, "no room for the PCI BARs of a further device");
	for (unsigned i = 0; i < PCI_BARS && !p->hotplug; i++) {
		if (f->bars[i].bytes && host_place_bar(p, &f->bars[i]))
			return err_set(e, -ENOSPC, ERR_INVALID,
				"no room for a PCI BAR of %llu bytes",
				(unsigned long long)f->bars[i].bytes);
	}
	f->host = p;
	f->slot = (unsigned)s;
	p->functions[s] = f;
	pci_function_power_on(f);
	return 0;
}

void pci_host_remove(struct pci_function *f)
{
	struct pci_host *p = f->host;

	if (!p)
		return;
	pci_function_intx(f, false);
	pthread_mutex_lock(&p->lock);
	p->functions[f->slot] = NULL;
	pci_function_unmap(f);
	pthread_mutex_unlock(&p->lock);
	pthread_mutex_destroy(&f->msix.lock);
	f->host = NULL;
}

/* ---- the host bridge as a device ---- */

static void pci_dev_reset(struct device *d)
{
	struct pci_host *p = container_of(d, struct pci_host, dev);

	pthread_mutex_lock(&p->lock);
	p->address = 0;
	p->reset_control = 0;
	pthread_mutex_unlock(&p->lock);
	pci_function_reset(&p->bridge);
}

static void pci_dev_save(struct device *d, struct state_writer *w)
{
	struct pci_host *p = container_of(d, struct pci_host, dev);

	state_put_u32(w, p->address);
	state_put_u8(w, p->reset_control);
	pci_function_save(&p->bridge, w);
}

static int pci_dev_load(struct device *d, struct state_reader *r, uint16_t version, struct err *e)
{
	struct pci_host *p = container_of(d, struct pci_host, dev);
	uint32_t address = state_u32(r);
	uint8_t reset_control = state_u8(r);
	int ret;

	(void)version;
	if ((address & ~0x80fffffcu) || (reset_control & ~0x0eu))
		return err_set(e, -EINVAL, ERR_CORRUPT, "pci: malformed state");
	ret = pci_function_load(&p->bridge, r, e);
	if (!ret && !state_reader_complete(r))
		ret = err_set(e, -EINVAL, ERR_CORRUPT, "pci: malformed state");
	if (ret)
		return ret;
	p->address = address;
	p->reset_control = reset_control;
	return 0;
}

static void pci_dev_free(struct device *d)
{
	struct pci_host *p = container_of(d, struct pci_host, dev);

	pci_host_remove(&p->bridge);
	bus_remove(p->pio, PCI_CONFIG_ADDRESS_PORT, p);
	bus_remove(p->pio, PCI_CONFIG_DATA_PORT, p);
	if (p->ecam_at)
		bus_remove(p->mmio, p->ecam_at, p);
	pthread_mutex_destroy(&p->lock);
	pthread_mutex_destroy(&p->irq_lock);
	free(p);
}

static const struct device_ops pci_dev_ops = {
	.type = "pci",
	.state_version = 1,
	.reset = pci_dev_reset,
	.save = pci_dev_save,
	.load = pci_dev_load,
	.free = pci_dev_free,
};

/* QEMU's generic PCIe host bridge: guests know it and need no driver for it. */
static const struct pci_ids bridge_ids = {
	.vendor = 0x1b36, .device = 0x0008, .class_code = 0x060000,
};
static const struct pci_function_ops bridge_ops = { 0 };
/* The subsystem tells SeaBIOS that there is a fw_cfg device. */
static const struct pci_ids i440fx_ids = {
	.vendor = 0x8086, .device = 0x1237, .subsystem_vendor = 0x1af4, .subsystem = 0x1100, .revision = 2,
	.class_code = 0x060000,
};

static const struct pci_ids q35_ids = {
	.vendor = 0x8086, .device = 0x29c0, .subsystem_vendor = 0x1af4, .subsystem = 0x1100, .class_code = 0x060000,
};

/* The address and size of ECAM (Intel 316966, section 5.1.13). Versions of OVMF differ in the address. Only bus 0 has
 * devices, so the size has no effect. */
#define Q35_PCIEXBAR 0x60
#define Q35_PCIEXBAR_BITS 0xff0000007ULL
#define Q35_PCIEXBAR_ADDRESS 0xff0000000ULL
#define Q35_PCIEXBAR_ENABLE 1

/* Place ECAM where PCIEXBAR says. */
static void q35_changed(struct pci_function *f)
{
	struct pci_host *p = container_of(f, struct pci_host, bridge);
	uint64_t v = load_le64(f->config + Q35_PCIEXBAR), at = v & Q35_PCIEXBAR_ENABLE ? v & Q35_PCIEXBAR_ADDRESS : 0;

	if (at == p->ecam_at)
		return;
	if (p->ecam_at)
		bus_remove(p->mmio, p->ecam_at, p);
	p->ecam_at = at && !bus_add(p->mmio, at, PCI_ECAM_BUS_BYTES, &ecam_bus_ops, p) ? at : 0;
}

static const struct pci_function_ops q35_ops = { .changed = q35_changed };

/* PAM0 to PAM6 of the i440FX (Intel 290549, section 3.2.18): whether the segments from 0xc0000 on are ROM or RAM. Here
 * they always are RAM with a copy of the ROM; the registers only keep their values. */
#define I440FX_PAM0 0x59
#define I440FX_PAMS 7
#define PAM0_RAM 0x30
#define PAM_RAM 0x33

static void bridge_init(struct pci_host *p)
{
	struct pci_function *f = &p->bridge;

	if (p->config.q35) {
		pci_function_init(f, &q35_ids, &q35_ops);
		store_le64(f->writable + Q35_PCIEXBAR, Q35_PCIEXBAR_BITS);
		return;
	}
	pci_function_init(f, p->config.firmware ? &i440fx_ids : &bridge_ids, &bridge_ops);
	for (unsigned i = 0; p->config.firmware && i < I440FX_PAMS; i++) {
		f->initial[I440FX_PAM0 + i] = i ? PAM_RAM : PAM0_RAM;
		f->writable[I440FX_PAM0 + i] = i ? PAM_RAM : PAM0_RAM;
	}
}

static int host_claim(struct pci_host *p)
{
	int r = bus_add(p->pio, PCI_CONFIG_ADDRESS_PORT, CONFIG_PORTS, &address_bus_ops, p);

	if (!r)
		r = bus_add(p->pio, PCI_CONFIG_DATA_PORT, CONFIG_PORTS, &data_bus_ops, p);
	if (!r && p->config.ecam_base)
		r = bus_add(p->mmio, p->config.ecam_base, PCI_ECAM_BUS_BYTES, &ecam_bus_ops, p);
	p->ecam_at = r ? 0 : p->config.ecam_base;
	return r;
}

int pci_host_new(struct dev_host *h, struct bus *pio, struct bus *mmio,
	const struct pci_host_config *c, struct pci_host **ret_host, struct device **ret_dev,
	struct err *e)
{
	struct pci_host *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return err_set_errno(e, -ENOMEM, "pci");
	p->dev.ops = &pci_dev_ops;
	snprintf(p->dev.name, sizeof(p->dev.name), "pci");
	p->host = h;
	p->pio = pio;
	p->mmio = mmio;
	p->config = *c;
	p->next32 = c->mmio32_base;
	p->next64 = c->mmio64_base;
	pthread_mutex_init(&p->lock, NULL);
	pthread_mutex_init(&p->irq_lock, NULL);
	bridge_init(p);
	r = host_claim(p);
	if (r)
		err_set_errno(e, r, "pci: configuration ports");
	else
		r = pci_host_add(p, &p->bridge, 0, e);
	if (r) {
		pci_dev_free(&p->dev);
		return r;
	}
	*ret_host = p;
	*ret_dev = &p->dev;
	return 0;
}
