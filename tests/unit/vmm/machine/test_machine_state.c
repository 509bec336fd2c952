/* A machine's state is saved, lost by a reset and loaded again: the guest continues where it
 * was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/loop.h"
#include "devices/bus.h"
#include "devices/pci/pci_hotplug.h"
#include "snapshot/state.h"
#include "vmm/agent/agent.h"
#include "vmm/kvm/host_files.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_state.h"

#include <elf.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MSR_TSC_DEADLINE 0x6e0u
#define RAM_BYTES (8u << 20)
#define COUNTER_GPA 0x200000u
#define LOAD_GPA 0x100000u

/* inc dword [COUNTER_GPA]; inc eax; jmp back */
static const uint8_t counting[] = { 0xff, 0x05, 0x00, 0x00, 0x20, 0x00, 0x40, 0xeb, 0xf7 };

struct image {
	Elf64_Ehdr h;
	Elf64_Phdr p[2];
	uint32_t note[5];
	uint8_t code[sizeof(counting)];
};

static int kernel_fd(void)
{
	struct image i = { .h = { .e_type = ET_EXEC, .e_machine = EM_X86_64, .e_version = 1,
				   .e_phoff = offsetof(struct image, p), .e_ehsize = sizeof(Elf64_Ehdr),
				   .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 2 },
		.note = { 4, 4, 18, 0, LOAD_GPA } };
	int fd = memfd_create("guest", MFD_CLOEXEC);

	memcpy(i.h.e_ident, ELFMAG "\2\1\1", 7);
	memcpy(&i.note[3], "Xen", 4);
	memcpy(i.code, counting, sizeof(counting));
	i.p[0] = (Elf64_Phdr){ .p_type = PT_LOAD, .p_offset = offsetof(struct image, code),
		.p_paddr = LOAD_GPA, .p_filesz = sizeof(counting), .p_memsz = sizeof(counting) };
	i.p[1] = (Elf64_Phdr){ .p_type = PT_NOTE, .p_offset = offsetof(struct image, note),
		.p_filesz = sizeof(i.note), .p_memsz = sizeof(i.note) };
	assert_int_equal(write(fd, &i, sizeof(i)), sizeof(i));
	return fd;
}

static void on_event(void *opaque, const struct dev_event *ev)
{
	(void)opaque;
	(void)ev;
	fail_msg("a device event");
}

static void on_fault(void *opaque, unsigned vcpu, enum vm_reason reason, const char *detail)
{
	(void)opaque;
	fail_msg("vCPU %u: %s: %s", vcpu, vm_reason_name(reason), detail);
}

struct fixture {
	struct loop *loop;
	struct machine *m;
};

static struct machine *machine_with(struct loop *l, uint64_t ram, unsigned vcpus)
{
	static const struct machine_listener listener = { .event = on_event, .fault = on_fault };
	struct vm_config c = { .name = "test", .ram_bytes = ram, .vcpus = vcpus, .initrd_fd = VM_NO_FD,
		.log_fd = VM_NO_FD, .end_fd = VM_NO_FD, .restore_fd = VM_NO_FD, .working_sets_fd = VM_NO_FD, .rng = 1,
		.virtio_console = 1, .guest_agent = 1, .machine = 6 };
	int fds[1] = { kernel_fd() };
	struct host_files host;
	struct machine *m = NULL;
	struct err e = { 0 };

	host_files_open(&host);
	if (machine_new(&c, fds, 1, -1, NULL, &host, l, &listener, &m, &e) < 0 || machine_boot(m, &e) < 0 ||
		machine_start_threads(m, &e) < 0)
		fail_msg("%s", e.msg);
	host_files_done(&host);
	return m;
}

static bool kvm_is_here(void)
{
	return access("/dev/kvm", R_OK | W_OK) == 0;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	*state = f;
	if (!kvm_is_here())
		return 0;
	assert_int_equal(loop_new(64, &f->loop, NULL), 0);
	f->m = machine_with(f->loop, RAM_BYTES, 2);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	machine_free(f->m);
	loop_free(f->loop);
	free(f);
	return 0;
}

