#include "vmm/machine/machine.h"
#include "vmm/machine/machine_carry.h"
#include "vmm/machine/machine_disk.h"
#include "base/cleanup.h"
#include "base/cpu_model.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "block/block.h"
#include "devices/acpi_pm.h"
#include "devices/bus.h"
#include "devices/console.h"
#include "devices/device.h"
#include "devices/legacy/debug_exit.h"
#include "devices/legacy/debugcon.h"
#include "devices/legacy/fw_cfg.h"
#include "devices/legacy/i6300esb.h"
#include "devices/legacy/pvpanic.h"
#include "devices/legacy/rom.h"
#include "devices/legacy/rtc.h"
#include "devices/legacy/serial.h"
#include "devices/pci/lpc.h"
#include "devices/pci/pci.h"
#include "devices/pci/pci_hotplug.h"
#include "devices/virtio/virtio_blk.h"
#include "devices/virtio/virtio_console.h"
#include "devices/virtio/virtio_fs.h"
#include "devices/virtio/virtio_rng.h"
#include "devices/virtio/virtio_scsi.h"
#include "devices/virtio/virtio_vsock.h"
#include "devices/vmgenid.h"
#include "snapshot/fault_tracker.h"
#include "snapshot/ram_reader.h"
#include "vmm/agent/agent.h"
#include "vmm/boot/acpi.h"
#include "vmm/boot/boot.h"
#include "vmm/boot/smbios.h"
#include "vmm/kvm/cpu_probe.h"
#include "vmm/kvm/fork_host.h"
#include "vmm/kvm/host_files.h"
#include "vmm/kvm/guest_cpu.h"
#include "vmm/machine/display_link.h"
#include "vmm/machine/machine_balloon.h"
#include "vmm/machine/machine_dirty_rate.h"
#include "vmm/machine/machine_firmware.h"
#include "vmm/machine/machine_host.h"
#include "vmm/machine/machine_page.h"
#include "vmm/machine/machine_plug.h"
#include "vmm/machine/machine_restore.h"
#include "vmm/machine/machine_screen.h"
#include "vmm/machine/machine_scsi.h"
#include "vmm/machine/machine_state.h"
#include "vmm/machine/machine_vcpus.h"
#include "vmm/machine/ram_load.h"

#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Guests with less memory stay in pages of 4 KiB: one that touches little would need a multiple of its memory. */
#define HUGE_FROM_BYTES (128 * MIB)
/* Linux takes no stop below this for a lockup. */
#define STOP_TOLD_NS 1000000000ULL

/* ---- building the machine ---- */

static int fd_take(uint16_t index, int *fds)
{
	return index == VM_NO_FD ? -1 : steal_fd(&fds[index]);
}

static int device_keep(struct machine *m, int r, struct device **made)
{
	return machine_device_insert(m, m->ndevices, r, r ? NULL : *made);
}

static bool is_uefi(const struct machine *m)
{
	return m->cfg.firmware == VM_FIRMWARE_UEFI;
}

static int board_devices_new(struct machine *m, struct err *e)
{
	struct serial_config serial = { .name = "serial0", .console = m->consoles[VM_CONSOLE_SERIAL] };
	struct pci_host_config pci = { .ecam_base = is_uefi(m) ? 0 : MEM_ECAM_BASE, .mmio32_base = MEM_PCI_BASE,
		.mmio32_bytes = MEM_PCI_BYTES, .firmware = m->cfg.firmware, .q35 = is_uefi(m) };
	struct dev_host *h = &m->host;
	struct device *d = NULL;
	int r = device_keep(m, serial_new(h, m->pio, &serial, &d, e), &d);

	if (!r)
		r = machine_keyboard_new(m, e);
	if (!r)
		r = device_keep(m, rtc_new(h, m->pio, &d, e), &d);
	if (!r)
		rtc_set_ahead(m->devices[m->ndevices - 1], m->cfg.clock_offset_s);
	if (!r)
		r = device_keep(m, acpi_pm_new(h, m->pio, &m->acpi_pm, e), &m->acpi_pm);
	if (!r)
		r = device_keep(m, vmgenid_new(h, m->acpi_pm, vmgenid_gpa(m->cfg.firmware), &m->vmgenid, e), &m->vmgenid);
	if (!r)
		r = device_keep(m, pvpanic_new(h, m->pio, &d, e), &d);
	if (!r && m->cfg.debug_exit)
		r = device_keep(m, debug_exit_new(h, m->pio, m->mmio, &d, e), &d);
	if (!r && m->cfg.firmware)
		r = device_keep(m, fw_cfg_new(h, m->pio, &m->fw_cfg, e), &m->fw_cfg);
	if (!r && m->cfg.firmware)
		r = device_keep(m, debugcon_new(h, m->pio, &d, e), &d);
	if (!r && m->cfg.firmware && !is_uefi(m))
		r = device_keep(m, rom_new(m->mem.rom, m->mem.rom_bytes, &d, e), &d);
	if (!r && is_uefi(m))
		r = device_keep(m, machine_flash_new(m, &d, e), &d);
	if (!r)
		r = device_keep(m, pci_hotplug_new(h, m->pio, m->acpi_pm, &m->pci_hotplug, e), &m->pci_hotplug);
	if (!r)
		r = device_keep(m, pci_host_new(h, m->pio, m->mmio, &pci, &m->pci, &d, e), &d);
	if (!r && is_uefi(m))
		r = device_keep(m, lpc_new(m->pci, &d, e), &d);
	return r ? r : machine_vcpus_new(m, e);
}

