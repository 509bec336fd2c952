/* run: run one VM in the foreground, without the daemon. This process composes the definition, opens the files and
 * becomes cairn-vm, which reads its configuration from a socket. With a command for the guest, a child becomes that
 * (run_command.c). */
#include "tools/cairn/cli.h"
#include "api/definition/definition.h"
#include "api/definition/uefi_files.h"
#include "api/definition/vm_config.h"
#include "api/net/tap.h"
#include "api/net/usernet.h"
#include "api/schema/schema.h"
#include "api/store/paths.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/host_name.h"
#include "base/log.h"
#include "base/util.h"
#include "base/uuid.h"
#include "tools/cairn/guest_session.h"
#include "tools/cairn/host_probe.h"
#include "tools/cairn/image_cache.h"
#include "tools/cairn/initrd_agent.h"
#include "tools/cairn/output.h"
#include "tools/cairn/run_definition.h"
#include "tools/cairn/run_root.h"
#include "tools/cairn/verbs/exec.h"
#include "tools/cairn/verbs/run_command.h"
#include "tools/cairn/verbs/run_status.h"
#include "tools/cairn/verbs/run_warm.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* A guest that begins from a state and does not answer so long does not work. A boot on a busy host takes longer. */
#define RESUME_NS (30 * CLOCK_NS_PER_S)

static uint8_t level_parse(const struct cli *c)
{
	static const char *const names[] = { "error", "warning", "info", "debug", "trace" };
	const char *text = option_value(c, "log-level");

	for (uint8_t i = 0; text && i < ARRAY_SIZE(names); i++)
		if (!strcmp(names[i], text))
			return i;
	return LOG_LEVEL_WARN;
}

/* Refuse actions that dump memory: only the daemon has a folder for dumps. */
static int dumps_refuse(const struct definition *d, struct err *e)
{
	const char *key = d->on_crash > VM_ACTION_PRESERVE ? "on_crash: coredump-destroy or coredump-restart" :
		d->watchdog && d->watchdog_action == VM_WATCHDOG_DUMP ? "watchdog.action: dump" : NULL;

	return key ? err_set(e, -EINVAL, ERR_INVALID,
		"%s requires the daemon, which keeps the dumps; define the VM with cairn define, or choose another "
		"action", key) : 0;
}

/* Generate MAC addresses, because no daemon keeps them. Without a definition file, those on user networks, on which no
 * other VM is, are always the same: a guest that begins from a saved state has the address of that state.
 * from_file: there is a definition file. */
static int macs_make(struct definition *d, bool from_file, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < d->ninterfaces && !r; i++) {
		struct definition_interface *n = &d->interfaces[i];

		if (definition_has_mac(n))
			continue;
		if (from_file || n->type != DEFINITION_USER)
			r = definition_make_mac(n, e);
		else
			memcpy(n->mac, (const uint8_t[]){ 0x52, 0x54, 0x00, 0xca, 0x17, (uint8_t)i }, sizeof(n->mac));
	}
	return r;
}

/* Start a cairn-slirp for each user network. Each ends when the VM closes its socket to it, thus when this process,
 * which becomes the VM, ends. */
static int usernets_add(struct config *c, const struct definition *d, struct err *e)
{
	struct config_files files = { 0 };
	struct usernets made;
	char program[PATH_MAX];
	int r = config_prepare_forwards(d, c, &files, e);

	if (!r)
		r = config_open_files(c, &files, e);
	if (!r && paths_helper("cairn-slirp", program, sizeof(program), NULL) < 0)
		snprintf(program, sizeof(program), "cairn-slirp");
	if (r < 0)
		return r;
	return usernets_start(c, d, program, NULL, -1, -1, &made, e);
}

static int config_build(const struct definition *d, const struct boot_choice *boot, struct config *ret_c, struct err *e)
{
	int r = config_open(d, ret_c, e);

	if (r < 0)
		return r;
	r = taps_add(ret_c, d, &(struct tap_rules){ 0 }, e);
	if (!r)
		r = usernets_add(ret_c, d, e);
	if (!r)
		r = config_choose_boot(d, boot, ret_c, e);
	if (r < 0)
		config_done(ret_c);
	return r;
}

static void vsock_put(struct json_object *definition, const char *path)
{
	struct json_object *vsock = js_get(definition, "vsock");

	if (!json_object_is_type(vsock, json_type_object))
		json_object_object_add(definition, "vsock", vsock = json_object_new_object());
	js_put_str(vsock, "path", path);
}

/* vsock: path of the socket that leads to the guest's vsock ports; NULL: that of the definition. */
static int config_read(const struct run_definition *f, const char *vsock, const struct boot_choice *boot, struct config *ret_c,
	struct err *e)
{
	struct definition *d CLEANUP(definition_free_p) = NULL;
	int r;

