/* fw_cfg: the interface by which firmware reads its configuration: numbered items, and named files with a directory
 * (QEMU, docs/specs/fw_cfg.rst). Ports 0x510 (selector), 0x511 (data) and 0x514 to 0x51b (DMA).
 *
 * Threading: the guest's accesses come on vCPU threads; all functions on the main thread. */
#ifndef CAIRN_DEVICES_LEGACY_FW_CFG_H
#define CAIRN_DEVICES_LEGACY_FW_CFG_H

#include <stddef.h>
#include <stdint.h>

struct bus;
struct dev_host;
struct device;
struct err;

#define FW_CFG_PORT 0x510
#define FW_CFG_PORTS 12
#define FW_CFG_NAME_MAX 55
#define FW_CFG_ITEMS_MAX 48
#define FW_CFG_ITEM_MAX_BYTES (1u << 20)

/* Numbers of items that are no files. */
enum fw_cfg_key {
	FW_CFG_SIGNATURE = 0x00,
	FW_CFG_ID = 0x01,
	FW_CFG_NB_CPUS = 0x05,
	FW_CFG_BOOT_MENU = 0x0e,
	FW_CFG_MAX_CPUS = 0x0f,
	FW_CFG_FILE_DIR = 0x19,
	FW_CFG_FILE_FIRST = 0x20,
	FW_CFG_SMBIOS_ENTRIES = 0x8001,
};

/* Create the device "fw_cfg" with the items SIGNATURE, ID and FILE_DIR. Free it through its ops. Returns 0 or
 * -errno. */
int fw_cfg_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e);
/* Add an item or a file; the data is copied. No vCPU runs. Returns 0; -E2BIG; -ENOSPC; -EEXIST; -ENOMEM. */
int fw_cfg_add_item(struct device *d, uint16_t key, const void *data, size_t bytes, struct err *e);
int fw_cfg_add_file(struct device *d, const char *name, const void *data, size_t bytes, struct err *e);
/* Replace the content of a file, which keeps its number; does nothing if there is no such file. The data is copied. No
 * vCPU runs. Returns 0; -E2BIG; -ENOMEM. */
int fw_cfg_replace_file(struct device *d, const char *name, const void *data, size_t bytes, struct err *e);
/* The same for an item, which exists. */
int fw_cfg_replace_item(struct device *d, uint16_t key, const void *data, size_t bytes, struct err *e);

#endif