static int disk_new(struct machine *m, const struct vm_disk *c, int *fds, struct err *e)
{
	struct machine_disk *d = &m->disks[m->ndisks];
	const struct vm_disk_more *more = &m->cfg.disk_more[m->ndisks];
	struct virtio_blk_config v = { .name = c->id, .serial = c->serial, .logical_bytes = more->logical_bytes,
		.physical_bytes = more->physical_bytes, .no_discard = more->no_discard, .detect_zeroes = more->detect_zeroes,
		.poll_max_ns = machine_disk_poll_max_ns(more),
		.queues = c->queues ? c->queues : MIN(m->cfg.vcpus, VIRTIO_BLK_QUEUES_MAX),
		.queue_size = c->queue_size, .errors = (enum virtio_blk_errors)c->error_policy,
		.slot = -1, .limits = machine_disk_limits(&m->cfg, m->ndisks) };
	int r;

	d->io = &m->disk_ios[m->ndisks];
	r = machine_disk_open(m, c, more, d, fds, e);
	m->ndisks++; /* count the disk before the check, so that machine_free() frees a half-built disk */
	if (r < 0)
		return r;
	if (m->cfg.images_only || more->bus == VM_BUS_SCSI)
		return 0; /* machine_scsi_new() makes the controller when all its disks are open */
	v.block = d->block;
	v.loop = d->loop;
	return device_keep(m, virtio_blk_new(&m->host, m->pci, &v, &d->dev, e), &d->dev);
}

static int disks_new(struct machine *m, int *fds, struct err *e)
{
	int r = 0;

	m->disks_at = m->ndevices;
	/* A VM without disks needs a loop for those that are attached while it runs. */
	if (!m->cfg.ndisks && !m->cfg.images_only)
		r = machine_disk_loop(&m->disk_ios[0], "disks", DISK_LOOP_ENTRIES_SPARE, e);
	for (unsigned i = 0; i < m->cfg.ndisks && !r; i++)
		r = disk_new(m, &m->cfg.disks[i], fds, e);
	return r;
}

static void agent_port_opened(void *opaque, bool open, bool loaded)
{
	struct machine *m = opaque;

	agent_port(m->agent, open, loaded);
}

/* Interfaces without a slot of their own come behind these devices on the PCI bus, so that an added interface does not
 * change the slot of another device. definition_interface_slots() has the same order. */
static int nics_new(struct machine *m, int *fds, struct err *e)
{
	struct device *d = NULL;
	int r = 0;

	m->nics_at = m->ndevices;
	for (unsigned i = 0; i < m->cfg.ninterfaces && !r; i++) {
		m->kvm.has_vhost |= m->cfg.vhost[i] == VM_VHOST_YES;
		r = device_keep(m, nic_init(&m->nics[m->nnics++], &m->host, m->pci, &m->cfg, i, fds, &d, e), &d);
	}
	return r;
}

/* The device comes even after the interfaces, so that a VM that gets one finds its interfaces in their slots. */
static int vsock_new(struct machine *m, int *fds, struct err *e)
{
	struct virtio_vsock_config c = { .name = "vsock0", .cid = m->cfg.vsock_cid, .slot = -1 };

	if (!c.cid)
		return 0;
	c.listen_fd = m->vsock_listen_fd = fd_take(m->cfg.vsock_listen_fd, fds);
	c.dial_fd = m->vsock_dial_fd = fd_take(m->cfg.vsock_dial_fd, fds);
	return device_keep(m, virtio_vsock_new(&m->host, m->pci, &c, &m->vsock, e), &m->vsock);
}

static int shares_new(struct machine *m, int *fds, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < m->cfg.nshares && !r; i++) {
		char name[16];
		struct virtio_fs_config c = { .name = name, .tag = m->cfg.shares[i].tag, .slot = -1 };

		snprintf(name, sizeof(name), "share%u", i);
		c.fd = m->share_fds[i] = fd_take(m->cfg.shares[i].fd, fds);
		m->nshares++;
		r = device_keep(m, virtio_fs_new(&m->host, m->pci, &c, &m->shares[i], e), &m->shares[i]);
	}
	return r;
}