	if (vsock)
		vsock_put(f->file.definition, vsock);
	r = definition_parse(f->file.definition, f->file.folder, &d, e);
	if (!r)
		r = uefi_choose(uefi_folders, d, NULL, e);
	if (!r)
		r = dumps_refuse(d, e);
	if (!r && !uuid_is_set(d->uuid))
		r = uuid_make(d->uuid, e);
	if (!r)
		r = macs_make(d, f->from_file, e);
	if (r < 0)
		return r;
	warnings_print(f->file.warnings);
	return config_build(d, boot, ret_c, e);
}

/* Replace this process by cairn-vm. pair: the ends of its channel. Returns only on failure. */
static int process_become(const char *program, const struct config *config, const struct cli *c, const int pair[2], struct err *e)
{
	char *argv[] = { (char *)"cairn-vm", (char *)"--channel", NULL, (char *)"--own-namespaces", NULL, NULL, NULL };
	unsigned nargs = 4;
	char number[16];
	int r = config_send(config, pair[0], 1);

	if (!r && fcntl(pair[1], F_SETFD, 0) < 0)
		r = -errno;
	if (r < 0)
		return err_set_errno(e, r, "cannot pass on the configuration");
	snprintf(number, sizeof(number), "%d", pair[1]);
	argv[2] = number;
	if (option_flag(c, "require-sandbox"))
		argv[nargs++] = (char *)"--require-sandbox";
	if (option_flag(c, "no-sandbox"))
		argv[nargs] = (char *)"--no-sandbox";
	execv(program, argv);
	return err_set_errno(e, -errno, "%s", program);
}

/* Start the VM's process as a child, or become that.
 * g: NULL: become it. ret_channel: the end of its channel, for a child; owned; NULL: not wanted.
 * Returns 1: the child runs; -errno with a sentence, in the child, too. */
static int process_start(struct run_guest *g, enum run_streams streams, const char *program, const struct config *config, const struct cli *c,
	int *ret_channel, struct err *e)
{
	int pair[2], r = 0;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set_errno(e, -errno, "socket");
	if (g)
		r = run_guest_fork(g, config, streams, e);
	if (!r)
		r = process_become(program, config, c, pair, e);
	if (r > 0 && ret_channel)
		*ret_channel = pair[0];
	else
		close(pair[0]);
	close(pair[1]);
	return r;
}

/* Check that this user can use KVM, so that the sentence is cairn's own. The user's own VM program may need no KVM. */
static int kvm_check(const struct cli *c, struct err *e)
{
	int r = option_value(c, "vm-program") || getenv("CAIRN_VM") ? 0 : host_kvm_check(e);

	if (r < 0)
		e->cls = ERR_HOST; /* no permission, too, as for cairn-vm */
	return r;
}

/* Check the definition and open its files. Returns 0; -errno with a sentence. */
static int config_make(struct cli *c, const struct run_definition *d, const char *vsock, const struct boot_choice *boot, struct config *ret, struct err *e)
{
	int r = run_definition_locate(d, config_read(d, vsock, boot, ret, e), e);

	if (r < 0)
		return r;
	ret->vm.foreground = 1;
	ret->vm.log_level = level_parse(c);
	return 0;
}

/* Return whether the VM may write a file that stays: an overlay of an ephemeral disk has no name. */
static bool has_writable_disk(const struct config *config)
{
	struct stat st;

	for (unsigned i = 0; i < config->vm.ndisks; i++)
		if (!config->vm.disks[i].read_only && (fstat(config->fds[config->vm.disks[i].fd[0]], &st) < 0 || st.st_nlink))
			return true;
	return false;
}

struct guest_run {
	struct cli *c;
	struct run_guest *guest;
	struct config config;
	const char *program;
	enum run_streams streams;
	const char *root; /* as for initrd_agent_add() */
	struct run_warm warm;
	bool left_state;
	uint64_t deadline_ns;
};

/* Begin from a saved state. Returns 1 and *link; 0: the guest has to boot; -errno with a sentence. */
static int guest_resume(struct guest_run *x, struct guest_link *link, struct err *e)
{
	uint64_t patience_ns = clock_monotonic_ns() + RESUME_NS;
	int r;

	if (!run_warm_use(&x->warm, &x->config))
		return 0;
	r = kvm_check(x->c, e);
	if (!r)
		r = process_start(x->guest, x->streams, x->program, &x->config, x->c, x->warm.lists ? &x->warm.channel : NULL, e);
	if (r < 0)
		return r;
	link->renews = true;
	link->started = x->warm.lists ? run_warm_list : NULL;
	link->opaque = &x->warm;
	x->warm.vm_end = run_guest_end_fd(x->guest);
	x->warm.deadline_ns = x->deadline_ns;
	r = run_warm_check(&x->warm) ? run_guest_connect(x->c, x->guest, MIN(x->deadline_ns, patience_ns), link) : -EIO;
	x->config.vm.restore_fd = VM_NO_FD;
	x->config.vm.forked = 0;
	if (!r)
		return 1;
	if (r == -ETIMEDOUT && x->deadline_ns <= patience_ns)
		return 1; /* the caller finds out */
	link->renews = false;
	link->started = NULL;
	run_guest_stop(x->guest);
	run_warm_drop(&x->warm, "the state to begin from did not work");
	return 0;
}

