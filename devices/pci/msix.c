#include "devices/pci/pci_internal.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"
#include "devices/dev_host.h"
#include "snapshot/state.h"

#include <errno.h>
#include <string.h>

/* PCI 3.0, section 6.8.2. */
#define CAP_MSIX 0x11
#define CAP_MSIX_BYTES 12
#define CONTROL_ENABLE 0x8000
#define CONTROL_MASK 0x4000
#define VECTOR_MASKED 1u
#define ENTRY_BYTES 16
/* Each link and its end give a thread of the host's kernel work, for which nobody is charged. */
#define LINKS_PER_S 256

static bool vector_is_masked(const struct msix *m, unsigned v)
{
	return m->masked || (m->table[v].control & VECTOR_MASKED);
}

/* Send a vector's message, or mark it as pending. m->lock is held. */
static void msix_deliver(struct pci_function *f, unsigned v)
{
	struct msix *m = &f->msix;

	if (vector_is_masked(m, v)) {
		m->pending |= 1ULL << v;
		return;
	}
	m->pending &= ~(1ULL << v);
	f->host->host->ops->msi_send(f->host->host, m->table[v].addr, m->table[v].data);
}

/* ---- eventfds that KVM delivers ---- */

static void wire_unlink(struct pci_function *f, struct msix_wire *w)
{
	if (w->link >= 0)
		f->host->host->ops->msi_unlink(f->host->host, w->fd, w->link);
	w->link = -1;
}

static bool wire_may_link(const struct msix *m, const struct msix_wire *w)
{
	return m->enabled && w->vector < m->nvectors && !vector_is_masked(m, w->vector);
}

/* m->lock is held. */
static bool link_is_allowed(struct msix *m)
{
	uint64_t now_ns = loop_now_ns();

	if (now_ns - m->links_since_ns >= 1000000000ULL) {
		m->links_since_ns = now_ns;
		m->nlinks = 0;
	}
	return m->nlinks++ < LINKS_PER_S;
}

/* Connect a wire according to the present table. m->lock is held. */
static void wire_update(struct pci_function *f, struct msix_wire *w)
{
	const struct dev_host_ops *ops = f->host->host->ops;
	const struct msix_entry *t;

	if (!wire_may_link(&f->msix, w)) {
		wire_unlink(f, w);
		return;
	}
	t = &f->msix.table[w->vector];
	if (w->link >= 0 && (w->addr != t->addr || w->data != t->data))
		wire_unlink(f, w);
	if (w->link >= 0 || !ops->msi_link || !link_is_allowed(&f->msix))
		return;
	w->addr = t->addr;
	w->data = t->data;
	w->link = ops->msi_link(f->host->host, w->fd, w->addr, w->data);
}

static void wires_update(struct pci_function *f)
{
	for (struct msix_wire *w = f->msix.wires; w; w = w->next)
		wire_update(f, w);
}

void msix_wire(struct pci_function *f, struct msix_wire *w, unsigned vector, int fd)
{
	LOCK_GUARD(&f->msix.lock);
	*w = (struct msix_wire){ .next = f->msix.wires, .fd = fd, .vector = vector, .link = -1 };
	f->msix.wires = w;
	wire_update(f, w);
}

void msix_unwire(struct pci_function *f, struct msix_wire *w)
{
	struct msix_wire **at = &f->msix.wires;

	if (w->fd < 0)
		return;
	LOCK_GUARD(&f->msix.lock);
	wire_unlink(f, w);
	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	w->fd = -1;
}

/* ---- masks and pending bits ---- */

/* After a change of the table or of the masks: deliver pending vectors, and connect the wires again. */
static void msix_changed(struct pci_function *f)
{
	struct msix *m = &f->msix;

	for (unsigned v = 0; v < m->nvectors && m->enabled && m->pending; v++) {
		if ((m->pending >> v & 1) && !vector_is_masked(m, v))
			msix_deliver(f, v);
	}
	wires_update(f);
}

void msix_raise(struct pci_function *f, unsigned vector)
{
	struct msix *m = &f->msix;

	if (vector >= m->nvectors)
		return;
	LOCK_GUARD(&m->lock);
	if (m->enabled)
		msix_deliver(f, vector);
}

bool msix_enabled(struct msix *m)
{
	LOCK_GUARD(&m->lock);
	return m->enabled;
}

void msix_control(struct pci_function *f, uint16_t control)
{
	struct msix *m = &f->msix;

	LOCK_GUARD(&m->lock);
	m->enabled = control & CONTROL_ENABLE;
	m->masked = control & CONTROL_MASK;
	msix_changed(f);
}

/* ---- the table and the pending bits in their BAR ---- */

