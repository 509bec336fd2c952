/* Handler of vm-screenshot: writes what a guest shows on its screen into a file. */
#include "api/commands/command.h"
#include "api/access/client_file.h"
#include "api/jobs/outfile.h"
#include "api/vm/vm.h"
#include "api/vm/vm_compat.h"
#include "api/vm/vm_process.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define SCREENSHOT_TIMEOUT_NS (60 * 1000000000ULL) /* other work of the VM's process may come first */

static int screen_check(const struct vm *vm, struct err *e)
{
	const char *name = vm->def->name;
	int r = vm_live_check(vm, e);

	if (r < 0)
		return r;
	if (!vm_process_knows(vm->proc, VM_KNOWS_SCREENSHOT))
		return vm_compat_refuse(name, e);
	return vm_live(vm)->screen ? 0 : err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
		"VM '%.100s' runs without a screen; set \"screen\": true (cairn edit %.100s), shut the VM down and start it", name, name);
}

static void screenshot_done(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	(void)a;
	call_done(opaque, r, e);
}

void command_vm_screenshot(struct call *c)
{
	const char *format = js_get_str(c->args, "format");
	struct vm_screenshot body = { .format = format && !strcmp(format, "png") ? VM_IMAGE_PNG : VM_IMAGE_PPM };
	struct err e;
	int r = screen_check(c->vm, &e);

	if (!r)
		r = outfile_check(c->file, O_WRONLY, "a screenshot", &e);
	if (r < 0) {
		call_fail(c, &e);
		return;
	}
	vm_process_request_with(c->vm->proc, VM_MSG_SCREENSHOT, &body, sizeof(body), STEAL_PTR(c->file), NULL, 0,
		SCREENSHOT_TIMEOUT_NS, screenshot_done, c);
}
