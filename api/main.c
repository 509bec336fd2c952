/* cairnd: parses the options and runs the daemon. */
#include "api/access/journal.h"
#include "api/daemon.h"
#include "api/first_process.h"
#include "api/store/paths.h"
#include "api/wire/listen.h"
#include "base/err.h"
#include "base/log.h"
#include "base/program.h"
#include "base/size.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { EXIT_USAGE = 2 };

/* systemd's list of user ids leaves this range unused (systemd.io/UIDS-GIDS). */
#define UIDS_DEFAULT "2000200001-2147352575"

static const char usage[] =
	"usage: cairnd [--state-dir DIR] [--socket PATH] [--vm-program PATH] [--log-level LEVEL]\n"
	"              [--max-starting N] [--max-running N] [--max-memory SIZE]\n"
	"              [--allow-bridge NAME,...] [--shutdown-limit SECONDS]\n"
	"              [--max-user-delay SECONDS] [--max-user-deadline SECONDS]\n"
	"              [--min-user-order N] [--max-user-autostart N]\n"
	"              [--uid-range FIRST-LAST] [--cgroup DIR] [--require-sandbox]\n"
	"              [--audit-required] [--replace]\n"
	"\n"
	"Manage virtual machines (VMs). The daemon stays in the foreground; SIGTERM stops the\n"
	"daemon, and VMs keep running. The daemon uses a socket passed by a service manager\n"
	"(LISTEN_FDS) and reports to it when it is ready (NOTIFY_SOCKET).\n"
	"\n"
	"  --state-dir DIR     keep definitions and states in DIR [root: /var/lib/cairn; others:\n"
	"                      $XDG_STATE_HOME/cairn, else ~/.local/state/cairn]\n"
	"  --socket PATH       listen on the control socket PATH [CAIRN_SOCKET; else for root\n"
	"                      /run/cairn/cairn.sock, for others $XDG_RUNTIME_DIR/cairn/cairn.sock]\n"
	"  --vm-program PATH   run PATH as the VM process [CAIRN_VM; else cairn-vm beside cairnd\n"
	"                      or in ../libexec/cairn]\n"
	"  --log-level LEVEL   set the log level: error, warning, info, debug or trace [info]\n"
	"  --max-starting N    start at most N VMs at a time; other starts wait [twice the number of\n"
	"                      processors, at least 8]\n"
	"  --max-running N     run at most N VMs at a time; further starts are refused [no limit]\n"
	"  --max-memory SIZE   limit the memory of all running VMs together, for example to 24G;\n"
	"                      further starts are refused [no limit]\n"
	"  --allow-bridge NAME,...\n"
	"                      allow other users' VMs to use these bridges [none]\n"
	"  --shutdown-limit SECONDS\n"
	"                      give guests this long, all together, to shut down with the host; then\n"
	"                      apply each VM's shutdown.then; 0: no limit [900]\n"
	"\n"
	"  --uid-range FIRST-LAST\n"
	"                      root: run each VM's process as a user id of its own from this range,\n"
	"                      which no account may use; none: as root [" UIDS_DEFAULT "]\n"
	"  --cgroup DIR        create the VMs' control groups in the group DIR, which has no processes;\n"
	"                      none: create none [a scope of systemd, if it has started cairnd; else,\n"
	"                      without systemd, a group below that of cairnd]\n"
	"  --require-sandbox   refuse to start a VM if a part of its sandbox is missing\n"
	"  --audit-required    refuse commands that change something while the audit log cannot be\n"
	"                      written\n"
	"  --replace           kill the cairnd that serves the state folder, and take over, if it does\n"
	"                      not answer for 10 s. Without this option, only a cairnd that waits for a\n"
	"                      file system for 10 s, or was killed and does not end, is replaced\n"
	"\n"
	"Bounds of VMs that users other than root have defined:\n"
	"  --max-user-delay SECONDS\n"
	"                      use at most this start_delay [60]\n"
	"  --max-user-deadline SECONDS\n"
	"                      use at most this shutdown.deadline when the host shuts down [120]\n"
	"  --min-user-order N  use at least this order [0]\n"
	"  --max-user-autostart N\n"
	"                      start at most N VMs of each user with the host; 0: no limit [0]\n"
	"\n"
	"  --foreground        has no effect; the daemon always stays in the foreground\n"
	"  --version           print the version\n"
	"  --help              print this help\n"
	"\n"
	"Example: cairnd --state-dir /srv/cairn --max-memory 24G\n";