static void need_kvm(void)
{
	if (kvm_is_here())
		return;
	print_message("skipped: no access to /dev/kvm\n");
	skip();
}

static uint32_t counter(struct machine *m)
{
	return *(volatile uint32_t *)(void *)(m->mem.host + COUNTER_GPA);
}

static uint32_t eax(struct machine *m)
{
	struct kvm_regs r;

	assert_int_equal(kvm_ioctl(m->vcpus.vcpu[0].fd, KVM_GET_REGS, &r), 0);
	return (uint32_t)r.rax;
}

/* Run until the counter has grown by at least n. */
static void run_for(struct machine *m, uint32_t n)
{
	uint32_t from = counter(m);

	machine_resume(m);
	while (counter(m) - from < n)
		usleep(100);
	machine_pause(m);
}

static void assert_in_step(struct machine *m)
{
	uint32_t ahead = counter(m) - eax(m);

	assert_in_range(ahead, 0, 1); /* the vCPU may be between the two instructions */
}

static void save(struct machine *m, struct state_writer *w)
{
	struct err e = { 0 };

	state_writer_init(w);
	if (machine_save(m, w, &e) < 0)
		fail_msg("%s", e.msg);
}

static void test_loaded_guest_continues(void **state)
{
	struct fixture *f = *state;
	struct state_writer w;
	uint8_t *ram = malloc(RAM_BYTES);
	uint32_t at, reg;
	struct err e = { 0 };

	need_kvm();
	run_for(f->m, 1000);
	assert_in_step(f->m);
	at = counter(f->m);
	reg = eax(f->m);
	save(f->m, &w);
	memcpy(ram, f->m->mem.host, RAM_BYTES);
	run_for(f->m, 1000);
	assert_int_equal(machine_reset(f->m, &e), 0);
	assert_int_equal(counter(f->m), 0);
	memcpy(f->m->mem.host, ram, RAM_BYTES);
	if (machine_load(f->m, w.buf, w.len, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(counter(f->m), at);
	assert_int_equal(eax(f->m), reg);
	run_for(f->m, 1000);
	assert_in_step(f->m);
	assert_true(counter(f->m) - at >= 1000);
	state_writer_done(&w);
	free(ram);
}

/* Everything except time is equal when saved, loaded and saved again. */
static void test_save_after_load_is_identical(void **state)
{
	struct fixture *f = *state;
	struct state_writer a, b;
	struct state_section sa, sb;
	size_t pa = 0, pb = 0;
	struct err e = { 0 };

	need_kvm();
	run_for(f->m, 100);
	save(f->m, &a);
	assert_int_equal(machine_reset(f->m, &e), 0);
	assert_int_equal(machine_load(f->m, a.buf, a.len, &e), 0);
	save(f->m, &b);
	while (state_section_next(a.buf, a.len, &pa, &sa, &e) > 0) {
		assert_int_equal(state_section_next(b.buf, b.len, &pb, &sb, &e), 1);
		assert_string_equal(sa.name, sb.name);
		assert_string_equal(sa.instance, sb.instance);
		assert_int_equal(sa.content.len, sb.content.len);
		if (strcmp(sa.name, "clock") && strcmp(sa.name, "vcpu") && strcmp(sa.name, "pit") &&
			strcmp(sa.name, "rtc") && strcmp(sa.name, "acpi-pm") &&
			memcmp(sa.content.buf, sb.content.buf, sa.content.len))
			fail_msg("%s '%s' differs", sa.name, sa.instance);
	}
	state_writer_done(&a);
	state_writer_done(&b);
}

/* Set up the first vCPU as Linux does. */
static void deadline_arm(struct machine *m, uint64_t deadline)
{
	int fd = m->vcpus.vcpu[0].fd;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[1];
	} msr = { .head.nmsrs = 1, .e[0] = { .index = MSR_TSC_DEADLINE, .data = deadline } };
	uint32_t spurious = 0x1ff, lvt_timer = 2u << 17 | 0x40;
	struct kvm_lapic_state lapic;

	assert_int_equal(kvm_ioctl(fd, KVM_GET_LAPIC, &lapic), 0);
	memcpy(lapic.regs + 0xf0, &spurious, sizeof(spurious));
	memcpy(lapic.regs + 0x320, &lvt_timer, sizeof(lvt_timer));
	assert_int_equal(kvm_ioctl(fd, KVM_SET_LAPIC, &lapic), 0);
	assert_int_equal(kvm_ioctl(fd, KVM_SET_MSRS, &msr), 1);
}

static uint64_t deadline_of(struct machine *m)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[1];
	} msr = { .head.nmsrs = 1, .e[0].index = MSR_TSC_DEADLINE };

	assert_int_equal(kvm_ioctl(m->vcpus.vcpu[0].fd, KVM_GET_MSRS, &msr), 1);
	return msr.e[0].data;
}

