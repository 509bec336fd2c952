/* i8042: the keyboard controller. It has reset (0xFE to port 0x64), the self-test that lets a driver's probe end
 * quickly, and port 0x92 (fast A20 and reset). In a machine with a screen, it also has a keyboard and a mouse (ps2.h)
 * on GSI 1 and 12.
 *
 * A controller without a keyboard writes version 1 of its state. One with a keyboard that loads this version has no
 * keyboard until the next reset.
 * Threading: registers on vCPU threads; i8042_input() on the main thread. */
#ifndef CAIRN_DEVICES_LEGACY_I8042_H
#define CAIRN_DEVICES_LEGACY_I8042_H

struct bus;
struct dev_host;
struct device;
struct err;
struct input_event;

/* Create the device "i8042". Free it through its ops. Returns 0 or -errno. */
int i8042_new(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e);
/* The same, with keyboard and mouse. */
int i8042_new_with_keyboard(struct dev_host *h, struct bus *pio, struct device **ret_dev, struct err *e);
/* Pass input on to keyboard or mouse. While the device is paused, keys can only be released, and the pointer does not
 * move. ev: valid (input_event_ok()). */
void i8042_input(struct device *d, const struct input_event *ev);
/* Release all keys and buttons. */
void i8042_release(struct device *d);
/* Let the status read as without a controller, but for the bit "input full" that reboot code waits for. UEFI firmware
 * would wait 90 s in an emulated host for a keyboard's answers. Resets work. Call before vCPUs run. */
void i8042_hide(struct device *d);

#endif