struct options {
	const char *state_dir, *socket, *vm_program, *bridges_for_all;
	int log_level;
	struct daemon_limits limits;
	uid_t uid_first, uid_last;
	const char *cgroup;
	bool require_sandbox, audit_required, replace;
};

static int level_parse(const char *name)
{
	static const char *const names[] = { "error", "warning", "info", "debug", "trace" };

	for (int i = 0; i < 5; i++)
		if (!strcmp(names[i], name))
			return i;
	fprintf(stderr, "error: unknown log level \"%s\"\n"
			"error: use error, warning, info, debug or trace\n", name);
	return -1;
}

static int option_number(const char *option, const char *text, unsigned min, unsigned *ret)
{
	char *end;
	long n = strtol(text, &end, 10);

	if (end == text || *end || n < (long)min || n > 100000) {
		fprintf(stderr, "error: %s takes a number from %u to 100000, not \"%s\"\n"
				"error: see cairnd --help\n", option, min, text);
		return -1;
	}
	*ret = (unsigned)n;
	return 0;
}

static int option_memory(const char *text, uint64_t *ret_bytes)
{
	if (size_parse(text, 0, ret_bytes) < 0 || !*ret_bytes) {
		fprintf(stderr, "error: --max-memory takes a size such as 512M, 24G or 1T, not \"%s\"\n"
				"error: see cairnd --help\n", text);
		return -1;
	}
	return 0;
}

/* "none", or two numbers from 1 to the greatest user id. */
static int option_uids(const char *text, struct options *o)
{
	unsigned long first = 0, last = 0;
	int end = 0;

	if (strcmp(text, "none") && (sscanf(text, "%10lu-%10lu%n", &first, &last, &end) != 2 || text[end] || text[0] == '-' ||
		!first || first > last || last >= UINT32_MAX)) {
		fprintf(stderr, "error: --uid-range takes two user ids such as " UIDS_DEFAULT ", or none, not \"%s\"\n"
				"error: see cairnd --help\n", text);
		return -1;
	}
	o->uid_first = (uid_t)first;
	o->uid_last = (uid_t)last;
	return 0;
}

static int option_cgroup(const char *text)
{
	if (text[0] == '/' || !strcmp(text, "none"))
		return 0;
	fprintf(stderr, "error: --cgroup takes the absolute path of a control group, or none, not \"%s\"\n"
			"error: see cairnd --help\n", text);
	return -1;
}

/* Options whose value is a number from `min` to 100000. */
static const struct number_option {
	int letter; /* as in options_parse() */
	unsigned min;
	size_t at; /* of the unsigned in struct options */
	const char *name;
} number_options[] = {
	{ 'S', 1, offsetof(struct options, limits.starting), "--max-starting" },
	{ 'R', 0, offsetof(struct options, limits.running), "--max-running" },
	{ 'L', 0, offsetof(struct options, limits.shutdown_s), "--shutdown-limit" },
	{ 'D', 0, offsetof(struct options, limits.user_delay_s), "--max-user-delay" },
	{ 'T', 1, offsetof(struct options, limits.user_deadline_s), "--max-user-deadline" },
	{ 'O', 0, offsetof(struct options, limits.user_order), "--min-user-order" },
	{ 'A', 0, offsetof(struct options, limits.user_autostarts), "--max-user-autostart" },
};

/* Set an option that has a value. Returns 0; -1, and the error is printed. */
static int option_set(struct options *o, int letter, const char *value)
{
	for (size_t i = 0; i < ARRAY_SIZE(number_options); i++)
		if (number_options[i].letter == letter)
			return option_number(number_options[i].name, value, number_options[i].min,
				(void *)((char *)o + number_options[i].at));
	switch (letter) {
	case 'd':
		o->state_dir = value;
		return 0;
	case 's':
		o->socket = value;
		return 0;
	case 'p':
		o->vm_program = value;
		return 0;
	case 'l':
		o->log_level = level_parse(value);
		return o->log_level < 0 ? -1 : 0;
	case 'M':
		return option_memory(value, &o->limits.memory_bytes);
	case 'U':
		return option_uids(value, o);
	case 'G':
		o->cgroup = value;
		return option_cgroup(value);
	default:
		o->bridges_for_all = value; /* 'B' */
		return 0;
	}
}

