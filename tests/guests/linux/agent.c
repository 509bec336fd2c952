/* A guest agent for tests. Implements the part of QEMU's protocol that freezes a file system, sets
 * the clock, reports addresses and shuts down; a mode can leave commands out. */
#define _GNU_SOURCE
#include "init.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/fs.h>
#include <linux/if_packet.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <time.h>
#include <unistd.h>

#define AGENT_PORT "org.qemu.guest_agent.0"

enum mode { AGENT_WORK, AGENT_REFUSE, AGENT_GARBAGE, AGENT_STUCK };

static struct {
	int port, mount; /* mount: an open folder on the file system */
	volatile enum mode mode;
	pthread_t thread;
	char log[1024];
} agent = {.port = -1, .mount = -1};

static void agent_say(const char *text)
{
	size_t len = strlen(text);

	while (len) {
		ssize_t n = write(agent.port, text, len);

		if (n <= 0)
			return; /* the host has closed the port; it asks again after reopening it */
		text += n;
		len -= (size_t)n;
	}
}

static void agent_freeze(int freeze)
{
	const char *what = freeze ? "freeze" : "thaw";
	size_t n = strlen(agent.log);
	char text[64];
	int r = agent.mode == AGENT_WORK || agent.mode == AGENT_STUCK ? ioctl(agent.mount, freeze ? FIFREEZE : FITHAW, 0) : -1;

	snprintf(agent.log + n, sizeof(agent.log) - n, "%s%s\n", what, r ? " failed" : "");
	snprintf(text, sizeof(text), "{\"return\": %d}\n", !r);
	agent_say((agent.mode == AGENT_REFUSE && freeze) || (agent.mode == AGENT_STUCK && !freeze) ?
		"{\"error\": {\"class\": \"GenericError\", \"desc\": \"not today\"}}\n" : text);
}

static void agent_set_time(long long ns)
{
	struct timespec ts = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
	size_t n = strlen(agent.log);

	snprintf(agent.log + n, sizeof(agent.log) - n, "time%s\n",
		clock_settime(CLOCK_REALTIME, &ts) ? " failed" : "");
	agent_say("{\"return\": {}}\n");
}

/* Set the host name: the script's last argument. Cairn sends no other script. */
static void agent_exec(const char *line)
{
	size_t n = strlen(agent.log);
	char name[64] = "";
	const char *last = strstr(line, "\"sh\",\"");
	int r = last && sscanf(last, "\"sh\",\"%63[a-zA-Z0-9-]\"]", name) == 1 ? sethostname(name, strlen(name)) : -1;

	snprintf(agent.log + n, sizeof(agent.log) - n, "name %s%s\n", name, r ? " failed" : "");
	agent_say("{\"return\": {\"pid\": 1}}\n");
}

static size_t agent_addresses(const struct ifaddrs *all, const char *name, char *text, size_t size)
{
	char address[INET_ADDRSTRLEN];
	size_t n = 0;

	text[0] = 0;
	for (; all && n + 128 < size; all = all->ifa_next) {
		const struct sockaddr_in *in = (const void *)all->ifa_addr;

		if (in && in->sin_family == AF_INET && !strcmp(all->ifa_name, name))
			n += (size_t)snprintf(text + n, size - n, "%s{\"ip-address-type\": \"ipv4\", \"ip-address\": \"%s\", "
				"\"prefix\": 24}", n ? ", " : "", inet_ntop(AF_INET, &in->sin_addr, address, sizeof(address)));
	}
	return n;
}

static void agent_interfaces(void)
{
	char text[4096] = "{\"return\": [";
	size_t n = strlen(text);
	struct ifaddrs *all = NULL;

	if (getifaddrs(&all))
		all = NULL;
	for (const struct ifaddrs *i = all; i && n + 1024 < sizeof(text); i = i->ifa_next) {
		const struct sockaddr_ll *ll = (const void *)i->ifa_addr;

		if (!ll || ll->sll_family != AF_PACKET)
			continue;
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s{\"name\": \"%s\", \"ip-addresses\": [",
			text[n - 1] == '[' ? "" : ", ", i->ifa_name);
		n += agent_addresses(all, i->ifa_name, text + n, 512);
		n += (size_t)snprintf(text + n, sizeof(text) - n, "], \"hardware-address\": \"");
		for (int k = 0; k < 6; k++)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%02x", k ? ":" : "", ll->sll_addr[k]);
		n += (size_t)snprintf(text + n, sizeof(text) - n, "\"}");
	}
	freeifaddrs(all);
	snprintf(text + n, sizeof(text) - n, "]}\n");
	agent_say(text);
}

/* An answer of OSINFO_BYTES: more than the port and the host's buffers hold at once. */
#define OSINFO_BYTES 200000