static int pci_devices_new(struct machine *m, int *fds, struct err *e)
{
	struct virtio_console_port_config port = { .console = m->consoles[VM_CONSOLE_VIRTIO] };
	struct virtio_console_config console = { .name = "virtio-console0", .ports = &port,
		.nports = 1, .slot = -1 };
	struct virtio_console_port_config agent_port = { .name = AGENT_PORT,
		.console = m->consoles[VM_CONSOLE_AGENT], .opened = agent_port_opened, .opaque = m };
	struct virtio_console_config agent = { .name = "guest-agent0", .ports = &agent_port, .nports = 1,
		.slot = -1 };
	struct device *d = NULL;
	int r;

	for (unsigned i = 0; i < m->cfg.ninterfaces; i++)
		pci_host_reserve(m->pci, m->cfg.interface_slots[i]);
	r = disks_new(m, fds, e);
	if (!r && m->cfg.virtio_console)
		r = device_keep(m, virtio_console_new(&m->host, m->pci, &console, &d, e), &d);
	if (!r && m->cfg.guest_agent)
		r = device_keep(m, virtio_console_new(&m->host, m->pci, &agent, &d, e), &d);
	if (!r && m->cfg.rng)
		r = device_keep(m, virtio_rng_new(&m->host, m->pci, "rng0", -1, &d, e), &d);
	if (!r && m->cfg.watchdog == VM_WATCHDOG_I6300ESB)
		r = device_keep(m, i6300esb_new(&m->host, m->pci, -1, &d, e), &d);
	if (!r)
		r = nics_new(m, fds, e);
	if (!r)
		r = vsock_new(m, fds, e);
	/* After these, so that a VM that gets a controller finds its other devices in their slots. */
	if (!r)
		r = machine_scsi_new(m, e);
	/* Last of all, for the same reason. */
	if (!r)
		r = machine_balloon_new(m, &d, e);
	if (!r && m->balloon_dev)
		r = device_keep(m, 0, &d);
	if (!r)
		r = machine_screen_new(m, e);
	if (!r)
		r = shares_new(m, fds, e);
	return r ? r : machine_display_open(m, fds, e);
}

/* Create the console of the guest agent's port, and m->agent, the client that talks to the guest agent. A socketpair
 * attaches m->agent to the console, as for any other reader. */
static int agent_attach(struct machine *m, struct err *e)
{
	struct loop *l = m->host.loop;
	struct console **c = &m->consoles[VM_CONSOLE_AGENT];
	int pair[2], r = console_new(l, "guest-agent0", c, e);

	if (r < 0)
		return r;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return err_set_errno(e, -errno, "guest agent");
	console_set_lossless(*c);
	r = console_attach(*c, pair[0], false, (struct console_user){ 0 }, e);
	if (r < 0) {
		close(pair[0]);
		close(pair[1]);
		return r;
	}
	r = agent_new(l, pair[1], NULL, &m->agent, e);
	if (r < 0)
		close(pair[1]);
	return r;
}

static int consoles_new(struct machine *m, struct err *e)
{
	int r = console_new(m->host.loop, "serial0", &m->consoles[VM_CONSOLE_SERIAL], e);

	if (!r && m->cfg.virtio_console)
		r = console_new(m->host.loop, "virtio-console0", &m->consoles[VM_CONSOLE_VIRTIO], e);
	if (!r && m->cfg.guest_agent)
		r = agent_attach(m, e);
	return r;
}

static int assist_setup(struct machine *m, struct err *e)
{
	m->assist_on = m->cfg.assist == VM_ASSIST_ON ||
		(m->cfg.assist == VM_ASSIST_AUTO && m->kvm.host_kind == VM_HOST_PVM);
	return m->assist_on ? assist_init(&m->assist, &m->kvm, &m->host, e) : 0;
}

static int vcpus_setup(struct machine *m, struct err *e)
{
	const struct vm_config *c = &m->cfg;
	struct vcpus_config v = { .kvm = &m->kvm, .count = c->vcpus, .sockets = c->sockets,
		.cores = c->cores, .threads = c->threads, .absent = c->vcpus_absent, .pio = m->pio, .mmio = m->mmio,
		.assist = m->assist_on ? &m->assist : NULL, .fault = m->listener.fault,
		.opaque = m->listener.opaque, .port_ring = &m->port_ring, .prefault = &m->prefault };
	int r;

	if (!v.sockets) {
		v.sockets = v.threads = 1;
		v.cores = c->vcpus;
	}
	r = vcpus_init(&m->vcpus, &v, e);
	if (!r)
		port_ring_attach(&m->port_ring, m->pio, m->vcpus.vcpu[0].run);
	return r;
}

