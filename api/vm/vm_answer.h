/* vm_answer: checks and cleans the messages of a VM's process, and the content of its end file. The process is not
 * trusted.
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

/* Layout of a run's end file. Before the start, the daemon writes the number of the run (u64) at VM_END_RUN and its
 * protocol version (u64) at VM_END_VERSION; VM_END_RAN is part of vm_msg.h. When the run ends, the VM process
 * writes a struct vm_event of that version at offset 0; the event says how the run ended. Daemons that wrote no version
 * used version 1. */
#define VM_END_RUN 4096
#define VM_END_VERSION 4104
/* The VM's state before the start (u64, enum vm_end_before). A state.json that is older than the start may say that the
 * run before it continues. Older daemons did not write it. */
#define VM_END_BEFORE 4112
enum vm_end_before { VM_BEFORE_UNKNOWN = 0, VM_BEFORE_SHUT_OFF, VM_BEFORE_CRASHED, VM_BEFORE_SAVED };
/* Read the event at offset 0 of an end file. Returns false if the VM process wrote none, or in a protocol version that
 * this daemon does not know. */
bool vm_end_read(int end_fd, struct vm_event *ret_ev);
/* Returns true if the end file says that the guest of this run never ran. */
bool vm_end_never_ran(int end_fd);
/* Return the VM's state before this run. */
enum vm_end_before vm_end_before(int end_fd);
/* Return the protocol version of the run, from its end file, or 1 if the file names none; 0: this daemon does not know
 * the version. */
unsigned vm_end_version(int end_fd);

#endif
