/* machine_screen: the VM's screen. Threading: main thread, unless noted. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_SCREEN_H
#define CAIRN_VMM_MACHINE_MACHINE_SCREEN_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct input_event;
struct machine;

/* Create the devices of a screen if the configuration has one. Returns 0 or -errno. */
int machine_screen_new(struct machine *m, struct err *e);
/* Create the keyboard controller, with keyboard and mouse if the VM has a screen. Returns 0 or -errno. */
int machine_keyboard_new(struct machine *m, struct err *e);
/* Connect the screen to the process that the configuration names, if any. fds: as for machine_new(). Returns 0 or
 * -errno. */
int machine_display_open(struct machine *m, int *fds, struct err *e);
/* Take an input_event_ok() event: a key; or of the pointer, at the pixel that it names. It goes to the tablet, if the
 * guest has a driver for it, or to the PS/2 mouse. */
void machine_input(struct machine *m, const struct input_event *ev);
/* Return whether the guest has a driver for a tablet. */
bool machine_has_tablet(struct machine *m);
/* Move the pointer: x, y: below VM_INPUT_AXIS; with a tablet, -1 is a coordinate that stays. */
void machine_point(struct machine *m, int32_t x, int32_t y);
/* Release all keys and buttons. */
void machine_input_release(struct machine *m);
/* Press or release a key of the guest's keyboard. code: 1 to INPUT_KEY_MAX. */
void machine_key(struct machine *m, uint16_t code, bool down);
/* Write a picture of the guest's screen to an empty file. format: enum vm_image_format. Any thread, as long as the
 * machine exists.
 * Returns 0; -ENOTSUP: no screen; -EAGAIN: the guest has set no mode; -errno. */
int machine_screenshot(struct machine *m, unsigned format, int fd, struct err *e);

#endif
