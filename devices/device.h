/* device: the interface of every device to the machine: name, reset, pause, save and load. A device
 * embeds struct device as a member.
 *
 * Threading: the main thread calls the functions of device_ops. */
#ifndef CAIRN_DEVICES_DEVICE_H
#define CAIRN_DEVICES_DEVICE_H

#include <stdint.h>

struct err;
struct state_reader;
struct state_writer;

#define DEVICE_NAME_MAX 32

struct device;

struct device_ops {
	const char *type;	/* section name in the VM state: "serial", "virtio-blk" */
	uint16_t state_version; /* version that save() writes */
	/* Reset to power-on state. vCPUs are stopped and nothing is in flight. */
	void (*reset)(struct device *d);
	/* Accept no more work from the guest, and return when nothing is in flight and neither the
	 * device's state nor guest RAM changes any more. vCPUs are stopped. NULL: nothing to do. */
	void (*pause)(struct device *d);
	/* Undo pause(): look at the rings again and redo requests that an error held back. */
	void (*resume)(struct device *d);
	/* Write the content of the device's section. The device is paused. */
	void (*save)(struct device *d, struct state_writer *w);
	/* Check whether an intact section of `version` (≤ state_version) is of a device like this one, before a load
	 * changes anything. Reads only members that never change. Any thread. Returns 0 or -EINVAL. NULL: only load()
	 * checks. */
	int (*check)(struct device *d, const struct state_reader *r, uint16_t version, struct err *e);
	/* Load a section of `version` (≤ state_version), with every field checked. Called on a paused device
	 * that is new or was reset. Returns 0 or -EINVAL. */
	int (*load)(struct device *d, struct state_reader *r, uint16_t version, struct err *e);
	/* Free the device. The vCPUs no longer exist, and nothing is in flight. */
	void (*free)(struct device *d);
};

struct device {
	const struct device_ops *ops;
	char name[DEVICE_NAME_MAX]; /* instance: "vda", "serial0" */
};

#endif
