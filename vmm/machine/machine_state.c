#include "vmm/machine/machine_state.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/machine_version.h"
#include "base/util.h"
#include "devices/device.h"
#include "devices/pci/pci.h"
#include "devices/pci/pci_hotplug.h"
#include "devices/virtio/virtio_fs.h"
#include "devices/vmgenid.h"
#include "snapshot/cpu_state.h"
#include "snapshot/state.h"
#include "vmm/agent/agent.h"
#include "vmm/kvm/guest_cpu.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_firmware.h"
#include "vmm/machine/machine_scsi.h"
#include "vmm/machine/machine_vcpus.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Version of the section. 1: without the machine version, and no section "cpu" follows; 2: without the slots, as of a
 * machine version without hot-plug. */
#define MACHINE_VERSION 3
#define MACHINE_VERSION_FIXED_SLOTS 2
#define IRQCHIP_VERSION 1
#define PIT_VERSION 1
#define CLOCK_VERSION 1
#define FROZEN_VERSION 1
#define PIT_HZ 1193182

static const char *const irqchip_names[] = {
	[KVM_IRQCHIP_PIC_MASTER] = "pic0",
	[KVM_IRQCHIP_PIC_SLAVE] = "pic1",
	[KVM_IRQCHIP_IOAPIC] = "ioapic",
};

/* ---- the section "machine": the properties that have to match ---- */

uint32_t machine_hardware_to_boot(const struct machine *m)
{
	return m->cfg.machine ? m->cfg.machine : machine_version_unnamed(m->cfg.firmware);
}

/* Return the version without hot-plug, which states of format version 1 have. */
static uint32_t hardware_oldest(const struct machine *m)
{
	return m->cfg.firmware ? MACHINE_HARDWARE_FIRMWARE_2 : MACHINE_HARDWARE_VERSION_1;
}

static bool hardware_is_known(const struct machine *m, uint32_t hardware)
{
	return machine_version_boots(m->cfg.firmware, hardware) || (hardware == hardware_oldest(m) && m->cfg.firmware != VM_FIRMWARE_UEFI);
}

/* The saved machine, as the section describes it. */
struct saved_machine {
	bool has_cpu;	   /* the state has a section "cpu" */
	uint32_t hardware; /* machine version */
	bool hotplug;	   /* the state has a section of the device "pci-hotplug" */
	bool has_slots;
	uint8_t slots[MACHINE_DEVICES_MAX];
	/* Disks and interfaces of this machine that the saved one lacks; they are to be removed before the load. Empty
	 * unless the caller allows that. */
	bool absent[MACHINE_DEVICES_MAX];
	unsigned nabsent;
	bool disks_absent[VM_DISKS_MAX]; /* of those at a SCSI controller that both machines have */
};

/* Return whether the guest can release a device that it booted with. */
static bool may_be_ejected(const struct device *d)
{
	return !strcmp(d->ops->type, "virtio-blk") || !strcmp(d->ops->type, "virtio-net");
}

static bool may_be_absent(const struct machine *m, const struct device *d)
{
	return may_be_ejected(d) || d == m->scsi;
}

/* Find the disks and interfaces that the state lacks. A damaged state would seem to lack those behind the damage. */
static int absent_find(const struct machine *m, const uint8_t *buf, size_t len, struct saved_machine *ret, struct err *e)
{
	struct state_section s;
	size_t pos = 0;
	int r;

	for (unsigned i = 0; i < m->ndevices; i++)
		ret->absent[i] = may_be_absent(m, m->devices[i]);
	while ((r = state_section_next(buf, len, &pos, &s, e)) > 0)
		for (unsigned i = 0; i < m->ndevices; i++)
			if (!strcmp(m->devices[i]->ops->type, s.name) && !strcmp(m->devices[i]->name, s.instance))
				ret->absent[i] = false;
	for (unsigned i = 0; i < m->ndevices; i++)
		ret->nabsent += ret->absent[i];
	return r;
}

