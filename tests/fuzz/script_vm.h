/* script_vm: VMs that are pretended inside the process of whoever runs a script (fuzz_api.h). What the daemon starts
 * is a child that does nothing; its socket is served here, as a VM's process would or as the script says.
 * Each loop_run_once() serves them. Linked with
 * --wrap=vm_process_spawn,--wrap=vm_socket_peek_pid,--wrap=loop_run_once. */
#ifndef CAIRN_TESTS_FUZZ_SCRIPT_VM_H
#define CAIRN_TESTS_FUZZ_SCRIPT_VM_H

#include <stdbool.h>
#include <sys/types.h>

/* Words of a line "a" or "e" (fuzz_api.h), borrowed until script_vms_end(). */
void script_vms_answer_next(const char *words);
void script_vms_say(const char *words);
void script_vms_kill_one(void);
void script_vms_kill_all(void);
bool script_vms_is_one(pid_t pid);
/* None is left. */
void script_vms_end(void);

#endif
