#include "api/definition/vm_config.h"
#include "api/definition/definition.h"
#include "api/definition/definition_key.h"
#include "api/definition/share_start.h"
#include "api/definition/vnc_start.h"
#include "api/definition/vsock_socket.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/machine_version.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG 128

unsigned config_add_fd(struct config *c, int fd)
{
	if (c->nheld + c->nfds == CHANNEL_FDS_MAX) {
		close(fd);
		return VM_NO_FD;
	}
	c->fds[c->nfds] = fd;
	return c->nheld + c->nfds++;
}

static const char *kind_words(mode_t mode)
{
	return S_ISDIR(mode) ? "a folder" : S_ISFIFO(mode) ? "a pipe" :
		S_ISSOCK(mode)			       ? "a socket" : "a device";
}

static int open_failed(const struct config_file *f, struct err *e)
{
	int error = errno;
	const char *hint = "";
	char eject[96];

	if (f->write && error == EROFS)
		hint = "; mount it for writing, or if the guest need not write to the file, set its \"readonly\" to true; after an error of the "
		       "disk, the kernel's log (dmesg) says why it is read-only";
	else if (f->write && (error == EACCES || error == EPERM))
		hint = "; if the guest need not write to it, set its \"readonly\" to true";
	else if (error == ENOENT && !strcmp(f->path, DEFINITION_BIOS_PATH))
		hint = "; " DEFINITION_BIOS_REMEDY;
	else if (error == ENOENT && (!strcmp(f->path, DEFINITION_UEFI_PATH) || !strcmp(f->path, DEFINITION_NVRAM_PATH)))
		hint = "; " DEFINITION_UEFI_REMEDY;
	else if (error == ENOENT && !strcmp(f->path, DEFINITION_NETWORK_ROM_PATH))
		hint = "; install the package ipxe-qemu (apt install ipxe-qemu)";
	else if (f->drive) {
		snprintf(eject, sizeof(eject), "; without this medium, eject it first: cairn change-media VM %s --eject", f->drive);
		hint = eject;
	} else if (error == ENOENT && f->block && strstr(f->key, "backing")) {
		hint = "; if the file has moved, give its new path in the definition, and in the image above it (cairn-img rebase -u)";
	}
	return err_set(e, -error, err_class_of_errno(error), "%s: %s: %s%s", f->key, f->path,
		strerror(error), hint);
}

static int kind_check(const struct config_file *f, mode_t mode, struct err *e)
{
	if (S_ISREG(mode) || (f->block && S_ISBLK(mode)))
		return 0;
	return err_set(e, -EINVAL, ERR_INVALID, "%s: %s is %s; give a file%s", f->key, f->path, kind_words(mode),
		f->block ? " or a block device" : "");
}

static int open_nothing(const struct config_file *f, struct err *e)
{
	int fd = memfd_create("no medium", MFD_CLOEXEC);

	return fd < 0 ? err_set_errno(e, -errno, "%s", f->key) : fd;
}

static int listen_failed(const struct definition_forward *f, const char *key, struct err *e)
{
	char text[DEFINITION_FORWARD_TEXT];
	int error = errno;

	definition_forward_print(f, text);
	if (error == EADDRINUSE)
		return err_set(e, -error, ERR_BUSY,
			"%s: %s is used by another program; end that program (ss -ln%cp names it), or "
			"choose another port", key, text, f->protocol == DEFINITION_UDP ? 'u' : 't');
	if (error == EADDRNOTAVAIL)
		return err_set(e, -error, ERR_NOT_FOUND, "%s: %s: this host has no such address; use 127.0.0.1, or 0.0.0.0 for "
			"all IPv4 addresses of this host and :: for all IPv6 ones", key, text);
	if (error == EAFNOSUPPORT)
		return err_set(e, -error, ERR_HOST, "%s: %s: this host has no IPv6; use an IPv4 address", key, text);
	if (error == EACCES)
		return err_set(e, -error, ERR_PERMISSION, "%s: %s: ports below 1024 require root; choose a higher one",
			key, text);
	return err_set_errno(e, -error, "%s: %s", key, text);
}

