/* vm_answer: checks and cleans what a VM's process sends. The process is not trusted.
 *
 * Threading: any thread; no state. */
#ifndef CAIRN_API_VM_VM_ANSWER_H
#define CAIRN_API_VM_VM_ANSWER_H

#include "vmm/vm_msg.h"

#include <stdbool.h>

struct err;
struct vm_answer;

/* Terminate and clean the texts of an event. */
void vm_event_clean(struct vm_event *ev);
/* Turn a message into the answer to a request: clean the message's texts in place, except those of struct vm_info, and
 * point *ret_a to its body.
 * request: type of the request. *ret_a: zeroed by the caller. *ret_r: 0; -EREMOTEIO: the process reports an error;
 * -EPROTO: the message does not answer such a request. *e is set if *ret_r < 0.
 * Returns false if a count in the message is wrong. */
bool vm_answer_take(const struct channel_msg *m, enum vm_msg_type request, struct vm_answer *ret_a, int *ret_r, struct err *e);

#endif