static uint64_t msix_read_dword(const struct msix *m, unsigned off)
{
	unsigned v = off / ENTRY_BYTES;

	if (off >= MSIX_PBA_OFFSET) {
		unsigned bit = (off - MSIX_PBA_OFFSET) * 8;

		return bit < MSIX_VECTORS_MAX ? (uint32_t)(m->pending >> bit) : 0;
	}
	if (v >= m->nvectors)
		return 0;
	switch (off % ENTRY_BYTES) {
	case 0:
		return (uint32_t)m->table[v].addr;
	case 4:
		return (uint32_t)(m->table[v].addr >> 32);
	case 8:
		return m->table[v].data;
	default:
		return m->table[v].control;
	}
}

static void msix_write_dword(struct msix *m, unsigned off, uint32_t value)
{
	unsigned v = off / ENTRY_BYTES;

	if (off >= MSIX_PBA_OFFSET || v >= m->nvectors)
		return;
	switch (off % ENTRY_BYTES) {
	case 0:
		m->table[v].addr = (m->table[v].addr & ~0xffffffffULL) | (value & ~3u);
		break;
	case 4:
		m->table[v].addr = (m->table[v].addr & 0xffffffffULL) | (uint64_t)value << 32;
		break;
	case 8:
		m->table[v].data = value;
		break;
	default:
		m->table[v].control = value & VECTOR_MASKED;
		break;
	}
}

/* Only aligned accesses of 4 or 8 bytes are defined. */
static bool access_is_defined(uint64_t off, unsigned size)
{
	return size >= 4 && off % size == 0;
}

static uint64_t msix_bus_read(void *opaque, uint64_t off, unsigned size)
{
	struct pci_function *f = opaque;
	uint64_t v;

	if (!access_is_defined(off, size))
		return 0;
	LOCK_GUARD(&f->msix.lock);
	v = msix_read_dword(&f->msix, (unsigned)off);
	if (size == 8)
		v |= msix_read_dword(&f->msix, (unsigned)off + 4) << 32;
	return v;
}

static void msix_bus_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct pci_function *f = opaque;

	if (!access_is_defined(off, size))
		return;
	LOCK_GUARD(&f->msix.lock);
	msix_write_dword(&f->msix, (unsigned)off, (uint32_t)value);
	if (size == 8)
		msix_write_dword(&f->msix, (unsigned)off + 4, (uint32_t)(value >> 32));
	msix_changed(f);
}

static const struct bus_ops msix_bus_ops = { msix_bus_read, msix_bus_write };

int pci_function_msix(struct pci_function *f, unsigned bar, unsigned nvectors)
{
	unsigned cap = pci_function_capability(f, CAP_MSIX, CAP_MSIX_BYTES);

	if (!cap || !nvectors || nvectors > MSIX_VECTORS_MAX)
		return -EINVAL;
	f->msix_cap = cap;
	f->msix.nvectors = nvectors;
	store_le16(f->initial + cap + 2, (uint16_t)(nvectors - 1));
	store_le16(f->writable + cap + 2, CONTROL_ENABLE | CONTROL_MASK);
	store_le32(f->initial + cap + 4, MSIX_TABLE_OFFSET | bar);
	store_le32(f->initial + cap + 8, MSIX_PBA_OFFSET | bar);
	pci_function_bar(f, bar, MSIX_BAR_BYTES, false, &msix_bus_ops, f);
	return 0;
}

void msix_reset(struct pci_function *f)
{
	struct msix *m = &f->msix;

	LOCK_GUARD(&m->lock);
	m->enabled = m->masked = false;
	m->pending = 0;
	memset(m->table, 0, sizeof(m->table));
	for (unsigned v = 0; v < m->nvectors; v++)
		m->table[v].control = VECTOR_MASKED;
	wires_update(f);
}

void msix_save(struct pci_function *f, struct state_writer *w)
{
	struct msix *m = &f->msix;

	LOCK_GUARD(&m->lock);
	state_put_u16(w, (uint16_t)m->nvectors);
	state_put_u64(w, m->pending);
	for (unsigned v = 0; v < m->nvectors; v++) {
		state_put_u64(w, m->table[v].addr);
		state_put_u32(w, m->table[v].data);
		state_put_u32(w, m->table[v].control);
	}
}

int msix_load(struct pci_function *f, struct state_reader *r, struct err *e)
{
	struct msix_entry table[MSIX_VECTORS_MAX] = { 0 };
	struct msix *m = &f->msix;
	uint64_t pending;
	bool ok = state_u16(r) == m->nvectors;

	pending = state_u64(r);
	if (m->nvectors < 64 && pending >> m->nvectors)
		ok = false;
	for (unsigned v = 0; v < m->nvectors; v++) {
		table[v].addr = state_u64(r);
		table[v].data = state_u32(r);
		table[v].control = state_u32(r);
		if ((table[v].addr & 3) || (table[v].control & ~VECTOR_MASKED))
			ok = false;
	}
	if (r->failed || !ok)
		return err_set(e, -EINVAL, ERR_CORRUPT, "PCI slot %u: malformed MSI-X state",
			f->slot);
	LOCK_GUARD(&m->lock);
	memcpy(m->table, table, sizeof(table));
	m->pending = pending;
	wires_update(f);
	return 0;
}
