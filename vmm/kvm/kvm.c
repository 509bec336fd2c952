#include "vmm/kvm/kvm.h"
#include "base/cpuid.h"
#include "base/err.h"
#include "base/kvm_host.h"
#include "base/util.h"
#include "vmm/kvm/assist.h"
#include "vmm/kvm/cpu_probe.h"
#include "vmm/kvm/fork_host.h"
#include "vmm/kvm/host_files.h"
#include "vmm/vm_msg.h"

#include <cpuid.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A TSS of three pages and a page table, in the hole below 4 GiB. KVM uses them for real mode on VMX
 * without "unrestricted guest". */
#define TSS_ADDR 0xfeffd000ULL
#define IDENTITY_MAP_ADDR 0xfeffc000ULL

static const struct {
	int cap;
	const char *name;
} required_caps[] = {
	{ KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP" },
	{ KVM_CAP_PIT2, "KVM_CAP_PIT2" },
	{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
	{ KVM_CAP_IRQFD, "KVM_CAP_IRQFD" },
	{ KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD" },
	{ KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI" },
	{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
	{ KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID" },
	{ KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE" },
	{ KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS" },
	{ KVM_CAP_XSAVE, "KVM_CAP_XSAVE" },
	{ KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK" },
};

/* Turn the -errno of opening /dev/kvm into a sentence. */
static int dev_kvm_refused(int r, struct err *e)
{
	switch (r) {
	case -ENOENT:
		return err_set(e, r, ERR_HOST, "/dev/kvm is missing: %s", kvm_host_remedy(true));
	case -EACCES:
	case -EPERM:
		return err_set(e, r, ERR_PERMISSION,
			"no permission to open /dev/kvm: join its group (usually `adduser $USER kvm`, "
			"then log in again)");
	case -ENODEV:
	case -ENXIO:
		return err_set(e, r, ERR_HOST, "/dev/kvm has no driver behind it: %s", kvm_host_remedy(true));
	case -EBUSY:
		return err_set(e, r, ERR_HOST, "another hypervisor uses the CPU's virtualization");
	default:
		return err_set_errno(e, r, "cannot open /dev/kvm");
	}
}

static int caps_check(struct kvm *k, struct err *e)
{
	int version = kvm_ioctl(k->sys_fd, KVM_GET_API_VERSION, 0);

	if (version != KVM_API_VERSION)
		return err_set(e, -ENOTSUP, ERR_HOST, "/dev/kvm speaks API version %d, not %d", version,
			KVM_API_VERSION);
	for (size_t i = 0; i < ARRAY_SIZE(required_caps); i++)
		if (kvm_ioctl(k->sys_fd, KVM_CHECK_EXTENSION, (void *)(long)required_caps[i].cap) <= 0)
			return err_set(e, -ENOTSUP, ERR_HOST, "this host's KVM lacks %s",
				required_caps[i].name);
	k->has_stats_fd =
		kvm_ioctl(k->sys_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_BINARY_STATS_FD) > 0;
	k->has_msr_filter =
		kvm_ioctl(k->sys_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_X86_MSR_FILTER) > 0;
	k->has_nested = kvm_ioctl(k->sys_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_NESTED_STATE) > 0;
	k->scales_tsc = kvm_ioctl(k->sys_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_TSC_CONTROL) > 0;
	return 0;
}

static int supported_cpuid(struct kvm *k, struct err *e)
{
	int r = kvm_cpuid_read(k->sys_fd, &k->supported);

	return r < 0 ? err_set(e, r, ERR_HOST, "KVM_GET_SUPPORTED_CPUID: %s", strerror(-r)) : 0;
}

/* Return the kind of host (enum vm_host_kind). If the CPU shows neither VMX nor SVM, KVM runs the PVM backend. Each
 * 64-bit processor has both leaves; __get_cpuid() would first ask for the highest leaf, and on a virtual machine each
 * CPUID costs an exit, up to 70 us. */
static uint8_t host_kind_detect(void)
{
	unsigned a, b, c, d;

	__cpuid(1, a, b, c, d);
	if (c & 1u << 5)
		return VM_HOST_VMX;
	__cpuid(0x80000001, a, b, c, d);
	return c & 1u << 2 ? VM_HOST_SVM : VM_HOST_PVM;
}

static int board_create(int vm_fd, const char **ret_failed)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	int r = kvm_ioctl(vm_fd, KVM_CREATE_IRQCHIP, 0);

	*ret_failed = r < 0 ? "KVM_CREATE_IRQCHIP" : "KVM_CREATE_PIT2";
	return r < 0 ? r : kvm_ioctl(vm_fd, KVM_CREATE_PIT2, &pit);
}

/* Place the memory that KVM needs for itself on VMX. Before the first vCPU. */
static int own_pages_place(int vm_fd, uint8_t host_kind)
{
	uint64_t identity = IDENTITY_MAP_ADDR;
	int r = host_kind == VM_HOST_VMX ? kvm_ioctl(vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) : 0;

	return r < 0 || host_kind != VM_HOST_VMX ? r : kvm_ioctl(vm_fd, KVM_SET_TSS_ADDR, (void *)TSS_ADDR);
}

static int fill_ahead(struct host_files *host)
{
	const char *failed;
	int r;

	host->host_kind = host_kind_detect();
	host->vm_has_filter = host->host_kind == VM_HOST_PVM;
	r = own_pages_place(host->vm_fd, host->host_kind);
	if (!r && host->vm_has_filter)
		r = assist_filter_set(host->vm_fd);
	if (!r)
		r = board_create(host->vm_fd, &failed);
	if (!r)
		r = host->vcpu_fd = kvm_ioctl(host->vm_fd, KVM_CREATE_VCPU, 0);
	return MIN(r, 0);
}

void kvm_create_ahead(struct host_files *host)
{
	int r = host->kvm_fd >= 0 ? kvm_ioctl(host->kvm_fd, KVM_CREATE_VM, 0) : 0;

	host->vm_fd = MAX(r, 0);
	if (host->vm_fd && fill_ahead(host) < 0)
		host_files_drop_vm(host);
}

static int vm_create(struct kvm *k, struct host_files *host, struct err *e)
{
	int r = host->vm_fd ? host->vm_fd : kvm_ioctl(k->sys_fd, KVM_CREATE_VM, 0);

	k->made_board = host->vm_fd;
	k->made_filter = host->vm_has_filter;
	k->made_vcpu_fd = host->vcpu_fd;
	host->vm_fd = host->vcpu_fd = 0;
	host->vm_has_filter = false;
	if (r < 0)
		return err_set(e, r, ERR_HOST, "KVM_CREATE_VM: %s%s", strerror(-r),
			r == -ENOMEM ? "; is the host out of memory or of a cgroup's limit?" : "");
	k->vm_fd = r;
	r = kvm_ioctl(k->sys_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (r < (int)sizeof(struct kvm_run))
		return err_set(e, -ENOTSUP, ERR_HOST, "KVM_GET_VCPU_MMAP_SIZE: %d", r);
	k->run_bytes = (size_t)r;
	r = k->made_board ? 0 : own_pages_place(k->vm_fd, k->host_kind);
	return r < 0 ? err_set(e, r, ERR_HOST, "KVM_SET_TSS_ADDR: %s", strerror(-r)) : 0;
}

int kvm_init(struct kvm *k, struct host_files *host, struct fork_host *known, struct err *e)
{
	int r;

	memset(k, 0, sizeof(*k));
	k->vm_fd = -1;
	if (known) {
		k->supported = known->supported;
		k->own = known->own;
		k->xcr0 = known->xcr0;
		k->cpu_kind = (uint8_t)known->kind;
		*known = (struct fork_host){ 0 };
	}
	k->host_kind = host->host_kind ? host->host_kind : host_kind_detect();
	k->has_shadows = k->host_kind == VM_HOST_PVM || host->nested_paging_off;
	if (host->kvm_fd < 0) {
		k->sys_fd = -1;
		return dev_kvm_refused(host->kvm_fd, e);
	}
	k->sys_fd = host->kvm_fd;
	host->kvm_fd = -1;
	r = caps_check(k, e);
	if (!r && !k->supported)
		r = supported_cpuid(k, e);
	if (!r)
		r = vm_create(k, host, e);
	if (r < 0)
		kvm_done(k);
	return r;
}

void kvm_done(struct kvm *k)
{
	cpu_probe_end(k);
	if (k->made_vcpu_fd)
		close(k->made_vcpu_fd);
	if (k->vm_fd >= 0)
		close(k->vm_fd);
	if (k->sys_fd >= 0)
		close(k->sys_fd);
	k->made_vcpu_fd = 0;
	k->vm_fd = k->sys_fd = -1;
	free(k->supported);
	free(k->guest);
	free(k->own);
	free(k->fresh);
	k->supported = k->guest = k->own = NULL;
	k->fresh = NULL;
}

struct kvm_board {
	struct kvm_irqchip chips[3];
	struct kvm_pit_state2 pit;
};

/* Read (get) or write the state of PICs, IOAPIC and PIT. */
static int board_move(struct kvm *k, struct kvm_board *b, bool get, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(b->chips) && !r; i++) {
		b->chips[i].chip_id = i;
		r = kvm_ioctl(k->vm_fd, get ? KVM_GET_IRQCHIP : KVM_SET_IRQCHIP, &b->chips[i]);
	}
	if (!r)
		r = kvm_ioctl(k->vm_fd, get ? KVM_GET_PIT2 : KVM_SET_PIT2, &b->pit);
	return r < 0 ? err_set(e, r, ERR_HOST, "interrupt controllers: %s", strerror(-r)) : 0;
}

int kvm_reset_irqchip(struct kvm *k, struct err *e)
{
	return board_move(k, k->fresh, false, e);
}

int kvm_create_irqchip(struct kvm *k, struct err *e)
{
	const char *failed;
	int r = k->made_board ? 0 : board_create(k->vm_fd, &failed);

	if (r < 0)
		return err_set(e, r, ERR_HOST, "%s: %s", failed, strerror(-r));
	k->fresh = calloc(1, sizeof(*k->fresh));
	if (!k->fresh)
		return err_set_errno(e, -ENOMEM, "interrupt controllers");
	return board_move(k, k->fresh, true, e);
}