static int files_take(struct machine *m, int *fds, struct err *e)
{
	if (m->cfg.working_sets_fd != VM_NO_FD) {
		m->working_sets_fd = fds[m->cfg.working_sets_fd];
		fds[m->cfg.working_sets_fd] = -1;
	}
	if (m->cfg.kernel_fd == VM_NO_FD && m->cfg.images_only)
		return 0;
	if (m->cfg.kernel_fd == VM_NO_FD)
		return err_set(e, -EINVAL, ERR_INVALID,
			"no kernel: \"boot\": {\"kernel\": …} has to name a vmlinux or a bzImage");
	m->kernel_fd = fds[m->cfg.kernel_fd];
	fds[m->cfg.kernel_fd] = -1;
	if (m->cfg.initrd_fd != VM_NO_FD) {
		m->initrd_fd = fds[m->cfg.initrd_fd];
		fds[m->cfg.initrd_fd] = -1;
	}
	if (m->cfg.network_place && !is_uefi(m))
		m->network_rom_fd = fd_take(m->cfg.network_rom_fd, fds);
	if (m->cfg.screen_rom)
		m->screen_rom_fd = fd_take(m->cfg.screen_rom_fd, fds);
	if (is_uefi(m)) {
		m->nvram_fd = fd_take(m->cfg.nvram_fd, fds);
		m->nvram_template_fd = fd_take(m->cfg.nvram_template_fd, fds);
	}
	return 0;
}

/* Return whether the process that hands the VM over lists the memory that differs from the last snapshot's. */
static bool base_is_carried(const struct machine *m)
{
	return m->cfg.taken_over && m->cfg.taken.has_base && !m->cfg.huge_pages;
}

/* Choose how memory is tracked: by userfaultfd, or by KVM's dirty log if userfaultfd is not available or memory is in
 * huge pages, because these are larger than the fault tracker's blocks. */
static int tracking_open(struct machine *m, struct host_files *host, struct err *e)
{
	char reason[UFFD_REASON_MAX];

	if (m->cfg.huge_pages) {
		log_info(NULL, "memory in huge pages is tracked by KVM's dirty log: a snapshot copies all memory in rounds, and "
			"a restore reads all memory before the VM runs");
		return dirty_log_init(&m->dirty_log, &m->kvm, &m->mem, e);
	}
	m->uffd = host->uffd;
	host->uffd.fd = -1;
	uffd_reason(&m->uffd, reason);
	if (m->uffd.can_protect) {
		log_info(NULL, "memory is tracked by userfaultfd, opened by %s", uffd_source_name(m->uffd.source));
		/* A clone needs it for a handover (ram_carry.h). */
		return base_is_carried(m) || m->cfg.forked || memory_view(&m->mem) ? dirty_log_init(&m->dirty_log, &m->kvm,
			&m->mem, e) : 0;
	}
	log_info(NULL, "memory is tracked by KVM's dirty log, since userfaultfd is not available (%s): a snapshot copies "
		"memory in rounds%s; `cairn doctor` shows how to change that", reason,
		m->uffd.fd < 0 ? ", and a restore reads all memory before the VM runs" : "");
	return dirty_log_init(&m->dirty_log, &m->kvm, &m->mem, e);
}

/* Open KVM, and set the guest's processor if the configuration names one. */
static int kvm_open(struct machine *m, struct host_files *host, struct err *e)
{
	struct fork_host known = { 0 };
	int r;

	if (m->cfg.assist != VM_ASSIST_AUTO && (m->cfg.assist == VM_ASSIST_ON) != host->vm_has_filter)
		host_files_drop_vm(host); /* it has the filter if the kind of host asks for the assist */
	/* The host may have changed since the state of `cairn run` was saved, so ask KVM then. */
	if (m->fork_fd >= 0 && !m->cfg.foreground)
		fork_host_read(m->fork_fd, &known);
	r = kvm_init(&m->kvm, host, known.supported ? &known : NULL, e);
	fork_host_done(&known);
	if (!r && m->cfg.cpu[0] && !cpu_model_is_host(m->cfg.cpu))
		r = guest_cpu_choose(&m->kvm, m->cfg.cpu, e);
	/* A restore needs the probe's result. The probe runs while the rest of the machine is built. */
	if (!r && m->cfg.restore_fd != VM_NO_FD)
		cpu_probe_begin(&m->kvm);
	return r;
}

/* Return the kind of memory to request from the kernel: "Memory in huge pages" in docs/snapshots.md. */
static int ram_advice(const struct machine *m, const struct host_files *host)
{
	const struct vm_config *c = &m->cfg;

	if (c->huge_pages)
		return 0; /* all of them are already */
	return c->small_pages || !host->huge_pages_safe || m->kvm.has_shadows || c->ram_bytes < HUGE_FROM_BYTES ? MADV_NOHUGEPAGE : MADV_HUGEPAGE;
}