/* KVM accepts a deadline only when the LAPIC's timer is in deadline mode: without that order the
 * guest hangs at its next timer. */
static void test_tsc_deadline_survives_load(void **state)
{
	const uint64_t never = UINT64_MAX / 4;
	struct fixture *f = *state;
	struct state_writer w;
	struct err e = { 0 };

	need_kvm();
	deadline_arm(f->m, never);
	if (!deadline_of(f->m)) {
		print_message("skipped: this KVM has no TSC deadline\n");
		skip();
	}
	save(f->m, &w);
	assert_int_equal(machine_reset(f->m, &e), 0);
	assert_int_equal(deadline_of(f->m), 0);
	assert_int_equal(machine_load(f->m, w.buf, w.len, &e), 0);
	assert_true(deadline_of(f->m) == never);
	state_writer_done(&w);
}

/* State that the test guests do not use, with a distinct value in each. */
struct registers {
	struct kvm_xsave xsave;
	struct kvm_debugregs debug;
	struct kvm_pit_state2 pit;
	struct kvm_irqchip pic, ioapic;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[2];
	} msrs;
	struct kvm_sregs sregs;
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp;
};

static void registers_get(struct machine *m, struct registers *r)
{
	int fd = m->vcpus.vcpu[0].fd, vm = m->kvm.vm_fd;

	memset(r, 0, sizeof(*r));
	r->ioapic.chip_id = KVM_IRQCHIP_IOAPIC;
	r->msrs.head.nmsrs = 2;
	r->msrs.e[0].index = 0xc0000082; /* LSTAR */
	r->msrs.e[1].index = 0xc0000102; /* KERNEL_GS_BASE */
	assert_int_equal(kvm_ioctl(fd, KVM_GET_XSAVE, &r->xsave), 0);
	assert_int_equal(kvm_ioctl(fd, KVM_GET_DEBUGREGS, &r->debug), 0);
	assert_int_equal(kvm_ioctl(fd, KVM_GET_MSRS, &r->msrs), 2);
	assert_int_equal(kvm_ioctl(fd, KVM_GET_SREGS, &r->sregs), 0);
	assert_int_equal(kvm_ioctl(fd, KVM_GET_VCPU_EVENTS, &r->events), 0);
	assert_int_equal(kvm_ioctl(m->vcpus.vcpu[1].fd, KVM_GET_MP_STATE, &r->mp), 0);
	assert_int_equal(kvm_ioctl(vm, KVM_GET_PIT2, &r->pit), 0);
	assert_int_equal(kvm_ioctl(vm, KVM_GET_IRQCHIP, &r->pic), 0);
	assert_int_equal(kvm_ioctl(vm, KVM_GET_IRQCHIP, &r->ioapic), 0);
}

