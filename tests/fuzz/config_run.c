#include "tests/fuzz/fuzz_api.h"

#include "base/err.h"
#include "base/util.h"
#include "vmm/vm_msg.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILES 12u
#define CHANGES_MAX 64u

/* Fill in a valid configuration: two disks, one of them with two layers and a data file, and an
 * interface. */
static void config_fill(struct vm_config *c)
{
	memset(c, 0, sizeof(*c));
	/* Strings without a NUL: only vm_config_check() terminates them. */
	memset(c->name, 'x', VM_NAME_MAX);
	memset(c->cmdline, 'y', VM_CMDLINE_MAX);
	c->ram_bytes = 64 * MIB;
	c->vcpus = 2;
	c->kernel_fd = 0;
	c->initrd_fd = 1;
	c->log_fd = 2;
	c->end_fd = 3;
	c->restore_fd = 4;
	c->working_sets_fd = 5;
	c->ndisks = 2;
	for (unsigned i = 0; i < c->ndisks; i++) {
		struct vm_disk *d = &c->disks[i];

		snprintf(d->id, sizeof(d->id), "vd%c", 'a' + i);
		d->nlayers = (uint16_t)(2 - i);
		for (unsigned k = 0; k < VM_DISK_LAYERS_MAX; k++)
			d->data_fd[k] = VM_NO_FD;
		for (unsigned k = 0; k < d->nlayers; k++) {
			d->fd[k] = (uint16_t)(6 + 2 * i + k);
			d->format[k] = 2;
		}
	}
	c->disks[0].data_fd[1] = 9;
	c->ninterfaces = 1;
	strcpy(c->interfaces[0].id, "net0");
	c->interfaces[0].tap_fd = 10;
}

static void file_use(uint16_t fd, unsigned nfds, bool used[CHANNEL_FDS_MAX])
{
	if (fd == VM_NO_FD)
		return;
	must(fd < nfds && fd < CHANNEL_FDS_MAX && !used[fd]);
	used[fd] = true;
}

static bool ends(const char *text, size_t size)
{
	return memchr(text, 0, size) != NULL;
}

static void disk_look(const struct vm_disk *d, unsigned nfds, bool used[CHANNEL_FDS_MAX])
{
	must(d->id[0] && ends(d->id, sizeof(d->id)) && ends(d->serial, sizeof(d->serial)));
	must(d->nlayers > 0 && d->nlayers <= VM_DISK_LAYERS_MAX && d->queues <= 8 && d->queue_size <= 1024);
	for (unsigned i = 0; i < d->nlayers; i++) {
		must(d->fd[i] != VM_NO_FD);
		file_use(d->fd[i], nfds, used);
		file_use(d->data_fd[i], nfds, used);
	}
}

/* Check the properties that a VM process relies on. */
static void config_look(const struct vm_config *c, unsigned nfds)
{
	const uint16_t fds[] = { c->kernel_fd, c->initrd_fd, c->log_fd, c->end_fd, c->restore_fd, c->working_sets_fd };
	bool used[CHANNEL_FDS_MAX] = { false };

	must(c->name[0] && ends(c->name, sizeof(c->name)) && !strchr(c->name, '/') && ends(c->cmdline, sizeof(c->cmdline)));
	must(c->ram_bytes >= VM_RAM_MIN_BYTES && c->ram_bytes <= VM_RAM_MAX_BYTES && c->ram_bytes % 4096 == 0);
	must(c->vcpus > 0 && c->vcpus <= VM_VCPUS_MAX && c->ndisks <= VM_DISKS_MAX && c->ninterfaces <= VM_INTERFACES_MAX);
	must(!c->sockets || c->sockets * c->cores * c->threads == c->vcpus);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		file_use(fds[i], nfds, used);
	for (unsigned i = 0; i < c->ndisks; i++)
		disk_look(&c->disks[i], nfds, used);
	for (unsigned i = 0; i < c->ninterfaces; i++) {
		must(c->interfaces[i].id[0] && ends(c->interfaces[i].id, sizeof(c->interfaces[i].id)));
		must(ends(c->interfaces[i].target, sizeof(c->interfaces[i].target)));
		file_use(c->interfaces[i].tap_fd, nfds, used);
		must(c->link_down[i] <= 1 && c->queue_pairs[i] <= VM_QUEUE_PAIRS_MAX);
		for (unsigned k = 1; k < c->queue_pairs[i]; k++) {
			must((c->pair_fds[i][k - 1] == VM_NO_FD) == (c->interfaces[i].tap_fd == VM_NO_FD));
			file_use(c->pair_fds[i][k - 1], nfds, used);
		}
		must(c->vhost[i] <= VM_VHOST_BEFORE);
		for (unsigned k = 0; k < MAX(c->queue_pairs[i], 1u) && c->vhost[i] == VM_VHOST_YES; k++) {
			must(c->vhost_fds[i][k] != VM_NO_FD && c->interfaces[i].tap_fd != VM_NO_FD);
			file_use(c->vhost_fds[i][k], nfds, used);
		}
	}
}

bool config_run(const uint8_t *input, size_t len)
{
	/* A buffer of its own, so that the sanitizer sees a read past its end. */
	struct vm_config *c = malloc(sizeof(*c));
	unsigned nfds = len ? input[0] % (CHANNEL_FDS_MAX + 1) : FILES;
	struct err e = { .msg = "" };
	bool good;

	must(c != NULL);
	config_fill(c);
	for (size_t at = 1; at + 3 <= len && at < 3 * CHANGES_MAX; at += 3)
		((uint8_t *)c)[(input[at] << 8 | input[at + 1]) % sizeof(*c)] = input[at + 2];
	good = vm_config_check(c, nfds, &e) == 0;
	if (good)
		config_look(c, nfds);
	else
		must(e.msg[0]);
	free(c);
	return good;
}