/* Boot, and leave a state for later runs. Returns 1 and *link, unless that failed; -errno with a sentence. */
static int guest_boot(struct guest_run *x, struct guest_link *link, struct err *e)
{
	CLEANUP_CLOSE int channel = -1;
	int r = initrd_agent_add(&x->config, x->root, e);

	if (!r)
		r = kvm_check(x->c, e);
	if (!r && x->warm.key && !x->warm.verbose && isatty(STDERR_FILENO) && !output_is_quiet()) /* this may take a minute where KVM emulates kernel mode */
		fprintf(stderr, "note: the guest boots (to see its console: --show-console); later runs begin from its saved state\n");
	if (!r)
		r = process_start(x->guest, x->streams, x->program, &x->config, x->c, &channel, e);
	if (r < 0)
		return r;
	if (x->warm.key && run_guest_connect(x->c, x->guest, x->deadline_ns, link) == 0)
		link->renews = x->left_state = run_warm_save(&x->warm, channel, run_guest_end_fd(x->guest), link, x->deadline_ns);
	return 1;
}

static int guest_start(struct guest_run *x, struct guest_link *link, struct err *e)
{
	int r = guest_resume(x, link, e);

	return r ? r : guest_boot(x, link, e);
}

/* Run a command in the guest of a VM that is a child's process. Returns the exit status. */
static int command_run(struct cli *c, const struct run_definition *d, const struct run_root *root, const struct boot_choice *boot,
	const char *program, struct exec_outcome *ret)
{
	CLEANUP(run_guest_free_p) struct run_guest *g = NULL;
	CLEANUP(guest_link_close) struct guest_link link = { .sock = -1 };
	struct guest_run x = { .c = c, .program = program, .warm = RUN_WARM_NONE, .deadline_ns = UINT64_MAX,
		.streams = option_flag(c, "show-console") ? RUN_STREAMS_ERROR : RUN_STREAMS_NONE };
	uint64_t limit_ns;
	char words[RUN_ROOT_WORDS_BYTES];
	bool writes, is_warm;
	int r;

	if (option_seconds(c, "timeout", 0, &limit_ns)) {
		ret->reason = "usage";
		return CLI_USAGE;
	}
	if (limit_ns)
		x.deadline_ns = clock_monotonic_ns() + limit_ns;
	r = run_guest_new(&g, &ret->err);
	if (!r)
		r = config_make(c, d, run_guest_socket(g), boot, &x.config, &ret->err);
	if (r < 0)
		return r;
	x.guest = g;
	link.mounts = d->volumes;
	link.nmounts = d->nvolumes;
	if (root) {
		run_root_words(root, d->file.definition, words);
		x.root = words;
		link.name = agent_host_name(x.config.vm.name);
	}
	writes = has_writable_disk(&x.config) || (root && root->shared);
	run_warm_find(&x.warm, c, d, &x.config, x.root, program);
	r = guest_start(&x, &link, &ret->err);
	is_warm = x.warm.state >= 0;
	if (r > 0)
		r = run_command(c, g, root, writes, &link, x.deadline_ns, ret);
	run_warm_done(&x.warm);
	config_done(&x.config);
	ret->warm = is_warm;
	if (x.left_state || (root && root->is_new))
		image_cache_limit();
	return r;
}

/* Become the VM; or, with a time limit or a status to write, wait for it. Returns the VM's exit status; -errno with a
 * sentence. */
static int vm_run(struct cli *c, const struct run_definition *d, const struct boot_choice *boot, const char *program,
	struct exec_outcome *ret)
{
	CLEANUP(run_guest_free_p) struct run_guest *g = NULL;
	struct config config;
	uint64_t limit_ns;
	int r = 0;

