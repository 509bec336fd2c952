#include "vmm/vm_msg.h"
#include "base/err.h"
#include "base/machine_version.h"
#include "base/relay.h"
#include "base/util.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

/* An answer whose struct grows. An older process sends a shorter one, and the receiver zeroes the rest: see
 * vm_msg_struct_bytes(). A newer process, as after the return to an older daemon, sends a longer one, and the receiver
 * ignores the rest. */
#define GROWS(type, since) { .body_min = offsetof(type, since), .body_max = CHANNEL_BODY_MAX, .known = true }
#define ROW(type, fds) { .body_min = sizeof(type), .body_max = sizeof(type), .fds_max = (fds), .known = true }
#define ROW_EMPTY { .known = true }

const struct channel_type vm_msg_to_vm[VM_MSG_TYPE_COUNT] = {
	/* A process of an earlier build that hands its VM over sends a shorter struct; the receiver zeroes the rest. */
	[VM_MSG_CONFIG] = { .body_min = offsetof(struct vm_config, taken) + sizeof(struct vm_taken),
		.body_max = sizeof(struct vm_config), .fds_max = CHANNEL_FDS_MAX, .known = true },
	[VM_MSG_CONT] = ROW_EMPTY,
	[VM_MSG_STOP] = ROW_EMPTY,
	[VM_MSG_POWERDOWN] = ROW_EMPTY,
	[VM_MSG_RESET] = ROW_EMPTY,
	[VM_MSG_QUIT] = ROW_EMPTY,
	[VM_MSG_QUERY] = ROW_EMPTY,
	/* An older daemon sends a shorter struct; the receiver zeroes the rest. */
	[VM_MSG_CONSOLE] = { .body_min = offsetof(struct vm_console, user), .body_max = sizeof(struct vm_console), .fds_max = 1,
		.known = true },
	[VM_MSG_CONSOLE_END] = { .body_min = offsetof(struct vm_console_end, ids), .body_max = sizeof(struct vm_console_end),
		.known = true },
	[VM_MSG_AGENT_COMMAND] = { .body_min = offsetof(struct vm_agent_command, text) + 1, .body_max = sizeof(struct vm_agent_command),
		.fds_max = 1, .known = true },
	[VM_MSG_VSOCK] = ROW(struct vm_vsock, 1),
	[VM_MSG_WORK] = ROW_EMPTY,
	[VM_MSG_NMI] = ROW_EMPTY,
	[VM_MSG_AGENT] = ROW(struct vm_agent, 0),
	[VM_MSG_SAVE] = { .body_max = sizeof(struct vm_save_devices), .fds_max = 2, .known = true },
	[VM_MSG_CANCEL] = ROW_EMPTY,
	[VM_MSG_SNAPSHOT_CREATE] = ROW(struct vm_snapshot_create, 0),
	[VM_MSG_SNAPSHOT_LIST] = ROW(struct vm_snapshot_list, 0),
	[VM_MSG_SNAPSHOT_REVERT] = ROW(struct vm_snapshot_revert, 0),
	[VM_MSG_SNAPSHOT_DELETE] = ROW(struct vm_snapshot_name, 0),
	[VM_MSG_SNAPSHOT_SET] = ROW(struct vm_snapshot_set, 0),
	[VM_MSG_SNAPSHOT_SIZE] = ROW(struct vm_snapshot_name, 0),
	[VM_MSG_SNAPSHOT_GO] = ROW(struct vm_snapshot_go, 0),
	[VM_MSG_DUMP] = { .body_min = offsetof(struct vm_dump, then), .body_max = sizeof(struct vm_dump), .fds_max = 1, .known = true },
	[VM_MSG_SPACE] = ROW_EMPTY,
	[VM_MSG_ADDRESSES] = ROW_EMPTY,
	[VM_MSG_WATCHDOG] = ROW(struct vm_watchdog, 0),
	[VM_MSG_INTERFACE_SET] = ROW(struct vm_interface_set, 0),
	[VM_MSG_DISK_SET] = { .body_min = offsetof(struct vm_disk_set, tune), .body_max = sizeof(struct vm_disk_set), .known = true },
	/* The receiver zeroes the rest. */
	[VM_MSG_PLUG] = { .body_min = VM_PLUG_BYTES, .body_max = VM_PLUG_TUNE_BYTES, .fds_max = CHANNEL_FDS_MAX, .known = true },
	[VM_MSG_MEDIUM_SET] = { .body_min = VM_PLUG_BYTES, .body_max = VM_PLUG_BYTES, .fds_max = CHANNEL_FDS_MAX, .known = true },
	[VM_MSG_UNPLUG] = ROW(struct vm_unplug, 0),
	[VM_MSG_RECLAIM] = ROW_EMPTY,
	[VM_MSG_BALLOON_SET] = ROW(struct vm_balloon_set, 0),
	[VM_MSG_CLONE_DISK] = ROW(struct vm_clone_disk, CHANNEL_FDS_MAX),
	[VM_MSG_DISK_PULL] = ROW(struct vm_disk_pull, 0),
	[VM_MSG_DISK_COPY] = ROW(struct vm_disk_copy, 1),
	[VM_MSG_DISK_COPY_END] = ROW(struct vm_disk_copy, 0),
	[VM_MSG_DISK_PIVOT] = { .body_min = VM_PLUG_BYTES, .body_max = VM_PLUG_BYTES, .fds_max = CHANNEL_FDS_MAX, .known = true },
	[VM_MSG_SCREENSHOT] = ROW(struct vm_screenshot, 1),
	[VM_MSG_DISK_LAYERS] = { .body_min = VM_PLUG_BYTES, .body_max = VM_PLUG_BYTES, .fds_max = CHANNEL_FDS_MAX, .known = true },
	[VM_MSG_DISK_COMMIT] = ROW(struct vm_disk_commit, CHANNEL_FDS_MAX),
	[VM_MSG_SEND_KEYS] = ROW(struct vm_keys, 0),
	[VM_MSG_INPUT] = ROW(struct vm_input, 0),
	[VM_MSG_PAGE] = { .fds_max = 1, .known = true },
	[VM_MSG_FIRST_PAGES] = { .fds_max = 1, .known = true },
	[VM_MSG_DISK_RESIZE] = ROW(struct vm_disk_resize, 0),
	[VM_MSG_VCPUS] = ROW(struct vm_vcpus, 0),
	[VM_MSG_PCI] = ROW_EMPTY,
	[VM_MSG_DIRTY_RATE] = ROW(struct vm_dirty_rate_ask, 0),
	[VM_MSG_SPARE] = { .fds_max = 3, .known = true },
	/* The receiver zeroes the rest. */
	[VM_MSG_FORK] = { .body_min = offsetof(struct vm_fork, shared), .body_max = sizeof(struct vm_fork), .fds_max = CHANNEL_FDS_MAX,
		.known = true },
	[VM_MSG_PINS_DELETE] = ROW(struct vm_pins, 0),
	[VM_MSG_PINS_IDLE] = ROW(struct vm_pins, 0),
	[VM_MSG_MEMORY] = ROW(struct vm_memory, 2),
	[VM_MSG_HANDOVER] = { .fds_max = 2, .known = true },
	/* A process of an earlier build sends no body. */
	[VM_MSG_GO] = { .body_max = sizeof(struct vm_go), .fds_max = CHANNEL_FDS_MAX, .known = true },
};