static void machine_put(struct machine *m, struct state_writer *w)
{
	bool hotplug = pci_hotplug_is_on(m->pci_hotplug);

	state_section_begin(w, "machine", "", hotplug ? MACHINE_VERSION : MACHINE_VERSION_FIXED_SLOTS);
	state_put_u64(w, m->cfg.ram_bytes);
	state_put_u32(w, m->cfg.vcpus);
	state_put_u32(w, m->ndevices - !hotplug);
	state_put_u32(w, m->hardware);
	if (hotplug)
		state_put_bytes(w, m->slots, m->ndevices);
	state_section_end(w);
}

static bool slots_take(struct state_reader *r, uint32_t devices, struct saved_machine *ret)
{
	uint32_t taken = 1;

	if (devices > MACHINE_DEVICES_MAX)
		return false;
	state_bytes(r, ret->slots, devices);
	for (unsigned i = 0; i < devices; i++) {
		if (ret->slots[i] >= PCI_SLOTS || (ret->slots[i] && (taken >> ret->slots[i] & 1)))
			return false;
		taken |= 1u << ret->slots[i];
	}
	ret->has_slots = true;
	return true;
}

static int machine_check(struct machine *m, const struct state_section *section, struct saved_machine *ret, struct err *e)
{
	struct state_section own = *section, *s = &own; /* the section is read again */
	uint64_t ram = state_u64(&s->content);
	uint32_t vcpus = state_u32(&s->content), devices = state_u32(&s->content);
	uint32_t hardware = s->version > 1 ? state_u32(&s->content) : hardware_oldest(m), ours;
	bool whole;

	ret->has_cpu = s->version > 1;
	ret->hardware = hardware;
	ret->hotplug = hardware_is_known(m, hardware) && hardware != hardware_oldest(m);
	whole = s->version <= MACHINE_VERSION_FIXED_SLOTS || slots_take(&s->content, devices, ret);
	ours = m->ndevices - !ret->hotplug - ret->nabsent;
	if (!whole || !state_reader_complete(&s->content))
		return err_set(e, -EINVAL, ERR_CORRUPT, "VM state: the machine's section is malformed");
	if (ram != m->cfg.ram_bytes)
		return err_set(e, -EINVAL, ERR_INVALID,
			"VM state: saved with %llu MiB of memory; this VM has %llu MiB",
			(unsigned long long)(ram / MIB), (unsigned long long)(m->cfg.ram_bytes / MIB));
	if (vcpus != m->cfg.vcpus)
		return err_set(e, -EINVAL, ERR_INVALID, "VM state: saved with %u vCPUs; this VM has %u",
			vcpus, m->cfg.vcpus);
	if (!hardware_is_known(m, hardware))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"VM state: saved with machine version %u; this Cairn builds version %u; " STATE_NEWER_REMEDY,
			hardware, machine_version_newest(m->cfg.firmware));
	if (devices != ours)
		return err_set(e, -EINVAL, ERR_INVALID, "VM state: saved with %u devices; this VM has %u",
			devices, ours);
	return 0;
}

unsigned machine_slot(const struct machine *m, const struct device *d)
{
	for (unsigned i = 0; i < m->ndevices; i++)
		if (m->devices[i] == d)
			return m->slots[i];
	return 0;
}

uint32_t machine_eject_slots(const struct machine *m, uint32_t hardware)
{
	uint32_t slots = PCI_HOTPLUG_SLOTS;

	if (!machine_version_ejects(hardware))
		return 0;
	for (unsigned i = 0; i < m->ndevices; i++)
		if (may_be_ejected(m->devices[i]))
			slots |= 1u << m->slots[i];
		else if (m->devices[i] != m->scsi)
			slots &= ~(1u << m->slots[i]); /* a UEFI's bridge */
	return slots;
}