static uint8_t *xmm0(struct registers *r)
{
	return (uint8_t *)r->xsave.region + 160;
}

/* Set all of them. v: below 16. */
static void registers_set(struct machine *m, uint8_t v)
{
	int fd = m->vcpus.vcpu[0].fd, vm = m->kvm.vm_fd;
	struct registers r;

	registers_get(m, &r);
	memset(xmm0(&r), v, 16);
	r.xsave.region[512 / 4] |= 3; /* x87 and SSE are in use */
	r.debug.db[2] = 0x1000u + v;
	r.msrs.e[0].data = r.msrs.e[1].data = 0x2000u + v;
	r.sregs.cr2 = 0x3000u + v;
	r.events.nmi.masked = v & 1;
	r.mp.mp_state = v & 1 ? KVM_MP_STATE_HALTED : KVM_MP_STATE_INIT_RECEIVED;
	r.pit.channels[0].count = 0x4000u + v;
	r.pic.chip.pic.imr = v;
	r.ioapic.chip.ioapic.redirtbl[7].bits = 0x10030u + v;
	assert_int_equal(kvm_ioctl(fd, KVM_SET_XSAVE, &r.xsave), 0);
	assert_int_equal(kvm_ioctl(fd, KVM_SET_DEBUGREGS, &r.debug), 0);
	assert_int_equal(kvm_ioctl(fd, KVM_SET_MSRS, &r.msrs), 2);
	assert_int_equal(kvm_ioctl(fd, KVM_SET_SREGS, &r.sregs), 0);
	assert_int_equal(kvm_ioctl(fd, KVM_SET_VCPU_EVENTS, &r.events), 0);
	assert_int_equal(kvm_ioctl(m->vcpus.vcpu[1].fd, KVM_SET_MP_STATE, &r.mp), 0);
	assert_int_equal(kvm_ioctl(vm, KVM_SET_PIT2, &r.pit), 0);
	assert_int_equal(kvm_ioctl(vm, KVM_SET_IRQCHIP, &r.pic), 0);
	assert_int_equal(kvm_ioctl(vm, KVM_SET_IRQCHIP, &r.ioapic), 0);
}

static void assert_registers(struct machine *m, uint8_t v)
{
	struct registers r;

	registers_get(m, &r);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(xmm0(&r)[i], v);
	assert_int_equal(r.debug.db[2], 0x1000u + v);
	assert_int_equal(r.msrs.e[0].data, 0x2000u + v);
	assert_int_equal(r.msrs.e[1].data, 0x2000u + v);
	assert_int_equal(r.sregs.cr2, 0x3000u + v);
	assert_int_equal(r.events.nmi.masked, v & 1);
	assert_int_equal(r.mp.mp_state, v & 1 ? KVM_MP_STATE_HALTED : KVM_MP_STATE_INIT_RECEIVED);
	assert_int_equal(r.pit.channels[0].count, 0x4000u + v);
	assert_int_equal(r.pic.chip.pic.imr, v);
	assert_int_equal(r.ioapic.chip.ioapic.redirtbl[7].bits, 0x10030u + v);
}

static void test_each_kind_of_register_comes_back(void **state)
{
	struct fixture *f = *state;
	struct state_writer w;
	struct err e = { 0 };

	need_kvm();
	registers_set(f->m, 5);
	assert_registers(f->m, 5);
	save(f->m, &w);
	registers_set(f->m, 8);
	assert_registers(f->m, 8);
	assert_int_equal(machine_load(f->m, w.buf, w.len, &e), 0);
	assert_registers(f->m, 5);
	state_writer_done(&w);
}

