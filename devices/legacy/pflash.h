/* pflash: a flash memory with the variables of a VM's UEFI. It has one chip with the command set of Intel and Sharp
 * ("CFI 01"), to the extent of QEMU's pflash_cfi01. In array mode the guest reads the flash memory as RAM, which KVM
 * maps read-only; each write is a command and exits. In the other modes the same address range shows another part of
 * the view's file, so that reads need no exit either.
 *
 * A write to a block is on disk when the guest's command for array mode (0xff) returns. The state has the content, so
 * snapshots, clones and saved VMs do, too.
 * Sources: Intel 28F640J5 data sheet; JEDEC JESD68.01; QEMU, hw/block/pflash_cfi01.c.
 *
 * Threading: the guest's writes come on vCPU threads; all functions on the main thread. */
#ifndef CAIRN_DEVICES_LEGACY_PFLASH_H
#define CAIRN_DEVICES_LEGACY_PFLASH_H

#include "devices/legacy/flash_file.h"

#include <stdint.h>

struct bus;
struct dev_host;
struct device;
struct err;

struct pflash_config {
	uint64_t gpa;
	/* The flash as KVM maps it for the guest: the first file.bytes of view_fd, which has twice as many. */
	uint8_t *view; /* borrowed */
	int view_fd;   /* borrowed */
	struct flash_file file;
	const uint8_t *content; /* of the file; copied */
};

/* Create the device "pflash". Free it through its ops. Returns 0 or -errno. */
int pflash_new(struct dev_host *h, struct bus *mmio, const struct pflash_config *c, struct device **ret_dev, struct err *e);

#endif
