/* Commands that report the guest's view: clocks, CPUs, devices, logs. */
#define _GNU_SOURCE
#include "init.h"

#include <cpuid.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/random.h>
#include <sys/utsname.h>
#include <time.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

#define CPUS_MAX 64

static void clock_say(const char *name, clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	say("%s %lld.%09ld\n", name, (long long)ts.tv_sec, ts.tv_nsec);
}

static int clock_run(int argc, char **argv)
{
	(void)argc, (void)argv;
	clock_say("realtime", CLOCK_REALTIME);
	clock_say("monotonic", CLOCK_MONOTONIC);
	clock_say("boottime", CLOCK_BOOTTIME);
	say("tsc %llu\n", (unsigned long long)__rdtsc());
	return 0;
}

static int clocksource_run(int argc, char **argv)
{
	char v[128];

	(void)argc, (void)argv;
	say("current %s\n",
	    line_of(v, sizeof(v), "/sys/devices/system/clocksource/clocksource0/current_clocksource"));
	say("available %s\n",
	    line_of(v, sizeof(v), "/sys/devices/system/clocksource/clocksource0/available_clocksource"));
	return 0;
}

static int rtc_run(int argc, char **argv)
{
	char v[64];

	(void)argc, (void)argv;
	if (!*line_of(v, sizeof(v), "/sys/class/rtc/rtc0/since_epoch"))
		return fail("no RTC");
	say("rtc %s\n", v);
	return 0;
}

/* Sum the first CPUs' counts in the line of /proc/interrupts that starts with `label`. */
static uint64_t interrupts_of(const char *label)
{
	int fd = open("/proc/interrupts", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, guest_io, sizeof(guest_io) - 1);
	uint64_t sum = 0;
	char *line, *p;

	if (fd >= 0)
		close(fd);
	guest_io[n > 0 ? n : 0] = '\0';
	for (line = strtok((char *)guest_io, "\n"); line; line = strtok(NULL, "\n")) {
		line += strspn(line, " ");
		if (strncmp(line, label, strlen(label)))
			continue;
		for (p = line + strlen(label); p += strspn(p, " "), isdigit((unsigned char)*p);)
			sum += strtoull(p, &p, 10);
	}
	return sum;
}

static int ticks_run(int argc, char **argv)
{
	uint64_t ms = 100, mono, tsc, local, pit;
	struct timespec a, b;

	if (argc > 1 && number(argv[1], &ms))
		return -1;
	local = interrupts_of("LOC:");
	pit = interrupts_of("0:");
	clock_gettime(CLOCK_REALTIME, &a);
	mono = now_ns();
	tsc = __rdtsc();
	usleep((useconds_t)(ms * 1000));
	tsc = __rdtsc() - tsc;
	mono = now_ns() - mono;
	clock_gettime(CLOCK_REALTIME, &b);
	say("monotonic_ns %llu\nrealtime_ns %lld\ntsc %llu\n", (unsigned long long)mono,
	    (long long)(b.tv_sec - a.tv_sec) * 1000000000 + (b.tv_nsec - a.tv_nsec), (unsigned long long)tsc);
	say("timer_interrupts %llu\n",
	    (unsigned long long)(interrupts_of("LOC:") + interrupts_of("0:") - local - pit));
	return 0;
}

static int cpus_run(int argc, char **argv)
{
	char v[64];

	(void)argc, (void)argv;
	say("%ld\n", sysconf(_SC_NPROCESSORS_ONLN));
	say("online %s\n", line_of(v, sizeof(v), "/sys/devices/system/cpu/online"));
	say("present %s\n", line_of(v, sizeof(v), "/sys/devices/system/cpu/present"));
	return 0;
}

static int cpu_run(int argc, char **argv)
{
	char path[80];
	int fd, rc;

	(void)argc;
	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", atoi(argv[1]));
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	rc = write(fd, strcmp(argv[2], "on") ? "0" : "1", 1) == 1 ? 0 : -errno;
	close(fd);
	return rc;
}

struct spin {
	pthread_t thread;
	int cpu;
	uint64_t end_ns, rounds, gap_max_ns;
};