static int ram_make(struct machine *m, int *fds, struct memory *taken, struct host_files *host, struct err *e)
{
	const struct vm_config *c = &m->cfg;
	int advice = ram_advice(m, host), r;

	if (!c->taken_over) {
		bool has_file = advice == MADV_HUGEPAGE && !c->forked && host->ram_fd >= 0;

		r = has_file ? memory_init_file(&m->mem, c->ram_bytes, steal_fd(&host->ram_fd), e) :
			memory_init(&m->mem, c->ram_bytes, c->huge_pages, e);
		if (!r)
			memory_advise(&m->mem, advice);
		return r < 0 || !c->forked ? r : machine_map_fork(m, e);
	}
	if (c->taken_memory) {
		if (!taken || taken->bytes != c->ram_bytes)
			return err_set(e, -EINVAL, ERR_INVALID, "the process that hands the VM over has sent no memory for it");
		memory_adopt(&m->mem, taken);
		return memory_read_copy(&m->mem, e);
	}
	r = memory_take(&m->mem, c->ram_bytes, c->huge_pages, fds[c->taken.ram_fd], e);
	if (m->mem.fd >= 0)
		fds[c->taken.ram_fd] = -1;
	if (!r)
		memory_advise(&m->mem, advice);
	return r;
}

/* Create the disks' loops, which need no image, and wait until the fork's source has written the images. */
static int fork_await(struct machine *m, const int *fds, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < m->cfg.ndisks && !r; i++)
		r = machine_disk_loop(&m->disk_ios[i], m->cfg.disks[i].id, DISK_LOOP_ENTRIES, e);
	return r ? r : machine_await_fork(m, m->cfg.state_later ? fds[m->cfg.state_ready_fd] : -1, e);
}

/* Firmware writes to its debug port while it starts. A guest that continues from a state has finished that. */
static void debug_port_collect(struct machine *m)
{
	port_ring_init(&m->port_ring, &m->kvm, m->host.loop, DEBUGCON_PORT);
	if (m->cfg.restore_fd == VM_NO_FD && !m->cfg.taken_over)
		port_ring_collect(&m->port_ring);
}

static int machine_build(struct machine *m, int *fds, struct memory *taken, struct host_files *host, struct err *e)
{
	int r = files_take(m, fds, e);

	if (!r && m->cfg.images_only)
		return disks_new(m, fds, e);
	if (!r)
		r = kvm_open(m, host, e);
	if (!r)
		r = assist_setup(m, e);
	if (!r)
		r = ram_make(m, fds, taken, host, e);
	if (!r && m->cfg.firmware)
		r = machine_load_firmware(m, e);
	m->assist.rom = m->mem.rom;
	m->assist.rom_bytes = m->mem.rom_bytes;
	/* Set the assist's MSR filter and all memory slots before the irqchip: see
	 * kvm_create_irqchip(). */
	if (!r)
		r = tracking_open(m, host, e);
	if (!r)
		r = memory_attach(&m->mem, &m->kvm, e);
	/* Protecting memory with userfaultfd would lengthen the pause, so the dirty log notes the writes until the
	 * first snapshot. */
	if (!r && base_is_carried(m))
		r = dirty_log_start(&m->dirty_log, e);
	if (!r && m->cfg.firmware)
		debug_port_collect(m);
	if (!r)
		r = kvm_create_irqchip(&m->kvm, e);
	if (r < 0)
		return r;
	memory_describe(&m->mem, &m->host);
	m->pio = bus_new();
	m->mmio = bus_new();
	if (!m->pio || !m->mmio)
		return err_set_errno(e, -ENOMEM, "buses");
	r = vcpus_setup(m, e);
	if (!r)
		r = consoles_new(m, e);
	if (!r)
		r = board_devices_new(m, e);
	if (!r && m->cfg.forked)
		r = fork_await(m, fds, e);
	if (!r)
		r = pci_devices_new(m, fds, e);
	m->cfg.pins_readable = 0; /* a disk that is attached later may have such a number, too */
	pci_host_begin_hotplug(m->pci);
	return r || !m->cfg.firmware ? r : machine_describe_firmware(m, e);
}

int machine_new(const struct vm_config *cfg, int *fds, unsigned nfds, int fork_fd, struct memory *taken,
	struct host_files *host, struct loop *l, const struct machine_listener *listener, struct machine **ret_m, struct err *e)
{
	struct machine *m = calloc(1, sizeof(*m));
	int r;

