/* Commands that end the guest, and the ACPI power button. */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <unistd.h>

#define MOUNTS_MAX 64

static int button_ignored;
static unsigned button_presses;

/* Unmount the file systems on disks, the last mount first. */
static void disks_release(void)
{
	char dirs[MOUNTS_MAX][128], dev[128];
	FILE *f = fopen("/proc/mounts", "re");
	int n = 0;

	sync();
	while (f && n < MOUNTS_MAX && fscanf(f, "%127s %127s %*[^\n]", dev, dirs[n]) == 2)
		n += !strncmp(dev, "/dev/", 5);
	if (f)
		fclose(f);
	while (n--)
		if (umount2(dirs[n], 0))
			umount2(dirs[n], MNT_DETACH);
}

static int end(int how, const char *text)
{
	disks_release();
	console_line(text);
	reboot(how);
	return -errno;
}

static int poweroff_run(int argc, char **argv)
{
	(void)argc, (void)argv;
	return end(RB_POWER_OFF, "cairn-guest: powering off");
}

static int reboot_run(int argc, char **argv)
{
	(void)argc, (void)argv;
	return end(RB_AUTOBOOT, "cairn-guest: rebooting");
}

static int halt_run(int argc, char **argv)
{
	(void)argc, (void)argv;
	return end(RB_HALT_SYSTEM, "cairn-guest: halting");
}

static int panic_run(int argc, char **argv)
{
	int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);

	(void)argc, (void)argv;
	if (fd < 0)
		return -errno;
	if (write(fd, "c", 1) != 1)
		return -errno;
	return fail("the kernel did not panic");
}

/* Ignore commands and the power button; the kernel keeps running. */
static int hang_run(int argc, char **argv)
{
	(void)argv;
	console_line("cairn-guest: hanging");
	while (argc)
		__builtin_ia32_pause();
	return 0;
}

static int button_run(int argc, char **argv)
{
	if (argc > 1) {
		if (strcmp(argv[1], "ignore") && strcmp(argv[1], "poweroff"))
			return fail("button takes ignore or poweroff");
		button_ignored = !strcmp(argv[1], "ignore");
	}
	say("mode %s\npresses %u\n", button_ignored ? "ignore" : "poweroff", button_presses);
	return 0;
}

int button_open(void)
{
	for (int i = 0; i < 16; i++) {
		unsigned char keys[KEY_MAX / 8 + 1] = {0};
		char path[32];
		int fd;

		snprintf(path, sizeof(path), "/dev/input/event%d", i);
		fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (ioctl(fd, EVIOCGBIT(EV_KEY, sizeof(keys)), keys) >= 0 && keys[KEY_POWER / 8] >> KEY_POWER % 8 & 1)
			return fd;
		close(fd);
	}
	return -1;
}

void button_read(int fd)
{
	struct input_event ev;

	while (read(fd, &ev, sizeof(ev)) == (ssize_t)sizeof(ev)) {
		if (ev.type != EV_KEY || ev.code != KEY_POWER || ev.value != 1)
			continue;
		button_presses++;
		console_line("cairn-guest: power button");
		if (!button_ignored)
			end(RB_POWER_OFF, "cairn-guest: powering off");
	}
}

const struct command power_commands[] = {
	{"poweroff", 0, 0, poweroff_run, "poweroff"},
	{"reboot", 0, 0, reboot_run, "reboot"},
	{"halt", 0, 0, halt_run, "halt"},
	{"panic", 0, 0, panic_run, "panic"},
	{"hang", 0, 0, hang_run, "hang"},
	{"button", 0, 1, button_run, "button [ignore|poweroff]"},
	{0},
};