const struct channel_type vm_msg_from_vm[VM_MSG_TYPE_COUNT] = {
	[VM_MSG_REPLY] = ROW(struct vm_reply, 0),
	[VM_MSG_INFO] = GROWS(struct vm_info, console_bytes),
	[VM_MSG_SPACES] = GROWS(struct vm_spaces, images),
	[VM_MSG_PCI_LIST] = ROW(struct vm_pci, 0),
	[VM_MSG_ADDRESS_LIST] = ROW(struct vm_addresses, 0),
	[VM_MSG_AGENT_ANSWER] = ROW(struct vm_agent_answer, 0),
	[VM_MSG_EVENT] = ROW(struct vm_event, 0),
	[VM_MSG_SNAPSHOTS] = { .body_min = offsetof(struct vm_snapshots, list),
		.body_max = sizeof(struct vm_snapshots), .known = true },
	[VM_MSG_SNAPSHOT_DONE] = GROWS(struct vm_snapshot_done, memory_tracking),
};

size_t vm_msg_struct_bytes(enum vm_msg_type type)
{
	switch (type) {
	case VM_MSG_INFO: return sizeof(struct vm_info);
	case VM_MSG_SPACES: return sizeof(struct vm_spaces);
	case VM_MSG_SNAPSHOT_DONE: return sizeof(struct vm_snapshot_done);
	default: return 0;
	}
}

