/* The pipes of VMs' logs reach cairn-log, and the next cairn-log after it, however many they are. */
#include "api/definition/definition.h"
#include "api/store/store.h"
#include "api/vm/vm.h"
#include "api/vm/vm_host.h"
#include "api/vm/vm_log.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/loop.h"
#include "tests/unit/tmp.h"

#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define VMS 320 /* the socket to cairn-log takes fewer */
#define ENDED 10 /* so many end while there is no cairn-log */

struct fixture {
	struct vm_host host;
	char dir[128], program[PATH_MAX], go[PATH_MAX], pid[PATH_MAX];
	struct definition defs[VMS];
	struct vm vms[VMS];
	int fds[VMS];
};

static void file_write(const char *path, const char *text, mode_t mode)
{
	CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

	assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

/* A program that becomes cairn-log when the file `go` exists, and tells its id. */
static void program_make(struct fixture *f)
{
	char own[PATH_MAX], text[4 * PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", own, sizeof(own) - 1);

	assert_true(n > 0);
	own[n] = 0;
	for (unsigned up = 0; up < 4; up++) /* unit/api/vm/test_vm_log */
		*strrchr(own, '/') = 0;
	snprintf(f->program, sizeof(f->program), "%s/program", f->dir);
	snprintf(f->go, sizeof(f->go), "%s/go", f->dir);
	snprintf(f->pid, sizeof(f->pid), "%s/pid", f->dir);
	snprintf(text, sizeof(text), "#!/bin/sh\necho $$ >%s.new && mv %s.new %s\nuntil [ -e %s ]; do sleep 0.01; done\nexec '%s/cairn-log'\n", f->pid,
		f->pid, f->pid, f->go, own);
	file_write(f->program, text, 0700);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct rlimit l;
	struct err e;

	if (!f || getrlimit(RLIMIT_NOFILE, &l) < 0)
		return -1;
	l.rlim_cur = l.rlim_max;
	setrlimit(RLIMIT_NOFILE, &l);
	snprintf(f->dir, sizeof(f->dir), "%s/cairn-test-XXXXXX", tmp_folder());
	log_set_fd(open("/dev/null", O_WRONLY));
	if (!mkdtemp(f->dir))
		return -1;
	*state = f;
	assert_int_equal(loop_new(64, &f->host.loop, &e), 0);
	assert_int_equal(store_open(f->dir, NULL, &f->host.store, &e), 0);
	for (unsigned i = 0; i < VMS; i++) {
		char folder[PATH_MAX];

		snprintf(f->defs[i].name, sizeof(f->defs[i].name), "vm%u", i);
		snprintf(folder, sizeof(folder), "%s/vms/vm%u", f->dir, i);
		assert_int_equal(mkdir(folder, 0700), 0);
		f->vms[i].def = &f->defs[i];
		f->vms[i].host = &f->host;
	}
	program_make(f);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char command[PATH_MAX];

	store_close(f->host.store);
	loop_free(f->host.loop);
	snprintf(command, sizeof(command), "rm -rf '%s'", f->dir);
	assert_int_equal(system(command), 0);
	free(f);
	return 0;
}

static void lines_write(struct fixture *f, const char *line)
{
	for (unsigned i = 0; i < VMS; i++)
		assert_true(f->fds[i] < 0 || write(f->fds[i], line, strlen(line)) == (ssize_t)strlen(line));
}

static bool has_line(const struct fixture *f, unsigned i, const char *line)
{
	char path[PATH_MAX], text[64] = "";
	CLEANUP_CLOSE int fd = -1;

	snprintf(path, sizeof(path), "%s/vms/vm%u/log", f->dir, i);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && strstr(text, line);
}

static void all_have_line(struct fixture *f, const char *line)
{
	for (unsigned i = 0; i < VMS; i++)
		while (!has_line(f, i, line))
			loop_run_once(f->host.loop, 5000000);
}

static pid_t program_pid(struct fixture *f)
{
	pid_t pid = 0;
	FILE *in;

	while (!(in = fopen(f->pid, "re")))
		loop_run_once(f->host.loop, 5000000);
	assert_int_equal(fscanf(in, "%d", &pid), 1);
	fclose(in);
	unlink(f->pid);
	return pid;
}

static void test_hundreds_of_pipes_reach_the_next_process(void **state)
{
	struct fixture *f = *state;
	struct err e;
	pid_t pid;

	f->host.logs = vm_logs_new(&f->host, f->program);
	pid = program_pid(f);
	for (unsigned i = 0; i < VMS; i++)
		assert_true((f->fds[i] = vm_log_open(&f->vms[i], &e)) >= 0);
	lines_write(f, "first\n");
	file_write(f->go, "", 0600);
	all_have_line(f, "first\n");

	unlink(f->go);
	kill(pid, SIGKILL);
	assert_true(program_pid(f) != pid); /* the reader has read nothing yet */
	lines_write(f, "second\n");
	for (unsigned i = 0; i < ENDED; i++) {
		close(f->fds[i]);
		f->fds[i] = -1;
	}
	loop_run_once(f->host.loop, 0);
	file_write(f->go, "", 0600);
	all_have_line(f, "second\n");

	vm_logs_free(f->host.logs);
	for (unsigned i = ENDED; i < VMS; i++)
		close(f->fds[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_hundreds_of_pipes_reach_the_next_process, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