/* Return a socket of the forward's port that does not listen yet, owned by the caller; -errno with a sentence. */
static int forward_bind(const struct definition_forward *f, const char *key, struct err *e)
{
	int type = f->protocol == DEFINITION_UDP ? SOCK_DGRAM : SOCK_STREAM, on = 1;
	int family = strchr(f->address, ':') ? AF_INET6 : AF_INET;
	union {
		struct sockaddr any;
		struct sockaddr_in four;
		struct sockaddr_in6 six;
	} address = { .four = { .sin_family = AF_INET, .sin_port = htons(f->port) } };
	CLEANUP_CLOSE int fd = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (family == AF_INET6)
		address.six = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htons(f->port) };
	if (fd < 0 || inet_pton(family, f->address, family == AF_INET ? (void *)&address.four.sin_addr : &address.six.sin6_addr) != 1)
		return listen_failed(f, key, e);
	/* Another forward may have the IPv4 addresses. */
	if (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0)
		return listen_failed(f, key, e);
	/* On TCP the option ignores old connections in TIME_WAIT; on UDP it would let two processes share the port. */
	if (type == SOCK_STREAM && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
		return listen_failed(f, key, e);
	if (bind(fd, &address.any, family == AF_INET ? sizeof(address.four) : sizeof(address.six)) < 0)
		return listen_failed(f, key, e);
	return steal_fd(&fd);
}

static int forward_listen(const struct definition_forward *f, const char *key, struct err *e)
{
	CLEANUP_CLOSE int fd = forward_bind(f, key, e);

	if (fd >= 0 && f->protocol == DEFINITION_TCP && listen(fd, BACKLOG) < 0)
		return listen_failed(f, key, e);
	return steal_fd(&fd);
}

int config_check_forward(const struct definition_forward *f, const char *key, struct err *e)
{
	CLEANUP_CLOSE int fd = forward_bind(f, key, e);

	return fd < 0 ? fd : 0;
}

static int screen_show(const struct definition *d, struct err *e)
{
	struct definition_forward port = { .protocol = DEFINITION_TCP, .port = (uint16_t)d->vnc.port };
	CLEANUP_CLOSE int listener = -1;

	snprintf(port.address, sizeof(port.address), "%s", d->vnc.address);
	listener = d->vnc.path ? path_listen(d->vnc.path, "vnc.path", e) : forward_listen(&port, "vnc.port", e);
	return listener < 0 ? listener : vnc_start(d, listener, e);
}

/* Open the file to which a path leads. Links such as /proc/self/fd/2 lead to a file without a check of the rights to
 * its folders, so each folder above the file is opened, too. openat2() would refuse such links in one call, but
 * systemd's RestrictSUIDSGID= forbids it. Returns an owned fd; -1: errno is set. */
