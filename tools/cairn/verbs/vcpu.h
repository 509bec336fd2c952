/* vcpu: the vCPUs of a VM, in the answer of vm-info. */
#ifndef CAIRN_TOOLS_CAIRN_VERBS_VCPU_H
#define CAIRN_TOOLS_CAIRN_VERBS_VCPU_H

#include <stdbool.h>
#include <stddef.h>

struct json_object;

/* Return whether the guest lacks the vCPU, which is in the lists nevertheless. */
bool vcpu_is_absent(struct json_object *info, size_t vcpu);

#endif
