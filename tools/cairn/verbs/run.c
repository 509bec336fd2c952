/* run: run one VM in the foreground, without the daemon. This process reads the definition, opens the files and becomes
 * cairn-vm, which reads its configuration from a socket. */
#include "tools/cairn/cli.h"
#include "api/definition/definition.h"
#include "api/definition/uefi_files.h"
#include "api/definition/vm_config.h"
#include "api/net/tap.h"
#include "api/net/usernet.h"
#include "api/schema/schema.h"
#include "api/store/paths.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/util.h"
#include "tools/cairn/definition_file.h"
#include "tools/cairn/initrd_agent.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

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

/* Generate MAC addresses, because no daemon keeps them. */
static int macs_make(struct definition *d, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < d->ninterfaces && !r; i++)
		if (!definition_has_mac(&d->interfaces[i]))
			r = definition_make_mac(&d->interfaces[i], e);
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

static int config_read(const char *file, const struct boot_choice *boot, struct config *ret_c, struct err *e)
{
	struct definition_file f CLEANUP(definition_file_done) = { 0 };
	struct definition *d CLEANUP(definition_free_p) = NULL;
	int r = definition_file_read(file, &f, e);

	if (!r)
		r = definition_file_blame(&f, definition_parse(f.definition, f.folder, &d, e), e);
	if (!r)
		r = definition_file_blame(&f, uefi_choose(uefi_folders, d, NULL, e), e);
	if (!r)
		r = definition_file_blame(&f, dumps_refuse(d, e), e);
	if (!r && !definition_has_uuid(d))
		r = definition_make_uuid(d, e);
	if (!r)
		r = macs_make(d, e);
	if (r < 0)
		return r;
	warnings_print(f.warnings);
	return definition_file_blame(&f, config_build(d, boot, ret_c, e), e);
}

/* Replace this process by cairn-vm. Returns only on failure. */
static int process_become(const char *program, const struct config *config, const struct cli *c, struct err *e)
{
	char *argv[] = { (char *)"cairn-vm", (char *)"--channel", NULL, (char *)"--own-namespaces", NULL, NULL, NULL };
	unsigned nargs = 4;
	char number[16];
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set_errno(e, -errno, "socket");
	r = config_send(config, pair[0], 1);
	if (!r && fcntl(pair[1], F_SETFD, 0) < 0)
		r = -errno;
	if (r < 0) {
		close(pair[0]);
		close(pair[1]);
		return err_set_errno(e, r, "cannot hand over the configuration");
	}
	snprintf(number, sizeof(number), "%d", pair[1]);
	argv[2] = number;
	if (option_flag(c, "require-sandbox"))
		argv[nargs++] = (char *)"--require-sandbox";
	if (option_flag(c, "no-sandbox"))
		argv[nargs] = (char *)"--no-sandbox";
	execv(program, argv);
	r = err_set_errno(e, -errno, "%s", program);
	close(pair[0]);
	close(pair[1]);
	return r;
}

int verb_run(struct cli *c)
{
	char program[PATH_MAX];
	struct config config;
	struct boot_choice boot = { .menu = option_flag(c, "bootmenu") };
	int kind = field_type_index(FIELD_BOOT_KIND, option_value(c, "boot"));
	uint8_t level = level_parse(c);
	struct err e;
	int r;

	if (option_flag(c, "require-sandbox") && option_flag(c, "no-sandbox"))
		return cli_usage(c, "--require-sandbox and --no-sandbox exclude each other");
	if (option_value(c, "boot") && kind < 0)
		return cli_usage(c, "--boot takes hd, cdrom or network");
	boot.first = (enum vm_boot_kind)(kind + 1);
	r = config_read(c->pos[0], &boot, &config, &e);
	if (!r) {
		config.vm.foreground = 1;
		config.vm.log_level = level;
		r = option_flag(c, "agent") ? initrd_agent_add(&config, &e) : 0;
		if (!r)
			r = paths_vm_program(option_value(c, "vm-program"), program, sizeof(program), &e);
		if (!r)
			r = process_become(program, &config, c, &e);
		config_done(&config);
	}
	cli_fail(&e, "Failed to run %s", c->pos[0]);
	/* Use the exit codes of cairn-vm. */
	return e.cls == ERR_HOST ? VM_EXIT_HOST : VM_EXIT_CONFIG;
}