static void *spin_main(void *arg)
{
	struct spin *s = arg;
	uint64_t now, last = now_ns();
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(s->cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
	do {
		now = now_ns();
		if (now - last > s->gap_max_ns)
			s->gap_max_ns = now - last;
		last = now;
		s->rounds++;
	} while (now < s->end_ns);
	return NULL;
}

static int run_cpus_run(int argc, char **argv)
{
	static struct spin spins[CPUS_MAX];
	long cpus = sysconf(_SC_NPROCESSORS_ONLN), n = 0;
	uint64_t ms, end;
	int rc = 0;

	(void)argc;
	if (number(argv[1], &ms))
		return -1;
	end = now_ns() + ms * 1000000u;
	for (; n < cpus && n < CPUS_MAX && !rc; n++) {
		spins[n] = (struct spin){.cpu = (int)n, .end_ns = end};
		rc = pthread_create(&spins[n].thread, NULL, spin_main, &spins[n]);
	}
	n -= !!rc;
	for (long i = 0; i < n; i++) {
		pthread_join(spins[i].thread, NULL);
		say("cpu%ld rounds %llu gap_max_us %llu\n", i, (unsigned long long)spins[i].rounds,
		    (unsigned long long)(spins[i].gap_max_ns / 1000));
	}
	return -rc;
}

static int cpuid_run(int argc, char **argv)
{
	uint64_t leaf, sub = 0;
	unsigned a, b, c, d;

	if (number(argv[1], &leaf) || (argc > 2 && number(argv[2], &sub)))
		return -1;
	__cpuid_count((unsigned)leaf, (unsigned)sub, a, b, c, d);
	say("eax %08x ebx %08x ecx %08x edx %08x\n", a, b, c, d);
	return 0;
}

static void hex_say(const char *name, const uint8_t *data, ssize_t len)
{
	say("%s ", name);
	for (ssize_t i = 0; i < len; i++)
		say("%02x", data[i]);
	say("\n");
}

static int random_run(int argc, char **argv)
{
	uint8_t buf[256];
	uint64_t n;
	ssize_t got;
	int fd;

	(void)argc;
	if (number(argv[1], &n))
		return -1;
	n = n < sizeof(buf) ? n : sizeof(buf);
	fd = open("/dev/hwrng", O_RDONLY | O_CLOEXEC);
	got = fd < 0 ? -1 : read(fd, buf, n);
	if (fd >= 0)
		close(fd);
	if (got >= 0)
		hex_say("hwrng", buf, got);
	else
		say("hwrng none\n");
	got = getrandom(buf, n, GRND_NONBLOCK);
	if (got < 0)
		return fail("the kernel's pool is not ready");
	hex_say("kernel", buf, got);
	return 0;
}

static int uptime_run(int argc, char **argv)
{
	(void)argc, (void)argv;
	return say_file("/proc/uptime");
}

static int irqs_run(int argc, char **argv)
{
	(void)argc, (void)argv;
	return say_file("/proc/interrupts");
}

static int cmdline_run(int argc, char **argv)
{
	(void)argc, (void)argv;
	return say_file("/proc/cmdline");
}

static int mem_run(int argc, char **argv)
{
	(void)argc, (void)argv;
	return say_file("/proc/meminfo");
}

static int uname_run(int argc, char **argv)
{
	struct utsname u;

	(void)argc, (void)argv;
	uname(&u);
	say("%s %s %s %s\n", u.sysname, u.release, u.version, u.machine);
	return 0;
}

static int dmesg_run(int argc, char **argv)
{
	uint64_t lines = UINT64_MAX;
	int n, at;

	if (argc > 1 && number(argv[1], &lines))
		return -1;
	n = klogctl(3, (char *)guest_io, (int)sizeof(guest_io));
	if (n < 0)
		return -errno;
	for (at = n; at > 0 && lines; at--)
		if (at < n && guest_io[at - 1] == '\n' && --lines == 0)
			break;
	say_bytes(guest_io + at, (size_t)(n - at));
	return 0;
}

static int kmsg_run(int argc, char **argv)
{
	int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC), rc;
	size_t len;

	(void)argc;
	if (fd < 0)
		return -errno;
	/* With a newline: without it the kernel buffers the line for a continuation. */
	len = (size_t)snprintf((char *)guest_io, sizeof(guest_io), "%s\n", argv[1]);
	rc = write(fd, guest_io, len) < 0 ? -errno : 0;
	close(fd);
	return rc;
}