static uint32_t pit_count(struct machine *m, uint8_t mode)
{
	struct kvm_pit_state2 pit;
	struct state_writer w;
	struct err e = { 0 };

	memset(&pit, 0, sizeof(pit));
	assert_int_equal(kvm_ioctl(m->kvm.vm_fd, KVM_GET_PIT2, &pit), 0);
	pit.channels[2].mode = mode;
	pit.channels[2].count = 0xffff;
	assert_int_equal(kvm_ioctl(m->kvm.vm_fd, KVM_SET_PIT2, &pit), 0);
	usleep(1000);
	save(m, &w);
	assert_int_equal(machine_load(m, w.buf, w.len, &e), 0);
	state_writer_done(&w);
	assert_int_equal(kvm_ioctl(m->kvm.vm_fd, KVM_GET_PIT2, &pit), 0);
	return pit.channels[2].count;
}

/* A guest may measure its clocks by such a count. */
static void test_pit_goes_on_with_a_count_that_runs_once(void **state)
{
	struct fixture *f = *state;
	uint32_t left;

	need_kvm();
	left = pit_count(f->m, 0);
	assert_true(left && left <= 0xffff - 1193);
	assert_int_equal(pit_count(f->m, 3), 0xffff);
}

static void test_damage_is_refused(void **state)
{
	struct fixture *f = *state;
	struct state_writer w;
	struct err e = { 0 };

	need_kvm();
	save(f->m, &w);
	assert_int_equal(machine_state_check(f->m, w.buf, w.len, &e), 0);
	for (size_t i = 0; i < w.len; i += 7) {
		struct state_section s;
		size_t pos = 0;
		int r;

		w.buf[i] ^= 0x10;
		while ((r = state_section_next(w.buf, w.len, &pos, &s, NULL)) > 0)
			;
		/* Padding between sections is not checked. */
		if (r < 0)
			assert_true(machine_state_check(f->m, w.buf, w.len, &e) < 0);
		w.buf[i] ^= 0x10;
	}
	for (size_t n = 0; n < w.len; n += 64)
		assert_true(machine_state_check(f->m, w.buf, n, &e) < 0);
	state_writer_done(&w);
}

/* A guest whose agent has not confirmed a thaw is saved as frozen, and is frozen again after the
 * load. */
static void test_frozen_mark_survives_load(void **state)
{
	struct fixture *f = *state;
	struct state_writer frozen, thawed;
	struct err e = { 0 };

	need_kvm();
	save(f->m, &thawed);
	agent_restored(f->m->agent, true);
	save(f->m, &frozen);
	assert_true(frozen.len > thawed.len);
	for (size_t n = thawed.len + 1; n < frozen.len; n++)
		assert_true(machine_state_check(f->m, frozen.buf, n, &e) < 0);
	assert_int_equal(machine_load(f->m, thawed.buf, thawed.len, &e), 0);
	assert_false(agent_needs_thaw(f->m->agent));
	assert_int_equal(machine_load(f->m, frozen.buf, frozen.len, &e), 0);
	assert_true(agent_needs_thaw(f->m->agent));
	assert_int_equal(machine_reset(f->m, &e), 0);
	assert_false(agent_needs_thaw(f->m->agent));
	state_writer_done(&frozen);
	state_writer_done(&thawed);
}

static void test_another_vms_state_is_refused(void **state)
{
	struct fixture *f = *state;
	struct machine *other;
	struct state_writer w;
	struct err e = { 0 };

	need_kvm();
	other = machine_with(f->loop, 2 * RAM_BYTES, 2);
	save(other, &w);
	assert_int_equal(machine_state_check(f->m, w.buf, w.len, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "saved with 16 MiB of memory; this VM has 8 MiB"));
	state_writer_done(&w);
	machine_free(other);
	other = machine_with(f->loop, RAM_BYTES, 1);
	save(other, &w);
	assert_int_equal(machine_state_check(f->m, w.buf, w.len, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "saved with 1 vCPUs; this VM has 2"));
	state_writer_done(&w);
	machine_free(other);
}