/* Make the machine one of that version, with its devices in the slots that they had, or in consecutive ones. */
static int machine_fit(struct machine *m, const struct saved_machine *saved, struct err *e)
{
	uint8_t to[PCI_SLOTS] = { 0 }, slots[MACHINE_DEVICES_MAX] = { 0 }, next = 1;
	int r;

	/* A machine without hot-plug has its devices in a row. */
	for (unsigned i = 0; i < m->ndevices; i++)
		slots[i] = saved->has_slots ? saved->slots[i] : m->slots[i] ? next++ : 0;
	for (unsigned i = 0; i < m->ndevices; i++) {
		if (!slots[i] != !m->slots[i])
			return err_set(e, -EINVAL, ERR_CORRUPT, "VM state: %s has PCI slot %u", m->devices[i]->name, slots[i]);
		to[m->slots[i]] = slots[i];
	}
	to[0] = 0;
	r = pci_host_move(m->pci, to, e);
	if (r < 0)
		return r;
	memcpy(m->slots, slots, sizeof(m->slots));
	pci_hotplug_enable(m->pci_hotplug, saved->hotplug);
	m->hardware = saved->hardware;
	return machine_update_firmware(m, e);
}

int machine_hardware_boot(struct machine *m, struct err *e)
{
	struct saved_machine boots = { .hardware = machine_hardware_to_boot(m) };

	boots.hotplug = boots.hardware != MACHINE_HARDWARE_VERSION_1;
	boots.has_slots = boots.hotplug;
	memcpy(boots.slots, m->slots, sizeof(m->slots));
	return machine_fit(m, &boots, e);
}

/* ---- the section "cpu": the processor that the guest sees ---- */

static int cpu_check(struct machine *m, struct state_section *s, struct err *e)
{
	struct cpu_state c;
	int r = cpu_state_take(&s->content, &c, e);

	if (!r)
		r = guest_cpu_check(&m->vcpus, &c, e);
	cpu_state_done(&c);
	return r;
}

static int cpu_load(struct machine *m, struct state_section *s, struct err *e)
{
	char more[sizeof(m->cpu_more)];
	struct cpu_state c;
	int r = cpu_state_take(&s->content, &c, e);

	if (!r && guest_cpu_more(&m->vcpus, &c, more, sizeof(more))) {
		memcpy(m->cpu_more, more, sizeof(more));
		log_warn(NULL, "the guest sees processor features here that it did not see before: %s", more);
	}
	if (!r)
		r = guest_cpu_load(&m->vcpus, &c, e);
	cpu_state_done(&c);
	return r;
}

/* ---- interrupt controllers ---- */

static void ioapic_put(const struct kvm_ioapic_state *s, struct state_writer *w)
{
	state_put_u64(w, s->base_address);
	state_put_u32(w, s->ioregsel);
	state_put_u32(w, s->id);
	state_put_u32(w, s->irr);
	for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
		state_put_u64(w, s->redirtbl[i].bits);
}

static void ioapic_take(struct kvm_ioapic_state *s, struct state_reader *r)
{
	s->base_address = state_u64(r);
	s->ioregsel = state_u32(r);
	s->id = state_u32(r);
	s->irr = state_u32(r);
	for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
		s->redirtbl[i].bits = state_u64(r);
}

static int irqchip_put(struct machine *m, unsigned id, struct state_writer *w, struct err *e)
{
	struct kvm_irqchip chip = { .chip_id = id };
	int r = kvm_ioctl(m->kvm.vm_fd, KVM_GET_IRQCHIP, &chip);

	if (r < 0)
		return err_set(e, r, ERR_HOST, "KVM_GET_IRQCHIP: %s", strerror(-r));
	state_section_begin(w, "irqchip", irqchip_names[id], IRQCHIP_VERSION);
	if (id == KVM_IRQCHIP_IOAPIC)
		ioapic_put(&chip.chip.ioapic, w);
	else
		state_put_bytes(w, &chip.chip.pic, sizeof(chip.chip.pic)); /* 16 bytes, one per field */
	state_section_end(w);
	return 0;
}