	(void)nfds; /* vm_config_check() has compared every index with nfds */
	if (!m)
		return err_set_errno(e, -ENOMEM, "machine");
	m->cfg = *cfg;
	m->listener = *listener;
	m->vsock_listen_fd = m->vsock_dial_fd = -1;
	m->kvm.sys_fd = m->kvm.vm_fd = m->mem.fd = m->kernel_fd = m->initrd_fd = m->network_rom_fd = m->screen_rom_fd =
		m->nvram_fd = m->nvram_template_fd =
		m->restored_from.fd = m->uffd.fd = m->prefault.uffd = m->working_sets_fd = -1;
	m->pagemap_fd = cfg->forked ? steal_fd(&host->pagemap_fd) : -1;
	m->fork_fd = fork_fd;
	m->peer_fd = host ? host->peer_fd : 0;
	m->host.ops = &machine_host_ops;
	msi_links_init(&m->msi_links);
	m->host.loop = l;
	m->throttle.vcpus = &m->vcpus;
	pthread_mutex_init(&m->held_disks.lock, NULL);
	pthread_cond_init(&m->held_disks.cond, NULL);
	r = machine_build(m, fds, taken, host, e);
	m->fork_fd = -1;
	if (r < 0) {
		machine_free(m);
		return r;
	}
	*ret_m = m;
	return 0;
}

void machine_memory_release(struct machine *m)
{
	m->base_id[0] = 0;
	if (dirty_log_is_on(&m->dirty_log))
		dirty_log_reset(&m->dirty_log);
	fault_tracker_free(m->tracker);
	m->tracker = NULL;
	ram_working_set_keep(m);
	ram_reader_free(m->ram_reader);
	m->ram_reader = NULL;
	vcpus_unpoison(&m->vcpus);
	free(m->paged_from);
	m->paged_from = NULL;
	if (m->restored_from.fd >= 0)
		close(m->restored_from.fd);
	m->restored_from.fd = -1;
}

static bool disk_threads_run(const struct machine *m)
{
	for (unsigned i = 0; i < ARRAY_SIZE(m->disk_ios); i++)
		if (m->disk_ios[i].thread_made)
			return true;
	return false;
}

static void disk_threads_stop(struct machine *m)
{
	for (unsigned i = 0; i < ARRAY_SIZE(m->disk_ios); i++)
		machine_disk_io_stop(&m->disk_ios[i]);
}

