/* inject_call: makes a process make one system call: inject_call PID NUMBER [ARG...]
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
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGS_MAX 6
#define SYSCALL_INSN_BYTES 2
#define RED_ZONE 128

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "inject_call: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int trace(int request, pid_t pid, void *data)
{
	return ptrace(request, pid, NULL, data) < 0 ? -1 : 0;
}

/* Wait until the process stops. Returns false if it ended. */
static bool is_stopped(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, __WALL) < 0)
		fail("waitpid");
	return WIFSTOPPED(status);
}

/* Let the process run until it begins or ends a system call. Returns false if it ended. */
static bool runs_until_call(pid_t pid)
{
	return !trace(PTRACE_SYSCALL, pid, NULL) && is_stopped(pid);
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

/* Let the process handle the SIGSYS for which it stopped, and wait for its end. Returns false if it did not stop for
 * that signal. Detach first: the kernel lets no signal end the init of a pid namespace while it is traced. */
static bool is_trapped(pid_t pid)
{
	siginfo_t si;

	if (trace(PTRACE_GETSIGINFO, pid, &si) || si.si_signo != SIGSYS || trace(PTRACE_DETACH, pid, (void *)SIGSYS))
		return false;
	while (is_alive(pid))
		usleep(1000);
	return true;
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

int main(int argc, char **argv)
{
	struct user_regs_struct own, call;
	pid_t pid;

	if (argc < 3 || argc > 3 + ARGS_MAX) {
		fprintf(stderr, "usage: inject_call PID NUMBER [ARG...]\n");
		return 2;
	}
	pid = (pid_t)strtol(argv[1], NULL, 10);
	if (trace(PTRACE_SEIZE, pid, NULL) || trace(PTRACE_INTERRUPT, pid, NULL))
		fail("cannot stop the process");
	if (!is_stopped(pid) || !runs_until_call(pid) || trace(PTRACE_GETREGS, pid, &own))
		fail("the process ended before its next call");
	call = call_of(pid, own, argv + 2, argc - 2);
	if (trace(PTRACE_SETREGS, pid, &call))
		fail("cannot write registers");
	if (!runs_until_call(pid) || trace(PTRACE_GETREGS, pid, &call))
		fail("cannot read the result");
	own.rax = own.orig_rax;
	own.rip -= SYSCALL_INSN_BYTES;
	if (trace(PTRACE_SETREGS, pid, &own))
		fail("cannot write registers");
	/* A seccomp filter's signal ends the process after the call, at once or when the process has handled it. */
	if (!runs_until_call(pid) || is_trapped(pid)) {
		printf("killed\n");
		return 0;
	}
	if (trace(PTRACE_DETACH, pid, NULL))
		fail("cannot let the process go on");
	printf("%" PRId64 "\n", (int64_t)call.rax);
	return 0;
}