static int irqchip_load(struct machine *m, struct state_section *s, struct err *e)
{
	struct kvm_irqchip chip = { 0 };
	int r;

	while (chip.chip_id < ARRAY_SIZE(irqchip_names) &&
		strcmp(irqchip_names[chip.chip_id], s->instance))
		chip.chip_id++;
	if (chip.chip_id == KVM_IRQCHIP_IOAPIC)
		ioapic_take(&chip.chip.ioapic, &s->content);
	else
		state_bytes(&s->content, &chip.chip.pic, sizeof(chip.chip.pic));
	if (!state_reader_complete(&s->content))
		return err_set(e, -EINVAL, ERR_CORRUPT, "VM state: section %s is malformed", s->instance);
	r = kvm_ioctl(m->kvm.vm_fd, KVM_SET_IRQCHIP, &chip);
	return r < 0 ? err_set(e, r, ERR_HOST, "KVM_SET_IRQCHIP: %s", strerror(-r)) : 0;
}

/* ---- PIT and kvm-clock ---- */

/* KVM_SET_PIT2 restarts each counter, so a state has the rest of a one-shot count, by which a guest may measure time.
 * KVM does not say when channel 0 began. */
static uint32_t pit_count_left(const struct kvm_pit_channel_state *c, uint64_t now_ns)
{
	uint64_t begun = (uint64_t)c->count_load_time, ticks;

	if (c->mode || !begun || now_ns < begun)
		return c->count;
	ticks = (uint64_t)((unsigned __int128)(now_ns - begun) * PIT_HZ / 1000000000);
	return ticks < c->count ? c->count - (uint32_t)ticks : 1;
}

static int pit_put(struct machine *m, struct state_writer *w, struct err *e)
{
	struct kvm_pit_state2 p;
	int r = kvm_ioctl(m->kvm.vm_fd, KVM_GET_PIT2, memset(&p, 0, sizeof(p)));

	if (r < 0)
		return err_set(e, r, ERR_HOST, "KVM_GET_PIT2: %s", strerror(-r));
	state_section_begin(w, "pit", "", PIT_VERSION);
	for (unsigned i = 0; i < ARRAY_SIZE(p.channels); i++) {
		const struct kvm_pit_channel_state *c = &p.channels[i];

		state_put_u32(w, pit_count_left(c, loop_now_ns()));
		state_put_u16(w, c->latched_count);
		state_put_bytes(w, &c->count_latched, 10); /* ten u8 fields in a row */
		state_put_u64(w, (uint64_t)c->count_load_time);
	}
	state_put_u32(w, p.flags);
	state_section_end(w);
	return 0;
}

static int pit_load(struct machine *m, struct state_section *s, struct err *e)
{
	struct kvm_pit_state2 p = { 0 };
	int r;

	for (unsigned i = 0; i < ARRAY_SIZE(p.channels); i++) {
		struct kvm_pit_channel_state *c = &p.channels[i];

		c->count = state_u32(&s->content);
		c->latched_count = state_u16(&s->content);
		state_bytes(&s->content, &c->count_latched, 10);
		c->count_load_time = (int64_t)state_u64(&s->content);
	}
	p.flags = state_u32(&s->content);
	if (!state_reader_complete(&s->content))
		return err_set(e, -EINVAL, ERR_CORRUPT, "VM state: the PIT's section is malformed");
	r = kvm_ioctl(m->kvm.vm_fd, KVM_SET_PIT2, &p);
	return r < 0 ? err_set(e, r, ERR_HOST, "KVM_SET_PIT2: %s", strerror(-r)) : 0;
}

static int clock_put(struct machine *m, struct state_writer *w, struct err *e)
{
	struct kvm_clock_data c = { 0 };
	int r = kvm_ioctl(m->kvm.vm_fd, KVM_GET_CLOCK, &c);

	if (r < 0)
		return err_set(e, r, ERR_HOST, "KVM_GET_CLOCK: %s", strerror(-r));
	state_section_begin(w, "clock", "", CLOCK_VERSION);
	state_put_u64(w, c.clock);
	state_section_end(w);
	return 0;
}