static void agent_osinfo(void)
{
	static char text[OSINFO_BYTES + 64];
	size_t n = (size_t)snprintf(text, sizeof(text), "{\"return\": {\"id\": \"");

	memset(text + n, 'x', OSINFO_BYTES);
	strcpy(text + n + OSINFO_BYTES, "\"}}\n");
	agent_say(text);
}

static void agent_host_name(void)
{
	char text[128], name[65] = "";

	gethostname(name, sizeof(name) - 1);
	snprintf(text, sizeof(text), "{\"return\": {\"host-name\": \"%s\"}}\n", name);
	agent_say(text);
}

static void agent_line(const char *line)
{
	const char *time = strstr(line, "\"time\":");
	const char *id = strstr(line, "\"id\":");
	char text[64];
	unsigned long long n = 0;
	long long ns;

	if (agent.mode == AGENT_GARBAGE) {
		agent_say("\xff}{\"return\":\n\xff{\"return\": 1}\n");
		return;
	}
	if (strstr(line, "guest-sync-delimited") && id && sscanf(id, "\"id\":%llu", &n) == 1) {
		snprintf(text, sizeof(text), "\xff{\"return\": %llu}\n", n);
		agent_say(text);
	} else if (strstr(line, "guest-set-time") && time && sscanf(time, "\"time\":%lld", &ns) == 1) {
		agent_set_time(ns);
	} else if (strstr(line, "guest-shutdown")) { /* guest-shutdown has no answer */
		sync();
		reboot(strstr(line, "\"reboot\"") ? RB_AUTOBOOT : RB_POWER_OFF);
	} else if (strstr(line, "guest-get-osinfo")) {
		agent_osinfo();
	} else if (strstr(line, "guest-get-host-name")) {
		agent_host_name();
	} else if (strstr(line, "guest-exec-status")) { /* this agent runs no program; each has this result */
		agent_say("{\"return\": {\"exited\": true, \"exitcode\": 7, \"out-data\": \"aGkK\"}}\n");
	} else if (strstr(line, "guest-exec")) {
		agent_exec(line);
	} else if (strstr(line, "guest-network-get-interfaces")) {
		agent_interfaces();
	} else if (strstr(line, "guest-fsfreeze-freeze")) {
		agent_freeze(1);
	} else if (strstr(line, "guest-fsfreeze-thaw")) {
		agent_freeze(0);
	}
}

static void *agent_main(void *opaque)
{
	char line[512];
	size_t used = 0;

	(void)opaque;
	for (;;) {
		ssize_t n = read(agent.port, line + used, sizeof(line) - 1 - used);
		char *end;

		if (n <= 0)
			usleep(20000); /* the host has not opened the port */
		used += n > 0 ? (size_t)n : 0;
		while ((end = memchr(line, '\n', used))) {
			*end++ = '\0';
			agent_line(line);
			used -= (size_t)(end - line);
			memmove(line, end, used);
		}
		if (used == sizeof(line) - 1)
			used = 0;
	}
	return NULL;
}

static int agent_begin(void)
{
	DIR *d = opendir("/sys/class/virtio-ports");
	struct dirent *e;
	char name[64], path[300];

	while (d && agent.port < 0 && (e = readdir(d))) {
		line_of(name, sizeof(name), "/sys/class/virtio-ports/%s/name", e->d_name);
		snprintf(path, sizeof(path), "/dev/%s", e->d_name);
		if (!strcmp(name, AGENT_PORT))
			agent.port = open(path, O_RDWR | O_CLOEXEC);
	}
	if (d)
		closedir(d);
	if (agent.port < 0)
		return fail("there is no port " AGENT_PORT);
	return -pthread_create(&agent.thread, NULL, agent_main, NULL);
}

static int agent_run(int argc, char **argv)
{
	static const char *const modes[] = {"work", "refuse", "garbage", "stuck"};
	size_t m = 0;

	while (m < sizeof(modes) / sizeof(modes[0]) && strcmp(modes[m], argv[1]))
		m++;
	if (m == sizeof(modes) / sizeof(modes[0]))
		return fail("'%s' is no kind of agent", argv[1]);
	agent.mode = (enum mode)m;
	if (argc > 2) {
		if (agent.mount >= 0)
			close(agent.mount);
		agent.mount = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (agent.mount < 0)
			return -errno;
	}
	return agent.port < 0 ? agent_begin() : 0;
}

static int agent_log_run(int argc, char **argv)
{
	(void)argc, (void)argv;
	say("%s", agent.log);
	return 0;
}

const struct command agent_commands[] = {
	{"agent", 1, 2, agent_run, "agent work|refuse|garbage|stuck [MOUNT]"},
	{"agent-log", 0, 0, agent_log_run, "agent-log"},
	{0},
};