	if (option_seconds(c, "timeout", 0, &limit_ns)) {
		ret->reason = "usage";
		return CLI_USAGE;
	}
	if (limit_ns || option_value(c, "status-fd"))
		r = run_guest_new(&g, &ret->err);
	else
		run_reaps(); /* cairn-vm does */
	if (!r)
		r = config_make(c, d, NULL, boot, &config, &ret->err);
	if (r)
		return r;
	if (option_flag(c, "agent"))
		r = initrd_agent_add(&config, NULL, &ret->err);
	if (!r && isatty(STDIN_FILENO) && isatty(STDERR_FILENO) && !output_is_quiet())
		fprintf(stderr, "Ctrl-] presses the VM's power button; pressed again, it stops the VM\n");
	if (!r)
		r = process_start(g, RUN_STREAMS_OURS, program, &config, c, NULL, &ret->err);
	if (r > 0)
		r = run_vm_wait(g, limit_ns, ret);
	config_done(&config);
	return r;
}

/* Print the definition in its canonical form. */
static int definition_show(const struct run_definition *d, struct err *e)
{
	struct definition *parsed CLEANUP(definition_free_p) = NULL;
	CLEANUP_JS struct json_object *o = NULL;
	int r;

	if (d->noverlays)
		return err_set(e, -ENOTSUP, ERR_INVALID, "a definition cannot have an ephemeral disk; leave --print-only or the word ephemeral out");
	r = definition_parse(d->file.definition, d->file.folder, &parsed, e);
	if (r < 0)
		return run_definition_locate(d, r, e);
	warnings_print(d->file.warnings);
	o = definition_to_json(parsed);
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
	return 0;
}

static int options_check(struct cli *c, struct boot_choice *ret_boot)
{
	int kind = field_type_index(FIELD_BOOT_KIND, option_value(c, "boot"));

	if (option_flag(c, "require-sandbox") && option_flag(c, "no-sandbox"))
		return cli_usage(c, "--require-sandbox and --no-sandbox exclude each other");
	if (option_value(c, "boot") && kind < 0)
		return cli_usage(c, "--boot takes hd, cdrom or network");
	*ret_boot = (struct boot_choice){ .menu = option_flag(c, "bootmenu"), .first = (enum vm_boot_kind)(kind + 1) };
	return 0;
}

/* Warn if the agent, which sets the guest's host name, cannot use the name of --name. */
static void host_name_warn(const struct cli *c)
{
	const char *name = option_value(c, "name");

	if (name && (c->npos > 1 || option_flag(c, "agent")) && !host_label_is_valid(name))
		fprintf(stderr, "warning: --name %s is no host name, which has only letters, digits and hyphens; the guest's host name is %s\n", name,
			agent_host_name(name));
}

/* Returns an exit status; -errno, and the sentence is in *ret. */
static int run(struct cli *c, struct exec_outcome *ret)
{
	struct run_definition d CLEANUP(run_definition_done) = { 0 };
	struct run_root root CLEANUP(run_root_done) = { .lock = -1, .layer = -1 };
	struct boot_choice boot;
	char program[PATH_MAX];
	int r = options_check(c, &boot);

	if (!r)
		r = run_definition_make(c, &d, &ret->err);
	if (!r && (option_value(c, "image") || option_value(c, "root")) && !option_flag(c, "print-only"))
		r = kvm_check(c, &ret->err); /* before the image is fetched */
	if (!r)
		r = run_root_make(c, &d, &root, &ret->err);
	if (!r && c->npos == 1)
		r = run_command_unwanted(c);
	if (r > 0)
		ret->reason = "usage";
	if (!r && option_flag(c, "print-only"))
		return definition_show(&d, &ret->err);
	if (!r)
		host_name_warn(c);
	if (!r)
		r = paths_vm_program(option_value(c, "vm-program"), program, sizeof(program), &ret->err);
	if (r)
		return r;
	if (c->npos > 1)
		return command_run(c, &d, root.image ? &root : NULL, &boot, program, ret);
	return vm_run(c, &d, &boot, program, ret);
}

int verb_run(struct cli *c)
{
	bool has_command = c->npos > (c->nplain ? 1 : 0) || option_value(c, "image") || option_value(c, "root");
	struct exec_outcome outcome = { 0 };
	int fd, r = run_status_open(c, &fd);

	if (r)
		return has_command ? EXEC_CAIRN : r;
	r = run(c, &outcome);
	if (r < 0) {
		cli_fail(&outcome.err, "Failed to run %s", c->pos[0]);
		outcome.reason = outcome.err.cls == ERR_BUSY ? "busy" : outcome.err.cls == ERR_HOST ? "host" : "failed";
	}
	if (has_command && (r < 0 || (outcome.reason && !strcmp(outcome.reason, "usage"))))
		r = EXEC_CAIRN;
	else if (r < 0) /* as cairn-vm */
		r = outcome.err.cls == ERR_HOST ? VM_EXIT_HOST : outcome.err.cls == ERR_BUSY ? VM_EXIT_BUSY : VM_EXIT_CONFIG;
	run_status_write(fd, r, has_command ? "command" : "vm", &outcome);
	return r;
}
