/* fuzz_device: declarations shared by the fuzzers of the devices and their replay in `make check`.
 *
 * An input is a guest's program against one device of a small machine (tests/unit/devices/fixture.h): accesses to
 * ports, registers and configuration space, descriptors and rings in memory, and what comes from outside: frames,
 * console input, resets. */
#ifndef CAIRN_TESTS_FUZZ_DEVICE_H
#define CAIRN_TESTS_FUZZ_DEVICE_H

#include <stddef.h>
#include <stdint.h>

enum device_kind {
	DEVICE_BLK,
	DEVICE_NET,
	DEVICE_CONSOLE,
	DEVICE_VSOCK,
	DEVICE_SCSI_RINGS, /* its rings; its commands: fuzz_scsi.c */
	DEVICE_BALLOON,
	DEVICE_FS,
	DEVICE_RNG,
	DEVICE_PCI, /* configuration space, BARs and MSI-X of two functions */
	DEVICE_SERIAL,
	DEVICE_RTC,
	DEVICE_I8042,
	DEVICE_I6300ESB,
	DEVICE_ACPI_PM,
	DEVICE_PCI_HOTPLUG,
	DEVICE_FW_CFG,
	DEVICE_PFLASH,
	DEVICE_CPU_HOTPLUG,
	DEVICE_INPUT,
	DEVICE_DISPLAY,
	DEVICE_KINDS,
};
#define DEVICE_INPUT_MAX 2048u

/* Run a program. Beyond the sanitizers' checks, it aborts when the device uses memory or an event that no device may
 * use, or when its saved state cannot be loaded or differs after that. Returns the number of requests that a virtio
 * device has answered. */
unsigned device_run(enum device_kind kind, const uint8_t *input, size_t len);

#endif
