/* Handlers of the exits that KVM_RUN returns for. */
#include "base/bytes.h"
#include "base/util.h"
#include "devices/bus.h"
#include "vmm/kvm/assist.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vcpu.h"

#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>

#define CR0_PE 1ULL
#define EFER_LMA (1ULL << 10)

static void exit_count(struct vcpu *v, enum vcpu_figure what)
{
	/* The page is mapped before its address is stored. */
	figure_add(v->counters, atomic_load_explicit(&v->shown, memory_order_acquire), what, 1);
}

void vcpu_fault(struct vcpu *v, enum vm_reason reason, const char *fmt, ...)
{
	char detail[VM_DETAIL_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(detail, sizeof(detail), fmt, ap);
	va_end(ap);
	vcpus_request_stop(v->set);
	v->set->cfg.fault(v->set->cfg.opaque, v->index, reason, detail);
}

static void exit_io(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	uint8_t *p = (uint8_t *)run + run->io.data_offset;
	struct bus *bus = v->set->cfg.pio;

	for (uint32_t i = 0; i < run->io.count; i++, p += run->io.size) {
		uint64_t value;

		if (run->io.direction == KVM_EXIT_IO_OUT) {
			bus_write(bus, run->io.port, run->io.size, load_le(p, run->io.size));
		} else {
			bus_read(bus, run->io.port, run->io.size, &value);
			store_le(p, run->io.size, value);
		}
	}
}

static void exit_mmio(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	struct bus *bus = v->set->cfg.mmio;
	unsigned len = MIN(run->mmio.len, 8u);
	uint64_t value;

	/* KVM passes accesses of 1 to 8 bytes. Split them, because the bus takes powers of two. */
	for (unsigned done = 0; done < len;) {
		unsigned size = 8;

		while (size > len - done)
			size /= 2;
		if (run->mmio.is_write) {
			bus_write(bus, run->mmio.phys_addr + done, size,
				load_le(run->mmio.data + done, size));
		} else {
			bus_read(bus, run->mmio.phys_addr + done, size, &value);
			store_le(run->mmio.data + done, size, value);
		}
		done += size;
	}
}

/* Format the instruction at RIP for a report, ", instruction bytes 0f ae 15 …"; empty when KVM did
 * not provide the bytes. */
static void instruction_text(struct vcpu *v, char *buf, size_t len)
{
	struct kvm_run *run = v->run;
	size_t n, at;

	buf[0] = 0;
	if (run->emulation_failure.ndata < 3 ||
		!(run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
		return;
	n = MIN((size_t)run->emulation_failure.insn_size, sizeof(run->emulation_failure.insn_bytes));
	at = (size_t)snprintf(buf, len, ", instruction bytes");
	for (size_t i = 0; i < n && at + 4 < len; i++)
		at += (size_t)snprintf(buf + at, len - at, " %02x", run->emulation_failure.insn_bytes[i]);
}

/* Does this host's KVM emulate kernel mode? */
static bool is_emulated(const struct vcpu *v)
{
	return v->set->cfg.kvm && v->set->cfg.kvm->host_kind == VM_HOST_PVM;
}

/* Return the end of a report of a triple fault. A KVM that emulates kernel mode raises #GP when a guest turns on paging
 * in 32-bit mode, with PAE or without. */
static const char *paging_lacks(const struct vcpu *v)
{
	struct kvm_sregs s;

	if (!is_emulated(v) || kvm_ioctl(v->fd, KVM_GET_SREGS, &s) || !(s.cr0 & CR0_PE) || s.efer & EFER_LMA)
		return "";
	return ", in 32-bit mode, where this host's KVM, which emulates kernel mode (kvm-pvm), has no paging: if the guest needs "
		"that, use a host with VMX or SVM";
}

static bool exit_internal_error(struct vcpu *v)
{
	struct kvm_regs regs = { 0 };
	char insn[96];

	if (v->run->internal.suberror != KVM_INTERNAL_ERROR_EMULATION) {
		vcpu_fault(v, VM_REASON_HOST_ERROR, "KVM internal error %u on vCPU %u",
			v->run->internal.suberror, v->index);
		return false;
	}
	if (v->set->cfg.assist && assist_emulate(v->set->cfg.assist, v))
		return true;
	kvm_ioctl(v->fd, KVM_GET_REGS, &regs);
	instruction_text(v, insn, sizeof(insn));
	if (!insn[0])
		assist_instruction_text(v, regs.rip, insn, sizeof(insn));
	vcpu_fault(v, VM_REASON_EMULATION_FAILURE, "vCPU %u, RIP 0x%llx%s%s", v->index,
		(unsigned long long)regs.rip, insn,
		is_emulated(v) ? "; this host's KVM emulates kernel mode (kvm-pvm) and does not know this instruction: boot Linux with the "
			"words of docs/bring-your-own-kernel.md (cairn run adds them with --append-for-host auto), or use a host with VMX or SVM" : "");
	return false;
}

static bool exit_triple_fault(struct vcpu *v)
{
	struct kvm_regs regs = { 0 };

	kvm_ioctl(v->fd, KVM_GET_REGS, &regs);
	vcpu_fault(v, VM_REASON_TRIPLE_FAULT, "vCPU %u, RIP 0x%llx%s", v->index,
		(unsigned long long)regs.rip, paging_lacks(v));
	return false;
}

static bool exit_other(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	struct assist *a = v->set->cfg.assist;

	switch (run->exit_reason) {
	case KVM_EXIT_INTERNAL_ERROR:
		return exit_internal_error(v);
	case KVM_EXIT_SHUTDOWN:
		return exit_triple_fault(v);
	case KVM_EXIT_DEBUG:
		if (a && assist_debug(a, v))
			return true;
		break;
	case KVM_EXIT_X86_WRMSR:
		if (a) {
			assist_wrmsr(a, v);
			return true;
		}
		break;
	case KVM_EXIT_FAIL_ENTRY:
		vcpu_fault(v, VM_REASON_HOST_ERROR, "vCPU %u: entry failed, hardware reason 0x%llx",
			v->index, (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
		return false;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		return true;
	}
	vcpu_fault(v, VM_REASON_HOST_ERROR, "vCPU %u: unexpected KVM exit %u", v->index,
		run->exit_reason);
	return false;
}

bool vcpu_exit_handle(struct vcpu *v)
{
	switch (v->run->exit_reason) {
	case KVM_EXIT_IO:
		exit_count(v, VCPU_EXITS_IO);
		exit_io(v);
		break;
	case KVM_EXIT_MMIO:
		exit_count(v, VCPU_EXITS_MMIO);
		exit_mmio(v);
		break;
	default:
		exit_count(v, VCPU_EXITS_OTHER);
		if (!exit_other(v))
			return false;
	}
	if (v->set->cfg.assist)
		assist_recheck(v->set->cfg.assist, v);
	return true;
}
