/* vm_screen: the messages about a VM's screen (vmm/vm_msg.h). */
#ifndef CAIRN_VMM_VM_SCREEN_H
#define CAIRN_VMM_VM_SCREEN_H

#include "base/display.h"

#include <stdint.h>

enum vm_image_format { VM_IMAGE_PPM = 0, VM_IMAGE_PNG = 1, VM_IMAGE_FORMATS };

struct vm_screenshot {
	uint8_t format; /* enum vm_image_format */
	uint8_t reserved[7];
};

/* vm_info.screens: the process knows VM_MSG_SEND_KEYS. */
#define VM_SCREENS_KEYS 2
#define VM_KEYS_MAX 16
#define VM_KEYS_HOLD_MAX_MS 10000

struct vm_keys {
	uint32_t hold_ms; /* at most VM_KEYS_HOLD_MAX_MS */
	uint32_t n;
	uint16_t codes[VM_KEYS_MAX]; /* as in linux/input-event-codes.h, 1 to INPUT_KEY_MAX (base/display.h) */
};

#define VM_SCREENS_INPUT 3 /* vm_info.screens: also VM_MSG_INPUT */
#define VM_INPUT_MAX 64
#define VM_INPUT_AXIS 32768 /* coordinates of the pointer: 0 to one less */

struct vm_input {
	uint32_t n, reserved;
	/* Of INPUT_POINT, x and y are in VM_INPUT_AXIS, and -1 is a coordinate that stays. */
	struct input_event events[VM_INPUT_MAX];
};

#endif