_Static_assert(sizeof(struct vm_config) <= CHANNEL_BODY_MAX, "a configuration fits one message");
_Static_assert(sizeof(struct vm_info) <= CHANNEL_BODY_MAX, "an answer fits one message");
_Static_assert(sizeof(struct vm_snapshots) <= CHANNEL_BODY_MAX, "so does a page of snapshots");

/* The fds of a message; each may be used once. */
struct files {
	unsigned n;
	bool taken[CHANNEL_FDS_MAX];
};

static bool file_take(struct files *f, uint16_t fd)
{
	if (fd >= f->n || fd >= CHANNEL_FDS_MAX || f->taken[fd])
		return false;
	f->taken[fd] = true;
	return true;
}

static bool fd_ok(struct files *f, uint16_t fd)
{
	return fd == VM_NO_FD || file_take(f, fd);
}

static int disk_check(struct vm_disk *d, struct files *f, struct err *e)
{
	d->id[sizeof(d->id) - 1] = 0;
	d->serial[sizeof(d->serial) - 1] = 0;
	if (!d->id[0] || !d->nlayers || d->nlayers > VM_DISK_LAYERS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: disk '%s' has %u layers", d->id,
			d->nlayers);
	for (unsigned i = 0; i < d->nlayers; i++)
		if (!file_take(f, d->fd[i]) || d->format[i] < 1 || d->format[i] > 2)
			return err_set(e, -EINVAL, ERR_INVALID,
				"configuration: disk '%s' has an unknown format, or a file that is "
				"missing or used twice", d->id);
	for (unsigned i = 0; i < d->nlayers; i++)
		if (!fd_ok(f, d->data_fd[i]) || (d->data_fd[i] != VM_NO_FD && d->format[i] != 2))
			return err_set(e, -EINVAL, ERR_INVALID,
				"configuration: disk '%s' has a data file that is missing or used "
				"twice, or that belongs to a raw image", d->id);
	if (d->error_policy > VM_ERRORS_IGNORE || d->queues > 8 ||
		(d->queue_size && (d->queue_size > 1024 || !is_power_of_two(d->queue_size))))
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: disk '%s' has a value out of "
			"range", d->id);
	return 0;
}

static bool topology_ok(const struct vm_config *c)
{
	uint64_t n = (uint64_t)c->sockets * c->cores * c->threads;

	if (!c->sockets && !c->cores && !c->threads)
		return true;
	return c->sockets <= VM_VCPUS_MAX && c->cores <= VM_VCPUS_MAX && c->threads <= 2 &&
		n == c->vcpus;
}

static bool block_bytes_ok(uint32_t n)
{
	return !n || (n >= 512 && n <= 4096 && is_power_of_two(n));
}

static bool disk_more_ok(const struct vm_disk_more *d)
{
	return d->bus <= VM_BUS_SCSI && d->cdrom <= 1 && d->no_discard <= 1 && d->detect_zeroes <= VM_ZEROES_UNMAP && d->cache <= VM_CACHE_UNSAFE && d->force <= 1 &&
		d->check_only <= 1 && block_bytes_ok(d->logical_bytes) && block_bytes_ok(d->physical_bytes);
}

static int disks_check(struct vm_config *c, struct files *f, struct err *e)
{
	for (unsigned i = 0; i < c->ndisks; i++) {
		int r = disk_check(&c->disks[i], f, e);

		if (r < 0)
			return r;
		if (!disk_more_ok(&c->disk_more[i]))
			return err_set(e, -EINVAL, ERR_INVALID, "configuration: disk '%s' has a value out of range", c->disks[i].id);
		for (unsigned k = 0; k < i; k++)
			if (!strcmp(c->disks[i].id, c->disks[k].id))
				return err_set(e, -EINVAL, ERR_INVALID,
					"configuration: two disks are named '%s'", c->disks[i].id);
	}
	return 0;
}

