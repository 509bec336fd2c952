/* serial: a 16550A UART on eight ports.
 *
 * Source: TI TL16C550C data sheet. Output leaves at once (THRE is always set). Input below the
 * FIFO's trigger level raises the time-out interrupt at once, which makes a timer unnecessary. */
#ifndef CAIRN_DEVICES_LEGACY_SERIAL_H
#define CAIRN_DEVICES_LEGACY_SERIAL_H

#include <stdint.h>

struct bus;
struct console;
struct dev_host;
struct device;
struct err;

#define SERIAL_COM1_PORT 0x3f8
#define SERIAL_COM1_GSI 4

struct serial_config {
	const char *name; /* "serial0" */
	uint16_t port;	  /* 0: COM1 */
	unsigned gsi;	  /* 0: COM1's; edge-triggered, ISA */
	struct console *console; /* borrowed; serial_new() registers as its device */
};

/* Create a UART. Free it through its ops. Returns 0 or -errno. */
int serial_new(struct dev_host *h, struct bus *pio, const struct serial_config *c,
	struct device **ret_dev, struct err *e);

#endif
