/* device: what every device gives to the machine: a name, reset, pause, and its
 * state's save and load. A device embeds this as a member. */
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
	uint16_t state_version; /* what save() writes */
	/* To power-on state. vCPUs are stopped, nothing is in flight. */
	void (*reset)(struct device *d);
	/* vCPUs are stopped: take nothing new from the guest and return when nothing is in
	 * flight and the device's state and guest RAM no longer change. NULL: nothing to do. */
	void (*pause)(struct device *d);
	/* Undo pause: look at rings again, redo requests held back by an error. */
	void (*resume)(struct device *d);
	/* Content of the device's own section; paused. */
	void (*save)(struct device *d, struct state_writer *w);
	/* From a section of `version` (≤ state_version). Paused, after reset. Every field is
	 * checked. Returns 0 or -EINVAL with a sentence. */
	int (*load)(struct device *d, struct state_reader *r, uint16_t version, struct err *e);
	/* vCPUs are gone, nothing is in flight. */
	void (*free)(struct device *d);
};

struct device {
	const struct device_ops *ops;
	char name[DEVICE_NAME_MAX]; /* instance: "vda", "serial0" */
};

#endif