static int foreign_open(const char *path, int flags)
{
	CLEANUP_CLOSE int found = open(path, O_PATH | O_CLOEXEC), folder = open("/", O_PATH | O_CLOEXEC);
	char link[32], real[PATH_MAX];
	char *name, *slash;
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", found);
	if (found < 0 || folder < 0 || (n = readlink(link, real, sizeof(real) - 1)) < 0)
		return -1;
	real[n] = 0;
	if (real[0] != '/') {
		errno = ELOOP; /* of a pipe or socket that this process has */
		return -1;
	}
	for (name = real + 1; (slash = strchr(name, '/')); name = slash + 1) {
		int next;

		*slash = 0;
		next = openat(folder, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (next < 0)
			return -1;
		close(folder);
		folder = next;
	}
	return openat(folder, *name ? name : ".", flags | O_NOFOLLOW);
}

/* foreign: another user chose the path, whose rights this process has. */
static int path_open(const char *path, int flags, bool foreign)
{
	return foreign ? foreign_open(path, flags) : open(path, flags);
}

/* open() needs O_NONBLOCK, because a FIFO in place of a disk must not block the daemon; afterwards fcntl() clears the
 * flag. */
int config_open_file(const struct config_file *f, bool foreign, int before, struct err *e)
{
	CLEANUP_CLOSE int fd = -1;
	struct stat st;
	int r;

	if (f->forward)
		return forward_listen(f->forward, f->key, e);
	if (!f->path)
		return open_nothing(f, e);
	if (f->kind == CONFIG_LISTENS)
		return path_listen(f->path, f->key, e);
	if (f->kind == CONFIG_DIALS)
		return vsock_dial_start(f->path, f->key, before, e);
	if (f->kind == CONFIG_SHOWS)
		return screen_show(f->definition, e);
	if (f->kind == CONFIG_SHARES)
		return share_start(f->definition, f->key, f->path, f->write, e);
	fd = path_open(f->path, (f->write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, foreign);

	if (fd < 0 || fstat(fd, &st) < 0 || fcntl(fd, F_SETFL, 0) < 0)
		return open_failed(f, e);
	r = kind_check(f, st.st_mode, e);
	return r < 0 ? r : steal_fd(&fd);
}

int config_check_file(const struct config_file *f, struct err *e)
{
	struct stat st;

	if (!f->path)
		return 0;
	return stat(f->path, &st) < 0 ? open_failed(f, e) : kind_check(f, st.st_mode, e);
}

int config_open_files(struct config *c, const struct config_files *files, struct err *e)
{
	int fd = -1;

	for (unsigned i = 0; i < files->n; i++) {
		fd = config_open_file(&files->list[i], false, fd, e);
		if (fd < 0) {
			config_done(c);
			return fd;
		}
		config_add_fd(c, fd);
	}
	return 0;
}

int config_take_fds(struct config *c, const int *fds, unsigned n, struct err *e)
{
	bool full = false;

	for (unsigned i = 0; i < n; i++)
		full |= config_add_fd(c, fds[i]) == VM_NO_FD;
	return full ? err_set(e, -EMFILE, ERR_INVALID, "the VM has too many files and forwards") : 0;
}

/* ---- list of the files to open ---- */

/* Add a file to the list. Returns its index; -EINVAL: the list is full. */
static int file_add(struct config_files *files, const char *key, const char *path, bool write,
	bool block, struct err *e)
{
	struct config_file *f = &files->list[files->n];

	if (files->n == CHANNEL_FDS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "%s: more than %d files in one definition",
			key, CHANNEL_FDS_MAX);
	snprintf(f->key, sizeof(f->key), "%s", key);
	f->path = path;
	f->write = write;
	f->block = block;
	f->kind = CONFIG_FILE;
	f->drive = NULL;
	f->forward = NULL;
	return (int)files->n++;
}

static int boot_add(struct config_files *files, const char *key, const char *path, uint16_t *into,
	struct err *e)
{
	int at;

	*into = VM_NO_FD;
	if (!path)
		return 0;
	at = file_add(files, key, path, false, false, e);
	if (at >= 0)
		*into = (uint16_t)at;
	return MIN(at, 0);
}

static int layer_add(struct config_files *files, struct vm_disk *v, unsigned i, unsigned k,
	const struct definition_disk *d, struct err *e)
{
	bool write = !k && !d->read_only;
	char key[64];
	int at;

	definition_layer_key(i, k, "path", key, sizeof(key));
	at = file_add(files, key, d->layers[k].path, write, true, e);
	if (at < 0)
		return at;
	v->fd[k] = (uint16_t)at;
	files->list[at].drive = d->device == DEFINITION_CDROM ? d->id : NULL;
	v->format[k] = d->nlayers ? d->layers[k].format : DEFINITION_FORMAT_RAW;
	v->data_fd[k] = VM_NO_FD;
	if (!d->layers[k].data_file)
		return 0;
	definition_layer_key(i, k, "data_file", key, sizeof(key));
	at = file_add(files, key, d->layers[k].data_file, write, true, e);
	if (at < 0)
		return at;
	v->data_fd[k] = (uint16_t)at;
	return 0;
}

static int disk_add(struct config_files *files, struct vm_disk *v, unsigned i,
	const struct definition_disk *d, struct err *e)
{
	snprintf(v->id, sizeof(v->id), "%s", d->id);
	snprintf(v->serial, sizeof(v->serial), "%s", d->serial);
	v->nlayers = MAX(d->nlayers, 1);
	v->read_only = d->read_only;
	v->error_policy = d->error_policy;
	v->queues = d->queues;
	v->queue_size = d->queue_size;
	for (unsigned k = 0; k < v->nlayers; k++) {
		int r = layer_add(files, v, i, k, d, e);

		if (r < 0)
			return r;
	}
	return 0;
}

/* Return the present offset of local time from UTC, in seconds. */
static int32_t local_offset_s(void)
{
	time_t now = time(NULL);
	struct tm tm;

	tzset();
	return localtime_r(&now, &tm) ? (int32_t)tm.tm_gmtoff : 0;
}

/* ---- the boot order ---- */

#define NO_ORDER 1000 /* above all values of boot_order */

/* Return the rank of a device among those that the firmware tries, the lowest first; NO_ORDER: it has none.
 * chosen: the device is of the kind that a start has chosen. */
static int boot_rank(uint16_t order, bool chosen)
{
	return (order ? order : NO_ORDER) - (chosen ? 2 * NO_ORDER : 0);
}

static int disk_rank(const struct definition_disk *d, enum vm_boot_kind first)
{
	return boot_rank(d->boot_order, first == (d->device == DEFINITION_CDROM ? VM_BOOT_CDROM : VM_BOOT_HD));
}

/* Return the network's rank: that of the interface with the lowest one. */
static int network_rank(const struct definition *d, enum vm_boot_kind first)
{
	int best = NO_ORDER;

	for (unsigned i = 0; i < d->ninterfaces; i++)
		best = MIN(best, boot_rank(d->interfaces[i].boot_order, first == VM_BOOT_NETWORK));
	return best;
}

/* Return the place of a rank in the boot order, from 1; 0: it has none. */
static uint8_t boot_place(const struct definition *d, enum vm_boot_kind first, int rank)
{
	unsigned place = 1;

	if (rank == NO_ORDER)
		return 0;
	for (unsigned i = 0; i < d->ndisks; i++)
		place += disk_rank(&d->disks[i], first) < rank;
	return (uint8_t)(place + (network_rank(d, first) < rank));
}

static bool has_kind(const struct definition *d, enum vm_boot_kind kind)
{
	for (unsigned i = 0; i < d->ndisks; i++)
		if (kind == (d->disks[i].device == DEFINITION_CDROM ? VM_BOOT_CDROM : VM_BOOT_HD))
			return true;
	return kind == VM_BOOT_ANY || (kind == VM_BOOT_NETWORK && d->ninterfaces);
}

static int choice_check(const struct definition *d, const struct boot_choice *b, struct err *e)
{
	static const char *const devices[] = { "", "disk", "cdrom drive", "interface" };

	if ((b->first || b->menu) && !d->firmware)
		return err_set(e, -EINVAL, ERR_INVALID, "the VM boots a kernel without a firmware, so there is no boot order and no boot "
			"menu; remove boot.kernel from its definition if a disk boots");
	if (!has_kind(d, b->first))
		return err_set(e, -EINVAL, ERR_INVALID, "the VM has no %s to boot from; add one to its definition (cairn edit), or boot "
			"from something else", devices[b->first]);
	return 0;
}

int config_add_nvram(struct config *c, int fd, struct err *e)
{
	unsigned at = fd < 0 ? VM_NO_FD : config_add_fd(c, fd);

	if (fd < 0)
		return err_set_errno(e, -errno, "the file of UEFI variables");
	if (at == VM_NO_FD)
		return err_set(e, -EMFILE, ERR_INVALID, "the VM has too many files and forwards");
	c->vm.nvram_fd = (uint16_t)at;
	return 0;
}

static int rom_open(struct config *c, const char *key, const char *path, uint16_t *into, struct err *e)
{
	struct config_file f = { .path = path, .kind = CONFIG_FILE };
	unsigned at;
	int fd;

	snprintf(f.key, sizeof(f.key), "%s", key);
	fd = config_open_file(&f, false, -1, e);
	if (fd < 0)
		return fd;
	at = config_add_fd(c, fd);
	if (at == VM_NO_FD)
		return err_set(e, -EMFILE, ERR_INVALID, "the VM has too many files and forwards");
	*into = (uint16_t)at;
	return 0;
}

/* Without the ROM, the screen stays dark until the guest's driver sets a mode; the VM's process warns of that. */
static int screen_rom_open(struct config *c, struct err *e)
{
	int r = rom_open(c, "screen", DEFINITION_SCREEN_ROM_PATH, &c->vm.screen_rom_fd, e);

	c->vm.screen_rom = !r;
	return r == -ENOENT ? 0 : r;
}

int config_choose_boot(const struct definition *d, const struct boot_choice *choice, struct config *c, struct err *e)
{
	int r = choice_check(d, choice, e);

	if (r < 0 || !d->firmware)
		return r;
	c->vm.boot_menu |= choice->menu;
	for (unsigned i = 0; i < d->ndisks && i < VM_DISKS_MAX; i++)
		c->vm.boot_place[i] = boot_place(d, choice->first, disk_rank(&d->disks[i], choice->first));
	c->vm.network_place = boot_place(d, choice->first, network_rank(d, choice->first));
	if (d->firmware == VM_FIRMWARE_UEFI)
		return 0;
	r = c->vm.network_place ? rom_open(c, "network boot", DEFINITION_NETWORK_ROM_PATH, &c->vm.network_rom_fd, e) : 0;
	return r || !d->screen ? r : screen_rom_open(c, e);
}

/* ---- the configuration ---- */

static void config_fill_interfaces(struct vm_config *v, const struct definition *d)
{
	v->ninterfaces = d->ninterfaces;
	for (unsigned i = 0; i < d->ninterfaces; i++) {
		snprintf(v->interfaces[i].id, sizeof(v->interfaces[i].id), "%s", d->interfaces[i].id);
		memcpy(v->interfaces[i].mac, d->interfaces[i].mac, sizeof(v->interfaces[i].mac));
		v->interfaces[i].tap_fd = VM_NO_FD;
		v->interfaces[i].user = d->interfaces[i].type == DEFINITION_USER;
		v->link_down[i] = d->interfaces[i].link;
		v->queue_pairs[i] = d->interfaces[i].queues;
		v->interface_slots[i] = (uint8_t)d->interfaces[i].slot;
		for (unsigned k = 0; k < VM_QUEUE_PAIRS_MAX - 1; k++)
			v->pair_fds[i][k] = VM_NO_FD;
		v->limits[i].in = definition_limit_bytes(&d->interfaces[i].bandwidth.in);
		v->limits[i].out = definition_limit_bytes(&d->interfaces[i].bandwidth.out);
	}
}

static void config_fill_disks(struct vm_config *v, const struct definition *d)
{
	for (unsigned i = 0; i < d->ndisks && i < VM_DISKS_MAX; i++) {
		const struct definition_disk *k = &d->disks[i];

		v->disk_limits[i] = (struct vm_disk_limits){ k->tune.iops[0].rate, k->tune.bps[0].rate };
		v->disk_tune[i] = k->tune;
		v->disk_more[i] = (struct vm_disk_more){ .wwn = k->wwn, .logical_bytes = k->logical_block_bytes,
			.physical_bytes = k->physical_block_bytes, .bus = k->bus,
			.cdrom = k->bus == VM_BUS_SCSI && k->device == DEFINITION_CDROM, .no_discard = k->no_discard,
			.detect_zeroes = k->detect_zeroes, .cache = k->cache, .poll_max_us = k->poll_max_us };
	}
}

static void config_fill(struct vm_config *v, const struct definition *d)
{
	snprintf(v->name, sizeof(v->name), "%s", d->name);
	memcpy(v->uuid, d->uuid, sizeof(v->uuid));
	v->ram_bytes = d->ram_bytes;
	v->vcpus = definition_vcpus_max(d);
	v->cpu_hotplug = d->max_vcpus != 0;
	v->vcpus_absent = definition_vcpus_absent(d);
	v->sockets = d->sockets;
	v->cores = d->cores;
	v->threads = d->threads;
	snprintf(v->cmdline, sizeof(v->cmdline), "%s", d->cmdline ? d->cmdline : "");
	snprintf(v->cpu, sizeof(v->cpu), "%s", d->cpu ? d->cpu : "");
	v->huge_pages = d->huge_pages;
	v->small_pages = d->small_pages || d->reclaim_on_pressure; /* more of it can be freed then */
	v->assist = d->assist;
	v->on_poweroff = d->on_poweroff;
	v->on_reboot = d->on_reboot;
	/* On a crash, the VM process only ends or pauses. The daemon then requests the dump and restarts the VM,
	 * because it counts the restarts. */
	v->on_crash = d->on_crash >= VM_ACTION_PRESERVE ? VM_ACTION_PRESERVE : VM_ACTION_DESTROY;
	v->resets = d->restart;
	v->rng = d->rng;
	v->balloon = d->balloon;
	v->balloon_bytes = d->balloon_bytes;
	v->virtio_console = d->virtio_console;
	v->guest_agent = d->guest_agent;
	v->debug_exit = d->debug_exit;
	v->watchdog = d->watchdog;
	v->watchdog_action = d->watchdog_action;
	v->shutdown_deadline_s = d->shutdown_deadline_s;
	if (d->clock == DEFINITION_LOCALTIME)
		v->clock_offset_s = local_offset_s();
	config_fill_interfaces(v, d);
	v->firmware = d->firmware;
	v->boot_menu = d->boot_menu;
	v->boot_menu_ms = (uint16_t)d->boot_menu_ms;
	config_fill_disks(v, d);
	v->vsock_cid = d->vsock_cid;
	v->vsock_listen_fd = v->vsock_dial_fd = VM_NO_FD;
	v->screen = d->screen;
	v->tablet = d->tablet;
	v->machine = (uint8_t)(d->machine ? d->machine : machine_version_newest(d->firmware));
	v->display_fd = VM_NO_FD;
	v->log_fd = VM_NO_FD;
	v->end_fd = VM_NO_FD;
	v->restore_fd = VM_NO_FD;
	v->working_sets_fd = VM_NO_FD;
	v->network_rom_fd = VM_NO_FD;
	v->nvram_fd = v->nvram_template_fd = VM_NO_FD;
	definition_encode_sysinfo(d, v->sysinfo);
}

static int firmware_add(const struct definition *d, struct vm_config *v, struct config_files *files, struct err *e)
{
	bool uefi = d->firmware == VM_FIRMWARE_UEFI;
	int r = boot_add(files, "boot.loader", d->loader ? d->loader : uefi ? DEFINITION_UEFI_PATH : DEFINITION_BIOS_PATH,
		&v->kernel_fd, e);

	return r || !uefi ? r : boot_add(files, "boot.nvram_template", d->nvram_template ? d->nvram_template :
		DEFINITION_NVRAM_PATH, &v->nvram_template_fd, e);
}

int config_prepare(const struct definition *d, bool images_only, struct config *c,
	struct config_files *files, struct err *e)
{
	int r = 0;

	memset(c, 0, sizeof(*c));
	files->n = 0;
	config_fill(&c->vm, d);
	c->vm.kernel_fd = c->vm.initrd_fd = VM_NO_FD;
	c->vm.images_only = images_only;
	if (!images_only && d->firmware)
		r = firmware_add(d, &c->vm, files, e);
	else if (!images_only)
		r = boot_add(files, "boot.kernel", d->kernel, &c->vm.kernel_fd, e);
	if (!r && !images_only)
		r = boot_add(files, "boot.initrd", d->initrd, &c->vm.initrd_fd, e);
	c->vm.ndisks = MIN(d->ndisks, VM_DISKS_MAX);
	for (unsigned i = 0; !r && i < c->vm.ndisks; i++)
		r = disk_add(files, &c->vm.disks[i], i, &d->disks[i], e);
	return r;
}

static int vsock_add(const struct definition *d, struct config_files *files, enum config_file_kind kind, uint16_t *into,
	struct err *e)
{
	int at = file_add(files, "vsock.path", d->vsock_path, true, false, e);

	if (at < 0)
		return at;
	files->list[at].kind = kind;
	*into = (uint16_t)at;
	return 0;
}

static int vnc_add(const struct definition *d, struct config_files *files, struct vm_config *v, struct err *e)
{
	int at = file_add(files, "vnc", d->vnc.path ? d->vnc.path : d->vnc.password_file, true, false, e);

	if (at < 0)
		return at;
	files->list[at].kind = CONFIG_SHOWS;
	files->list[at].definition = d;
	v->display = 1;
	v->display_fd = (uint16_t)at;
	return 0;
}

static int shares_add(const struct definition *d, struct config_files *files, struct vm_config *v, struct err *e)
{
	char key[64];

	for (unsigned i = 0; i < d->nshares; i++) {
		int at;

		snprintf(key, sizeof(key), "shares[%u].path", i);
		at = file_add(files, key, d->shares[i].path, !d->shares[i].read_only, false, e);
		if (at < 0)
			return at;
		files->list[at].kind = CONFIG_SHARES;
		files->list[at].definition = d;
		snprintf(v->shares[i].tag, sizeof(v->shares[i].tag), "%s", d->shares[i].tag);
		v->shares[i].fd = (uint16_t)at;
		v->nshares = (uint8_t)(i + 1);
	}
	return 0;
}

int config_prepare_sockets(const struct definition *d, struct config *c, struct config_files *files, struct err *e)
{
	bool listens = d->vsock_cid && d->vsock_path;
	int r = listens ? vsock_add(d, files, CONFIG_LISTENS, &c->vm.vsock_listen_fd, e) : 0;

	if (!r && listens)
		r = vsock_add(d, files, CONFIG_DIALS, &c->vm.vsock_dial_fd, e);
	if (!r && d->vnc.on)
		r = vnc_add(d, files, &c->vm, e);
	return r ? r : shares_add(d, files, &c->vm, e);
}

int config_prepare_forwards(const struct definition *d, struct config *c, struct config_files *files, struct err *e)
{
	char key[64];

	for (unsigned i = 0; i < d->ninterfaces; i++) {
		const struct definition_interface *n = &d->interfaces[i];

		for (unsigned k = 0; !n->link && k < n->user.nforwards; k++) {
			int at;

			snprintf(key, sizeof(key), "interfaces[%u].forwards[%u]", i, k);
			at = file_add(files, key, NULL, false, false, e);
			if (at < 0)
				return at;
			files->list[at].forward = &n->user.forwards[k];
			c->nforwards++;
		}
	}
	return 0;
}

int config_open(const struct definition *d, struct config *c, struct err *e)
{
	struct config_files files;
	int r = config_prepare(d, false, c, &files, e);

	if (!r)
		r = config_prepare_sockets(d, c, &files, e);
	if (!r)
		r = config_open_files(c, &files, e);
	return r < 0 || d->firmware != VM_FIRMWARE_UEFI ? r : config_add_nvram(c, memfd_create("nvram", MFD_CLOEXEC), e);
}

int config_identify(const struct config *c, unsigned index, struct file_id *ret)
{
	if (index >= c->nheld)
		return file_identify(c->fds[index - c->nheld], ret);
	*ret = c->held[index];
	return 0;
}

int config_send(const struct config *c, int sock, uint64_t seq)
{
	return channel_send(sock, VM_MSG_VERSION, VM_MSG_CONFIG, seq, &c->vm, sizeof(c->vm), c->fds,
		c->nfds);
}

void config_done(struct config *c)
{
	for (unsigned i = 0; i < c->nfds; i++)
		close(c->fds[i]);
	c->nfds = c->nforwards = c->nheld = 0;
}
