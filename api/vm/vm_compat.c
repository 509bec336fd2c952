#include "api/vm/vm_compat.h"
#include "api/access/fork_as.h"
#include "api/definition/definition.h"
#include "api/vm/vm.h"
#include "base/build_id.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/shell_word.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The requests of version 1 with the lengths of their bodies. VM_MSG_CONFIG is not among them, because a process of
 * version 1 has its configuration from an earlier daemon. */
static const struct {
	bool known;
	uint16_t bytes;
} version_1[VM_MSG_TYPE_COUNT] = {
	[VM_MSG_CONT] = { true, 0 },
	[VM_MSG_STOP] = { true, 0 },
	[VM_MSG_POWERDOWN] = { true, 0 },
	[VM_MSG_RESET] = { true, 0 },
	[VM_MSG_QUIT] = { true, 0 },
	[VM_MSG_QUERY] = { true, 0 },
	[VM_MSG_CONSOLE] = { true, 8 },
	[VM_MSG_NMI] = { true, 0 },
	[VM_MSG_SAVE] = { true, 0 },
	[VM_MSG_CANCEL] = { true, 0 },
	[VM_MSG_SNAPSHOT_CREATE] = { true, 912 },
	[VM_MSG_SNAPSHOT_LIST] = { true, 4 },
	[VM_MSG_SNAPSHOT_REVERT] = { true, 280 },
	[VM_MSG_SNAPSHOT_DELETE] = { true, 256 },
	[VM_MSG_SNAPSHOT_SET] = { true, 1160 },
	[VM_MSG_SNAPSHOT_SIZE] = { true, 256 },
	[VM_MSG_FORK] = { true, 264 },
	[VM_MSG_WATCHDOG] = { true, 1 },
	[VM_MSG_DUMP] = { true, 1 },
	[VM_MSG_AGENT] = { true, 260 },
	[VM_MSG_SPACE] = { true, 0 },
	[VM_MSG_ADDRESSES] = { true, 0 },
};

bool vm_compat_is_old(const struct vm *vm)
{
	return vm->proc && vm_process_version(vm->proc) < VM_MSG_VERSION;
}

static void *path_copy(const void *path)
{
	return must_alloc(strdup(path));
}

static int build_read(const void *path, struct fork_as_result *out, struct err *e)
{
	(void)e;
	out->bytes = build_id_of(path);
	return 0;
}

static void build_found(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct vm_host *host = opaque;

	(void)e;
	host->program.look = NULL;
	if (r >= 0)
		host->program.build = res->bytes;
}

void vm_compat_look(struct vm_host *host)
{
	struct fork_as_spec s = { .run = build_read, .arg = host->paths->vm_program, .what = "reading the VM program", .timeout_ns = FORK_AS_NO_TIMEOUT,
		.copy = path_copy, .drop = free, .done = build_found, .opaque = host };
	struct err e;

	if (host->program.look || (host->program.looked_ns && loop_now_ns() - host->program.looked_ns < CLOCK_NS_PER_S))
		return;
	host->program.looked_ns = loop_now_ns();
	if (fork_as_begin(host->helpers, &s, &host->program.look, &e) < 0)
		host->program.look = NULL;
}

bool vm_compat_is_outdated(const struct vm *vm)
{
	uint64_t now = vm->host->program.build;

	if (vm->proc)
		vm_compat_look(vm->host);
	return vm_compat_is_old(vm) || (vm->proc && now && vm_process_is_other_build(vm->proc, now));
}

int vm_compat_refuse(const char *vm_name, struct err *e)
{
	return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
		"VM '%s' was started by an older version of Cairn, and its process cannot do this; bring it up to date "
		"with: cairn restart-process %s, or shut the VM down and start it", vm_name, shell_word(vm_name).s);
}

int vm_compat_check(const struct vm *vm, struct err *e)
{
	return vm_compat_is_old(vm) ? vm_compat_refuse(vm->def->name, e) : 0;
}

bool vm_compat_fit(unsigned version, enum vm_msg_type type, size_t *len)
{
	if (version >= VM_MSG_VERSION)
		return true;
	*len = MIN(*len, version_1[type].bytes);
	return version_1[type].known;
}