/* kvm-clock continues from its saved value, so no time has passed for the guest. */
static int clock_load(struct machine *m, struct state_section *s, struct err *e)
{
	struct kvm_clock_data c = { .clock = state_u64(&s->content) };
	int r;

	if (!state_reader_complete(&s->content))
		return err_set(e, -EINVAL, ERR_CORRUPT, "VM state: the clock's section is malformed");
	r = kvm_ioctl(m->kvm.vm_fd, KVM_SET_CLOCK, &c);
	return r < 0 ? err_set(e, r, ERR_HOST, "KVM_SET_CLOCK: %s", strerror(-r)) : 0;
}

/* ---- sections of devices ---- */

static void device_put(struct device *d, struct state_writer *w)
{
	state_section_begin(w, d->ops->type, d->name, d->ops->state_version);
	if (d->ops->save)
		d->ops->save(d, w);
	state_section_end(w);
}

static struct device *device_find(struct machine *m, const struct state_section *s)
{
	for (unsigned i = 0; i < m->ndevices; i++)
		if (!strcmp(m->devices[i]->ops->type, s->name) && !strcmp(m->devices[i]->name, s->instance))
			return m->devices[i];
	return NULL;
}

static int device_check(struct machine *m, const struct state_section *s, struct saved_machine *saved, struct err *e)
{
	struct device *d = device_find(m, s);
	int r = d && d->ops->check ? d->ops->check(d, &s->content, s->version, e) : 0;

	return !r && d && d == m->scsi ? machine_scsi_check(m, s, saved->disks_absent, e) : r;
}

/* Refuse a state that lacks a disk at the SCSI controller. */
static int disks_check(const struct machine *m, const struct saved_machine *saved, struct err *e)
{
	for (unsigned i = 0; i < m->ndisks; i++)
		if (saved->disks_absent[i])
			return err_set(e, -EINVAL, ERR_INVALID, "VM state: saved without the disk %s; this VM has it", m->disks[i].id);
	return 0;
}

static int device_load(struct device *d, struct state_section *s, struct err *e)
{
	if (!d->ops->load)
		return state_reader_complete(&s->content)
			? 0
			: err_set(e, -EINVAL, ERR_CORRUPT, "VM state: section %s is malformed", d->name);
	return d->ops->load(d, &s->content, s->version, e);
}

/* ---- saving the whole state ---- */

/* Present only if the guest's file systems may be frozen by its agent (agent_needs_thaw()). The restoring side has to
 * thaw them. */
#define FROZEN_SECTION "frozen"

/* The process that serves a folder knows the files that the guest has open, which no saved state has. */
static int shares_check_unused(const struct machine *m, struct err *e)
{
	for (unsigned i = 0; i < m->nshares; i++)
		if (virtio_fs_is_used(m->shares[i]))
			return err_set(e, -EBUSY, ERR_BUSY, "the guest uses the shared folder '%s', whose open files no saved state has; "
				"unmount it in the guest first (umount), and mount it again afterwards", virtio_fs_tag(m->shares[i]));
	return 0;
}

int machine_save(struct machine *m, struct state_writer *w, struct err *e)
{
	int r = shares_check_unused(m, e);

	if (r < 0)
		return r;
	machine_put(m, w);
	r = guest_cpu_save(&m->vcpus, w, e);
	for (unsigned i = 0; i < m->cfg.vcpus && !r; i++)
		r = vcpu_save(&m->vcpus.vcpu[i], w, e);
	for (unsigned i = 0; i < ARRAY_SIZE(irqchip_names) && !r; i++)
		r = irqchip_put(m, i, w, e);
	if (!r)
		r = pit_put(m, w, e);
	if (!r)
		r = clock_put(m, w, e);
	for (unsigned i = 0; i < m->ndevices && !r; i++)
		if (m->devices[i] != m->pci_hotplug || pci_hotplug_is_on(m->pci_hotplug))
			device_put(m->devices[i], w);
	if (agent_needs_thaw(m->agent)) {
		state_section_begin(w, FROZEN_SECTION, "", FROZEN_VERSION);
		state_section_end(w);
	}
	if (!r && w->failed)
		r = err_set_errno(e, -ENOMEM, "VM state");
	return r;
}

