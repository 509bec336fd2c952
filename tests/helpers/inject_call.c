/* inject_call: makes a process make one system call: inject_call PID NUMBER [ARG...]
 *              or makes a thread jump to an address: inject_call TID jump ADDRESS
 *
 * The call takes the place of the process's next one, which the process makes afterwards. An ARG is a number,
 * or "=TEXT" for the address of a string. Prints the call's result, or "killed" if the process ended instead.
 * (gdb cannot do it everywhere: gdb 13 cannot write the registers of a processor with AMX.) */
#include "base/util.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGS_MAX 6
#define SYSCALL_INSN_BYTES 2
#define RED_ZONE 128
#define TIMEOUT_S 45 /* the callers' is 50 s */

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "inject_call: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int trace(int request, pid_t pid, void *data)
{
	return ptrace(request, pid, NULL, data) < 0 ? -1 : 0;
}

enum stop { STOP_ENDED, STOP_CALL, STOP_SIGSYS };

/* Let the process run until it begins or ends a system call, or is to handle SIGSYS, or has ended. It handles other
 * signals, such as the kick of a vCPU, meanwhile. */
static enum stop runs_until_stop(pid_t pid)
{
	uintptr_t sig = 0;
	int status;

	for (;;) {
		if (trace(PTRACE_SYSCALL, pid, (void *)sig))
			return STOP_ENDED;
		if (waitpid(pid, &status, __WALL) < 0)
			fail("waitpid");
		if (!WIFSTOPPED(status))
			return STOP_ENDED;
		if (WSTOPSIG(status) == (SIGTRAP | 0x80)) /* PTRACE_O_TRACESYSGOOD */
			return STOP_CALL;
		if (WSTOPSIG(status) == SIGSYS)
			return STOP_SIGSYS;
		sig = status >> 16 ? 0 : (uintptr_t)WSTOPSIG(status); /* an event is no signal */
	}
}

static bool blocks_sigsys(pid_t pid)
{
	uint64_t mask;

	if (ptrace(PTRACE_GETSIGMASK, pid, sizeof(mask), &mask) < 0)
		fail("cannot read the signal mask");
	return mask >> (SIGSYS - 1) & 1;
}

/* Stop the process, and let it run until it begins a call with SIGSYS unblocked. glibc blocks all signals for a moment
 * while it creates a thread, and the kernel lets a blocked SIGSYS end no init of a pid namespace that is traced. */
static bool stops_at_call(pid_t pid)
{
	int status;

	if (trace(PTRACE_SEIZE, pid, (void *)PTRACE_O_TRACESYSGOOD) || trace(PTRACE_INTERRUPT, pid, NULL))
		fail("cannot stop the process");
	if (waitpid(pid, &status, __WALL) < 0 || !WIFSTOPPED(status))
		return false;
	while (runs_until_stop(pid) == STOP_CALL)
		if (!blocks_sigsys(pid))
			return true;
		else if (runs_until_stop(pid) != STOP_CALL)
			return false;
	return false;
}

static bool is_alive(pid_t pid)
{
	char path[64], text[512] = "", *state;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "r");
	if (!f)
		return false;
	state = fgets(text, sizeof(text), f) ? strrchr(text, ')') : NULL;
	fclose(f);
	return state && state[1] == ' ' && !strchr("ZX", state[2]);
}

/* Let the process handle the SIGSYS for which it stopped, and wait for its end. Detach first: the kernel lets no signal
 * end the init of a pid namespace while it is traced. */
static void end_await(pid_t pid)
{
	if (trace(PTRACE_DETACH, pid, (void *)SIGSYS))
		fail("cannot let the process end");
	while (is_alive(pid))
		usleep(1000);
}

/* Say in which step the process hangs, before the caller gives up. */
static const char *step = "it makes no call with SIGSYS unblocked";

static void timeout_say(int sig)
{
	(void)sig;
	(void)!write(STDERR_FILENO, step, strlen(step));
	_exit(1);
}

/* Write strings below the stack and return the registers of the call. */
static struct user_regs_struct call_of(pid_t pid, struct user_regs_struct regs, char **words, int n)
{
	unsigned long long value[ARGS_MAX] = { 0 };
	unsigned long long at = regs.rsp - RED_ZONE;

	for (int i = 1; i < n; i++) {
		struct iovec here = { words[i] + 1, strlen(words[i]) }, there; /* the text without '=', with its NUL */

		value[i - 1] = strtoull(words[i], NULL, 0);
		if (words[i][0] != '=')
			continue;
		at -= here.iov_len;
		there = (struct iovec){ (void *)(uintptr_t)at, here.iov_len };
		if (process_vm_writev(pid, &here, 1, &there, 1, 0) != (ssize_t)here.iov_len)
			fail("cannot write a string");
		value[i - 1] = at;
	}
	regs.orig_rax = strtoull(words[0], NULL, 0);
	regs.rdi = value[0];
	regs.rsi = value[1];
	regs.rdx = value[2];
	regs.r10 = value[3];
	regs.r8 = value[4];
	regs.r9 = value[5];
	return regs;
}

/* Let a thread that begins a call make a harmless one instead, and go on at an address. Leave the process to itself. */
static int jump(pid_t tid, struct user_regs_struct regs, uintptr_t address)
{
	regs.rip = address;
	regs.orig_rax = SYS_getpid;
	if (trace(PTRACE_SETREGS, tid, &regs) || trace(PTRACE_DETACH, tid, NULL))
		fail("cannot write registers");
	printf("0\n");
	return 0;
}

int main(int argc, char **argv)
{
	struct user_regs_struct own, call;
	enum stop stop;
	pid_t pid;

	if (argc < 3 || argc > 3 + ARGS_MAX) {
		fprintf(stderr, "usage: inject_call PID NUMBER [ARG...]\n");
		return 2;
	}
	pid = (pid_t)strtol(argv[1], NULL, 10);
	signal(SIGALRM, timeout_say);
	alarm(TIMEOUT_S);
	if (!stops_at_call(pid) || trace(PTRACE_GETREGS, pid, &own))
		fail("the process ended before its next call");
	if (!strcmp(argv[2], "jump"))
		return jump(pid, own, argc > 3 ? strtoull(argv[3], NULL, 0) : 0);
	call = call_of(pid, own, argv + 2, argc - 2);
	if (trace(PTRACE_SETREGS, pid, &call))
		fail("cannot write registers");
	step = "the call does not end";
	if (runs_until_stop(pid) != STOP_CALL || trace(PTRACE_GETREGS, pid, &call))
		fail("cannot read the result");
	own.rax = own.orig_rax;
	own.rip -= SYSCALL_INSN_BYTES;
	if (trace(PTRACE_SETREGS, pid, &own))
		fail("cannot write registers");
	/* A seccomp filter's signal ends the process after the call, at once or when the process has handled it. */
	stop = runs_until_stop(pid);
	step = "SIGSYS does not end the process";
	if (stop == STOP_SIGSYS)
		end_await(pid);
	if (stop != STOP_CALL) {
		printf("killed\n");
		return 0;
	}
	if (trace(PTRACE_DETACH, pid, NULL))
		fail("cannot let the process go on");
	printf("%" PRId64 "\n", (int64_t)call.rax);
	return 0;
}
