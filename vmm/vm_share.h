/* vm_share: a shared folder, in messages (vmm/vm_msg.h). */
#ifndef CAIRN_VMM_VM_SHARE_H
#define CAIRN_VMM_VM_SHARE_H

#include "base/share_link.h"

#include <stdint.h>

#define VM_SHARES_MAX 8

struct vm_share {
	char tag[SHARE_TAG_MAX + 1];
	uint16_t fd; /* socket to the process that serves the folder (base/share_link.h); VM_NO_FD: none */
};

#endif