/* Parse the command line. Returns -1 to continue, or an exit status. */
static int options_parse(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = { { "state-dir", required_argument, NULL, 'd' },
		{ "socket", required_argument, NULL, 's' },
		{ "vm-program", required_argument, NULL, 'p' },
		{ "log-level", required_argument, NULL, 'l' },
		{ "max-starting", required_argument, NULL, 'S' },
		{ "max-running", required_argument, NULL, 'R' },
		{ "max-memory", required_argument, NULL, 'M' },
		{ "shutdown-limit", required_argument, NULL, 'L' },
		{ "max-user-delay", required_argument, NULL, 'D' },
		{ "max-user-deadline", required_argument, NULL, 'T' },
		{ "min-user-order", required_argument, NULL, 'O' },
		{ "uid-range", required_argument, NULL, 'U' }, { "require-sandbox", no_argument, NULL, 'Q' },
		{ "cgroup", required_argument, NULL, 'G' },
		{ "audit-required", no_argument, NULL, 'q' }, { "replace", no_argument, NULL, 'r' },
		{ "max-user-autostart", required_argument, NULL, 'A' }, { "allow-bridge", required_argument, NULL, 'B' },
		{ "foreground", no_argument, NULL, 'f' }, { "version", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' }, { NULL, 0, NULL, 0 } };
	int c;

	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (c) {
		case 'Q':
			o->require_sandbox = true;
			break;
		case 'q':
			o->audit_required = true;
			break;
		case 'r':
			o->replace = true;
			break;
		case 'f':
			break;
		case 'v':
			printf("cairnd %s\n", CAIRN_VERSION);
			return program_end("error", 0);
		case 'h':
			fputs(usage, stdout);
			return program_end("error", 0);
		case '?': /* getopt_long() has printed the error */
			fputs("error: see cairnd --help\n", stderr);
			return EXIT_USAGE;
		default:
			if (option_set(o, c, optarg) < 0)
				return EXIT_USAGE;
		}
	}
	if (optind == argc)
		return -1;
	fprintf(stderr, "error: unexpected argument \"%s\"\nerror: see cairnd --help\n",
		argv[optind]);
	return EXIT_USAGE;
}

/* Open /dev/null for each of the fds 0 to 2 that is closed, so that no later file gets such a number. */
static void standard_fds_open(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= 2);
	if (fd > 2)
		close(fd);
}

int main(int argc, char **argv)
{
	struct journal log_journal;
	struct options o = { .log_level = LOG_LEVEL_INFO,
		.limits = { .starting = (unsigned)MAX(8, 2 * sysconf(_SC_NPROCESSORS_ONLN)), .user_delay_s = 60,
			.user_deadline_s = 120, .shutdown_s = 900 } };
	struct daemon_paths paths;
	struct err e;
	int r;

	standard_fds_open();
	program_outlive_file_limit();
	signal(SIGCHLD, SIG_DFL); /* a program that ignores it may have started this one; then no child would leave a status */
	if (!geteuid())
		option_uids(UIDS_DEFAULT, &o);
	r = options_parse(argc, argv, &o);
	if (r >= 0)
		return r;
	first_process_stay();
	umask(0022); /* private files are created with a private mode */
	log_set_level((enum log_level)o.log_level);
	log_set_owner("cairnd");
	r = paths_for_daemon(o.state_dir, o.socket, o.vm_program, &paths, &e);
	paths.limits = o.limits;
	paths.uid_first = o.uid_first;
	paths.uid_last = o.uid_last;
	paths.cgroup = o.cgroup;
	paths.require_sandbox = o.require_sandbox;
	paths.audit_required = o.audit_required;
	paths.replace = o.replace;
	paths.bridges_for_all = o.bridges_for_all;
	paths.journal = getenv("CAIRN_JOURNAL") ? getenv("CAIRN_JOURNAL") : JOURNAL_SOCKET;
	journal_take_log(&log_journal, paths.journal);
	if (!r && listen_passed(&paths.listening, paths.socket, sizeof(paths.socket), &e) < 0)
		r = -EINVAL;
	if (!r)
		r = daemon_run(&paths, o.log_level, &e);
	if (!r)
		return 0;
	fprintf(stderr, "error: cairnd cannot start\nerror: %s\n", e.msg);
	return e.cls == ERR_BUSY ? 6 : e.cls == ERR_HOST ? 7 : e.cls == ERR_PERMISSION ? 5 : 1;
}