static bool pairs_ok(const struct vm_config *c, unsigned n, struct files *f)
{
	const struct vm_interface *i = &c->interfaces[n];

	if (c->queue_pairs[n] > VM_QUEUE_PAIRS_MAX || (i->user && c->queue_pairs[n] > 1))
		return false;
	for (unsigned k = 1; k < c->queue_pairs[n]; k++) {
		uint16_t fd = c->pair_fds[n][k - 1];

		if ((fd == VM_NO_FD) != (i->tap_fd == VM_NO_FD) || !fd_ok(f, fd))
			return false;
	}
	return true;
}

static bool vhost_ok(const struct vm_config *c, unsigned n, struct files *f)
{
	const struct vm_interface *i = &c->interfaces[n];

	if (c->vhost[n] > VM_VHOST_BEFORE || (c->vhost[n] == VM_VHOST_YES && (i->user || i->tap_fd == VM_NO_FD || c->taken_over)))
		return false;
	for (unsigned k = 0; k < MAX(c->queue_pairs[n], 1u) && c->vhost[n] == VM_VHOST_YES; k++)
		if (!file_take(f, c->vhost_fds[n][k]))
			return false;
	return true;
}

static int interface_check(const struct vm_config *c, unsigned n, struct files *f, struct err *e)
{
	const struct vm_interface *i = &c->interfaces[n];

	if (!i->id[0] || !fd_ok(f, i->tap_fd) || (i->mac[0] & 1) || (i->mtu && i->mtu < 68) || i->user > 1 || c->link_down[n] > 1 ||
		c->interface_slots[n] > MACHINE_SLOT_MAX || !pairs_ok(c, n, f) || !vhost_ok(c, n, f))
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: interface '%s' has a value "
			"out of range", i->id);
	for (unsigned k = 0; k < n; k++)
		if (!strcmp(i->id, c->interfaces[k].id) || (c->interface_slots[n] && c->interface_slots[n] == c->interface_slots[k]))
			return err_set(e, -EINVAL, ERR_INVALID,
				"configuration: two interfaces have the name or the slot of '%s'", i->id);
	return 0;
}

static int interfaces_check(struct vm_config *c, struct files *f, struct err *e)
{
	int r = 0;

	if (c->ninterfaces > VM_INTERFACES_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: more than %d interfaces",
			VM_INTERFACES_MAX);
	for (unsigned i = 0; i < c->ninterfaces && !r; i++) {
		c->interfaces[i].id[sizeof(c->interfaces[i].id) - 1] = 0;
		c->interfaces[i].target[sizeof(c->interfaces[i].target) - 1] = 0;
		r = interface_check(c, i, f, e);
	}
	return r;
}

static int taken_check(struct vm_config *c, struct files *f, struct err *e)
{
	struct vm_taken *t = &c->taken;

	t->detail[VM_DETAIL_MAX - 1] = 0;
	if (!c->taken_over)
		return 0;
	if (c->taken_memory ? t->ram_fd != VM_NO_FD || c->huge_pages : !file_take(f, t->ram_fd))
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: a VM that is handed over needs one kind of memory");
	if (!file_take(f, t->listen_fd) || c->restore_fd == VM_NO_FD || c->forked ||
		c->images_only || c->foreground || (t->phase != VM_PHASE_RUNNING && t->phase != VM_PHASE_PAUSED) ||
		t->reason >= VM_REASON_COUNT)
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: a VM that is handed over lacks a file, or has a "
			"value out of range");
	return 0;
}

/* Replace the relay by the saved state. n: number of files before those of the message. */
static int state_take(const struct vm_config *c, struct channel_msg *m, unsigned n)
{
	int fd = -1, r;

	if (c->restore_fd < n || c->restore_fd >= m->nfds || m->fds[c->restore_fd] < 0)
		return -EINVAL;
	r = relay_take(m->fds[c->restore_fd], &fd, 1);
	close(m->fds[c->restore_fd]);
	m->fds[c->restore_fd] = fd;
	return r ? r : fd < 0 ? -EPROTO : 0;
}

