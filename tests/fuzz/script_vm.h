/* script_vm: VM processes simulated inside the process that runs a script (fuzz_api.h). The daemon
 * starts a child that does nothing, and this process serves its socket, as a VM process would or as
 * the script says. Each loop_run_once() serves all VMs. Link with
 * --wrap=vm_spawn_begin,--wrap=vm_spawn_fd,--wrap=vm_spawn_end,--wrap=vm_socket_peek_pid,--wrap=loop_run_once. */
#ifndef CAIRN_TESTS_FUZZ_SCRIPT_VM_H
#define CAIRN_TESTS_FUZZ_SCRIPT_VM_H

#include <stdbool.h>
#include <sys/types.h>

/* Set the words of a line "a" or "e" (fuzz_api.h); borrowed until script_vms_end(). */
void script_vms_answer_next(const char *words);
void script_vms_say(const char *words);
/* Returns the pid of the process that was killed; 0: there is none. */
pid_t script_vms_kill_one(void);
void script_vms_kill_all(void);
bool script_vms_is_one(pid_t pid);
/* End all VM processes and forget the words. */
void script_vms_end(void);

#endif