static void files_close(const struct machine *m)
{
	const int fds[] = { m->pagemap_fd, m->network_rom_fd, m->screen_rom_fd, m->nvram_fd, m->nvram_template_fd, m->kernel_fd,
		m->initrd_fd };

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

void machine_free(struct machine *m)
{
	if (!m)
		return;
	free(m->idle_pins);
	throttle_set(&m->throttle, 0);
	vcpus_done(&m->vcpus);
	port_ring_done(&m->port_ring);
	for (unsigned i = 0; i < m->ndevices && disk_threads_run(m); i++)
		if (m->devices[i]->ops->pause)
			m->devices[i]->ops->pause(m->devices[i]);
	disk_threads_stop(m);
	for (unsigned i = 0; i < m->nnics; i++)
		nic_stop(&m->nics[i]);
	display_link_free(m->display);
	/* In reverse order: PCI functions leave the bus before the bus is freed. */
	while (m->ndevices)
		m->devices[m->ndevices - 1]->ops->free(m->devices[m->ndevices - 1]), m->ndevices--;
	/* No thread of ours touches memory any more. Free the tracker before the disks close: it may read
	 * memory from a disk's file by the disk's fd. Free it before KVM's fds close, too: that close waits
	 * for KVM's workers, and one of them may wait for a page that was not loaded (an async page fault).
	 * Only the end of the tracker's userfaultfd registration wakes that worker now. */
	machine_memory_release(m);
	for (unsigned i = 0; i < m->ndisks; i++)
		machine_disk_close(&m->disks[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(m->disk_ios); i++)
		loop_free(m->disk_ios[i].loop);
	for (unsigned i = 0; i < m->nnics; i++)
		nic_done(&m->nics[i]);
	if (m->vsock_listen_fd >= 0)
		close(m->vsock_listen_fd);
	if (m->vsock_dial_fd >= 0)
		close(m->vsock_dial_fd);
	for (unsigned i = 0; i < m->nshares; i++)
		if (m->share_fds[i] >= 0)
			close(m->share_fds[i]);
	machine_balloon_free(m);
	machine_dirty_rate_free(m);
	machine_page_done(m);
	free(m->nvram_content);
	agent_free(m->agent);
	for (unsigned i = 0; i < VM_CONSOLE_COUNT; i++)
		console_free(m->consoles[i]);
	bus_free(m->pio);
	bus_free(m->mmio);
	kvm_done(&m->kvm);
	dirty_log_done(&m->dirty_log);
	prefault_done(&m->prefault);
	memory_done(&m->mem);
	ram_working_sets_done(m);
	uffd_close(&m->uffd);
	files_close(m);
	free(m);
}

/* ---- running the machine ---- */

static int disk_threads_start(struct machine *m, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(m->disk_ios) && !r; i++)
		r = m->disk_ios[i].ndisks || m->disk_ios[i].thread_made ? machine_disk_io_start(m, &m->disk_ios[i]) : 0;
	return r < 0 ? err_set_errno(e, r, "cannot start a disk's thread") : 0;
}

int machine_flush_disks(struct machine *m, struct err *e)
{
	int r = 0;

	disk_threads_stop(m);
	for (unsigned i = 0; i < m->ndisks && !r; i++) {
		r = block_flush_all(m->disks[i].block);
		if (r < 0)
			err_set_errno(e, r, "%s", m->disks[i].id);
	}
	return r;
}

/* Start the threads of disks and, if nics is set, of interfaces, with all signals blocked. */
static int io_threads_start(struct machine *m, bool nics, struct err *e)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = disk_threads_start(m, e);
	for (unsigned i = 0; nics && i < m->nnics && !r; i++)
		r = nic_start(&m->nics[i], &m->kvm, e);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

int machine_wake_disks(struct machine *m, struct err *e)
{
	return io_threads_start(m, false, e);
}

int machine_start_threads(struct machine *m, struct err *e)
{
	int r = io_threads_start(m, true, e);

	return r < 0 ? r : vcpus_start_threads(&m->vcpus, e);
}

int machine_boot(struct machine *m, struct err *e)
{
	struct boot_source src = { .kernel_fd = m->kernel_fd, .initrd_fd = m->initrd_fd,
		.cmdline = m->cfg.cmdline };
	struct acpi_config acpi = { .vcpus = m->cfg.vcpus, .keyboard = m->cfg.screen };
	struct boot_entry entry;
	int r;

	if (m->booted)
		memory_clear(&m->mem);
	machine_disks_close_warm(m);
	m->booted = true;
	vmgenid_renew(m->vmgenid, false);
	r = machine_hardware_boot(m, e);
	if (r < 0)
		return r;
	if (m->cfg.firmware) {
		if (!is_uefi(m))
			memory_shadow_rom(&m->mem);
		port_ring_collect(&m->port_ring);
		entry = (struct boot_entry){ .mode = BOOT_RESET, .rip = BOOT_RESET_RIP };
		return vcpus_reset(&m->vcpus, &entry, e);
	}
	acpi.cpu_hotplug = m->cpu_hotplug;
	acpi.vcpus_absent = machine_vcpus_absent(m);
	acpi.hotplug = pci_hotplug_is_on(m->pci_hotplug);
	acpi.slots = machine_eject_slots(m, m->hardware);
	r = acpi_build(&m->mem, &acpi, &src.rsdp_gpa, e);
	if (!r) {
		if (m->hardware != MACHINE_HARDWARE_VERSION_1 && m->hardware != MACHINE_HARDWARE_VERSION_3)
			smbios_place(&m->mem, m->cfg.uuid, m->cfg.sysinfo);
		r = boot_load(&m->mem, &src, &entry, e);
	}
	return r < 0 ? r : vcpus_reset(&m->vcpus, &entry, e);
}

void machine_reset_devices(struct machine *m)
{
	for (unsigned i = 0; i < m->ndevices; i++)
		if (m->devices[i]->ops->reset)
			m->devices[i]->ops->reset(m->devices[i]);
}

int machine_reset(struct machine *m, struct err *e)
{
	int r;

	machine_reset_devices(m);
	machine_dirty_rate_drop(m);
	r = vcpus_drain_async_pf(&m->vcpus, e);
	machine_memory_release(m);
	agent_restored(m->agent, false);
	if (!r)
		r = kvm_reset_irqchip(&m->kvm, e);
	if (!r)
		r = memory_zap_shadow_pages(&m->mem, &m->kvm, e);
	return r < 0 ? r : machine_boot(m, e);
}

void machine_hold(struct machine *m)
{
	m->booted = true;
	if (m->resumed_ns)
		m->stopped_ns = loop_now_ns();
	m->run_ns = machine_clock_ns(m);
	m->resumed_ns = 0;
	port_ring_pause(&m->port_ring);
	machine_balloon_decide(m);
	for (unsigned i = 0; i < m->ndevices; i++)
		if (m->devices[i]->ops->pause)
			m->devices[i]->ops->pause(m->devices[i]);
}

void machine_pause(struct machine *m)
{
	machine_held_lock(m); /* the guest's reset of a disk waits for the disk's requests, and a vCPU for the reset */
	vcpus_stop(&m->vcpus);
	machine_hold(m);
	machine_held_unlock(m);
}

void machine_resume(struct machine *m)
{
	/* The disks repeat the requests that failed. */
	memset(m->carried.disk_faults, 0, sizeof(m->carried.disk_faults));
	for (unsigned i = 0; i < m->ndevices; i++)
		if (m->devices[i]->ops->resume)
			m->devices[i]->ops->resume(m->devices[i]);
	m->resumed_ns = loop_now_ns();
	if (m->stopped_ns && m->resumed_ns - m->stopped_ns >= STOP_TOLD_NS)
		vcpus_tell_stop(&m->vcpus);
	port_ring_resume(&m->port_ring);
	vcpus_resume(&m->vcpus);
}

uint64_t machine_clock_ns(const struct machine *m)
{
	return m->run_ns + (m->resumed_ns ? loop_now_ns() - m->resumed_ns : 0);
}

const char *machine_corrupt_disk(const struct machine *m)
{
	for (unsigned i = 0; i < m->ndisks; i++)
		if (block_is_corrupt(m->disks[i].block))
			return m->disks[i].id;
	return NULL;
}

static enum vm_disk_fault disk_fault(const struct machine_disk *d, int failed)
{
	if (block_is_corrupt(d->block))
		return VM_DISK_CORRUPT;
	if (failed == ENOSPC || failed == EDQUOT)
		return VM_DISK_NO_SPACE;
	return failed ? VM_DISK_FAILED : VM_DISK_FINE;
}

static void disk_info(struct machine *m, unsigned i, struct vm_info *info)
{
	struct vm_disk_info *ret = &info->disks[i];
	struct virtio_blk_stats s = { 0 };
	struct block_info b;

	if (m->disks[i].dev && m->disks[i].scsi)
		virtio_scsi_stats(m->disks[i].dev, m->disks[i].target, &s);
	else if (m->disks[i].dev)
		virtio_blk_stats(m->disks[i].dev, &s);
	block_info(m->disks[i].block, &b);
	memcpy(ret->id, m->cfg.disks[i].id, sizeof(ret->id));
	ret->size_bytes = b.size_bytes;
	ret->rd_reqs = s.rd_reqs;
	ret->rd_bytes = s.rd_bytes;
	ret->rd_ns = s.rd_ns;
	ret->wr_reqs = s.wr_reqs;
	ret->wr_bytes = s.wr_bytes;
	ret->wr_ns = s.wr_ns;
	ret->fl_reqs = s.fl_reqs;
	ret->fl_ns = s.fl_ns;
	ret->errors = s.errors;
	info->disk_faults[i] = disk_fault(&m->disks[i], s.failed);
	info->disk_direct[i] = b.direct;
	info->images[i].dev = m->disks[i].image_dev;
	info->images[i].ino = m->disks[i].image_ino;
	info->mirrored[i] = m->disks[i].mirrored ? VM_MIRRORED : VM_NOT_MIRRORED;
	if (m->disks[i].dev && m->cfg.disk_more[i].cdrom)
		info->trays[i] = virtio_scsi_tray_is_open(m->disks[i].dev, m->disks[i].target) ? VM_TRAY_OPEN : VM_TRAY_CLOSED;
}

void machine_info(struct machine *m, struct vm_info *i)
{
	i->host_kind = m->kvm.host_kind;
	i->machine = (uint8_t)m->hardware;
	i->assist_on = m->assist_on;
	i->vcpus = m->cfg.vcpus;
	i->vcpus_absent = machine_vcpus_absent(m);
	/* A vCPU that the guest lacks counts as halted. */
	i->vcpus_halted = vcpus_halted(&m->vcpus) + (uint32_t)__builtin_popcountll(i->vcpus_absent);
	i->ram_bytes = m->cfg.ram_bytes;
	i->assist_syscalls = atomic_load(&m->assist.syscalls);
	i->assist_instructions = atomic_load(&m->assist.instructions);
	for (unsigned n = 0; n < m->vcpus.cfg.count; n++) {
		const struct vcpu *v = &m->vcpus.vcpu[n];

		i->vcpu_ns[n] = vcpu_cpu_ns(&m->vcpus, n);
		i->exits_io += figure_get(v->counters, VCPU_EXITS_IO);
		i->exits_mmio += figure_get(v->counters, VCPU_EXITS_MMIO);
		i->exits_other += figure_get(v->counters, VCPU_EXITS_OTHER);
	}
	i->agent = !m->agent ? VM_AGENT_NONE : agent_answers(m->agent) ? VM_AGENT_ANSWERS :
		agent_port_is_open(m->agent) ? VM_AGENT_OPEN : VM_AGENT_CLOSED;
	i->ndisks = m->ndisks;
	for (unsigned n = 0; n < m->ndisks; n++)
		disk_info(m, n, i);
	for (unsigned n = 0; n < VM_CONSOLE_AGENT; n++) {
		i->console_bytes += m->consoles[n] ? console_written(m->consoles[n]) : 0;
		i->console_readers += m->consoles[n] ? console_readers(m->consoles[n]) : 0;
	}
	i->ninterfaces = m->nnics;
	for (unsigned n = 0; n < m->nnics; n++)
		nic_info(&m->nics[n], &i->interfaces[n]);
	memcpy(i->limits, m->cfg.limits, sizeof(i->limits));
	memcpy(i->link_down, m->cfg.link_down, sizeof(i->link_down));
	i->vsock = m->vsock ? 1 + virtio_vsock_users(m->vsock) : 0;
	machine_balloon_info(m, i);
	machine_dirty_rate_info(m, i);
	machine_carry_figures(m, i);
}