/* ---- checking and loading the sections in their order ---- */

struct expected {
	const char *name, *instance;
	uint16_t version; /* newest known version */
	bool optional;
	char number[16];
};

/* Return the n-th device that the saved machine has, too; NULL: none. */
static const struct device *device_expected(const struct machine *m, const struct saved_machine *saved, unsigned n)
{
	for (unsigned i = 0; i < m->ndevices; i++)
		if (!saved->absent[i] && (m->devices[i] != m->pci_hotplug || saved->hotplug) && !n--)
			return m->devices[i];
	return NULL;
}

/* Describe the n-th expected section. Returns false after the last. */
static bool section_expected(const struct machine *m, const struct saved_machine *saved, unsigned n, struct expected *x)
{
	unsigned ndevices = m->ndevices - !saved->hotplug - saved->nabsent;
	const struct device *d;

	x->instance = "";
	x->optional = false;
	if (!n--)
		return x->name = "machine", x->version = MACHINE_VERSION, true;
	if (saved->has_cpu && !n--)
		return x->name = CPU_STATE_SECTION, x->version = CPU_STATE_VERSION, true;
	if (n < m->cfg.vcpus) {
		snprintf(x->number, sizeof(x->number), "%u", n);
		return x->name = "vcpu", x->instance = x->number, x->version = VCPU_STATE_VERSION, true;
	}
	n -= m->cfg.vcpus;
	if (n < ARRAY_SIZE(irqchip_names))
		return x->name = "irqchip", x->instance = irqchip_names[n],
		       x->version = IRQCHIP_VERSION, true;
	n -= ARRAY_SIZE(irqchip_names);
	if (!n--)
		return x->name = "pit", x->version = PIT_VERSION, true;
	if (!n--)
		return x->name = "clock", x->version = CLOCK_VERSION, true;
	if (n == ndevices && m->agent)
		return x->name = FROZEN_SECTION, x->version = FROZEN_VERSION, x->optional = true;
	d = device_expected(m, saved, n);
	if (!d)
		return false;
	return x->name = d->ops->type, x->instance = d->name, x->version = d->ops->state_version, true;
}

static int section_check(const struct machine *m, const struct saved_machine *saved, unsigned n, const struct state_section *s,
	struct err *e)
{
	struct expected x;

	if (!section_expected(m, saved, n, &x))
		return err_set(e, -EINVAL, ERR_CORRUPT, "VM state: more sections than this VM has "
			"devices");
	if (strcmp(s->name, x.name) || strcmp(s->instance, x.instance))
		return err_set(e, -EINVAL, ERR_INVALID,
			"VM state: section %s '%s' where this VM has %s '%s'; the state belongs to "
			"another VM", s->name,
			s->instance, x.name, x.instance);
	if (s->version > x.version || !s->version)
		return err_set(e, -EINVAL, ERR_UNSUPPORTED,
			"VM state: section %s '%s' has version %u; this Cairn knows up to %u; " STATE_NEWER_REMEDY, s->name,
			s->instance, s->version, x.version);
	return 0;
}