static int pci_run(int argc, char **argv)
{
	DIR *d = opendir("/sys/bus/pci/devices");
	struct dirent *e;
	char v[32], w[32], c[32], drv[256], path[320];

	(void)argc, (void)argv;
	if (!d)
		return fail("no PCI");
	while ((e = readdir(d))) {
		ssize_t n;

		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver", e->d_name);
		n = readlink(path, drv, sizeof(drv) - 1);
		drv[n > 0 ? n : 0] = '\0';
		say("%s %s:%s class %s driver %s\n", e->d_name,
		    line_of(v, sizeof(v), "/sys/bus/pci/devices/%s/vendor", e->d_name) + 2,
		    line_of(w, sizeof(w), "/sys/bus/pci/devices/%s/device", e->d_name) + 2,
		    line_of(c, sizeof(c), "/sys/bus/pci/devices/%s/class", e->d_name),
		    n > 0 ? strrchr(drv, '/') + 1 : "-");
	}
	closedir(d);
	return 0;
}

static int names_say(const char *dir, const char *format)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	char v[128];

	if (!d)
		return -errno;
	while ((e = readdir(d)))
		if (e->d_name[0] != '.')
			say("%s %s\n", e->d_name, format ? line_of(v, sizeof(v), format, e->d_name) : "");
	closedir(d);
	return 0;
}

static int acpi_run(int argc, char **argv)
{
	(void)argc, (void)argv;
	if (names_say("/sys/firmware/acpi/tables", NULL))
		return fail("no ACPI");
	names_say("/sys/bus/acpi/devices", "/sys/bus/acpi/devices/%s/path");
	return 0;
}

static int net_run(int argc, char **argv)
{
	(void)argc, (void)argv;
	return names_say("/sys/class/net", "/sys/class/net/%s/address");
}

/* Measure fork and exec of a program until the first byte of its standard error. */
static int spawn_run(int argc, char **argv)
{
	uint64_t begin = now_ns(), first = 0;
	pid_t pid;
	int p[2];
	char byte;

	(void)argc;
	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (!pid) {
		dup2(p[1], 2);
		execv(argv[1], argv + 1);
		_exit(127);
	}
	close(p[1]);
	if (pid > 0 && read(p[0], &byte, 1) == 1)
		first = now_ns();
	while (first && read(p[0], &byte, 1) == 1)
		;
	close(p[0]);
	if (pid > 0)
		waitpid(pid, NULL, 0);
	if (!first)
		return fail("%s wrote nothing", argv[1]);
	say("%llu\n", (unsigned long long)(first - begin));
	return 0;
}

const struct command info_commands[] = {
	{"clock", 0, 0, clock_run, "clock"},
	{"clocksource", 0, 0, clocksource_run, "clocksource"},
	{"rtc", 0, 0, rtc_run, "rtc"},
	{"ticks", 0, 1, ticks_run, "ticks [MS]"},
	{"uptime", 0, 0, uptime_run, "uptime"},
	{"spawn", 1, 2, spawn_run, "spawn PROGRAM [ARGUMENT]"},
	{"cpus", 0, 0, cpus_run, "cpus"},
	{"cpu", 2, 2, cpu_run, "cpu N on|off"},
	{"run-cpus", 1, 1, run_cpus_run, "run-cpus MS"},
	{"cpuid", 1, 2, cpuid_run, "cpuid LEAF [SUBLEAF]"},
	{"random", 1, 1, random_run, "random BYTES"},
	{"irqs", 0, 0, irqs_run, "irqs"},
	{"mem", 0, 0, mem_run, "mem"},
	{"uname", 0, 0, uname_run, "uname"},
	{"cmdline", 0, 0, cmdline_run, "cmdline"},
	{"dmesg", 0, 1, dmesg_run, "dmesg [LINES]"},
	{"kmsg", 1, 1, kmsg_run, "kmsg TEXT"},
	{"pci", 0, 0, pci_run, "pci"},
	{"acpi", 0, 0, acpi_run, "acpi"},
	{"net", 0, 0, net_run, "net"},
	{0},
};
