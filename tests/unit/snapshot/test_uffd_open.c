/* Opening a userfaultfd: by the device, by the system call, and the reason when neither works. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "snapshot/uffd_open.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODY 65534
#define SYSCTL "/proc/sys/vm/unprivileged_userfaultfd"

static char sysctl_read(void)
{
	FILE *f = fopen(SYSCTL, "r");
	int c = f ? fgetc(f) : '1'; /* before Linux 5.2, everybody may */

	if (f)
		fclose(f);
	return (char)c;
}

static bool call_is_allowed(void)
{
	return geteuid() == 0 || sysctl_read() != '0';
}

static void test_device_comes_first(void **state)
{
	struct uffd u;

	(void)state;
	if (access(UFFD_DEVICE, R_OK | W_OK) < 0) {
		print_message("skipped: %s: %s\n", UFFD_DEVICE, strerror(errno));
		skip();
	}
	assert_int_equal(uffd_open(&u), 0);
	assert_true(u.fd >= 0);
	assert_int_equal(u.source, UFFD_FROM_DEVICE);
	assert_int_equal(u.device_error, 0);
	assert_int_equal(u.call_error, 0);
	assert_true(fcntl(u.fd, F_GETFD) & FD_CLOEXEC);
	assert_true(fcntl(u.fd, F_GETFL) & O_NONBLOCK);
	uffd_close(&u);
	assert_int_equal(u.fd, -1);
}

static void system_call_follows(const char *path, int device_error)
{
	char reason[UFFD_REASON_MAX];
	struct uffd u;

	if (!call_is_allowed()) {
		print_message("skipped: this user may not use the system call\n");
		skip();
	}
	assert_int_equal(uffd_open_device(path, &u), 0);
	assert_int_equal(u.source, UFFD_FROM_SYSTEM_CALL);
	assert_int_equal(u.device_error, device_error);
	assert_int_equal(u.call_error, 0);
	uffd_reason(&u, reason);
	assert_int_equal(!reason[0], u.can_protect);
	uffd_close(&u);
}

static void test_system_call_follows_missing_device(void **state)
{
	(void)state;
	system_call_follows("/nonexistent/userfaultfd", -ENOENT);
}

static void test_system_call_follows_other_device(void **state)
{
	(void)state;
	system_call_follows("/dev/null", -ENOTTY);
}

/* Runs as a user without rights. Returns 0, or the line of the failed check. */
static int denied_check(const char *path)
{
	char reason[UFFD_REASON_MAX];
	struct uffd u;

	if (geteuid() == 0 && setresuid(NOBODY, NOBODY, NOBODY) < 0)
		return __LINE__;
	if (uffd_open_device(path, &u) != -EPERM || u.fd != -1)
		return __LINE__;
	if (u.source != UFFD_FROM_NOTHING || u.device_error != -EACCES || u.call_error != -EPERM)
		return __LINE__;
	uffd_reason(&u, reason);
	return strcmp(reason, "/dev/userfaultfd: Permission denied; vm.unprivileged_userfaultfd is 0") ? __LINE__ : 0;
}

static void test_denied_user_gets_both_reasons(void **state)
{
	char path[96];
	int fd, status;
	pid_t pid;

	(void)state;
	if (sysctl_read() != '0') {
		print_message("skipped: every user may use the system call on this host\n");
		skip();
	}
	snprintf(path, sizeof(path), "%s/test_uffd_XXXXXX", tmp_folder());
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(fchmod(fd, 0), 0);
	close(fd);
	pid = fork();
	if (!pid)
		_exit(denied_check(path) & 0xff);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	unlink(path);
	assert_int_equal(status, 0);
}

static void test_reason_names_each_cause(void **state)
{
	static const struct {
		struct uffd u;
		const char *reason;
	} rows[] = {
		{ { .fd = 5, .can_protect = true, .source = UFFD_FROM_DEVICE }, "" },
		{ { .fd = 5, .source = UFFD_FROM_SYSTEM_CALL, .device_error = -ENOENT },
			"the kernel cannot write-protect shared memory (Linux 5.19 can)" },
		{ { .fd = -1, .device_error = -ENOENT, .call_error = -EPERM, .sysctl_denies = true },
			"/dev/userfaultfd: No such file or directory; vm.unprivileged_userfaultfd is 0" },
		{ { .fd = -1, .device_error = -EACCES, .call_error = -EPERM }, /* a container's seccomp filter */
			"/dev/userfaultfd: Permission denied; system call userfaultfd: Operation not permitted" },
		{ { .fd = -1, .device_error = -ENOENT, .call_error = -ENOSYS },
			"/dev/userfaultfd: No such file or directory; system call userfaultfd: "
			"Function not implemented" },
		{ { .fd = -1, .device_error = -EPERM, .call_error = -EPERM, .refused = true },
			"CAIRN_USERFAULTFD is refuse" },
	};
	char reason[UFFD_REASON_MAX];

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		uffd_reason(&rows[i].u, reason);
		assert_string_equal(reason, rows[i].reason);
	}
	assert_string_equal(uffd_source_name(UFFD_FROM_DEVICE), "/dev/userfaultfd");
	assert_string_equal(uffd_source_name(UFFD_FROM_SYSTEM_CALL), "the system call");
}

static void test_variable_refuses(void **state)
{
	char reason[UFFD_REASON_MAX];
	struct uffd u;

	(void)state;
	setenv("CAIRN_USERFAULTFD", "refuse", 1);
	assert_int_equal(uffd_open(&u), -EPERM);
	unsetenv("CAIRN_USERFAULTFD");
	assert_int_equal(u.fd, -1);
	assert_false(u.can_protect);
	uffd_reason(&u, reason);
	assert_string_equal(reason, "CAIRN_USERFAULTFD is refuse");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_device_comes_first),
		cmocka_unit_test(test_system_call_follows_missing_device),
		cmocka_unit_test(test_system_call_follows_other_device),
		cmocka_unit_test(test_denied_user_gets_both_reasons),
		cmocka_unit_test(test_reason_names_each_cause),
		cmocka_unit_test(test_variable_refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
