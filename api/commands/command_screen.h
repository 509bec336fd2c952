/* command_screen: screenshots and keys, for the daemon's commands and for QEMU's (api/qmp/qmp_screen.c, qmp_dump.c). */
#ifndef CAIRN_API_COMMANDS_COMMAND_SCREEN_H
#define CAIRN_API_COMMANDS_COMMAND_SCREEN_H

#include "vmm/vm_msg.h"

#include <stddef.h>
#include <stdint.h>

struct call;
struct client_file;
struct err;
struct vm;
struct vm_answer;

/* Let the VM's process write its screen into an empty file. file: taken; untouched on error. done() is called once.
 * Returns 0; -ENOTSUP: no screen; another error of a VM that does not run. */
int screen_save(struct vm *vm, enum vm_image_format format, struct client_file **file,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e), void *opaque, struct err *e);
/* Press keys together and release them; answers the call.
 * codes: n codes of linux/input-event-codes.h. hold_ms: how long the keys are held. */
void screen_press_keys(struct call *c, const uint16_t *codes, size_t n, int64_t hold_ms);
/* How long keys are held by default. */
#define SCREEN_KEYS_HOLD_MS 100

#endif