/* Copy a state with another machine version. 0: as format version 1 had it; 1: as a machine without hot-plug. */
static void state_rewrite(const struct state_writer *from, struct state_writer *to, uint32_t hardware)
{
	struct state_section s;
	size_t pos = 0;

	state_writer_init(to);
	while (state_section_next(from->buf, from->len, &pos, &s, NULL) > 0) {
		bool machine = !strcmp(s.name, "machine");

		if ((!hardware && !strcmp(s.name, "cpu")) || (hardware < 2 && !strcmp(s.name, "pci-hotplug")))
			continue;
		state_section_begin(to, s.name, s.instance, machine && hardware < 2 ? (uint16_t)(hardware + 1) : s.version);
		if (!machine) {
			state_put_bytes(to, s.content.buf, s.content.len);
		} else {
			state_put_bytes(to, s.content.buf, 12);
			state_put_u32(to, load_le32(s.content.buf + 12) - (hardware < 2));
			if (hardware)
				state_put_u32(to, hardware);
			if (hardware > 1)
				state_put_bytes(to, s.content.buf + 20, s.content.len - 20);
		}
		state_section_end(to);
	}
}

/* A guest from before hot-plug stays without it, and its state is again one of its machine version. */
static void test_machine_without_hotplug_stays_so_until_it_boots(void **state)
{
	struct fixture *f = *state;
	struct state_writer w, old, again;
	struct err e = { 0 };
	uint64_t v;

	need_kvm();
	save(f->m, &w);
	assert_true(pci_hotplug_is_on(f->m->pci_hotplug));
	state_rewrite(&w, &old, 1);
	if (machine_load(f->m, old.buf, old.len, &e) < 0)
		fail_msg("%s", e.msg);
	assert_false(pci_hotplug_is_on(f->m->pci_hotplug));
	assert_true(bus_read(f->m->pio, PCI_HOTPLUG_PORT, 4, &v));
	assert_int_equal((uint32_t)v, UINT32_MAX);
	save(f->m, &again);
	assert_int_equal(again.len, old.len);
	assert_int_equal(machine_reset(f->m, &e), 0);
	assert_true(pci_hotplug_is_on(f->m->pci_hotplug));
	state_writer_done(&w);
	state_writer_done(&old);
	state_writer_done(&again);
}

/* Copy a state with the device of the greatest slot in slot 24, as after a hot-plug. */
static void state_move_last(const struct state_writer *from, struct state_writer *to)
{
	struct state_section s;
	size_t pos = 0;

	state_writer_init(to);
	while (state_section_next(from->buf, from->len, &pos, &s, NULL) > 0) {
		uint8_t content[65536], *last = content + 20;

		assert_true(s.content.len <= sizeof(content));
		memcpy(content, s.content.buf, s.content.len);
		for (size_t i = 20; i < s.content.len && !strcmp(s.name, "machine"); i++)
			last = content[i] > *last ? content + i : last;
		if (!strcmp(s.name, "machine"))
			*last = 24;
		state_section_begin(to, s.name, s.instance, s.version);
		state_put_bytes(to, content, s.content.len);
		state_section_end(to);
	}
}

static bool has_slot(const struct machine *m, unsigned slot)
{
	return memchr(m->slots, (int)slot, m->ndevices);
}