int vm_config_take_held(struct vm_config *c, struct channel_msg *m, struct err *e)
{
	unsigned n = c->taken_over ? 0 : c->held, relays = c->taken_over ? 0 : c->relays;
	bool restore_held = !c->taken_over && c->restore_held;
	int r = 0;

	c->held = c->relays = c->restore_held = 0;
	if (relays > m->nfds || n + m->nfds > CHANNEL_FDS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: a file is missing, or there are too many");
	memmove(m->fds + n, m->fds, m->nfds * sizeof(*m->fds));
	m->nfds += n;
	for (unsigned i = 0; i < n; i++)
		m->fds[i] = -1;
	for (unsigned i = 0; i < relays; i++) {
		if (!r)
			r = relay_take(m->fds[n + i], m->fds, n);
		close(m->fds[n + i]);
		m->fds[n + i] = -1;
	}
	for (unsigned i = 0; i < n && !r; i++)
		r = m->fds[i] < 0 ? -EPROTO : 0;
	if (!r && restore_held)
		r = state_take(c, m, n);
	return r < 0 ? err_set_errno(e, r, "cannot get the VM's files from the process that opened them") : 0;
}

static bool sysinfo_ok(const struct vm_config *c)
{
	const char *at = c->sysinfo, *end = c->sysinfo + VM_SYSINFO_MAX;

	while (at < end && *at) {
		const char *nul = at + 1 < end ? memchr(at + 1, 0, (size_t)(end - at - 1)) : NULL;

		if ((unsigned char)*at >= VM_SYSINFO_KEYS || !nul || nul == at + 1)
			return false;
		at = nul + 1;
	}
	return at < end;
}

_Static_assert(VM_FIRMWARE_BIOS == 1 && VM_FIRMWARE_UEFI == 2, "as base/machine_version.h has them");

static int shares_check(struct vm_config *c, struct files *f, struct err *e)
{
	for (unsigned i = 0; i < MIN(c->nshares, VM_SHARES_MAX); i++) {
		c->shares[i].tag[SHARE_TAG_MAX] = 0;
		if (!c->shares[i].tag[0] || !fd_ok(f, c->shares[i].fd))
			return err_set(e, -EINVAL, ERR_INVALID, "configuration: a share has no tag, or its file is missing or used twice");
	}
	return c->nshares <= VM_SHARES_MAX ? 0 : err_set(e, -EINVAL, ERR_INVALID, "configuration: more than %d shares", VM_SHARES_MAX);
}

static int screen_check(const struct vm_config *c, struct files *f, struct err *e)
{
	if (c->screen > 1 || c->display > 1 || (c->display && (!c->screen || c->taken_over || c->display_fd == VM_NO_FD || !fd_ok(f, c->display_fd))))
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: the screen has a value out of range, or its file is missing or used twice");
	if (c->tablet > 1 || (c->tablet && !c->screen))
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: a tablet needs a screen");
	if (c->screen_rom > 1 || (c->screen_rom && (!c->screen || c->firmware != VM_FIRMWARE_BIOS || c->screen_rom_fd == VM_NO_FD ||
		!fd_ok(f, c->screen_rom_fd))))
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: the screen's ROM is not for this VM, missing or used twice");
	return 0;
}

static int clone_check(const struct vm_config *c, struct files *f, struct err *e)
{
	if (c->forked && c->restore_fd == VM_NO_FD)
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: a clone needs a state file");
	if (c->state_later && (c->state_later > 1 || !c->forked || c->state_ready_fd == VM_NO_FD || !fd_ok(f, c->state_ready_fd)))
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: only a clone can wait for its state, and needs a file for that");
	if (c->pins_readable && (!c->forked || c->ndisks > VM_DISKS_MAX || c->pins_readable >> c->ndisks))
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: only a clone can read pins that are being made, with the disks that it has");
	return 0;
}

int vm_config_check(struct vm_config *c, unsigned nfds, struct err *e)
{
	struct files f = { .n = nfds };

	c->name[VM_NAME_MAX] = 0;
	c->cmdline[VM_CMDLINE_MAX] = 0;
	c->cpu[VM_CPU_MAX] = 0;
	if (!c->name[0] || strchr(c->name, '/'))
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: invalid name");
	if (c->ram_bytes < VM_RAM_MIN_BYTES || c->ram_bytes > VM_RAM_MAX_BYTES || c->ram_bytes % 4096)
		return err_set(e, -EINVAL, ERR_INVALID,
			"configuration: memory must be 1 MiB to 1 TiB, a multiple of 4 KiB");
	if (!c->vcpus || c->vcpus > VM_VCPUS_MAX || !topology_ok(c))
		return err_set(e, -EINVAL, ERR_INVALID,
			"configuration: vCPUs must be 1 to %d and equal the product of sockets, cores "
			"and threads", VM_VCPUS_MAX);
	if (c->vcpus_absent & 1 || (c->vcpus < VM_VCPUS_MAX && c->vcpus_absent >> c->vcpus) || (c->vcpus_absent && !c->cpu_hotplug) ||
		c->cpu_hotplug > 1)
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: the vCPUs that are absent at the start are not those that may come");
	if (!fd_ok(&f, c->kernel_fd) || !fd_ok(&f, c->initrd_fd) || !fd_ok(&f, c->log_fd) ||
		!fd_ok(&f, c->end_fd) || !fd_ok(&f, c->restore_fd) || !fd_ok(&f, c->working_sets_fd))
		return err_set(e, -EINVAL, ERR_INVALID,
			"configuration: a file is missing or used twice");
	if (c->assist > VM_ASSIST_OFF || c->on_poweroff > VM_ACTION_PRESERVE ||
		c->on_reboot > VM_ACTION_PRESERVE || c->on_crash > VM_ACTION_PRESERVE ||
		c->log_level > 4 || c->clock_offset_s < -86400 || c->clock_offset_s > 86400 ||
		c->watchdog > VM_WATCHDOG_I6300ESB || c->watchdog_action >= VM_WATCHDOG_ACTION_COUNT ||
		c->ndisks > VM_DISKS_MAX || c->firmware > VM_FIRMWARE_UEFI || c->boot_menu > 1)
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: a value is out of range");
	if (c->vsock_cid && (c->vsock_cid < 3 || c->vsock_cid == UINT32_MAX || !fd_ok(&f, c->vsock_listen_fd) ||
		!fd_ok(&f, c->vsock_dial_fd)))
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: the vsock device has a value out of range, or a file that "
			"is missing or used twice");
	if (c->network_place && (c->network_place > VM_BOOT_PLACES_MAX || !c->firmware || (c->firmware == VM_FIRMWARE_BIOS &&
		(c->network_rom_fd == VM_NO_FD || !fd_ok(&f, c->network_rom_fd)))))
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: the ROM for network boot is missing or used twice");
	if (c->firmware == VM_FIRMWARE_UEFI && !c->images_only && (c->nvram_fd == VM_NO_FD || c->nvram_template_fd == VM_NO_FD ||
		!fd_ok(&f, c->nvram_fd) || !fd_ok(&f, c->nvram_template_fd)))
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: a file of UEFI variables is missing or used twice");
	if (!sysinfo_ok(c))
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: the texts of SMBIOS tables are malformed");
	if (c->machine && !machine_version_boots(c->firmware, c->machine))
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: a VM of this kind cannot boot as machine version %u", c->machine);
	if (screen_check(c, &f, e) < 0)
		return -EINVAL;
	if (c->small_pages > 1 || (c->small_pages && c->huge_pages))
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: memory is in small pages or in huge pages");
	if (c->balloon > 1 || c->balloon_bytes > c->ram_bytes || (c->balloon && c->huge_pages))
		return err_set(e, -EINVAL, ERR_INVALID, "configuration: the balloon has a value out of range, or memory in huge pages");
	if (clone_check(c, &f, e) < 0 || taken_check(c, &f, e) < 0 || disks_check(c, &f, e) < 0 || shares_check(c, &f, e) < 0)
		return -EINVAL;
	return interfaces_check(c, &f, e);
}
