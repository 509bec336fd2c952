/* vm_screen: the messages about a VM's screen (vmm/vm_msg.h). */
#ifndef CAIRN_VMM_VM_SCREEN_H
#define CAIRN_VMM_VM_SCREEN_H

#include <stdint.h>

enum vm_image_format { VM_IMAGE_PPM = 0, VM_IMAGE_PNG = 1, VM_IMAGE_FORMATS };

struct vm_screenshot {
	uint8_t format; /* enum vm_image_format */
	uint8_t reserved[7];
};

#endif