/* A state without hot-plug has no slots, so its devices must be in consecutive ones. */
static void test_machine_that_boots_without_hotplug_has_consecutive_slots(void **state)
{
	struct fixture *f = *state;
	struct state_writer w, moved, again;
	struct err e = { 0 };

	need_kvm();
	save(f->m, &w);
	state_move_last(&w, &moved);
	if (machine_load(f->m, moved.buf, moved.len, &e) < 0)
		fail_msg("%s", e.msg);
	assert_true(has_slot(f->m, 24));
	f->m->cfg.machine = 1;
	assert_int_equal(machine_reset(f->m, &e), 0);
	assert_false(pci_hotplug_is_on(f->m->pci_hotplug));
	assert_int_equal(f->m->hardware, 1);
	assert_false(has_slot(f->m, 24));
	save(f->m, &again);
	if (machine_load(f->m, again.buf, again.len, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(f->m->hardware, 1);
	state_writer_done(&w);
	state_writer_done(&moved);
	state_writer_done(&again);
}

static void test_state_of_format_1_is_loaded(void **state)
{
	struct fixture *f = *state;
	struct state_writer w, old;
	struct err e = { 0 };
	uint32_t at;

	need_kvm();
	run_for(f->m, 100);
	save(f->m, &w);
	at = eax(f->m);
	state_rewrite(&w, &old, 0);
	assert_true(old.len < w.len);
	registers_set(f->m, 8);
	if (machine_load(f->m, old.buf, old.len, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(eax(f->m), at);
	state_writer_done(&w);
	state_writer_done(&old);
}

static void test_other_machine_version_is_refused(void **state)
{
	struct fixture *f = *state;
	struct state_writer w, other;
	struct err e = { 0 };

	need_kvm();
	save(f->m, &w);
	state_rewrite(&w, &other, 5);
	assert_int_equal(machine_state_check(f->m, other.buf, other.len, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "saved with machine version 5; this Cairn builds version 7"));
	state_writer_done(&w);
	state_writer_done(&other);
}

/* Poisoned vCPUs do not run, however soon a resume follows; they run again when the poison is
 * lifted. */
static void test_poisoned_vcpus_do_not_run(void **state)
{
	struct fixture *f = *state;
	uint32_t at;

	need_kvm();
	run_for(f->m, 100);
	at = counter(f->m);
	vcpus_poison(&f->m->vcpus);
	machine_resume(f->m);
	usleep(20000);
	assert_int_equal(counter(f->m), at);
	machine_pause(f->m);
	vcpus_unpoison(&f->m->vcpus);
	run_for(f->m, 100);
	/* The same while it runs. */
	machine_resume(f->m);
	vcpus_poison(&f->m->vcpus);
	machine_pause(f->m);
	at = counter(f->m);
	machine_resume(f->m);
	usleep(20000);
	assert_int_equal(counter(f->m), at);
	machine_pause(f->m);
}

/* A reset clears the guest's programming of the interrupt controllers. */
static void test_reset_clears_interrupt_routing(void **state)
{
	struct kvm_irqchip before = { .chip_id = KVM_IRQCHIP_IOAPIC }, chip;
	struct fixture *f = *state;
	struct err e = { 0 };

	need_kvm();
	assert_int_equal(kvm_ioctl(f->m->kvm.vm_fd, KVM_GET_IRQCHIP, &before), 0);
	chip = before;
	chip.chip.ioapic.redirtbl[9].bits = 0x8000 | 0x31; /* level, unmasked, vector 0x31 */
	assert_int_equal(kvm_ioctl(f->m->kvm.vm_fd, KVM_SET_IRQCHIP, &chip), 0);
	assert_int_equal(machine_reset(f->m, &e), 0);
	assert_int_equal(kvm_ioctl(f->m->kvm.vm_fd, KVM_GET_IRQCHIP, &chip), 0);
	assert_int_equal(chip.chip.ioapic.redirtbl[9].bits, before.chip.ioapic.redirtbl[9].bits);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_loaded_guest_continues, setup, teardown),
		cmocka_unit_test_setup_teardown(test_save_after_load_is_identical, setup, teardown),
		cmocka_unit_test_setup_teardown(test_each_kind_of_register_comes_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tsc_deadline_survives_load, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pit_goes_on_with_a_count_that_runs_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damage_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_frozen_mark_survives_load, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state_of_format_1_is_loaded, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other_machine_version_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_machine_without_hotplug_stays_so_until_it_boots, setup, teardown),
		cmocka_unit_test_setup_teardown(test_machine_that_boots_without_hotplug_has_consecutive_slots, setup, teardown),
		cmocka_unit_test_setup_teardown(test_another_vms_state_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_poisoned_vcpus_do_not_run, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reset_clears_interrupt_routing, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