static int state_check(struct machine *m, const uint8_t *buf, size_t len, bool lacks, struct saved_machine *ret_saved, struct err *e)
{
	struct state_section s;
	struct expected x;
	size_t pos = 0;
	unsigned n = 0;
	int r;

	*ret_saved = (struct saved_machine){ 0 };
	if (lacks && (r = absent_find(m, buf, len, ret_saved, e)) < 0)
		return r;
	while ((r = state_section_next(buf, len, &pos, &s, e)) > 0) {
		r = section_check(m, ret_saved, n, &s, e);
		/* Compare the machine first, so that the error names the difference rather than a
		 * section. */
		if (!r && !n)
			r = machine_check(m, &s, ret_saved, e);
		else if (!r && ret_saved->has_cpu && n == 1)
			r = cpu_check(m, &s, e);
		else if (!r)
			r = device_check(m, &s, ret_saved, e);
		if (r < 0)
			return r;
		n++;
	}
	if (!r && section_expected(m, ret_saved, n, &x) && !x.optional)
		r = err_set(e, -EINVAL, ERR_CORRUPT, "VM state: ends before section %s '%s'", x.name, x.instance);
	return r || lacks ? r : disks_check(m, ret_saved, e);
}

int machine_state_check(struct machine *m, const uint8_t *buf, size_t len, struct err *e)
{
	struct saved_machine saved;

	return state_check(m, buf, len, false, &saved, e);
}

static bool device_is_absent(const struct machine *m, const struct saved_machine *saved, const struct device *d)
{
	for (unsigned i = 0; i < m->ndevices; i++)
		if (m->devices[i] == d)
			return saved->absent[i];
	return false;
}

int machine_state_check_lacking(struct machine *m, const uint8_t *buf, size_t len, struct machine_absent *ret_absent, struct err *e)
{
	struct saved_machine saved;
	int r = state_check(m, buf, len, true, &saved, e);

	for (unsigned i = 0; i < m->ndisks; i++)
		ret_absent->disks[i] = saved.disks_absent[i] || device_is_absent(m, &saved, m->disks[i].dev);
	for (unsigned i = 0; i < m->nnics; i++)
		ret_absent->interfaces[i] = device_is_absent(m, &saved, m->nics[i].dev);
	return r;
}

static int frozen_load(struct machine *m, struct state_section *s, struct err *e)
{
	if (!state_reader_complete(&s->content))
		return err_set(e, -EINVAL, ERR_CORRUPT, "VM state: section " FROZEN_SECTION " is malformed");
	agent_restored(m->agent, true);
	return 0;
}

static int section_load(struct machine *m, struct state_section *s, struct err *e)
{
	if (!strcmp(s->name, "machine"))
		return 0; /* machine_check() has done it */
	if (!strcmp(s->name, CPU_STATE_SECTION))
		return cpu_load(m, s, e);
	if (!strcmp(s->name, "vcpu"))
		return vcpu_load(&m->vcpus.vcpu[strtoul(s->instance, NULL, 10)], &s->content, s->version,
			e);
	if (!strcmp(s->name, "irqchip"))
		return irqchip_load(m, s, e);
	if (!strcmp(s->name, "pit"))
		return pit_load(m, s, e);
	if (!strcmp(s->name, "clock"))
		return clock_load(m, s, e);
	if (!strcmp(s->name, FROZEN_SECTION))
		return frozen_load(m, s, e);
	return device_load(device_find(m, s), s, e);
}

int machine_load(struct machine *m, const uint8_t *buf, size_t len, struct err *e)
{
	struct saved_machine saved;
	int r = state_check(m, buf, len, false, &saved, e);
	struct state_section s;
	size_t pos = 0;

	if (!r)
		r = machine_fit(m, &saved, e);
	agent_restored(m->agent, false);
	m->cpu_more[0] = 0;
	m->stopped_ns = 1; /* the saved VM may have stood for long */
	while (!r && (r = state_section_next(buf, len, &pos, &s, e)) > 0)
		r = section_load(m, &s, e);
	machine_scsi_loaded(m);
	if (!r)
		machine_vcpus_loaded(m);
	/* A VM that is handed over keeps its generation id: no second guest continues from this state. */
	if (!r && !m->cfg.taken_over)
		vmgenid_renew(m->vmgenid, true);
	return r;
}
